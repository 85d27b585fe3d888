// SPDX-License-Identifier: GPL-2.0-only
/*
 * Dormant and active: the order in which the storage is lent and taken back, and the clients that
 * use it in between.
 *
 * To active:
 *   1. all text is searched: there is no tag store without a hook (text.c, at load);
 *   2. the hooks are placed;
 *   3. every task passes a quiescent point, so that none is left inside a function that it entered
 *      before its hook was there;
 *   4. every page with tags in use is claimed. Who begins to use tags from now on goes through a
 *      hook. Who began before has set the kernel's mark, if not before (2) then by the end of (3),
 *      and the walk sees it;
 *   5. ACTIVATE to the end;
 *   6. the clients start.
 *
 * Where a step fails, what was done before it is undone as below. A module with a tag store that
 * comes meanwhile waits, before it runs, until all of this is done, and has it undone (text.c).
 *
 * To dormant:
 *   1. the clients stop: nothing is put any more. Pages that the kernel takes for tagged though
 *      they are not have their tags cleared, while they can be claimed;
 *   2. DEACTIVATE to the end. The hooks stay until then: while any storage is lent, a store without
 *      a claim would hit lines of cached pages that are not written back yet;
 *   3. the hooks are removed, and DEACTIVATE runs once more, for claims that a hook made behind the
 *      first run.
 *
 * Where this kernel uses no tags (CPU, kernel or command line without MTE; tagstash.mte=hide),
 * there is nothing to hook.
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <asm/barrier.h>
#include <asm/cpufeature.h>

#include "core.h"

#define WHY_SIZE 256

/* Held over all of going active or dormant, and while the clients change. */
static DEFINE_MUTEX(state_lock);
static LIST_HEAD(clients);
static bool active;
/* It is dormant for good, or about to be: set without the lock. */
static bool closed;
/* It is dormant until that is called off: under the lock. */
static bool forbidden;
/*
 * Going active waits for all tasks, which takes as long as one of them likes. Who turns the machine
 * off need not wait for that: it sets `closed` and then looks here, and who waits looks at `closed`
 * after it has cleared this. One of the two sees the other.
 */
static bool waiting_for_tasks;
static bool verification;
/* Why it is dormant. */
static char reason[WHY_SIZE] = "it has not been asked to be active";

/**
 * tagstash_uses_tags() - tells whether this kernel uses tags at all
 *
 * Return: whether it does
 */
bool tagstash_uses_tags(void)
{
	return IS_ENABLED(CONFIG_ARM64_MTE) && system_supports_mte();
}

/* ---- the storage ---- */

static int lend_all(void)
{
	struct arm_smccc_res res = {};
	u64 flags = verification ? TAGSTASH_ACTIVATE_VERIFY : 0;
	long status;

	do {
		status = tagstash_activate(flags, res.a1, &res);
		if (status) {
			pr_err("ACTIVATE: %s (%ld)\n", tagstash_status_name(status), status);
			return -EIO;
		}
		cond_resched();
	} while (res.a1 != res.a2);
	return 0;
}

/**
 * tagstash_take_all_back() - DEACTIVATE to the end, without anything around it
 *
 * In any context: does not sleep.
 */
void tagstash_take_all_back(void)
{
	struct arm_smccc_res res = {};

	do {
		if (tagstash_deactivate(res.a1, &res))
			break;
	} while (res.a1 != res.a2);
}

/* The same where others may run in between. */
static void take_all_back_slowly(void)
{
	struct arm_smccc_res res = {};
	long status;

	do {
		status = tagstash_deactivate(res.a1, &res);
		if (status) {
			pr_err("DEACTIVATE: %s (%ld)\n", tagstash_status_name(status), status);
			return;
		}
		cond_resched();
	} while (res.a1 != res.a2);
}

/*
 * Sees to it that nothing is lent by who had the machine before this kernel. Also where nothing is:
 * that one may have left claims.
 */
static void begin_dormant(void)
{
	struct arm_smccc_res res;

	tagstash_state(&res);
	if (TAGSTASH_STATE(res.a1) != TAGSTASH_STATE_DORMANT)
		pr_info("the kernel before this one left storage lent: taking it back\n");
	take_all_back_slowly();
}

/*
 * Takes the storage back with the hooks in place, then removes them. Claims are to be forgotten
 * after it.
 */
static void take_back(void)
{
	char why[WHY_SIZE];

	if (tagstash_uses_tags()) {
		/* Where a hook was passed by, tags may be in use of what has no claim. */
		if (tagstash_hooks_intact(why, sizeof(why)))
			tagstash_claim_marked();
		else
			tagstash_end_clearing();
	}
	tagstash_void_claims();
	take_all_back_slowly();
	if (tagstash_uses_tags()) {
		tagstash_end_clearing();
		tagstash_hooks_remove();
		take_all_back_slowly();
	}
}

