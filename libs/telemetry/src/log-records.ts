/** Log lines as OpenTelemetry's log records: the event's name, its level, and the fields as attributes. */
import { SeverityNumber } from '@opentelemetry/api'
import type { Attributes, Logger } from '@opentelemetry/api'
import type { LogRecord } from '@understory/env'

export type LogSink = (record: LogRecord) => void

const SEVERITIES = {
  error: SeverityNumber.ERROR,
  warn: SeverityNumber.WARN,
  info: SeverityNumber.INFO,
  debug: SeverityNumber.DEBUG,
} as const

export const logSink =
  (logger: Logger): LogSink =>
  ({ wallMs, level, event, fields }) =>
    logger.emit({
      timestamp: wallMs,
      severityNumber: SEVERITIES[level],
      severityText: level.toUpperCase(),
      eventName: event,
      body: event,
      attributes: attributesOf(fields),
    })

function attributesOf(fields: Readonly<Record<string, unknown>>): Attributes {
  const attributes: Attributes = {}
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue
    attributes[name] =
      typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
        ? value
        : JSON.stringify(value)
  }
  return attributes
}
