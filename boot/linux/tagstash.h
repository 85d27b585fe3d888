/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a client of the stash sees of the core module: when it may make calls, and when no longer.
 * The calls themselves (calls.h) go straight to the shim.
 */
#ifndef TAGSTASH_H
#define TAGSTASH_H

#include <linux/list.h>
#include <linux/seq_file.h>

/**
 * struct tagstash_client - who puts pages into the stash and gets them
 * @name: for messages and debugfs
 * @start: the stash is active, and calls may be made until stop() is called. Makes the pools. May
 *	sleep. An error (negative errno) is reported, and the client stays without the stash until
 *	the next activation.
 * @stop: when it returns no call is under way and none is made any more: clear an RCU pointer,
 *	synchronize. All pools are gone afterwards, so they need not be destroyed. May sleep. Called
 *	only after a start() that returned 0.
 * @show: writes the client's pools and counters for debugfs; optional. May be called at any time
 *	while registered.
 * @list: the core's
 * @started: the core's
 *
 * start() and stop() alternate, and are never called at the same time.
 */
struct tagstash_client {
	const char *name;
	int (*start)(struct tagstash_client *client);
	void (*stop)(struct tagstash_client *client);
	void (*show)(struct tagstash_client *client, struct seq_file *file);
	struct list_head list;
	bool started;
};

/*
 * A client that must not depend on the core, because it stays when the core is unloaded, finds
 * these two by symbol_get(), at its own load and whenever module tagstash becomes live (a module
 * notifier), registers, and puts the symbol back: the core stays unloadable. As it is unloaded it
 * stops its clients and forgets them.
 */

/**
 * tagstash_register_client() - makes a client known
 * @client: the client, which stays valid until it is unregistered
 *
 * Calls start() before it returns if the stash is active.
 *
 * Return: 0, or -EEXIST if it is registered already. What start() returned is reported, not
 * returned.
 */
int tagstash_register_client(struct tagstash_client *client);

/**
 * tagstash_unregister_client() - forgets a client
 * @client: the client
 *
 * Calls stop() before it returns if the client was started.
 */
void tagstash_unregister_client(struct tagstash_client *client);

#endif /* TAGSTASH_H */
