export { ensureBucket } from './bucket.ts'
export { s3ObjectStore } from './store.ts'
