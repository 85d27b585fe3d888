// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hands all storage back before another kernel gets the machine, which may use tags and know
 * nothing of the stash.
 *
 *   reboot, kexec   the reboot notifier, before devices are shut down; for good
 *   hibernation     the PM notifier: the image is made dormant, and so is the kernel that loads
 *                   it; active again afterwards. The shim below an image that comes back is
 *                   mostly another one, of a new boot, that knows of no claim and no pool
 *   a crash kernel  a kprobe at machine_kexec(), which a kernel that crashed comes to with all
 *                   other CPUs stopped, and nothing left to call. A panic notifier would not do: by
 *                   default the crash kernel is started before they are called. Where the panic
 *                   came from inside a kprobe's handler, the probe is passed by; a crash kernel
 *                   that loads this driver takes the storage back as it loads.
 *
 * Suspend to idle keeps memory, and the shim with it, so nothing is to be done.
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/kprobes.h>
#include <linux/notifier.h>
#include <linux/printk.h>
#include <linux/reboot.h>
#include <linux/suspend.h>

#include "core.h"

static int on_reboot(struct notifier_block *block, unsigned long action, void *data)
{
	tagstash_refuse("the machine is given to another kernel, or turned off");
	return NOTIFY_DONE;
}

static struct notifier_block reboot_notifier = { .notifier_call = on_reboot };

/* Whether it is to be active after hibernation. */
static bool resume;

static int on_power(struct notifier_block *block, unsigned long action, void *data)
{
	switch (action) {
	case PM_RESTORE_PREPARE:
		/* What comes back stores its tags itself, and looks after nothing of ours first. */
		tagstash_forbid(true);
		fallthrough;
	case PM_HIBERNATION_PREPARE:
		resume = tagstash_go_dormant("hibernation");
		break;
	case PM_POST_RESTORE:
		tagstash_forbid(false);
		fallthrough;
	case PM_POST_HIBERNATION:
		/*
		 * Until processes were frozen, somebody may have written to debugfs, or loaded
		 * this driver. Then the claims that it believes in are another shim's.
		 */
		if (tagstash_go_dormant("hibernation"))
			resume = true;
		/* The machine may have been started with another shim, or with nothing to lend. */
		if (resume && !tagstash_find_shim())
			tagstash_go_active();
		resume = false;
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block power_notifier = { .notifier_call = on_power };

static int on_kexec(struct kprobe *probe, struct pt_regs *regs)
{
	if (tagstash_is_active())
		tagstash_take_all_back();
	return 0;
}

static struct kprobe kexec_probe = { .symbol_name = "machine_kexec", .pre_handler = on_kexec };
static bool kexec_placed;

/**
 * tagstash_handover_init() - begins to watch for the end of this kernel
 *
 * Return: 0 or an error
 */
int tagstash_handover_init(void)
{
	int error = register_reboot_notifier(&reboot_notifier);

	if (error)
		return error;
	error = register_pm_notifier(&power_notifier);
	if (error) {
		unregister_reboot_notifier(&reboot_notifier);
		return error;
	}
	/* A kernel without kexec has no such function, and no crash kernel. */
	error = register_kprobe(&kexec_probe);
	kexec_placed = !error;
	if (error && error != -ENOENT)
		pr_warn("no kprobe at machine_kexec (error %d): a crash kernel has to load this driver before it uses tags\n",
			error);
	return 0;
}

/**
 * tagstash_handover_exit() - watches no more
 */
void tagstash_handover_exit(void)
{
	if (kexec_placed)
		unregister_kprobe(&kexec_probe);
	unregister_pm_notifier(&power_notifier);
	unregister_reboot_notifier(&reboot_notifier);
}
