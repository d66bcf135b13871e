/** The key distributions of TPC-C: clause 2.1.6 (NURand) and 4.3.2.3 (last names). */
import type { Random } from '../random.ts'

export const DISTRICTS_PER_WAREHOUSE = 10
/** The standard's cardinalities (clause 1.2.1); tests load less. */
export const ITEMS_COUNT = 100_000
export const CUSTOMERS_PER_DISTRICT = 3_000

/**
 * The run's constant for last names must differ from the load's by 65 .. 119, but not 96 or 112 (clause
 * 2.1.6.1).
 */
const C_LAST_LOAD = 157
const C_LAST_RUN = 223
const C_CUSTOMER = 259
const C_ITEM = 7_911

const LAST_NAMES_MAX = 999
const SYLLABLES = ['BAR', 'OUGHT', 'ABLE', 'PRI', 'PRES', 'ESE', 'ANTI', 'CALLY', 'ATION', 'EING']
const LAST_NAMES = Array.from(
  { length: LAST_NAMES_MAX + 1 },
  (_, i) => `${SYLLABLES[Math.floor(i / 100)]}${SYLLABLES[Math.floor(i / 10) % 10]}${SYLLABLES[i % 10]}`,
)

function nuRand(random: Random, a: number, c: number, min: number, max: number): number {
  return (((random.between(0, a) | random.between(min, max)) + c) % (max - min + 1)) + min
}

export function drawCustomer(random: Random, customersCount: number): number {
  return nuRand(random, 1_023, C_CUSTOMER, 1, customersCount)
}

export function drawItem(random: Random, itemsCount: number): number {
  return nuRand(random, 8_191, C_ITEM, 1, itemsCount)
}

/** A last name that some customer of every district has. */
export function drawLastName(random: Random, customersCount: number): string {
  return LAST_NAMES[
    nuRand(random, 255, C_LAST_RUN, 0, Math.min(LAST_NAMES_MAX, customersCount - 1))
  ] as string
}

/** The last name to load for a customer: each name once, then by chance. */
export function loadedLastName(random: Random, customer: number): string {
  return LAST_NAMES[
    customer <= LAST_NAMES_MAX + 1 ? customer - 1 : nuRand(random, 255, C_LAST_LOAD, 0, LAST_NAMES_MAX)
  ] as string
}
