/** The requests of a campaign to its threads, and their answers. */
export interface CampaignJob {
  /** A subject's name, or `mixed`: every fourth seed runs the safekeeper, the others the rules. */
  readonly subject: string
  readonly fromSeed: number
  readonly count: number
  readonly stopAtFailure: boolean
}

export interface CampaignReport {
  readonly schedulesBySubject: Readonly<Record<string, number>>
  readonly failures: readonly { readonly seed: number; readonly subject: string; readonly failure: string }[]
  /** Of each schedule. */
  readonly events: readonly number[]
  readonly faultsPlanned: readonly number[]
  readonly virtualMs: number
  readonly faults: Readonly<Record<string, number>>
  readonly transitions: Readonly<Record<string, number>>
  readonly others: Readonly<Record<string, number>>
}

export const subjectNameOf = (subject: string, seed: number): string =>
  subject === 'mixed' ? (seed % 4 === 0 ? 'safekeeper' : 'rules') : subject
