/** How tests, benchmarks and demonstrations log in to the tenants that they make. */

/** Of the role postgres of those tenants. */
export const TENANT_PASSWORD = 'known-to-every-test'

/**
 * The connection string that the cluster gives, as node-postgres logs in with it: there `sslmode=require` does what it
 * does in libpq, encrypt without a look at the certificate, only with `uselibpqcompat`.
 */
export function tenantLogin(connectionString: string, password = TENANT_PASSWORD): string {
  const url = new URL(connectionString)
  url.password = password
  if (url.searchParams.has('sslmode')) url.searchParams.set('uselibpqcompat', 'true')
  return url.href
}
