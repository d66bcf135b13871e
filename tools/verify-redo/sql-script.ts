/**
 * Reads SQL scripts of any origin as psql would: statements end at a semicolon outside of quotes, parentheses and
 * BEGIN ATOMIC bodies; inline data follow COPY ... FROM STDIN; variables are substituted. Of psql's backslash commands
 * \set, \unset, \getenv, \connect, \copy ... from stdin and those that send a statement are followed, the others are
 * reported as skipped.
 */

export type ScriptStep =
  | { readonly kind: 'statement'; readonly sql: string; readonly copyData?: string }
  | { readonly kind: 'connect'; readonly database: string | undefined }
  | { readonly kind: 'skipped'; readonly command: string }

const WORD = /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/y
const DOLLAR_TAG = /\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y
const VARIABLE = /:(?:([A-Za-z0-9_]+)|'([A-Za-z0-9_]+)'|"([A-Za-z0-9_]+)"|\{\?([A-Za-z0-9_]+)\})/y
const COMMAND = /\\([A-Za-z!?_]+)?/y
const COPY_FROM_STDIN = /^\s*copy\b[\s\S]*\bfrom\s+stdin\b/i
/** They send what was written so far. */
const SENDING = new Set(['g', 'gx', 'gset', 'gexec', 'gdesc', 'crosstabview', 'watch', 'bind', 'bindx'])

export class SqlScript {
  readonly #text: string
  readonly #environment: Readonly<Record<string, string | undefined>>
  readonly #variables = new Map<string, string>()
  #at = 0
  #sql = ''
  #parentheses = 0
  /** BEGIN and CASE that are open in the body of a function. */
  #bodies = 0
  /** First letters of the statement's first words, where they are those of CREATE [OR REPLACE] FUNCTION|PROCEDURE. */
  #opening = ''

  constructor(text: string, environment: Readonly<Record<string, string | undefined>> = {}) {
    this.#text = text
    this.#environment = environment
  }

