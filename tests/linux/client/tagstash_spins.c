// SPDX-License-Identifier: GPL-2.0-only
/*
 * A kernel thread that never sleeps. On a kernel that preempts it, who waits for all tasks to pass
 * a quiescent point waits for as long as this module is loaded.
 */
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>

static struct task_struct *task;

static int spin(void *data)
{
	set_user_nice(current, MAX_NICE);
	while (!kthread_should_stop())
		cond_resched();
	return 0;
}

static int __init tagstash_spins_init(void)
{
	task = kthread_run(spin, NULL, "tagstash_spins");
	return PTR_ERR_OR_ZERO(task);
}

static void __exit tagstash_spins_exit(void)
{
	kthread_stop(task);
}

module_init(tagstash_spins_init);
module_exit(tagstash_spins_exit);

MODULE_DESCRIPTION("Tests the Tagstash driver: holds up who waits for all tasks");
MODULE_AUTHOR("The Tagstash authors");
MODULE_LICENSE("GPL");
