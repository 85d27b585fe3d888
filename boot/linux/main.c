// SPDX-License-Identifier: GPL-2.0-only
/*
 * The Linux driver of the Tagstash shim: load and unload.
 *
 * The shim lends tag storage that holds no tags to a page cache of its own. This module tells it
 * which storage is needed: it finds out where the kernel begins and stops using a page's tags, and
 * claims and releases the page's storage there. Clients (tagstash.h) put pages into what is lent.
 * docs/linux.md is for the engineer who loads it, docs/abi.md the contract with the shim.
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/module.h>
#include <linux/moduleparam.h>

#include "core.h"

static bool activate = true;
module_param(activate, bool, 0444);
MODULE_PARM_DESC(activate,
		 "lend idle tag storage at load (default); 0: when 1 is written to debugfs tagstash/active");

static bool verify;
module_param(verify, bool, 0444);
MODULE_PARM_DESC(verify,
		 "keep a CRC-32C of each cached page and check it (default 0): a claim that was missed shows as a miss");

static unsigned int watchdog_ms = 1000;
module_param(watchdog_ms, uint, 0444);
MODULE_PARM_DESC(watchdog_ms, "how often the hooks are looked at, in milliseconds (default 1000)");

static int __init tagstash_init(void)
{
	int error = tagstash_find_shim();

	if (error)
		return error;
	if (tagstash_uses_tags() && IS_ENABLED(CONFIG_KASAN_HW_TAGS)) {
		pr_err("this kernel is built with KASAN_HW_TAGS, which stores tags of all memory: there is nothing to lend\n");
		return -EOPNOTSUPP;
	}
	if (tagstash_uses_tags() && (tagstash_shim.features & TAGSTASH_FEATURE_TAGS_HIDDEN)) {
		pr_err("the shim says that this kernel has no tags (tagstash.mte=hide), and the kernel uses them: not safe\n");
		return -ENODEV;
	}
	error = tagstash_claims_init();
	if (error)
		return error;
	error = tagstash_text_init();
	if (error)
		goto no_text;
	tagstash_watchdog_init(watchdog_ms);
	tagstash_activation_init(verify);
	error = tagstash_handover_init();
	if (error)
		goto no_handover;
	tagstash_debugfs_init();
	pr_info("shim of version %u.%u, %u regions of tag storage\n", tagstash_shim.major,
		tagstash_shim.minor,
		tagstash_shim.regions);
	/* If that cannot be, the module stays, and says why in debugfs. */
	if (activate)
		tagstash_go_active();
	return 0;

no_handover:
	tagstash_text_exit();
no_text:
	tagstash_claims_exit();
	return error;
}

static void __exit tagstash_exit(void)
{
	/* Nobody makes it active any more from here on. */
	tagstash_debugfs_exit();
	tagstash_refuse("the driver is unloaded");
	tagstash_handover_exit();
	tagstash_watchdog_exit();
	tagstash_activation_exit();
	tagstash_text_exit();
	tagstash_claims_exit();
}

module_init(tagstash_init);
module_exit(tagstash_exit);

MODULE_DESCRIPTION("Tagstash: lends idle MTE tag storage to a page cache");
MODULE_AUTHOR("The Tagstash authors");
MODULE_LICENSE("GPL");
