// SPDX-License-Identifier: GPL-2.0-only
/* /proc/PID/ckpt_site: the site of a task, as checkpoint(2) will read it. */
#include <linux/proc_fs.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>

#include "ckpt.h"
#include "ptrace.h"

int proc_ckpt_site(struct seq_file *m, struct pid_namespace *ns,
		   struct pid *pid, struct task_struct *task)
{
	int arg = task->ckpt_site.arg;

	/* the site reveals as much about a task as /proc/PID/syscall */
	if (!ptrace_may_access(task, PTRACE_MODE_ATTACH_FSCREDS))
		return -EPERM;
	if (READ_ONCE(task->exit_state)) {
		seq_puts(m, "exiting\n");
		return 0;
	}
	switch (READ_ONCE(task->ckpt_site.kind)) {
	case CKPT_SITE_FREEZER:
		seq_puts(m, "freezer\n");
		break;
	case CKPT_SITE_VFORK:
		seq_printf(m, "vfork nr=%d\n", arg);
		break;
	case CKPT_SITE_EXEC:
		seq_puts(m, "exec\n");
		break;
	case CKPT_SITE_STOPPED:
		seq_printf(m, "stopped sig=%d\n", arg);
		break;
	case CKPT_SITE_PTRACE:
		seq_printf(m, "ptrace-stop %s\n",
			   ckpt_stop_name(READ_ONCE(task->ckpt_site.stop)));
		break;
	default:
		seq_puts(m, "none\n");
	}
	return 0;
}
