// SPDX-License-Identifier: GPL-2.0-only
/*
 * One sleep of each form that kernel code has, for the test of the census: the
 * expansions of the kernel's macros, without its headers.
 */
struct wait_queue_head;
struct wait_queue_entry { void *words[5]; };
struct completion;
struct task { volatile unsigned int state; };

extern struct task *current_task;
extern volatile int done;
extern void schedule(void);
extern long schedule_timeout(long ticks);
extern long io_schedule_timeout(long ticks);
extern void io_schedule(void);
extern void msleep(unsigned int ms);
extern void wait_for_completion(struct completion *x);
extern void init_wait_entry(struct wait_queue_entry *entry, int flags);
extern long prepare_to_wait_event(struct wait_queue_head *wq,
				  struct wait_queue_entry *entry, int state);
extern void prepare_to_wait(struct wait_queue_head *wq,
			    struct wait_queue_entry *entry, int state);
extern void finish_wait(struct wait_queue_head *wq,
			struct wait_queue_entry *entry);

/* wait_event(), expanded */
void planted_wait_event(struct wait_queue_head *wq)
{
	struct wait_queue_entry entry;

	init_wait_entry(&entry, 0);
	while (prepare_to_wait_event(wq, &entry, 2), !done)
		schedule();
	finish_wait(wq, &entry);
}

/* a completion as a tail call, which is a jump */
void planted_completion(struct completion *x)
{
	wait_for_completion(x);
}

/* the task state is set before schedule_timeout() */
long planted_state(void)
{
	current_task->state = 1;
	return schedule_timeout(250);
}

/* a static function in its own section, not inlined */
static void __attribute__((noinline, section(".text.unlikely")))
planted_io(void)
{
	while (!done)
		io_schedule();
}

void calls_planted_io(void)
{
	planted_io();
}

/* msleep() in a loop */
void planted_msleep(void)
{
	while (!done)
		msleep(10);
}

/* a static inline helper with prepare_to_wait(), which is attributed to its caller */
static inline __attribute__((always_inline)) void helper(struct wait_queue_head *wq)
{
	struct wait_queue_entry entry;

	prepare_to_wait(wq, &entry, 2);
	schedule();
	finish_wait(wq, &entry);
}

void planted_inline(struct wait_queue_head *wq)
{
	if (!done)
		helper(wq);
}

/* a static primitive: the assembler resolves calls to it */
static __attribute__((noinline)) void planted_static(void)
{
	schedule();
	schedule();
}

void calls_planted_static(void)
{
	planted_static();
	done = 1;
}

/* no sleep */
void planted_nothing(void)
{
	done = 2;
}
