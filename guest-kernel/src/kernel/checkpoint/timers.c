// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interval timers, and system calls with a timeout.
 *
 * A timeout that the kernel computed from a duration is moved by the time
 * between checkpoint and restart, so that the time left is the same. An
 * absolute time that the program passed is kept: it was read from a clock, and
 * clocks are not virtualized.
 */
#include <linux/alarmtimer.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/hrtimer.h>
#include <linux/posix-timers.h>
#include <linux/sched/cputime.h>
#include <linux/sched/signal.h>
#include <linux/syscalls.h>
#include <asm/syscall.h>

#include "ckpt.h"

static u64 cpu_timer_left(struct task_struct *t, int clock, u64 *interval)
{
	struct cpu_itimer *it = &t->signal->it[clock];
	u64 left = 0;

	*interval = it->incr;
	if (it->expires) {
		struct task_cputime sum;
		u64 now;

		thread_group_cputime(t, &sum);
		now = sum.utime + (clock == CPUCLOCK_PROF ? sum.stime : 0);
		left = it->expires > now ? it->expires - now : TICK_NSEC;
	}
	return left;
}

/* Read the interval timers of a process. Called with siglock held. */
void ckpt_look_at_timers(struct task_struct *t, struct ckpt_timers *rec)
{
	lockdep_assert_held(&t->sighand->siglock);
	memset(rec, 0, sizeof(*rec));
	if (hrtimer_active(&t->signal->real_timer)) {
		s64 left = ktime_to_ns(hrtimer_get_remaining(&t->signal->real_timer));

		rec->real_value = left > 0 ? left : 1;
	}
	rec->real_interval = ktime_to_ns(t->signal->it_real_incr);
	rec->virt_value = cpu_timer_left(t, CPUCLOCK_VIRT, &rec->virt_interval);
	rec->prof_value = cpu_timer_left(t, CPUCLOCK_PROF, &rec->prof_interval);
	rec->next_posix_timer = READ_ONCE(t->signal->next_posix_timer_id);
}

int ckpt_restore_timers(struct ckpt_ctx *ctx)
{
	const struct ckpt_timers *rec = (const void *)ctx->rbuf;
	const u64 *ns = (const u64 *)rec;
	unsigned int i;

	for (i = 0; i < sizeof(*rec) / sizeof(*ns); i++)
		if (ns[i] > KTIME_MAX)
			return ckpt_err(ctx, -EINVAL, "malformed interval timer");
	if (rec->next_posix_timer > INT_MAX)
		return ckpt_err(ctx, -EINVAL, "malformed interval timer");
	ckpt_current(ctx)->timers = *rec;
	return 0;
}

static void arm_cpu_timer(int clock, u64 value, u64 interval)
{
	struct cpu_itimer *it = &current->signal->it[clock];
	u64 none = 0;

	if (!value && !interval)
		return;
	spin_lock_irq(&current->sighand->siglock);
	if (value)
		set_process_cpu_timer(current, clock, &value, &none);
	it->expires = value;
	it->incr = interval;
	spin_unlock_irq(&current->sighand->siglock);
}

/*
 * fork() has armed the CPU timers for the RLIMIT_CPU of the caller of
 * restart(2), counted from 0. Arm them for the restored limit, counted from the
 * restored CPU times.
 */
static void arm_cpu_limit(void)
{
	struct posix_cputimers *pct = &current->signal->posix_cputimers;
	unsigned long limit = rlimit(RLIMIT_CPU);
	unsigned int i;

	spin_lock_irq(&current->sighand->siglock);
	WRITE_ONCE(pct->timers_active, false);
	for (i = 0; i < CPUCLOCK_MAX; i++)
		pct->bases[i].nextevt = U64_MAX;
	spin_unlock_irq(&current->sighand->siglock);
	if (limit != RLIM_INFINITY)
		update_rlimit_cpu(current, limit);
}

/*
 * Arm the interval timers of current's process. Called when the process leaves
 * the restart, so that the time left does not run while the process waits for
 * other tasks.
 */
void ckpt_arm_timers(const struct ckpt_timers *rec)
{
	struct signal_struct *sig = current->signal;

	arm_cpu_limit();

	WRITE_ONCE(sig->next_posix_timer_id, rec->next_posix_timer);
	spin_lock_irq(&current->sighand->siglock);
	if (!ckpt_broken(CKPT_BREAK_ITIMER))
		sig->it_real_incr = ns_to_ktime(rec->real_interval);
	if (rec->real_value)
		hrtimer_start(&sig->real_timer, ns_to_ktime(rec->real_value),
			      HRTIMER_MODE_REL);
	spin_unlock_irq(&current->sighand->siglock);
	arm_cpu_timer(CPUCLOCK_VIRT, rec->virt_value, rec->virt_interval);
	arm_cpu_timer(CPUCLOCK_PROF, rec->prof_value, rec->prof_interval);
}

