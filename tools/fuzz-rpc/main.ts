/**
 * `npm run fuzz:rpc`: any bytes and changed messages to every RPC of a cluster of real processes.
 * Exit codes: 0 every promise kept, 1 a fault, 2 wrong flags.
 */
import { writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { describeError, isErrorCode } from '@understory/base'
import { parseOptions, text, wholeNumber } from '@understory/env'
import { createClient } from '@understory/sdk'
import { startCluster, temporaryDirectory } from '@understory/testcontainers'
import { FUZZ_ENVIRONMENT, FUZZ_TOKEN, fuzz } from './fuzz.ts'

const OPTIONS = {
  messages: { read: wholeNumber(1, 1_000_000_000), fallback: 100_000, placeholder: 'N', help: 'how many' },
  seed: {
    read: wholeNumber(0, 2_000_000),
    fallback: 1,
    placeholder: 'S',
    help: 'what the messages follow from',
  },
  json: { read: text, optional: true, placeholder: 'FILE', help: 'write the figures there as JSON' },
} as const

const TENANT = 'fuzzed'
const say = (line: string): void => void process.stderr.write(`${line}\n`)

async function main(): Promise<number> {
  const options = parseOptions('fuzz:rpc', OPTIONS, process.argv.slice(2), process.env)
  if (options.kind === 'help') {
    process.stdout.write(options.text)
    return 0
  }
  const { messages, seed, json } = options.values
  await using folder = await temporaryDirectory({ prefix: 'fuzz' })
  await using cluster = await startCluster({
    dataDirectory: join(folder.path, 'data'),
    environment: FUZZ_ENVIRONMENT,
  })
  using client = createClient({ endpoint: cluster.endpoint, token: FUZZ_TOKEN })
  await client.createTenant({ name: TENANT, settings: { shared_buffers: '32MB' } })
  await client.waitForSql(TENANT)
  const report = await fuzz({ cluster, client, tenant: TENANT, messages, seed, say })
  const { differing, pagesIndependent, pagesFromStorage } = await client.verifyTimeline(TENANT)
  const faults = [...report.faults, ...(differing > 0n ? [`${differing} pages differ from storage`] : [])]
  const { ends, memory, frames, hostile, watched, methods, seconds } = report
  const lines = [
    `${report.messages} messages, ${frames} broken frames and ${hostile} hostile calls to ${methods} RPCs in ${seconds.toFixed(0)} s, seed ${seed}`,
    `ends: ${Object.entries(ends)
      .map(([how, count]) => `${how} ${count}`)
      .join(', ')}`,
    `state compared around ${watched} refused calls, and of the tenant at work after every round`,
    ...Object.entries(memory).map(
      ([node, { beforeMib, afterMib }]) =>
        `${node}: ${beforeMib} MiB after the first round, ${afterMib} MiB in the end`,
    ),
    `${pagesIndependent + pagesFromStorage} pages verified, ${differing} differing`,
    ...faults.map((fault) => `FAULT: ${fault}`),
    faults.length === 0 ? 'every promise kept' : `${faults.length} faults`,
  ]
  process.stdout.write(`${lines.join('\n')}\n`)
  if (json !== undefined)
    await writeFile(resolve(json), `${JSON.stringify({ ...report, faults }, undefined, 2)}\n`)
  return faults.length === 0 ? 0 : 1
}

try {
  process.exitCode = await main()
} catch (error) {
  process.stderr.write(`understory fuzz:rpc: ${describeError(error)}\n`)
  if (error instanceof Error && !('code' in error)) process.stderr.write(`${error.stack}\n`)
  process.exitCode = isErrorCode(error, 'bad_argument') ? 2 : 1
}
