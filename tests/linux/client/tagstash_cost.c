// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts what the driver costs Linux 5.10 with cleancache, in ticks of the generic timer: under
 * QEMU's -icount, on one CPU whose counter runs at 1 GHz, a tick is an instruction, the shim's
 * included.
 *
 * Parameter path= names a file on a filesystem with cleancache. Reading debugfs tagstash_cost
 * measures, and says of each case how often it came, and its least, median and most ticks. What two
 * readings of the counter cost is taken off. Interrupts are off in what is counted. Reading debugfs
 * tagstash_cma measures what it takes Linux to take single pages back that it has lent, from the
 * area that it keeps for devices; that sleeps, so interrupts are on, and are counted with it.
 *
 * Pages that tags are stored to are not in use, and no mapping knows them; the driver's hooks see
 * them all the same, and see them freed.
 */
#define pr_fmt(fmt) "tagstash_cost: " fmt

#include <linux/cleancache.h>
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/vmalloc.h>
#include <asm/arch_timer.h>

#include "../../../boot/linux/calls.h"

#define ROUNDS		1000
/* Claims are looked for until so many have dropped a page. */
#define CLAIMED_PAGES	8000
/* Half of the least area there is. */
#define CMA_PAGES	2000
/* The statistics of the shim that tell one kind of claim from another. */
#define STATISTIC_CLAIMS	9
#define STATISTIC_BLOCKS_TAKEN	13
#define STATISTIC_PAGES_DROPPED	14

static char *path = "";
module_param(path, charp, 0444);
MODULE_PARM_DESC(path, "a file on a filesystem with cleancache");

static struct dentry *file_made, *cma_file_made;
static struct file *file;
static u64 overhead;
static void (*clear_page_tags)(void *address);
/* Of include/linux/dma-map-ops.h; for modules, the kernel does not export them. */
static struct page *(*alloc_from_contiguous)(struct device *device, size_t count,
					     unsigned int order, bool no_warn);
static bool (*release_from_contiguous)(struct device *device, struct page *pages, int count);

/* Ticks of one case. */
struct samples {
	unsigned int count;
	u64 ticks[CLAIMED_PAGES];
};

static u64 ticks(void)
{
	u64 now;

	isb();
	now = read_sysreg(cntvct_el0);
	isb();
	return now;
}

static void add(struct samples *samples, u64 took)
{
	if (samples->count < CLAIMED_PAGES)
		samples->ticks[samples->count++] = took > overhead ? took - overhead : 0;
}

static int compare(const void *one, const void *other)
{
	u64 a = *(const u64 *)one, b = *(const u64 *)other;

	return a < b ? -1 : a > b;
}

/* Writes a case, and begins another. */
static void report(struct seq_file *out, const char *name, struct samples *samples)
{
	unsigned int count = samples->count;
	u64 *all = samples->ticks;

	sort(all, count, sizeof(*all), compare, NULL);
	if (count)
		seq_printf(out, "%s: %u %llu %llu %llu\n", name, count, all[0], all[count / 2],
			   all[count - 1]);
	else
		seq_printf(out, "%s: 0 0 0 0\n", name);
	samples->count = 0;
}

#define MEASURE(samples, statement)			\
do {							\
	unsigned long flags;				\
	u64 before, after;				\
							\
	local_irq_save(flags);				\
	before = ticks();				\
	statement;					\
	after = ticks();				\
	local_irq_restore(flags);			\
	add(samples, after - before);			\
} while (0)

static void measure_calls(struct seq_file *out, struct samples *samples)
{
	struct arm_smccc_res res;
	unsigned int i;

	overhead = 0;
	for (i = 0; i < ROUNDS; i++)
		MEASURE(samples, barrier());
	sort(samples->ticks, samples->count, sizeof(u64), compare, NULL);
	overhead = samples->ticks[samples->count / 2];
	samples->count = 0;
	for (i = 0; i < ROUNDS; i++)
		MEASURE(samples, tagstash_version(&res));
	report(out, "null hypercall", samples);
}

