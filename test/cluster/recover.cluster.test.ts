/**
 * Goal: when the majority of the safekeepers is lost for good, the one that is left continues where an operator says
 * so, and nowhere else. Method: real processes under load; two safekeepers are killed and their folders deleted.
 */
import { rm } from 'node:fs/promises'
import { present } from '@understory/base'
import type { ClusterNode } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { loseCompute, runCli, startRoad } from './cluster-support.ts'

test('one safekeeper that is left continues by force, on an explicit request, with everything that it has', async () => {
  await using road = await startRoad()
  await road.loadTpcb()
  const [left, ...lost] = road.cluster.safekeepers
  const { nodeId } = present(left, 'safekeeper')
  const recoverFrom = (from: string, ...flags: string[]) =>
    runCli(road.cluster, 'safekeeper', 'recover', '--tenant', road.tenant, '--from', from, ...flags)
  const recover = (...flags: string[]) => recoverFrom(nodeId, ...flags)

  await road.underLoad(async (load) => {
    const early = await recover('--accept-lost-commits')
    expect(early.code).toBe(1)
    expect(early.stderr).toMatch(/a majority of the safekeepers answers: .*Replace the lost one/)

    for (const node of lost) await forget(node)
    const quiet = await recover()
    expect(quiet.code).toBe(1)
    expect(quiet.stderr).toMatch(/commits that "\S+" does not have would be lost\. .*gone for good/)
    const other = await recoverFrom(present(lost[0], 'node').nodeId, '--accept-lost-commits')
    expect(other.code).toBe(1)
    expect(other.stderr).toMatch(/does not answer, or its copy is damaged/)

    const done = await recover('--accept-lost-commits')
    expect({ code: done.code, stderr: done.code === 0 ? '' : done.stderr }).toEqual({ code: 0, stderr: '' })
    expect(done.stdout).toMatch(/by force/)
    expect(road.cluster.controlPlane.log()).toMatch(
      new RegExp(`"level":"error","event":"safekeepers_recovered_by_force".*"survivor":"${nodeId}"`),
    )
    await load.moreCommits(100)
  })
  const { safekeepers, generation } = await road.client.getSafekeepers(road.tenant)
  expect(generation).toBeGreaterThan(0)
  expect(safekeepers.filter(({ role }) => role === 'member').map(({ node }) => node)).toEqual([nodeId])

  // A compute is rebuilt from it, and an empty safekeeper joins it.
  await road.underLoad((load) => loseCompute(road, load))
  const newcomer = present(lost[0], 'node')
  await newcomer.start()
  const where = ['--tenant', road.tenant, '--node', newcomer.nodeId, '--timeout', '60']
  const added = await runCli(road.cluster, 'safekeeper', 'add', ...where)
  expect({ code: added.code, stderr: added.code === 0 ? '' : added.stderr }).toEqual({ code: 0, stderr: '' })
  await road.underLoad((load) => load.moreCommits(50))
  await road.expectVerified()
})

async function forget(node: ClusterNode): Promise<void> {
  await node.kill()
  await rm(node.dataDirectory, { recursive: true })
}