/* ---- the clients ---- */

static void start_client(struct tagstash_client *client)
{
	int error = client->start(client);

	client->started = !error;
	if (error)
		pr_err("%s does not start: error %d\n", client->name, error);
	else
		pr_info("%s started\n", client->name);
}

static void stop_client(struct tagstash_client *client)
{
	if (client->started)
		client->stop(client);
	client->started = false;
}

int tagstash_register_client(struct tagstash_client *client)
{
	struct tagstash_client *other;
	int error = 0;

	mutex_lock(&state_lock);
	list_for_each_entry(other, &clients, list)
		if (other == client)
			error = -EEXIST;
	if (!error) {
		client->started = false;
		list_add_tail(&client->list, &clients);
		if (active)
			start_client(client);
	}
	mutex_unlock(&state_lock);
	return error;
}
EXPORT_SYMBOL_GPL(tagstash_register_client);

void tagstash_unregister_client(struct tagstash_client *client)
{
	mutex_lock(&state_lock);
	stop_client(client);
	list_del(&client->list);
	mutex_unlock(&state_lock);
}
EXPORT_SYMBOL_GPL(tagstash_unregister_client);

/* ---- dormant and active ---- */

static int hook_and_claim(void)
{
	char why[WHY_SIZE];
	int error;

	if (IS_ENABLED(CONFIG_PREEMPTION) && !IS_ENABLED(CONFIG_TASKS_RCU)) {
		strscpy(reason, "the kernel preempts tasks, and has no CONFIG_TASKS_RCU",
			sizeof(reason));
		return -EOPNOTSUPP;
	}
	if (!tagstash_text_clean(why, sizeof(why))) {
		snprintf(reason, sizeof(reason), "%s stores tags, and there is no hook for it",
			 why);
		return -EOPNOTSUPP;
	}
	error = tagstash_hooks_place();
	if (error) {
		snprintf(reason, sizeof(reason), "a hook could not be placed (error %d)", error);
		return error;
	}
	/* All kprobes may be disarmed just now, which their registration does not tell. */
	if (!tagstash_hooks_intact(why, sizeof(why))) {
		strscpy(reason, why, sizeof(reason));
		return -EBUSY;
	}
	/*
	 * Without preemption, no task leaves the CPU inside those functions but where it faults on
	 * user memory, with the page marked; a grace period is enough, and that is what this call
	 * means there.
	 */
	WRITE_ONCE(waiting_for_tasks, true);
	synchronize_rcu_tasks();
	WRITE_ONCE(waiting_for_tasks, false);
	/* Pairs with the one in tagstash_refuse(). */
	smp_mb();
	if (READ_ONCE(closed)) {
		strscpy(reason, "the machine is given to another kernel, or turned off",
			sizeof(reason));
		return -ESHUTDOWN;
	}
	tagstash_claim_tagged();
	return 0;
}

/**
 * tagstash_go_active() - lends what is idle to the stash, and starts the clients
 *
 * May sleep. Does nothing if it is active already.
 *
 * Return: 0 or an error, after which the storage is dormant, and debugfs says why
 */
int tagstash_go_active(void)
{
	struct tagstash_client *client;
	int error = 0;

	mutex_lock(&state_lock);
	if (active)
		goto out;
	if (READ_ONCE(closed)) {
		error = -ESHUTDOWN;
		goto out;
	}
	if (forbidden) {
		error = -EBUSY;
		goto out;
	}
	/* After hibernation, it is the kernel that loaded this one. */
	begin_dormant();
	if (tagstash_uses_tags())
		error = hook_and_claim();
	if (!error) {
		error = lend_all();
		if (error)
			strscpy(reason, "the shim refused ACTIVATE", sizeof(reason));
	}
	if (error) {
		/* A hook may have claimed already. */
		take_back();
		tagstash_forget_claims();
		pr_err("stays dormant: %s\n", reason);
		goto out;
	}
	WRITE_ONCE(active, true);
	reason[0] = '\0';
	pr_info("active%s: idle tag storage is lent to the stash\n",
		verification ? ", with verification" : "");
	list_for_each_entry(client, &clients, list)
		start_client(client);
	if (tagstash_uses_tags())
		tagstash_watchdog_start();
out:
	mutex_unlock(&state_lock);
	return error;
}

