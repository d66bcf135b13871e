/**
 * How a process of this app ends; numbers that supervisors and tests rely on. 1, it failed, and 2, wrong settings, are
 * those of every service (libs/service).
 */
export const EXIT_STOPPED = 0
/** Another compute has the lead: starting again here would only fight it. */
export const EXIT_FENCED = 3
