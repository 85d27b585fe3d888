// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which pages hold a claim on their tag storage.
 *
 * The kernel's own mark (PG_mte_tagged) does not do for releases: hugetlb clears it before the page
 * is freed, and on some kernels it is set before the tags are in use. So there is a bitmap of our
 * own, a bit for each page of the kernel's. Two things hold of it while the stash is active:
 *
 *   (1) a bit that is set means that the page is claimed;
 *   (2) a page whose tags are in use has its bit set.
 *
 * Both changes of a bit, claim and release, are made together with their hypercall under a lock, so
 * no order of them on two CPUs leaves a bit set for a page that is not claimed. A set bit may be
 * believed without the lock: whoever asks is about to store tags of a page that it holds, and such
 * a page is not freed meanwhile, so its bit is not cleared.
 *
 * The mark says too much as well: kernels mark pages whose tags nobody has cleared (hooks.c). Once
 * all tags in use are claimed, a page that is newly claimed has none; if it is marked nevertheless,
 * the kernel will not clear it, and what its tags are then is what the stash had there. So they are
 * cleared here, under the lock, before the bit is set: nobody who believes in the bit has stored
 * any yet. That ends before the first hook is removed, since from then on tags are in use of pages
 * without a bit.
 *
 * The walk over all pages holds no page. It may find one tagged that is freed before it claims it;
 * then the page has a claim that it does not need, until it is freed the next time. That is the
 * harmless direction. The other one cannot be: release happens only where a page is being freed,
 * and a page that is being freed has no tags in use.
 *
 * A word of the bitmap is read, changed and written back, so all of its bits have one lock: with
 * two, a change of one page's bit could bring back another's that has just been cleared, and that
 * page would store its tags without a claim.
 *
 * The locks are raw and taken with interrupts off. Nothing is called under them but the hypervisor:
 * no probe of ours and no tracepoint is met there, so a handler that takes one cannot interrupt its
 * holder on the same CPU.
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/bitmap.h>
#include <linux/hash.h>
#include <linux/hugetlb.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/percpu.h>
#include <linux/printk.h>
#include <linux/rcupdate.h>
#include <linux/rmap.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <asm/arch_timer.h>
#include <asm/mte.h>

#include "core.h"
#include "trace.h"

/*
 * Pages of the kernel's that are dealt with at a time: neighbours, whose tags share a block, and
 * whose bits are in one word.
 */
#define RUN_PAGES	32UL
#define LOCK_SHIFT	6

/* Pages of 4 KiB in one of the kernel's. */
#define PARTS(pages)	((u64)(pages) << (PAGE_SHIFT - TAGSTASH_PAGE_SHIFT))

static raw_spinlock_t locks[1 << LOCK_SHIFT];
static unsigned long *claimed;
static unsigned long first_pfn, end_pfn;

/* While the shim voids all claims, a release of one that it has come to already is refused. */
static bool voiding;

/* All pages with tags in use have been claimed, so a page without a claim has none. */
static bool walked;

static DEFINE_PER_CPU(struct tagstash_counters, counters);

static unsigned long *word_of(unsigned long pfn)
{
	return &claimed[BIT_WORD(pfn - first_pfn)];
}

/* The bits of a run, or of a part of one, in its word. */
static unsigned long bits_of(unsigned long pfn, unsigned long pages)
{
	return GENMASK(pages - 1, 0) << ((pfn - first_pfn) % BITS_PER_LONG);
}

static raw_spinlock_t *lock_of(unsigned long pfn)
{
	return &locks[hash_long(BIT_WORD(pfn - first_pfn), LOCK_SHIFT)];
}

static u64 ticks_now(void)
{
	isb();
	return read_sysreg(cntvct_el0);
}

/* The end of the run that a page is in, or of what was asked for. */
static unsigned long run_end(unsigned long pfn, unsigned long end)
{
	return min(end, (pfn | (RUN_PAGES - 1)) + 1);
}

/*
 * Cuts a range down to what the bitmap has. Memory that was added after boot is not the shim's to
 * lend.
 */
