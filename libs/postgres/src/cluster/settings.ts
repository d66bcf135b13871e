/** The settings that pg_control keeps because WAL depends on them: what XLOG_PARAMETER_CHANGE reports. */
import type { ParameterChange } from '../redo/xlog/redo.ts'

export type ClusterSettings = { -readonly [K in keyof ParameterChange]: ParameterChange[K] }
