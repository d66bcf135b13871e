/**
 * The part of a server's messages that may leave its compute. postgres.log has whole statements and values of rows, and
 * belongs to the tenant; an operator's log, a trace and the failure that the API shows do not. Fit to be shown are:
 *
 * - FATAL and PANIC: why a session or the server ended;
 * - of LOG, what the postmaster says of its own files, addresses and settings as it starts (`START_MESSAGES`);
 *
 * each as its template: the text that Postgres puts in quotes (a value, a file, a name) is left out, but for the names
 * of settings and addresses to listen on. Severity and message as elog.c (16, 17, 18) writes them; a line that
 * continues one begins with a tab.
 */

/** The first of these on a line is the kind of the line; the text of a statement comes behind it. */
const SEVERITY =
  /\b(DEBUG[1-5]?|INFO|NOTICE|WARNING|LOG|ERROR|FATAL|PANIC|DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LOCATION|BACKTRACE): {1,2}(.*)/

/** guc-file.l, guc.c, hba.c, pqcomm.c, postmaster.c: said before a client is let in. */
const START_MESSAGES =
  /^(could not (bind|create|load|open|access) |syntax error in file |unrecognized configuration parameter |invalid value for parameter |parameter .* cannot be changed )/

const SHOWN_MAX = 4
const MESSAGE_LENGTH_MAX = 200
/** `parameter "work_mem"`, `IPv4 address "127.0.0.1"`. */
const KEPT_QUOTES = /\b(?:parameter|address) "[\w.:]{1,63}"$/

/** At most four messages, the last ones; none where nothing of it may be shown. */
export function shownMessages(log: string): string[] {
  const shown = log.split('\n').flatMap((line) => {
    if (line.startsWith('\t')) return []
    const [, severity, message = ''] = SEVERITY.exec(line) ?? []
    const isShown =
      severity === 'FATAL' || severity === 'PANIC' || (severity === 'LOG' && START_MESSAGES.test(message))
    return isShown ? [messageTemplate(message)] : []
  })
  return shown.slice(-SHOWN_MAX)
}

/** The message without what is in quotes, and without control characters. */
export function messageTemplate(message: string): string {
  const parts = message.split('"')
  // A quote that is not closed hides all that follows.
  const text = parts.reduce((before, part, i) => {
    if (i % 2 === 0) return before + part
    return KEPT_QUOTES.test(`${before}"${part}"`) && i < parts.length - 1
      ? `${before}"${part}"`
      : `${before}"…"`
  }, '')
  // oxlint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, ' ').slice(0, MESSAGE_LENGTH_MAX)
}

/** An error of a server, as the libraries that speak to it have it. */
interface ServerError extends Error {
  /** SQLSTATE. */
  readonly code: string
  readonly severity: string
}

const isServerError = (error: unknown): error is ServerError =>
  error instanceof Error &&
  'severity' in error &&
  'code' in error &&
  typeof error.code === 'string' &&
  /^[0-9A-Z]{5}$/.test(error.code)

/** A server's error by its severity and SQLSTATE, with its text only as above; any other error as it is. */
export function withoutValues(error: unknown): unknown {
  if (!isServerError(error)) return error
  const { severity, code, message } = error
  const text = severity === 'FATAL' || severity === 'PANIC' ? `: ${messageTemplate(message)}` : ''
  return Object.assign(new Error(`Postgres says ${severity} (SQLSTATE ${code})${text}`), { severity, code })
}
