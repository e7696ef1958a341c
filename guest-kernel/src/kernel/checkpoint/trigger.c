// SPDX-License-Identifier: GPL-2.0
/*
 * cgroup.freeze_at: freeze a cgroup at an exactly counted event.
 *
 * A test that wants a process at a certain point of its life cannot get it
 * there by sleeping. Here the task that causes the event freezes its own
 * cgroup, in its own context, at a place where it may sleep: so the event has
 * happened, and neither the task nor anybody else in the cgroup gets further
 * than its next stop.
 *
 * A trigger is replaced as a whole under cgroup_mutex and read under RCU. The
 * hooks are behind a static key that is on while any trigger is armed.
 */
#include <linux/cgroup.h>
#include <linux/ctype.h>
#include <linux/kernfs.h>
#include <linux/pid_namespace.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "../cgroup/cgroup-internal.h"
#include "ckpt.h"

DEFINE_STATIC_KEY_FALSE(ckpt_events_armed);

struct ckpt_trigger {
	struct rcu_head rcu;
	enum ckpt_event event;
	long arg;
	u64 target;
	atomic64_t count;
	struct pid *pid;	/* of the task that fired it; NULL before */
};

static const char *const event_names[NR_CKPT_EVENTS] = {
	[CKPT_EVENT_NONE]	= "none",
	[CKPT_EVENT_VFORK]	= "vfork",
	[CKPT_EVENT_VFORK_NEW]	= "vfork-new",
	[CKPT_EVENT_SYSCALL]	= "syscall",
	[CKPT_EVENT_SIGNAL]	= "signal",
};

static bool has_arg(enum ckpt_event event)
{
	return event == CKPT_EVENT_SYSCALL || event == CKPT_EVENT_SIGNAL;
}

static void free_trigger(struct rcu_head *rcu)
{
	struct ckpt_trigger *t = container_of(rcu, struct ckpt_trigger, rcu);

	put_pid(t->pid);
	kfree(t);
}

/* Count; true for the one event that is the trigger's. */
static bool count_event(struct cgroup *cgrp, enum ckpt_event event, long arg)
{
	struct ckpt_trigger *t;
	bool hit = false;

	rcu_read_lock();
	t = rcu_dereference(cgrp->freeze_at);
	if (t && t->event == event && (!has_arg(event) || t->arg == arg) &&
	    atomic64_inc_return(&t->count) == t->target) {
		WRITE_ONCE(t->pid, get_task_pid(current, PIDTYPE_PID));
		hit = true;
	}
	rcu_read_unlock();
	return hit;
}

/*
 * Triggers of the task's own cgroup and of those above it. The freeze is the
 * one that writing 1 to cgroup.freeze makes, and is undone by writing 0.
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
		call_rcu(&old->rcu, free_trigger);
	}
}

/*
 * System calls are looked at only in tasks that carry the work bit, which
 * children inherit. It stays when the trigger goes; it costs little.
 */
static void mark_tasks(struct cgroup *cgrp)
{
	struct cgroup_subsys_state *css;
	struct css_task_iter it;
	struct task_struct *t;

	css_for_each_descendant_pre(css, &cgrp->self) {
		css_task_iter_start(css, 0, &it);
		while ((t = css_task_iter_next(&it)))
			set_task_syscall_work(t, SYSCALL_CKPT);
		css_task_iter_end(&it);
	}
}

static int parse_trigger(char *buf, struct ckpt_trigger *t)
{
	char *word = strsep(&buf, " ");
	int event = match_string(event_names, NR_CKPT_EVENTS, word);
	int ret;

	if (event < 0 || !buf)
		return -EINVAL;
	t->event = event;
	if (has_arg(event)) {
		word = strsep(&buf, " ");
		if (!buf)
			return -EINVAL;
		ret = kstrtol(word, 10, &t->arg);
		if (ret)
			return ret;
	}
	ret = kstrtou64(buf, 10, &t->target);
	if (ret)
		return ret;
	return t->target ? 0 : -EINVAL;
}

ssize_t ckpt_freeze_at_write(struct kernfs_open_file *of, char *buf,
			     size_t nbytes, loff_t off)
{
	struct ckpt_trigger *t = NULL;
	struct cgroup *cgrp;
	int ret;

	buf = strstrip(buf);
	if (*buf) {
		t = kzalloc(sizeof(*t), GFP_KERNEL_ACCOUNT);
		if (!t)
			return -ENOMEM;
		ret = parse_trigger(buf, t);
		if (ret) {
			kfree(t);
			return ret;
		}
	}
	cgrp = cgroup_kn_lock_live(of->kn, false);
	if (!cgrp) {
		kfree(t);
		return -ENODEV;
	}
	set_trigger(cgrp, t);
	if (t && t->event == CKPT_EVENT_SYSCALL)
		mark_tasks(cgrp);
	cgroup_kn_unlock(of->kn);
	return nbytes;
}

int ckpt_freeze_at_show(struct seq_file *seq, void *v)
{
	struct cgroup *cgrp = seq_css(seq)->cgroup;
	struct ckpt_trigger *t;
	struct pid *pid;

	rcu_read_lock();
	t = rcu_dereference(cgrp->freeze_at);
	if (t) {
		pid = READ_ONCE(t->pid);
		seq_printf(seq, "event %s\narg %ld\ntarget %llu\ncount %lld\nfired %d\npid %d\n",
			   event_names[t->event], t->arg, t->target,
			   atomic64_read(&t->count), !!pid, pid_vnr(pid));
	}
	rcu_read_unlock();
	return 0;
}

/* The cgroup is gone from the file system: nobody can arm it any more. */
void ckpt_cgroup_free(struct cgroup *cgrp)
{
	lockdep_assert_held(&cgroup_mutex);
	set_trigger(cgrp, NULL);
}
