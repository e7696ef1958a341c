// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Unix sockets, and the messages they receive after the event. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sockets.h"
#include "workload.h"

static int failures;

void expect(int holds, const char *what)
{
	printf("%s: %s\n", what, holds ? "yes" : "NO");
	failures += !holds;
}

void pair(int type, int ends[2])
{
	check(socketpair(AF_UNIX, type, 0, ends), "socketpair");
}

void say(int fd, const char *text)
{
	check(send(fd, text, strlen(text), 0) != (ssize_t)strlen(text), "send");
}

void expect_text(int fd, const char *text)
{
	char got[8192];
	ssize_t n = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);

	if (n < 0) {
		printf("%s instead of \"%s\"\n", strerrorname_np(errno), text);
		failures++;
		return;
	}
	got[n] = '\0';
	printf("\"%.40s\", %zd bytes\n", got, n);
	if (strcmp(got, text)) {
		printf("NOT \"%.40s\"\n", text);
		failures++;
	}
}

static void expect_error(int fd, int error, const char *what)
{
	char byte;

	expect(recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == error, what);
}

static void fill(char *data, size_t size, unsigned int seed)
{
	for (size_t n = 0; n < size; n++)
		data[n] = (char)(seed = seed * 1103515245 + 12345) >> 3;
}

static void expect_data(int fd, size_t size, unsigned int seed, const char *what)
{
	static char expected[200000], got[200000];

	fill(expected, size, seed);
	expect(recv(fd, got, sizeof(got), MSG_DONTWAIT) == (ssize_t)size &&
		       !memcmp(got, expected, size),
	       what);
}

static void queued(void)
{
	static char big[150000];
	int stream[2], dgram[2], packet[2], again;
	char part[8];

	pair(SOCK_STREAM, stream);
	pair(SOCK_DGRAM | SOCK_NONBLOCK, dgram);
	pair(SOCK_SEQPACKET | SOCK_CLOEXEC, packet);
	say(stream[0], "the first piece, ");
	say(stream[0], "the second");
	say(stream[1], "back");
	check(recv(stream[1], part, 4, 0) != 4, "recv");
	say(dgram[0], "one");
	say(dgram[0], "");
	say(dgram[0], "three");
	fill(big, 100000, 7);
	check(send(dgram[0], big, 100000, 0) != 100000, "send");
	say(dgram[1], "there");
	say(packet[0], "packet");
	say(packet[1], "and another");
	fill(big, 70000, 9);
	check(send(packet[1], big, 70000, 0) != 70000, "send");
	say(packet[1], "last");
	again = dup(stream[1]);
	check(again < 0, "dup");

	stop_here();

	/* a read continues across two pieces of a stream */
	expect_text(again, "first piece, the second");
	expect_error(stream[1], EAGAIN, "and no more");
	fill(big, 150000, 3);
	check(send(stream[0], big, 150000, 0) != 150000, "send");
	expect_data(stream[1], 150000, 3, "a long stream, after the stop");
	expect_text(stream[0], "back");
	/* datagrams stay separate, including the empty one */
	expect_text(dgram[1], "one");
	expect_text(dgram[1], "");
	expect_text(dgram[1], "three");
	expect_data(dgram[1], 100000, 7, "a large datagram");
	expect_error(dgram[1], EAGAIN, "and no more");
	expect_text(dgram[0], "there");
	expect_text(packet[1], "packet");
	/* the rest of a packet that is read in part is lost */
	check(recv(packet[0], part, 3, 0) != 3, "recv");
	expect(!memcmp(part, "and", 3), "the start of a packet");
	expect_data(packet[0], 70000, 9, "a large packet");
	expect_text(packet[0], "last");
	expect(fcntl(dgram[0], F_GETFL) & O_NONBLOCK && !(fcntl(stream[0], F_GETFL) & O_NONBLOCK),
	       "who blocks");
	expect(fcntl(packet[0], F_GETFD) == FD_CLOEXEC && fcntl(stream[0], F_GETFD) == 0,
	       "close-on-exec");
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	check(getsockopt(fd, SOL_SOCKET, name, &value, &size), "getsockopt");
	return value;
}

