/** How tests, benchmarks and demonstrations log in to the tenants that they make. */

/** Of the role postgres of those tenants. */
export const TENANT_PASSWORD = 'known-to-every-test'

/** The connection string that the cluster gives, as node-postgres logs in with it. */
export function tenantLogin(connectionString: string): string {
  const url = new URL(connectionString)
  url.password = TENANT_PASSWORD
  return url.href
}
