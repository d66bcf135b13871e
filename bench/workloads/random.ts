/**
 * Repeatable chance: the same seed and stream draw the same numbers on every machine. The generator is sfc32
 * (Chris Doty-Humphrey's small fast counter, 32-bit variant): three words of state, about 3 ns a draw.
 */
export class Random {
  #a: number
  #b: number
  #c: number
  #counter = 1

  /** `stream` distinguishes the generators of one seed: a client, a table, a warehouse. */
  constructor(seed: number, ...stream: readonly number[]) {
    this.#a = seed | 0
    this.#b = Math.floor(seed / 2 ** 32) | 0
    this.#c = 0x9e3779b9 | 0
    for (const word of stream) {
      this.#c ^= word
      for (let i = 0; i < 4; i++) this.next()
    }
    for (let i = 0; i < 12; i++) this.next()
  }

  /** A whole number of 0 .. 2^32 - 1. */
  next(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = (this.#c << 21) | (this.#c >>> 11)
    this.#c = (this.#c + sum) | 0
    return sum >>> 0
  }

  /** A whole number of `min` .. `max`, both included. */
  between(min: number, max: number): number {
    return min + Math.floor((this.next() / 2 ** 32) * (max - min + 1))
  }

  /** True in `percent` of 100 draws. */
  chance(percent: number): boolean {
    return this.next() < percent * (2 ** 32 / 100)
  }
}