static void set(int fd, int name, int value)
{
	check(setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value)), "setsockopt");
}

/* Returns the number of small messages, with known content, that fit. */
static int pour(int fd, size_t size)
{
	char data[512];
	int n = 0;

	memset(data, 'x', sizeof(data));
	while (send(fd, data, size, MSG_DONTWAIT) == (ssize_t)size)
		n++;
	check(errno != EAGAIN, "send");
	return n;
}

static void options(void)
{
	struct timeval wait = { .tv_sec = 1, .tv_usec = 252000 }, got;
	int ends[2], full[2], urgent[2], inl[2], half[2], before, control, all, n;
	struct linger linger = { .l_onoff = 1, .l_linger = 77 };
	socklen_t size = sizeof(got);
	char text[32];

	pair(SOCK_STREAM, ends);
	check(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), "SO_RCVTIMEO");
	check(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), "SO_LINGER");
	set(ends[0], SO_SNDBUF, 20000);
	set(ends[0], SO_RCVBUF, 30000);
	set(ends[0], SO_PASSCRED, 1);
	set(ends[0], SO_RCVLOWAT, 5);
	set(ends[0], SO_KEEPALIVE, 1);
	set(ends[1], SO_PEEK_OFF, 3);
	set(ends[1], SO_TIMESTAMP, 1);
	set(ends[1], SO_REUSEADDR, 1);
	say(ends[0], "peeked at");
	check(recv(ends[1], text, 2, MSG_PEEK) != 2, "MSG_PEEK");

	/* the room after three messages have been received */
	pair(SOCK_DGRAM, full);
	set(full[0], SO_SNDBUF, 10000);
	all = pour(full[0], 200);
	for (n = 0; n < 3; n++)
		check(recv(full[1], text, sizeof(text), 0) != sizeof(text), "recv");
	control = pour(full[0], 200);
	for (n = 0; n < 3; n++)
		check(recv(full[1], text, sizeof(text), 0) != sizeof(text), "recv");
	before = 0;
	check(ioctl(full[1], FIONREAD, &before), "FIONREAD");

	/* bytes before and after the urgent one; an urgent byte after those already read */
	pair(SOCK_STREAM, urgent);
	say(urgent[0], "before");
	check(send(urgent[0], "!", 1, MSG_OOB) != 1, "MSG_OOB");
	say(urgent[0], "behind");
	pair(SOCK_STREAM, inl);
	set(inl[1], SO_OOBINLINE, 1);
	say(inl[0], "in");
	check(send(inl[0], "?", 1, MSG_OOB) != 1, "MSG_OOB");
	say(inl[0], "line");
	pair(SOCK_STREAM, half);
	check(send(half[0], "a#", 2, MSG_OOB) != 2, "MSG_OOB");
	check(recv(half[1], text, 1, MSG_OOB) != 1 || text[0] != '#', "MSG_OOB");

	stop_here();

	check(getsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &got, &size), "SO_RCVTIMEO");
	expect(!memcmp(&got, &wait, sizeof(got)), "a timeout of 1.252 s");
	check(getsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &got, &size), "SO_SNDTIMEO");
	expect(!got.tv_sec && !got.tv_usec, "and none");
	size = sizeof(linger);
	memset(&linger, 0, sizeof(linger));
	check(getsockopt(ends[0], SOL_SOCKET, SO_LINGER, &linger, &size), "SO_LINGER");
	expect(linger.l_onoff == 1 && linger.l_linger == 77, "linger");
	printf("buffers %d and %d, others %d and %d\n", option(ends[0], SO_SNDBUF),
	       option(ends[0], SO_RCVBUF), option(ends[1], SO_SNDBUF), option(ends[1], SO_RCVBUF));
	expect(option(ends[0], SO_SNDBUF) == 40000 && option(ends[0], SO_RCVBUF) == 60000,
	       "as they were set");
	expect(option(ends[0], SO_PASSCRED) == 1 && option(ends[1], SO_PASSCRED) == 0,
	       "only the first end requests credentials");
	expect(option(ends[0], SO_RCVLOWAT) == 5 && option(ends[1], SO_RCVLOWAT) == 1, "low marks");
	expect(option(ends[0], SO_KEEPALIVE) && !option(ends[1], SO_KEEPALIVE), "keepalive");
	expect(option(ends[1], SO_TIMESTAMP) && !option(ends[0], SO_TIMESTAMP), "time stamps");
	expect(option(ends[1], SO_REUSEADDR) && !option(ends[0], SO_REUSEADDR), "reuse");
	expect(option(ends[1], SO_PEEK_OFF) == 5 && option(ends[0], SO_PEEK_OFF) == -1, "peeking at");
	check(recv(ends[1], text, 4, MSG_PEEK) != 4, "MSG_PEEK");
	expect(!memcmp(text, "d at", 4), "peeked on");
	set(ends[1], SO_PEEK_OFF, -1);
	expect_text(ends[1], "peeked at");
	before -= ioctl(full[1], FIONREAD, &n) ?: n;
	expect(!before, "as much to read");
	expect(pour(full[0], 200) == control, "as much fits as before");
	for (n = 0; recv(full[1], text, sizeof(text), MSG_DONTWAIT) > 0; n++)
		;
	expect(n == all - 6 + 2 * control, "and it all comes");

	n = 1;
	check(recv(urgent[1], text, 6, 0) != 6, "recv");
	expect(!memcmp(text, "before", 6), "up to the mark");
	check(ioctl(urgent[1], SIOCATMARK, &n), "SIOCATMARK");
	expect(n == 1, "at the mark");
	expect(recv(urgent[1], text, 1, MSG_OOB) == 1 && text[0] == '!', "the urgent byte");
	expect_text(urgent[1], "behind");
	expect(recv(inl[1], text, sizeof(text), 0) == 2, "bytes before the urgent byte in the stream");
	expect_text(inl[1], "?line");
	expect_text(half[1], "a");
	expect_error(half[1], EAGAIN, "and nothing behind it");
}

