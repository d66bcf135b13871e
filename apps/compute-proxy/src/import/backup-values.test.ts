/**
 * Goal: values of a base backup are the same in any pieces its files arrive in; a file that is damaged, foreign or cut
 * off is refused with the reason. Method: a small backup made by hand, with a real pg_control's bytes.
 */
import { formatLsn, lsn, present } from '@understory/base'
import {
  ORIGIN_CHECKPOINT_PATH,
  clusterVersions,
  encodeCheckPoint,
  encodeOriginCheckpoint,
} from '@understory/postgres/cluster'
import { crc32c } from '@understory/postgres/wal'
import type { BackupEvent } from '@understory/postgres/wire'
import {
  blockKey,
  decodeOriginProgress,
  formatKey,
  relationSizeKey,
  replicationOriginKey,
  slruKey,
} from '@understory/storage'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { classifyBackupFile } from './backup-file.ts'
import { BackupValues } from './backup-values.ts'
import type { ImportedCluster } from './backup-values.ts'

const START = lsn(0x2000028)
const END = lsn(0x2000138)
const { ControlFile } = clusterVersions[17]

function controlFile(checkpointLsn = lsn(0x2000060), redoLsn = START, timelineId = 1): Buffer {
  const bytes = Buffer.alloc(8192)
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  ControlFile.systemId.set(view, 0, 7n)
  ControlFile.pgControlVersion.set(view, 0, clusterVersions[17].controlVersion)
  ControlFile.catalogVersion.set(view, 0, clusterVersions[17].catalogVersion)
  ControlFile.checkPoint.set(view, 0, checkpointLsn)
  ControlFile.blockBytes.set(view, 0, 8192)
  ControlFile.walBlockBytes.set(view, 0, 8192)
  ControlFile.relationSegmentBlocks.set(view, 0, 131_072)
  ControlFile.walSegmentBytes.set(view, 0, 16 << 20)
  const checkpoint = {
    redoLsn,
    timelineId,
    prevTimelineId: 1,
    fullPageWrites: true,
    walLevel: 1,
    nextXid: 800n,
    nextOid: 20_000,
    nextMulti: 1,
    nextMultiOffset: 0,
    oldestXid: 700,
    oldestXidDb: 1,
    oldestMulti: 1,
    oldestMultiDb: 1,
    timeSeconds: 0,
    oldestCommitTsXid: 0,
    newestCommitTsXid: 0,
    oldestActiveXid: 799,
  }
  ControlFile.checkPointCopy.set(view, 0, encodeCheckPoint(checkpoint, 17))
  ControlFile.crc.set(view, 0, crc32c(bytes, 0, ControlFile.crc.offset))
  return bytes
}

const label = (startLsn = START, from = 'primary'): string =>
  `START WAL LOCATION: ${formatLsn(startLsn)} (file 000000010000000000000002)\nBACKUP METHOD: streamed\nBACKUP FROM: ${from}\n`

type Files = Record<string, Buffer | string>
const FILES: Files = {
  backup_label: label(),
  PG_VERSION: '17\n',
  'postgresql.conf': 'port = 1\n',
  'base/5/PG_VERSION': '17\n',
  'base/5/16384': Buffer.concat([
    Buffer.alloc(8192, 1),
    Buffer.alloc(8192),
    Buffer.alloc(8192, 3),
    Buffer.alloc(100),
  ]),
  'base/5/16384_vm': Buffer.alloc(0),
  'pg_xact/0001': Buffer.alloc(8192 * 2),
  'pg_tblspc/16390/PG_17_202406281/5/16400': Buffer.alloc(8192),
  'notes.txt': 'mine',
  'global/pg_control': controlFile(),
}

