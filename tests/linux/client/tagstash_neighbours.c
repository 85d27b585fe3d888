// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two threads whose pages are neighbours: the driver keeps the bits of both in one word. Each takes
 * a page's tags into use and lets the page go, over and over, and asks the shim each time whether
 * the claim is there, and gone. What it counts is in the kernel's log at the end of insmod.
 *
 * The pages are not given back to the kernel in between, since who would get them is anybody's
 * guess: the driver's hook is called as the kernel calls it when a page is freed.
 */
#define pr_fmt(fmt) "tagstash_neighbours: " fmt

#include <linux/completion.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/tracepoint.h>

#include "../../../boot/linux/calls.h"

/* Four runs of the driver's (claims.c), so at least a word whole, wherever words begin. */
#define RUN_PAGES	32
#define RUNS		4
#define THREADS		2

static unsigned int rounds = 100000;
module_param(rounds, uint, 0444);
MODULE_PARM_DESC(rounds, "how often each thread uses and frees a page");

struct neighbour {
	/* The first page of the first run; the other run is behind one of the other thread's. */
	unsigned long pfn;
	unsigned long lost;
	unsigned long left;
	/* It goes to its other run after so many rounds; not both threads at the same time. */
	unsigned int stay;
	struct completion done;
	struct task_struct *task;
};

static struct neighbour neighbours[THREADS];
static void (*clear_page_tags)(void *address);
static struct tracepoint *page_free;

static void match_page_free(struct tracepoint *tracepoint, void *found)
{
	if (!strcmp(tracepoint->name, "mm_page_free"))
		*(struct tracepoint **)found = tracepoint;
}

/* Calls whoever waits for the tracepoint, as the kernel does. */
static void say_freed(struct page *page)
{
	struct tracepoint_func *probe;

	preempt_disable_notrace();
	probe = rcu_dereference_raw(page_free->funcs);
	for (; probe && probe->func; probe++)
		((void (*)(void *, struct page *, unsigned int))probe->func)(probe->data, page, 0);
	preempt_enable_notrace();
}

static bool is_claimed(unsigned long pfn)
{
	struct arm_smccc_res res;

	return !tagstash_query(PFN_PHYS(pfn), &res) && (res.a1 & TAGSTASH_QUERY_CLAIMED);
}

static int use_and_free(void *data)
{
	struct neighbour *own = data;
	unsigned int round;

	for (round = 0; round < rounds; round++) {
		unsigned int run = round / own->stay % (RUNS / THREADS);
		unsigned long pfn = own->pfn + round % RUN_PAGES + run * THREADS * RUN_PAGES;

		clear_page_tags(page_address(pfn_to_page(pfn)));
		own->lost += !is_claimed(pfn);
		say_freed(pfn_to_page(pfn));
		own->left += is_claimed(pfn);
		cond_resched_tasks_rcu_qs();
	}
	complete(&own->done);
	/* Until somebody waits for the end, the module has to stay. */
	while (!kthread_should_stop())
		schedule_timeout_interruptible(HZ);
	return 0;
}

static int find(void)
{
	struct kprobe probe = { .symbol_name = "mte_clear_page_tags" };
	int error = register_kprobe(&probe);

	if (error)
		return error;
	clear_page_tags = (void *)probe.addr;
	unregister_kprobe(&probe);
	for_each_kernel_tracepoint(match_page_free, &page_free);
	return page_free ? 0 : -ENOENT;
}

static int __init tagstash_neighbours_init(void)
{
	unsigned int order = get_order((unsigned long)RUNS * RUN_PAGES << PAGE_SHIFT), i;
	struct page *pages;
	int error = find();

	if (error)
		return error;
	pages = alloc_pages(GFP_KERNEL, order);
	if (!pages)
		return -ENOMEM;
	for (i = 0; i < THREADS; i++) {
		struct neighbour *one = &neighbours[i];

		one->pfn = page_to_pfn(pages) + i * RUN_PAGES;
		one->stay = RUN_PAGES << i;
		init_completion(&one->done);
		one->task = kthread_run(use_and_free, one, "neighbour/%u", i);
		if (IS_ERR(one->task))
			error = PTR_ERR(one->task);
	}
	for (i = 0; i < THREADS; i++) {
		if (IS_ERR(neighbours[i].task))
			continue;
		wait_for_completion(&neighbours[i].done);
		kthread_stop(neighbours[i].task);
		pr_info("%u rounds: %lu claims lost, %lu left\n", rounds, neighbours[i].lost,
			neighbours[i].left);
	}
	__free_pages(pages, order);
	return error;
}

static void __exit tagstash_neighbours_exit(void)
{
}

module_init(tagstash_neighbours_init);
module_exit(tagstash_neighbours_exit);

MODULE_DESCRIPTION("Tests the Tagstash driver: two threads whose pages are neighbours");
MODULE_AUTHOR("The Tagstash authors");
MODULE_LICENSE("GPL");