static bool clip(unsigned long *pfn, unsigned long *end)
{
	if (*pfn >= first_pfn && *end <= end_pfn)
		return true;
	this_cpu_add(counters.foreign, *end - *pfn);
	*pfn = max(*pfn, first_pfn);
	*end = min(*end, end_pfn);
	return *pfn < *end;
}

static unsigned long flags_of(struct page *page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
	return READ_ONCE(page->flags.f);
#else
	return READ_ONCE(page->flags);
#endif
}

/* Whether the kernel has marked the page: it takes its tags for initialised. */
static bool is_marked(struct page *page)
{
	unsigned long flags = flags_of(page);

	/* Of memory that has no page, debugging kernels fill the descriptor with ones. */
	return flags != ~0UL && (flags & BIT(PG_mte_tagged));
}

/* Stores tag 0 to all of a page. The kernel's own function has a hook, which must not be met. */
static void clear_tags(struct page *page)
{
	void *to = page_address(page), *end = to + PAGE_SIZE;

	for (; to < end; to += 32)
		asm volatile(".arch armv8.5-a+memtag\n\tst2g %0, [%1]" : : "r" (0UL), "r" (to) :
			     "memory");
}

/* Clears the tags of those pages of a run that were not claimed before. */
static void clear_run(unsigned long pfn, unsigned long pages, unsigned long new,
		      enum tagstash_clear clear)
{
	for (; pages; pfn++, pages--)
		if ((new & bits_of(pfn, 1)) &&
		    (clear == TAGSTASH_CLEAR_ALL || is_marked(pfn_to_page(pfn))))
			clear_tags(pfn_to_page(pfn));
}

/* Claims a run under its lock; returns the pages of 4 KiB that were newly claimed. */
static u64 claim_run(unsigned long pfn, unsigned long pages, enum tagstash_clear clear)
{
	struct arm_smccc_res res;
	unsigned long flags, *word = word_of(pfn), bits = bits_of(pfn, pages);
	phys_addr_t address = PFN_PHYS(pfn);
	u64 left = PARTS(pages), taken = 0, before, took;
	unsigned long new;

	raw_spin_lock_irqsave(lock_of(pfn), flags);
	new = ~*word & bits;
	if (new) {
		before = ticks_now();
		while (left && !tagstash_reclaim(address, left, &res)) {
			taken += res.a2;
			left -= res.a1;
			address += res.a1 << TAGSTASH_PAGE_SHIFT;
		}
		took = ticks_now() - before;
		/* The only error that there is: it is not guest RAM, and nobody's to lend. */
		if (left) {
			this_cpu_add(counters.foreign, pages);
		} else {
			if (clear != TAGSTASH_CLEAR_NONE && READ_ONCE(walked))
				clear_run(pfn, pages, new, clear);
			/* Tags are cleared before the bit is seen by who does not take the lock. */
			smp_wmb();
			WRITE_ONCE(*word, *word | bits);
		}
		/*
		 * Of a single page, so that it says something about the shim and not about the
		 * range.
		 */
		if (pages == 1 && took > this_cpu_read(counters.worst))
			this_cpu_write(counters.worst, took);
	}
	raw_spin_unlock_irqrestore(lock_of(pfn), flags);
	if (new)
		trace_tagstash_claim(pfn, pages, taken, took);
	return taken;
}

/**
 * tagstash_claim_pages() - claims pages whose tags are about to be used
 * @pfn: page frame number of the first
 * @pages: how many
 * @clear: which tags are cleared of pages that had no claim. What had none has no tags in use,
 *	unless it was never active, or is dormant
 *
 * In any context. The caller holds the pages. When it returns, their tags may be stored.
 */
void tagstash_claim_pages(unsigned long pfn, unsigned long pages, enum tagstash_clear clear)
{
	unsigned long end = pfn + pages, next;

	if (!clip(&pfn, &end))
		return;
	for (; pfn < end; pfn = next) {
		next = run_end(pfn, end);
		if (!(~READ_ONCE(*word_of(pfn)) & bits_of(pfn, next - pfn))) {
			this_cpu_add(counters.held, next - pfn);
			continue;
		}
		this_cpu_add(counters.claims, claim_run(pfn, next - pfn, clear));
	}
	/* The bits were read before the tags are stored, and set after the claims were complete. */
	smp_mb();
}

