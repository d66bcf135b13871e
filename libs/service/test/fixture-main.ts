/** The fixture as a process. With FIXTURE_LOADS=never it is never loaded, as if that took long. */
import { runService } from '../src/main.ts'

await runService('fixture', async () => {
  process.stderr.write('{"event":"loading"}\n')
  if (process.env['FIXTURE_LOADS'] === 'never') await new Promise((resolve) => setTimeout(resolve, 3_600_000))
  return (await import('./fixture-service.ts')).FIXTURE
})
