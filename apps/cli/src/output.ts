/** How commands print: aligned tables for people, JSON for programs. */

export type OutputFormat = 'table' | 'json'

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
  const widths = columns.map((name) =>
    Math.max(name.length, ...rows.map((row) => String(row[name] ?? '').length)),
  )
  const line = (cells: readonly string[]): string =>
    `${cells
      .map((cell, i) => cell.padEnd(widths[i] as number))
      .join('  ')
      .trimEnd()}\n`
  process.stdout.write(line(columns.map((name) => name.toUpperCase())))
  for (const row of rows) process.stdout.write(line(columns.map((name) => String(row[name] ?? ''))))
}

/** One thing: a line for each of its fields that has a value. JSON is a list of one, as `printRows` prints it. */
export function printFields(
  format: OutputFormat,
  fields: Readonly<Record<string, string | number | boolean>>,
): void {
  if (format === 'json') return printJson([fields])
  const shown = Object.entries(fields).filter(([, value]) => value !== '')
  const width = Math.max(...shown.map(([name]) => name.length))
  for (const [name, value] of shown) process.stdout.write(`${name.padEnd(width)}  ${String(value)}\n`)
}

/** bigint becomes a decimal string, as in every JSON that a program reads from us. */
export function printJson(value: unknown): void {
  const text = JSON.stringify(
    value,
    (_, field: unknown) => (typeof field === 'bigint' ? field.toString() : field),
    2,
  )
  process.stdout.write(`${text}\n`)
}

/** A line that overwrites itself on a terminal, and is left out elsewhere. */
export function progressLine(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${text}`)
}
export function endProgress(): void {
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
}
