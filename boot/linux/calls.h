/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hypercalls of the Tagstash shim, one function for each, as docs/abi.md (version 1.1)
 * describes them.
 *
 * All of them may be called at any time, on any CPU, with any interrupt mask and under any lock:
 * none sleeps and none waits for the guest. They are legal only after the shim has been found:
 * elsewhere an HVC may be undefined. tagstash_client::start() says when that is.
 *
 * A status is 0 or one of the negative TAGSTASH_* errors, which are not errno values. Where a call
 * has results, they are a1-a3 of the result, as x1-x3 of the ABI.
 */
#ifndef TAGSTASH_CALLS_H
#define TAGSTASH_CALLS_H

#include <linux/arm-smccc.h>
#include <linux/bits.h>
#include <linux/types.h>

/* Discovery, by the numbers of the SMC Calling Convention. */
#define TAGSTASH_FN_UID			0x8600ff01
#define TAGSTASH_UID_0			0xc2d3957a
#define TAGSTASH_UID_1			0x6e4f0b5e
#define TAGSTASH_UID_2			0xc8641a9d
#define TAGSTASH_UID_3			0x503bf7a1

/* The major version that this driver is written for. */
#define TAGSTASH_MAJOR			1

#define TAGSTASH_FN_VERSION		0xc6000100
#define TAGSTASH_FN_REGION		0xc6000101
#define TAGSTASH_FN_STATISTIC		0xc6000102
#define TAGSTASH_FN_CENSUS		0xc6000103
#define TAGSTASH_FN_STATE		0xc6000104
#define TAGSTASH_FN_EVENTS		0xc6000105
#define TAGSTASH_FN_POOL_CREATE		0xc6000110
#define TAGSTASH_FN_POOL_DESTROY	0xc6000111
#define TAGSTASH_FN_PUT			0xc6000120
#define TAGSTASH_FN_GET			0xc6000121
#define TAGSTASH_FN_FLUSH_PAGE		0xc6000122
#define TAGSTASH_FN_FLUSH_OBJECT	0xc6000123
#define TAGSTASH_FN_FLUSH_POOL		0xc6000124
#define TAGSTASH_FN_RECLAIM		0xc6000130
#define TAGSTASH_FN_RELEASE		0xc6000131
#define TAGSTASH_FN_QUERY		0xc6000132
#define TAGSTASH_FN_ACTIVATE		0xc6000140
#define TAGSTASH_FN_DEACTIVATE		0xc6000141

/**
 * enum tagstash_status - what x0 of a call says
 * @TAGSTASH_SUCCESS: done
 * @TAGSTASH_NOT_SUPPORTED: the function is unknown to this version
 * @TAGSTASH_INVALID_PARAMETER: an argument is out of its range
 * @TAGSTASH_INVALID_ADDRESS: misaligned, or not guest RAM
 * @TAGSTASH_NO_REUSE: there is no tag storage to lend
 * @TAGSTASH_NO_SUCH_POOL: the pool id names no pool
 * @TAGSTASH_NO_FREE_POOL: as many pools exist as there can be
 * @TAGSTASH_POOL_MISMATCH: a shared pool of this UUID has another page size
 * @TAGSTASH_BUSY: another CPU is making a pool, call again
 * @TAGSTASH_NOT_CACHED: PUT did not keep a page, and no earlier copy of it remains
 * @TAGSTASH_MISS: GET did not find a page, and its destination is unspecified
 * @TAGSTASH_NOT_CLAIMED: RELEASE of a page that had no claim
 * @TAGSTASH_COPY_FAULT: an external abort ended a copy
 */
enum tagstash_status {
	TAGSTASH_SUCCESS		= 0,
	TAGSTASH_NOT_SUPPORTED		= -1,
	TAGSTASH_INVALID_PARAMETER	= -3,
	TAGSTASH_INVALID_ADDRESS	= -4,
	TAGSTASH_NO_REUSE		= -5,
	TAGSTASH_NO_SUCH_POOL		= -6,
	TAGSTASH_NO_FREE_POOL		= -7,
	TAGSTASH_POOL_MISMATCH		= -8,
	TAGSTASH_BUSY			= -9,
	TAGSTASH_NOT_CACHED		= -10,
	TAGSTASH_MISS			= -11,
	TAGSTASH_NOT_CLAIMED		= -12,
	TAGSTASH_COPY_FAULT		= -13,
};

