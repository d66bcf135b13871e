/**
 * A channel that cancels a connection attempt after a while, and resolves the name again. grpc-js waits for the kernel,
 * which sends to an abandoned address for two minutes: a pod that was replaced has another one.
 */
import { connectivityState } from '@grpc/grpc-js'
import type { ChannelInterface } from '@grpc/grpc-js'

/** Within a data centre a connection takes milliseconds; a process that is busy starting may take longer. */
const CONNECT_MS_MAX = 5_000

type CreateCall = ChannelInterface['createCall']

export class RedialingChannel implements ChannelInterface {
  readonly #dial: () => ChannelInterface
  readonly #connectMsMax: number
  #channel: ChannelInterface
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(dial: () => ChannelInterface, connectMsMax: number = CONNECT_MS_MAX) {
    this.#dial = dial
    this.#connectMsMax = connectMsMax
    this.#channel = dial()
  }

  createCall(...args: Parameters<CreateCall>): ReturnType<CreateCall> {
    this.#watch()
    return this.#channel.createCall(...args)
  }

  /** From the first call that finds no connection until there is one. */
  #watch(): void {
    if (this.#timer !== undefined || this.#isClosed) return
    if (this.#channel.getConnectivityState(false) === connectivityState.READY) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      if (this.#isClosed || this.#channel.getConnectivityState(false) !== connectivityState.CONNECTING) return
      const stuck = this.#channel
      this.#channel = this.#dial()
      // Its calls fail as unavailable; who made them tries again.
      stuck.close()
    }, this.#connectMsMax)
    this.#timer.unref()
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#channel.close()
  }

  getTarget(): string {
    return this.#channel.getTarget()
  }
  getConnectivityState(tryToConnect: boolean): connectivityState {
    return this.#channel.getConnectivityState(tryToConnect)
  }
  watchConnectivityState(...args: Parameters<ChannelInterface['watchConnectivityState']>): void {
    this.#channel.watchConnectivityState(...args)
  }
  getChannelzRef(): ReturnType<ChannelInterface['getChannelzRef']> {
    return this.#channel.getChannelzRef()
  }
}