/**
 * tagstash_release_pages() - gives back the claims of pages that are being freed
 * @pfn: page frame number of the first
 * @pages: how many
 *
 * In any context. Pages without a claim, which is most, cost a look at their bits.
 */
void tagstash_release_pages(unsigned long pfn, unsigned long pages)
{
	unsigned long end = pfn + pages, flags, next, *word;
	struct arm_smccc_res res;
	long status;

	if (pfn < first_pfn || end > end_pfn) {
		pfn = max(pfn, first_pfn);
		end = min(end, end_pfn);
	}
	while (pfn < end) {
		pfn = find_next_bit(claimed, end - first_pfn, pfn - first_pfn) + first_pfn;
		if (pfn >= end)
			return;
		word = word_of(pfn);
		raw_spin_lock_irqsave(lock_of(pfn), flags);
		/*
		 * Only what has a claim: a page without one would be refused, and counted. The
		 * first has: whoever frees it is the only one to clear its bit.
		 */
		next = pfn + 1;
		while (next < run_end(pfn, end) && (*word & bits_of(next, 1)))
			next++;
		status = tagstash_release(PFN_PHYS(pfn), PARTS(next - pfn), &res);
		WRITE_ONCE(*word, *word & ~bits_of(pfn, next - pfn));
		raw_spin_unlock_irqrestore(lock_of(pfn), flags);
		this_cpu_add(counters.releases, res.a2);
		if (status && !READ_ONCE(voiding))
			this_cpu_add(counters.refused, PARTS(next - pfn) - res.a2);
		trace_tagstash_release(pfn, next - pfn, res.a2);
		pfn = next;
	}
}

/* Whether a page's tags may be in use, or are about to be: somebody is at work on them. */
static bool is_tagged(struct page *page)
{
#ifdef PG_mte_lock
	unsigned long flags = flags_of(page);

	if (flags != ~0UL && (flags & BIT(PG_mte_lock)))
		return true;
#endif
	return is_marked(page);
}

/*
 * Visits each run of tagged pages: a page, or all of a hugetlb folio, which is marked
 * on its first page.
 */
typedef bool (*test_fn)(struct page *page);
typedef void (*visit_fn)(unsigned long pfn, unsigned long pages, void *data);

static void visit_tagged(test_fn test, visit_fn visit, void *data)
{
	unsigned long pfn;
	struct page *page;

	for (pfn = first_pfn; pfn < end_pfn; pfn++) {
		if (pfn % 4096 == 0)
			cond_resched();
		page = pfn_to_online_page(pfn);
		if (page && test(page))
			visit(pfn, PageHead(page) && PageHuge(page) ? compound_nr(page) : 1, data);
	}
	/*
	 * The tags of the page of zeros are cleared at boot, and not all kernels mark it. Programs
	 * may read them.
	 */
	if (!test(ZERO_PAGE(0)))
		visit(page_to_pfn(ZERO_PAGE(0)), 1, data);
}

static void claim_walked(unsigned long pfn, unsigned long pages, void *data)
{
	unsigned long end = pfn + pages, next;

	for (; pfn < end && clip(&pfn, &end); pfn = next) {
		next = run_end(pfn, end);
		this_cpu_add(counters.walked, claim_run(pfn, next - pfn, TAGSTASH_CLEAR_MARKED));
	}
}

/**
 * tagstash_claim_tagged() - claims all pages whose tags are in use already
 *
 * With the hooks in place, after every CPU and task has passed them. May sleep.
 */
void tagstash_claim_tagged(void)
{
	visit_tagged(is_tagged, claim_walked, NULL);
	WRITE_ONCE(walked, true);
	/* Nothing is lent before all CPUs see it. */
	smp_mb();
}

/*
 * Claims a page that is to be cleared if it is only marked. It is held meanwhile: debugging kernels
 * unmap what is freed.
 */
