// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Lets one allocation or copy of a checkpoint(2) or restart(2) fail, each in turn.
 *
 *	fail-nth CALL KIND PROGRAM count
 *		prints the number of operations that can fail
 *	fail-nth CALL KIND PROGRAM FROM TO RUNS
 *		lets the FROMth to TOth fail; with TO 0, until none is left. Then repeats all of
 *		them RUNS times and compares the kernel's books: objects that each run adds are lost
 *
 * CALL is checkpoint or restart. KIND is slab, page or usercopy. After each failure the call must
 * have failed with a message, or the failure was harmless and the image or the restarted tree is
 * the same as without it. No process or descriptor may be left, and a tree whose checkpoints have
 * failed must continue as if there had been none.
 *
 * The kernel's log shows where each failure was: the origin is our innermost function on the stack,
 * by the names in ./ours, and the function that it called.
 *
 * Prints a JSON object. Exit status 1 and a line on stderr for each fault, 2 if the
 * harness has failed. PATIENCE in the environment is a factor for time limits.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fail-nth.h"

#define TREE		"/sys/fs/cgroup/fail-nth"
#define OUT		"/work/fail-nth.out"
/* more than any call makes */
#define NEVER		1000000000U

int limit = 30;
static struct shared *shared;
static const char *call, *kind, *program;
static int image = -1, again = -1, scratch = -1, logfd = -1, tree = -1, nth_file = -1;
static struct bytes mask[2];
static struct tally tally;
/* true when failures are repeated, and have already been reported */
static int repeats;

void tell(const char *format, ...)
{
	va_list args;

	if (repeats)
		return;
	fprintf(stderr, "%s, %s %u: ", call, kind, shared->nth);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	if (shared->nth)
		fprintf(stderr, " (the failure was in %s)", origin());
	fputc('\n', stderr);
	shared->told++;
}

void fail(const char *format, ...)
{
	va_list args;

	fputs("the harness has failed: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	_exit(2);
}

static int is_frozen(void) { return contains(TREE "/cgroup.events", "frozen 1"); }
static int is_populated(void) { return contains(TREE "/cgroup.events", "populated 1"); }
static int is_empty(void) { return contains(TREE "/cgroup.events", "populated 0"); }

static int childless(void)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, __WALL | WNOHANG)) > 0)
		;
	return pid < 0;
}

/*
 * The kernel's fault injection
 */

