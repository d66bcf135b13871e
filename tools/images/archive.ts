/** Image archives as `docker save` writes them, made without Docker: layers are folders. */
import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { temporaryDirectory } from '@understory/testcontainers'
import { TAR_END, tarBytes, tarFile, tarFolders } from './tar.ts'
import type { FolderEntry } from './tar.ts'

export interface ImageSpec {
  /** name:tag */
  readonly name: string
  /** From the lowest up; each is a set of folders. */
  readonly layers: readonly (readonly FolderEntry[])[]
  readonly entrypoint?: readonly string[]
  readonly command?: readonly string[]
  readonly user?: string
  readonly workingDirectory?: string
  readonly environment?: Readonly<Record<string, string>>
}

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Appears under its name when it is whole. */
export async function writeImageArchive(file: string, image: ImageSpec): Promise<void> {
  await using work = await temporaryDirectory({ prefix: 'image' })
  const layers: { path: string; digest: string }[] = []
  for (const [number, folders] of image.layers.entries()) {
    const path = join(work.path, `layer-${number}.tar`)
    layers.push({ path, digest: await writeLayer(path, folders) })
  }
  const config = Buffer.from(JSON.stringify(configOf(image, layers)))
  const configName = `${createHash('sha256').update(config).digest('hex')}.json`
  const manifest = [
    { Config: configName, RepoTags: [image.name], Layers: layers.map((_, number) => `layer-${number}.tar`) },
  ]
  await mkdir(dirname(file), { recursive: true })
  const draft = `${file}.draft`
  async function* content(): AsyncGenerator<Buffer, void, void> {
    yield* tarBytes('manifest.json', Buffer.from(JSON.stringify(manifest)))
    yield* tarBytes(configName, config)
    for (const [number, { path }] of layers.entries()) yield* tarFile(`layer-${number}.tar`, path)
    yield TAR_END
  }
  try {
    await pipeline(Readable.from(content()), createWriteStream(draft))
    await rename(draft, file)
  } finally {
    await rm(draft, { force: true })
  }
}

async function writeLayer(path: string, folders: readonly FolderEntry[]): Promise<string> {
  const hash = createHash('sha256')
  async function* hashed(): AsyncGenerator<Buffer, void, void> {
    for await (const chunk of tarFolders(folders)) {
      hash.update(chunk)
      yield chunk
    }
  }
  await pipeline(Readable.from(hashed()), createWriteStream(path))
  return hash.digest('hex')
}

function configOf(image: ImageSpec, layers: readonly { readonly digest: string }[]): object {
  const { entrypoint, command, user = '', workingDirectory = '/', environment = {} } = image
  return {
    architecture: 'amd64',
    os: 'linux',
    created: '1970-01-01T00:00:00Z',
    config: {
      Entrypoint: entrypoint ?? null,
      Cmd: command ?? null,
      User: user,
      WorkingDir: workingDirectory,
      Env: Object.entries({ PATH, ...environment }).map(([name, value]) => `${name}=${value}`),
    },
    rootfs: { type: 'layers', diff_ids: layers.map(({ digest }) => `sha256:${digest}`) },
    history: layers.map(() => ({ created: '1970-01-01T00:00:00Z', created_by: 'understory images' })),
  }
}
