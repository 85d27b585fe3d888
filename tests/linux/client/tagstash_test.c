// SPDX-License-Identifier: GPL-2.0-only
/*
 * A client that puts pages of known contents and gets them again, from many threads, and checks
 * every answer.
 *
 * Each thread has objects of its own, so it knows exactly what each of its keys may give: the
 * newest version that it has put and that was kept, or a miss; never another version or key, never
 * anything after a get that hit (the pool is private), a get that missed, a put that was refused or
 * a flush. A wrong word, or a hit where there can be none, is a mismatch. The contents are computed
 * from key and version, so nothing but the version is remembered.
 *
 * Results are in debugfs, tagstash/clients. The threads run while the stash is active.
 */
#define pr_fmt(fmt) "tagstash_test: " fmt

#include <linux/atomic.h>
#include <linux/gfp.h>
#include <linux/irqflags.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "calls.h"
#include "tagstash.h"

static unsigned int threads = 4;
module_param(threads, uint, 0444);
MODULE_PARM_DESC(threads, "how many threads (default 4)");

static unsigned int fill = 60;
module_param(fill, uint, 0444);
MODULE_PARM_DESC(fill, "keys there are, in percent of the stash's frames (default 60)");

static ulong seed = 1;
module_param(seed, ulong, 0444);
MODULE_PARM_DESC(seed, "what the threads' choices begin with (default 1)");

#define RUN_ORDER	3
#define RUN_PAGES	((unsigned int)BIT(RUN_ORDER))
/* Pages of 4 KiB in an object. */
#define OBJECT_PAGES	64
#define WORDS		(TAGSTASH_PAGE_SIZE / sizeof(u64))

struct worker {
	struct task_struct *task;
	unsigned int number;
	u64 random;
	u64 version;
	u32 objects;
	/* The version that each key has in the stash at most, 0 for none. */
	u64 *versions;
	struct page *buffer;
};

static struct worker *workers;
static u64 pool;
static bool running;

static atomic64_t puts, kept, gets, hits, flushes, mismatches, errors;

static u64 mix(u64 value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ULL;
	value = (value ^ value >> 27) * 0x94d049bb133111ebULL;
	return value ^ value >> 31;
}

static u64 next_random(struct worker *worker)
{
	worker->random += 0x9e3779b97f4a7c15ULL;
	return mix(worker->random);
}

/* A page's first word; the others follow from it. */
static u64 first_word(struct worker *worker, u32 object, u32 index, u64 version)
{
	return mix(mix((u64)worker->number << 32 | object) + index) + mix(version);
}

static void write_page(u64 *words, u64 word)
{
	unsigned int i;

	for (i = 0; i < WORDS; i++)
		words[i] = word + i * 0x9e3779b97f4a7c15ULL;
}

static bool is_page(const u64 *words, u64 word)
{
	unsigned int i;

	for (i = 0; i < WORDS; i++)
		if (READ_ONCE(words[i]) != word + i * 0x9e3779b97f4a7c15ULL)
			return false;
	return true;
}

static struct tagstash_key key_of(struct worker *worker, u32 object, u32 index)
{
	struct tagstash_key key = { .pool = pool, .index = index };

	/* All six words of a key count. */
	key.object[0] = object | (u64)worker->number << 32;
	key.object[1] = mix(object);
	key.object[2] = ~(u64)object;
	return key;
}

static u64 *words_of(struct worker *worker, unsigned int page)
{
	return page_address(worker->buffer) + page * TAGSTASH_PAGE_SIZE;
}

static void unexpected(const char *call, long status)
{
	if (atomic64_inc_return(&errors) == 1)
		pr_err("%s gave status %ld\n", call, status);
}

/* Puts a run; half of them as the page cache does, with interrupts off. */
static void put_run(struct worker *worker, u32 object, u32 index, unsigned int pages, bool masked)
{
	u64 *versions = worker->versions + object * OBJECT_PAGES + index;
	struct tagstash_key key = key_of(worker, object, index);
	struct arm_smccc_res res;
	unsigned long flags = 0;
	unsigned int i;
	long status;

	for (i = 0; i < pages; i++)
		write_page(words_of(worker, i),
			   first_word(worker, object, index + i, worker->version + i));
	if (masked)
		local_irq_save(flags);
	status = tagstash_put(&key, page_to_phys(worker->buffer), pages, &res);
	if (masked)
		local_irq_restore(flags);
	if (status && status != TAGSTASH_NOT_CACHED) {
		unexpected("PUT", status);
		return;
	}
	/* A run may end early: what was not dealt with is as it was. */
	for (i = 0; i < res.a1; i++)
		versions[i] = res.a2 & BIT(i) ? worker->version + i : 0;
	worker->version += pages;
	atomic64_add(res.a1, &puts);
	atomic64_add(hweight64(res.a2), &kept);
}

/* Checks a page that was found, of which this version may be there. */
static void check(struct worker *worker, u32 object, u32 index, u64 version, const u64 *words)
{
	atomic64_inc(&hits);
	if (version && is_page(words, first_word(worker, object, index, version)))
		return;
	if (atomic64_inc_return(&mismatches) == 1)
		pr_err("object %u of thread %u, page %u, version %llu: its first word is %#llx\n",
		       object, worker->number, index, version, *words);
}