/* VERSION: a1, a2, a3. */
#define TAGSTASH_VERSION_MAJOR(a1)	((u32)(a1) >> 16)
#define TAGSTASH_VERSION_MINOR(a1)	((u32)(a1) & 0xffff)
#define TAGSTASH_FEATURE_REUSE		BIT(0)
#define TAGSTASH_FEATURE_VERIFY		BIT(1)
#define TAGSTASH_FEATURE_TAGS_HIDDEN	BIT(2)
#define TAGSTASH_LIMIT_RUN(a3)		((unsigned int)((a3) & 0xffff))
#define TAGSTASH_LIMIT_POOLS(a3)	((unsigned int)((a3) >> 16 & 0xffff))
#define TAGSTASH_LIMIT_CPUS(a3)		((unsigned int)((a3) >> 32 & 0xff))
#define TAGSTASH_LIMIT_REGIONS(a3)	((unsigned int)((a3) >> 40 & 0xff))

/* STATE: a1. */
#define TAGSTASH_STATE(a1)		((unsigned int)((a1) & 3))
#define TAGSTASH_STATE_DORMANT		0
#define TAGSTASH_STATE_ACTIVATING	1
#define TAGSTASH_STATE_ACTIVE		2
#define TAGSTASH_STATE_DEACTIVATING	3
#define TAGSTASH_STATE_VERIFY		BIT(8)

/* STATISTIC: the numbers of what the shim counts. */
#define TAGSTASH_STATISTICS		18
#define TAGSTASH_STATISTIC_PUTS		0
#define TAGSTASH_STATISTIC_PUTS_CACHED	1
#define TAGSTASH_STATISTIC_GETS		3
#define TAGSTASH_STATISTIC_HITS		4
#define TAGSTASH_STATISTIC_MISMATCHES	5

/* CENSUS: frames a call counts at most. */
#define TAGSTASH_CENSUS_FRAMES		4096

/* QUERY: a1. */
#define TAGSTASH_QUERY_HAS_STORAGE	BIT(0)
#define TAGSTASH_QUERY_CLAIMED		BIT(1)
#define TAGSTASH_QUERY_LENT		BIT(2)

#define TAGSTASH_POOL_SHARED		BIT(8)
#define TAGSTASH_ACTIVATE_VERIFY	BIT(0)

/* The shim's page, whatever the kernel's is: the unit of RECLAIM and RELEASE. */
#define TAGSTASH_PAGE_SHIFT		12
#define TAGSTASH_PAGE_SIZE		BIT(TAGSTASH_PAGE_SHIFT)

/**
 * struct tagstash_key - names a page, or the first of a run
 * @pool: the pool's id, as tagstash_pool_create() gave it
 * @object: six 32-bit words, as of a file handle; word 0 is in the low half of object[0]
 * @index: the page's offset in the object, in pages of the pool's page size
 */
struct tagstash_key {
	u64 pool;
	u64 object[3];
	u64 index;
};

/**
 * tagstash_uid() - reads the UID of whoever serves vendor-specific hypervisor calls
 * @res: a0-a3 are its four words, to be compared with TAGSTASH_UID_0 to 3
 */
static inline void tagstash_uid(struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_UID, res);
}

/**
 * tagstash_version() - VERSION, which is the null call too
 * @res: a1 version, a2 features, a3 limits
 *
 * Return: status
 */
static inline long tagstash_version(struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_VERSION, res);
	return res->a0;
}

/**
 * tagstash_region() - REGION, describes a region of tag storage
 * @region: its number
 * @res: a1 frames, a2 block size in bytes, a3 pages of tagged memory
 *
 * Return: status
 */
static inline long tagstash_region(unsigned int region, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_REGION, (u64)region, res);
	return res->a0;
}

/**
 * tagstash_statistic() - STATISTIC, reads a counter of the shim
 * @statistic: its number
 * @value: set to its value, 0 if there is no such counter
 *
 * Return: status
 */
