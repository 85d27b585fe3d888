// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tagstash as the backend of cleancache (Linux 5.10): clean page-cache pages that Linux evicts go
 * into idle tag storage, and come back from there instead of from the disk.
 *
 * Cleancache knows no way to unregister, so this module stays once it is loaded. The core
 * (tagstash.ko) comes and goes. Whenever it has come, this module registers with it as a client,
 * and between start() and stop() there is an attachment, which says for each of Linux's pools
 * which pool of the shim it is. Without one, every put is dropped and every get misses.
 *
 * What Linux promises (mm/cleancache.c, mm/filemap.c, mm/truncate.c of 5.10):
 *
 *  - put_page() comes with the i_pages lock held and interrupts off, invalidate_page() in that way
 *    or with the page locked, get_page() in process context with the page locked,
 *    invalidate_inode() and invalidate_fs() in process context. init_fs() may sleep.
 *  - While a page is in the page cache there is no get of its key; it leaves the page cache by a
 *    put or an invalidate_page.
 *  - A filesystem's pool id is its own from init_fs() until invalidate_fs(). But ext4 calls
 *    init_fs() again each time it is remounted to be written to, and forgets the id that it had:
 *    that one and its pool stay, unused, until the machine is started anew.
 *
 * Why nothing is ever stale when the stash comes and goes. Every operation looks at the attachment
 * once, inside an RCU read-side section that covers its hypercall.
 *
 *  - An invalidation that finds no attachment is not delivered. Whatever it was about was put under
 *    an attachment that has been taken away since: two operations on one page are ordered by locks
 *    of Linux, so the second sees what the first saw, or something newer. No later operation on
 *    that page sees the old attachment again, and stop() returns only when all sections that have
 *    it are over.
 *  - After stop() the core deactivates, which drops every page and destroys every pool. The next
 *    start() makes new pools, whose ids differ from the old ones, in a new attachment. So what was
 *    put earlier is out of reach for good. After hibernation ids may come again: from a shim of
 *    another boot, which has nothing that was put earlier.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/cleancache.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/rcupdate.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/cacheflush.h>
#include <asm/mte.h>

#include "calls.h"
#include "tagstash.h"

#define CREATE_TRACE_POINTS
#include "cleancache_trace.h"

/* As many as the shim has. A filesystem that is mounted when all are taken goes without. */
#define MAX_POOLS	64
/* The shim's ids are below 2^27. */
#define NO_POOL		U64_MAX

enum count {
	PUTS, KEPT, DECLINED, GETS, HITS, PAGE_FLUSHES, OBJECT_FLUSHES, ERRORS,
	COUNTS
};

static const char * const count_names[COUNTS] = {
	[PUTS]		 = "puts",
	[KEPT]		 = "kept",
	[DECLINED]	 = "declined",
	[GETS]		 = "gets",
	[HITS]		 = "hits",
	[PAGE_FLUSHES]	 = "page_flushes",
	[OBJECT_FLUSHES] = "object_flushes",
	[ERRORS]	 = "errors",
};

/**
 * struct linux_pool - a filesystem's pool as Linux knows it, by its place in the table
 * @used: between init_fs() and invalidate_fs()
 * @shift: log2 of its page size
 * @counts: since init_fs()
 */
struct linux_pool {
	bool used;
	unsigned int shift;
	atomic64_t counts[COUNTS];
};

/**
 * struct attachment - what there is between start() and stop()
 * @pool: the shim's pool for each of Linux's, or NO_POOL
 */
struct attachment {
	u64 pool[MAX_POOLS];
};

static struct linux_pool pools[MAX_POOLS];
static struct attachment __rcu *attached;
/*
 * Guards @used and @shift of the pools, and all changes of @attached and in it. Nests inside the
 * core's locks and s_umount.
 */
static DEFINE_MUTEX(lock);

static void count(int id, enum count what)
{
	atomic64_inc(&pools[id].counts[what]);
}

