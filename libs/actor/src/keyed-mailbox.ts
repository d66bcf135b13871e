/** A mailbox for each key: jobs of one key run in order, jobs of different keys at the same time. */
import { Mailbox } from './mailbox.ts'
import type { MailboxOptions } from './mailbox.ts'

export class KeyedMailbox {
  readonly #options: MailboxOptions
  /** Of the keys that have jobs. */
  readonly #mailboxes = new Map<string, Mailbox>()

  constructor(options: MailboxOptions) {
    this.#options = options
  }

  /** As `Mailbox.run`. */
  run<T>(key: string, job: () => Promise<T> | T): Promise<T> {
    const mailbox = this.#mailboxes.get(key) ?? new Mailbox(this.#options)
    this.#mailboxes.set(key, mailbox)
    const result = mailbox.run(job)
    void mailbox.idle().then(() => {
      if (mailbox.size === 0 && this.#mailboxes.get(key) === mailbox) this.#mailboxes.delete(key)
    })
    return result
  }

  /** Resolves once nothing waits or runs for any key. */
  async idle(): Promise<void> {
    await Promise.all([...this.#mailboxes.values()].map((mailbox) => mailbox.idle()))
  }
}
