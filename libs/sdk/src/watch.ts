/** The state of a switch of full_page_writes, and again at every change, over losses of the control plane. */
import { isDeepStrictEqual } from 'node:util'
import { ControlPlaneServiceClient } from '@understory/rpc'
import type { WatchOptions } from './api.ts'
import { readSignal } from './arguments.ts'
import type { Calls } from './calls.ts'
import { mayPass } from './retry.ts'
import { delay, joinSignals } from './signals.ts'
import { fpwView } from './views.ts'
import type { FpwView } from './views.ts'

const PAUSE_MS = 200
/** A control plane that was heard once is waited for so long. */
const AWAY_MS_MAX = 60_000

/**
 * Until it is left or cancelled. The first state comes as any answer does: trouble at the beginning is not waited out.
 */
export async function* watchFullPageWrites(
  calls: Calls,
  tenant: string,
  options: WatchOptions,
): AsyncGenerator<FpwView, void, void> {
  using joined = joinSignals(readSignal(options.signal), calls.closing)
  const { signal } = joined
  const control = calls.to(ControlPlaneServiceClient)
  const first = await calls.unary(control.getFullPageWrites.bind(control), { tenant }, { signal })
  let last = fpwView(first.status)
  yield last
  let heardAtMs = performance.now()
  for (;;) {
    try {
      for await (const view of fpwStates(calls, tenant, signal)) {
        if (!isDeepStrictEqual(view, last)) yield (last = view)
        heardAtMs = performance.now()
      }
    } catch (error) {
      if (!mayPass(error) || performance.now() - heardAtMs > AWAY_MS_MAX) throw error
    }
    await delay(PAUSE_MS, signal)
  }
}

/** As the control plane says them: once in a while the same again. */
export async function* fpwStates(
  calls: Calls,
  tenant: string,
  signal: AbortSignal,
): AsyncGenerator<FpwView, void, void> {
  const control = calls.to(ControlPlaneServiceClient)
  const watch = calls.stream(control.watchFullPageWrites.bind(control), { tenant }, { signal })
  for await (const { status } of watch) yield fpwView(status)
}
