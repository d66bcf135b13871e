/** The control plane. Exit codes: 0 stopped, 1 could not start or has lost the lead, 2 wrong settings. */
import { runService } from '@understory/service/main'

await runService('control-plane', async () => (await import('./compose.ts')).CONTROL_PLANE)
