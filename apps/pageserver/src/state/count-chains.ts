/** How long the chains of pages are, counted from the layers when a shard is loaded. */
import { LSN_MAX } from '@understory/base'
import {
  KEY_RELATION_BLOCK,
  KEY_SLRU_PAGE,
  Missing,
  classRange,
  endsChain,
  keysOf,
  withBlocks,
} from '@understory/storage'
import type { ChainLedger, Key, KeyTable, LayerFile, LayerMap, ValueRef } from '@understory/storage'
import { loopTurns } from './loop-turns.ts'

export interface ChainCounts {
  readonly keys: KeyTable
  readonly ledger: ChainLedger
  readonly map: LayerMap
}

/** Layers come oldest first, so what a layer finds of a key goes on top of what the ones before found. */
export async function countChains(state: ChainCounts, layer: LayerFile): Promise<void> {
  for (const keyClass of [KEY_RELATION_BLOCK, KEY_SLRU_PAGE]) {
    const { first, last } = classRange(keyClass)
    for await (const key of keysOf(layer, first, last)) {
      if (loopTurns.isOver) await loopTurns.next()
      await countChain(state, layer, key)
    }
  }
}

async function countChain(state: ChainCounts, layer: LayerFile, key: Key): Promise<void> {
  const floor = state.map.barriers.newest(key, LSN_MAX)
  const gathered = withBlocks((held) => {
    const values: ValueRef[] = []
    const isOver = layer.gather(key, LSN_MAX, floor, values, held)
    return isOver instanceof Missing ? isOver : { values, isOver }
  })
  const { values, isOver } = gathered instanceof Promise ? await gathered : gathered
  const oldest = values.at(-1)
  if (oldest !== undefined && endsChain(oldest.meta)) values.pop()
  const id = state.keys.intern(key)
  const bytes = values.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)
  if (isOver) state.ledger.reset(id, values.length, bytes)
  else state.ledger.reset(id, state.ledger.countOf(id) + values.length, state.ledger.bytesOf(id) + bytes)
}
