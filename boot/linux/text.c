// SPDX-License-Identifier: GPL-2.0-only
/*
 * Searches the text of the kernel and of its modules for instructions that store tags.
 *
 * The hooks are worth something only if no other place stores tags. That is not believed but looked
 * up: every instruction is decoded, and a tag store in a function without a hook forbids
 * activation. Modules that are loaded later are searched before they run.
 *
 * Words between functions (literals, tables) are decoded too, but for addresses. One that looks
 * like a tag store forbids activation as well: a false alarm costs the stash, a missed store
 * somebody's data.
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/version.h>

#include "core.h"
#include "insn.h"

static unsigned long (*lookup_name)(const char *name);

/* The first tag store without a hook, empty if there is none. */
static char culprit[TAGSTASH_SYMBOL_SIZE];
/* Raw: it is taken where nobody may sleep, on real-time kernels as well. */
static DEFINE_RAW_SPINLOCK(culprit_lock);

/* Tells whether a place is in a function that has a hook. Names it, if not. */
static bool is_hooked(unsigned long address, char *name)
{
	unsigned long offset;
	char *plus;

	sprint_symbol(name, address);
	plus = strchr(name, '+');
	/* Without an offset the address belongs to no function that has a name. */
	if (!plus || sscanf(plus, "+0x%lx/", &offset) != 1)
		return false;
	return tagstash_hooks_cover(address - offset);
}

/*
 * Searches a piece of text, and notes the first tag store without a hook. Lets others run in
 * between where it may.
 */
static void search(unsigned long start, unsigned long end, bool may_sleep)
{
	/* sprint_symbol() writes this much at most. */
	char name[KSYM_SYMBOL_LEN];
	const __le32 *insn = (const __le32 *)start, *last = (const __le32 *)end - 1;
	unsigned long n = 0;

	for (; insn <= last; insn++) {
		if (++n % 65536 == 0 && may_sleep)
			cond_resched();
		if (!tagstash_stores_tags(le32_to_cpu(*insn)))
			continue;
		if (insn < last &&
		    tagstash_is_address((unsigned long)insn, le32_to_cpu(*(insn + 1))))
			continue;
		if (is_hooked((unsigned long)insn, name))
			continue;
		raw_spin_lock(&culprit_lock);
		if (!culprit[0])
			strscpy(culprit, name, sizeof(culprit));
		raw_spin_unlock(&culprit_lock);
		pr_warn("%s stores tags, and there is no hook for it\n", name);
		return;
	}
}

/* Text that stays as long as the module does. */
static void search_core(struct module *module, bool may_sleep)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	unsigned long start = (unsigned long)module->mem[MOD_TEXT].base;
	unsigned long size = module->mem[MOD_TEXT].size;
#else
	unsigned long start = (unsigned long)module->core_layout.base;
	unsigned long size = module->core_layout.text_size;
#endif

	/* There may be none. */
	if (start)
		search(start, start + size, may_sleep);
}

/* Text of its init function, which is gone when that has run. */
static void search_init(struct module *module, bool may_sleep)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	unsigned long start = (unsigned long)READ_ONCE(module->mem[MOD_INIT_TEXT].base);
	unsigned long size = READ_ONCE(module->mem[MOD_INIT_TEXT].size);
#else
	unsigned long start = (unsigned long)READ_ONCE(module->init_layout.base);
	unsigned long size = READ_ONCE(module->init_layout.text_size);
#endif

	if (start)
		search(start, start + size, may_sleep);
}

/*
 * Searches the modules that are there.
 *
 * Of one that lives, the core text, one module at a time: it is held, so that its text and its
 * place in the list stay. Its init function has run. Of one that is coming, whose init function may
 * be running just now, both texts, without sleeping: the one may be gone when that is done, and all
 * of the module if it fails, but no sooner than an RCU grace period later. What is being removed
 * runs no longer than its exit function, and is left out.
 *
 * The list's head is not to be found on every kernel, but this module is in the list, so the way
 * round ends where it began. What is no module on it, or not yet, is passed by: the head, and what
 * the notifier will tell of.
 */