static void blocked(void)
{
	int wake[2], full[2], done[2], status, n, whole;
	char text[512];
	pid_t reader, writer;

	pair(SOCK_STREAM, wake);
	pair(SOCK_DGRAM, full);
	check(pipe(done), "pipe");
	set(full[0], SO_SNDBUF, 5000);
	n = pour(full[0], 300);
	reader = forked();
	if (!reader) {
		close(wake[0]);
		check(write(done[1], "", 1) != 1, "write");
		if (recv(wake[1], text, sizeof(text), 0) != 5 || memcmp(text, "awake", 5))
			_exit(1);
		_exit(send(wake[1], "yes", 3, 0) == 3 ? 11 : 2);
	}
	writer = forked();
	if (!writer) {
		check(write(done[1], "", 1) != 1, "write");
		_exit(send(full[0], "at last", 7, 0) == 7 ? 12 : 1);
	}
	check(read(done[0], text, 1) != 1 || read(done[0], text, 1) != 1, "read");
	/*
	 * gives both children time to fall asleep; the expected sites check
	 * that they sleep
	 */
	usleep(200000);

	stop_here();

	say(wake[0], "awake");
	status = wait_for_child(reader);
	printf("the reader exited %d\n", WEXITSTATUS(status));
	expect_text(wake[0], "yes");
	for (whole = 0; whole < n && recv(full[1], text, sizeof(text), 0) == 300;)
		whole++;
	expect(whole == n, "those that filled it");
	status = wait_for_child(writer);
	printf("the writer exited %d\n", WEXITSTATUS(status));
	expect_text(full[1], "at last");
}

