/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints of the cleancache backend: what Linux put into the stash and asked of it.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM tagstash_cleancache

#if !defined(TAGSTASH_CLEANCACHE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define TAGSTASH_CLEANCACHE_TRACE_H

#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(tagstash_page,

	TP_PROTO(int pool, const u64 *object, u64 index, long status),

	TP_ARGS(pool, object, index, status),

	TP_STRUCT__entry(
		__field(u64, object0)
		__field(u64, object1)
		__field(u64, object2)
		__field(u64, index)
		__field(int, pool)
		__field(int, status)
	),

	TP_fast_assign(
		__entry->object0 = object[0];
		__entry->object1 = object[1];
		__entry->object2 = object[2];
		__entry->index = index;
		__entry->pool = pool;
		__entry->status = status;
	),

	/* Word 0 is mostly the inode's number. The status is the call's, 0: success. */
	TP_printk("pool=%d object=%#llx,%#llx,%#llx index=%llu status=%d",
		  __entry->pool, __entry->object0, __entry->object1, __entry->object2,
		  __entry->index, __entry->status)
);

/* A page was offered: status 0 if it was kept. */
DEFINE_EVENT(tagstash_page, tagstash_put,
	TP_PROTO(int pool, const u64 *object, u64 index, long status),
	TP_ARGS(pool, object, index, status)
);

/* A page was asked for: status 0 if it was there. */
DEFINE_EVENT(tagstash_page, tagstash_get,
	TP_PROTO(int pool, const u64 *object, u64 index, long status),
	TP_ARGS(pool, object, index, status)
);

#endif /* TAGSTASH_CLEANCACHE_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE cleancache_trace
#include <trace/define_trace.h>
