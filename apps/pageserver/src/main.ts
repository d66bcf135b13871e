/** The pageserver. Exit codes: 0 stopped, 1 could not start, 2 wrong settings. */
import { runService } from '@understory/service/main'

await runService('pageserver', async () => (await import('./compose.ts')).PAGESERVER)
