/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Declarations shared by the files of fail-nth; fail-nth.c describes it. */
#ifndef FAIL_NTH_H
#define FAIL_NTH_H

#include <stddef.h>
#include <sys/types.h>

#include "harness.h"

#define SYS_checkpoint	500
#define SYS_restart	501
#define HEAD		sizeof(struct ckpt_rec)
#define MAX_ORIGINS	4096
#define MAX_BOOKS	400

/* Memory that the worker and its watcher share. */
struct shared {
	unsigned int nth;	/* the failure to be injected, 0 for none */
	unsigned int calls;	/* made so far */
	unsigned int told;	/* number of faults that were reported */
	int free_fd;		/* lowest free descriptor */
	pid_t root;		/* of the tree */
};

struct bytes {
	unsigned char *data;
	size_t size;
};

struct tally {
	struct {
		char *origin;
		int error;
		unsigned int count;
	} rows[MAX_ORIGINS];
	int nr;
};

/* Counts of the kernel's objects. */
struct books {
	struct {
		char name[96];
		long count;
	} rows[MAX_BOOKS];
	int nr;
};

void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* origin.c: the kernel's log */
void load_names(const char *path);
void open_log(void);
void forget_log(void);
void read_log(void);
const char *origin(void);

/* look.c: results */
const char *first_line(int fd);
char *text_of(const char *path);
int expected(int error, const char *origin);
void learn_image(struct bytes *known, struct bytes *mask, int fd);
int differs(const struct bytes *known, const struct bytes *mask, int fd, char *what, size_t len);
void count(struct tally *tally, const char *origin, int error);
void print_tally(const struct tally *tally);

/* books.c */
void read_books(struct books *books, int drop);
int keep_lost(struct books *lost, const struct books *before, const struct books *after, int runs);

#endif
