/**
 * Deliberate faults in the rules, to show that the simulation finds them. A mutant is a piece of source text and what
 * stands there instead; it is put in place while the module loads, so the product's code knows nothing of it. A text
 * that is no longer there exactly once fails loudly.
 */
import { readFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'

export interface Replacement {
  /** From the root of the repository. */
  readonly file: string
  readonly text: string
  readonly by: string
}

export interface Mutant {
  readonly name: string
  /** The subject of the simulation that finds it. */
  readonly subject: string
  readonly replacements: readonly Replacement[]
}

/** The source of a file with the mutant's faults. */
export function mutate(source: string, file: string, { name, replacements }: Mutant): string {
  let mutated = source
  for (const { text, by } of replacements.filter((replacement) => replacement.file === file)) {
    if (mutated.split(text).length !== 2)
      throw new Error(`mutant "${name}": ${file} does not hold this text exactly once: ${text}`)
    mutated = mutated.replace(text, () => by)
  }
  return mutated
}

/** For all that this thread loads from now on. */
export function installMutant(root: string, mutant: Mutant): void {
  const byUrl = new Map(
    mutant.replacements.map(({ file }) => [pathToFileURL(`${root}/${file}`).href, file] as const),
  )
  // A text that is gone is reported even where the module is never loaded.
  for (const file of byUrl.values()) mutate(readFileSync(`${root}/${file}`, 'utf8'), file, mutant)
  registerHooks({
    load(url, context, nextLoad) {
      const file = byUrl.get(url)
      if (file === undefined) return nextLoad(url, context)
      const source = mutate(readFileSync(fileURLToPath(url), 'utf8'), file, mutant)
      return { format: 'module-typescript', source, shortCircuit: true }
    },
  })
}
