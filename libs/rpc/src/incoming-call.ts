/**
 * The facts about an incoming call that grpc-js 1.14.7 has and does not declare (build/src/server-interceptors.js,
 * `BaseServerInterceptingCall`): the encoding of its messages, which it removes from the metadata before an interceptor
 * sees them; its decoder, which has one limit for a whole server; and its HTTP/2 stream. All that depends on these
 * private fields is in this file, and a version of grpc-js without them is reported by the first call. So is the one of
 * Node's streams that says how far they read ahead, which grpc-js leaves as it is.
 */
import { constants } from 'node:http2'
import type { ServerHttp2Stream } from 'node:http2'
import type { Readable } from 'node:stream'
import { assert } from '@understory/base'
import type { ServerInterceptingCallInterface } from '@grpc/grpc-js'

interface Internals {
  readonly incomingEncoding: string
  readonly decoder: { maxReadMessageLength: number }
  readonly stream: ServerHttp2Stream
}

export class IncomingCall {
  readonly #internals: Internals

  constructor(call: ServerInterceptingCallInterface) {
    const internals = call as unknown as Internals
    assert(
      typeof internals.incomingEncoding === 'string' &&
        typeof internals.decoder?.maxReadMessageLength === 'number' &&
        typeof internals.stream?.close === 'function',
      () => 'this version of grpc-js keeps the encoding, decoder or stream of a call elsewhere',
    )
    this.#internals = internals
  }

  /** As the caller named it in `grpc-encoding`: 'identity' where its messages are not compressed. */
  get encoding(): string {
    return this.#internals.incomingEncoding
  }

  /** Longest message in bytes that is taken from now on; the length is read before the message is. */
  limitMessages(bytesMax: number): void {
    this.#internals.decoder.maxReadMessageLength = bytesMax
  }

  /** `onBytes` is called with the size of each piece that arrives. It does not start reading. */
  onData(onBytes: (bytes: number) => void): () => void {
    const { stream } = this.#internals
    const listener = (piece: Buffer): void => onBytes(piece.length)
    stream.on('data', listener)
    return () => void stream.off('data', listener)
  }

  /** Ends the stream once the status is sent, so that a caller that does not end its side holds nothing here. */
  close(): void {
    const { stream } = this.#internals
    setImmediate(() => stream.close(constants.NGHTTP2_NO_ERROR))
  }
}

/**
 * Messages of the call are read one ahead of the handler. Of Node's own 16 each could be of the largest size, in memory
 * before the handler's own limits know of them.
 */
export function readOneAhead(call: Readable): void {
  const { _readableState: state } = call as unknown as { _readableState?: { highWaterMark?: number } }
  assert(
    state?.highWaterMark === call.readableHighWaterMark,
    () => 'this version of Node keeps the read-ahead of a stream elsewhere',
  )
  state.highWaterMark = 1
}
