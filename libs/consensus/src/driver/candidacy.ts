/** The outcome of one candidacy, as promises. */
import { electionError, lossError } from './loss.ts'
import type { Loss } from './loss.ts'
import type { Election } from './options.ts'

export class Candidacy {
  readonly elected: Promise<Election>
  /** Resolves once. */
  readonly lost: Promise<Loss>
  /** Rejects once it is lost. */
  readonly failed: Promise<never>
  readonly #elected = Promise.withResolvers<Election>()
  readonly #lost = Promise.withResolvers<Loss>()
  #isLost = false

  constructor() {
    this.elected = this.#elected.promise
    this.lost = this.#lost.promise
    this.failed = this.lost.then((loss) => {
      throw lossError(loss)
    })
    // Waiters for the election or a commit learn of a loss through these promises; without a waiter the rejection is no
    // fault.
    this.elected.catch(() => undefined)
    this.failed.catch(() => undefined)
  }

  get isLost(): boolean {
    return this.#isLost
  }

  win(election: Election): void {
    this.#elected.resolve(election)
  }

  /** False where it was lost already. */
  lose(loss: Loss): boolean {
    if (this.#isLost) return false
    this.#isLost = true
    this.#elected.reject(electionError(loss))
    this.#lost.resolve(loss)
    return true
  }
}