static void configure(void)
{
	static const char *const dirs[][2] = {
		{ "slab", "/sys/kernel/debug/failslab" },
		{ "page", "/sys/kernel/debug/fail_page_alloc" },
		{ "usercopy", "/sys/kernel/debug/fail_usercopy" },
	};
	char path[128];

	for (int i = 0; i < 3; i++) {
		int on = !strcmp(dirs[i][0], kind);
		/* fail-nth applies to all kinds: for the others, set a filter that no stack matches */
		const char *const values[][2] = {
			{ "require-start", on ? "0" : "1" },
			{ "require-end", on ? "0xffffffffffffffff" : "1" },
			{ "stacktrace-depth", on ? "32" : "0" },
			{ "verbose", "2" },
		};

		for (int j = 0; j < 4; j++) {
			snprintf(path, sizeof(path), "%s/%s", dirs[i][1], values[j][0]);
			must_put(path, values[j][1]);
		}
	}
	must_put("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	must_put("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	must_put("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");
	must_put("/sys/kernel/debug/fail_page_alloc/min-order", "0");
}

static void arm(unsigned int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", nth);

	if (pwrite(nth_file, text, len, 0) != len)
		fail("fail-nth: %m");
}

/*
 * Returns the remaining count until the failure; 0 if the failure was
 * injected.
 */
static unsigned int disarm(void)
{
	char text[16] = "";
	unsigned int left;

	/* copying the answer may fail */
	if (pread(nth_file, text, sizeof(text) - 1, 0) <= 0)
		return 1;
	left = strtoul(text, NULL, 10);
	while (left && pwrite(nth_file, "0", 1, 0) != 1)
		;
	return left;
}

/*
 * The tree and its images
 */

static void start(int freeze)
{
	char path[64];
	pid_t pid;
	int go[2];
	char byte;

	snprintf(path, sizeof(path), "/work/%s", program);
	if (pipe2(go, O_CLOEXEC))
		fail("pipe: %m");
	pid = fork();
	if (pid < 0)
		fail("fork: %m");
	if (!pid) {
		int null = open("/dev/null", O_RDONLY);
		int out = open(OUT, O_WRONLY | O_CREAT | O_TRUNC, 0644);

		must_put(TREE "/cgroup.procs", "0");
		close(go[1]);
		if (read(go[0], &byte, 1) < 0 || chdir("/work"))
			_exit(127);
		dup2(null, 0);
		dup2(out, 1);
		dup2(out, 2);
		setsid();
		close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
		execl(path, program, NULL);
		_exit(127);
	}
	if (!until(is_populated))
		fail("%s does not start", program);
	if (freeze)
		must_put(TREE "/cgroup.freeze_at", "syscall 110 1");
	close(go[0]);
	close(go[1]);
	shared->root = pid;
	if (freeze && !until(is_frozen))
		fail("%s does not reach its event", program);
}

/* Returns the exit status of a program that runs to its end. */
static int end(void)
{
	time_t late = time(NULL) + limit;
	int status;

	while (waitpid(shared->root, &status, __WALL | WNOHANG) != shared->root) {
		if (time(NULL) > late)
			return -1;
		sched_yield();
	}
	return status;
}

static void kill_tree(void)
{
	must_put(TREE "/cgroup.kill", "1");
	if (!until(childless) || !until(is_empty))
		tell("the tasks cannot be killed");
}

static void rewind_files(int fd)
{
	if (lseek(fd, 0, SEEK_SET) || lseek(logfd, 0, SEEK_SET) || ftruncate(logfd, 0))
		fail("rewinding: %m");
}

static long save(int fd, unsigned int nth)
{
	long ret;

	rewind_files(fd);
	shared->nth = nth < NEVER ? nth : 0;
	if (nth)
		arm(nth);
	ret = syscall(SYS_checkpoint, shared->root, fd, 0UL, logfd);
	return ret ? -errno : 0;
}

/* The cgroup may count as frozen before all tasks are at rest. */
static void must_save(int fd)
{
	time_t late = time(NULL) + limit;
	long ret;

	do {
		ret = save(fd, 0);
	} while (ret == -EAGAIN && time(NULL) <= late);
	if (ret)
		tell("a checkpoint in which nothing fails: %s (%s)", strerrorname_np(-ret),
		     first_line(logfd));
	else if (ftruncate(fd, lseek(fd, 0, SEEK_CUR)))
		fail("ftruncate: %m");
}

static long restart(unsigned int nth)
{
	long ret;

	rewind_files(image);
	shared->nth = nth < NEVER ? nth : 0;
	if (nth)
		arm(nth);
	ret = syscall(SYS_restart, tree, image, 0UL, logfd);
	if (ret > 0)
		shared->root = ret;
	return ret < 0 ? -errno : 0;
}

/* Restarts and saves without a failure, once more. */
static void learn(void)
{
	if (!strcmp(call, "restart")) {
		long ret = restart(0);

		if (ret)
			fail("%s does not restart: %s (%s)", program, strerrorname_np(-ret),
			     first_line(logfd));
	}
	must_save(scratch);
	if (!strcmp(call, "restart"))
		kill_tree();
	learn_image(&mask[0], &mask[1], scratch);
}

/* Compares an image with the images of calls without a failure. */
static void compare(int fd, unsigned int nth)
{
	char what[128];

	for (int i = 0; differs(&mask[0], &mask[1], fd, what, sizeof(what)); i++) {
		if (i == 3) {
			shared->nth = nth;
			tell("%s", what);
			return;
		}
		/* perhaps the passing of time shows only in this image */
		learn();
	}
	shared->nth = nth;
}

/* Makes one call; returns false when no further operation could fail. */
static int attempt(unsigned int nth)
{
	int restarts = !strcmp(call, "restart"), fd = restarts ? again : scratch;
	long ret;
	int failed;

	forget_log();
	ret = restarts ? restart(nth) : save(scratch, nth);
	failed = nth && !disarm();
	shared->calls++;
	if (failed && !repeats) {
		read_log();
		count(&tally, origin(), -ret);
	}
	if (ret && !failed)
		tell("the call fails although no failure was injected: %s (%s)", strerrorname_np(-ret),
		     first_line(logfd));
	if (ret && failed && !first_line(logfd)[0] && strcmp(origin(), "ckpt_ctx_alloc"))
		tell("%s without a message", strerrorname_np(-ret));
	if (ret && !expected(-ret, origin()))
		tell("%s is not an error of a failed allocation or copy", strerrorname_np(-ret));
	if (restarts && ret) {
		if (waitpid(-1, NULL, __WALL | WNOHANG) >= 0 || errno != ECHILD)
			tell("a failed restart leaves a process");
		if (!is_empty())
			tell("a failed restart leaves a task");
		kill_tree();
	} else if (restarts) {
		if (failed && !repeats)
			must_save(again);
		kill_tree();
	} else if (ret && !is_frozen()) {
		tell("a failed checkpoint thaws the tree");
	}
	if (!ret && failed && !repeats) {
		if (!restarts && ftruncate(fd, lseek(fd, 0, SEEK_CUR)))
			fail("ftruncate: %m");
		compare(fd, nth);
	}
	fd = dup(0);
	if (fd != shared->free_fd)
		tell("the lowest free descriptor is %d instead of %d", fd, shared->free_fd);
	close(fd);
	return failed;
}

/* Injects the failures of a range. Returns the first number after it. */
static unsigned int sweep(unsigned int from, unsigned int to)
{
	while ((!to || from <= to) && attempt(from))
		from++;
	return from;
}

/* Returns true when a range loses something each time that it fails, and lists it. */
static int loses(unsigned int from, unsigned int to, int runs, struct books *lost)
{
	struct books before, after;
	int drop = !strcmp(call, "restart");

	sweep(from, to);
	read_books(&before, drop);
	*lost = before;
	for (int again = 0; again < 2 && lost->nr; again++) {
		for (int i = 0; i < runs; i++)
			sweep(from, to);
		read_books(&after, drop);
		/* older objects may be freed meanwhile */
		keep_lost(lost, &before, &after, runs - runs / 4);
		before = after;
	}
	return !!lost->nr;
}

/* Reports the losses of a range, and the origins of its failures. */
static void tell_losses(unsigned int from, unsigned int to, const struct books *lost)
{
	static struct tally here;
	char origins[512] = "";
	size_t len = 0;

	here.nr = 0;
	for (unsigned int nth = from; nth <= to && attempt(nth); nth++) {
		read_log();
		count(&here, origin(), 0);
	}
	for (int i = 0; i < here.nr && len < sizeof(origins); i++)
		len += snprintf(origins + len, sizeof(origins) - len, "%s%s", i ? ", " : "",
				here.rows[i].origin);
	repeats = 0;
	shared->nth = 0;
	for (int i = 0; i < lost->nr; i++)
		tell("the failures %u to %u lose %s: %ld more, in one of: %s", from, to,
		     lost->rows[i].name, lost->rows[i].count, origins);
	repeats = 1;
}

/* Finds the losses of a range, and its shortest part with them. The numbers of failures vary. */
static void find_losses(unsigned int from, unsigned int to, int runs)
{
	struct books lost, left, right;
	unsigned int whole = to - from;

	if (from > to || !loses(from, to, runs, &lost))
		return;
	while (from < to) {
		unsigned int middle = from + (to - from) / 2;

		if (loses(from, middle, runs, &left)) {
			to = middle;
			lost = left;
		} else if (loses(middle + 1, to, runs, &right)) {
			from = middle + 1;
			lost = right;
		} else {
			break;
		}
	}
	/* some caches vary */
	if (whole == to - from && !loses(from, to, runs, &lost))
		return;
	tell_losses(from, to, &lost);
}

/* Thaws a tree whose checkpoints have failed. */
static void go_on(const char *undisturbed)
{
	int status;

	shared->nth = 0;
	must_save(scratch);
	compare(scratch, 0);
	must_put(TREE "/cgroup.freeze", "0");
	if (!undisturbed)
		return;
	status = end();
	if (status)
		tell("the checkpointed tree ends with %#x", status);
	else if (strcmp(text_of(OUT), undisturbed))
		tell("the checkpointed tree prints: %s", text_of(OUT));
}

static int memory(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0)
		fail("memfd: %m");
	return fd;
}

