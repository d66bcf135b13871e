/** The subjects that can be simulated. */
import { ToyAcceptor, toyFormat } from '@understory/simulation'
import type { Subject } from '@understory/simulation'
import { postgresFormat } from './postgres-wal.ts'
import { SafekeeperNode } from './safekeeper-node.ts'

export const SUBJECTS: readonly Subject[] = [
  {
    name: 'rules',
    makeNode: (name, host) => new ToyAcceptor(name, host),
    format: toyFormat,
    recordBytesMax: 60,
    faultsMs: 1_500,
  },
  {
    name: 'safekeeper',
    makeNode: (name, host) => new SafekeeperNode(name, host),
    format: postgresFormat,
    recordBytesMax: 900,
    faultsMs: 1_500,
  },
]

export function subjectOf(name: string): Subject {
  const found = SUBJECTS.find((subject) => subject.name === name)
  if (found === undefined)
    throw new Error(
      `there is nothing called "${name}" to simulate: ${SUBJECTS.map((each) => each.name).join(', ')}`,
    )
  return found
}