/* The page is locked and looks as if it were the file's, which it is not: no page cache has it. */
static void measure_cleancache(struct seq_file *out, struct samples *samples, struct page *page)
{
	struct address_space *mapping = file->f_mapping;
	/* Behind the end of any file, so that no page of it is met. */
	const pgoff_t nowhere = 1UL << 40;
	unsigned int i, hits = 0;

	lock_page(page);
	page->mapping = mapping;
	for (i = 0; i < ROUNDS; i++) {
		page->index = nowhere + i;
		MEASURE(samples, __cleancache_get_page(page));
	}
	report(out, "get that misses", samples);
	for (i = 0; i < ROUNDS; i++) {
		page->index = nowhere + i;
		MEASURE(samples, __cleancache_put_page(page));
	}
	report(out, "put", samples);
	for (i = ROUNDS / 2; i < ROUNDS; i++) {
		int got;

		page->index = nowhere + i;
		MEASURE(samples, got = __cleancache_get_page(page));
		if (got)
			samples->count--;
		else
			hits++;
	}
	report(out, "get that hits", samples);
	for (i = 0; i < ROUNDS / 2; i++) {
		page->index = nowhere + i;
		MEASURE(samples, __cleancache_invalidate_page(mapping, page));
	}
	report(out, "invalidate a page that is there", samples);
	for (i = 0; i < ROUNDS / 2; i++) {
		page->index = nowhere + i;
		MEASURE(samples, __cleancache_invalidate_page(mapping, page));
	}
	report(out, "invalidate a page that is not", samples);
	for (i = 0; i < ROUNDS; i++)
		MEASURE(samples, __cleancache_invalidate_inode(mapping));
	report(out, "invalidate a file", samples);
	page->mapping = NULL;
	unlock_page(page);
}

/*
 * Stores tags of fresh pages, by the kernel's own function, at which the driver has its hook; then
 * once more, and frees the pages. What kind a claim was is told by what the shim counted.
 */
static int measure_tags(struct seq_file *out, struct samples *dropped)
{
	struct samples *idle = vzalloc(sizeof(*idle)), *in_tags = vzalloc(sizeof(*in_tags));
	struct samples *unclaimed = vzalloc(sizeof(*unclaimed));
	struct page **pages = kvcalloc(CLAIMED_PAGES, sizeof(*pages), GFP_KERNEL);
	struct samples *kind;
	unsigned int i, count = 0;
	u64 before[3], after[3];
	int error = -ENOMEM;

	if (!idle || !in_tags || !unclaimed || !pages)
		goto out;
	while (count < CLAIMED_PAGES && dropped->count < ROUNDS) {
		/* Memory is full: most come out of the page cache. */
		pages[count] = alloc_page(GFP_KERNEL);
		if (!pages[count])
			break;
		tagstash_statistic(STATISTIC_PAGES_DROPPED, &before[0]);
		tagstash_statistic(STATISTIC_BLOCKS_TAKEN, &before[1]);
		tagstash_statistic(STATISTIC_CLAIMS, &before[2]);
		MEASURE(unclaimed, clear_page_tags(page_address(pages[count])));
		tagstash_statistic(STATISTIC_PAGES_DROPPED, &after[0]);
		tagstash_statistic(STATISTIC_BLOCKS_TAKEN, &after[1]);
		tagstash_statistic(STATISTIC_CLAIMS, &after[2]);
		count++;
		kind = after[0] > before[0] ? dropped : after[1] > before[1] ? idle :
		       after[2] > before[2] ? in_tags : unclaimed;
		if (kind != unclaimed && unclaimed->count)
			kind->ticks[kind->count++] = unclaimed->ticks[--unclaimed->count];
		cond_resched();
	}
	report(out, "tags of a page cleared, its block holds a cached page", dropped);
	report(out, "tags of a page cleared, its block is idle", idle);
	report(out, "tags of a page cleared, its block is in tags", in_tags);
	report(out, "tags of a page cleared, nothing is claimed", unclaimed);
	for (i = 0; i < count && i < ROUNDS; i++)
		MEASURE(in_tags, clear_page_tags(page_address(pages[i])));
	report(out, "tags of a page cleared again", in_tags);
	for (i = 0; i < count; i++)
		MEASURE(in_tags, __free_page(pages[i]));
	report(out, "page with tags freed", in_tags);
	error = 0;
out:
	vfree(idle);
	vfree(in_tags);
	vfree(unclaimed);
	kvfree(pages);
	return error;
}

