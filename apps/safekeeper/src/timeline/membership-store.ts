/** The members of a timeline, as last announced, kept in a file; and the followers of that. */
import { join } from 'node:path'
import type { Disk } from '@understory/env'
import type { KnownMembership } from '@understory/protocol'
import { encodeMembershipFile, readMembershipFile } from './membership-file.ts'

export class MembershipStore {
  readonly #disk: Disk
  readonly #path: string
  #current: KnownMembership | undefined
  readonly #listeners = new Set<() => void>()

  private constructor(disk: Disk, path: string, current: KnownMembership | undefined) {
    this.#disk = disk
    this.#path = path
    this.#current = current
  }

  static pathIn = (folder: string): string => join(folder, 'membership')

  static async open(disk: Disk, folder: string): Promise<MembershipStore> {
    const path = MembershipStore.pathIn(folder)
    return new MembershipStore(disk, path, await readMembershipFile(disk, path))
  }

  /** Undefined where none was announced. */
  get current(): KnownMembership | undefined {
    return this.#current
  }

  /** Called back after a newer one; returns how to stop that. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Makes it durable unless a newer one, or the same, is known. */
  async store(membership: KnownMembership): Promise<void> {
    const known = this.#current
    if (membership.generation < (known?.generation ?? 0)) return
    const bytes = encodeMembershipFile(membership)
    if (known !== undefined && Buffer.compare(bytes, encodeMembershipFile(known)) === 0) return
    await this.#disk.durableReplace(this.#path, bytes)
    this.#current = membership
    for (const listener of this.#listeners) listener()
  }
}
