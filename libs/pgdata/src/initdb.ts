/** How the cluster of a new timeline is made, wherever `initdb` runs. */

/** Arguments of `initdb`, without its directory. No checksums: layers have their own. */
export const initdbArguments = (major: number): string[] => [
  '--username=postgres',
  '--auth=trust',
  '--encoding=UTF8',
  '--locale=C',
  '--no-sync',
  '--no-instructions',
  // On by default from 18 on.
  ...(major >= 18 ? ['--no-data-checksums'] : []),
]
