/** Serves `/metrics`. A page that cannot be made is answered with 503; the service itself hears nothing of it. */
import { createServer } from 'node:http'
import { describeError, fail } from '@understory/base'

export interface MetricsServer {
  readonly port: number
  stop(): Promise<void>
}

/** Errors: `precondition` when the port is taken. */
export async function serveMetrics(
  { host, port }: { readonly host: string; readonly port: number },
  contentType: string,
  render: () => Promise<string>,
): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    if (request.url?.split('?')[0] !== '/metrics') {
      response.writeHead(404).end('see /metrics\n')
      return
    }
    render().then(
      (page) => response.writeHead(200, { 'content-type': contentType }).end(page),
      (error: unknown) => response.writeHead(503).end(`${describeError(error)}\n`),
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        fail('precondition', `could not listen on ${host}:${port}`, {
          cause,
          hint: 'Choose another port, or stop what is using this one.',
        }),
      ),
    )
    server.listen(port, host, resolve)
  })
  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : port,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
