/**
 * Calls that are made to take memory and not to be understood: from strangers and from callers with the token, whole,
 * compressed and half open, with bodies that become as many objects as they can. Each must end with a status of a kind
 * that fits, and the process must neither die nor take more memory than its limits say.
 */
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import fc from 'fast-check'
import { frame } from './grpc-call.ts'
import type { CallEnd, Peer } from './grpc-call.ts'
import type { Method } from './messages.ts'

export interface HostileTarget {
  readonly name: string
  readonly method: Method
  /** With the token, and without one. */
  readonly peer: Peer
  readonly stranger: Peer
  /** Whether an empty message would be obeyed, which must not be. */
  readonly isOrder: boolean
}

const MIB = 2 ** 20
/** As much as grpc-js takes at most once it is decompressed. */
const INFLATED_BYTES = 32 * MIB - 64
const PLAIN_BYTES = [200 * 1024, 4 * MIB] as const
const FIELDS_MAX = 8
const CALLS_AT_ONCE = 12
const HALF_OPEN_AT_ONCE = 40

const OK = 0
const DEADLINE_EXCEEDED = 4
const UNIMPLEMENTED = 12
const UNAVAILABLE = 14
const UNAUTHENTICATED = 16

/**
 * The field, whose value has a length, with nothing in it, as often as it fits; within the fields `path`, outermost
 * first.
 */
function emptyFields(path: readonly number[], field: number, bytes: number): Buffer {
  const filled = Buffer.alloc(bytes, Buffer.from([tagOf(field), 0]))
  return path.reduceRight((value, outer) => Buffer.concat([lengthHeader(outer, value.length), value]), filled)
}

const tagOf = (field: number): number => (field << 3) | 2

function lengthHeader(field: number, length: number): Buffer {
  const bytes = [tagOf(field)]
  let rest = length
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80)
  return Buffer.from([...bytes, rest])
}

const compress = promisify(gzip)
const compressed = new Map<string, Promise<Buffer>>()
/** The same as a compressed frame, made once. */
function compressedFrame(path: readonly number[], field: number): Promise<Buffer> {
  const name = [...path, field].join('.')
  const made = compressed.get(name) ?? makeCompressedFrame(path, field)
  compressed.set(name, made)
  return made
}

async function makeCompressedFrame(path: readonly number[], field: number): Promise<Buffer> {
  const made = frame(await compress(emptyFields(path, field, INFLATED_BYTES), { level: 1 }))
  made[0] = 1
  return made
}

interface Plan {
  readonly kind: string
  readonly target: HostileTarget
  readonly run: () => Promise<CallEnd>
  readonly isRight: (status: number) => boolean
}

const GZIP = { 'grpc-encoding': 'gzip' } as const

/** The messages for one RPC. */
function plansFor(target: HostileTarget, path: readonly number[], field: number): Plan[] {
  const { peer, stranger, isOrder, method } = target
  const call = { path: method.path, mayStayOpen: false }
  const sendCompressed = async (by: Peer): Promise<CallEnd> =>
    by.call({ ...call, body: await compressedFrame(path, field), headers: GZIP })
  // Bodies are made when they are sent: all of them at once would keep this process, and its pings, for seconds.
  const makeHalf = (): Buffer => {
    // It says that all of 30 MiB come, and never sends the last of them.
    const half = frame(emptyFields(path, field, 100 * 1024))
    half.writeUInt32BE(30 * MIB, 1)
    return half
  }
  const isRefused = (status: number): boolean => status === UNAUTHENTICATED
  const plans: Plan[] = [
    {
      kind: "a stranger's compressed message",
      target,
      run: () => sendCompressed(stranger),
      isRight: isRefused,
    },
    {
      kind: "a stranger's half message",
      target,
      run: () => stranger.call({ ...call, body: makeHalf(), isHalfOpen: true }),
      isRight: isRefused,
    },
    {
      kind: 'a compressed message',
      target,
      run: () => sendCompressed(peer),
      isRight: (status) => status === UNIMPLEMENTED,
    },
  ]
  if (isOrder) return plans
  for (const bytes of PLAIN_BYTES) {
    plans.push({
      kind: `${bytes} bytes of empty fields ${[...path, field].join('.')}`,
      target,
      run: () =>
        peer.call({
          ...call,
          body: frame(emptyFields(path, field, bytes)),
          mayStayOpen: method.responseStream,
        }),
      isRight: (status) => bytes < MIB || status !== OK,
    })
  }
  return plans
}

/** Sends them all, unless `report` says that there are faults enough; whether it did not. */
async function run(
  plans: readonly Plan[],
  atOnce: number,
  report: (fault: string) => boolean,
): Promise<boolean> {
  let isEnough = false
  const queue = plans.values()
  const work = async (): Promise<void> => {
    for (const { kind, target, run: send, isRight } of queue) {
      if (isEnough) return
      const end = await send()
      const isFine = end.kind === 'open' || (end.kind === 'status' && isRight(end.status))
      if (!isFine) isEnough = report(`${target.name} answered ${JSON.stringify(end)} to ${kind}`)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  return !isEnough
}

/** Calls of one RPC whose first message is never whole. */
function halfOpenCalls(target: HostileTarget): Plan[] {
  const half = frame(Buffer.alloc(200 * 1024))
  half.writeUInt32BE(250 * 1024, 1)
  const { path } = target.method
  return Array.from({ length: HALF_OPEN_AT_ONCE }, () => ({
    kind: 'a message that is never whole',
    target,
    run: () => target.peer.call({ path, body: half, isHalfOpen: true, mayStayOpen: false }),
    isRight: (status) => status === DEADLINE_EXCEEDED || status === UNAVAILABLE,
  }))
}

/**
 * To every RPC each kind of call, with fields drawn from `seed`; then many half-open calls to all at once. `report`
 * gets each fault and says whether they are enough. Returns the number of calls.
 */
export async function sendHostileCalls(
  targets: readonly HostileTarget[],
  seed: number,
  report: (fault: string) => boolean,
): Promise<number> {
  const field = fc.integer({ min: 1, max: FIELDS_MAX })
  const drawn = fc.sample(fc.tuple(fc.array(field, { maxLength: 2 }), field), {
    numRuns: targets.length,
    seed,
  })
  // An RPC that takes a list has it in one of its first fields: each is tried by a stranger in any case.
  const plans = targets.flatMap((target, i) => [
    ...Array.from({ length: FIELDS_MAX }, (_, at) => plansFor(target, [], at + 1).slice(0, 1)).flat(),
    ...plansFor(target, ...(drawn[i] as [number[], number])),
  ])
  const halfOpen = targets.filter(({ isOrder }) => !isOrder).flatMap(halfOpenCalls)
  if (await run(plans, CALLS_AT_ONCE, report)) await run(halfOpen, halfOpen.length, report)
  return plans.length + halfOpen.length
}
