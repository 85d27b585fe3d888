// SPDX-License-Identifier: GPL-2.0-only
/*
 * The places where the kernel begins to use a page's tags, and where it ends.
 *
 * Begins: a kprobe at the entry of each function that stores tags, so that the page is claimed
 * before the first store. They are all leaf functions of arch/arm64/lib/mte.S, whose first argument
 * is the page's address in the linear map.
 *
 * That is not enough, since a program may store tags without any of them, where the kernel takes
 * its page for tagged already:
 *
 *   before 6.2 it marks a page before it has cleared its tags. A second CPU that maps the page then
 *   sees the mark and lets its program store tags at once, before the first CPU has come to the
 *   function that clears them;
 *   from 6.2 on, splitting a huge page copies the mark of its first page to all the others, whose
 *   tags nobody has cleared or claimed;
 *   from 5.14 to 6.1, a page that comes back from swap space is marked, even if it never had tags.
 *
 * Every mapping with tags goes through mte_sync_tags(), so there the pages are claimed at its
 * entry, marked or not. Tags of pages that are only marked are read as well: as they are copied
 * with the page (mte_copy_page_tags()), or saved with it (mte_save_page_tags()); and a debugger
 * reads tags of pages that are not even marked (mte_copy_tags_to_user()). These would be bytes of
 * the stash, so the page is claimed there too. claims.c clears what nobody has initialised.
 *
 * Ends: the tracepoint mm_page_free, which every page passes on its way to the allocator, before
 * anybody else can get it. Mappings and their TLB entries are gone by then, so no tag of it is
 * stored any more.
 *
 * A BRK handler runs with interrupts masked, and so does RECLAIM. Both are legal wherever the
 * kernel stores tags: under the page-table lock, in a fault, anywhere.
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/printk.h>
#include <linux/string.h>
#include <linux/tracepoint.h>
#include <linux/version.h>
#include <asm/brk-imm.h>
#include <asm/debug-monitors.h>
#include <asm/mte.h>

#include "core.h"

struct hook {
	const char *name;
	kprobe_pre_handler_t handler;
	unsigned long address;
	struct kprobe probe;
	bool placed;
};

static void claim_argument(const struct pt_regs *regs, unsigned int n, enum tagstash_clear clear)
{
	tagstash_claim_pages(__phys_to_pfn(virt_to_phys((void *)regs->regs[n])), 1, clear);
}

/* The page whose address is the first argument, all of whose tags are stored. */
static int on_page(struct kprobe *probe, struct pt_regs *regs)
{
	claim_argument(regs, 0, TAGSTASH_CLEAR_NONE);
	return 0;
}

/* mte_save_page_tags(const void *page, void *to). */
static int on_save(struct kprobe *probe, struct pt_regs *regs)
{
	claim_argument(regs, 0, TAGSTASH_CLEAR_MARKED);
	return 0;
}

/*
 * mte_copy_tags_from_user(void *to, from, count), of a debugger, anywhere in the page. It may be
 * memory that is out of the program's reach, which no mapping with tags has prepared.
 */
static int on_poke(struct kprobe *probe, struct pt_regs *regs)
{
	claim_argument(regs, 0, TAGSTASH_CLEAR_ALL);
	return 0;
}

/* mte_copy_tags_to_user(to, void *from, count): the same. */
static int on_peek(struct kprobe *probe, struct pt_regs *regs)
{
	claim_argument(regs, 1, TAGSTASH_CLEAR_ALL);
	return 0;
}

/* mte_copy_page_tags(void *to, const void *from). */
static int on_copy(struct kprobe *probe, struct pt_regs *regs)
{
	claim_argument(regs, 1, TAGSTASH_CLEAR_MARKED);
	claim_argument(regs, 0, TAGSTASH_CLEAR_NONE);
	return 0;
}

#define SYNC_TAKES(type) __builtin_types_compatible_p(typeof(mte_sync_tags), type)

/*
 * mte_sync_tags(pte_t pte, unsigned int pages), or older: (pte_t pte), (pte_t old_pte, pte_t pte),
 * (pte_t *ptep, pte_t pte). The older ones deal with all pages of a compound page, beginning with
 * that of the entry; the oldest are called for pages without tags too.
 */
static int on_sync(struct kprobe *probe, struct pt_regs *regs)
{
	unsigned long pages;
	pte_t pte;

	if (SYNC_TAKES(void(pte_t, unsigned int))) {
		pte = __pte(regs->regs[0]);
		pages = (u32)regs->regs[1];
	} else {
		pte = __pte(regs->regs[SYNC_TAKES(void(pte_t)) ? 0 : 1]);
		pages = compound_nr(pte_page(pte));
	}
	if (pte_tagged(pte))
		tagstash_claim_pages(pte_pfn(pte), pages, TAGSTASH_CLEAR_MARKED);
	return 0;
}

