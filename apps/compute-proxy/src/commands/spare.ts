/** `compute-proxy spare`: has loaded all of a compute, and becomes the one that its host names. */
import type { ComputeOrder } from '../host/spares.ts'
import { RUN } from './run.ts'

export { RUN }

/** The order of the host; this process ends with its host. */
export async function nextOrder(): Promise<ComputeOrder> {
  const onDisconnect = (): never => process.exit(0)
  process.once('disconnect', onDisconnect)
  if (process.send === undefined || !process.connected) return onDisconnect()
  process.send({ spare: 'ready' })
  const order = await new Promise<ComputeOrder>((resolve) =>
    process.once('message', (message) => resolve(message as ComputeOrder)),
  )
  process.off('disconnect', onDisconnect)
  return order
}
