// SPDX-License-Identifier: GPL-2.0-only
/*
 * Looks at the hooks once in a while, and takes the storage back when one cannot be relied on.
 *
 * That comes after the fact: what was stored meanwhile without a claim is not undone. Verification
 * shows such a store as a counted miss, rather than as wrong data.
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/jiffies.h>
#include <linux/printk.h>
#include <linux/workqueue.h>

#include "core.h"

static unsigned long period;
static u64 looks;

static void look(struct work_struct *work);
static DECLARE_DELAYED_WORK(watchdog, look);

static void again(void)
{
	queue_delayed_work(system_long_wq, &watchdog, period);
}

static void look(struct work_struct *work)
{
	char problem[160];
	char why[192];

	if (!tagstash_is_active())
		return;
	looks++;
	if (tagstash_hooks_intact(problem, sizeof(problem))) {
		again();
		return;
	}
	snprintf(why, sizeof(why), "the watchdog found that %s", problem);
	pr_err("%s: taking the storage back\n", why);
	if (!tagstash_try_go_dormant(why))
		again();
}

/**
 * tagstash_watchdog_looks() - tells how often it has looked
 *
 * Return: the number
 */
u64 tagstash_watchdog_looks(void)
{
	return READ_ONCE(looks);
}

/**
 * tagstash_watchdog_init() - sets how often it looks
 * @period_ms: milliseconds between two looks
 */
void tagstash_watchdog_init(unsigned int period_ms)
{
	period = max(msecs_to_jiffies(period_ms), 1UL);
}

/**
 * tagstash_watchdog_start() - begins to look
 */
void tagstash_watchdog_start(void)
{
	again();
}

/**
 * tagstash_watchdog_stop() - looks no more, but for a look that is under way
 *
 * Does not wait: it is the watchdog itself that may call it. A look under way finds the storage
 * dormant, or cannot have the lock that the caller holds, and tries again later.
 */
void tagstash_watchdog_stop(void)
{
	cancel_delayed_work(&watchdog);
}

/**
 * tagstash_watchdog_exit() - waits until none is under way
 */
void tagstash_watchdog_exit(void)
{
	cancel_delayed_work_sync(&watchdog);
}
