export { noArmedFaults } from './acceptor-node.ts'
export type {
  AcceptorAnswer,
  AcceptorNode,
  AcceptorSession,
  ArmedFaults,
  MakeNode,
  NodeHost,
  NodeStatus,
} from './acceptor-node.ts'
export { SimDisk } from './sim-disk.ts'
export type { DiskProcess, SimDiskHost } from './sim-disk.ts'
export { ToyAcceptor } from './toy-acceptor.ts'
export { fill, toyFormat } from './wal.ts'
export type { WalFormat } from './wal.ts'
export { World } from './world.ts'
export type { WorldOptions } from './world.ts'
export { FAULT_KINDS } from './counts.ts'
export { TRANSITIONS } from './coverage.ts'
export { runSchedule, shrink } from './outcome.ts'
export type { Outcome, ReplayOptions, Shrunk, Subject } from './outcome.ts'
export { figure8 } from './figure-8.ts'
export { exhaust } from './small-model.ts'
export type { Exhausted, ModelBounds } from './small-model.ts'
