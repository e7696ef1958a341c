/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Declarations shared by the files of the intruder; intruder.c describes it. */
#ifndef INTRUDER_H
#define INTRUDER_H

#include <stddef.h>
#include <sys/types.h>

#define SYS_checkpoint	500
#define SYS_restart	501
/* timeout, seconds */
#define LIMIT		60
/* size of struct ckpt_rec */
#define HEAD		24
/* number of pids to try after the first */
#define NUMBERS		32

/* State of the process that calls restart(2), and of its second thread. */
struct shared {
	int begun;		/* the first thread is about to call restart(2) */
	int stop;		/* the second thread has to exit */
	int waited;		/* it has called wait again */
	int stolen;		/* pid that it has reaped, 0 for none */
	int thief;		/* its own tid */
	long ret;		/* of restart(2) */
	int error;
};

extern struct shared *shared;
/* the cgroup in which the tree is restarted */
extern const char *cgroup;
/* mount point of a version 1 hierarchy, NULL for none */
extern const char *version1;
/* pids of the caller of restart(2) and of the intruder */
extern pid_t first, self;
/* the image's pipe, and the restart's log */
extern int feed, log_end;
/* tell() has been called: the exit status is 1 */
extern int reached;

/* Reports a task or object that was reached, or a task that was not killed. */
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Reports that the test itself has failed, and exits. */
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
