/** Faults put into the rules on purpose, one at a time: each must be found (`npm run simulate:mutants`). */
import type { Mutant, Replacement } from '@understory/simulation/mutation'

const acceptor = 'libs/consensus/src/acceptor.ts'
const election = 'libs/consensus/src/election.ts'
const replication = 'libs/consensus/src/replication.ts'
const membership = 'libs/consensus/src/membership.ts'
const history = 'libs/consensus/src/term-history.ts'
const link = 'libs/consensus/src/driver/member-link.ts'
const links = 'libs/consensus/src/driver/member-links.ts'
const driver = 'libs/consensus/src/driver/proposer-driver.ts'
const pulse = 'libs/consensus/src/driver/pulse.ts'
const outbox = 'libs/consensus/src/driver/wal-outbox.ts'
const sender = 'libs/consensus/src/driver/wal-sender.ts'
const runner = 'apps/safekeeper/src/timeline/acceptor-runner.ts'
const flush = 'apps/safekeeper/src/timeline/group-flush.ts'
const opening = 'apps/safekeeper/src/timeline/open-timeline.ts'
const files = 'apps/safekeeper/src/timeline/wal-files.ts'
const endOfWal = 'apps/safekeeper/src/timeline/end-of-wal.ts'
const controlFile = 'apps/safekeeper/src/timeline/control-file.ts'
const disk = 'libs/env/src/disk.ts'
const timelines = 'apps/safekeeper/src/timeline/timelines.ts'
const recovery = 'apps/safekeeper/src/recovery/recovery.ts'

const at = (file: string, text: string, by: string): Replacement => ({ file, text, by })
const mutant = (name: string, subject: string, ...replacements: Replacement[]): Mutant => ({
  name,
  subject,
  replacements,
})

