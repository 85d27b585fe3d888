// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds the shim. The device tree is asked first: on a machine that nobody says has a hypervisor,
 * an HVC may be an undefined instruction, and another hypervisor may give these numbers another
 * meaning.
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/errno.h>
#include <linux/of.h>
#include <linux/printk.h>

#include "core.h"

struct tagstash_shim tagstash_shim;

/**
 * tagstash_status_name() - names a call's status for messages
 * @status: the status
 *
 * Return: the name as docs/abi.md has it
 */
const char *tagstash_status_name(long status)
{
	switch (status) {
	case TAGSTASH_SUCCESS:
		return "SUCCESS";
	case TAGSTASH_NOT_SUPPORTED:
		return "NOT_SUPPORTED";
	case TAGSTASH_INVALID_PARAMETER:
		return "INVALID_PARAMETER";
	case TAGSTASH_INVALID_ADDRESS:
		return "INVALID_ADDRESS";
	case TAGSTASH_NO_REUSE:
		return "NO_REUSE";
	case TAGSTASH_NO_SUCH_POOL:
		return "NO_SUCH_POOL";
	case TAGSTASH_NO_FREE_POOL:
		return "NO_FREE_POOL";
	case TAGSTASH_POOL_MISMATCH:
		return "POOL_MISMATCH";
	case TAGSTASH_BUSY:
		return "BUSY";
	case TAGSTASH_NOT_CACHED:
		return "NOT_CACHED";
	case TAGSTASH_MISS:
		return "MISS";
	case TAGSTASH_NOT_CLAIMED:
		return "NOT_CLAIMED";
	case TAGSTASH_COPY_FAULT:
		return "COPY_FAULT";
	}
	return "an unknown status";
}

/* Looks for the node that the shim puts into the device tree. */
static int find_node(void)
{
	struct device_node *node = of_find_compatible_node(NULL, NULL, "tagstash,tagstash-1");
	const char *method = NULL;
	int error = 0;

	if (!node) {
		pr_err("no shim: the device tree has no node compatible with tagstash,tagstash-1\n");
		return -ENODEV;
	}
	if (of_property_read_string(node, "method", &method) || strcmp(method, "hvc")) {
		pr_err("%pOF: method is %s, and this driver knows hvc only\n", node,
		       method ?: "missing");
		error = -ENODEV;
	}
	of_node_put(node);
	return error;
}

/**
 * tagstash_find_shim() - finds the shim and looks whether this driver can use it
 *
 * Return: 0, or -ENODEV with a message that says what is wrong
 */
int tagstash_find_shim(void)
{
	struct arm_smccc_res res;
	int error = find_node();
	long status;

	if (error)
		return error;
	tagstash_uid(&res);
	if ((u32)res.a0 != TAGSTASH_UID_0 || (u32)res.a1 != TAGSTASH_UID_1 ||
	    (u32)res.a2 != TAGSTASH_UID_2 || (u32)res.a3 != TAGSTASH_UID_3) {
		pr_err("the hypervisor is another than the device tree says: its UID is %08x %08x %08x %08x\n",
		       (u32)res.a0, (u32)res.a1, (u32)res.a2, (u32)res.a3);
		return -ENODEV;
	}
	status = tagstash_version(&res);
	if (status) {
		pr_err("the shim does not tell its version: %s (%ld)\n",
		       tagstash_status_name(status), status);
		return -ENODEV;
	}
	if (TAGSTASH_VERSION_MAJOR(res.a1) != TAGSTASH_MAJOR) {
		pr_err("the shim has version %u.%u, and this driver is for %u.x: use the one that goes with it\n",
		       TAGSTASH_VERSION_MAJOR(res.a1), TAGSTASH_VERSION_MINOR(res.a1),
		       TAGSTASH_MAJOR);
		return -ENODEV;
	}
	tagstash_shim.major = TAGSTASH_VERSION_MAJOR(res.a1);
	tagstash_shim.minor = TAGSTASH_VERSION_MINOR(res.a1);
	tagstash_shim.features = res.a2;
	tagstash_shim.regions = TAGSTASH_LIMIT_REGIONS(res.a3);
	if (!(res.a2 & TAGSTASH_FEATURE_REUSE)) {
		pr_err("the shim has no tag storage to lend (none described, a fault in its description, no MTE2, or tagstash.off): its boot messages say which\n");
		return -ENODEV;
	}
	return 0;
}