function* eventsOf(
  files: Files,
  pieces: readonly number[] = [32_768],
  timelineId = 1,
): Generator<BackupEvent, void, void> {
  yield { kind: 'start', startLsn: START, timelineId: 1 }
  yield { kind: 'tablespace', oid: 16390, location: '/space' }
  let piece = 0
  for (const [path, content] of Object.entries(files)) {
    const bytes = Buffer.from(content)
    yield { kind: 'file', path, size: bytes.length }
    for (let at = 0; at < bytes.length;) {
      const size = pieces[piece++ % pieces.length] as number
      yield { kind: 'data', bytes: bytes.subarray(at, at + size) }
      at += size
    }
  }
  yield { kind: 'end', endLsn: END, timelineId }
}

function take(events: Iterable<BackupEvent>): { cluster: ImportedCluster; values: Map<string, Buffer> } {
  const values = new Map<string, Buffer>()
  const backup = new BackupValues(17, (key, bytes) => values.set(formatKey(key), Buffer.from(bytes)))
  for (const event of events) backup.take(event)
  return { cluster: backup.finish(), values }
}

test('values are the same in any pieces', () => {
  const { values: expected } = take(eventsOf(FILES))
  const sizeOf = (...[spcOid, dbOid, rel, fork]: [number, number, number, number]) =>
    expected.get(formatKey(relationSizeKey(spcOid, dbOid, rel, fork)))?.readUInt32LE(0)
  expect(sizeOf(1663, 5, 16384, 0)).toBe(3)
  expect(sizeOf(1663, 5, 16384, 2)).toBe(0)
  expect(sizeOf(16390, 5, 16400, 0)).toBe(1)
  const block = (number: number) => expected.get(formatKey(blockKey(1663, 5, 16384, 0, number)))
  // Zeros follow from the size; the part of a page at the end does not count as a page.
  expect([0, 1, 2, 3].map((number) => block(number)?.[0])).toEqual([1, undefined, 3, undefined])
  // An SLRU's pages have no size, so zeros are kept.
  expect([32, 33, 34].map((page) => expected.has(formatKey(slruKey('pg_xact', page))))).toEqual([
    true,
    true,
    false,
  ])
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 20_000 }), { minLength: 1, maxLength: 8 }), (pieces) => {
      expect(take(eventsOf(FILES, pieces)).values).toEqual(expected)
    }),
    { numRuns: 50 },
  )
})

test('replication origins of the backup become values, and a damaged file is refused', () => {
  const progress = new Map([
    [1, 0x5000n],
    [7, 0xffff_ffff_ffff_fff0n],
  ])
  const file = Buffer.from(encodeOriginCheckpoint(progress))
  const { values, cluster } = take(eventsOf({ ...FILES, [ORIGIN_CHECKPOINT_PATH]: file }))
  for (const [id, remoteLsn] of progress)
    expect(decodeOriginProgress(present(values.get(formatKey(replicationOriginKey(id))), 'value'))).toBe(
      remoteLsn,
    )
  expect(cluster.unknownPaths).not.toContain(ORIGIN_CHECKPOINT_PATH)
  for (let at = 0; at < file.length; at++) {
    const damaged = Buffer.from(file)
    damaged[at] = (damaged[at] as number) ^ 1
    expect(() => take(eventsOf({ ...FILES, [ORIGIN_CHECKPOINT_PATH]: damaged }))).toThrow(
      /magic number|checksum/,
    )
  }
  expect(() =>
    take(eventsOf({ ...FILES, [ORIGIN_CHECKPOINT_PATH]: file.subarray(0, file.length - 1) })),
  ).toThrow('a length of 39 bytes')
})

test('what comes beside the values', () => {
  const { cluster } = take(eventsOf(FILES))
  expect(cluster).toMatchObject({
    startLsn: START,
    endLsn: END,
    timelineId: 1,
    systemId: 7n,
    unknownPaths: ['notes.txt'],
  })
  expect(Object.fromEntries(cluster.configuration)).toEqual({ 'postgresql.conf': Buffer.from('port = 1\n') })
})

const without = (path: string): Files =>
  Object.fromEntries(Object.entries(FILES).filter(([name]) => name !== path))
const withFile = (path: string, content: Buffer | string): Files => ({ ...FILES, [path]: content })