/*
 * Makes the key of a page. Returns false if its filesystem has no pool in the shim just now. The
 * caller is in an RCU read-side section, and stays there for its hypercall.
 */
static bool make_key(struct tagstash_key *key, int id, const struct cleancache_filekey *file,
		     pgoff_t index)
{
	struct attachment *now = rcu_dereference(attached);
	int word;

	if (!now || id < 0 || id >= MAX_POOLS)
		return false;
	/* Pairs with the release in attach(): the shim's pool was made before. */
	key->pool = smp_load_acquire(&now->pool[id]);
	if (key->pool == NO_POOL)
		return false;
	for (word = 0; word < 3; word++)
		key->object[word] = file->u.key[2 * word] | (u64)file->u.key[2 * word + 1] << 32;
	key->index = index;
	return true;
}

/*
 * Only the data of a page is put, so a page that has tags must not be: they would be lost. Linux
 * 5.10 allows PROT_MTE for anonymous memory and tmpfs only, which is not in cleancache, so this is
 * not expected. Nor are huge pages: no filesystem with cleancache has them.
 */
static bool may_be_put(struct page *page)
{
	if (IS_ENABLED(CONFIG_ARM64_MTE) && test_bit(PG_mte_tagged, &page->flags))
		return false;
	return !PageCompound(page);
}

static void flush_page(int id, const struct tagstash_key *key, u64 pages)
{
	struct tagstash_key rest = *key;
	struct arm_smccc_res res;

	do {
		if (tagstash_flush_page(&rest, pages, &res) != TAGSTASH_SUCCESS || res.a1 > pages) {
			count(id, ERRORS);
			break;
		}
		rest.index += res.a1;
		pages -= res.a1;
	} while (pages);
	count(id, PAGE_FLUSHES);
}

/*
 * Whatever becomes of a put, no older copy of the page is left: Linux may have changed it on the
 * disk meanwhile.
 */
static void put_page_in(int id, struct cleancache_filekey file, pgoff_t index,
			struct page *page)
{
	struct tagstash_key key;
	struct arm_smccc_res res;
	long status;

	rcu_read_lock();
	if (!make_key(&key, id, &file, index))
		goto out;
	count(id, PUTS);
	if (!may_be_put(page)) {
		count(id, DECLINED);
		flush_page(id, &key, compound_nr(page));
		goto out;
	}
	status = tagstash_put(&key, page_to_phys(page), 1, &res);
	if (status == TAGSTASH_SUCCESS) {
		count(id, KEPT);
	} else if (status != TAGSTASH_NOT_CACHED && status != TAGSTASH_COPY_FAULT) {
		/* Not expected. The call changed nothing: it dropped no older copy either. */
		count(id, ERRORS);
		flush_page(id, &key, 1);
	}
	trace_tagstash_put(id, key.object, index, status);
out:
	rcu_read_unlock();
}

/*
 * Returns 0 if the page was found and is in @page now. Otherwise the contents of @page are
 * undefined, and Linux reads the disk.
 */
static int get_page_out(int id, struct cleancache_filekey file, pgoff_t index, struct page *page)
{
	struct tagstash_key key;
	struct arm_smccc_res res;
	long status = TAGSTASH_MISS;

	rcu_read_lock();
	if (make_key(&key, id, &file, index)) {
		count(id, GETS);
		status = tagstash_get(&key, page_to_phys(page), 1, &res);
		if (status == TAGSTASH_SUCCESS)
			count(id, HITS);
		else if (status != TAGSTASH_MISS && status != TAGSTASH_COPY_FAULT)
			count(id, ERRORS);
		trace_tagstash_get(id, key.object, index, status);
	}
	rcu_read_unlock();
	if (status != TAGSTASH_SUCCESS)
		return -1;
	/* It may be executed: the instruction cache has to hear of it. */
	flush_dcache_page(page);
	return 0;
}

