export { localObjectStore } from './local/store.ts'
export { memoryObjectStore } from './memory/store.ts'
export { observeStore } from './observed.ts'
export type { StoreObserver, StoreOperation } from './observed.ts'
export { openObjectStore } from './open.ts'
export type { OpenOptions } from './open.ts'
export { probeConditionalPut } from './probe.ts'
export type { S3Credentials, S3StoreOptions } from './s3/calls.ts'
export { CONDITIONAL_PUT_BYTES_MAX, checkKey, getIfPresent } from './store.ts'
export type {
  CallOptions,
  ConditionalPut,
  ListedObject,
  ObjectHead,
  ObjectStore,
  StoredObject,
} from './store.ts'
