/** A block cache that keeps a block no longer than the reads that were under way when it came. */
import { BlockCache } from '@understory/storage'

type Add = BlockCache['add']

/** As `DataBlock` of layer-file.ts, which is not for others. */
const isData = (block: object): boolean => block.constructor.name === 'DataBlock'

interface Kept {
  readonly forget: () => void
  /** Reads that had begun when it came. */
  readonly reads: number
}

const ALL_BYTES = 2 ** 40

export class ForgetfulCache extends BlockCache {
  readonly #keepsIndex: boolean
  /** In the order in which they came. */
  #kept: Kept[] = []
  readonly #underWay = new Set<number>()
  #begun = 0
  /** Blocks that were read and are not kept. */
  forgottenCount = 0

  /** `keepsIndex`: blocks that say where values are stay. */
  constructor(keepsIndex: boolean) {
    super(ALL_BYTES)
    this.#keepsIndex = keepsIndex
  }

  override add(...[table, at, block]: Parameters<Add>): ReturnType<Add> {
    if (this.#keepsIndex && !isData(block)) return super.add(table, at, block)
    this.#kept.push({ forget: () => table.evicted(at), reads: this.#begun })
    return { table, at, block, sizeBytes: 0, wasUsed: false, next: undefined }
  }

  /** A read begins; gives what ends it. */
  begin(): () => void {
    const oldest = Math.min(++this.#begun, ...this.#underWay)
    const first = this.#kept.findIndex(({ reads }) => reads >= oldest)
    const gone = first < 0 ? this.#kept.splice(0) : this.#kept.splice(0, first)
    for (const { forget } of gone) forget()
    this.forgottenCount += gone.length
    const number = this.#begun
    this.#underWay.add(number)
    return () => void this.#underWay.delete(number)
  }
}
