/** How long the chains of pages are, counted from the index of the layers when a shard is loaded. */
import { LSN_MAX } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  CHAIN_COUNT_MAX,
  KEY_RELATION_BLOCK,
  KEY_SLRU_PAGE,
  classRange,
  compareKeys,
  endsChain,
} from '@understory/storage'
import type { ChainLedger, Key, KeyTable, LayerFile, LayerMap, ValueRef } from '@understory/storage'
import { loopTurns } from './loop-turns.ts'

export interface ChainCounts {
  readonly keys: KeyTable
  readonly ledger: ChainLedger
  readonly map: LayerMap
}

/** A page's records on top of what ends its chain, or of all that the layer has. */
interface Chain {
  readonly count: number
  readonly isWhole: boolean
}
const NOTHING: Chain = { count: 0, isWhole: false }

/** Layers come oldest first, so the links that a layer has of a key are added to those of the layers before. */
export async function countChains(state: ChainCounts, layer: LayerFile): Promise<void> {
  for (const keyClass of [KEY_RELATION_BLOCK, KEY_SLRU_PAGE]) {
    const { first, last } = classRange(keyClass)
    for (const runs of layer.runsWithin(first, last)) {
      let key: Key | undefined
      let chain = NOTHING
      for (let run = await runs.next(); run !== undefined; run = await runs.next()) {
        for (let i = 0; i < run.length; i++) {
          if (loopTurns.isOver) await loopTurns.next()
          const next = run.keyAt(i)
          const isSame = key !== undefined && compareKeys(key, next) === 0
          if (key !== undefined && !isSame) put(state, key, chain)
          key = next
          const floor = state.map.barriers.newest(next, LSN_MAX)
          // The layer says it itself, unless a barrier cuts the chain or it is longer than its byte.
          const known = floor <= layer.lsnMin ? run.chainAt(i) : undefined
          chain =
            known !== undefined && known.chain < CHAIN_COUNT_MAX
              ? { count: known.chain, isWhole: known.isWhole }
              : follow(isSame ? chain : NOTHING, run.valuesAt(i), floor)
        }
      }
      if (key !== undefined) put(state, key, chain)
    }
  }
}

/** The chain after values, oldest first, that come on top of `before`. */
function follow(before: Chain, values: Iterable<ValueRef>, floor: Lsn): Chain {
  let { count, isWhole } = before
  for (const { lsn, meta } of values) {
    if (lsn >= floor && !endsChain(meta)) count++
    else {
      count = 0
      isWhole = true
    }
  }
  return { count, isWhole }
}

function put({ keys, ledger }: ChainCounts, key: Key, { count, isWhole }: Chain): void {
  // A page without a chain has no count: the pages of a merged base are as many as those of the database.
  const id = isWhole && count === 0 ? keys.lookUp(key) : keys.intern(key)
  if (id < 0) return
  ledger.reset(id, isWhole ? count : ledger.countOf(id) + count)
}
