/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Declarations shared by the files of the adversary; adversary.c describes it. */
#ifndef ADVERSARY_H
#define ADVERSARY_H

#include <stddef.h>
#include <sys/types.h>

#define SYS_checkpoint	500
#define SYS_restart	501
#define USER		1000
/* size of struct ckpt_rec */
#define HEAD		24
#define CGROUP		"/sys/fs/cgroup/adversary"
#define TREE		CGROUP "/tree"
#define OTHER		CGROUP "/other"
#define CHILD		TREE "/child"
#define MAX_PIDS	64

/* What the processes of a run tell each other. */
struct shared {
	int begun;		/* the call is about to begin */
	int go;			/* attack: 1 at the stall, 2 at the end */
	int done;		/* the attacks of that number are done */
	int stop;		/* the second thread has to exit */
	int stolen;		/* pid that it has reaped */
	int over;		/* the call has returned */
	long ret;		/* its result */
	int error;
	int status;		/* exit status of the restarted root */
	int reaped;		/* status is valid */
	pid_t init;		/* the init of the caller's pid namespace */
	pid_t caller;		/* as the attacker sees it */
	int reached;		/* number of things that tell() has told */
};

extern struct shared *shared;
/* pids of the tree, as the attacker sees them */
extern pid_t pids[MAX_PIDS];
extern int nr_pids;
/* true on the side of checkpoint(2): the attacker may reach the tasks */
extern int reachable;

void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
int put(const char *path, const char *text);

/* attacks.c */
enum when {
	BEFORE,		/* the harness prepares it before the call */
	STALL,		/* the attacker does it at the stall */
	END,		/* the way in which the run ends */
};

struct attack {
	const char *name;
	enum when when;
	void (*act)(void);
};

extern const struct attack attacks[];
const struct attack *attack_named(const char *name);

/* forge.c */
struct image {
	unsigned char *data;
	size_t size;
};

size_t end_of(const struct image *image, int nr);
int records(const struct image *image);
void read_pids(const struct image *image);
int forge(struct image *image, const char *name);

#endif
