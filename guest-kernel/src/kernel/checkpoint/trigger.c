// SPDX-License-Identifier: GPL-2.0-only
/*
 * cgroup.freeze_at: freeze a cgroup at an exactly counted event.
 *
 * A test cannot stop a process at an exact point by sleeping. Here the task
 * that causes the event freezes its own cgroup, in its own context, at a place
 * where it may sleep. So the event has happened when the cgroup freezes, and no
 * task in the cgroup runs beyond its next stop.
 *
 * The number of an event among those of one task is the same in each run; its
 * number among those of all tasks is not. So a trigger can name the task by its
 * path in the tree: 2.1.3 is the third child (or thread) of the first child of
 * the second task that existed when the trigger was armed. A trigger with
 * target 0 never fires and lists the events that it counts. A task has one
 * name, given by the trigger armed last.
 *
 * A trigger is replaced as a whole under cgroup_mutex and read under RCU. The
 * hooks are behind a static key that is on while any trigger is armed.
 */
#include <linux/capability.h>
#include <linux/cgroup.h>
#include <linux/ctype.h>
#include <linux/kernfs.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/syscall.h>

#include "../cgroup/cgroup-internal.h"
#include "ckpt.h"
#include "ptrace.h"

DEFINE_STATIC_KEY_FALSE(ckpt_events_armed);

/* Maximum number of events in the list of a trigger with target 0. */
#define MAX_LISTED	65536

/* An event in the list of a trigger with target 0. */
struct listed {
	struct ckpt_name name;	/* @events: number among the task's events */
	u8 event;
	u8 stop;		/* a ptrace stop: enum ckpt_stop_kind */
	int nr;			/* the system call that current is in, or -1 */
	int arg;
};

struct ckpt_trigger {
	struct rcu_head rcu;
	enum ckpt_event event;
	bool any_arg;
	long arg;
	struct ckpt_name name;	/* depth 0: any task's events count */
	u64 target;		/* 0: never fires, lists all */
	atomic64_t count;
	struct pid *pid;	/* of the task that fired it, else NULL */
	struct listed *list;
};

static const char *const event_names[NR_CKPT_EVENTS] = {
	[CKPT_EVENT_NONE]		= "none",
	[CKPT_EVENT_VFORK]		= "vfork",
	[CKPT_EVENT_VFORK_NEW]		= "vfork-new",
	[CKPT_EVENT_SYSCALL]		= "syscall",
	[CKPT_EVENT_SYSCALL_EXIT]	= "syscall-exit",
	[CKPT_EVENT_SIGNAL]		= "signal",
	[CKPT_EVENT_PTRACE_STOP]	= "ptrace-stop",
	[CKPT_EVENT_EXEC_WAIT]		= "exec-wait",
	[CKPT_EVENT_ALL]		= "all",
};

static bool has_arg(enum ckpt_event event)
{
	return event == CKPT_EVENT_SYSCALL || event == CKPT_EVENT_SIGNAL ||
	       event == CKPT_EVENT_SYSCALL_EXIT;
}

static void free_trigger(struct ckpt_trigger *t)
{
	if (!t)
		return;
	put_pid(t->pid);
	kvfree(t->list);
	kfree(t);
}

static void free_trigger_rcu(struct rcu_head *rcu)
{
	free_trigger(container_of(rcu, struct ckpt_trigger, rcu));
}

/*
 * A child inherits no site from its parent. It gets its name later, when its
 * creation can no longer fail (ckpt_name_child()).
 */
void ckpt_task_init(struct task_struct *child)
{
	memset(&child->ckpt_site, 0, sizeof(child->ckpt_site));
	/* hide the tasks of a restart before they can be found by number */
	child->ckpt_site.restart = current->ckpt_site.restart;
	if (!ckpt_broken(CKPT_BREAK_GUARD_HIDDEN))
		child->ckpt_site.hidden = current->ckpt_site.restart;
}

void ckpt_name_child(struct task_struct *child)
{
	struct ckpt_name *own = &current->ckpt_site.name;
	struct ckpt_name *name = &child->ckpt_site.name;

	if (!own->depth || own->depth == CKPT_NAME_DEPTH || own->births == U16_MAX)
		return;
	memcpy(name->nth, own->nth, sizeof(name->nth));
	name->nth[own->depth] = ++own->births;
	name->depth = own->depth + 1;
}

