/** The thread that makes images: pages in, pages out. */
import { Transferred, serveJobs } from '@understory/env'
import type { JobHandlers } from '@understory/env'
import { runPageJob } from '@understory/storage'
import type { ImageJobs } from './image-protocol.ts'

export const imageHandlers: JobHandlers<ImageJobs> = {
  image: ({ job, pagesCount, settings }) => {
    const startMs = performance.now()
    const result = runPageJob(job, pagesCount, settings)
    return new Transferred({ ...result, tookMs: performance.now() - startMs }, [result.pages])
  },
}

serveJobs<ImageJobs>(imageHandlers)
