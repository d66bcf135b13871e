/**
 * Numbers of the WAL format, named as in Postgres. Source: access/xlogrecord.h, access/xlog_internal.h,
 * access/rmgrlist.h (16 to 18).
 */

export const XLOG_BLCKSZ = 8192
/** wal_segment_size, as initdb sets it by default. */
export const WAL_SEGMENT_BYTES = 16 * 1024 * 1024
export const WAL_SEGMENT_BYTES_MIN = 1024 * 1024
export const WAL_SEGMENT_BYTES_MAX = 1024 * 1024 * 1024

/** XLogRecordMaxSize */
export const RECORD_BYTES_MAX = 1020 * 1024 * 1024
/** SizeOfXLogRecord */
export const RECORD_HEADER_BYTES = 24
/** Where xl_crc lies in the record header: the CRC covers everything but this field. */
export const RECORD_CRC_OFFSET = 20

export const XLR_INFO_MASK = 0x0f
export const XLR_RMGR_INFO_MASK = 0xf0

export const XLR_MAX_BLOCK_ID = 32
export const XLR_BLOCK_ID_DATA_SHORT = 255
export const XLR_BLOCK_ID_DATA_LONG = 254
export const XLR_BLOCK_ID_ORIGIN = 253
export const XLR_BLOCK_ID_TOPLEVEL_XID = 252

export const BKPBLOCK_FORK_MASK = 0x0f
export const BKPBLOCK_HAS_IMAGE = 0x10
export const BKPBLOCK_HAS_DATA = 0x20
export const BKPBLOCK_WILL_INIT = 0x40
export const BKPBLOCK_SAME_REL = 0x80

export const BKPIMAGE_HAS_HOLE = 0x01
export const BKPIMAGE_APPLY = 0x02
export const BKPIMAGE_COMPRESS_PGLZ = 0x04
export const BKPIMAGE_COMPRESS_LZ4 = 0x08
export const BKPIMAGE_COMPRESS_ZSTD = 0x10

export const XLP_FIRST_IS_CONTRECORD = 0x0001
export const XLP_LONG_HEADER = 0x0002
export const XLP_FIRST_IS_OVERWRITE_CONTRECORD = 0x0008
export const XLP_ALL_FLAGS = 0x000f

export const RM_XLOG_ID = 0
export const RM_XACT_ID = 1
export const RM_SMGR_ID = 2
export const RM_CLOG_ID = 3
export const RM_DBASE_ID = 4
export const RM_TBLSPC_ID = 5
export const RM_MULTIXACT_ID = 6
export const RM_RELMAP_ID = 7
export const RM_STANDBY_ID = 8
export const RM_HEAP2_ID = 9
export const RM_HEAP_ID = 10
export const RM_BTREE_ID = 11
export const RM_HASH_ID = 12
export const RM_GIN_ID = 13
export const RM_GIST_ID = 14
export const RM_SEQ_ID = 15
export const RM_SPGIST_ID = 16
export const RM_BRIN_ID = 17
export const RM_COMMIT_TS_ID = 18
export const RM_REPLORIGIN_ID = 19
export const RM_GENERIC_ID = 20
export const RM_LOGICALMSG_ID = 21
/** RM_MAX_BUILTIN_ID */
export const RM_MAX_BUILTIN_ID = RM_LOGICALMSG_ID
/** RM_MIN_CUSTOM_ID: resource managers of extensions. */
export const RM_MIN_CUSTOM_ID = 128

/** xl_info of RM_XLOG_ID records. Source: catalog/pg_control.h */
export const XLOG_CHECKPOINT_SHUTDOWN = 0x00
export const XLOG_CHECKPOINT_ONLINE = 0x10
export const XLOG_NOOP = 0x20
export const XLOG_NEXTOID = 0x30
export const XLOG_SWITCH = 0x40
export const XLOG_BACKUP_END = 0x50
export const XLOG_PARAMETER_CHANGE = 0x60
export const XLOG_RESTORE_POINT = 0x70
export const XLOG_FPW_CHANGE = 0x80
export const XLOG_END_OF_RECOVERY = 0x90
export const XLOG_FPI_FOR_HINT = 0xa0
export const XLOG_FPI = 0xb0
export const XLOG_OVERWRITE_CONTRECORD = 0xd0
/** From 17 on. */
export const XLOG_CHECKPOINT_REDO = 0xe0
