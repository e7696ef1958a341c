// SPDX-License-Identifier: GPL-2.0-only
/* Tasks that need memory of a userfaultfd, whose monitor must provide the content. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "stuck.h"

#define SIZE	4096	/* the area: one page */

/*
 * Maps a page without content, registers it, and hands its userfaultfd and
 * address to the monitor, which shares the descriptors.
 */
static char *missing(unsigned long features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register all = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	CHECK(fd >= 0 && area != MAP_FAILED);
	all.range.start = (uintptr_t)area;
	all.range.len = SIZE;
	CHECK(!ioctl(fd, UFFDIO_API, &api));
	CHECK(!ioctl(fd, UFFDIO_REGISTER, &all));
	shared->area = area;
	shared->fd = fd;
	return area;
}

/* Waits for the monitor's next message. */
static void receive(int monitor, unsigned char event)
{
	struct uffd_msg message;

	CHECK(read(monitor, &message, sizeof(message)) == sizeof(message));
	CHECK(message.event == event);
}

/* Provides the page: zeros. */
void provide(int monitor)
{
	struct uffdio_zeropage zero = { 0 };

	zero.range.start = (uintptr_t)shared->area;
	zero.range.len = SIZE;
	CHECK(!ioctl(monitor, UFFDIO_ZEROPAGE, &zero));
}

/* Creates a task that calls @touch with the page; returns when it waits for the page. */
pid_t missing_page(int (*touch)(char *area, const char *path), const char *path,
		   int *monitor, void (*prepare)(void))
{
	pid_t pid;

	shared->fd = -1;
	pid = fork_with(CLONE_FILES);
	CHECK(pid >= 0);
	if (!pid) {
		if (prepare)
			prepare();
		_exit(touch(missing(0), path));
	}
	while (shared->fd < 0)
		pass_time();
	*monitor = shared->fd;
	receive(*monitor, UFFD_EVENT_PAGEFAULT);
	return pid;
}

/* Reads a file into the page. */
static int read_into(char *area, const char *path)
{
	int from = open(path, O_RDONLY);

	CHECK(from >= 0);
	return read(from, area, 6) > 0 ? 7 : 1;
}

/* Writes the page to a file. */
static int write_from(char *area, const char *path)
{
	int to = open(path, O_WRONLY | O_CREAT, 0600);

	CHECK(to >= 0);
	return write(to, area, 6) == 6 ? 7 : 1;
}

/* Gives the page to a pipe, which pins it. */
static int pin(char *area, const char *path)
{
	struct iovec page = { area, 16 };
	int ends_of[2];

	(void)path;
	CHECK(!pipe(ends_of));
	return vmsplice(ends_of[1], &page, 1, 0) == 16 ? 7 : 1;
}

/* A task outside the tree that reads a file into the page. */
pid_t reader_of_missing(const char *path, int *monitor)
{
	return missing_page(read_into, path, monitor, NULL);
}

/* A task outside the tree that writes the page to a file. */
pid_t writer_of_missing(const char *path, int *monitor)
{
	return missing_page(write_from, path, monitor, NULL);
}

/* A system call that writes to the page. */
void userfault(void)
{
	int monitor;
	pid_t pid = missing_page(read_into, "/proc/self/comm", &monitor, join);

	wait_for_place(pid, "handle_userfault");
	checkpoint(pid);
	provide(monitor);
	ends(pid);
}

/* A system call that pins the page. */
void userfault_pages(void)
{
	int monitor;
	pid_t pid = missing_page(pin, NULL, &monitor, join);

	wait_for_place(pid, "__get_user_pages");
	checkpoint(pid);
	provide(monitor);
	ends(pid);
}

/* An munmap(2) whose event the monitor has not read. */
void userfault_event(void)
{
	pid_t pid = fork_with(CLONE_FILES);

	CHECK(pid >= 0);
	if (!pid) {
		char *area;

		join();
		area = missing(UFFD_FEATURE_EVENT_UNMAP);
		_exit(munmap(area, SIZE) ? 1 : 7);
	}
	while (shared->fd < 0)
		pass_time();
	wait_for_place(pid, "userfaultfd_event_wait_completion");
	checkpoint(pid);
	receive(shared->fd, UFFD_EVENT_UNMAP);
	ends(pid);
}

/*
 * A futex in the page: the kernel does not wait for the monitor, and the call
 * fails. So the task freezes.
 */
void userfault_futex(void)
{
	int ends_of[2];
	char byte;
	pid_t pid;

	CHECK(!pipe(ends_of));
	pid = fork_with(CLONE_FILES);
	CHECK(pid >= 0);
	if (!pid) {
		char *area;
		int word = 0;

		join();
		area = missing(0);
		CHECK(syscall(SYS_futex, &word, FUTEX_WAKE_OP_PRIVATE, 1, 1, area,
			      FUTEX_OP(FUTEX_OP_SET, 5, FUTEX_OP_CMP_EQ, 0)) == -1);
		CHECK(errno == EFAULT);
		_exit(read(ends_of[0], &byte, 1) == 1 ? 7 : 1);
	}
	wait_for_place(pid, "pipe_read");
	run_checkpoint(pid, FREEZES);
	CHECK(write(ends_of[1], "x", 1) == 1);
	ends(pid);
}