static bool go_dormant(const char *why)
{
	struct tagstash_client *client;

	if (!active)
		return false;
	tagstash_watchdog_stop();
	list_for_each_entry_reverse(client, &clients, list)
		stop_client(client);
	take_back();
	WRITE_ONCE(active, false);
	tagstash_forget_claims();
	strscpy(reason, why, sizeof(reason));
	pr_info("dormant: %s\n", why);
	return true;
}

/**
 * tagstash_go_dormant() - stops the clients and takes all storage back for tags
 * @why: the reason, for messages and debugfs
 *
 * May sleep. Does nothing if it is dormant already.
 *
 * Return: whether it was active
 */
bool tagstash_go_dormant(const char *why)
{
	bool was;

	mutex_lock(&state_lock);
	was = go_dormant(why);
	mutex_unlock(&state_lock);
	return was;
}

/**
 * tagstash_try_go_dormant() - the same, unless the state is being changed just now
 * @why: the reason
 *
 * For the watchdog, which whoever changes the state may be waiting for.
 *
 * Return: whether it was done
 */
bool tagstash_try_go_dormant(const char *why)
{
	if (!mutex_trylock(&state_lock))
		return false;
	go_dormant(why);
	mutex_unlock(&state_lock);
	return true;
}

/**
 * tagstash_forbid() - forbids to go active, or no longer
 * @forbid: which of the two
 */
void tagstash_forbid(bool forbid)
{
	mutex_lock(&state_lock);
	forbidden = forbid;
	mutex_unlock(&state_lock);
}

/**
 * tagstash_refuse() - goes dormant for good
 * @why: the reason
 *
 * May sleep, but does not wait for a task that somebody waits for who is going active: nothing is
 * lent then, nor will be.
 */
void tagstash_refuse(const char *why)
{
	WRITE_ONCE(closed, true);
	/* Pairs with the one in hook_and_claim(). */
	smp_mb();
	while (!mutex_trylock(&state_lock)) {
		if (READ_ONCE(waiting_for_tasks))
			return;
		msleep(20);
	}
	go_dormant(why);
	mutex_unlock(&state_lock);
}

/**
 * tagstash_is_active() - tells the state
 *
 * Return: whether storage is lent
 */
bool tagstash_is_active(void)
{
	return READ_ONCE(active);
}

/**
 * tagstash_state_show() - writes the state for debugfs
 * @file: where to
 */
void tagstash_state_show(struct seq_file *file)
{
	struct arm_smccc_res res;

	mutex_lock(&state_lock);
	seq_printf(file, "state: %s\n", active ? "active" : "dormant");
	if (!active)
		seq_printf(file, "why: %s\n", reason);
	seq_printf(file, "shim: version %u.%u, features %#llx, %u regions\n", tagstash_shim.major,
		   tagstash_shim.minor, tagstash_shim.features, tagstash_shim.regions);
	tagstash_state(&res);
	seq_printf(file, "verification: %s\n", res.a1 & TAGSTASH_STATE_VERIFY ? "on" : "off");
	seq_printf(file, "blocks: %lu\nframes: %lu\n", res.a2, res.a3);
	seq_printf(file, "tags: %s\n", tagstash_uses_tags() ? "used by this kernel" :
		   "not used by this kernel");
	if (tagstash_uses_tags()) {
		seq_puts(file, "hooks:\n");
		tagstash_hooks_show(file);
		seq_printf(file, "watchdog: looked %llu times\n", tagstash_watchdog_looks());
	}
	mutex_unlock(&state_lock);
}

/**
 * tagstash_clients_show() - lists the clients, with what they have to say, for debugfs
 * @file: where to
 */
void tagstash_clients_show(struct seq_file *file)
{
	struct tagstash_client *client;

	mutex_lock(&state_lock);
	list_for_each_entry(client, &clients, list) {
		seq_printf(file, "%s: %s\n", client->name, client->started ? "started" : "stopped");
		if (client->show)
			client->show(client, file);
	}
	mutex_unlock(&state_lock);
}

/**
 * tagstash_activation_init() - begins dormant, whatever was before
 * @verify: whether every activation is to verify
 */
void tagstash_activation_init(bool verify)
{
	verification = verify;
	begin_dormant();
}

/**
 * tagstash_activation_exit() - lets go of the clients that are still there; dormant already
 *
 * They depend on this module in no way, and register again when it comes back.
 */
void tagstash_activation_exit(void)
{
	struct tagstash_client *client, *next;

	mutex_lock(&state_lock);
	list_for_each_entry_safe(client, next, &clients, list)
		list_del(&client->list);
	mutex_unlock(&state_lock);
}
