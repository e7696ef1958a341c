// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fault injection: debugfs checkpoint/break_*. Writing 1 makes restart(2) skip
 * one piece of its code. A test that still passes does not cover that piece.
 * Skipping a guard reopens a security hole that an earlier version of
 * checkpoint(2) or restart(2) had. Skipping a check lets a forged image corrupt
 * the kernel.
 */
#include <linux/debugfs.h>
#include <linux/init.h>

#include "ckpt.h"

static bool broken[NR_CKPT_BREAKS];

static const char *const names[NR_CKPT_BREAKS] = {
	[CKPT_BREAK_VFORK_WAIT]		= "break_vfork_wait",
	[CKPT_BREAK_SYSCALL_ENTER]	= "break_syscall_enter",
	[CKPT_BREAK_SYSCALL_EXIT]	= "break_syscall_exit",
	[CKPT_BREAK_SIGNAL_STOP]	= "break_signal_stop",
	[CKPT_BREAK_FREE]		= "break_free",
	[CKPT_BREAK_VMA_FLAG]		= "break_vma_flag",
	[CKPT_BREAK_CREDENTIAL]		= "break_credential",
	[CKPT_BREAK_REGISTER]		= "break_register",
	[CKPT_BREAK_HANDLER]		= "break_handler",
	[CKPT_BREAK_SIGNAL_QUEUE]		= "break_signal_queue",
	[CKPT_BREAK_ITIMER]		= "break_itimer",
	[CKPT_BREAK_SLEEP]		= "break_sleep",
	[CKPT_BREAK_PIPE_END]		= "break_pipe_end",
	[CKPT_BREAK_PIPE_FLAG]		= "break_pipe_flag",
	[CKPT_BREAK_SHARED_PAGE]		= "break_shared_page",
	[CKPT_BREAK_RLIMIT]		= "break_rlimit",
	[CKPT_BREAK_GUARD_READABLE]	= "break_guard_readable",
	[CKPT_BREAK_GUARD_FILTER]	= "break_guard_filter",
	[CKPT_BREAK_GUARD_HIDDEN]	= "break_guard_hidden",
	[CKPT_BREAK_GUARD_SIGKILL]	= "break_guard_sigkill",
	[CKPT_BREAK_GUARD_RECHECK]	= "break_guard_recheck",
	[CKPT_BREAK_CHECK_LENGTH]	= "break_check_length",
};

bool ckpt_broken(enum ckpt_break what)
{
	return READ_ONCE(broken[what]);
}

static int __init ckpt_break_init(void)
{
	struct dentry *dir = debugfs_create_dir("checkpoint", NULL);
	int i;

	for (i = 0; i < NR_CKPT_BREAKS; i++)
		debugfs_create_bool(names[i], 0600, dir, &broken[i]);
	return 0;
}
late_initcall(ckpt_break_init);
