/** The safekeeper. Exit codes: 0 stopped, 1 could not start, 2 wrong settings. */
import { runService } from '@understory/service/main'

await runService('safekeeper', async () => (await import('./compose.ts')).SAFEKEEPER)
