/** What redo depends on, by LSN: the settings of the import, and each change of them since. */
import { LSN_MAX, LSN_ZERO, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { parseControlFile } from '@understory/postgres/cluster'
import type { RedoSettings } from '@understory/postgres/redo'
import { CONTROL_FILE_KEY, REDO_SETTINGS_KEY } from '@understory/storage'
import type { LayerMap } from '@understory/storage'

const FLAG_WAL_LOG_HINTS = 1
const FLAG_TRACK_COMMIT_TIMESTAMP = 2

interface Era {
  readonly from: Lsn
  readonly value: RedoSettings
}

export class SettingsHistory {
  /** Oldest first; empty before the import. */
  #eras: Era[] = []

  /** Errors: `precondition` before the import. */
  get now(): RedoSettings {
    const newest = this.#eras.at(-1)
    if (newest === undefined)
      throw fail('precondition', 'shard has no control file yet: its import is not finished')
    return newest.value
  }

  at(lsn: Lsn): RedoSettings {
    for (let i = this.#eras.length - 1; i > 0; i--) {
      const { from, value } = this.#eras[i] as Era
      if (lsn >= from) return value
    }
    return this.#eras[0]?.value ?? this.now
  }

  /** Returns the value that layers keep of the change. */
  change(from: Lsn, walLogHints: boolean, trackCommitTimestamp: boolean): Uint8Array {
    this.#eras.push({ from, value: { ...this.now, walLogHints, trackCommitTimestamp } })
    const flags =
      (walLogHints ? FLAG_WAL_LOG_HINTS : 0) | (trackCommitTimestamp ? FLAG_TRACK_COMMIT_TIMESTAMP : 0)
    return Uint8Array.of(flags)
  }

  async load(map: LayerMap): Promise<void> {
    this.#eras = []
    const controlFile = await map.newest(CONTROL_FILE_KEY, LSN_MAX)
    if (controlFile === undefined) return
    const { major, dataChecksums, walLogHints, trackCommitTimestamp } = parseControlFile(
      controlFile.bytes() ?? (await controlFile.load()),
    )
    const imported: RedoSettings = { major, dataChecksums, walLogHints, trackCommitTimestamp }
    const changes: Era[] = []
    let newest = await map.newest(REDO_SETTINGS_KEY, LSN_MAX)
    while (newest !== undefined) {
      const from = newest.lsn
      const flags = (newest.bytes() ?? (await newest.load()))[0] ?? 0
      const value = {
        ...imported,
        walLogHints: (flags & FLAG_WAL_LOG_HINTS) !== 0,
        trackCommitTimestamp: (flags & FLAG_TRACK_COMMIT_TIMESTAMP) !== 0,
      }
      changes.push({ from, value })
      newest = from === 0 ? undefined : await map.newest(REDO_SETTINGS_KEY, (from - 1) as Lsn)
    }
    this.#eras = [{ from: LSN_ZERO, value: imported }, ...changes.reverse()]
  }
}