static bool same_name(const struct ckpt_name *a, const struct ckpt_name *b)
{
	return a->depth == b->depth &&
	       !memcmp(a->nth, b->nth, a->depth * sizeof(a->nth[0]));
}

static void show_name(struct seq_file *seq, const struct ckpt_name *name)
{
	int i;

	if (!name->depth)
		seq_putc(seq, '?');
	for (i = 0; i < name->depth; i++)
		seq_printf(seq, "%s%u", i ? "." : "", name->nth[i]);
}

static int parse_name(char *word, struct ckpt_name *name)
{
	char *part;

	while ((part = strsep(&word, "."))) {
		if (name->depth == CKPT_NAME_DEPTH ||
		    kstrtou16(part, 10, &name->nth[name->depth]) ||
		    !name->nth[name->depth])
			return -EINVAL;
		name->depth++;
	}
	return 0;
}

/* Count an event. Returns true when the trigger fires. */
static bool count_event(struct cgroup *cgrp, enum ckpt_event event, long arg)
{
	struct ckpt_name *name = &current->ckpt_site.name;
	struct ckpt_trigger *t;
	bool hit = false;
	s64 count;

	rcu_read_lock();
	t = rcu_dereference(cgrp->freeze_at);
	if (!t || (t->event != event && t->event != CKPT_EVENT_ALL))
		goto out;
	if (has_arg(t->event) && !t->any_arg && t->arg != arg)
		goto out;
	name->events++;
	count = atomic64_inc_return(&t->count);
	if (t->list && count <= MAX_LISTED) {
		struct listed *at = &t->list[count - 1];

		at->name = *name;
		at->event = event;
		at->stop = current->ckpt_site.stop;
		at->nr = syscall_get_nr(current, current_pt_regs());
		at->arg = arg;
	}
	if (t->name.depth)
		hit = same_name(&t->name, name) && name->events == t->target;
	else
		hit = count == t->target;
	if (hit)
		WRITE_ONCE(t->pid, get_task_pid(current, PIDTYPE_PID));
out:
	rcu_read_unlock();
	return hit;
}

/*
 * Count an event for the triggers of the task's cgroup and of its ancestors. A
 * trigger freezes as writing 1 to cgroup.freeze does; writing 0 thaws.
 */
void __ckpt_event(enum ckpt_event event, long arg)
{
	struct cgroup *cgrp;

	rcu_read_lock();
	cgrp = task_dfl_cgroup(current);
	if (!cgroup_tryget(cgrp))
		cgrp = NULL;
	rcu_read_unlock();
	if (!cgrp)
		return;
	for (struct cgroup *c = cgrp; c; c = cgroup_parent(c)) {
		if (!count_event(c, event, arg))
			continue;
		cgroup_lock();
		cgroup_freeze(c, true);
		cgroup_unlock();
		cgroup_file_notify(&c->freeze_at_file);
	}
	cgroup_put(cgrp);
}

static void set_trigger(struct cgroup *cgrp, struct ckpt_trigger *new)
{
	struct ckpt_trigger *old;

	old = rcu_replace_pointer(cgrp->freeze_at, new,
				  lockdep_is_held(&cgroup_mutex));
	if (new)
		static_branch_inc(&ckpt_events_armed);
	if (old) {
		static_branch_dec(&ckpt_events_armed);
		call_rcu(&old->rcu, free_trigger_rcu);
	}
}

/*
 * Name the tasks of the cgroup. If the trigger counts system calls, also set
 * the work bit by which a task's system calls are counted. Children inherit the
 * bit. It stays set when the trigger is removed, because it costs little.
 */
static void mark_tasks(struct cgroup *cgrp, bool syscalls)
{
	struct cgroup_subsys_state *css;
	struct css_task_iter it;
	struct task_struct *t;
	u16 nr = 0;

	css_for_each_descendant_pre(css, &cgrp->self) {
		css_task_iter_start(css, 0, &it);
		while ((t = css_task_iter_next(&it))) {
			t->ckpt_site.name = (struct ckpt_name){
				.depth = 1,
				.nth[0] = ++nr,
			};
			if (syscalls)
				set_task_syscall_work(t, SYSCALL_CKPT);
		}
		css_task_iter_end(&it);
	}
}

