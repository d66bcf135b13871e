/** Names of things, as branded types so that one is never passed for another. */
import { fail } from './errors.ts'

declare const brand: unique symbol
type Brand<T, B extends string> = T & { readonly [brand]: B }

/** 32 lower-case hexadecimal digits. */
export type TenantId = Brand<string, 'TenantId'>
/** 32 lower-case hexadecimal digits. */
export type TimelineId = Brand<string, 'TimelineId'>
/** A process of the deployment, such as `safekeeper-1`: letters, digits and dashes, at most 63. */
export type NodeId = Brand<string, 'NodeId'>

/** How a tenant's keys are spread. `stripeBlocks` neighbouring blocks of a relation live on one shard. */
export interface ShardLayout {
  /** 1 to 256. */
  readonly count: number
  /** 1 to 2^20 blocks. */
  readonly stripeBlocks: number
}

/** One shard of a tenant: `number` is below `layout.count`. */
export interface ShardIdentity extends ShardLayout {
  readonly number: number
}

function parseHexId(kind: string, text: string): string {
  if (!/^[0-9a-f]{32}$/.test(text)) {
    throw fail('bad_argument', `malformed ${kind} id "${text}"`, {
      hint: 'An id is 32 lower-case hexadecimal digits.',
    })
  }
  return text
}

export const parseTenantId = (text: string): TenantId => parseHexId('tenant', text) as TenantId
export const parseTimelineId = (text: string): TimelineId => parseHexId('timeline', text) as TimelineId

export function parseNodeId(text: string): NodeId {
  if (!/^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/.test(text)) {
    throw fail('bad_argument', `malformed name "${text}"`, {
      hint: 'Use letters, digits and inner dashes, at most 63.',
    })
  }
  return text as NodeId
}

/** Whether the text is host:port; a host may be an IPv6 address in brackets. */
export const isAddress = (text: string): boolean =>
  /^[A-Za-z0-9._:[\]-]{1,255}:[0-9]{1,5}$/.test(text) &&
  Number(text.slice(text.lastIndexOf(':') + 1)) <= 0xffff

/** 32 hexadecimal digits of 16 random bytes. */
export const hexId = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, 16).toString('hex')
