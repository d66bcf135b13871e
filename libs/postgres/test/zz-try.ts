import { recordHistory, verifyHistory, formatCounts } from '/work/main/libs/postgres/test/verify-server.ts'
import { runRedoWorkload } from '/work/main/libs/postgres/test/redo-workload.ts'
const major = Number(process.argv[2] ?? 17) as 16|17|18
let t = Date.now()
await using h = await recordHistory({ major, dataChecksums: process.argv[3] === 'sum', workload: runRedoWorkload })
console.log('history', Date.now() - t, 'ms'); t = Date.now()
try {
const v = verifyHistory(h)
console.log(formatCounts(v), 'verify', Date.now() - t, 'ms')
console.log(v.differenceCount, v.differences)
} catch (e) { console.log(e) }
