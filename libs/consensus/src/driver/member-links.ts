/** The members that take part, and a link to each. */
import { isQuorum } from '../membership.ts'
import type { Membership } from '../membership.ts'
import { MemberLink } from './member-link.ts'
import type { LinkOwner } from './member-link.ts'
import { everyMember, rulesOf } from './membership.ts'
import type { KnownMembership } from './membership.ts'
import type { Connection } from './transport.ts'

export class MemberLinks {
  readonly #owner: LinkOwner
  readonly #links = new Map<string, MemberLink>()
  #known: KnownMembership
  #rules: Membership

  /** Opens nothing by itself. */
  constructor(known: KnownMembership, owner: LinkOwner) {
    this.#owner = owner
    this.#known = known
    this.#rules = rulesOf(known)
  }

  get known(): KnownMembership {
    return this.#known
  }
  get rules(): Membership {
    return this.#rules
  }
  get names(): readonly string[] {
    return everyMember(this.#known).map(({ nodeId }) => nodeId)
  }
  get(name: string): MemberLink | undefined {
    return this.#links.get(name)
  }
  connection(name: string): Connection | undefined {
    return this.#links.get(name)?.connection
  }

  /** From now on `known` counts. The links stay as they are until `link`. */
  replace(known: KnownMembership): void {
    this.#known = known
    this.#rules = rulesOf(known)
  }

  /** Links to every member and to no other node, each at its address and greeted under the membership of now. */
  link(): void {
    const members = everyMember(this.#known)
    const names = new Set(this.names)
    for (const [name, link] of this.#links) {
      if (names.has(name)) continue
      this.#links.delete(name)
      link.end()
    }
    for (const member of members) {
      const link = this.#links.get(member.nodeId)
      if (link === undefined) this.#links.set(member.nodeId, new MemberLink(member, this.#owner))
      else link.renew(member.address, this.#rules.generation)
    }
  }

  /** Whether messages of a quorum came since then. */
  hasContact(sinceMs: number): boolean {
    return isQuorum(this.#rules, (name) => (this.#links.get(name)?.lastContactMs ?? -Infinity) >= sinceMs)
  }

  end(): void {
    for (const link of this.#links.values()) link.end()
    this.#links.clear()
  }
}
