/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the core module see of each other. */
#ifndef TAGSTASH_CORE_H
#define TAGSTASH_CORE_H

#include <linux/seq_file.h>
#include <linux/types.h>

#include "calls.h"
#include "tagstash.h"

/* shim.c: what VERSION says, set once at load. */

/**
 * struct tagstash_shim - the shim that was found
 * @major: major version of the ABI
 * @minor: minor version
 * @features: TAGSTASH_FEATURE_* bits
 * @regions: how many regions of tag storage there are
 */
struct tagstash_shim {
	unsigned int major;
	unsigned int minor;
	u64 features;
	unsigned int regions;
};

extern struct tagstash_shim tagstash_shim;

int tagstash_find_shim(void);
const char *tagstash_status_name(long status);

/* text.c: who stores tags. */

#define TAGSTASH_SYMBOL_SIZE 128

int tagstash_text_init(void);
void tagstash_text_exit(void);
unsigned long tagstash_find_symbol(const char *name);
bool tagstash_text_clean(char *who, size_t size);

/* hooks.c: where tags begin and end to be used. */

int tagstash_hooks_place(void);
void tagstash_hooks_remove(void);
bool tagstash_hooks_intact(char *why, size_t size);
bool tagstash_hooks_cover(unsigned long address);
void tagstash_hooks_show(struct seq_file *file);

/* claims.c: which pages hold a claim. */

/**
 * struct tagstash_counters - what the core counts on each CPU
 * @claims: pages newly claimed by a hook
 * @held: pages that a hook found claimed already
 * @walked: pages newly claimed by the walk before activation
 * @releases: pages released as they were freed
 * @refused: pages whose RELEASE was refused; a fault of the driver's if it is not 0 while active
 * @foreign: pages without tag storage that the shim knows, such as memory added later
 * @worst: most counter ticks that a claim of one page took
 */
struct tagstash_counters {
	u64 claims;
	u64 held;
	u64 walked;
	u64 releases;
	u64 refused;
	u64 foreign;
	u64 worst;
};

/**
 * struct tagstash_audit - the claims beside what the kernel says of its pages
 * @tagged: pages with tags in use, as the kernel's flags have it
 * @claimed: pages that the core holds a claim for
 * @idle_marks: tagged pages without a claim, which the kernel's flags have so though no program can
 *	use tags of them
 * @late: other tagged pages that the shim said had no claim, at the first look
 * @missing: of these, pages that had none when everybody at work on them was done
 * @first: page frame number of the first that is missing
 */
struct tagstash_audit {
	unsigned long tagged;
	unsigned long claimed;
	unsigned long idle_marks;
	unsigned long late;
	unsigned long missing;
	unsigned long first;
};

int tagstash_claims_init(void);
void tagstash_claims_exit(void);

/**
 * enum tagstash_clear - whether tags of a page are cleared as it is newly claimed
 * @TAGSTASH_CLEAR_NONE: no: the caller is about to store them all
 * @TAGSTASH_CLEAR_MARKED: if the kernel takes them for initialised, and so will not
 * @TAGSTASH_CLEAR_ALL: always
 */
enum tagstash_clear {
	TAGSTASH_CLEAR_NONE,
	TAGSTASH_CLEAR_MARKED,
	TAGSTASH_CLEAR_ALL,
};

void tagstash_claim_pages(unsigned long pfn, unsigned long pages, enum tagstash_clear clear);
void tagstash_release_pages(unsigned long pfn, unsigned long pages);
void tagstash_claim_tagged(void);
void tagstash_claim_marked(void);
void tagstash_end_clearing(void);
void tagstash_void_claims(void);
void tagstash_forget_claims(void);
void tagstash_audit_claims(struct tagstash_audit *audit);
void tagstash_read_counters(struct tagstash_counters *sum);
void tagstash_clear_worst(void);

/* activation.c: dormant and active. */

bool tagstash_uses_tags(void);
void tagstash_activation_init(bool verify);
void tagstash_activation_exit(void);
int tagstash_go_active(void);
bool tagstash_go_dormant(const char *why);
bool tagstash_try_go_dormant(const char *why);
bool tagstash_is_active(void);
void tagstash_forbid(bool forbid);
void tagstash_refuse(const char *why);
void tagstash_take_all_back(void);
void tagstash_state_show(struct seq_file *file);
void tagstash_clients_show(struct seq_file *file);

/* watchdog.c, handover.c, debugfs.c */

void tagstash_watchdog_init(unsigned int period_ms);
void tagstash_watchdog_start(void);
void tagstash_watchdog_stop(void);
void tagstash_watchdog_exit(void);
u64 tagstash_watchdog_looks(void);
int tagstash_handover_init(void);
void tagstash_handover_exit(void);
void tagstash_debugfs_init(void);
void tagstash_debugfs_exit(void);

#endif /* TAGSTASH_CORE_H */
