// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Reads all properties that the kernel reports to a process about itself, and compares them
 * before and after. Most must be equal; clocks and counters may only grow, and by no more than
 * the passed time explains.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "ask.h"
#include "workload.h"

/* Number of descriptors to examine. */
#define DESCRIPTORS 64
/*
 * Maximum time that may have passed on clocks, in ns; it includes the time for which the guest
 * waits for the host.
 */
#define ROOM 3600000000000LL
/* Maximum growth of a task's counters. */
#define FEW 5000

enum form { EQUAL, GROWS };

/*
 * The kernel's answers: those that must stay equal as text, those that may grow as numbers
 * with their maximum growth.
 */
struct answers {
	char text[1 << 16];
	size_t length;
	struct {
		const char *name;
		long long value, room;
	} growing[64];
	size_t count;
};

static struct answers before, after;

__attribute__((format(printf, 2, 3)))
static void add(struct answers *to, const char *format, ...)
{
	size_t left = sizeof(to->text) - to->length;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(to->text + to->length, left, format, arguments);
	va_end(arguments);
	check(length < 0 || (size_t)length >= left, "too many answers");
	to->length += length;
}

static void grows(struct answers *to, const char *name, long long value, long long room)
{
	check(to->count == sizeof(to->growing) / sizeof(to->growing[0]), "too many counters");
	to->growing[to->count].name = name;
	to->growing[to->count].value = value;
	to->growing[to->count++].room = room;
}

/* Returns the value, or the error as a negative number. */
static long answer(long value)
{
	return value < 0 ? -errno : value;
}

static void identity(struct answers *to)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2] = {};
	gid_t groups[64];
	uid_t r, e, s;
	mode_t mask;
	char path[4096];
	int n;

	/* not getppid(2): it is the event */
	add(to, "pid %d, thread %d, group %d, session %d\n", getpid(), (int)syscall(SYS_gettid),
	    getpgrp(), getsid(0));
	getresuid(&r, &e, &s);
	add(to, "users %u %u %u\n", r, e, s);
	getresgid(&r, &e, &s);
	add(to, "groups %u %u %u:", r, e, s);
	n = getgroups(64, groups);
	for (int i = 0; i < n; i++)
		add(to, " %u", groups[i]);
	syscall(SYS_capget, &header, caps);
	for (int i = 0; i < 2; i++)
		add(to, "\ncapabilities %x %x %x", caps[i].permitted, caps[i].effective,
		    caps[i].inheritable);
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		add(to, "\ncapability %d: bounding %d, ambient %d", cap,
		    prctl(PR_CAPBSET_READ, cap),
		    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0));
	mask = umask(0);
	umask(mask);
	add(to, "\numask %o\nworking directory %s\n", mask, getcwd(path, sizeof(path)));
	for (int limit = 0; limit < RLIMIT_NLIMITS; limit++) {
		struct rlimit value = {};

		getrlimit(limit, &value);
		add(to, "limit %d: %llu %llu\n", limit, (long long)value.rlim_cur,
		    (long long)value.rlim_max);
	}
}

