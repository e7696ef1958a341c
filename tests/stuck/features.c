// SPDX-License-Identifier: GPL-2.0-only
/* Tasks that wait for a program by features that only the debug kernel has. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/auto_fs.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stuck.h"

#define GUARDED	"/work/guarded"
#define MOUNT	"/run/stuck.mount"

/* An open(2) that a listener of fanotify has to permit. */
void permission_event(void)
{
	int listener = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY);
	struct fanotify_event_metadata event;
	struct fanotify_response answer = { .response = FAN_ALLOW };
	pid_t pid;

	CHECK(listener >= 0);
	CHECK(close(open(GUARDED, O_WRONLY | O_CREAT, 0600)) == 0);
	CHECK(!fanotify_mark(listener, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, GUARDED));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		close(listener);
		join();
		_exit(open(GUARDED, O_RDONLY) < 0 ? 1 : 7);
	}
	CHECK(read(listener, &event, sizeof(event)) == sizeof(event));
	wait_for_place(pid, "fanotify_handle_event");
	checkpoint(pid);
	answer.fd = event.fd;
	CHECK(write(listener, &answer, sizeof(answer)) == sizeof(answer));
	ends(pid);
	close(event.fd);
	close(listener);
}

/* Answers a request of FUSE. */
static void answer(int server, uint64_t unique, int error, const void *body, size_t size)
{
	struct {
		struct fuse_out_header head;
		unsigned char body[256];
	} out = { .head = { .unique = unique, .error = error } };

	out.head.len = sizeof(out.head) + size;
	if (size)
		memcpy(out.body, body, size);
	CHECK(write(server, &out, out.head.len) == out.head.len);
}

/*
 * Answers requests until one with this code arrives. Returns its number,
 * without an answer to it. The file system has one file, which is empty.
 */
static uint64_t serve(int server, uint32_t until)
{
	static struct {
		struct fuse_in_header head;
		unsigned char body[FUSE_MIN_READ_BUFFER];
	} in;
	struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096,
	};
	struct fuse_attr file = { .ino = 2, .mode = S_IFREG | 0600, .nlink = 1 };
	struct fuse_attr top = { .ino = 1, .mode = S_IFDIR | 0700, .nlink = 2 };
	struct fuse_entry_out entry = { .nodeid = 2, .attr = file };
	struct fuse_attr_out attr = { 0 };
	struct fuse_open_out opened = { 0 };

	for (;;) {
		CHECK(read(server, &in, sizeof(in)) >= (ssize_t)sizeof(in.head));
		if (in.head.opcode == until)
			return in.head.unique;
		switch (in.head.opcode) {
		case FUSE_INIT:
			answer(server, in.head.unique, 0, &init, sizeof(init));
			break;
		case FUSE_LOOKUP:
			answer(server, in.head.unique, 0, &entry, sizeof(entry));
			break;
		case FUSE_GETATTR:
			attr.attr = in.head.nodeid == 1 ? top : file;
			answer(server, in.head.unique, 0, &attr, sizeof(attr));
			break;
		case FUSE_OPEN:
			answer(server, in.head.unique, 0, &opened, sizeof(opened));
			break;
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_INTERRUPT:
			break;
		default:
			answer(server, in.head.unique, -ENOSYS, NULL, 0);
		}
	}
}

/* Mounts our file system; returns the server's descriptor. */
static int mount_fuse(void)
{
	int server = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	char options[64];

	CHECK(server >= 0);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0",
		 server);
	CHECK(!mkdir(MOUNT, 0700) || errno == EEXIST);
	CHECK(!mount("stuck", MOUNT, "fuse", 0, options));
	return server;
}

static void unmount(void)
{
	CHECK(!umount2(MOUNT, MNT_DETACH));
}

/* Lets a task open our file: it exits with 7 if that ends with this error, or with none. */
static pid_t open_file(int server, int error)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid)
		return pid;
	close(server);
	join();
	if (open(MOUNT "/file", O_RDONLY) >= 0)
		errno = 0;
	_exit(errno == error ? 7 : 1);
}

/* Checkpoints a task that waits at this place, and then answers its request. */
static void answer_later(int server, uint64_t request, int error, pid_t pid,
			 const char *place)
{
	wait_for_place(pid, place);
	checkpoint(pid);
	answer(server, request, -error, NULL, 0);
	ends(pid);
	unmount();
	close(server);
}

/* An open(2) that the server of FUSE has read, but not answered. */
void fuse_request(void)
{
	int server = mount_fuse();
	pid_t pid = open_file(server, EACCES);
	uint64_t request = serve(server, FUSE_OPEN);

	answer_later(server, request, EACCES, pid, "request_wait_answer");
}

