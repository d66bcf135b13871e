/** How commands print: aligned tables for people, JSON for programs. */

export type OutputFormat = 'table' | 'json'

/**
 * The characters that a terminal obeys: the controls of ASCII and of Latin-1 (C0, DEL, C1), and those that turn text
 * around.
 */
const CONTROLS = /[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu

const CONTROLS_OF_JSON = /[\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g

/**
 * The text for a terminal. It may come from a server or from a tenant's Postgres, and must not move the cursor, set the
 * clipboard or look like other lines. Line feeds and tabs stay where `lines` says that it may have several lines.
 */
export const printable = (text: string, lines: 'one line' | 'several lines' = 'one line'): string =>
  text.replaceAll(CONTROLS, (control) =>
    lines === 'several lines' && (control === '\n' || control === '\t') ? control : '\ufffd',
  )

/** A line of text for people. */
export const printLine = (text: string): void => void process.stdout.write(`${printable(text)}\n`)

/** Rows with the same columns; the first row of names is printed in capitals. */
export function printRows(
  format: OutputFormat,
  rows: readonly Readonly<Record<string, string | number | boolean>>[],
): void {
  if (format === 'json') return printJson(rows)
  const [first] = rows
  if (first === undefined) {
    process.stdout.write('(none)\n')
    return
  }
  const columns = Object.keys(first)
  const widths = columns.map((name) => Math.max(name.length, ...rows.map((row) => cellOf(row, name).length)))
  const line = (cells: readonly string[]): string =>
    `${cells
      .map((cell, i) => cell.padEnd(widths[i] as number))
      .join('  ')
      .trimEnd()}\n`
  process.stdout.write(line(columns.map((name) => name.toUpperCase())))
  for (const row of rows) process.stdout.write(line(columns.map((name) => cellOf(row, name))))
}

const cellOf = (row: Readonly<Record<string, string | number | boolean>>, name: string): string =>
  printable(String(row[name] ?? ''))

/** One thing: a line for each of its fields that has a value. JSON is a list of one, as `printRows` prints it. */
export function printFields(
  format: OutputFormat,
  fields: Readonly<Record<string, string | number | boolean>>,
): void {
  if (format === 'json') return printJson([fields])
  const shown = Object.entries(fields).filter(([, value]) => value !== '')
  const width = Math.max(...shown.map(([name]) => name.length))
  for (const [name, value] of shown) printLine(`${name.padEnd(width)}  ${String(value)}`)
}

/** bigint becomes a decimal string, as in every JSON that a program reads from us. */
export function printJson(value: unknown): void {
  const text = JSON.stringify(
    value,
    (_, field: unknown) => (typeof field === 'bigint' ? field.toString() : field),
    2,
  )
  // JSON escapes C0 by itself. The value stays the same.
  const escaped = text.replaceAll(
    CONTROLS_OF_JSON,
    (control) => `\\u${control.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  process.stdout.write(`${escaped}\n`)
}

/** A line that overwrites itself on a terminal, and is left out elsewhere. */
export function progressLine(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${printable(text)}`)
}
export function endProgress(): void {
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
}
