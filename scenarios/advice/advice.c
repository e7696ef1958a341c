// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Memory with advice by madvise(2). Neighbouring areas differ only in their advice, so a restart
 * that loses the advice merges them into one mapping.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "workload.h"

#define PAGE 4096
/* Pages of an area. The third is never touched, the last is touched and zero. */
#define PAGES 4
#define AREA (PAGES * PAGE)

#ifndef MEMBARRIER_CMD_GET_REGISTRATIONS
#define MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9)
#endif

static const struct {
	const char *name;
	int advice, other;
} kinds[] = {
	{ "plain", 0, 0 },
	{ "DONTFORK", MADV_DONTFORK, 0 },
	{ "also DONTFORK", MADV_DONTFORK, MADV_DONTDUMP },
	{ "DONTDUMP", MADV_DONTDUMP, 0 },
	{ "plain again", 0, 0 },
	{ "WIPEONFORK", MADV_WIPEONFORK, 0 },
	{ "SEQUENTIAL", MADV_SEQUENTIAL, 0 },
	{ "RANDOM", MADV_RANDOM, 0 },
	{ "HUGEPAGE", MADV_HUGEPAGE, 0 },
	{ "NOHUGEPAGE", MADV_NOHUGEPAGE, 0 },
	{ "all", MADV_DONTDUMP, MADV_RANDOM },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

enum { PLAIN, DONTFORK, DONTFORK_TOO, DONTDUMP, AGAIN, WIPEONFORK, SEQUENTIAL, RANDOM };

static char *areas, *file, *behind, *down;

static char *area(size_t kind)
{
	return areas + kind * AREA;
}

static void *map(void *at, size_t size, int prot, int flags, int fd)
{
	void *memory = mmap(at, size, prot, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	check(memory == MAP_FAILED, "mmap");
	return memory;
}

/*
 * The kernel refuses advice that it is not built for; the error must be the
 * same each time.
 */
static void advise(char *at, int advice)
{
	check(madvise(at, AREA, advice) && errno != EINVAL, "madvise");
}

static void fill(char *at, char letter)
{
	memset(at, letter, 2 * PAGE);
	at[3 * PAGE] = 1;
	at[3 * PAGE] = 0;
}

static void make(void)
{
	char text[AREA];
	int fd = open("content", O_RDWR | O_CREAT | O_TRUNC, 0644);

	memset(text, 'f', sizeof(text));
	check(fd < 0 || write(fd, text, sizeof(text)) != sizeof(text), "content");
	/* a hole on each side */
	areas = map(NULL, (KINDS + 2) * AREA, PROT_NONE, MAP_PRIVATE, -1);
	check(munmap(areas, (KINDS + 2) * AREA), "munmap");
	areas = map(areas + AREA, KINDS * AREA, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_FIXED_NOREPLACE, -1);
	for (size_t kind = 0; kind < KINDS; kind++) {
		fill(area(kind), 'a' + kind);
		if (kinds[kind].advice)
			advise(area(kind), kinds[kind].advice);
		if (kinds[kind].other)
			advise(area(kind), kinds[kind].other);
	}
	/* private pages of a file: written, read, written and protected */
	file = map(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	file[0] = 'w';
	file[3 * PAGE] = 'p';
	check(file[PAGE] != 'f' || mprotect(file + 3 * PAGE, PAGE, PROT_NONE), "mprotect");
	check(madvise(file, PAGE, MADV_RANDOM), "madvise");
	close(fd);
	fd = open("content", O_RDONLY);
	check(fd < 0, "content");
	/* may never be written to, although it is shared */
	behind = map(NULL, AREA, PROT_READ | PROT_EXEC, MAP_SHARED, fd);
	check(madvise(behind, PAGE, MADV_SEQUENTIAL), "madvise");
	close(fd);
	down = map(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_GROWSDOWN, -1);
	fill(down, 'd');
}

/* Returns the beginning of an area's pages, `-` where it has none. */
static const char *content(const char *at)
{
	static char text[PAGES + 1];
	unsigned char present[PAGES];

	for (int page = 0; page < PAGES; page++)
		if (mincore((char *)at + page * PAGE, PAGE, present))
			text[page] = '-';
		else
			text[page] = at[page * PAGE] ? at[page * PAGE] : '0';
	return text;
}

static void tell(const char *who, const char *when)
{
	for (size_t kind = 0; kind < KINDS; kind++)
		printf("%s %s, %s: %s\n", who, when, kinds[kind].name, content(area(kind)));
	printf("%s %s: of a file %c%c%c, shared %c, growing %s\n", who, when, file[0], file[PAGE],
	       file[2 * PAGE], behind[0], content(down));
}

/* The flags of all mappings, without soft-dirty: a restart writes to all pages. */
static void flags(char *text, size_t size)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	char line[512], *dirty;
	size_t length = 0;

	check(!smaps, "smaps");
	while (fgets(line, sizeof(line), smaps)) {
		int begins = sscanf(line, "%lx-%lx ", &start, &end) == 2 &&
			     !strstr(line, "[heap]");

		if (!begins && strncmp(line, "VmFlags:", 8))
			continue;
		dirty = strstr(line, " sd");
		if (dirty)
			memmove(dirty, dirty + 3, strlen(dirty + 3) + 1);
		check(length + strlen(line) >= size, "too many mappings");
		length += sprintf(text + length, "%s", line);
	}
	fclose(smaps);
}

static long barrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0) < 0 ? -errno : 0;
}