static void closed(void)
{
	int gone[2], reset[2], write_half[2], read_half[2], dgram[2], refused[2], packet[2], both[2];
	char byte;

	signal(SIGPIPE, SIG_IGN);
	pair(SOCK_STREAM, gone);
	say(gone[1], "last words");
	close(gone[1]);
	pair(SOCK_STREAM, reset);
	say(reset[0], "never read");
	close(reset[1]);
	pair(SOCK_STREAM, write_half);
	say(write_half[0], "all of it");
	check(shutdown(write_half[0], SHUT_WR), "shutdown");
	pair(SOCK_SEQPACKET, read_half);
	say(read_half[0], "before");
	check(shutdown(read_half[1], SHUT_RD), "shutdown");
	pair(SOCK_DGRAM, dgram);
	say(dgram[1], "a datagram");
	close(dgram[1]);
	pair(SOCK_DGRAM, refused);
	close(refused[1]);
	check(send(refused[0], "x", 1, 0) >= 0 || errno != ECONNREFUSED, "send");
	pair(SOCK_SEQPACKET, packet);
	say(packet[1], "");
	say(packet[1], "packet");
	close(packet[1]);
	pair(SOCK_STREAM, both);
	check(shutdown(both[0], SHUT_RDWR), "shutdown");

	stop_here();

	expect_text(gone[0], "last words");
	expect_text(gone[0], "");
	expect(send(gone[0], "x", 1, 0) < 0 && errno == EPIPE, "the peer is closed");
	expect_error(reset[0], ECONNRESET, "it was not read");
	expect_text(reset[0], "");
	expect_text(write_half[1], "all of it");
	expect_text(write_half[1], "");
	say(write_half[1], "the other way");
	expect_text(write_half[0], "the other way");
	expect(send(write_half[0], "x", 1, 0) < 0 && errno == EPIPE, "no more from there");
	expect_text(read_half[1], "before");
	expect_text(read_half[1], "");
	expect(send(read_half[0], "x", 1, 0) < 0 && errno == EPIPE, "no more to there");
	say(read_half[1], "but from it");
	expect_text(read_half[0], "but from it");
	expect_text(dgram[0], "a datagram");
	expect(send(dgram[0], "x", 1, 0) < 0 && errno == ECONNREFUSED, "refused once");
	expect(send(dgram[0], "x", 1, 0) < 0 && errno == ENOTCONN, "then not connected");
	expect(send(refused[0], "x", 1, 0) < 0 && errno == ENOTCONN, "not connected before");
	expect_text(packet[0], "");
	expect_text(packet[0], "packet");
	expect_text(packet[0], "");
	expect(recv(both[0], &byte, 1, 0) == 0 && recv(both[1], &byte, 1, 0) == 0, "both ways");
}

/* Receives a message and prints its sender's uid, and whether the pid is this one. */
static void expect_sender(int fd, const char *text, pid_t pid, uid_t uid)
{
	char data[64], control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec iov = { data, sizeof(data) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	struct ucred *who;

	check(n < 0 || !cmsg || cmsg->cmsg_type != SCM_CREDENTIALS, "SCM_CREDENTIALS");
	who = (struct ucred *)CMSG_DATA(cmsg);
	printf("\"%.*s\" of uid %u, gid %u\n", (int)n, data, who->uid, who->gid);
	expect(n == (ssize_t)strlen(text) && !memcmp(data, text, n) && who->pid == pid &&
		       who->uid == uid,
	       "with its sender's credentials");
}

static void say_as(int fd, const char *text, pid_t pid, uid_t uid)
{
	char control[CMSG_SPACE(sizeof(struct ucred))] = "";
	struct iovec iov = { (char *)text, strlen(text) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_CREDENTIALS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(struct ucred));
	*(struct ucred *)CMSG_DATA(cmsg) = (struct ucred){ pid, uid, uid + 1 };
	check(sendmsg(fd, &msg, 0) != (ssize_t)strlen(text), "sendmsg");
}

static struct ucred peer(int fd)
{
	struct ucred who;
	socklen_t size = sizeof(who);

	check(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size), "SO_PEERCRED");
	return who;
}

