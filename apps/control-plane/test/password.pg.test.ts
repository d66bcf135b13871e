// Goal: Postgres takes the verifiers for verifiers: the password of one opens it, another does not. Method: every
// version.
import { realRng } from '@understory/env'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresMajor } from '@understory/testcontainers'
import pg from 'pg'
import { expect, test } from 'vitest'
import { newPassword } from '../src/reconcile/password.ts'

test.each<PostgresMajor>([16, 17, 18])('logins to Postgres %i by verifier', async (major) => {
  await using server = await startPostgres({
    major,
    hba: ['host all postgres 127.0.0.1/32 trust', 'host all all 127.0.0.1/32 scram-sha-256'],
  })
  const admin = await server.connect()
  const passwords = [
    { password: '', passwordVerifier: '' },
    { password: `chosen-'"\\$%-~`, passwordVerifier: '' },
  ].map((request) => {
    const made = newPassword(request, realRng)
    return { verifier: made.verifier, password: made.password || request.password }
  })
  for (const [i, { verifier }] of passwords.entries()) {
    await admin.query(`create role shop${i} login password '${verifier}'`)
    const { rows } = await admin.query('select rolpassword from pg_authid where rolname = $1', [`shop${i}`])
    expect(rows).toEqual([{ rolpassword: verifier }])
  }
  const login = async (user: string, password: string): Promise<unknown> => {
    const client = new pg.Client({
      host: '127.0.0.1',
      port: server.port,
      user,
      password,
      database: 'postgres',
    })
    try {
      await client.connect()
      return (await client.query<{ me: string }>('select current_user as me')).rows[0]?.me
    } catch (error) {
      return (error as { code?: string }).code
    } finally {
      await client.end()
    }
  }
  const [first, second] = passwords.map(({ password }) => password)
  expect(await login('shop0', first ?? '')).toBe('shop0')
  expect(await login('shop1', second ?? '')).toBe('shop1')
  expect(await login('shop0', second ?? '')).toBe('28P01')
  expect(await login('shop1', first ?? '')).toBe('28P01')
})