test.each<[string, string, Iterable<BackupEvent>]>([
  ['a label of another start', 'backup_label starts at', eventsOf(withFile('backup_label', label(END)))],
  ['a label without a start', 'no start location', eventsOf(withFile('backup_label', 'nonsense'))],
  ['a standby', 'taken from a standby', eventsOf(withFile('backup_label', label(START, 'standby')))],
  ['another version', 'is of PostgreSQL 16, not 17', eventsOf(withFile('PG_VERSION', '16\n'))],
  ['no label', 'no backup_label', eventsOf(without('backup_label'))],
  ['no pg_control', 'no pg_control', eventsOf(without('global/pg_control'))],
  [
    'a damaged pg_control',
    'incorrect checksum',
    eventsOf(withFile('global/pg_control', controlFile().fill(9, 30, 31))),
  ],
  [
    'pg_control of an older checkpoint',
    'outside the base backup',
    eventsOf(withFile('global/pg_control', controlFile(START, lsn(0x1000028)))),
  ],
  [
    'pg_control of a checkpoint after the end',
    'outside the base backup',
    eventsOf(withFile('global/pg_control', controlFile(lsn(END + 8)))),
  ],
  ['a failover', 'left timeline 1', eventsOf(FILES, [8192], 2)],
  [
    'a part of an SLRU page',
    'not a number of whole pages',
    eventsOf(withFile('pg_xact/0000', Buffer.alloc(100))),
  ],
  ['a damaged relation map', 'relation map', eventsOf(withFile('base/5/pg_filenode.map', Buffer.alloc(524)))],
  ['a cut', 'was cut off', [...eventsOf(FILES)].slice(0, -1)],
  [
    'a cut file',
    'has 0 bytes, not 4',
    [...eventsOf({ PG_VERSION: '17\n\n' })].filter(({ kind }) => kind !== 'data'),
  ],
])('refused: %s', (_, message, events) => {
  expect(() => take(events)).toThrow(message)
})

test('every file of a data directory has its place', () => {
  const kinds = Object.fromEntries(
    [
      'base/5/1259',
      'base/5/1259.1',
      'base/5/1259_fsm',
      'base/5/t3_16384',
      'base/pgsql_tmp/pgsql_tmp1.0',
      'global/pg_internal.init',
      'global/pg_filenode.map',
      'pg_tblspc/16390/PG_17_202406281/5/PG_VERSION',
      'pg_twophase/0000000000000300',
      'pg_twophase/x',
      'pg_wal/000000010000000000000001',
      'pg_stat/pgstat.stat',
      'current_logfiles',
      'pg_hba.conf',
      'log/postgresql.log',
      'pg_logical/replorigin_checkpoint',
      'pg_multixact/members/0000',
      'pg_tblspc/16390/PG_16_202307071/5/1',
      'tablespace_map',
    ].map((path) => [path, classifyBackupFile(path, 17).kind]),
  )
  expect(kinds).toEqual({
    'base/5/1259': 'relation',
    'base/5/1259.1': 'relation',
    'base/5/1259_fsm': 'relation',
    'base/5/t3_16384': 'dispensable',
    'base/pgsql_tmp/pgsql_tmp1.0': 'dispensable',
    'global/pg_internal.init': 'dispensable',
    'global/pg_filenode.map': 'relationMap',
    'pg_tblspc/16390/PG_17_202406281/5/PG_VERSION': 'database',
    'pg_twophase/0000000000000300': 'twoPhase',
    'pg_twophase/x': 'unknown',
    'pg_wal/000000010000000000000001': 'dispensable',
    'pg_stat/pgstat.stat': 'dispensable',
    current_logfiles: 'dispensable',
    'pg_hba.conf': 'configuration',
    'log/postgresql.log': 'unknown',
    'pg_logical/replorigin_checkpoint': 'replicationOrigins',
    'pg_multixact/members/0000': 'slru',
    'pg_tblspc/16390/PG_16_202307071/5/1': 'unknown',
    tablespace_map: 'dispensable',
  })
})
