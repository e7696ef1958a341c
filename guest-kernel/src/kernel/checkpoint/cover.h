/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Coverage of checkpoint(2), of restart(2) and of the tasks that a restart
 * creates. A process that has enabled remote coverage with a common handle
 * (KCOV_REMOTE_ENABLE, Documentation/dev-tools/kcov.rst) collects the coverage
 * of all its descendants.
 */
#ifndef _KERNEL_CHECKPOINT_COVER_H
#define _KERNEL_CHECKPOINT_COVER_H

#include <linux/kcov.h>
#include <linux/sched.h>

/*
 * Start to collect coverage. Returns true if it has started, and must be
 * stopped by ckpt_cover_end(). A task that collects its own coverage
 * (KCOV_ENABLE) continues to do so.
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