static void invalidate_page(int id, struct cleancache_filekey file, pgoff_t index)
{
	struct tagstash_key key;

	rcu_read_lock();
	if (make_key(&key, id, &file, index))
		flush_page(id, &key, 1);
	rcu_read_unlock();
}

/*
 * Comes at the end of every truncate and with every inode that leaves memory, mostly for files
 * that have nothing here. It is passed on all the same: it costs the shim a few instructions, and
 * to know better would take as many.
 */
static void invalidate_inode(int id, struct cleancache_filekey file)
{
	struct tagstash_key key;

	rcu_read_lock();
	if (make_key(&key, id, &file, 0)) {
		if (tagstash_flush_object(key.pool, key.object) != TAGSTASH_SUCCESS)
			count(id, ERRORS);
		count(id, OBJECT_FLUSHES);
	}
	rcu_read_unlock();
}

/* Gives a pool of Linux's one of the shim's, if there is one left. With the lock held. */
static void attach(struct attachment *to, int id)
{
	long status;
	u64 pool;

	if (!pools[id].used || to->pool[id] != NO_POOL)
		return;
	status = tagstash_pool_create(pools[id].shift, &pool);
	if (status == TAGSTASH_SUCCESS)
		/* Pairs with the acquire in make_key(). */
		smp_store_release(&to->pool[id], pool);
	else
		pr_notice_once("the shim makes no more pools (status %ld): some filesystems are not cached\n",
			       status);
}

static struct attachment *attachment_now(void)
{
	return rcu_dereference_protected(attached, lockdep_is_held(&lock));
}

/* Returns the id that Linux will name the filesystem by, or -1: cleancache leaves it alone then. */
static int init_fs(size_t page_size)
{
	unsigned int shift = ilog2(page_size);
	int id, what;

	/* What the shim takes: the page sizes that an arm64 kernel can have. */
	if (!is_power_of_2(page_size) || (shift != 12 && shift != 14 && shift != 16)) {
		pr_warn("a filesystem with pages of %zu bytes is not cached\n", page_size);
		return -1;
	}
	mutex_lock(&lock);
	for (id = 0; id < MAX_POOLS && pools[id].used; id++)
		;
	if (id == MAX_POOLS) {
		mutex_unlock(&lock);
		pr_notice("all %d pools are taken, by filesystems and by remounts of ext4: a filesystem is not cached\n",
			  MAX_POOLS);
		return -1;
	}
	for (what = 0; what < COUNTS; what++)
		atomic64_set(&pools[id].counts[what], 0);
	pools[id].shift = shift;
	pools[id].used = true;
	if (attachment_now())
		attach(attachment_now(), id);
	mutex_unlock(&lock);
	return id;
}

/*
 * A filesystem that several machines share (ocfs2). Shared pools are for several guests above one
 * cache. There is one guest here, and its cluster locks invalidate pages as its other reasons do,
 * so such a filesystem is one like any other.
 */
static int init_shared_fs(uuid_t *uuid, size_t page_size)
{
	return init_fs(page_size);
}

static void invalidate_fs(int id)
{
	struct attachment *now;
	u64 pool = NO_POOL;
	int other;

	if (id < 0 || id >= MAX_POOLS)
		return;
	mutex_lock(&lock);
	now = attachment_now();
	if (now) {
		pool = now->pool[id];
		WRITE_ONCE(now->pool[id], NO_POOL);
	}
	/*
	 * Linux has forgotten the id before it called, but somebody who evicts pages may have read
	 * it before that. It must not come to mean the pool of another filesystem under such a
	 * call's hands. That one is in an RCU read-side section: its interrupts are off, or it is
	 * in one of the functions above.
	 */
	synchronize_rcu();
	if (pool != NO_POOL && tagstash_pool_destroy(pool) != TAGSTASH_SUCCESS)
		count(id, ERRORS);
	pools[id].used = false;
	/* Somebody may have waited for a pool of the shim's. */
	for (other = 0; now && pool != NO_POOL && other < MAX_POOLS; other++)
		attach(now, other);
	mutex_unlock(&lock);
}

