/* SPDX-License-Identifier: GPL-2.0-only */
/* Declarations shared by the cases of `stuck`. */
#ifndef STUCK_H
#define STUCK_H

#include <sys/types.h>

#define CGROUP	"/sys/fs/cgroup/stuck"
#define FREEZES	"60"	/* seconds in which a tree freezes, however slow the machine */
#define GO	"/run/stuck.go"	/* a program that the kernel has started may end */

#define CHECK(what) \
	do { \
		if (!(what)) \
			die(#what, __FILE__, __LINE__); \
	} while (0)

/* Memory shared by the task and the process that ends its sleep. */
struct shared {
	volatile int fd;
	volatile int tid;
	volatile int done;
	char *area;
};

extern struct shared *shared;

void die(const char *what, const char *file, int line);
void put(const char *path, const char *text);
char *get(const char *path);
void pass_time(void);
void wait_for_place(pid_t pid, const char *function);
void let_go(void);
void begin(void);
void join(void);
void run_checkpoint(pid_t root, const char *limit);
void checkpoint(pid_t root);
void ends(pid_t pid);
pid_t fork_with(unsigned long flags);
void fill_memory(size_t size);

/* memory.c */
pid_t missing_page(int (*touch)(char *area, const char *path), const char *path,
		   int *monitor, void (*prepare)(void));
pid_t reader_of_missing(const char *path, int *monitor);
pid_t writer_of_missing(const char *path, int *monitor);
void provide(int monitor);

void userfault(void);
void userfault_pages(void);
void userfault_event(void);
void userfault_futex(void);

/* files.c */
void frozen_file_system(void);
void freezing_file_system(void);
void freeing_inode(void);
void removed_proc_entry(void);

/* tasks.c */
void seccomp_notification(void);
void pid_namespace(void);
void core_dump(void);
void frozen_by_v1(void);
void stalled_restart(void);
void stalled_checkpoint(void);
void empty_pipe(void);
void read_when_told(void);

/* features.c */
void permission_event(void);
void fuse_request(void);
void fuse_init(void);
void fuse_flush(void);
void automount(void);
void module_loading(void);
void uring_request(void);

#endif
