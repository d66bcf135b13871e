/** An image thread that dies at the first jobs that any thread is given, as one that runs out of memory. */
import { workerData } from 'node:worker_threads'
import { serveJobs } from '@understory/env'
import { runPageJob } from '@understory/storage'
import type { ImageJobs } from '../src/images/image-protocol.ts'

const { deathsLeft } = workerData as { readonly deathsLeft: Int32Array }

serveJobs<ImageJobs>({
  image: ({ job, pagesCount, settings }) => {
    if (Atomics.sub(deathsLeft, 0, 1) > 0) process.exit(1)
    return { ...runPageJob(job, pagesCount, settings), tookMs: 0 }
  },
})
