/** W3C trace context, version 00: `00-<trace id, 32 hex>-<span id, 16 hex>-<flags, 2 hex>`. */
const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/
const FLAG_SAMPLED = 1

export interface TraceContext {
  readonly traceId: string
  readonly spanId: string
}

/** Undefined where it is malformed, or says that this trace is not recorded. */
export function readTraceparent(text: string | undefined): TraceContext | undefined {
  const found = parse(text)
  return found?.isRecorded === true ? { traceId: found.traceId, spanId: found.spanId } : undefined
}

/** Whether it says that this trace is not recorded. */
export const isLeftOut = (text: string | undefined): boolean => parse(text)?.isRecorded === false

function parse(text: string | undefined): (TraceContext & { readonly isRecorded: boolean }) | undefined {
  const [, traceId = '', spanId = '', flags = ''] = TRACEPARENT.exec(text ?? '') ?? []
  if (/^0*$/.test(traceId) || /^0*$/.test(spanId)) return undefined
  return { traceId, spanId, isRecorded: (Number.parseInt(flags, 16) & FLAG_SAMPLED) !== 0 }
}

export const writeTraceparent = ({ traceId, spanId }: TraceContext): string => `00-${traceId}-${spanId}-01`
