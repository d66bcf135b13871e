/** The databases' knowledge of their relation files: names for people, kinds for masks. */
import type { PageKind } from '@understory/postgres/page'
import { DEFAULTTABLESPACE_OID, GLOBALTABLESPACE_OID, databasePath } from '@understory/postgres/cluster'
import type { VerifyOptions } from './options.ts'

export interface RelationFacts {
  /** `database.schema.name` */
  readonly name: string
  /** Undefined where only the pages themselves show it. */
  readonly kind: PageKind | undefined
  /** Of an index on bloom: `pg_class.reloptions`. */
  readonly bloomOptions: readonly string[] | undefined
}

export interface RelationPlace {
  readonly spcOid: number
  readonly dbOid: number
  readonly relNumber: number
}

const KIND_OF_METHOD: Readonly<Record<string, PageKind>> = {
  heap: 'heap',
  btree: 'btree',
  hash: 'hash',
  gin: 'gin',
  gist: 'gist',
  spgist: 'spgist',
  brin: 'brin',
}

const placeKey = ({ spcOid, dbOid, relNumber }: RelationPlace): string => `${spcOid}/${dbOid}/${relNumber}`

interface CatalogRow {
  readonly name: string
  readonly tablespace: number
  readonly shared: boolean
  readonly file: number | null
  readonly relkind: string
  readonly method: string | null
  readonly options: readonly string[] | null
}

const RELATIONS = `
  select c.oid::regclass::text as name, c.reltablespace::int8::float8 as tablespace, c.relisshared as shared,
         pg_relation_filenode(c.oid)::int8::float8 as file, c.relkind::text, a.amname::text as method,
         c.reloptions as options
    from pg_class c left join pg_am a on a.oid = c.relam
   where c.relkind in ('r', 'i', 't', 'm', 'S')`

export class Catalog {
  readonly #facts = new Map<string, RelationFacts>()
  readonly #major: VerifyOptions['major']

  private constructor(major: VerifyOptions['major']) {
    this.#major = major
  }

  /** Of every database that takes connections; the pages of others speak for themselves. */
  static async read({ connect, major }: VerifyOptions): Promise<Catalog> {
    const catalog = new Catalog(major)
    const first = await connect(undefined)
    try {
      const { rows } = await first.query<{ oid: number; name: string; space: number }>(
        'select oid::int8::float8 as oid, datname as name, dattablespace::int8::float8 as space from pg_database where datallowconn',
      )
      for (const { oid, name, space } of rows) await catalog.#readDatabase(connect, oid, name, space)
    } finally {
      await first.end()
    }
    return catalog
  }

  async #readDatabase(
    connect: VerifyOptions['connect'],
    dbOid: number,
    database: string,
    space: number,
  ): Promise<void> {
    const client = await connect(database)
    try {
      const { rows } = await client.query<CatalogRow>(RELATIONS)
      for (const { name, tablespace, shared, file, relkind, method, options } of rows) {
        if (file === null) continue
        const spcOid = shared ? GLOBALTABLESPACE_OID : tablespace || space || DEFAULTTABLESPACE_OID
        const kind = relkind === 'S' ? 'sequence' : KIND_OF_METHOD[method ?? '']
        this.#facts.set(placeKey({ spcOid, dbOid: shared ? 0 : dbOid, relNumber: file }), {
          name: `${database}.${name}`,
          kind,
          bloomOptions: method === 'bloom' ? (options ?? []) : undefined,
        })
      }
    } finally {
      await client.end()
    }
  }

  kindOf(place: RelationPlace): PageKind | undefined {
    return this.#facts.get(placeKey(place))?.kind
  }

  /** Of an index on bloom; undefined of anything else. */
  bloomOptionsOf(place: RelationPlace): readonly string[] | undefined {
    return this.#facts.get(placeKey(place))?.bloomOptions
  }

  /** For people: its name and where its file lies. */
  nameOf(place: RelationPlace): string {
    const file = `${databasePath(place.spcOid, place.dbOid, this.#major)}/${place.relNumber}`
    const name = this.#facts.get(placeKey(place))?.name
    return name === undefined ? `relation file ${file}` : `relation ${name} (${file})`
  }
}