/* EVENT [ARG|*] [@TASK] COUNT */
static int parse_trigger(char *buf, struct ckpt_trigger *t)
{
	char *word = strsep(&buf, " ");
	int event = match_string(event_names, NR_CKPT_EVENTS, word);
	int ret;

	if (event <= 0 || !buf)
		return -EINVAL;
	t->event = event;
	if (has_arg(event)) {
		word = strsep(&buf, " ");
		if (!buf)
			return -EINVAL;
		t->any_arg = !strcmp(word, "*");
		ret = t->any_arg ? 0 : kstrtol(word, 10, &t->arg);
		if (ret)
			return ret;
	}
	if (*buf == '@') {
		word = strsep(&buf, " ") + 1;
		ret = parse_name(word, &t->name);
		if (ret || !buf)
			return -EINVAL;
	}
	ret = kstrtou64(buf, 10, &t->target);
	if (ret || t->target)
		return ret;
	t->list = kvcalloc(MAX_LISTED, sizeof(*t->list), GFP_KERNEL_ACCOUNT);
	return t->list ? 0 : -ENOMEM;
}

ssize_t ckpt_freeze_at_write(struct kernfs_open_file *of, char *buf,
			     size_t nbytes, loff_t off)
{
	struct ckpt_trigger *t = NULL;
	struct cgroup *cgrp;
	int ret;

	/* a trigger slows system calls down: owning the cgroup is not enough */
	if (!file_ns_capable(of->file, &init_user_ns, CAP_CHECKPOINT_RESTORE) &&
	    !file_ns_capable(of->file, &init_user_ns, CAP_SYS_ADMIN))
		return -EPERM;
	buf = strstrip(buf);
	if (*buf) {
		t = kzalloc(sizeof(*t), GFP_KERNEL_ACCOUNT);
		if (!t)
			return -ENOMEM;
		ret = parse_trigger(buf, t);
		if (ret) {
			free_trigger(t);
			return ret;
		}
	}
	cgrp = cgroup_kn_lock_live(of->kn, false);
	if (!cgrp) {
		free_trigger(t);
		return -ENODEV;
	}
	set_trigger(cgrp, t);
	if (t)
		mark_tasks(cgrp, t->event == CKPT_EVENT_SYSCALL ||
			   t->event == CKPT_EVENT_SYSCALL_EXIT ||
			   t->event == CKPT_EVENT_ALL);
	cgroup_kn_unlock(of->kn);
	return nbytes;
}

static void show_listed(struct seq_file *seq, const struct listed *at)
{
	seq_puts(seq, "at ");
	show_name(seq, &at->name);
	seq_printf(seq, " %u %s %d", at->name.events, event_names[at->event],
		   at->arg);
	if (at->event == CKPT_EVENT_PTRACE_STOP)
		seq_printf(seq, " %s %d", ckpt_stop_name(at->stop), at->nr);
	seq_putc(seq, '\n');
}

int ckpt_freeze_at_show(struct seq_file *seq, void *v)
{
	struct cgroup *cgrp = seq_css(seq)->cgroup;
	struct ckpt_trigger *t;
	struct pid *pid;
	s64 count, i;

	rcu_read_lock();
	t = rcu_dereference(cgrp->freeze_at);
	if (t) {
		pid = READ_ONCE(t->pid);
		count = atomic64_read(&t->count);
		seq_printf(seq, "event %s\narg %ld\ntarget %llu\ncount %lld\nfired %d\npid %d\n",
			   event_names[t->event], t->arg, t->target, count,
			   !!pid, pid_vnr(pid));
		if (t->list)
			seq_printf(seq, "listed %lld\n",
				   min_t(s64, count, MAX_LISTED));
		for (i = 0; t->list && i < min_t(s64, count, MAX_LISTED); i++)
			show_listed(seq, &t->list[i]);
	}
	rcu_read_unlock();
	return 0;
}

/*
 * Disarm the trigger of a removed cgroup, whose file cannot be written again.
 */
void ckpt_cgroup_free(struct cgroup *cgrp)
{
	lockdep_assert_held(&cgroup_mutex);
	set_trigger(cgrp, NULL);
}