static void claim_held(unsigned long pfn, unsigned long pages, void *data)
{
	struct page *page = pfn_to_page(pfn), *head = compound_head(page);

	/* What is being freed is tagged by nobody. */
	while (get_page_unless_zero(head)) {
		if (compound_head(page) == head) {
			claim_walked(pfn, pages > 1 ? compound_nr(head) : 1, data);
			put_page(head);
			return;
		}
		/* It has been split meanwhile. */
		put_page(head);
		head = compound_head(page);
	}
}

/**
 * tagstash_claim_marked() - claims what is only marked, and clears its tags
 *
 * Before the storage is taken back: what the kernel takes for initialised is so, then, when nobody
 * looks after it any more. May sleep. Does nothing before tagstash_claim_tagged().
 */
void tagstash_claim_marked(void)
{
	if (walked)
		visit_tagged(is_marked, claim_held, NULL);
}

/**
 * tagstash_end_clearing() - clears no tags any more
 *
 * As soon as one hook is gone, or passed by, tags are in use of pages without a claim. Returns when
 * all other CPUs know. May sleep.
 */
void tagstash_end_clearing(void)
{
	WRITE_ONCE(walked, false);
	/* A kprobe's handler runs without preemption. */
	synchronize_rcu();
}

/**
 * tagstash_void_claims() - says that the shim is about to void all claims
 */
void tagstash_void_claims(void)
{
	WRITE_ONCE(voiding, true);
}

/**
 * tagstash_forget_claims() - forgets all claims, which the shim has voided
 *
 * Without hooks in place.
 */
void tagstash_forget_claims(void)
{
	if (claimed)
		bitmap_zero(claimed, end_pfn - first_pfn);
	/* Pairs with the acquire in is_missing(): it is dormant by now. */
	smp_store_release(&voiding, false);
}

static bool is_missing(unsigned long pfn)
{
	struct arm_smccc_res res;

	if (tagstash_query(PFN_PHYS(pfn), &res))
		return false;
	/*
	 * Where nothing is lent no page needs a claim. This is looked at after the answer, and in
	 * the reverse of the order in which it is changed.
	 */
	if (smp_load_acquire(&voiding) || !tagstash_is_active())
		return false;
	return (res.a1 & TAGSTASH_QUERY_HAS_STORAGE) && !(res.a1 & TAGSTASH_QUERY_CLAIMED);
}

/* Whether the page is marked, or is the page of zeros, which not all kernels mark. */
static bool needs_claim(unsigned long pfn)
{
	return pfn == page_to_pfn(ZERO_PAGE(0)) || is_marked(pfn_to_page(pfn));
}

/*
 * Whether a page is only marked: programs have it mapped, and none of them with tags. What nobody
 * maps is taken for tagged. So is everything on kernels before 5.18, where this is not looked into.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 18, 0)
struct mappings {
	/* Where the page is in its file, or in what anonymous memory has for one. */
	pgoff_t index;
	unsigned int all;
	unsigned int tagged;
};

static bool count_mapping(struct folio *folio, struct vm_area_struct *area, unsigned long address,
			  void *data)
{
	struct mappings *mappings = data;

	/* Other parts of a large folio may be mapped otherwise. */
	if (mappings->index - area->vm_pgoff >= vma_pages(area))
		return true;
	mappings->all++;
	if (area->vm_flags & VM_MTE)
		mappings->tagged++;
	return true;
}

static bool is_only_marked(struct page *page)
{
	typeof(rmap_walk) *walk = (void *)tagstash_find_symbol("rmap_walk");
	struct mappings mappings = {};
	struct rmap_walk_control control = {
		.arg = &mappings,
		.rmap_one = count_mapping,
		.anon_lock = (void *)tagstash_find_symbol("folio_lock_anon_vma_read"),
	};
	struct folio *folio = page_folio(page);

	if (!walk || !control.anon_lock || !folio_try_get(folio))
		return false;
	/* Of hugetlb the locks have another order; none of it is only marked. */
	if (folio_test_hugetlb(folio)) {
		folio_put(folio);
		return false;
	}
	folio_lock(folio);
	if (page_folio(page) == folio && is_marked(page)) {
		mappings.index = folio->index + folio_page_idx(folio, page);
		walk(folio, &control);
	}
	folio_unlock(folio);
	folio_put(folio);
	return mappings.all && !mappings.tagged;
}
#else
static bool is_only_marked(struct page *page)
{
	return false;
}
#endif

