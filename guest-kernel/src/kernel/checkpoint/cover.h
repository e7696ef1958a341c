/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Coverage of checkpoint(2), of restart(2) and of the tasks that it creates. A
 * process that has asked for remote coverage with a common handle
 * (KCOV_REMOTE_ENABLE, Documentation/dev-tools/kcov.rst) gets that of all
 * its descendants.
 */
#ifndef _KERNEL_CHECKPOINT_COVER_H
#define _KERNEL_CHECKPOINT_COVER_H

#include <linux/kcov.h>
#include <linux/sched.h>

/*
 * Begin to count. Returns true when it has begun: then kcov_remote_stop() has
 * to end it. A task with coverage of its own (KCOV_ENABLE) keeps that.
 */
static inline bool ckpt_cover_begin(void)
{
#ifdef CONFIG_KCOV
	if (current->kcov_handle && !current->kcov_mode) {
		kcov_remote_start_common(current->kcov_handle);
		return true;
	}
#endif
	return false;
}

static inline void ckpt_cover_end(bool begun)
{
	if (begun)
		kcov_remote_stop();
}

#endif /* _KERNEL_CHECKPOINT_COVER_H */