static inline long tagstash_statistic(unsigned int statistic, u64 *value)
{
	struct arm_smccc_res res;

	arm_smccc_1_1_hvc(TAGSTASH_FN_STATISTIC, (u64)statistic, &res);
	*value = res.a0 == TAGSTASH_SUCCESS ? res.a1 : 0;
	return res.a0;
}

/**
 * tagstash_census() - CENSUS, counts frames by what they hold
 * @region: the region's number
 * @first: first frame, from the start of the region's storage
 * @frames: how many; TAGSTASH_CENSUS_FRAMES at most are counted
 * @res: a1 frames counted, a2 in tags (low half) and cached, a3 free (low half) and dormant
 *
 * Return: status
 */
static inline long tagstash_census(unsigned int region, u64 first, u64 frames,
				   struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_CENSUS, (u64)region, first, frames, res);
	return res->a0;
}

/**
 * tagstash_state() - STATE, what the last ACTIVATE or DEACTIVATE came to
 * @res: a1 state and verification, a2 blocks, a3 frames
 *
 * Return: status
 */
static inline long tagstash_state(struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_STATE, res);
	return res->a0;
}

/**
 * tagstash_events() - EVENTS, reads a rare event that the shim noted (since version 1.1)
 * @wanted: number of the first event wanted
 * @time: whether to give the event's time, rather than its argument
 * @res: a1 number of the event, a2 what happened and on which CPU, a3 argument or time
 *
 * Return: status
 */
static inline long tagstash_events(u64 wanted, bool time, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_EVENTS, wanted, (u64)time, res);
	return res->a0;
}

/**
 * tagstash_pool_create() - POOL_CREATE, makes a private pool
 * @page_shift: log2 of the pool's page size: 12, 14 or 16
 * @pool: set to the pool's id
 *
 * Calls again while another CPU is making a pool, which takes it some hundred instructions at EL2.
 *
 * Return: status
 */
static inline long tagstash_pool_create(unsigned int page_shift, u64 *pool)
{
	struct arm_smccc_res res;

	do {
		arm_smccc_1_1_hvc(TAGSTASH_FN_POOL_CREATE, (u64)page_shift, &res);
	} while ((long)res.a0 == TAGSTASH_BUSY);
	*pool = res.a1;
	return res.a0;
}

/**
 * tagstash_pool_create_shared() - POOL_CREATE, makes a shared pool, or finds it
 * @page_shift: log2 of the pool's page size: 12, 14 or 16
 * @uuid: any two words, which name the pool
 * @pool: set to the pool's id
 *
 * Return: status
 */
static inline long tagstash_pool_create_shared(unsigned int page_shift, const u64 uuid[2],
					       u64 *pool)
{
	struct arm_smccc_res res;

	do {
		arm_smccc_1_1_hvc(TAGSTASH_FN_POOL_CREATE, (u64)page_shift | TAGSTASH_POOL_SHARED,
				  uuid[0], uuid[1], &res);
	} while ((long)res.a0 == TAGSTASH_BUSY);
	*pool = res.a1;
	return res.a0;
}

/**
 * tagstash_pool_destroy() - POOL_DESTROY, drops a pool with all its pages
 * @pool: its id
 *
 * Return: status
 */
static inline long tagstash_pool_destroy(u64 pool)
{
	struct arm_smccc_res res;

	arm_smccc_1_1_hvc(TAGSTASH_FN_POOL_DESTROY, pool, &res);
	return res.a0;
}

/**
 * tagstash_put() - PUT, offers a run of pages to the stash
 * @key: the first page's
 * @address: its physical address, aligned to the pool's page size
 * @pages: how many, 1 to 64
 * @res: a1 pages dealt with, a2 bit i: page i is cached
 *
 * The caller keeps the pages unchanged during the call.
 *
 * Return: status
 */
static inline long tagstash_put(const struct tagstash_key *key, phys_addr_t address,
				unsigned int pages, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_PUT, key->pool, key->object[0], key->object[1],
			  key->object[2], key->index, (u64)address,
			  (u64)pages, res);
	return res->a0;
}

