/** Jobs of the threads that make images. */
import type { RedoSettings } from '@understory/postgres/redo'
import type { PageJobResult } from '@understory/storage'

export interface ImageJobs {
  readonly image: {
    readonly request: {
      readonly job: ArrayBuffer
      readonly pagesCount: number
      readonly settings: RedoSettings
    }
    readonly response: PageJobResult & { readonly tookMs: number }
  }
}
