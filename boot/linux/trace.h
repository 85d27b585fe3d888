/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints of the core. A client has its own for put and get, of which the core does not know.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM tagstash

#if !defined(TAGSTASH_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define TAGSTASH_TRACE_H

#include <linux/tracepoint.h>

/* Pages are the kernel's; claimed and released count the shim's, of 4 KiB. */
TRACE_EVENT(tagstash_claim,
	TP_PROTO(unsigned long pfn, unsigned long pages, u64 claimed, u64 ticks),
	TP_ARGS(pfn, pages, claimed, ticks),
	TP_STRUCT__entry(
		__field(unsigned long, pfn)
		__field(unsigned long, pages)
		__field(u64, claimed)
		__field(u64, ticks)
	),
	TP_fast_assign(
		__entry->pfn = pfn;
		__entry->pages = pages;
		__entry->claimed = claimed;
		__entry->ticks = ticks;
	),
	TP_printk("pfn=0x%lx pages=%lu claimed=%llu ticks=%llu",
		  __entry->pfn, __entry->pages, __entry->claimed, __entry->ticks)
);

TRACE_EVENT(tagstash_release,
	TP_PROTO(unsigned long pfn, unsigned long pages, u64 released),
	TP_ARGS(pfn, pages, released),
	TP_STRUCT__entry(
		__field(unsigned long, pfn)
		__field(unsigned long, pages)
		__field(u64, released)
	),
	TP_fast_assign(
		__entry->pfn = pfn;
		__entry->pages = pages;
		__entry->released = released;
	),
	TP_printk("pfn=0x%lx pages=%lu released=%llu", __entry->pfn, __entry->pages,
		  __entry->released)
);

#endif /* TAGSTASH_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