static void work(char **argv)
{
	/* it runs forever */
	int ends = strcmp(program, "many"), checkpoints = !strcmp(call, "checkpoint");
	unsigned int from, to, end_of_range;
	char *undisturbed = NULL;
	int free_fd;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	load_names("/work/ours");
	configure();
	image = memory("image");
	again = memory("again");
	scratch = memory("scratch");
	logfd = memory("log");
	nth_file = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
	tree = open(TREE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	open_log();
	if (nth_file < 0 || tree < 0)
		fail("no fail-nth, or no cgroup: %m");
	free_fd = dup(0);
	close(free_fd);
	shared->free_fd = free_fd;
	if (checkpoints && ends) {
		start(0);
		if (end())
			fail("%s fails without any checkpoint", program);
		undisturbed = strdup(text_of(OUT));
	}
	start(1);
	must_save(image);
	if (!checkpoints) {
		kill_tree();
		must_put(TREE "/cgroup.freeze", "1");
	}
	learn();
	learn();
	if (!strcmp(argv[4], "count")) {
		long ret = checkpoints ? save(scratch, NEVER) : restart(NEVER);

		printf("%u\n", NEVER - disarm());
		if (ret)
			fail("%s: %s", call, strerrorname_np(-ret));
		kill_tree();
		must_put(TREE "/cgroup.freeze", "0");
		return;
	}
	from = atoi(argv[4]);
	to = atoi(argv[5]);
	end_of_range = sweep(from, to);
	if (atoi(argv[6])) {
		repeats = 1;
		find_losses(from, end_of_range - 1, atoi(argv[6]));
		repeats = 0;
	}
	if (checkpoints)
		go_on(undisturbed);
	kill_tree();
	put(TREE "/cgroup.freeze", "0");
	printf("{\"calls\":%u,\"last\":%u,\"origins\":", shared->calls, end_of_range - 1);
	print_tally(&tally);
	printf("}\n");
}

static void show(const char *path)
{
	char line[256];
	FILE *file = fopen(path, "re");

	while (file && fgets(line, sizeof(line), file))
		fputs(line, stderr);
	if (file)
		fclose(file);
}

/* Prints the places at which the worker and the tasks sleep. */
static void show_stacks(pid_t worker)
{
	char path[64];
	pid_t pid;
	FILE *file = fopen(TREE "/cgroup.threads", "re");

	fprintf(stderr, "%s, %s %u: the call, or the code after it, does not end\n", call, kind,
		shared->nth);
	snprintf(path, sizeof(path), "/proc/%d/stack", worker);
	show(path);
	while (file && fscanf(file, "%d", &pid) == 1) {
		fprintf(stderr, "task %d:\n", pid);
		snprintf(path, sizeof(path), "/proc/%d/stack", pid);
		show(path);
	}
	if (file)
		fclose(file);
}

int main(int argc, char **argv)
{
	const char *patience = getenv("PATIENCE");
	unsigned int seen = 0;
	struct pollfd ended;
	pid_t worker;
	int status;

	if (argc != 5 && argc != 7)
		return 2;
	call = argv[1];
	kind = argv[2];
	program = argv[3];
	limit *= patience ? atoi(patience) : 1;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED || (mkdir(TREE, 0755) && errno != EEXIST))
		return 2;
	worker = fork();
	if (worker < 0)
		return 2;
	if (!worker) {
		work(argv);
		fflush(stdout);
		_exit(!!shared->told);
	}
	/* the worker may hang in the kernel */
	ended = (struct pollfd){ .fd = syscall(SYS_pidfd_open, worker, 0), .events = POLLIN };
	while (poll(&ended, 1, limit * 3000) == 0) {
		if (shared->calls == seen) {
			show_stacks(worker);
			return 1;
		}
		seen = shared->calls;
	}
	if (waitpid(worker, &status, 0) != worker || !WIFEXITED(status)) {
		fprintf(stderr, "%s, %s %u: the caller is killed\n", call, kind, shared->nth);
		return 1;
	}
	if (rmdir(TREE)) {
		fprintf(stderr, "%s, %s: the cgroup is not empty in the end: %m\n", call, kind);
		return 1;
	}
	return WEXITSTATUS(status);
}