/*
 * The restart block of futex(2) has an absolute time both for FUTEX_WAIT, which
 * takes a duration, and for FUTEX_WAIT_BITSET, which takes a time. The
 * registers still contain the arguments of the call, by which the two are
 * distinguished.
 */
static bool futex_time_is_duration(struct task_struct *t)
{
	int op = task_pt_regs(t)->si;

	return (op & FUTEX_CMD_MASK) == FUTEX_WAIT;
}

/**
 * ckpt_dump_restart_block - fill in the call that restart_syscall(2) would
 * resume
 * @ctx: the checkpoint
 * @t: the task
 * @rec: its record
 *
 * Saved even if the return value is not -ERESTART_RESTARTBLOCK: the task may be
 * in restart_syscall(2), or stopped in it.
 *
 * Return: 0, -EOPNOTSUPP for an unknown call.
 */
int ckpt_dump_restart_block(struct ckpt_ctx *ctx, struct task_struct *t,
			    struct ckpt_task *rec)
{
	const struct restart_block *rb = &t->restart_block;

	rec->restart_clock = CLOCK_MONOTONIC;
	if (rb->fn != do_no_restart_syscall && ckpt_restarts_as_32bit(t))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: in a system call of the 32-bit kind (int 0x80)",
				t->comm);
	if (rb->fn == hrtimer_nanosleep_restart)
		rec->restart_kind = CKPT_RESTART_NANOSLEEP;
	else if (rb->fn == alarm_timer_nsleep_restart)
		rec->restart_kind = CKPT_RESTART_ALARM;
	else if (rb->fn == posix_cpu_nsleep_restart)
		rec->restart_kind = CKPT_RESTART_CPU_TIMER;
	else if (rb->fn == futex_wait_restart)
		rec->restart_kind = CKPT_RESTART_FUTEX;
	else if (rb->fn == do_restart_poll)
		rec->restart_kind = CKPT_RESTART_POLL;
	else if (rb->fn == do_no_restart_syscall)
		return 0;
	else
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: cannot resume %ps", t->comm,
				rb->fn);

	switch (rec->restart_kind) {
	case CKPT_RESTART_FUTEX:
		rec->restart[0] = (unsigned long)rb->futex.uaddr;
		rec->restart[1] = rb->futex.val;
		rec->restart[2] = rb->futex.flags;
		rec->restart[3] = rb->futex.bitset;
		rec->restart[4] = rb->futex.time;
		rec->restart[5] = (unsigned long)rb->futex.uaddr2;
		if (!futex_time_is_duration(t))
			rec->restart_clock = CLOCK_REALTIME;
		break;
	case CKPT_RESTART_POLL:
		rec->restart[0] = (unsigned long)rb->poll.ufds;
		rec->restart[1] = rb->poll.nfds;
		rec->restart[2] = rb->poll.has_timeout;
		rec->restart[3] = rb->poll.tv_sec * NSEC_PER_SEC +
				  rb->poll.tv_nsec;
		break;
	default:
		rec->restart[0] = rb->nanosleep.clockid;
		rec->restart[1] = rb->nanosleep.type;
		rec->restart[2] = (unsigned long)rb->nanosleep.rmtp;
		rec->restart[3] = rb->nanosleep.expires;
		if (rec->restart_kind == CKPT_RESTART_CPU_TIMER)
			rec->restart_clock = CLOCK_PROCESS_CPUTIME_ID;
	}
	return 0;
}

int ckpt_check_restart_block(struct ckpt_ctx *ctx, const struct ckpt_task *rec)
{
	const u64 *a = rec->restart;
	bool ok;

	switch (rec->restart_kind) {
	case CKPT_RESTART_NONE:
		return 0;
	case CKPT_RESTART_NANOSLEEP:
		ok = (a[0] == CLOCK_REALTIME || a[0] == CLOCK_MONOTONIC ||
		      a[0] == CLOCK_BOOTTIME || a[0] == CLOCK_TAI) &&
		     a[1] <= TT_NATIVE && a[3] <= KTIME_MAX;
		break;
	case CKPT_RESTART_ALARM:
		ok = a[0] < ALARM_NUMTYPE && a[1] <= TT_NATIVE && a[3] <= KTIME_MAX;
		/* as in clock_nanosleep(2), because an alarm ends a suspend */
		if (ok && !capable(CAP_WAKE_ALARM))
			return ckpt_err(ctx, -EPERM, "a sleep that wakes the machine");
		break;
	case CKPT_RESTART_CPU_TIMER:
		ok = a[1] <= TT_NATIVE && a[3] <= KTIME_MAX &&
		     ((s32)a[0] < 0 || a[0] == CLOCK_PROCESS_CPUTIME_ID ||
		      a[0] == CLOCK_THREAD_CPUTIME_ID);
		break;
	case CKPT_RESTART_FUTEX:
		ok = a[4] <= KTIME_MAX && a[1] <= U32_MAX && a[3] <= U32_MAX &&
		     a[3] && ckpt_futex_flags_ok(a[2]) &&
		     (rec->restart_clock == CLOCK_MONOTONIC ||
		      rec->restart_clock == CLOCK_REALTIME);
		break;
	case CKPT_RESTART_POLL:
		ok = a[1] <= INT_MAX && a[2] <= 1 && a[3] <= KTIME_MAX;
		break;
	default:
		ok = false;
	}
	return ok ? 0 : ckpt_err(ctx, -EINVAL, "malformed restart block");
}