static void credentials(void)
{
	int stream[2], packet[2], plain[2], theirs[2], carrier[2], passed_on, status;
	struct ucred who;
	pid_t child;

	pair(SOCK_STREAM, stream);
	pair(SOCK_SEQPACKET, packet);
	pair(SOCK_DGRAM, plain);
	set(stream[1], SO_PASSCRED, 1);
	set(packet[1], SO_PASSCRED, 1);
	set(packet[0], SO_PASSCRED, 1);
	/*
	 * two messages from a process that exits, one from this process: a read ends where
	 * the sender changes
	 */
	pair(SOCK_STREAM, carrier);
	child = forked();
	if (!child) {
		check(setregid(2001, 2001) || setreuid(2000, 2000), "setreuid");
		say(stream[0], "gone ");
		say(stream[0], "by now");
		say(packet[0], "a packet");
		pair(SOCK_STREAM, theirs);
		give(carrier[0], "mine", &theirs[0], 1);
		_exit(0);
	}
	check(waitpid(child, &status, 0) != child || status, "waitpid");
	take(carrier[1], "mine", &passed_on, 1);
	say(stream[0], ", of this");
	say_as(packet[0], "another's", getpid(), 3000);
	say(plain[0], "not asked for");

	stop_here();

	expect_sender(stream[1], "gone by now", child, 2000);
	expect_sender(stream[1], ", of this", getpid(), 0);
	expect_sender(packet[1], "a packet", child, 2000);
	expect_sender(packet[1], "another's", getpid(), 3000);
	expect_text(plain[1], "not asked for");
	who = peer(plain[0]);
	expect(who.pid == getpid() && who.uid == 0 && who.gid == 0, "the peer is this process");
	who = peer(passed_on);
	expect(who.pid == child && who.uid == 2000 && who.gid == 2001,
	       "the peer is a process that has exited");
	say(packet[0], "after it");
	expect_sender(packet[1], "after it", getpid(), 0);
}

static void watch(int epoll, int fd, uint32_t events, const char *name)
{
	struct epoll_event event = { .events = events, .data.ptr = (void *)name };

	check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "EPOLL_CTL_ADD");
}

/* Prints the ready items in the kernel's order. */
static void print_ready(const char *when, int epoll)
{
	struct epoll_event events[16];
	int n = epoll_wait(epoll, events, 16, 0);

	check(n < 0, "epoll_wait");
	printf("%s:", when);
	for (int i = 0; i < n; i++)
		printf(" %s %#x", (const char *)events[i].data.ptr, events[i].events);
	printf("\n");
}

static void epolls(void)
{
	int data[2], quiet[2], edge[2], full[2], gone[2], half[2], epoll;
	char text[512];

	epoll = epoll_create1(0);
	check(epoll < 0, "epoll_create1");
	pair(SOCK_STREAM, data);
	pair(SOCK_DGRAM, quiet);
	pair(SOCK_STREAM, edge);
	pair(SOCK_DGRAM, full);
	pair(SOCK_STREAM, gone);
	pair(SOCK_SEQPACKET, half);
	watch(epoll, data[0], EPOLLIN, "data");
	watch(epoll, quiet[0], EPOLLIN, "quiet");
	watch(epoll, edge[0], EPOLLIN | EPOLLET, "edge");
	watch(epoll, full[0], EPOLLOUT, "full");
	watch(epoll, gone[0], EPOLLIN | EPOLLRDHUP | EPOLLET, "gone");
	watch(epoll, half[0], EPOLLIN | EPOLLRDHUP, "half");
	set(full[0], SO_SNDBUF, 4608);
	pour(full[0], 400);
	say(edge[1], "edge");
	print_ready("before", epoll);
	print_ready("nothing", epoll);
	close(gone[1]);
	say(data[1], "data");
	check(shutdown(half[1], SHUT_WR), "shutdown");

	stop_here();

	print_ready("after", epoll);
	print_ready("again", epoll);
	say(edge[1], "a new one");
	say(quiet[1], "not any more");
	while (recv(full[1], text, sizeof(text), MSG_DONTWAIT) > 0)
		;
	print_ready("more", epoll);
	expect_text(data[0], "data");
	expect_text(edge[0], "edgea new one");
	expect_text(quiet[0], "not any more");
	print_ready("read", epoll);
}

static int named(int type, const char *name, struct sockaddr_un *addr, socklen_t *len)
{
	int fd = socket(AF_UNIX, type, 0);

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	strcpy(addr->sun_path + 1, name);
	*len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
	check(fd < 0, "socket");
	return fd;
}

static void expect_name(int fd, const char *name, int of_peer, const char *what)
{
	struct sockaddr_un addr = { 0 };
	socklen_t len = sizeof(addr);

	check(of_peer ? getpeername(fd, (struct sockaddr *)&addr, &len) :
			getsockname(fd, (struct sockaddr *)&addr, &len), "name");
	len -= offsetof(struct sockaddr_un, sun_path);
	if (!name)
		expect(len == 0, what);
	else
		expect(len == strlen(name) + 1 && !memcmp(addr.sun_path + 1, name, len - 1), what);
}

