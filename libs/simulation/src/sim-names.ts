/** The names of the simulated disk: as processes see them, and as the medium has them. */
import { dirname } from 'node:path'
import { isTemporaryName } from '@understory/env'
import type { Inode } from './sim-inode.ts'

export type Entry = Inode | 'directory'

export class NameTable {
  /** The data folder is there, durably, as its owner made it. */
  #current = new Map<string, Entry>([
    ['/', 'directory'],
    ['/data', 'directory'],
  ])
  readonly #medium = new Map(this.#current)
  /** Names that changed since their folder was synced. */
  readonly #dirty = new Set<string>()

  get current(): ReadonlyMap<string, Entry> {
    return this.#current
  }
  get medium(): ReadonlyMap<string, Entry> {
    return this.#medium
  }

  set(path: string, entry: Entry | undefined): void {
    if (entry === undefined) this.#current.delete(path)
    else this.#current.set(path, entry)
    this.#dirty.add(path)
  }

  syncFolder(folder: string): void {
    for (const name of this.#dirty) {
      if (dirname(name) !== folder) continue
      this.#settle(name)
      this.#dirty.delete(name)
    }
  }

  /** Temporary files that a listing hides. */
  leftovers(): string[] {
    return [...this.#current.keys()].filter(isTemporaryName)
  }

  /** Each change that was not synced survives or not; then the medium is all there is. */
  losePower(survives: () => boolean): void {
    for (const path of this.#dirty) if (survives()) this.#settle(path)
    this.#dirty.clear()
    for (const path of this.#medium.keys())
      if (path !== '/' && this.#medium.get(dirname(path)) !== 'directory') this.#medium.delete(path)
    this.#current = new Map(this.#medium)
  }

  #settle(path: string): void {
    const entry = this.#current.get(path)
    if (entry === undefined) this.#medium.delete(path)
    else this.#medium.set(path, entry)
  }
}
