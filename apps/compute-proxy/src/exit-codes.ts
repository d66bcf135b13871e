/** How a process of this app ends; numbers that supervisors and tests rely on. */
export const EXIT_STOPPED = 0
export const EXIT_FAILED = 1
export const EXIT_USAGE = 2
/** Another compute has the lead: starting again here would only fight it. */
export const EXIT_FENCED = 3