static int search_modules(void)
{
	struct module *(*module_at)(unsigned long address);
	struct module *module = THIS_MODULE, *next;

	module_at = (void *)tagstash_find_symbol("__module_address");
	if (!module_at)
		return -ENOENT;
	do {
		/* Also what __module_address() wants. */
		preempt_disable();
		rcu_read_lock();
		next = module;
		for (;;) {
			next = list_entry_rcu(next->list.next, struct module, list);
			if (next == THIS_MODULE)
				break;
			if (module_at((unsigned long)next) != next)
				continue;
			if (READ_ONCE(next->state) == MODULE_STATE_COMING) {
				search_core(next, false);
				search_init(next, false);
			} else if (try_module_get(next)) {
				break;
			}
		}
		rcu_read_unlock();
		preempt_enable();
		if (module != THIS_MODULE)
			module_put(module);
		module = next;
		if (module != THIS_MODULE)
			search_core(module, true);
	} while (module != THIS_MODULE);
	return 0;
}

/* A module is about to run: its init function has not been called yet. */
static int on_module(struct notifier_block *block, unsigned long state, void *data)
{
	struct module *module = data;
	char who[TAGSTASH_SYMBOL_SIZE];
	char why[TAGSTASH_SYMBOL_SIZE + 64];

	if (state != MODULE_STATE_COMING || module == THIS_MODULE)
		return NOTIFY_DONE;
	search_core(module, true);
	search_init(module, true);
	/* It may be dormant still, and going active just now: that has begun before the search. */
	if (!tagstash_text_clean(who, sizeof(who))) {
		snprintf(why, sizeof(why),
			 "%s, just loaded, stores tags, and there is no hook for it", who);
		tagstash_go_dormant(why);
	}
	return NOTIFY_DONE;
}

static struct notifier_block module_notifier = { .notifier_call = on_module };

/* The kernel exports no function that finds symbols, but a kprobe finds the one that does. */
static int find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int error = register_kprobe(&probe);

	if (error) {
		pr_err("kallsyms_lookup_name is not to be found (error %d): the kernel needs CONFIG_KPROBES and CONFIG_KALLSYMS\n",
		       error);
		return error;
	}
	lookup_name = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

/**
 * tagstash_find_symbol() - finds a symbol of the kernel, exported or not
 * @name: its name
 *
 * Return: its address, 0 if the kernel has none of that name
 */
unsigned long tagstash_find_symbol(const char *name)
{
	return lookup_name(name);
}

/**
 * tagstash_text_clean() - tells whether every tag store has a hook
 * @who: set to the function that has none
 * @size: how large @who is
 *
 * Return: whether no store without a hook has been found
 */
bool tagstash_text_clean(char *who, size_t size)
{
	bool clean;

	raw_spin_lock(&culprit_lock);
	clean = !culprit[0];
	strscpy(who, culprit, size);
	raw_spin_unlock(&culprit_lock);
	return clean;
}

/**
 * tagstash_text_init() - searches all text, and from now on that of modules as they come
 *
 * That a store was found is no error here: tagstash_text_clean() tells.
 *
 * Return: 0 or an error
 */
int tagstash_text_init(void)
{
	unsigned long start, end;
	int error = find_lookup();

	if (error)
		return error;
	if (!tagstash_uses_tags())
		return 0;
	start = tagstash_find_symbol("_stext");
	end = tagstash_find_symbol("_etext");
	if (!start || !end) {
		pr_err("the kernel's text is not to be found: no symbol _stext or _etext\n");
		return -ENOENT;
	}
	/* First the notifier, then those that are there: none comes in between. */
	error = register_module_notifier(&module_notifier);
	if (error)
		return error;
	search(start, end, true);
	error = search_modules();
	if (error) {
		pr_err("the kernel has no __module_address: its modules cannot be searched\n");
		unregister_module_notifier(&module_notifier);
	}
	return error;
}

/**
 * tagstash_text_exit() - stops looking at modules
 */
void tagstash_text_exit(void)
{
	if (tagstash_uses_tags())
		unregister_module_notifier(&module_notifier);
}
