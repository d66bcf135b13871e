/** Tar archives come apart the same in any chunks they arrive in. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { TarReader } from './tar.ts'

function archive(): Buffer {
  const folder = mkdtempSync(join(tmpdir(), 'tar-test-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  mkdirSync(join(folder, 'base'))
  writeFileSync(join(folder, 'base/1'), 'x'.repeat(1000))
  writeFileSync(join(folder, 'base/2'), '')
  symlinkSync('/somewhere', join(folder, 'link'))
  return execFileSync('tar', ['-C', folder, '--format=ustar', '-cf', '-', 'base', 'link'], {
    maxBuffer: 1 << 20,
  })
}

function read(bytes: Buffer, chunkBytes: number): Record<string, string> {
  const reader = new TarReader()
  const found: Record<string, string> = {}
  let path = ''
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    for (const event of reader.push(bytes.subarray(at, at + chunkBytes))) {
      if (event.kind === 'data') found[path] += event.bytes.toString()
      else
        found[(path = event.path)] =
          event.kind === 'symlink' ? event.target : event.kind === 'file' ? '' : 'directory'
    }
  }
  reader.end()
  return found
}

test.each([1, 7, 512, 1000, 1 << 20])('an archive in chunks of %d bytes', (chunkBytes) => {
  expect(read(archive(), chunkBytes)).toEqual({
    base: 'directory',
    'base/1': 'x'.repeat(1000),
    'base/2': '',
    link: '/somewhere',
  })
})

test('a damaged header and a cut archive are refused', () => {
  const bytes = archive()
  const damaged = Buffer.from(bytes)
  damaged[3] = 0x41
  expect(() => read(damaged, 512)).toThrow('incorrect checksum')
  const { length } = read(bytes, 512)['base/1'] as string
  expect(() => read(bytes.subarray(0, 1024 + length - 1), 512)).toThrow('cut off')
})
