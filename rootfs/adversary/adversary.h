/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Declarations shared by the files of the adversary; adversary.c describes it. */
#ifndef ADVERSARY_H
#define ADVERSARY_H

#include <stddef.h>
#include <sys/types.h>

#include "harness.h"

#define SYS_checkpoint	500
#define SYS_restart	501
#define USER		1000
/* size of struct ckpt_rec */
#define HEAD		24
#define CGROUP		"/sys/fs/cgroup/adversary"
#define TREE		CGROUP "/tree"
#define OTHER		CGROUP "/other"
#define CHILD		TREE "/child"
#define IMAGE		"/work/adversary.image"
#define OUT		"/work/adversary.out"
#define LOG		"/work/adversary.log"
#define SECRET		"/work/adversary.secret"
#define MADE		"/work/adversary.made"
#define TEXT		"TOPSECRET\n"
#define MAX_PIDS	64
#define MAX_ATTACKS	32

/* State that the processes of a run share. */
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
	pid_t caller;		/* pid in the attacker's namespace */
	int reached;		/* number of calls of tell() */
};

extern struct shared *shared;
/* pids of the tree, as the attacker sees them */
extern pid_t pids[MAX_PIDS];
extern int nr_pids;
/* true on the side of checkpoint(2): the attacker may reach the tasks */
extern int reachable;

/* names of the attacks */
extern const char *attack_names[MAX_ATTACKS];
extern int nr_chosen;
/*
 * true when the attacks may make the call fail, or change the tree's
 * environment
 */
extern int may_change;

void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
int wants(const char *name);
int is_over(void);
int all_empty(void);
void attacker(void);
void let_attack(int turn);
void on_signal(int sig);
int a_log(void);

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

/* tree.c */
int is_empty(void);
void become_user(void);
void write_file(const char *path, const char *text, int mode);
pid_t forked(void);
pid_t start_victim(void);
void list_tree(void);
int check_at_rest(pid_t root);
void end_tree(pid_t root);
void save(void);
struct image load(const char *path);

/* restart.c, checkpoint.c: return the result of the call */
const char *restart(struct image *image, int nth);
const char *checkpoint(int nth);

#endif
