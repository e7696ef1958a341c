// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Open files in messages. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sockets.h"
#include "workload.h"

void give(int fd, const char *text, const int *fds, int n)
{
	char control[CMSG_SPACE(8 * sizeof(int))] = "";
	struct iovec iov = { (char *)text, strlen(text) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = CMSG_SPACE(n * sizeof(int)),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(cmsg), fds, n * sizeof(int));
	check(sendmsg(fd, &msg, 0) != (ssize_t)strlen(text), "sendmsg");
}

void take(int fd, const char *text, int *fds, int n)
{
	char data[64], control[CMSG_SPACE(8 * sizeof(int))] = "";
	struct iovec iov = { data, sizeof(data) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	ssize_t got = recvmsg(fd, &msg, MSG_DONTWAIT);
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	size_t size = cmsg ? cmsg->cmsg_len - CMSG_LEN(0) : 0;

	check(got < 0, "recvmsg");
	printf("\"%.*s\" with %zu files\n", (int)got, data, size / sizeof(int));
	expect(got == (ssize_t)strlen(text) && !memcmp(data, text, got) &&
		       size == n * sizeof(int),
	       "the message and its files");
	check(size != n * sizeof(int), "SCM_RIGHTS");
	memcpy(fds, CMSG_DATA(cmsg), size);
}

static int same_inode(int one, int other)
{
	struct stat a, b;

	check(fstat(one, &a) || fstat(other, &b), "fstat");
	return a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

/*
 * A file that is also open here and shares its offset. A pipe of which one end is only in a
 * message. An eventfd that a child has, too. An unlinked file, and memory.
 */
void passed(void)
{
	int stream[2], dgram[2], ends[2], go[2], file, gone, memory, count, fds[8], status;
	char text[64] = "";
	uint64_t value = 40;
	pid_t child;

	pair(SOCK_STREAM, stream);
	pair(SOCK_DGRAM, dgram);
	check(pipe(ends) || pipe(go), "pipe");
	file = open("text", O_RDWR | O_CREAT | O_TRUNC, 0600);
	check(file < 0 || write(file, "a file with text", 16) != 16, "text");
	check(lseek(file, 2, SEEK_SET) != 2, "lseek");
	gone = open("gone", O_RDWR | O_CREAT | O_TRUNC, 0600);
	check(gone < 0 || write(gone, "unlinked", 8) != 8 || unlink("gone"), "gone");
	memory = memfd_create("memory", 0);
	check(memory < 0 || write(memory, "memory", 6) != 6, "memfd_create");
	count = eventfd(2, EFD_NONBLOCK);
	check(count < 0, "eventfd");
	child = forked();
	if (!child) {
		check(read(go[0], text, 1) != 1, "read");
		_exit(write(count, &value, sizeof(value)) == sizeof(value) ? 5 : 1);
	}
	say(stream[0], "in front, ");
	give(stream[0], "three", (int[]){ file, ends[0], count }, 3);
	say(stream[0], "behind");
	give(dgram[0], "one", &gone, 1);
	give(dgram[0], "twice", (int[]){ memory, memory }, 2);
	say(dgram[0], "none");
	close(ends[0]);
	close(gone);
	close(memory);
	close(count);
	check(write(ends[1], "through the pipe", 16) != 16, "write");

	stop_here();

	/* a read stops after a message with files, but not before it */
	take(stream[1], "in front, three", fds, 3);
	check(read(fds[0], text, 4) != 4, "read");
	expect(!memcmp(text, "file", 4) && lseek(file, 0, SEEK_CUR) == 6 && same_inode(file, fds[0]),
	       "one file, one offset");
	check(read(fds[1], text, sizeof(text)) != 16, "read");
	expect(!memcmp(text, "through the pipe", 16) && same_inode(ends[1], fds[1]), "the pipe's end");
	check(write(go[1], "", 1) != 1, "write");
	status = wait_for_child(child);
	check(read(fds[2], &value, sizeof(value)) != sizeof(value), "read");
	printf("the child exited %d, the count is %ju\n", WEXITSTATUS(status), (uintmax_t)value);
	expect(value == 42, "the earlier count and the child's addition");
	expect_text(stream[1], "behind");
	take(dgram[1], "one", fds, 1);
	check(pread(fds[0], text, sizeof(text), 0) != 8, "pread");
	expect(!memcmp(text, "unlinked", 8), "a file without a name");
	take(dgram[1], "twice", fds, 2);
	check(lseek(fds[0], 3, SEEK_SET) != 3 || read(fds[1], text, sizeof(text)) != 3, "read");
	expect(!memcmp(text, "ory", 3), "one file twice");
	expect_text(dgram[1], "none");
	close(fds[0]);
	expect(write(ends[1], "x", 1) == 1, "the pipe has a reader");
}

/*
 * A socket in its own queue; two sockets, each in the other's queue; and a chain: a socket in a
 * message, which has a message with a socket, which has a message with a pipe end.
 */
void cycle(void)
{
	int own[2], one[2], other[2], chain[3][2], ends[2], fds[2];

	pair(SOCK_STREAM, own);
	give(own[0], "itself", &own[1], 1);
	pair(SOCK_DGRAM, one);
	pair(SOCK_SEQPACKET, other);
	give(one[0], "the other's", &other[1], 1);
	give(other[0], "the one's", &one[1], 1);
	say(one[0], "more");
	say(other[0], "more");
	/* its peer is now only in its own queue */
	close(other[1]);
	check(pipe(ends), "pipe");
	for (int n = 0; n < 3; n++)
		pair(n == 1 ? SOCK_SEQPACKET : SOCK_STREAM, chain[n]);
	give(chain[2][0], "an end", &ends[1], 1);
	give(chain[1][0], "deeper", &chain[2][1], 1);
	give(chain[0][0], "deep", &chain[1][1], 1);
	close(ends[1]);
	close(chain[2][1]);
	close(chain[1][1]);

	stop_here();

	take(own[1], "itself", fds, 1);
	say(own[0], "by the same");
	expect_text(fds[0], "by the same");
	expect(same_inode(own[1], fds[0]), "it is the same");
	take(one[1], "the other's", fds, 1);
	expect_text(one[1], "more");
	take(fds[0], "the one's", &fds[1], 1);
	expect_text(fds[0], "more");
	say(one[0], "both");
	say(other[0], "ways");
	expect_text(fds[1], "both");
	expect_text(fds[0], "ways");
	take(chain[0][1], "deep", fds, 1);
	take(fds[0], "deeper", &fds[1], 1);
	take(fds[1], "an end", fds, 1);
	check(write(fds[0], "bottom", 6) != 6, "write");
	close(fds[0]);
	{
		char text[16];

		expect(read(ends[0], text, sizeof(text)) == 6 && !memcmp(text, "bottom", 6),
		       "the pipe at the bottom");
		expect(read(ends[0], text, sizeof(text)) == 0, "and its end");
	}
}
