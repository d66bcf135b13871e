/**
 * gRPC by hand over HTTP/2, so that everything a peer can send can be sent: any bytes as a message, any bytes as
 * frames.
 */
import { type ClientHttp2Session, type IncomingHttpHeaders, connect, constants } from 'node:http2'
import { connect as connectTcp } from 'node:net'

/** How a call ended. `status`: the server's gRPC status. `open`: it is a stream that continued, and was left. */
export type CallEnd =
  | { readonly kind: 'status'; readonly status: number; readonly message: string; readonly answers: number }
  | { readonly kind: 'open'; readonly answers: number }
  | { readonly kind: 'http'; readonly httpStatus: number }
  | { readonly kind: 'reset'; readonly code: number }
  | { readonly kind: 'hangs' }

export interface RawCall {
  readonly path: string
  readonly body: Buffer
  readonly headers?: Readonly<Record<string, string>>
  /** Whether the caller's side is left open: what comes after `body` never does. */
  readonly isHalfOpen?: boolean
  /** Whether silence is an answer, as of a stream that waits for news. */
  readonly mayStayOpen: boolean
}

const HANG_MS = 15_000
const LEAVE_OPEN_MS = 60

/** The message as a frame of gRPC: not compressed, its length, its bytes. */
export function frame(message: Uint8Array): Buffer {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(message.length, 1)
  return Buffer.concat([head, message])
}

export class Peer implements Disposable {
  readonly address: string
  readonly #authorization: { readonly authorization?: string }
  #session: ClientHttp2Session | undefined

  /** Without a token its calls carry none. */
  constructor(address: string, token?: string) {
    this.address = address
    this.#authorization = token === undefined ? {} : { authorization: `Bearer ${token}` }
  }

  call({ path, body, headers = {}, isHalfOpen = false, mayStayOpen }: RawCall): Promise<CallEnd> {
    const stream = this.#connected().request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...this.#authorization,
      ...headers,
    })
    const { promise, resolve } = Promise.withResolvers<CallEnd>()
    let [answerBytes, httpStatus] = [0, 0]
    let answers = 0
    const hangs = setTimeout(() => {
      resolve({ kind: 'hangs' })
      stream.close(constants.NGHTTP2_CANCEL)
    }, HANG_MS)
    const leave = (): void => {
      resolve({ kind: 'open', answers })
      stream.close(constants.NGHTTP2_CANCEL)
    }
    let leaving = mayStayOpen ? setTimeout(leave, LEAVE_OPEN_MS) : undefined
    const end = (headers: IncomingHttpHeaders): void => {
      const status = headers['grpc-status']
      if (status === undefined) return
      const text = headers['grpc-message']
      resolve({
        kind: 'status',
        status: Number(status),
        message: decodeURIComponent(typeof text === 'string' ? text : ''),
        answers,
      })
    }
    stream.on('response', (headers) => {
      httpStatus = Number(headers[':status'])
      end(headers)
    })
    stream.on('trailers', end)
    stream.on('data', (piece: Buffer) => {
      answerBytes += piece.length
      answers = answerBytes > 0 ? answers + 1 : answers
      clearTimeout(leaving)
      if (mayStayOpen) leaving = setTimeout(leave, LEAVE_OPEN_MS)
    })
    stream.on('error', () => undefined)
    stream.on('close', () => {
      clearTimeout(hangs)
      clearTimeout(leaving)
      if (httpStatus !== 0 && httpStatus !== 200) resolve({ kind: 'http', httpStatus })
      resolve({ kind: 'reset', code: stream.rstCode })
    })
    if (isHalfOpen) stream.write(body)
    else stream.end(body)
    return promise
  }

  /** Sends bytes that need not be HTTP/2 at all, and waits until the server hangs up or has had time to read them. */
  async garbage(bytes: Uint8Array): Promise<void> {
    const at = this.address.lastIndexOf(':')
    const socket = connectTcp({ host: this.address.slice(0, at), port: Number(this.address.slice(at + 1)) })
    socket.on('error', () => undefined)
    const closed = new Promise((resolve) => socket.once('close', resolve))
    socket.setTimeout(LEAVE_OPEN_MS, () => socket.destroy())
    socket.resume()
    socket.end(bytes)
    await closed
  }

  #connected(): ClientHttp2Session {
    if (this.#session === undefined || this.#session.closed || this.#session.destroyed) {
      // Bytes that are not sent yet when a call is refused count: with little memory this side would reset its next
      // calls.
      const maxSessionMemory = 1_000
      this.#session = connect(`http://${this.address}`, { maxSessionMemory, settings: { enablePush: false } })
      this.#session.on('error', () => undefined)
    }
    return this.#session
  }

  [Symbol.dispose](): void {
    this.#session?.destroy()
  }
}