/* What every page that is freed pays for the hook, though it has no claim. */
static void measure_free(struct seq_file *out, struct samples *samples)
{
	struct page *page;
	unsigned int i;

	for (i = 0; i < ROUNDS; i++) {
		page = alloc_page(GFP_KERNEL);
		if (page)
			MEASURE(samples, __free_page(page));
	}
	report(out, "page without tags freed", samples);
}

static int cost_show(struct seq_file *out, void *data)
{
	struct samples *samples = vzalloc(sizeof(*samples));
	struct page *page = alloc_page(GFP_KERNEL);
	int error = -ENOMEM;

	if (samples && page) {
		seq_printf(out, "ticks_per_second: %u\n", arch_timer_get_cntfrq());
		measure_calls(out, samples);
		measure_cleancache(out, samples, page);
		measure_free(out, samples);
		error = measure_tags(out, samples);
	}
	if (page)
		__free_page(page);
	vfree(samples);
	return error;
}
DEFINE_SHOW_ATTRIBUTE(cost);

/* The pages stay taken until all are, as they do for a device. */
static int cma_show(struct seq_file *out, void *data)
{
	struct samples *samples = vzalloc(sizeof(*samples));
	struct page **pages = kvcalloc(CMA_PAGES, sizeof(*pages), GFP_KERNEL);
	unsigned int i;
	int error = -ENOMEM;
	u64 before;

	if (!samples || !pages)
		goto out;
	for (i = 0; i < CMA_PAGES; i++) {
		before = ticks();
		pages[i] = alloc_from_contiguous(NULL, 1, 0, true);
		if (pages[i])
			add(samples, ticks() - before);
		cond_resched();
	}
	report(out, "page taken back by CMA", samples);
	for (i = 0; i < CMA_PAGES; i++)
		if (pages[i])
			release_from_contiguous(NULL, pages[i], 1);
	error = 0;
out:
	vfree(samples);
	kvfree(pages);
	return error;
}
DEFINE_SHOW_ATTRIBUTE(cma);

/* Finds a function of the kernel's that modules are not given; NULL: there is none. */
static void *find(const char *name)
{
	struct kprobe finder = { .symbol_name = name };
	int error = register_kprobe(&finder);

	if (error) {
		pr_err("the kernel has no %s (error %d)\n", name, error);
		return NULL;
	}
	unregister_kprobe(&finder);
	return finder.addr;
}

static int __init tagstash_cost_init(void)
{
	clear_page_tags = find("mte_clear_page_tags");
	alloc_from_contiguous = find("dma_alloc_from_contiguous");
	release_from_contiguous = find("dma_release_from_contiguous");
	if (!clear_page_tags || !alloc_from_contiguous || !release_from_contiguous)
		return -ENOENT;
	file = filp_open(path, O_RDONLY, 0);
	if (IS_ERR(file)) {
		pr_err("path=%s: error %ld\n", path, PTR_ERR(file));
		return PTR_ERR(file);
	}
	file_made = debugfs_create_file("tagstash_cost", 0400, NULL, NULL, &cost_fops);
	cma_file_made = debugfs_create_file("tagstash_cma", 0400, NULL, NULL, &cma_fops);
	return 0;
}

static void __exit tagstash_cost_exit(void)
{
	debugfs_remove(cma_file_made);
	debugfs_remove(file_made);
	filp_close(file, NULL);
}

module_init(tagstash_cost_init);
module_exit(tagstash_cost_exit);

MODULE_DESCRIPTION("Tagstash: counts what the driver costs");
MODULE_AUTHOR("The Tagstash authors");
MODULE_LICENSE("GPL");