/**
 * tagstash_get() - GET, takes a run of pages out of the stash
 * @key: the first page's
 * @address: where it goes, a physical address aligned to the pool's page size
 * @pages: how many, 1 to 64
 * @res: a1 pages dealt with, a2 bit i: page i was found
 *
 * A page that was not found has unspecified contents afterwards.
 *
 * Return: status
 */
static inline long tagstash_get(const struct tagstash_key *key, phys_addr_t address,
				unsigned int pages, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_GET, key->pool, key->object[0], key->object[1],
			  key->object[2], key->index, (u64)address,
			  (u64)pages, res);
	return res->a0;
}

/**
 * tagstash_flush_page() - FLUSH_PAGE, drops a run of pages
 * @key: the first page's
 * @pages: how many, 1 to 2^32 - 1; 4 MiB a call at most
 * @res: a1 pages dealt with
 *
 * Return: status
 */
static inline long tagstash_flush_page(const struct tagstash_key *key, u64 pages,
				       struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_FLUSH_PAGE, key->pool, key->object[0], key->object[1],
			  key->object[2], key->index, 0UL,
			  pages, res);
	return res->a0;
}

/**
 * tagstash_flush_object() - FLUSH_OBJECT, drops all pages of an object, in constant time
 * @pool: the pool's id
 * @object: the object
 *
 * Return: status
 */
static inline long tagstash_flush_object(u64 pool, const u64 object[3])
{
	struct arm_smccc_res res;

	arm_smccc_1_1_hvc(TAGSTASH_FN_FLUSH_OBJECT, pool, object[0], object[1], object[2], &res);
	return res.a0;
}

/**
 * tagstash_flush_pool() - FLUSH_POOL, drops all pages of a pool, in constant time
 * @pool: the pool's id
 *
 * Return: status
 */
static inline long tagstash_flush_pool(u64 pool)
{
	struct arm_smccc_res res;

	arm_smccc_1_1_hvc(TAGSTASH_FN_FLUSH_POOL, pool, &res);
	return res.a0;
}

/**
 * tagstash_reclaim() - RECLAIM, claims pages for tags
 * @address: physical address of the first, 4 KiB aligned
 * @pages: how many pages of 4 KiB
 * @res: a1 pages dealt with, a2 of these newly claimed
 *
 * Only the core may call it: it keeps account of what is claimed.
 *
 * Return: status
 */
static inline long tagstash_reclaim(phys_addr_t address, u64 pages, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_RECLAIM, (u64)address, pages, res);
	return res->a0;
}

/**
 * tagstash_release() - RELEASE, gives claims back
 * @address: physical address of the first page, 4 KiB aligned
 * @pages: how many pages of 4 KiB
 * @res: a1 pages dealt with, a2 of these given back
 *
 * Only the core may call it.
 *
 * Return: status
 */
static inline long tagstash_release(phys_addr_t address, u64 pages, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_RELEASE, (u64)address, pages, res);
	return res->a0;
}

/**
 * tagstash_query() - QUERY, asks about a page's tag storage
 * @address: its physical address, 4 KiB aligned
 * @res: a1 TAGSTASH_QUERY_* bits, a2 claims on its block
 *
 * Return: status
 */
static inline long tagstash_query(phys_addr_t address, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_QUERY, (u64)address, res);
	return res->a0;
}

/**
 * tagstash_activate() - ACTIVATE, lends a part of what nobody claims to the stash
 * @flags: 0 or TAGSTASH_ACTIVATE_VERIFY
 * @cursor: 0 to begin, then a1 of the call before
 * @res: a1 cursor, a2 end; done when they are equal
 *
 * Return: status
 */
static inline long tagstash_activate(u64 flags, u64 cursor, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_ACTIVATE, flags, cursor, res);
	return res->a0;
}

/**
 * tagstash_deactivate() - DEACTIVATE, takes a part of the storage back for tags
 * @cursor: 0 to begin, then a1 of the call before
 * @res: a1 cursor, a2 end; done when they are equal
 *
 * Return: status
 */
static inline long tagstash_deactivate(u64 cursor, struct arm_smccc_res *res)
{
	arm_smccc_1_1_hvc(TAGSTASH_FN_DEACTIVATE, cursor, res);
	return res->a0;
}

#endif /* TAGSTASH_CALLS_H */
