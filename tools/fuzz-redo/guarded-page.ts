import type { Page } from '@understory/postgres/page'
import { PAGE_SIZE } from '@understory/postgres/page'
/**
 * A page that notices what typed arrays pass over in silence: an index beyond the page reads as undefined and is
 * written to nowhere, and `copyWithin`, `fill` and `subarray` clip their ranges.
 */

export interface GuardedPage {
  readonly page: Page
  /** The accesses beyond the page, in order. */
  readonly beyond: string[]
}

const RANGED = ['copyWithin', 'fill', 'subarray', 'slice', 'set'] as const
type Ranged = (typeof RANGED)[number]
const isRanged = (name: string | symbol): name is Ranged =>
  (RANGED as readonly (string | symbol)[]).includes(name)

/** The numbers among a call's arguments that are positions within the page. */
function positionsOf(name: Ranged, args: readonly unknown[]): unknown[] {
  if (name === 'fill') return args.slice(1)
  if (name === 'copyWithin') {
    const [to, from, end = PAGE_SIZE] = args as number[]
    return [to, from, end, (to as number) + Math.max(0, end - (from as number))]
  }
  return name === 'set' ? [] : [...args]
}

export function guardPage(bytes: Uint8Array): GuardedPage {
  const beyond: string[] = []
  const check = (what: string, at: unknown, end: number): void => {
    if (typeof at !== 'number' || !Number.isInteger(at) || at < 0 || at > end)
      beyond.push(`${what} ${String(at)}`)
  }
  const guarded = new Proxy(bytes, {
    get(target, name) {
      if (isRanged(name)) {
        return (...args: unknown[]): unknown => {
          for (const at of positionsOf(name, args)) if (at !== undefined) check(name, at, PAGE_SIZE)
          return (target[name] as (...rest: unknown[]) => unknown)(...args)
        }
      }
      if (typeof name === 'string' && /^-?\d|^NaN/.test(name)) check('read', Number(name), PAGE_SIZE - 1)
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
    set(target, name, value) {
      if (typeof name === 'string') check('write', Number(name), PAGE_SIZE - 1)
      return Reflect.set(target, name, value, target)
    },
  })
  return {
    page: { bytes: guarded, view: new DataView(bytes.buffer, bytes.byteOffset, PAGE_SIZE) },
    beyond,
  }
}
