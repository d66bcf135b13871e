export { RedoVerifier } from './redo-verifier.ts'
