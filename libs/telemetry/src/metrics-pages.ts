/** Pages in Prometheus's text format of several processes as one: each family once, with the samples of all. */

export const PROMETHEUS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
const FETCH_MS_MAX = 1_000

/** As `renderPrometheus` writes them: HELP and TYPE of a family come before its samples. */
export function mergePages(pages: readonly string[]): string {
  if (pages.length === 1) return pages[0] as string
  const families = new Map<string, { readonly head: string[]; readonly samples: string[] }>()
  for (const page of pages) {
    let family: { readonly head: string[]; readonly samples: string[] } | undefined
    for (const line of page.split('\n')) {
      if (line.startsWith('# HELP ')) {
        const name = line.split(' ', 3)[2] as string
        family = families.get(name)
        if (family === undefined) families.set(name, (family = { head: [line], samples: [] }))
      } else if (line.startsWith('# TYPE ')) {
        if (family?.head.length === 1) family.head.push(line)
      } else if (line !== '') family?.samples.push(line)
    }
  }
  const lines = [...families.values()].flatMap(({ head, samples }) => [...head, ...samples])
  return `${lines.join('\n')}\n`
}

/** Of processes on this machine; one that does not answer soon is left out. */
export async function fetchPages(ports: readonly number[]): Promise<string[]> {
  const pages = await Promise.allSettled(
    ports.map(async (port) => {
      const signal = AbortSignal.timeout(FETCH_MS_MAX)
      const response = await fetch(`http://127.0.0.1:${port}/metrics`, { signal })
      return response.ok ? response.text() : undefined
    }),
  )
  return pages.flatMap((page) =>
    page.status === 'fulfilled' && page.value !== undefined ? [page.value] : [],
  )
}
