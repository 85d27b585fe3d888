// SPDX-License-Identifier: GPL-2.0-only
/*
 * What there is to see, under tagstash/ in debugfs.
 *
 *   state       dormant or active, and why; the shim; the hooks
 *   active      0 or 1; writing changes it
 *   statistics  the shim's counters by the names of docs/abi.md, then the driver's
 *   regions     a map of each region of tag storage, a character for a group of frames
 *   claims      claims and what the worst one took; writing begins a new search for the worst
 *   audit       reading looks at every page: each one whose tags may be in use must have a claim
 *   clients     who uses the stash, with pools and counters
 */
#define pr_fmt(fmt) "tagstash: " fmt

#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <asm/arch_timer.h>

#include "core.h"

static struct dentry *directory;

/* In the order of their numbers (docs/abi.md, STATISTIC). */
static const char * const statistic_names[TAGSTASH_STATISTICS] = {
	"PUTS", "PUTS_CACHED", "EVICTIONS", "GETS", "HITS", "MISMATCHES", "PAGE_FLUSHES",
	"OBJECT_FLUSHES", "POOL_FLUSHES", "CLAIMS", "CLAIMS_HELD", "RELEASES", "RELEASES_REFUSED",
	"BLOCKS_TAKEN", "PAGES_DROPPED", "WAIT_POLLS", "WORST_WAIT", "COPY_FAULTS",
};

static int state_show(struct seq_file *file, void *data)
{
	tagstash_state_show(file);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(state);

static int statistics_show(struct seq_file *file, void *data)
{
	struct tagstash_counters own;
	unsigned int n;
	u64 value;

	for (n = 0; n < ARRAY_SIZE(statistic_names); n++)
		if (!tagstash_statistic(n, &value))
			seq_printf(file, "%s: %llu\n", statistic_names[n], value);
	tagstash_read_counters(&own);
	seq_printf(file, "driver_claims: %llu\ndriver_held: %llu\ndriver_walked: %llu\n",
		   own.claims, own.held, own.walked);
	seq_printf(file, "driver_releases: %llu\ndriver_refused: %llu\ndriver_foreign: %llu\n",
		   own.releases, own.refused, own.foreign);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(statistics);

/* Frames of a character, so that a region takes 32 lines of 64 at most. */
#define MAP_COLUMNS	64
#define MAP_LINES	32

static char map_character(const struct arm_smccc_res *res)
{
	u32 in_tags = res->a2, cached = res->a2 >> 32, free = res->a3, dormant = res->a3 >> 32;

	if (dormant == res->a1)
		return '-';
	if (in_tags == res->a1)
		return 'T';
	if (in_tags)
		return 't';
	if (cached == res->a1)
		return 'C';
	if (cached)
		return 'c';
	return free ? '.' : '?';
}

static void region_show(struct seq_file *file, unsigned int region)
{
	struct arm_smccc_res res;
	u64 frames, first, group, totals[4] = {};

	if (tagstash_region(region, &res))
		return;
	frames = res.a1;
	group = clamp_t(u64, DIV_ROUND_UP(frames, MAP_COLUMNS * MAP_LINES), 1,
			TAGSTASH_CENSUS_FRAMES);
	seq_printf(file,
		   "region %u: %llu frames, blocks of %lu KiB, %lu pages of data; %llu frames a character\n",
		   region, frames, res.a2 >> 10, res.a3, group);
	for (first = 0; first < frames; first += group) {
		if (tagstash_census(region, first, group, &res))
			break;
		totals[0] += (u32)res.a2;
		totals[1] += res.a2 >> 32;
		totals[2] += (u32)res.a3;
		totals[3] += res.a3 >> 32;
		seq_putc(file, map_character(&res));
		if (first / group % MAP_COLUMNS == MAP_COLUMNS - 1)
			seq_putc(file, '\n');
		cond_resched();
	}
	seq_printf(file, "\nin_tags: %llu\ncached: %llu\nfree: %llu\ndormant: %llu\n", totals[0],
		   totals[1], totals[2], totals[3]);
}

static int regions_show(struct seq_file *file, void *data)
{
	unsigned int region;

	seq_puts(file,
		 "T all in tags, t some in tags, C all cached, c some cached, . free, - dormant\n");
	for (region = 0; region < tagstash_shim.regions; region++)
		region_show(file, region);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(regions);

static int claims_show(struct seq_file *file, void *data)
{
	struct tagstash_counters own;
	u32 rate = arch_timer_get_cntfrq();

	tagstash_read_counters(&own);
	seq_printf(file, "claims: %llu\nreleases: %llu\n", own.claims + own.walked, own.releases);
	seq_printf(file, "worst_ticks: %llu\nticks_per_second: %u\n", own.worst, rate);
	seq_printf(file, "worst_ns: %llu\n", rate ? mul_u64_u32_div(own.worst, NSEC_PER_SEC, rate) :
		   0);
	return 0;
}

static ssize_t claims_write(struct file *file, const char __user *text, size_t size, loff_t *offset)
{
	tagstash_clear_worst();
	return size;
}

static int claims_open(struct inode *inode, struct file *file)
{
	return single_open(file, claims_show, NULL);
}

static const struct file_operations claims_fops = {
	.owner = THIS_MODULE,
	.open = claims_open,
	.read = seq_read,
	.write = claims_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int audit_show(struct seq_file *file, void *data)
{
	struct tagstash_audit audit;

	tagstash_audit_claims(&audit);
	seq_printf(file, "tagged: %lu\nclaimed: %lu\nidle_marks: %lu\n", audit.tagged,
		   audit.claimed, audit.idle_marks);
	seq_printf(file, "late: %lu\nmissing: %lu\n", audit.late, audit.missing);
	if (audit.missing)
		seq_printf(file, "first_missing_pfn: %#lx\n", audit.first);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(audit);

static int clients_show(struct seq_file *file, void *data)
{
	tagstash_clients_show(file);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(clients);

static ssize_t active_read(struct file *file, char __user *text, size_t size, loff_t *offset)
{
	return simple_read_from_buffer(text, size, offset, tagstash_is_active() ? "1\n" : "0\n", 2);
}

static ssize_t active_write(struct file *file, const char __user *text, size_t size, loff_t *offset)
{
	bool on;
	int error = kstrtobool_from_user(text, size, &on);

	if (error)
		return error;
	if (on)
		error = tagstash_go_active();
	else
		tagstash_go_dormant("0 was written to debugfs tagstash/active");
	return error ?: size;
}

static const struct file_operations active_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.read = active_read,
	.write = active_write,
	.llseek = default_llseek,
};

/**
 * tagstash_debugfs_init() - makes the files. That there is no debugfs is no error
 */
void tagstash_debugfs_init(void)
{
	directory = debugfs_create_dir("tagstash", NULL);
	debugfs_create_file("state", 0444, directory, NULL, &state_fops);
	debugfs_create_file("active", 0600, directory, NULL, &active_fops);
	debugfs_create_file("statistics", 0444, directory, NULL, &statistics_fops);
	debugfs_create_file("regions", 0444, directory, NULL, &regions_fops);
	debugfs_create_file("claims", 0644, directory, NULL, &claims_fops);
	debugfs_create_file("audit", 0400, directory, NULL, &audit_fops);
	debugfs_create_file("clients", 0444, directory, NULL, &clients_fops);
}

/**
 * tagstash_debugfs_exit() - removes the files, when nobody is reading or writing any
 */
void tagstash_debugfs_exit(void)
{
	debugfs_remove_recursive(directory);
}
