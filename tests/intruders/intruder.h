/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the parts of the intruder have in common; intruder.c tells of the whole. */
#ifndef INTRUDER_H
#define INTRUDER_H

#include <stddef.h>
#include <sys/types.h>

#define SYS_checkpoint	500
#define SYS_restart	501
/* end of patience, seconds */
#define LIMIT		60
/* what the kernel's struct ckpt_rec takes */
#define HEAD		24
/* as many processes as are looked for beyond the first */
#define NUMBERS		32

/* What the restarter, and its second thread, tell the others. */
struct shared {
	int begun;		/* the first thread is about to call restart(2) */
	int stop;		/* the second thread is to end */
	int waited;		/* it has tried once more */
	int stolen;		/* pid of what it got; 0 for nothing */
	int thief;		/* its own number */
	long ret;		/* of restart(2) */
	int error;
};

extern struct shared *shared;
/* where the tree is restarted */
extern const char *cgroup;
/* where a hierarchy of version 1 is mounted, NULL for nowhere */
extern const char *version1;
/* the restarter and the intruder */
extern pid_t first, self;
/* the image's pipe, and the restart's log */
extern int feed, log_end;
/* something was: exit status 1 */
extern int reached;

/* Something was reached, or not ended. */
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The test itself cannot go on. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void until(int (*done)(void), const char *words);
void write_all(int fd, const void *data, size_t len);

/* doors.c */
int attack(const char *door);

/* ends.c */
int gone(void);
void fill_log(void);
void end_it(const char *how, const void *rest, size_t len);

#endif