static void settings(struct answers *to)
{
	static const struct {
		const char *name;
		int option, by_pointer;
	} options[] = {
		{ "PDEATHSIG", PR_GET_PDEATHSIG, 1 }, { "DUMPABLE", PR_GET_DUMPABLE, 0 },
		{ "KEEPCAPS", PR_GET_KEEPCAPS, 0 }, { "TIMING", PR_GET_TIMING, 0 },
		{ "TSC", PR_GET_TSC, 1 }, { "SECUREBITS", PR_GET_SECUREBITS, 0 },
		{ "TIMERSLACK", PR_GET_TIMERSLACK, 0 },
		{ "MCE_KILL", PR_MCE_KILL_GET, 0 },
		{ "CHILD_SUBREAPER", PR_GET_CHILD_SUBREAPER, 1 },
		{ "NO_NEW_PRIVS", PR_GET_NO_NEW_PRIVS, 0 },
		{ "THP_DISABLE", PR_GET_THP_DISABLE, 0 },
		{ "IO_FLUSHER", 58 /* PR_GET_IO_FLUSHER */, 0 },
		{ "MDWE", 66 /* PR_GET_MDWE */, 0 },
		{ "MEMORY_MERGE", 68 /* PR_GET_MEMORY_MERGE */, 0 },
	};
	struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority;
		 uint64_t runtime, deadline, period; uint32_t low, high; } attr = {};
	unsigned long base = 0;
	cpu_set_t cpus;
	char name[16];
	struct utsname system;
	int *tid = NULL;

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		int value = 0;
		long result = options[i].by_pointer ?
			prctl(options[i].option, &value, 0, 0, 0) :
			prctl(options[i].option, 0, 0, 0, 0);

		add(to, "PR_GET_%s: %ld %d\n", options[i].name, answer(result), value);
	}
	for (int which = 0; which < 3; which++)
		add(to, "speculation %d: %ld\n", which,
		    answer(prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0)));
	prctl(PR_GET_NAME, name);
	prctl(PR_GET_TID_ADDRESS, &tid);
	add(to, "name %.16s, tid address %p\n", name, (void *)tid);
	add(to, "personality %x\n", personality(0xffffffff));
	add(to, "policy %d, nice %d, I/O priority %ld\n", sched_getscheduler(0),
	    getpriority(PRIO_PROCESS, 0), syscall(SYS_ioprio_get, 1, 0));
	syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0);
	add(to, "attributes %u %llx %d %u %llu %llu %llu %u %u\n", attr.policy,
	    (long long)attr.flags, attr.nice, attr.priority, (long long)attr.runtime,
	    (long long)attr.deadline, (long long)attr.period, attr.low, attr.high);
	CPU_ZERO(&cpus);
	sched_getaffinity(0, sizeof(cpus), &cpus);
	add(to, "CPUs %d", CPU_COUNT(&cpus));
	syscall(SYS_arch_prctl, ARCH_GET_FS, &base);
	add(to, "\nfs %lx", base);
	syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
	add(to, ", gs %lx, cpuid %ld\n", base, answer(syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0)));
	uname(&system);
	add(to, "host %s, domain %s\n", system.nodename, system.domainname);
	add(to, "break %p\n", sbrk(0));
}

static void signals(struct answers *to)
{
	void *list = NULL;
	size_t length = 0;
	sigset_t set;
	stack_t stack;
	siginfo_t info;

	for (int signal = 1; signal <= 64; signal++) {
		/* of the kernel: handler, flags, restorer, mask */
		unsigned long action[4] = {};

		syscall(SYS_rt_sigaction, signal, NULL, action, 8);
		add(to, "signal %d: %lx %lx %lx %lx\n", signal, action[0], action[1], action[2],
		    action[3]);
	}
	sigprocmask(SIG_BLOCK, NULL, &set);
	add(to, "mask %lx", *(unsigned long *)&set);
	sigpending(&set);
	add(to, ", pending %lx\n", *(unsigned long *)&set);
	sigaltstack(NULL, &stack);
	add(to, "alternate stack %p %x %zx\n", stack.ss_sp, stack.ss_flags, stack.ss_size);
	syscall(SYS_get_robust_list, 0, &list, &length);
	add(to, "robust list %p %zu\n", list, length);
	memset(&info, 0, sizeof(info));
	add(to, "dead child: %ld", answer(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT)));
	add(to, " %d %d %d\n", info.si_pid, info.si_code, info.si_status);
	for (int timer = 0; timer < 3; timer++) {
		struct itimerval value = {};

		getitimer(timer, &value);
		add(to, "timer %d: every %ld.%06ld, armed %d\n", timer,
		    (long)value.it_interval.tv_sec, (long)value.it_interval.tv_usec,
		    value.it_value.tv_sec || value.it_value.tv_usec);
		grows(to, "time left of an interval timer",
		      -(value.it_value.tv_sec * 1000000000LL + value.it_value.tv_usec * 1000LL),
		      ROOM);
	}
}