static void get_run(struct worker *worker, u32 object, u32 index, unsigned int pages)
{
	u64 *versions = worker->versions + object * OBJECT_PAGES + index;
	struct tagstash_key key = key_of(worker, object, index);
	struct arm_smccc_res res;
	unsigned int i;
	long status;

	status = tagstash_get(&key, page_to_phys(worker->buffer), pages, &res);
	if (status && status != TAGSTASH_MISS) {
		unexpected("GET", status);
		return;
	}
	for (i = 0; i < res.a1; i++) {
		bool hit = res.a2 & BIT(i);

		/* What cannot be there is not asked for: the rate is to say something. */
		if (versions[i])
			atomic64_inc(&gets);
		if (hit)
			check(worker, object, index + i, versions[i], words_of(worker, i));
		versions[i] = 0;
	}
}

static void flush(struct worker *worker, u32 object, u32 index, unsigned int pages)
{
	u64 *versions = worker->versions + object * OBJECT_PAGES;
	struct tagstash_key key = key_of(worker, object, index);
	struct arm_smccc_res res;
	long status;

	if (next_random(worker) % 4) {
		status = tagstash_flush_page(&key, pages, &res);
		memset(versions + index, 0, pages * sizeof(*versions));
		if (!status && res.a1 != pages)
			status = TAGSTASH_INVALID_PARAMETER;
	} else {
		status = tagstash_flush_object(pool, key.object);
		memset(versions, 0, OBJECT_PAGES * sizeof(*versions));
	}
	if (status)
		unexpected("FLUSH", status);
	atomic64_inc(&flushes);
}

static void work_once(struct worker *worker)
{
	u64 choice = next_random(worker);
	u32 object = (u32)choice % worker->objects;
	u32 index = choice >> 32 & (OBJECT_PAGES - RUN_PAGES);
	unsigned int pages = 1 + (choice >> 40) % RUN_PAGES;

	if (choice >> 48 & 0xff) {
		get_run(worker, object, index, pages);
		put_run(worker, object, index, pages, choice >> 56 & 1);
	} else {
		flush(worker, object, index, pages);
	}
}

static int work(void *data)
{
	struct worker *worker = data;

	/* What is tested besides shall get on as well. */
	set_user_nice(current, 10);
	while (!kthread_should_stop()) {
		work_once(worker);
		/*
		 * Where kernel threads are preempted, cond_resched() is no quiescent point for
		 * synchronize_rcu_tasks(), which an audit of claims waits for.
		 */
		cond_resched_tasks_rcu_qs();
	}
	return 0;
}

static void stop(struct tagstash_client *client)
{
	unsigned int i;

	WRITE_ONCE(running, false);
	for (i = 0; i < threads; i++) {
		if (workers[i].task)
			kthread_stop(workers[i].task);
		workers[i].task = NULL;
	}
}

static int start(struct tagstash_client *client)
{
	long status = tagstash_pool_create(TAGSTASH_PAGE_SHIFT, &pool);
	unsigned int i;

	if (status) {
		pr_err("no pool: status %ld\n", status);
		return -EIO;
	}
	for (i = 0; i < threads; i++) {
		struct worker *worker = &workers[i];

		/* A new pool has nothing in it. */
		memset(worker->versions, 0, worker->objects * OBJECT_PAGES * sizeof(u64));
		worker->task = kthread_run(work, worker, "tagstash_test/%u", i);
		if (IS_ERR(worker->task)) {
			int error = PTR_ERR(worker->task);

			worker->task = NULL;
			stop(client);
			return error;
		}
	}
	WRITE_ONCE(running, true);
	return 0;
}

static void show(struct tagstash_client *client, struct seq_file *file)
{
	seq_printf(file, "  puts: %lld\n  kept: %lld\n", atomic64_read(&puts),
		   atomic64_read(&kept));
	seq_printf(file, "  gets: %lld\n  hits: %lld\n", atomic64_read(&gets),
		   atomic64_read(&hits));
	seq_printf(file, "  flushes: %lld\n", atomic64_read(&flushes));
	seq_printf(file, "  mismatches: %lld\n  errors: %lld\n", atomic64_read(&mismatches),
		   atomic64_read(&errors));
	seq_printf(file, "  running: %d\n", READ_ONCE(running));
}

static struct tagstash_client client = {
	.name = "tagstash_test",
	.start = start,
	.stop = stop,
	.show = show,
};

static void free_workers(void)
{
	unsigned int i;

	for (i = 0; workers && i < threads; i++) {
		vfree(workers[i].versions);
		if (workers[i].buffer)
			__free_pages(workers[i].buffer, RUN_ORDER);
	}
	kfree(workers);
}

static int __init tagstash_test_init(void)
{
	struct arm_smccc_res res;
	unsigned int i;
	u64 objects;

	/* This module is loaded after the core, on which it depends: the shim is there. */
	tagstash_state(&res);
	threads = clamp(threads, 1u, 64u);
	objects = max_t(u64, res.a3 * fill / 100 / OBJECT_PAGES / threads, 1);
	workers = kcalloc(threads, sizeof(*workers), GFP_KERNEL);
	for (i = 0; workers && i < threads; i++) {
		workers[i].number = i;
		workers[i].random = mix(seed + i);
		workers[i].version = 1;
		workers[i].objects = objects;
		workers[i].versions = vzalloc(objects * OBJECT_PAGES * sizeof(u64));
		workers[i].buffer = alloc_pages(GFP_KERNEL, RUN_ORDER);
		if (!workers[i].versions || !workers[i].buffer)
			break;
	}
	if (!workers || i < threads) {
		free_workers();
		return -ENOMEM;
	}
	return tagstash_register_client(&client);
}

static void __exit tagstash_test_exit(void)
{
	tagstash_unregister_client(&client);
	free_workers();
}

module_init(tagstash_test_init);
module_exit(tagstash_test_exit);

MODULE_DESCRIPTION("Tests the Tagstash driver: puts pages of known contents and checks what comes back");
MODULE_AUTHOR("The Tagstash authors");
MODULE_LICENSE("GPL");
