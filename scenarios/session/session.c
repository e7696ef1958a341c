// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Files of anon_inodefs, and their state after the event. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "session.h"
#include "workload.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

void wake(int fd)
{
	check(write(fd, "", 1) != 1, "send");
}

/* Prints the result of a read, or its error. */
static void print_count(const char *what, int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) == sizeof(count))
		printf("%s: %ju\n", what, (uintmax_t)count);
	else
		printf("%s: %s\n", what, strerrorname_np(errno));
}

void eventfds(void)
{
	uint64_t most = UINT64_MAX - 1, one = 1;
	int plain, down, full, shared, status;
	pid_t child;

	plain = eventfd(7, EFD_NONBLOCK);
	down = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
	full = eventfd(0, EFD_NONBLOCK);
	shared = eventfd(0, 0);
	check(plain < 0 || down < 0 || full < 0 || shared < 0, "eventfd");
	check(write(full, &most, sizeof(most)) != sizeof(most), "write");
	child = forked();
	if (!child) {
		check(read(shared, &one, sizeof(one)) != sizeof(one), "read");
		_exit(one);
	}

	stop_here();

	print_count("plain", plain);
	print_count("plain", plain);
	print_count("down", down);
	print_count("down", down);
	print_count("down", down);
	printf("no more fits: %d\n", write(full, &one, sizeof(one)) < 0 && errno == EAGAIN);
	print_count("full", full);
	one = 42;
	check(write(shared, &one, sizeof(one)) != sizeof(one), "write");
	status = wait_for_child(child);
	printf("the child read %d\n", WEXITSTATUS(status));
	printf("flags: %#x, close-on-exec: %d %d\n", fcntl(down, F_GETFL),
	       fcntl(plain, F_GETFD), fcntl(down, F_GETFD));
}

static void print_signal(const char *what, int fd)
{
	struct signalfd_siginfo info;

	if (read(fd, &info, sizeof(info)) != sizeof(info))
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: signal %d code %d value %d\n", what, info.ssi_signo,
		       info.ssi_code, info.ssi_int);
}

void signalfds(void)
{
	sigset_t all, users, real;
	int one, two, three;

	sigemptyset(&users);
	sigaddset(&users, SIGUSR1);
	sigaddset(&users, SIGUSR2);
	sigemptyset(&real);
	sigaddset(&real, SIGRTMIN + 3);
	sigaddset(&real, SIGKILL);
	sigorset(&all, &users, &real);
	check(sigprocmask(SIG_BLOCK, &all, NULL), "sigprocmask");
	one = signalfd(-1, &users, SFD_NONBLOCK);
	two = signalfd(-1, &real, SFD_NONBLOCK | SFD_CLOEXEC);
	three = dup(one);
	check(one < 0 || two < 0 || three < 0, "signalfd");
	check(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = 5 }), "sigqueue");
	check(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = 6 }), "sigqueue");
	check(raise(SIGUSR2), "raise");

	stop_here();

	print_signal("real", two);
	print_signal("user", three);
	print_signal("user", one);
	print_signal("real", two);
	print_signal("real", two);
	/* the mask of the open file, which both its descriptors share */
	sigdelset(&users, SIGUSR2);
	check(signalfd(one, &users, 0) != one, "signalfd");
	check(raise(SIGUSR2) || raise(SIGUSR1), "raise");
	print_signal("user", three);
	print_signal("user", three);
}

static int timer(int clock, int flags, long seconds, long nanoseconds, long interval)
{
	struct itimerspec time = {
		.it_value = { seconds, nanoseconds }, .it_interval = { interval, 0 },
	};
	int fd = timerfd_create(clock, TFD_NONBLOCK);

	check(fd < 0 || timerfd_settime(fd, flags, &time, NULL), "timerfd");
	return fd;
}

/* Prints whether the remaining time is positive and does not exceed @most. */
static void print_left(const char *what, int fd, long most)
{
	struct itimerspec time;

	check(timerfd_gettime(fd, &time), "timerfd_gettime");
	printf("%s: ", what);
	if (!time.it_value.tv_sec && !time.it_value.tv_nsec)
		printf("not armed");
	else
		printf("armed, as it was: %d", time.it_value.tv_sec <= most &&
						     time.it_value.tv_sec > most - 200);
	printf(", interval %ld s %ld ns\n", (long)time.it_interval.tv_sec,
	       time.it_interval.tv_nsec);
}