static void tell_barriers(const char *when)
{
	printf("%s: registrations %ld, barriers %ld %ld %ld\n", when,
	       syscall(SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0),
	       barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED),
	       barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE),
	       barrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED));
}

static void set_memory(void)
{
	int filter = open("/proc/self/coredump_filter", O_WRONLY);

	check(barrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED), "membarrier");
	check(barrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED), "membarrier");
	check(filter < 0 || write(filter, "0x55", 4) != 4, "coredump_filter");
	close(filter);
	check(prctl(PR_SET_DUMPABLE, 0), "dumpable");
}

/* Prints the content of each area in a new process; `-` for areas that it must not have. */
static void fork_and_tell(const char *who)
{
	pid_t pid = forked();

	if (!pid) {
		tell(who, "forks");
		fflush(stdout);
		_exit(0);
	}
	check(wait_for_child(pid), "a child");
}

static void alone(void)
{
	static char before[1 << 16], after[1 << 16];

	make();
	set_memory();
	tell_barriers("before");
	flags(before, sizeof(before));
	flags(after, sizeof(after));
	memset(after, 0, sizeof(after));
	flush_and_stop_here();
	flags(after, sizeof(after));
	printf("flags as before: %d\n", !strcmp(before, after));
	tell_barriers("after");
	tell("the process", "now");
	fork_and_tell("the process");
	check(sbrk(3 * PAGE) == (void *)-1, "sbrk");
	puts("the heap grows");
}

/* Changes inherited state: pages, mappings, flags. */
static void change(void)
{
	check(madvise(area(PLAIN) + PAGE, PAGE, MADV_DONTNEED), "DONTNEED");
	check(madvise(area(AGAIN), 2 * PAGE, MADV_DONTNEED), "DONTNEED");
	check(munmap(area(SEQUENTIAL), AREA), "munmap");
	memset(map(area(DONTFORK), AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, -1), 'n',
	       PAGE);
	advise(area(RANDOM), MADV_NORMAL);
	check(mprotect(area(DONTDUMP), PAGE, PROT_READ), "mprotect");
	area(AGAIN)[3 * PAGE] = 'z';
	file[2 * PAGE] = 'c';
	check(madvise(file, PAGE, MADV_DONTNEED), "DONTNEED");
	check(munmap(down, PAGE), "munmap");
}

static void shared(void)
{
	int ready[2], go[2];
	pid_t pid;

	make();
	make_pipe(ready);
	make_pipe(go);
	pid = forked();
	if (!pid) {
		change();
		send_byte(ready[1]);
		receive_byte(go[0]);
		tell("the child", "now");
		fork_and_tell("the child");
		fflush(stdout);
		_exit(7);
	}
	receive_byte(ready[0]);
	area(PLAIN)[0] = 'P';
	flush_and_stop_here();
	tell("the parent", "now");
	send_byte(go[1]);
	printf("the child ended with %d\n", wait_for_child(pid) >> 8);
	tell("the parent", "later");
}

int main(int argc, char **argv)
{
	nonce_draw();
	if (argc > 1 && !strcmp(argv[1], "alone"))
		alone();
	else
		shared();
	nonce_print();
	return 0;
}
