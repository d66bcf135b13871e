export { MemoryCompute, MemoryComputeHost } from './compute.ts'
export { MemoryNodes } from './nodes.ts'
export { MemoryPageserver } from './pageserver.ts'
export { MemorySafekeeper } from './safekeeper.ts'
