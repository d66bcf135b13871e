// Goal: what a server sends as an error cannot make a caller throw anything but an error of ours. Method: packed errors
// by hand.
import { UnderstoryError } from '@understory/base'
import { Metadata, status } from '@grpc/grpc-js'
import { expect, test } from 'vitest'
import { fromServiceError, toServiceError } from './status.ts'

function errorWith(packed: string): Error {
  const metadata = new Metadata()
  metadata.set('understory-error-bin', Buffer.from(packed))
  return Object.assign(new Error('remote'), { code: status.UNAVAILABLE, details: 'remote', metadata })
}

test.for([
  '',
  'null',
  '7',
  '"stale"',
  '{',
  '{"code":"constructor"}',
  '{"code":["stale"]}',
  '{"code":"__proto__"}',
  '{}',
])('a server that sends %s in place of an error of ours is one that is not reachable', (packed) => {
  const error = fromServiceError(errorWith(packed), 'server s')
  expect(error).toBeInstanceOf(UnderstoryError)
  expect(error).toMatchObject({ code: 'unavailable', message: 'server s is not reachable' })
})

test('details that are not text are left out', () => {
  const error = fromServiceError(errorWith('{"code":"stale","detail":{"a":1},"hint":"Wait."}'), 'server s')
  expect(error).toMatchObject({ code: 'stale', message: 'remote', detail: undefined, hint: 'Wait.' })
})

test('a bug of the server says nothing about itself', () => {
  expect(toServiceError(new TypeError('secret'))).toEqual({
    code: status.INTERNAL,
    details: 'internal error',
  })
})
