/** A proposer of one acceptor, for tests: sends what the test asks for and waits for the answers. */
import { BoundedQueue, lsnFromBigint, lsnToBigint, present } from '@understory/base'
import type { Lsn } from '@understory/base'
import { highestCommonPoint } from '@understory/consensus'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { readHistory, writeHistory } from '@understory/protocol'
import { ElectionKind, openBidi } from '@understory/rpc'
import type {
  AppendResponse,
  BidiStream,
  ProposeRequest,
  ProposeResponse,
  SafekeeperServiceClient,
  TimelineRef,
  VoteResponse,
} from '@understory/rpc'

type Message = NonNullable<ProposeRequest['message']>

export class SingleProposer {
  readonly #stream: BidiStream<ProposeRequest, ProposeResponse>
  readonly #answers = new BoundedQueue<ProposeResponse>(100_000)
  readonly #nodeId: string
  term = 0
  membershipGeneration = 0n
  flushLsn = 0 as Lsn
  commitLsn = 0 as Lsn

  constructor(client: SafekeeperServiceClient, nodeId = 'test') {
    this.#nodeId = nodeId
    const stream = openBidi<ProposeRequest, ProposeResponse>(client.propose.bind(client))
    this.#stream = stream
    void (async () => {
      for await (const answer of stream.messages) await this.#answers.push(answer)
      this.#answers.close()
    })().catch((error: unknown) => this.#answers.close(error))
  }

  async say(message: Message): Promise<void> {
    await this.#stream.send({ message })
  }

  async answer<K extends NonNullable<ProposeResponse['message']>['$case']>(
    kind: K,
  ): Promise<Extract<NonNullable<ProposeResponse['message']>, { $case: K }>['value']> {
    const answer = present((await this.#answers.shift())?.message, `answer of kind ${kind}`)
    if (answer.$case !== kind) throw new Error(`answer is of kind ${answer.$case}, not ${kind}`)
    return answer.value as never
  }

  async greet(ref: TimelineRef, identity: PostgresIdentity): Promise<bigint> {
    await this.say({
      $case: 'greeting',
      value: {
        protocolVersion: 1,
        protocolVersionMax: 0,
        timeline: ref,
        postgres: identity,
        nodeId: this.#nodeId,
        membershipGeneration: this.membershipGeneration,
        membership: undefined,
        commitLsn: 0n,
      },
    })
    return (await this.answer('greeting')).term
  }

  async vote(term: number): Promise<VoteResponse> {
    this.term = term
    await this.say({ $case: 'vote', value: { term: BigInt(term) } })
    return this.answer('vote')
  }

  /** Greets, votes and is elected: the log it leads with ends at `startLsn`, by default at the acceptor's own end. */
  async lead(ref: TimelineRef, identity: PostgresIdentity, term: number, startLsn?: Lsn): Promise<Lsn> {
    await this.greet(ref, identity)
    const vote = await this.vote(term)
    const flushLsn = lsnFromBigint(vote.flushLsn)
    const own = startLsn ?? flushLsn
    const before = readHistory(vote.termHistory)
    const history = [
      ...before.filter((entry) => entry.startLsn <= own && entry.term < term),
      { term, startLsn: own },
    ]
    const startStreamingLsn = highestCommonPoint(history, before, flushLsn)
    await this.say({
      $case: 'elected',
      value: {
        term: BigInt(term),
        startStreamingLsn: lsnToBigint(startStreamingLsn),
        termHistory: writeHistory(history),
        kind: ElectionKind.ELECTION_KIND_REBUILD,
      },
    })
    this.#note(await this.answer('append'))
    return startStreamingLsn
  }

  async append(beginLsn: Lsn, wal: Uint8Array, commitLsn: Lsn = this.commitLsn): Promise<void> {
    await this.say({
      $case: 'append',
      value: {
        term: BigInt(this.term),
        beginLsn: lsnToBigint(beginLsn),
        commitLsn: lsnToBigint(commitLsn),
        recordEndLsn: 0n,
        wal: Buffer.from(wal.buffer, wal.byteOffset, wal.byteLength),
      },
    })
  }

  /** Waits until everything up to `lsn` is flushed. */
  async flushed(lsn: Lsn): Promise<void> {
    while (this.flushLsn < lsn) this.#note(await this.answer('append'))
  }

  /** Announces to the acceptor that everything up to `lsn` is committed. */
  async commit(lsn: Lsn): Promise<void> {
    this.commitLsn = lsn
    await this.append(lsn, new Uint8Array(0), lsn)
    while (this.#note(await this.answer('append')) < lsn);
  }

  #note(response: AppendResponse): Lsn {
    this.flushLsn = lsnFromBigint(response.flushLsn)
    return lsnFromBigint(response.commitLsn)
  }

  /** The error with which the acceptor ended the stream. */
  async refusal(): Promise<unknown> {
    try {
      while ((await this.#answers.shift()) !== undefined);
    } catch (error) {
      return error
    }
    return undefined
  }

  close(): void {
    this.#stream.cancel()
  }
}