static void terminal(struct answers *to, int fd)
{
	struct termios modes = {};
	struct winsize size = {};
	int exclusive = 0, pending = 0;

	tcgetattr(fd, &modes);
	ioctl(fd, TIOCGWINSZ, &size);
	ioctl(fd, TIOCGEXCL, &exclusive);
	ioctl(fd, TIOCINQ, &pending);
	add(to, ", terminal %x %x %x %x, %d by %d, exclusive %d, input %d", modes.c_iflag,
	    modes.c_oflag, modes.c_cflag, modes.c_lflag, size.ws_row, size.ws_col, exclusive,
	    pending);
	for (int i = 0; i < NCCS; i++)
		add(to, " %x", modes.c_cc[i]);
}

static void socket_options(struct answers *to, int fd)
{
	static const int options[] = {
		SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_SNDBUF, SO_RCVBUF, SO_REUSEADDR, SO_REUSEPORT,
		SO_KEEPALIVE, SO_OOBINLINE, SO_PRIORITY, SO_LINGER, SO_PASSCRED, SO_RCVLOWAT,
		SO_RCVTIMEO, SO_SNDTIMEO, SO_ACCEPTCONN, SO_TIMESTAMP, SO_MARK, SO_PASSSEC,
		SO_PEEK_OFF, SO_PEERCRED, SO_ERROR, SO_LOCK_FILTER, SO_BROADCAST, SO_DONTROUTE,
		SO_RXQ_OVFL, SO_NOFCS, SO_BUSY_POLL, SO_TIMESTAMPNS, SO_WIFI_STATUS,
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		int value[4] = {};
		socklen_t length = sizeof(value);
		long result = getsockopt(fd, SOL_SOCKET, options[i], value, &length);

		add(to, ", option %d: %ld %d %d %d", options[i], answer(result), value[0],
		    value[1], value[2]);
	}
}

static void descriptors(struct answers *to)
{
	for (int fd = 0; fd < DESCRIPTORS; fd++) {
		struct f_owner_ex owner = {};
		struct stat stat;
		int flags = fcntl(fd, F_GETFD);

		if (flags < 0)
			continue;
		add(to, "descriptor %d: %x %x", fd, flags, fcntl(fd, F_GETFL));
		fcntl(fd, F_GETOWN_EX, &owner);
		add(to, ", owner %d %d, signal %ld, pipe %ld, seals %ld, lease %ld, hint",
		    owner.type, owner.pid, answer(fcntl(fd, F_GETSIG)),
		    answer(fcntl(fd, F_GETPIPE_SZ)), answer(fcntl(fd, F_GET_SEALS)),
		    answer(fcntl(fd, F_GETLEASE)));
		check(fstat(fd, &stat), "fstat");
		add(to, ", mode %o, %d:%d, links %lu, size %ld", stat.st_mode, stat.st_uid,
		    stat.st_gid, S_ISREG(stat.st_mode) ? (long)stat.st_nlink : 0,
		    S_ISREG(stat.st_mode) ? (long)stat.st_size : 0);
		if (S_ISREG(stat.st_mode))
			add(to, ", offset %ld, modified %ld.%09ld, changed %ld.%09ld",
			    answer(lseek(fd, 0, SEEK_CUR)), stat.st_mtim.tv_sec,
			    stat.st_mtim.tv_nsec, stat.st_ctim.tv_sec, stat.st_ctim.tv_nsec);
		if (S_ISCHR(stat.st_mode) && isatty(fd))
			terminal(to, fd);
		if (S_ISSOCK(stat.st_mode))
			socket_options(to, fd);
		add(to, "\n");
	}
}

