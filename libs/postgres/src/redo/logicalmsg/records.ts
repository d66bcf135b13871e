/**
 * RM_LOGICALMSG_ID: messages for logical decoding. No record registers a block.
 *
 * Source: replication/message.h (16, 17, 18 alike).
 */
export const XLOG_LOGICAL_MESSAGE = 0x00
