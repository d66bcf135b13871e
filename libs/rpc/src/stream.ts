/** Writing to a gRPC stream with back-pressure. */
import { fail } from '@understory/base'

interface MessageWriter<T> {
  readonly destroyed?: boolean
  /** Calls back when the message has left, or never will. */
  write(message: T, left: () => void): boolean
  once(event: 'drain' | 'close' | 'error', listener: (error?: unknown) => void): unknown
  off(event: 'drain' | 'close' | 'error', listener: (error?: unknown) => void): unknown
}

/** Streams that are full at the moment: all who write to one wait for the same news. */
const full = new WeakMap<object, Promise<void>>()

/** When the last message of a stream has left, or never will. */
const written = new WeakMap<object, Promise<void>>()

/**
 * Resolves when the stream takes more. Rejects `cancelled` when it closes or `signal` fires; the signal is
 * the same for all messages of a stream.
 */
export async function writeMessage<T>(
  stream: MessageWriter<T>,
  message: T,
  signal?: AbortSignal,
): Promise<void> {
  // A stream that is gone already announces nothing any more.
  if (stream.destroyed === true) throw fail('cancelled', 'stream was closed')
  const left = Promise.withResolvers<void>()
  written.set(stream, left.promise)
  if (stream.write(message, () => left.resolve())) return
  if (signal?.aborted === true) throw fail('cancelled', 'stream was cancelled')
  let room = full.get(stream)
  if (room === undefined) {
    room = waitForRoom(stream, signal).finally(() => full.delete(stream))
    full.set(stream, room)
  }
  await room
}

function waitForRoom<T>(stream: MessageWriter<T>, signal: AbortSignal | undefined): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    const settle = (failed: boolean): void => {
      stream.off('drain', onDrain)
      stream.off('close', onClose)
      stream.off('error', onClose)
      signal?.removeEventListener('abort', onClose)
      if (failed) reject(fail('cancelled', 'stream was closed'))
      else resolve()
    }
    const onDrain = (): void => settle(false)
    const onClose = (): void => settle(true)
    stream.once('drain', onDrain)
    stream.once('close', onClose)
    stream.once('error', onClose)
    signal?.addEventListener('abort', onClose, { once: true })
  })
}

/** Resolves once all messages of a stream have left: a status that is sent before that never arrives. */
export const messagesLeft = (stream: object): Promise<void> => written.get(stream) ?? Promise.resolve()