void timerfds(void)
{
	struct itimerspec fast = { .it_value.tv_nsec = 1, .it_interval.tv_nsec = 1000000 };
	int left, real, boot, ended, never, ticks, slow, short_one, cancel;
	struct timespec now;
	struct itimerspec soon;
	uint64_t count;

	left = timer(CLOCK_MONOTONIC, 0, 5000, 0, 600);
	clock_gettime(CLOCK_REALTIME, &now);
	real = timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME, now.tv_sec + 4000, 0, 0);
	cancel = timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET,
		       now.tv_sec + 3000, 0, 0);
	boot = timer(CLOCK_BOOTTIME, 0, 2000, 0, 0);
	ended = timer(CLOCK_MONOTONIC, 0, 0, 1, 0);
	never = timerfd_create(CLOCK_REALTIME, 0);
	/* expired once; its next expiration is far away */
	slow = timer(CLOCK_MONOTONIC, 0, 0, 1, 1000);
	ticks = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	check(ticks < 0 || never < 0 || timerfd_settime(ticks, 0, &fast, NULL), "timerfd");
	short_one = timerfd_create(CLOCK_MONOTONIC, 0);
	soon = (struct itimerspec){ .it_value.tv_nsec = 300000000 };
	check(short_one < 0 || timerfd_settime(short_one, 0, &soon, NULL), "timerfd");
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);

	stop_here();

	print_left("left", left, 5000);
	print_left("real", real, 4000);
	print_left("cancel", cancel, 3000);
	print_left("boot", boot, 2000);
	print_count("ended", ended);
	print_count("ended", ended);
	print_left("never", never, 0);
	print_left("slow", slow, 1000);
	print_count("slow", slow);
	print_count("slow", slow);
	check(read(ticks, &count, sizeof(count)) != sizeof(count), "read");
	printf("at least twenty ticks: %d\n", count >= 20);
	check(read(short_one, &count, sizeof(count)) != sizeof(count), "read");
	printf("it came, once: %d\n", count == 1);
	soon = (struct itimerspec){ 0 };
	check(timerfd_settime(left, 0, &soon, NULL), "timerfd_settime");
	print_left("left, disarmed", left, 0);
}

static void print_seals(const char *what, int fd)
{
	struct stat stat;

	check(fstat(fd, &stat), "fstat");
	printf("%s: seals %#x, mode %#o, %ld bytes, at %ld, flags %#x\n", what,
	       fcntl(fd, F_GET_SEALS), stat.st_mode & 07777, (long)stat.st_size,
	       (long)lseek(fd, 0, SEEK_CUR), fcntl(fd, F_GETFL));
}

static void print_name(const char *what, int fd)
{
	char path[64], name[64] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	check(readlink(path, name, sizeof(name) - 1) < 0, "readlink");
	printf("%s is %s\n", what, name);
}

void memfds(void)
{
	int open_one, plain, shrink, future, executable;
	char text[32] = "";
	char *memory, *kept, *later;

	plain = memfd_create("plain", 0);
	open_one = memfd_create("open", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	shrink = memfd_create("", MFD_ALLOW_SEALING);
	future = memfd_create("future", MFD_ALLOW_SEALING);
	executable = memfd_create("noexec", MFD_NOEXEC_SEAL);
	check(plain < 0 || open_one < 0 || shrink < 0 || future < 0 || executable < 0,
	      "memfd_create");
	check(write(plain, "plain text", 10) != 10, "write");
	check(write(shrink, "sealed", 6) != 6, "write");
	check(lseek(shrink, 2, SEEK_SET) != 2, "lseek");
	check(fcntl(shrink, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE),
	      "F_ADD_SEALS");
	check(ftruncate(future, 8192), "ftruncate");
	memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0);
	check(memory == MAP_FAILED, "mmap");
	check(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), "F_ADD_SEALS");
	strcpy(memory + 5000, "mapped");
	later = mmap(NULL, 4096, PROT_READ, MAP_SHARED, future, 0);
	check(later == MAP_FAILED, "mmap");

	stop_here();

	printf("a later mapping cannot be made writable: %d, an earlier one: %d\n",
	       mprotect(later, 4096, PROT_READ | PROT_WRITE) && errno == EACCES,
	       !mprotect(memory, 4096, PROT_READ) &&
		       !mprotect(memory, 4096, PROT_READ | PROT_WRITE));

	print_seals("plain", plain);
	print_seals("open", open_one);
	print_seals("shrink", shrink);
	print_seals("future", future);
	print_seals("executable", executable);
	print_name("plain", plain);
	print_name("shrink", shrink);
	check(pread(plain, text, 10, 0) != 10, "pread");
	printf("%s\n", text);
	printf("sealed: write %d, grow %d, shrink %d, map %d\n",
	       write(shrink, "x", 1) < 0 && errno == EPERM,
	       ftruncate(shrink, 100) && errno == EPERM,
	       ftruncate(shrink, 1) && errno == EPERM,
	       mmap(NULL, 6, PROT_READ | PROT_WRITE, MAP_SHARED, shrink, 0) == MAP_FAILED);
	kept = mmap(NULL, 6, PROT_READ, MAP_SHARED, shrink, 0);
	check(kept == MAP_FAILED, "mmap");
	printf("cannot be made writable: %d\n",
	       mprotect(kept, 6, PROT_READ | PROT_WRITE) && errno == EACCES);
	strcat(memory + 5000, " still");
	check(pread(future, text, 13, 5000) != 13, "pread");
	printf("%s, but not by write: %d\n", text, write(future, "x", 1) < 0 && errno == EPERM);
	printf("mode sealed: %d\n", fchmod(executable, 0777) && errno == EPERM);
	check(fcntl(open_one, F_ADD_SEALS, F_SEAL_GROW), "F_ADD_SEALS");
	printf("plain cannot be sealed: %d\n",
	       fcntl(plain, F_ADD_SEALS, F_SEAL_GROW) && errno == EPERM);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "eventfd", eventfds }, { "signalfd", signalfds }, { "timerfd", timerfds },
	{ "memfd", memfds },	 { "epoll", epolls },	    { "nested", nested },
	{ "timers", timers },
};

int main(int argc, char **argv)
{
	nonce_draw();
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		if (argc > 1 && !strcmp(argv[1], cases[n].name)) {
			cases[n].run();
			nonce_print();
			return 0;
		}
	}
	return 1;
}