static void names(void)
{
	int listener, client, server, single, bound, left[2], second;
	struct sockaddr_un addr, other;
	socklen_t len, size;
	char text[64];

	listener = named(SOCK_STREAM, "listening", &addr, &len);
	check(bind(listener, (struct sockaddr *)&addr, len) || listen(listener, 3), "listen");
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	check(connect(client, (struct sockaddr *)&addr, len), "connect");
	server = accept(listener, NULL, NULL);
	check(server < 0, "accept");
	close(listener);
	say(server, "accepted");
	single = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	bound = named(SOCK_DGRAM, "bound", &addr, &len);
	check(bind(bound, (struct sockaddr *)&addr, len), "bind");
	pair(SOCK_DGRAM, left);
	named(SOCK_DGRAM, "left", &other, &size);
	check(bind(left[1], (struct sockaddr *)&other, size), "bind");
	say(left[1], "named");
	close(left[1]);

	stop_here();

	expect_text(client, "accepted");
	expect_name(server, "listening", 0, "the server's name");
	expect_name(client, "listening", 1, "seen by the client");
	expect_name(client, NULL, 0, "which has none");
	say(client, "thanks");
	expect_text(server, "thanks");
	expect(connect(single, (struct sockaddr *)&addr, len) && errno == ECONNREFUSED,
	       "no socket of this type has the name");
	second = named(SOCK_DGRAM, "bound", &addr, &len);
	expect(bind(second, (struct sockaddr *)&addr, len) && errno == EADDRINUSE,
	       "the name is taken");
	check(connect(second, (struct sockaddr *)&addr, len), "connect");
	say(second, "found by its name");
	expect_text(bound, "found by its name");
	size = sizeof(other);
	memset(&other, 0, sizeof(other));
	expect(recvfrom(left[0], text, sizeof(text), 0, (struct sockaddr *)&other, &size) == 5 &&
		       !strcmp(other.sun_path + 1, "left"),
	       "the name of a closed socket");
	expect_name(left[0], "left", 1, "and still its peer's");
	/* different sockets can bind it now */
	second = named(SOCK_STREAM, "listening", &addr, &len);
	expect(!bind(second, (struct sockaddr *)&addr, len), "no socket is bound to it");
}

#define MAX_QUEUE "/proc/sys/net/unix/max_dgram_qlen"

static void set_max_queue(const char *messages)
{
	int fd = open(MAX_QUEUE, O_WRONLY);

	check(fd < 0 || write(fd, messages, strlen(messages)) != (ssize_t)strlen(messages),
	      MAX_QUEUE);
	close(fd);
}

/* The number of messages that a socket queues is the limit at its creation. */
static void limit(void)
{
	int receiver, sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0), n = 0;
	struct sockaddr_un addr;
	char was[32] = "";
	socklen_t len;

	receiver = open(MAX_QUEUE, O_RDONLY);
	check(receiver < 0 || read(receiver, was, sizeof(was) - 1) <= 0, MAX_QUEUE);
	close(receiver);
	set_max_queue("37");
	receiver = named(SOCK_DGRAM, "receiver", &addr, &len);
	set_max_queue(was);
	check(bind(receiver, (struct sockaddr *)&addr, len), "bind");
	stop_here();
	check(connect(sender, (struct sockaddr *)&addr, len), "connect");
	while (send(sender, "x", 1, 0) == 1)
		n++;
	expect(errno == EAGAIN, "more would wait");
	printf("it holds %d\n", n);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "queued", queued }, { "options", options },	      { "blocked", blocked },
	{ "closed", closed }, { "credentials", credentials }, { "passed", passed },
	{ "cycle", cycle },   { "epoll", epolls },	      { "names", names },
	{ "limit", limit },
};

int main(int argc, char **argv)
{
	nonce_draw();
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		if (argc > 1 && !strcmp(argv[1], cases[n].name)) {
			cases[n].run();
			nonce_print();
			return failures ? 2 : 0;
		}
	}
	return 1;
}
