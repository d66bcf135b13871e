/** The driver's transport over gRPC: one Propose stream for each connection, ReadWal for what a member lags behind. */
import { BugError, isErrorCode, lsnFromBigint, lsnToBigint, fail } from '@understory/base'
import type { AppendMessage, ElectedMessage, VoteMessage } from '@understory/consensus'
import { everyMember } from '@understory/consensus/driver'
import type {
  Connection,
  ConnectionListener,
  Greeting,
  KnownMembership,
  Member,
  Route,
  Transport,
  WalRead,
  WalReadDone,
} from '@understory/consensus/driver'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { readHistory, readMembership, writeHistory, writeMembership } from '@understory/protocol'
import {
  ElectionKind as WireElectionKind,
  PROPOSE_VERSIONS,
  SafekeeperServiceClient,
  callServerStream,
  checkChosenVersion,
  createClient,
  openBidi,
} from '@understory/rpc'
import type { BidiStream, ClientContext, ProposeRequest, ProposeResponse, TimelineRef } from '@understory/rpc'

/** A read from a donor that sends nothing for so long has failed: another one is asked. */
const DONOR_SILENCE_MS_MAX = 20_000

/** As which each stream introduces itself. */
export interface ProposerIdentity {
  readonly timeline: TimelineRef
  readonly postgres: PostgresIdentity
  readonly nodeId: string
}

export const grpcTransport = (rpc: ClientContext, identity: ProposerIdentity): Transport => ({
  routeTo: (member) => new GrpcRoute(rpc, member, identity),
})

type Stream = BidiStream<ProposeRequest, ProposeResponse>

class GrpcRoute implements Route {
  readonly #identity: ProposerIdentity
  readonly #peer: string
  readonly #client: SafekeeperServiceClient

  constructor(rpc: ClientContext, { nodeId, address }: Member, identity: ProposerIdentity) {
    this.#identity = identity
    this.#peer = `safekeeper ${nodeId}`
    this.#client = createClient(rpc, SafekeeperServiceClient, address)
  }

  open(greeting: Greeting, listener: ConnectionListener): Connection {
    const stream = openBidi(this.#client.propose.bind(this.#client), { peer: this.#peer })
    void receive(stream, this.#greeting(greeting), this.#peer, listener)
    return new GrpcConnection(stream, listener)
  }

  #greeting({ membership, commitLsn }: Greeting): ProposeRequest {
    const value = {
      ...this.#identity,
      protocolVersion: PROPOSE_VERSIONS.min,
      protocolVersionMax: PROPOSE_VERSIONS.max,
      membershipGeneration: BigInt(membership.generation),
      membership: isNamed(membership) ? writeMembership(membership) : undefined,
      commitLsn: lsnToBigint(commitLsn),
    }
    return { message: { $case: 'greeting', value } }
  }

  readWal(read: WalRead, signal: AbortSignal, done: WalReadDone): void {
    this.#read(read, signal).then(done, (problem: unknown) => done(undefined, problem))
  }

  async #read({ term, startLsn, endLsn }: WalRead, signal: AbortSignal): Promise<Uint8Array> {
    const request = {
      timeline: this.#identity.timeline,
      startLsn: lsnToBigint(startLsn),
      endLsn: lsnToBigint(endLsn),
      term: BigInt(term),
    }
    const parts: Uint8Array[] = []
    const options = { signal, peer: this.#peer, silenceMsMax: DONOR_SILENCE_MS_MAX }
    for await (const { wal } of callServerStream(this.#client.readWal.bind(this.#client), request, options))
      parts.push(wal)
    return Buffer.concat(parts)
  }

  close(): void {
    this.#client.close()
  }
}

class GrpcConnection implements Connection {
  readonly #stream: Stream
  readonly #listener: ConnectionListener

  constructor(stream: Stream, listener: ConnectionListener) {
    this.#stream = stream
    this.#listener = listener
  }

  sendVote({ term }: VoteMessage): void {
    this.#stream.send({ message: { $case: 'vote', value: { term: BigInt(term) } } }).catch(ignoreCancelled)
  }

  sendElected({ term, startStreamingLsn, history, election }: ElectedMessage): void {
    const kind =
      election === 'adopt' ? WireElectionKind.ELECTION_KIND_ADOPT : WireElectionKind.ELECTION_KIND_REBUILD
    const value = {
      term: BigInt(term),
      startStreamingLsn: lsnToBigint(startStreamingLsn),
      termHistory: writeHistory(history),
      kind,
    }
    this.#stream.send({ message: { $case: 'elected', value } }).catch(ignoreCancelled)
  }

  sendAppend({ term, beginLsn, commitLsn, recordEndLsn, wal }: AppendMessage, traceparent: string): void {
    const value = {
      term: BigInt(term),
      beginLsn: lsnToBigint(beginLsn),
      commitLsn: lsnToBigint(commitLsn),
      recordEndLsn: lsnToBigint(recordEndLsn),
      // A view of the same bytes.
      wal: Buffer.from(wal.buffer, wal.byteOffset, wal.byteLength),
      traceparent: traceparent === '' ? undefined : traceparent,
    }
    const sent = this.#stream.send({ message: { $case: 'append', value } })
    if (wal.length === 0) sent.catch(ignoreCancelled)
    else sent.then(() => this.#listener.sent(wal.length), ignoreCancelled)
  }

  close(): void {
    this.#stream.cancel()
  }
}

/** Passes on what comes until the stream ends. A bug in what follows from a message ends the process. */
async function receive(
  stream: Stream,
  greeting: ProposeRequest,
  peer: string,
  listener: ConnectionListener,
): Promise<void> {
  let problem: unknown
  try {
    await stream.send(greeting)
    for await (const { message } of stream.messages) deliver(message, peer, listener)
  } catch (error) {
    if (error instanceof BugError) throw error
    problem = error
  }
  listener.closed(problem)
}

function deliver(message: ProposeResponse['message'], peer: string, listener: ConnectionListener): void {
  switch (message?.$case) {
    case 'greeting': {
      const { nodeId, term, membershipGeneration, membership, protocolVersion } = message.value
      checkChosenVersion('the proposer protocol', PROPOSE_VERSIONS, protocolVersion)
      return listener.greeted({
        nodeId,
        term: Number(term),
        membershipGeneration: Number(membershipGeneration),
        membership: membership === undefined ? undefined : readMembership(membership),
      })
    }
    case 'vote': {
      const { term, voteGiven, flushLsn, commitLsn, termHistory } = message.value
      return listener.voted({
        term: Number(term),
        voteGiven,
        flushLsn: lsnFromBigint(flushLsn),
        commitLsn: lsnFromBigint(commitLsn),
        history: readHistory(termHistory),
      })
    }
    case 'append': {
      const { term, flushLsn, commitLsn } = message.value
      return listener.appended({
        term: Number(term),
        flushLsn: lsnFromBigint(flushLsn),
        commitLsn: lsnFromBigint(commitLsn),
      })
    }
    default:
      throw fail('unsupported', `${peer} sent a message of an unknown kind`)
  }
}

/** Not where names are addresses only, of a membership that never changed. */
const isNamed = (known: KnownMembership): boolean =>
  everyMember(known).some(({ nodeId, address }) => nodeId !== address)

function ignoreCancelled(error: unknown): void {
  if (!isErrorCode(error, 'cancelled')) throw error
}
