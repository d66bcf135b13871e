/** The data folder as it is given by the settings. */
import { isErrorCode, fail } from '@understory/base'

/** Says what to do about a data folder that cannot be used. */
export function explainDataFolder(error: unknown, dataDir: string): unknown {
  if (
    !isErrorCode(error, 'precondition') &&
    !isErrorCode(error, 'not_found') &&
    !isErrorCode(error, 'already_exists')
  )
    return error
  if (error.message.includes('is in use')) return error
  return fail('precondition', `data folder "${dataDir}" cannot be used: ${error.message}`, {
    ...(error.detail === undefined ? {} : { detail: error.detail }),
    hint: error.hint ?? 'Name a folder with --data-dir.',
    cause: error,
  })
}
