/** The one variable of a driver: takes one input at a time, and carries out its effects in order before the next. */
import { stepProposer } from '../proposer.ts'
import type { ProposerEffect, ProposerInput, ProposerState } from '../proposer-state.ts'

export interface StepsOwner {
  carryOut(effect: ProposerEffect): void
  stepped(before: ProposerState, input: ProposerInput, after: ProposerState): void
  /** All that was fed has been taken. */
  settled(): void
}

export class ProposerSteps {
  readonly #owner: StepsOwner
  readonly #inputs: ProposerInput[] = []
  #state: ProposerState
  #isFeeding = false
  #isOver = false

  constructor(state: ProposerState, owner: StepsOwner) {
    this.#state = state
    this.#owner = owner
  }

  get state(): ProposerState {
    return this.#state
  }

  /** From within an effect it is queued. */
  feed(input: ProposerInput): void {
    this.#inputs.push(input)
    if (this.#isFeeding) return
    this.#isFeeding = true
    try {
      for (
        let next = this.#inputs.shift();
        next !== undefined && !this.#isOver;
        next = this.#inputs.shift()
      ) {
        const before = this.#state
        const { state, effects } = stepProposer(before, next)
        this.#state = state
        this.#owner.stepped(before, next, state)
        for (const effect of effects) this.#owner.carryOut(effect)
      }
    } finally {
      this.#isFeeding = false
    }
    this.#owner.settled()
  }

  /** Takes nothing more. */
  end(): void {
    this.#isOver = true
  }
}