static const struct cleancache_ops ops = {
	.init_fs = init_fs,
	.init_shared_fs = init_shared_fs,
	.put_page = put_page_in,
	.get_page = get_page_out,
	.invalidate_page = invalidate_page,
	.invalidate_inode = invalidate_inode,
	.invalidate_fs = invalidate_fs,
};

static int start(struct tagstash_client *client)
{
	struct attachment *new = kmalloc(sizeof(*new), GFP_KERNEL);
	int id;

	if (!new)
		return -ENOMEM;
	mutex_lock(&lock);
	for (id = 0; id < MAX_POOLS; id++) {
		new->pool[id] = NO_POOL;
		attach(new, id);
	}
	rcu_assign_pointer(attached, new);
	mutex_unlock(&lock);
	return 0;
}

static void stop(struct tagstash_client *client)
{
	struct attachment *old;

	mutex_lock(&lock);
	old = attachment_now();
	RCU_INIT_POINTER(attached, NULL);
	mutex_unlock(&lock);
	/* Every call that was under way is over when this returns. */
	synchronize_rcu();
	kfree(old);
}

static void show(struct tagstash_client *client, struct seq_file *file)
{
	struct attachment *now;
	int id, what;

	mutex_lock(&lock);
	now = attachment_now();
	seq_puts(file, "pool shim_pool page_size");
	for (what = 0; what < COUNTS; what++)
		seq_printf(file, " %s", count_names[what]);
	seq_putc(file, '\n');
	for (id = 0; id < MAX_POOLS; id++) {
		if (!pools[id].used)
			continue;
		if (now && now->pool[id] != NO_POOL)
			seq_printf(file, "%d %llu", id, now->pool[id]);
		else
			seq_printf(file, "%d none", id);
		seq_printf(file, " %lu", 1UL << pools[id].shift);
		for (what = 0; what < COUNTS; what++)
			seq_printf(file, " %llu", (u64)atomic64_read(&pools[id].counts[what]));
		seq_putc(file, '\n');
	}
	mutex_unlock(&lock);
}

static struct tagstash_client client = {
	.name = "cleancache",
	.start = start,
	.stop = stop,
	.show = show,
};

/* Registers with the core if that is there. It stays unloadable: it is held for the call only. */
static void meet_core(void)
{
	int (*register_client)(struct tagstash_client *client);

	register_client = symbol_get(tagstash_register_client);
	if (!register_client)
		return;
	/* That it is registered already is as good. */
	register_client(&client);
	symbol_put(tagstash_register_client);
}

static int module_changed(struct notifier_block *block, unsigned long state, void *data)
{
	const struct module *module = data;

	if (state == MODULE_STATE_LIVE && !strcmp(module->name, "tagstash"))
		meet_core();
	return NOTIFY_DONE;
}

static struct notifier_block modules = {
	.notifier_call = module_changed,
};

static int __init tagstash_cleancache_init(void)
{
	int error = cleancache_register_ops(&ops);

	if (error) {
		pr_err("cleancache has another backend already: this one is of no use (error %d)\n",
		       error);
		return error;
	}
	/* There is no way back from here on, so this module must not fail any more. */
	if (register_module_notifier(&modules))
		pr_warn("the core will be found only if it is loaded already\n");
	/* It may be, or become so just now: then at least one of these two finds it. */
	meet_core();
	return 0;
}
module_init(tagstash_cleancache_init);

/* There is no module_exit(): cleancache keeps the functions for ever, so they must stay. */

MODULE_DESCRIPTION("Tagstash: keeps clean page-cache pages in idle tag storage (cleancache)");
MODULE_AUTHOR("The Tagstash authors");
MODULE_LICENSE("GPL");