/* Those that the kernel does not have are left out; text.c sees to it that none is missing here. */
static struct hook hooks[] = {
	{ .name = "mte_clear_page_tags", .handler = on_page },
	{ .name = "mte_copy_page_tags", .handler = on_copy },
	{ .name = "mte_copy_tags_from_user", .handler = on_poke },
	{ .name = "mte_copy_tags_to_user", .handler = on_peek },
	{ .name = "mte_restore_page_tags", .handler = on_page },
	{ .name = "mte_zero_clear_page_tags", .handler = on_page },
	{ .name = "mte_save_page_tags", .handler = on_save },
	{ .name = "mte_sync_tags", .handler = on_sync },
};

/* Where the hook's function is; 0: the kernel has none of that name. */
static unsigned long address_of(struct hook *hook)
{
	if (!hook->address)
		hook->address = tagstash_find_symbol(hook->name);
	return hook->address;
}

static struct tracepoint *page_free;

static void on_page_free(void *data, struct page *page, unsigned int order)
{
	tagstash_release_pages(page_to_pfn(page), 1UL << order);
}

static void match_page_free(struct tracepoint *tracepoint, void *found)
{
	if (!strcmp(tracepoint->name, "mm_page_free"))
		*(struct tracepoint **)found = tracepoint;
}

/**
 * tagstash_hooks_cover() - tells whether a function has a hook
 * @address: where the function begins
 *
 * Return: whether one of the hooks is for it
 */
bool tagstash_hooks_cover(unsigned long address)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(hooks); i++)
		if (address_of(&hooks[i]) == address)
			return address;
	return false;
}

static int place(struct hook *hook)
{
	int error;

	if (!address_of(hook))
		return 0;
	/* A probe that was unregistered has to be as new. */
	memset(&hook->probe, 0, sizeof(hook->probe));
	hook->probe.addr = (kprobe_opcode_t *)hook->address;
	hook->probe.pre_handler = hook->handler;
	error = register_kprobe(&hook->probe);
	if (error)
		pr_err("no kprobe at %s: error %d\n", hook->name, error);
	hook->placed = !error;
	return error;
}

/**
 * tagstash_hooks_place() - places the hooks
 *
 * May sleep. When it returns, whoever enters one of the functions is seen, on every CPU; who was
 * inside already is not.
 *
 * Return: 0, or an error with nothing left in place
 */
int tagstash_hooks_place(void)
{
	unsigned int i;
	int error;

	if (!page_free)
		for_each_kernel_tracepoint(match_page_free, &page_free);
	if (!page_free) {
		pr_err("the kernel has no tracepoint mm_page_free\n");
		return -ENOENT;
	}
	/* First the end, then the beginning: no page is claimed whose end is not seen. */
	error = tracepoint_probe_register(page_free, on_page_free, NULL);
	if (error) {
		pr_err("no probe at the tracepoint mm_page_free: error %d\n", error);
		page_free = NULL;
		return error;
	}
	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		error = place(&hooks[i]);
		if (error) {
			tagstash_hooks_remove();
			return error;
		}
	}
	return 0;
}

/**
 * tagstash_hooks_remove() - removes the hooks
 *
 * May sleep. None runs any more when it returns.
 */
void tagstash_hooks_remove(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		if (hooks[i].placed)
			unregister_kprobe(&hooks[i].probe);
		hooks[i].placed = false;
	}
	if (page_free) {
		tracepoint_probe_unregister(page_free, on_page_free, NULL);
		tracepoint_synchronize_unregister();
		page_free = NULL;
	}
}

/**
 * tagstash_hooks_intact() - looks whether each hook has seen all that passed, and still does
 * @why: set to what is wrong
 * @size: how large @why is
 *
 * A kprobe is skipped where the CPU was inside another one's handler (nmissed). All can be disarmed
 * through debugfs, which no flag of the probe tells: the instruction in the text does.
 *
 * Return: whether all is well
 */
bool tagstash_hooks_intact(char *why, size_t size)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		struct hook *hook = &hooks[i];
		u32 insn;

		if (!hook->placed)
			continue;
		if (hook->probe.nmissed) {
			snprintf(why, size, "the kprobe at %s was passed by %lu times", hook->name,
				 hook->probe.nmissed);
			return false;
		}
		if (kprobe_disabled(&hook->probe)) {
			snprintf(why, size, "the kprobe at %s is disabled", hook->name);
			return false;
		}
		insn = le32_to_cpu(READ_ONCE(*(__le32 *)hook->address));
		if (insn != (AARCH64_BREAK_MON | (KPROBES_BRK_IMM << 5))) {
			snprintf(why, size, "the kprobe at %s is disarmed (its text is %08x)",
				 hook->name, insn);
			return false;
		}
	}
	return true;
}

/**
 * tagstash_hooks_show() - lists the hooks for debugfs
 * @file: where to
 */
void tagstash_hooks_show(struct seq_file *file)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(hooks); i++)
		seq_printf(file, "  %-26s %s\n", hooks[i].name,
			   hooks[i].placed ? "placed" :
			   address_of(&hooks[i]) ? "not placed" : "not in this kernel");
}