  *steps(): Generator<ScriptStep, void, void> {
    const text = this.#text
    while (this.#at < text.length) {
      const char = text[this.#at] as string
      if (char === '-' && text[this.#at + 1] === '-') this.#at = this.#lineEnd()
      else if (char === '/' && text[this.#at + 1] === '*') this.#skipComment()
      else if (char === "'") this.#quoted("'", /(^|\W)[eE]$/.test(this.#sql.slice(-2)))
      else if (char === '"') this.#quoted('"', false)
      else if (char === '$' && !/[\w$]/.test(this.#sql.slice(-1))) this.#dollar()
      else if (char === ':') this.#colon()
      else if (char === '\\') yield* this.#command()
      else if (char === ';' && this.#parentheses === 0 && this.#bodies === 0) {
        this.#at++
        yield* this.#send()
      } else if (/[A-Za-z_\u0080-\uffff]/.test(char)) this.#word()
      else {
        if (char === '(') this.#parentheses++
        else if (char === ')') this.#parentheses = Math.max(0, this.#parentheses - 1)
        this.#take(1)
      }
    }
    yield* this.#send()
  }

  #take(length: number): void {
    this.#sql += this.#text.slice(this.#at, this.#at + length)
    this.#at += length
  }
  #lineEnd(): number {
    const end = this.#text.indexOf('\n', this.#at)
    return end < 0 ? this.#text.length : end
  }
  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at
    return pattern.exec(this.#text) ?? undefined
  }

  #skipComment(): void {
    let depth = 0
    do {
      if (this.#text.startsWith('/*', this.#at)) [depth, this.#at] = [depth + 1, this.#at + 2]
      else if (this.#text.startsWith('*/', this.#at)) [depth, this.#at] = [depth - 1, this.#at + 2]
      else this.#at++
    } while (depth > 0 && this.#at < this.#text.length)
    this.#sql += ' '
  }

  #quoted(quote: string, hasEscapes: boolean): void {
    let end = this.#at + 1
    while (end < this.#text.length && this.#text[end] !== quote)
      end += hasEscapes && this.#text[end] === '\\' ? 2 : 1
    this.#take(end + 1 - this.#at)
  }

  #dollar(): void {
    const tag = this.#match(DOLLAR_TAG)?.[0]
    if (tag === undefined) return this.#take(1)
    const end = this.#text.indexOf(tag, this.#at + tag.length)
    this.#take((end < 0 ? this.#text.length : end + tag.length) - this.#at)
  }

  #colon(): void {
    if (this.#text[this.#at + 1] === ':' || this.#text[this.#at + 1] === '=') return this.#take(2)
    const match = this.#match(VARIABLE)
    if (match === undefined) return this.#take(1)
    const [all, plain, literal, identifier, asked] = match
    const value = this.#variables.get((plain ?? literal ?? identifier ?? asked) as string)
    if (asked === undefined && value === undefined) return this.#take(all.length)
    this.#at += all.length
    if (asked !== undefined) this.#sql += value === undefined ? 'FALSE' : 'TRUE'
    else if (plain !== undefined) this.#sql += value
    else if (literal !== undefined) this.#sql += `'${value?.replaceAll("'", "''")}'`
    else this.#sql += `"${value?.replaceAll('"', '""')}"`
  }

  /** psql's own rule for bodies without quotes (psqlscan.l, identifier). */
  #word(): void {
    const word = (this.#match(WORD)?.[0] ?? this.#text[this.#at]) as string
    this.#take(word.length)
    const lower = word.toLowerCase()
    if (this.#opening.length < 4 && /^(create|or|replace|function|procedure)$/.test(lower))
      this.#opening += lower[0]
    else if (this.#opening === '') this.#opening = '-'
    if (!/^c(f|p|orf|orp)/.test(this.#opening) || this.#parentheses > 0) return
    if (lower === 'begin' || (lower === 'case' && this.#bodies > 0)) this.#bodies++
    else if (lower === 'end' && this.#bodies > 0) this.#bodies--
  }

  *#send(): Generator<ScriptStep, void, void> {
    const sql = this.#sql.trim()
    this.#sql = ''
    this.#opening = ''
    this.#parentheses = 0
    this.#bodies = 0
    if (sql === '') return
    if (COPY_FROM_STDIN.test(sql)) yield { kind: 'statement', sql, copyData: this.#copyData() }
    else yield { kind: 'statement', sql }
  }

  /** From the next line to the one that is `\.`. */
  #copyData(): string {
    const start = Math.min(this.#lineEnd() + 1, this.#text.length)
    const end = /^\\\.[ \t\r]*$/m.exec(this.#text.slice(start))
    const length = end?.index ?? this.#text.length - start
    this.#at = start + length + (end?.[0].length ?? 0)
    return this.#text.slice(start, start + length)
  }

  *#command(): Generator<ScriptStep, void, void> {
    if (this.#text[this.#at + 1] === ';') {
      this.#sql += ';'
      this.#at += 2
      return
    }
    const name = this.#match(COMMAND)?.[1] ?? ''
    const start = this.#at + 1 + name.length
    const separator = this.#text.indexOf('\\\\', start)
    const end = separator >= 0 && separator < this.#lineEnd() ? separator : this.#lineEnd()
    const rest = this.#text.slice(start, end)
    this.#at = end === separator ? end + 2 : end
    if (SENDING.has(name)) {
      yield { kind: 'skipped', command: name }
      // Of `select ... \bind 1 \g` the statement is sent once.
      yield* this.#send()
    } else if (name === 'set') this.#set(rest)
    else if (name === 'unset') this.#variables.delete(rest.trim())
    else if (name === 'getenv') {
      const [variable = '', from = ''] = rest.trim().split(/\s+/)
      const value = this.#environment[from]
      if (value !== undefined) this.#variables.set(variable, value)
    } else if (name === 'c' || name === 'connect') {
      const [database = '-'] = this.#arguments(rest)
      yield { kind: 'connect', database: database === '-' || database === '' ? undefined : database }
    } else if (name === 'copy' && /\bfrom\s+stdin\b/i.test(rest)) {
      yield { kind: 'statement', sql: `copy ${rest.trim()}`, copyData: this.#copyData() }
    } else if (name === 'r' || name === 'reset') this.#sql = ''
    else yield { kind: 'skipped', command: name }
  }

  #set(rest: string): void {
    const [variable, ...values] = this.#arguments(rest)
    if (variable !== undefined) this.#variables.set(variable, values.join(''))
  }

  /** Words of a backslash command: quoted ones without their quotes, variables replaced. */
  #arguments(rest: string): string[] {
    const words = rest.match(/(?:'(?:[^']|'')*'|[^\s'])+/g) ?? []
    return words.map((word) =>
      word
        .replaceAll(/:'?([A-Za-z0-9_]+)'?/g, (all, name: string) => this.#variables.get(name) ?? all)
        .replaceAll(/'((?:[^']|'')*)'/g, (_, quoted: string) => quoted.replaceAll("''", "'")),
    )
  }
}
