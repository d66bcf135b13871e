export type { Composition, Service } from './definition.ts'
export { COMMON, loopback } from './options.ts'
export { defineService } from './shell.ts'
