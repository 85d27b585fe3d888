// SPDX-License-Identifier: GPL-2.0-only
/* A module that stores tags in a function that the driver has no hook for. It never calls it. */
#include <linux/module.h>

void tagstash_stores_tag(void *address);

void tagstash_stores_tag(void *address)
{
	/* stg x0, [x0], for assemblers that do not know it. */
	asm volatile("mov x0, %0; .inst 0xd9200800" : : "r"(address) : "x0", "memory");
}
EXPORT_SYMBOL_GPL(tagstash_stores_tag);

MODULE_DESCRIPTION("Tests the Tagstash driver: has a tag store without a hook");
MODULE_AUTHOR("The Tagstash authors");
MODULE_LICENSE("GPL");
