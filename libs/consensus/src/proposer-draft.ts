/** The state of a step that is being taken, and the ends that several parts of it have. */
import type { PeerState, ProposerEffect, ProposerState } from './proposer-state.ts'

type Mutable<T> = { -readonly [K in keyof T]: T[K] }
export type MutablePeer = Mutable<PeerState>
export interface Draft extends Omit<Mutable<ProposerState>, 'peers'> {
  peers: Record<string, MutablePeer>
}

export function fence(draft: Draft, term: number, effects: ProposerEffect[]): void {
  draft.phase = 'fenced'
  effects.push({ kind: 'fenced', term })
}

export function drop(effects: ProposerEffect[], peer: string, reason: string): void {
  effects.push({ kind: 'drop', peer, reason })
}