/* Move a time that was computed from a duration. KTIME_MAX means never. */
static u64 move_time(u64 ns, s64 delta)
{
	s64 moved;

	if (ns == KTIME_MAX || check_add_overflow((s64)ns, delta, &moved))
		return ns;
	return moved > 0 ? moved : 1;
}

/*
 * Return the time that has passed since the checkpoint on the clock of a sleep,
 * ns. Only a sleep for a duration has a restart block.
 */
static s64 passed(const struct ckpt_ctx *ctx, const struct ckpt_task *rec)
{
	const struct ckpt_header *h = &ctx->hdr;
	u32 clock = rec->restart[0];

	if (ckpt_broken(CKPT_BREAK_SLEEP))
		return 0;
	if (rec->restart_kind == CKPT_RESTART_ALARM)
		clock = clock == ALARM_REALTIME ? CLOCK_REALTIME : CLOCK_BOOTTIME;
	else if (rec->restart_kind != CKPT_RESTART_NANOSLEEP)
		clock = rec->restart_clock;
	switch (clock) {
	case CLOCK_MONOTONIC:
		return ctx->mono_delta;
	case CLOCK_BOOTTIME:
		return ktime_get_boottime_ns() - h->boot_ns;
	case CLOCK_TAI:
		return ktime_get_clocktai_ns() - h->tai_ns;
	case CLOCK_REALTIME:
		if (rec->restart_kind != CKPT_RESTART_FUTEX)
			return ktime_get_real_ns() - h->real_ns;
	}
	return 0;
}

/**
 * ckpt_set_restart_block - set the call that current's restart_syscall(2)
 * resumes
 * @ctx: the restart, released
 * @rec: checked by ckpt_check_restart_block()
 */
void ckpt_set_restart_block(const struct ckpt_ctx *ctx,
			    const struct ckpt_task *rec)
{
	struct restart_block *rb = &current->restart_block;
	const u64 *a = rec->restart;
	s64 delta = passed(ctx, rec);
	u64 ns;

	memset(rb, 0, sizeof(*rb));
	switch (rec->restart_kind) {
	case CKPT_RESTART_FUTEX:
		rb->futex.uaddr = (u32 __user *)a[0];
		rb->futex.val = a[1];
		rb->futex.flags = a[2];
		rb->futex.bitset = a[3];
		rb->futex.time = move_time(a[4], delta);
		rb->futex.uaddr2 = (u32 __user *)a[5];
		set_restart_fn(rb, futex_wait_restart);
		break;
	case CKPT_RESTART_POLL:
		ns = a[2] ? move_time(a[3], delta) : a[3];
		rb->poll.ufds = (struct pollfd __user *)a[0];
		rb->poll.nfds = a[1];
		rb->poll.has_timeout = a[2];
		rb->poll.tv_sec = ns / NSEC_PER_SEC;
		rb->poll.tv_nsec = ns % NSEC_PER_SEC;
		set_restart_fn(rb, do_restart_poll);
		break;
	case CKPT_RESTART_NANOSLEEP:
	case CKPT_RESTART_ALARM:
	case CKPT_RESTART_CPU_TIMER:
		rb->nanosleep.clockid = a[0];
		rb->nanosleep.type = a[1];
		rb->nanosleep.rmtp = (struct __kernel_timespec __user *)a[2];
		rb->nanosleep.expires = move_time(a[3], delta);
		if (rec->restart_kind == CKPT_RESTART_NANOSLEEP)
			set_restart_fn(rb, hrtimer_nanosleep_restart);
		else if (rec->restart_kind == CKPT_RESTART_CPU_TIMER)
			set_restart_fn(rb, posix_cpu_nsleep_restart);
		else
			set_restart_fn(rb, alarm_timer_nsleep_restart);
		break;
	default:
		rb->fn = do_no_restart_syscall;
	}
}
