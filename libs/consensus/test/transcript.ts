/**
 * Plays the commands of a transcript on state machines and writes down what they do. A block of a transcript is one or
 * more commands, a line `----`, and what came of them; lines that begin with `#` are kept.
 *
 *     acceptors a b c                      new ones
 *     proposer p members=a,b,c [living=N]  a new one; `living` is the term under which its Postgres was streamed
 *     connect p a b                        greetings, answered
 *     stabilize [p a b]                    delivers messages and flushes until there are none, or those between the
 *                                          named ones
 *     wal p 100 [record=80]                so many more bytes, with the last record end in them
 *     compared p equal|different           answers `compare`
 *     disconnect p a                       what is under way between them is lost
 *     crash a                              restarts from what is durable
 *     full a [skip=1]                      its next flush or control file finds no room, or the one after so many
 *     membership p generation=1 members=a,b [new=b,c]
 *     heartbeat p | news p | state [a p]
 */
import { lsn } from '@understory/base'
import { createProposer, initialControl, restoreAcceptor } from '../src/index.ts'
import type { Membership } from '../src/index.ts'
import { Machines, START } from './machines.ts'

export class Transcript {
  readonly #machines = new Machines((line) => void this.#lines.push(line))
  #lines: string[] = []

  /** The text of the transcript with what comes of its commands now. */
  static replay(text: string): string {
    const transcript = new Transcript()
    const blocks = text.trimEnd().split('\n\n')
    return `${blocks.map((block) => transcript.#block(block)).join('\n\n')}\n`
  }

  #block(block: string): string {
    const lines = block.split('\n')
    const end = lines.indexOf('----')
    const head = end === -1 ? lines : lines.slice(0, end)
    const commands = head.filter((line) => !line.startsWith('#'))
    if (commands.length === 0) return block
    this.#lines = []
    for (const command of commands) this.#command(command)
    return [...head, '----', ...this.#lines].join('\n')
  }

  #command(line: string): void {
    const [verb = '', ...rest] = line.split(/\s+/)
    const words = rest.filter((word) => !word.includes('='))
    const options = new Map(
      rest.filter((word) => word.includes('=')).map((word) => word.split('=') as [string, string]),
    )
    const [name = '', second = ''] = words
    switch (verb) {
      case 'acceptors':
        for (const acceptor of words)
          this.#machines.restart(acceptor, restoreAcceptor(initialControl(START), START))
        return
      case 'proposer': {
        const living = options.get('living')
        const livingTerm = living === undefined ? undefined : Number(living)
        const membership = readMembership(options)
        this.#machines.addProposer(name, createProposer({ membership, timelineStartLsn: START, livingTerm }))
        return
      }
      case 'connect':
        for (const acceptor of words.slice(1)) this.#machines.greet(name, acceptor)
        return
      case 'stabilize':
        return this.#machines.stabilize(words)
      case 'wal': {
        const { bufferEndLsn } = this.#machines.proposer(name)
        const endLsn = lsn(bufferEndLsn + Number(second))
        const recordEndLsn = lsn(Number(options.get('record') ?? endLsn))
        return this.#machines.propose(name, { kind: 'wal', endLsn, recordEndLsn })
      }
      case 'compared':
        return this.#machines.propose(name, { kind: 'localWalCompared', isEqual: second === 'equal' })
      case 'disconnect':
        return this.#machines.disconnect(name, second)
      case 'crash':
        return this.#machines.crash(name)
      case 'full':
        this.#machines.acceptor(name).roomCount = Number(options.get('skip') ?? 0)
        return
      case 'membership':
        return this.#machines.propose(name, { kind: 'membership', membership: readMembership(options) })
      case 'heartbeat':
        return this.#machines.propose(name, { kind: 'heartbeat' })
      case 'news':
        return this.#machines.propose(name, { kind: 'news' })
      case 'state':
        for (const each of words.length > 0 ? words : this.#machines.names)
          this.#machines.say(this.#machines.describe(each))
        return
      default:
        throw new Error(`a transcript has no command "${verb}"`)
    }
  }
}

function readMembership(options: ReadonlyMap<string, string>): Membership {
  const list = (text: string | undefined): string[] => text?.split(',') ?? []
  const members = list(options.get('members'))
  const generation = Number(options.get('generation') ?? 0)
  return options.has('new')
    ? { generation, members, newMembers: list(options.get('new')) }
    : { generation, members }
}