static long long ns(struct timespec time)
{
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static long long us(struct timeval time)
{
	return time.tv_sec * 1000000LL + time.tv_usec;
}

static void usage(struct answers *to, int who, enum form form)
{
	struct rusage used;

	getrusage(who, &used);
	if (form == EQUAL) {
		add(to, "children used %lld %lld, faults %ld %ld, switches %ld %ld, blocks %ld %ld, "
		    "most memory %ld\n", us(used.ru_utime), us(used.ru_stime), used.ru_minflt,
		    used.ru_majflt, used.ru_nvcsw, used.ru_nivcsw, used.ru_inblock,
		    used.ru_oublock, used.ru_maxrss);
		return;
	}
	grows(to, "getrusage: user time", us(used.ru_utime), ROOM / 1000);
	grows(to, "getrusage: system time", us(used.ru_stime), ROOM / 1000);
	grows(to, "getrusage: faults", used.ru_minflt, FEW);
	grows(to, "getrusage: major faults", used.ru_majflt, FEW);
	grows(to, "getrusage: voluntary switches", used.ru_nvcsw, FEW);
	grows(to, "getrusage: involuntary switches", used.ru_nivcsw, FEW);
	grows(to, "getrusage: most memory", used.ru_maxrss, 1 << 20);
	grows(to, "getrusage: blocks read", used.ru_inblock, FEW);
	grows(to, "getrusage: blocks written", used.ru_oublock, FEW);
}

static void times_of(struct answers *to)
{
	static const struct {
		const char *name;
		clockid_t clock;
	} clocks[] = {
		{ "CLOCK_REALTIME", CLOCK_REALTIME }, { "CLOCK_MONOTONIC", CLOCK_MONOTONIC },
		{ "CLOCK_MONOTONIC_RAW", CLOCK_MONOTONIC_RAW },
		{ "CLOCK_BOOTTIME", CLOCK_BOOTTIME }, { "CLOCK_TAI", CLOCK_TAI },
		{ "CLOCK_PROCESS_CPUTIME_ID", CLOCK_PROCESS_CPUTIME_ID },
		{ "CLOCK_THREAD_CPUTIME_ID", CLOCK_THREAD_CPUTIME_ID },
	};
	struct timespec now;
	struct tms t;

	for (size_t i = 0; i < sizeof(clocks) / sizeof(clocks[0]); i++) {
		check(clock_gettime(clocks[i].clock, &now), clocks[i].name);
		grows(to, clocks[i].name, ns(now), ROOM);
	}
	usage(to, RUSAGE_SELF, GROWS);
	usage(to, RUSAGE_THREAD, GROWS);
	usage(to, RUSAGE_CHILDREN, EQUAL);
	times(&t);
	grows(to, "times: user time", t.tms_utime, ROOM / 10000000);
	grows(to, "times: system time", t.tms_stime, ROOM / 10000000);
	add(to, "times of children %ld %ld\n", (long)t.tms_cutime, (long)t.tms_cstime);
}

static void ask(struct answers *to)
{
	identity(to);
	settings(to);
	signals(to);
	descriptors(to);
	times_of(to);
}

void ask_before(void)
{
	/* The first call touches the pages of this code and binds its symbols. */
	ask(&after);
	after.length = after.count = 0;
	fflush(stdout);
	ask(&before);
	stop_here();
}

void ask_after(void)
{
	char *now, *then, *rest_now = after.text, *rest_then = before.text;
	int differ = 0;

	ask(&after);
	/* both must have the same number of answers */
	for (;;) {
		now = strsep(&rest_now, "\n");
		then = strsep(&rest_then, "\n");
		if (!now && !then)
			break;
		if (now && then && !strcmp(now, then))
			continue;
		printf("then: %s\nnow:  %s\n", then ? then : "nothing", now ? now : "nothing");
		differ++;
	}
	for (size_t i = 0; i < before.count && i < after.count; i++) {
		long long grown = after.growing[i].value - before.growing[i].value;

		if (grown >= 0 && grown <= after.growing[i].room)
			continue;
		printf("%s %s by %lld\n", after.growing[i].name,
		       grown < 0 ? "went back" : "grew", grown < 0 ? -grown : grown);
		differ++;
	}
	if (!differ)
		puts("all answers are as before");
}