export const MUTANTS: readonly Mutant[] = [
  // Votes and terms.
  mutant(
    'a vote is not persisted',
    'rules',
    at(
      acceptor,
      "    after = { ...after, control }\n    durable.push({ kind: 'persistControl', control })",
      '    after = { ...after, control }',
    ),
  ),
  mutant(
    'a vote is given twice in a term',
    'rules',
    at(acceptor, 'const voteGiven = term > control.term', 'const voteGiven = term >= control.term'),
  ),
  mutant(
    'a vote reports WAL that is not flushed',
    'rules',
    at(
      acceptor,
      'const durable = term >= control.term ? withoutUnflushed(state) : []\n  let after = durable.length === 0 ? state : { ...state, writeLsn: state.flushLsn }',
      'const durable: DurableEffect[] = []\n  let after = term < control.term ? state : { ...state, flushLsn: state.writeLsn }',
    ),
  ),
  mutant(
    'a vote reports terms beyond its log',
    'rules',
    at(
      acceptor,
      '  const { flushLsn, commitLsn } = after\n  const history = historyUpTo(control.history, flushLsn)',
      '  const { flushLsn, commitLsn } = after\n  const history = control.history',
    ),
    at(
      election,
      '    !isWellFormedHistory(history, draft.options.timelineStartLsn) ||\n    lastTermStart(history).startLsn > flushLsn',
      '    !isWellFormedHistory(history, draft.options.timelineStartLsn)',
    ),
  ),
  mutant(
    'WAL of an older term is taken',
    'rules',
    at(
      acceptor,
      'function onAppend(state: AcceptorState, message: AppendMessage): AcceptorStep {\n  const { control } = state\n  if (message.term < control.term) return reply(state, appended(state))\n  if (message.term > control.term || lastTermStart(control.history).term !== message.term) {',
      'function onAppend(state: AcceptorState, message: AppendMessage): AcceptorStep {\n  const { control } = state\n  if (message.term > control.term) {',
    ),
  ),
  mutant(
    'an announcement of an older term is taken',
    'rules',
    at(
      acceptor,
      '  if (message.term < control.term) return reply(state, appended(state))\n  const own',
      '  const own',
    ),
    at(
      acceptor,
      '    term: message.term,\n    history',
      '    term: Math.max(message.term, control.term),\n    history',
    ),
  ),
  mutant(
    'a proposer continues after a higher term',
    'rules',
    at(
      replication,
      '  if (reply.term > draft.term) return fence(draft, reply.term, effects)\n  if (draft.phase',
      '  if (draft.phase',
    ),
    at(
      replication,
      "peer.connection !== 'streaming' || reply.term !== draft.term) return",
      "peer.connection !== 'streaming') return",
    ),
    at(acceptor, 'const reported = isOfTerm ? flushLsn : (0 as Lsn)', 'const reported = flushLsn'),
  ),
  mutant(
    'the term asked for is not above every term of a quorum',
    'rules',
    at(election, 'draft.term = highest + 1', 'draft.term = Math.max(1, highest)'),
    at(election, '  if (!reply.voteGiven) return fence(draft, reply.term, effects)\n', ''),
  ),
  // Logs.
  mutant(
    'the longest log wins, with any last term',
    'rules',
    at(
      history,
      'return a.lastLogTerm - b.lastLogTerm || a.flushLsn - b.flushLsn',
      'return a.flushLsn - b.flushLsn',
    ),
  ),
  mutant(
    'the last term wins, with any length',
    'rules',
    at(
      history,
      'return a.lastLogTerm - b.lastLogTerm || a.flushLsn - b.flushLsn',
      'return a.lastLogTerm - b.lastLogTerm',
    ),
  ),
  mutant(
    'a log is cut below its commit position',
    'rules',
    at(acceptor, '  if (common < state.commitLsn) {', '  if (common < 0) {'),
  ),
  mutant(
    'a log is not cut where it leaves the elected one',
    'rules',
    at(history, 'return minLsn(acceptorEnd, proposerEnd)', 'return acceptorEnd'),
  ),
  mutant(
    'the history is recorded before the log is cut',
    'rules',
    at(acceptor, "  if (state.writeLsn > common) durable.push({ kind: 'truncateWal', toLsn: common })\n", ''),
    at(
      acceptor,
      "  durable.push({ kind: 'persistControl', control: newer })\n  const after: AcceptorState",
      "  durable.push({ kind: 'persistControl', control: newer })\n  if (state.writeLsn > common) durable.push({ kind: 'truncateWal', toLsn: common })\n  const after: AcceptorState",
    ),
  ),
  // Commit.
  mutant(
    'WAL is acknowledged before it is flushed',
    'rules',
    at(
      acceptor,
      "after: [{ kind: 'flush' }, ...committed(state, after)],",
      "after: [{ kind: 'flush' }, appended({ ...after, flushLsn: recordEndLsn > state.flushLsn ? recordEndLsn : state.flushLsn }), ...committed(state, after)],",
    ),
  ),
  mutant(
    'commit without covering the start of the term',
    'rules',
    at(
      replication,
      'if (quorumLsn <= draft.commitLsn || quorumLsn < draft.termStartLsn) return',
      'if (quorumLsn <= draft.commitLsn) return',
    ),
  ),
  mutant(
    'commit without covering the start of the term, by the schedule of figure 8',
    'figure 8',
    at(
      replication,
      'if (quorumLsn <= draft.commitLsn || quorumLsn < draft.termStartLsn) return',
      'if (quorumLsn <= draft.commitLsn) return',
    ),
  ),
  mutant(
    'an acceptor calls committed what it has not flushed',
    'rules',
    at(
      acceptor,
      'minLsn(state.announcedCommitLsn, state.flushLsn)',
      'minLsn(state.announcedCommitLsn, state.writeLsn)',
    ),
  ),
  mutant(
    'a log of another term counts for the commit',
    'rules',
    at(
      replication,
      '  peer.nextLsn = startStreamingLsn\n',
      '  peer.nextLsn = startStreamingLsn\n  peer.flushLsn = maxLsn(peer.flushLsn, vote.flushLsn)\n',
    ),
  ),
  mutant(
    'less than a majority is a quorum',
    'rules',
    at(membership, 'return count * 2 > members.length', 'return count * 2 + 1 >= members.length'),
  ),
  mutant(
    'less than a majority is a quorum, in the small model',
    'small model',
    at(membership, 'return count * 2 > members.length', 'return count * 2 + 1 >= members.length'),
  ),
  mutant(
    'only one copy of the control file is kept up',
    'safekeeper',
    at(
      controlFile,
      'for (const path of controlPaths(folder)) await disk.durableReplace(path, bytes)',
      'for (const path of controlPaths(folder))\n    if (!path.endsWith(".2") || !(await disk.stat(path))) await disk.durableReplace(path, bytes)',
    ),
  ),
  mutant(
    'what a crash left of a replacement stays, and its name comes again',
    'safekeeper',
    at(timelines, '    await disk.removeLeftovers(folder)\n', ''),
    at(disk, '[rng.u32(), rng.u32()].map', '[1, 0].map'),
  ),
  mutant(
    'a log that was cut keeps its flush position, where its control file had no room',
    'rules',
    at(
      acceptor,
      'return reply({ ...state, writeLsn: toLsn, flushLsn: minLsn(state.flushLsn, toLsn) })',
      'return reply({ ...state, writeLsn: maxLsn(toLsn, state.flushLsn) })',
    ),
  ),
  mutant(
    'WAL that was dropped counts as flushed',
    'rules',
    at(
      acceptor,
      'state: { ...state, writeLsn: flushLsn },\n    durable: [{',
      'state: { ...state, flushLsn: state.writeLsn },\n    durable: [{',
    ),
  ),
  mutant(
    'a commit position is recorded that is not flushed yet',
    'rules',
    at(
      acceptor,
      'const { control: older, commitLsn } = state\n',
      'const { control: older, announcedCommitLsn: commitLsn } = state\n',
    ),
  ),
  // Membership.
  mutant(
    'one majority is enough during a change',
    'rules',
    at(
      membership,
      'return isMajority(members, has) && (newMembers === undefined || isMajority(newMembers, has))',
      'return isMajority(newMembers ?? members, has)',
    ),
  ),
  mutant(
    'messages of an older membership are taken',
    'rules',
    at(
      acceptor,
      "if ('membershipGeneration' in input && input.membershipGeneration !== generation) {",
      "if ('membershipGeneration' in input && input.membershipGeneration > generation) {",
    ),
    at(
      election,
      '  if (reply.membershipGeneration > draft.options.membership.generation) {',
      '  if (reply.membershipGeneration < 0) {',
    ),
    at(driver, 'if (membershipGeneration <= this.#links.rules.generation)', 'if (membershipGeneration >= 0)'),
  ),
  mutant(
    'WAL that came by an older membership is acknowledged after a newer one',
    'safekeeper',
    at(
      acceptor,
      "const durable = withoutUnflushed(state)\n  durable.push({ kind: 'persistControl', control: newer })\n  return { state: { ...state, writeLsn: state.flushLsn, control: newer }",
      "const durable: DurableEffect[] = []\n  durable.push({ kind: 'persistControl', control: newer })\n  return { state: { ...state, control: newer }",
    ),
  ),
  mutant(
    'WAL that another vote of the term dropped is not missed',
    'safekeeper',
    at(
      acceptor,
      'if (wal.length === 0 ? beginLsn > state.writeLsn : beginLsn !== state.writeLsn) {',
      'if (wal.length !== 0 && beginLsn !== state.writeLsn) {',
    ),
  ),
  mutant(
    'a change is finished before the new members have the log',
    'rules',
    at(
      membership,
      'old.every((other) => compareLogs(found, other) >= 0 && found.term >= other.term)',
      'old.length >= 0',
    ),
  ),
  mutant(
    'a change is finished before the old members know of it',
    'rules',
    at(membership, 'if (old.length * 2 <= members.length) return undefined', ''),
  ),
  // Adoption.
  mutant(
    'a Postgres is adopted after another wrote',
    'rules',
    at(
      election,
      'if (draft.options.livingTerm === lastLogTerm) {',
      'if (draft.options.livingTerm !== undefined) {',
    ),
  ),
  // The driver's connections.
  mutant(
    'answers of a connection that was replaced are taken',
    'rules',
    at(link, 'this.#connection === connection', 'connection !== undefined'),
  ),
  mutant(
    'a connection that ended is not opened again',
    'rules',
    at(link, 'this.#open()\n    else this.#openLater()', 'this.#open()'),
  ),
  mutant(
    'the pause between connections never becomes short again',
    'rules',
    at(link, "    this.#failuresCount = 0\n    this.#lastProblem = ''", "    this.#lastProblem = ''"),
  ),
  mutant(
    'the pause between connections grows without limit',
    'rules',
    at(link, '{ baseMs, pauseMsMax })', '{ baseMs, pauseMsMax: pauseMsMax * 1e9 })'),
  ),
  mutant(
    'a connection from before a change of membership continues',
    'rules',
    at(
      link,
      'if (address === this.#address && generation === this.#generation) return',
      'if (address === this.#address) return',
    ),
    at(
      driver,
      'if (link === undefined || !link.hasAnswered) return',
      "if (link === undefined || link.nodeId !== '') return",
    ),
  ),
  mutant(
    'a connection without an answer is contact',
    'rules',
    at(
      link,
      '    this.#connection = connection\n  }',
      '    this.#connection = connection\n    this.lastContactMs = owner.clock.nowMs()\n  }',
    ),
  ),
  mutant(
    'a member that left is still spoken to',
    'rules',
    at(links, '      if (names.has(name)) continue\n', '      if (names.size > 0) continue\n'),
  ),
  mutant(
    'a member that joins is not connected to',
    'rules',
    at(
      links,
      'if (link === undefined) this.#links.set(',
      'if (this.#links.size < names.size - 1) this.#links.set(',
    ),
  ),
  mutant('connections outlive a lost lead', 'rules', at(driver, '    this.#links.end()\n', '')),
  // The driver's terms and memberships.
  mutant(
    'a term is asked for before it is remembered',
    'rules',
    at(driver, '    this.#options.rememberTerm(term)\n', ''),
  ),
  mutant(
    'a compute runs against its successor',
    'rules',
    at(
      driver,
      'if (this.#options.ownTerm !== undefined && term > this.#ownTerm)',
      'if (this.#options.ownTerm !== undefined && term < 0)',
    ),
  ),
  mutant(
    'the rules do not learn of a newer membership',
    'rules',
    at(
      driver,
      "    if (isNewer) this.#steps.feed({ kind: 'membership', membership: this.#links.rules })\n",
      '',
    ),
  ),
  mutant(
    'a membership that a safekeeper reports is ignored',
    'rules',
    at(
      driver,
      'if (newer !== undefined) return this.changeMembership(newer)',
      'if (newer !== undefined) return',
    ),
  ),
  mutant(
    'a lead without contact to a quorum is kept',
    'rules',
    at(
      driver,
      "    if (this.state.phase === 'leader' && !hasContact) this.#lose({ kind: 'noContact' })\n",
      '    void hasContact\n',
    ),
  ),
  mutant(
    'a fenced candidate waits for nothing',
    'rules',
    at(driver, "return this.#lose({ kind: 'fenced', term: effect.term })", 'return'),
  ),
  mutant(
    'commit is reported before the start of the term is covered',
    'rules',
    at(
      driver,
      '    this.#sender.begin(startLsn)\n',
      '    this.#sender.begin(startLsn)\n    this.#committed.advance(startLsn)\n',
    ),
  ),
  mutant(
    'heartbeats end after the first',
    'rules',
    at(
      pulse,
      '    if (!this.#isOver) this.#heartbeat = clock.setTimer(limits.heartbeatMs, this.#beat)\n',
      '    void clock\n    void limits\n',
    ),
  ),
  // The driver's WAL.
  mutant(
    'WAL is sent from the wrong position',
    'rules',
    at(
      outbox,
      'last !== undefined && last.startLsn === startLsn && last.endLsn === endLsn',
      'last !== undefined && last.endLsn === endLsn',
    ),
  ),
  mutant(
    'WAL that is handed in while some waits to be sent is forgotten',
    'rules',
    at(outbox, '    this.#isDeferred = false\n', ''),
  ),
  mutant(
    'any amount of WAL is taken',
    'rules',
    at(
      driver,
      'isBufferFull(this.state, this.#limits.bufferBytesMax))',
      'isBufferFull(this.state, Infinity))',
    ),
  ),
  mutant(
    'WAL that is trimmed too early is not sent',
    'rules',
    at(sender, '    this.#outbox?.trim(lsn)\n', '    this.#outbox?.trim(this.#outbox.endLsn)\n'),
  ),
  mutant(
    'a record end behind the end of an append is sent with it',
    'rules',
    at(
      sender,
      'found > effect.recordEndLsn && found <= endLsn ? found : effect.recordEndLsn',
      'outbox.recordEndLsn',
    ),
  ),
  mutant(
    'WAL that was fetched goes to the wrong position',
    'rules',
    at(sender, 'link.fetched = { startLsn, bytes: wal }', 'link.fetched ??= { startLsn, bytes: wal }'),
  ),
  mutant(
    'a read that failed is not tried again',
    'rules',
    at(sender, "return feed({ kind: 'fetchFailed', to })", 'return'),
  ),
  // The safekeeper's files.
  mutant(
    'a control file is replaced without a sync of its folder',
    'safekeeper',
    at(disk, '  await disk.syncDirectory(dirname(path))\n', ''),
  ),
  mutant(
    'a control file is not synced before it replaces the old one',
    'safekeeper',
    at(disk, '      await file.write(0, bytes)\n      await file.sync()', '      await file.write(0, bytes)'),
  ),
  mutant(
    'a position inside a record is reported',
    'safekeeper',
    at(
      flush,
      'return { flush: { startLsn, endLsn, recordEndLsn,',
      'return { flush: { startLsn, endLsn, recordEndLsn: recordEndLsn && endLsn,',
    ),
  ),
  mutant(
    'a flush that failed counts',
    'safekeeper',
    at(flush, '      onFailed(error, flush)\n      return this.#room.notify()\n', '      void onFailed\n'),
  ),
  mutant(
    'a flush from before a cut counts',
    'safekeeper',
    at(
      runner,
      'if (!this.#flush.isCurrent(flush) || this.#failure !== undefined) return',
      'if (this.#failure !== undefined) return',
    ),
  ),
  mutant(
    'a cut is not synced',
    'safekeeper',
    at(
      files,
      '    await writer.truncate(segmentBytes)\n    await writer.sync()',
      '    await writer.truncate(segmentBytes)',
    ),
  ),
  mutant(
    'the name of a new segment is not synced',
    'safekeeper',
    at(files, '    if (isNew) await this.#disk.syncDirectory(this.#folder)\n', '    void isNew\n'),
  ),
  mutant(
    'a log found at a start counts as synced',
    'safekeeper',
    at(
      opening,
      '  await rewriteTail(files, postgres, place, endLsn)\n',
      '  void place\n  void rewriteTail\n',
    ),
  ),
  mutant(
    'a log that ends before its commit position is opened',
    'safekeeper',
    at(endOfWal, 'throw damaged(found.reason ?? `it ends at ${formatLsn(found.endLsn)}`)', 'return found'),
    at(endOfWal, '  if (decoder.recordEndLsn !== endLsn) throw damaged()\n', ''),
    at(opening, '    endLsn >= commitLsn,\n', '    endLsn >= 0,\n'),
    at(
      opening,
      'restoreAcceptor(acceptor, endLsn)',
      'restoreAcceptor({ ...acceptor, commitLsn: endLsn < acceptor.commitLsn ? endLsn : acceptor.commitLsn }, endLsn)',
    ),
  ),
  mutant(
    'a torn record behind one that began in another segment passes for damage',
    'safekeeper',
    at(
      endOfWal,
      'if (found.lastRecordLsn !== undefined || startLsn <= timelineStartLsn)',
      'if (found.reason !== undefined || startLsn <= timelineStartLsn)',
    ),
  ),
  mutant(
    'the folders above a new timeline are not synced',
    'safekeeper',
    at(
      opening,
      '  await disk.syncDirectory(dirname(folder))\n  await disk.syncDirectory(dirname(dirname(folder)))\n',
      '  void dirname\n',
    ),
  ),
  mutant(
    'a flipped bit is written back at a start',
    'safekeeper',
    at(endOfWal, 'if (crc32c(wal, 0, wal.length) !== sums[index]) throw damaged()', 'void sums'),
  ),

  // Catching up.
  mutant(
    'a catch-up does not learn that its WAL was dropped',
    'safekeeper',
    at(runner, '          this.#parts.sessions.dropped(session)\n', ''),
  ),
  mutant(
    'a catch-up does not learn of a newer term',
    'safekeeper',
    at(recovery, '      if (term > this.#term)', '      if (term > this.#term && this.#isClosed)'),
  ),
]
