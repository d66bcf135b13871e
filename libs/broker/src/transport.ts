/** The operations of a backend; everything else about a broker is in link.ts. Values are JSON texts here. */

/** Takes what a watch learns. */
export interface ChangeSink {
  /** Everything that is there now; what is not in it is gone. */
  snapshot(entries: ReadonlyMap<string, string>): void
  announced(key: string, text: string): void
  gone(key: string): void
}

export interface Transport {
  readonly description: string
  set(key: string, text: string, ttlMs: number): Promise<void>
  remove(key: string): Promise<void>
  list(prefix: string): Promise<Map<string, string>>
  /** Reports a snapshot, then the changes; resolves when the signal fires, rejects when the connection is lost. */
  follow(prefix: string, signal: AbortSignal, sink: ChangeSink): Promise<void>
  /** Calls back when the other side is there again after it was away, perhaps with nothing in its memory. */
  onReturn(callback: () => void): void
  close(): Promise<void>
}
