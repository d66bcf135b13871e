/**
 * Starts of one compute's Postgres: always the same files and port, with what its configuration files say at that time.
 */
import type { CheckedSpec } from '@understory/protocol'
import { postgresArguments, readSettings } from './configuration.ts'
import type { SettingFloors, SqlFront } from './configuration.ts'
import type { Postmaster } from './launcher.ts'
import { allowStart, runSingleUser, startPostgres } from './postgres.ts'
import type { PostgresParts } from './postgres.ts'
import type { SqlTarget } from './sql.ts'

export interface ServerParts extends PostgresParts {
  readonly major: CheckedSpec['postgresMajor']
  readonly front: SqlFront
  readonly port: number
}

export interface StartOptions {
  /** Undefined for a cluster that was made a moment ago. */
  readonly floors?: SettingFloors | undefined
  /** It ended by itself at its last start. */
  readonly isSuspect?: boolean
}

export class PostgresServer {
  readonly target: SqlTarget
  readonly #parts: ServerParts
  #startsCount = 0

  constructor(parts: ServerParts) {
    const { files, port, major } = parts
    this.#parts = parts
    this.target = { files, port, major }
  }

  get startsCount(): number {
    return this.#startsCount
  }

  /** The files are fit for a start. Errors: `precondition` where it cannot be run. */
  async start(options: StartOptions = {}): Promise<Postmaster> {
    await allowStart(this.#parts.files)
    const postmaster = await startPostgres(this.#parts, await this.#arguments(options))
    this.#startsCount++
    return postmaster
  }

  /** As the bootstrap superuser, while no server runs; the files are fit for a start. A statement may fail. */
  async runSingleUser(statements: readonly string[], options: StartOptions): Promise<void> {
    await allowStart(this.#parts.files)
    await runSingleUser(this.#parts, await this.#arguments(options), statements)
  }

  async #arguments({ floors, isSuspect = false }: StartOptions): Promise<string[]> {
    const { files, front, port, major } = this.#parts
    const where = { port, listenAddresses: front.listenAddresses, isSuspect }
    return postgresArguments(files, where, major, await readSettings(files), floors)
  }
}
