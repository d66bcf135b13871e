export { RedoVerifier } from './redo-verifier.ts'
export type { Difference, FileCounts, TypeCounts, VerifyBase, VerifyOptions } from './redo-verifier.ts'
