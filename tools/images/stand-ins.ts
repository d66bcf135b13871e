/**
 * Stand-ins for images that cannot be pulled somewhere: Debian with the programs that the tests use, under the same
 * contract as the official ones (programs in PATH, user ids, no reliance on an entrypoint).
 */
import { appendFile, chmod, copyFile, cp, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { minioProgram, postgresBinaries, temporaryDirectory } from '@understory/testcontainers'
import type { PostgresMajor } from '@understory/testcontainers'
import { writeImageArchive } from './archive.ts'
import { debianRoot } from './debian-root.ts'

const PATH = '/usr/local/bin:/usr/bin:/bin'
/** Of the user postgres in the official image. */
const POSTGRES_UID = 999

/** Their names, and the files that they are in below `directory`. */
export async function writeStandIns(
  directory: string,
  majors: readonly PostgresMajor[],
  onProgress: (line: string) => void,
): Promise<Readonly<Record<string, string>>> {
  const base = [{ at: '', folder: await debianRoot(['redis-server']) }]
  const files: Record<string, string> = {}
  const write = async (name: string, folder: string, environment: Readonly<Record<string, string>>) => {
    const file = join(directory, `${name.replace(/[/:]/g, '-')}.tar`)
    await writeImageArchive(file, { name, layers: [base, [{ at: '', folder }]], environment })
    files[name] = file
    onProgress(`${name} -> ${file}`)
  }

  for (const major of majors) {
    await using work = await temporaryDirectory({ prefix: 'stand-in' })
    const { root } = await postgresBinaries(major)
    const home = `usr/lib/postgresql/${major}`
    await cp(root, join(work.path, home), { recursive: true, verbatimSymlinks: true })
    await mkdir(join(work.path, 'etc'))
    await copyFile(join(base[0]!.folder, 'etc/passwd'), join(work.path, 'etc/passwd'))
    await appendFile(
      join(work.path, 'etc/passwd'),
      `postgres:x:${POSTGRES_UID}:${POSTGRES_UID}::/var/lib/postgresql:/bin/bash\n`,
    )
    await write(`understory-stand-in/postgres:${major}`, work.path, { PATH: `/${home}/bin:${PATH}` })
  }

  await using minio = await temporaryDirectory({ prefix: 'stand-in' })
  await mkdir(join(minio.path, 'usr/bin'), { recursive: true })
  await copyFile(await minioProgram(), join(minio.path, 'usr/bin/minio'))
  await chmod(join(minio.path, 'usr/bin/minio'), 0o755)
  await write('understory-stand-in/minio:test', minio.path, {})

  await using redis = await temporaryDirectory({ prefix: 'stand-in' })
  await write('understory-stand-in/redis:7', redis.path, {})
  return files
}
