/**
 * How far something is that takes a while: on a terminal one line that moves; elsewhere, as in a file, a line for each
 * thing that is done and not more than one in ten seconds while only its numbers change.
 */
import type { Clock } from './clock.ts'

const REPEAT_MS = 10_000

export class ProgressLine {
  readonly #stream: { readonly isTTY?: boolean; write(text: string): unknown }
  readonly #clock: Pick<Clock, 'nowMs'>
  #kind: string | undefined
  #shown = ''
  #shownMs = 0

  constructor(
    stream: { readonly isTTY?: boolean; write(text: string): unknown },
    clock: Pick<Clock, 'nowMs'>,
  ) {
    this.#stream = stream
    this.#clock = clock
  }

  readonly show = (line: string): void => {
    if (line === this.#shown) return
    const kind = line.replaceAll(/\d+/g, '#')
    const isSameKind = kind === this.#kind
    const isTerminal = this.#stream.isTTY === true
    const nowMs = this.#clock.nowMs()
    if (!isTerminal && isSameKind && nowMs - this.#shownMs < REPEAT_MS) return
    if (isTerminal) {
      if (!isSameKind) this.end()
      this.#stream.write(`\r\u001b[K${line}`)
    } else {
      this.#stream.write(`${line}\n`)
    }
    this.#kind = kind
    this.#shown = line
    this.#shownMs = nowMs
  }

  /** Text that follows begins on a line of its own. */
  end(): void {
    if (this.#stream.isTTY === true && this.#kind !== undefined) this.#stream.write('\n')
    this.#kind = undefined
    this.#shown = ''
  }
}