/*
 * A page may be marked a moment before its hook, or be looked at as it is freed. Who is in between
 * has got to the end of it when every task has passed a quiescent point; if the page still is as it
 * was, the claim is missing. Three times, as the page may have begun another life meanwhile.
 */
static void audit_page(unsigned long pfn, unsigned long pages, void *data)
{
	struct tagstash_audit *audit = data;
	unsigned long first = pfn;
	unsigned int looks;

	audit->tagged += pages;
	for (; pages; pfn++, pages--) {
		if (!is_missing(pfn))
			continue;
		if (is_only_marked(pfn_to_page(pfn))) {
			audit->idle_marks++;
			continue;
		}
		audit->late++;
		/* Where many are missing, the rest need not be waited for. */
		for (looks = audit->missing < 4 ? 0 : 3; looks < 3; looks++) {
			synchronize_rcu_tasks();
			/* The mark of a hugetlb folio is on its first page. */
			if (!is_missing(pfn) || !needs_claim(first))
				break;
		}
		if (looks == 3 && !audit->missing++)
			audit->first = pfn;
	}
}

/**
 * tagstash_audit_claims() - looks whether each tagged page has a claim
 * @audit: set to what was found
 *
 * Asks the shim about each, rather than the bitmap. While the stash is dormant none is missing. May
 * sleep.
 */
void tagstash_audit_claims(struct tagstash_audit *audit)
{
	memset(audit, 0, sizeof(*audit));
	if (!claimed)
		return;
	visit_tagged(is_marked, audit_page, audit);
	audit->claimed = bitmap_weight(claimed, end_pfn - first_pfn);
}

/**
 * tagstash_read_counters() - adds up the counters of all CPUs
 * @sum: set to the sums, and the largest of the worst
 */
void tagstash_read_counters(struct tagstash_counters *sum)
{
	unsigned int cpu;

	memset(sum, 0, sizeof(*sum));
	for_each_possible_cpu(cpu) {
		struct tagstash_counters *one = per_cpu_ptr(&counters, cpu);

		sum->claims += READ_ONCE(one->claims);
		sum->held += READ_ONCE(one->held);
		sum->walked += READ_ONCE(one->walked);
		sum->releases += READ_ONCE(one->releases);
		sum->refused += READ_ONCE(one->refused);
		sum->foreign += READ_ONCE(one->foreign);
		sum->worst = max(sum->worst, READ_ONCE(one->worst));
	}
}

/**
 * tagstash_clear_worst() - begins a new search for the worst claim
 */
void tagstash_clear_worst(void)
{
	unsigned int cpu;

	for_each_possible_cpu(cpu)
		WRITE_ONCE(per_cpu_ptr(&counters, cpu)->worst, 0);
}

/**
 * tagstash_claims_init() - makes the bitmap, over all memory that there is at load
 *
 * Return: 0 or -ENOMEM
 */
int tagstash_claims_init(void)
{
	unsigned int i;
	int node;

	for (i = 0; i < ARRAY_SIZE(locks); i++)
		raw_spin_lock_init(&locks[i]);
	if (!tagstash_uses_tags())
		return 0;
	first_pfn = ULONG_MAX;
	for_each_online_node(node) {
		const pg_data_t *memory = NODE_DATA(node);

		first_pfn = min(first_pfn, memory->node_start_pfn);
		end_pfn = max(end_pfn, memory->node_start_pfn + memory->node_spanned_pages);
	}
	/* So that no run, which begins at a multiple of its size, straddles two words. */
	BUILD_BUG_ON(BITS_PER_LONG % RUN_PAGES);
	first_pfn = round_down(first_pfn, RUN_PAGES);
	claimed = vzalloc(BITS_TO_LONGS(end_pfn - first_pfn) * sizeof(long));
	return claimed ? 0 : -ENOMEM;
}

/**
 * tagstash_claims_exit() - frees the bitmap
 */
void tagstash_claims_exit(void)
{
	vfree(claimed);
	claimed = NULL;
}