/* An open(2) of a file system whose server has not yet answered FUSE_INIT. */
void fuse_init(void)
{
	int server = mount_fuse();
	uint64_t request = serve(server, FUSE_INIT);
	/* the server's refusal of FUSE_INIT ends the connection */
	pid_t pid = open_file(server, ECONNREFUSED);

	answer_later(server, request, ENOSYS, pid, "fuse_get_req");
}

/* A process that ends, whose open file the server of FUSE has not flushed. */
void fuse_flush(void)
{
	int server = mount_fuse();
	pid_t pid = open_file(server, 0);
	uint64_t request = serve(server, FUSE_FLUSH);

	answer_later(server, request, 0, pid, "request_wait_answer");
}

/* An access to a name that the daemon of autofs has to mount. */
void automount(void)
{
	struct autofs_v5_packet packet;
	char options[96];
	int from[2], top;
	pid_t pid;

	CHECK(!pipe(from));
	snprintf(options, sizeof(options), "fd=%d,pgrp=%d,minproto=5,maxproto=5,indirect",
		 from[1], getpgrp());
	CHECK(!mkdir(MOUNT, 0700) || errno == EEXIST);
	CHECK(!mount("stuck", MOUNT, "autofs", 0, options));
	top = open(MOUNT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(top >= 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		close(top);
		close(from[0]);
		/* the daemon's process group sees the directory as it is */
		CHECK(!setpgid(0, 0));
		join();
		CHECK(open(MOUNT "/name/file", O_RDONLY) < 0);
		_exit(errno == ENOENT ? 7 : 1);
	}
	CHECK(read(from[0], &packet, sizeof(packet)) > 0);
	wait_for_place(pid, "autofs_wait");
	checkpoint(pid);
	CHECK(!ioctl(top, AUTOFS_IOC_FAIL, packet.wait_queue_token));
	ends(pid);
	close(top);
	unmount();
}

/* A socket(2) of a family whose module the program modprobe has to load. */
void module_loading(void)
{
	char program[256];
	pid_t pid;

	unlink(GO);
	snprintf(program, sizeof(program), "%s", get("/proc/sys/kernel/modprobe"));
	put("/proc/sys/kernel/modprobe", "/work/stuck");
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		join();
		CHECK(socket(AF_X25, SOCK_SEQPACKET, 0) < 0);
		_exit(errno == EAFNOSUPPORT ? 7 : 1);
	}
	wait_for_place(pid, "call_usermodehelper_exec");
	checkpoint(pid);
	CHECK(close(open(GO, O_WRONLY | O_CREAT, 0600)) == 0);
	ends(pid);
	/* an empty name switches modprobe off, and cannot be written otherwise */
	put("/proc/sys/kernel/modprobe", program);
}

/* Lets a worker of io_uring write the page to a file. */
static int submit_write(char *area, const char *path)
{
	struct io_uring_params ring = { 0 };
	int fd = syscall(SYS_io_uring_setup, 1, &ring);
	char *queue, *argv[] = { "/bin/sh", "-c", "exit 7", NULL };
	struct io_uring_sqe *sqe;
	unsigned int *tail;

	CHECK(fd >= 0);
	queue = mmap(NULL, ring.sq_off.array + sizeof(unsigned int),
		     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		     IORING_OFF_SQ_RING);
	sqe = mmap(NULL, sizeof(*sqe), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
	CHECK(queue != MAP_FAILED && sqe != MAP_FAILED);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_WRITE;
	sqe->flags = IOSQE_ASYNC;
	sqe->fd = open(path, O_WRONLY | O_CREAT, 0600);
	CHECK(sqe->fd >= 0);
	sqe->addr = (uintptr_t)area;
	sqe->len = 6;
	*(unsigned int *)(queue + ring.sq_off.array) = 0;
	tail = (unsigned int *)(queue + ring.sq_off.tail);
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_io_uring_enter, fd, 1, 0, 0, NULL, 0) == 1);
	begin();
	/* execve(2) cancels the request, and waits for the worker */
	execv(argv[0], argv);
	return 1;
}

/* An execve(2) that waits for a request of io_uring, which waits for the page. */
void uring_request(void)
{
	int monitor;
	pid_t pid = missing_page(submit_write, "/run/stuck.written", &monitor, join);

	let_go();
	wait_for_place(pid, "io_uring_cancel_generic");
	checkpoint(pid);
	provide(monitor);
	ends(pid);
}
