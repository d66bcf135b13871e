/** Source: access/rmgrdesc/genericdesc.c, generic_identify (16, 17, 18 alike). */
export const identifyGeneric = (): string => 'Generic'
