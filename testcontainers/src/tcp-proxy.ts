/**
 * A TCP proxy that delays, holds back or breaks what passes through it. Order within a connection is kept, bytes are
 * never changed or lost: what TCP itself allows.
 */
import { type Server, type Socket, connect, createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { fail } from '@understory/base'

const STEP_BYTES = 64 * 1024

export interface TcpProxyOptions {
  readonly host?: string
  /** host:port. */
  readonly target: string
}

export class TcpProxy implements AsyncDisposable {
  readonly address: string
  /** Where connections go that are opened from now on, host:port. */
  target: string
  /** How long every piece is under way, each direction. */
  delayMs = 0
  /** Bytes from the target, over all connections. */
  answeredBytes = 0
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor(server: Server, address: string, target: string) {
    this.#server = server
    this.address = address
    this.target = target
    server.on('connection', (near) => this.#join(near))
  }

  static async start({ host = '127.0.0.1', target }: TcpProxyOptions): Promise<TcpProxy> {
    const server = createServer({ allowHalfOpen: true, highWaterMark: STEP_BYTES })
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(0, host, resolve)
    })
    const bound = server.address()
    if (bound === null || typeof bound === 'string') throw fail('precondition', 'the proxy has no port')
    return new TcpProxy(server, `${host}:${bound.port}`, target)
  }

  get connectionsCount(): number {
    return this.#sockets.size / 2
  }

  /** Breaks every connection with a reset; new ones are taken. */
  reset(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve))
    this.reset()
    await closed
  }

  #join(near: Socket): void {
    const at = this.target.lastIndexOf(':')
    const far = connect({
      host: this.target.slice(0, at),
      port: Number(this.target.slice(at + 1)),
      allowHalfOpen: true,
      noDelay: true,
    })
    near.setNoDelay(true)
    for (const socket of [near, far]) {
      this.#sockets.add(socket)
      socket.on('error', () => undefined)
    }
    near.on('close', (isBroken) => this.#leave(near, far, isBroken))
    far.on('close', (isBroken) => this.#leave(far, near, isBroken))
    far.on('data', (piece: Buffer) => void (this.answeredBytes += piece.length))
    this.#pass(near, far)
    this.#pass(far, near)
  }

  /** A clean end was passed on already, behind the last piece. */
  #leave(socket: Socket, other: Socket, isBroken: boolean): void {
    this.#sockets.delete(socket)
    if (isBroken && !other.destroyed) other.resetAndDestroy()
  }

  /** Pieces under way are bounded by what a socket buffers: a piece that waits holds up the reading. */
  #pass(from: Socket, to: Socket): void {
    let last = Promise.resolve()
    from.on('data', (piece: Buffer) => {
      const dueMs = performance.now() + this.delayMs
      if (this.delayMs > 0) from.pause()
      last = last.then(async () => {
        const waitMs = dueMs - performance.now()
        if (waitMs > 0) await delay(waitMs)
        if (from.isPaused()) from.resume()
        if (to.destroyed || to.write(piece)) return
        from.pause()
        await new Promise<void>((resolve) => {
          to.once('drain', resolve)
          to.once('close', resolve)
        })
        from.resume()
      })
    })
    from.on('end', () => {
      last = last.then(() => void to.end())
    })
  }
}
