// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Three generations that share memory copy-on-write: each has changed a part of the
 * memory that it inherited from its parent. Afterwards each reports whether its content
 * is intact, and whether it shares the same pages as before: Pss_Anon divides a page
 * among the processes that map it. The last one has anonymous memory where the others
 * have their vdso.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#define PAGES 1024
#define PAGE 4096
#define CHILD_CHANGED 256	/* the first ones */
#define GRANDCHILD_CHANGED 128	/* the last ones */
#define SLACK 8			/* percentage points, for stacks and libraries */

enum who { PARENT, CHILD, GRANDCHILD };

static const char *const names[] = { "parent", "child", "grandchild" };

/* Percentage of the pages: one that two processes map counts a half, one of three a third. */
static const long shares[] = {
	[PARENT] = 100 * (256 + 640 / 3 + 128 / 2) / PAGES,
	[CHILD] = 100 * (256 / 2 + 640 / 3 + 128 / 2) / PAGES,
	[GRANDCHILD] = 100 * (256 / 2 + 640 / 3 + 128) / PAGES,
};

static char *memory;

static uint64_t *word(long page)
{
	return (uint64_t *)(memory + page * PAGE + 8 * (page % 500));
}

static uint64_t expected(enum who who, long page)
{
	enum who writer = PARENT;

	if (who >= CHILD && page < CHILD_CHANGED)
		writer = CHILD;
	if (who == GRANDCHILD && page >= PAGES - GRANDCHILD_CHANGED)
		writer = GRANDCHILD;
	return nonce + (uint64_t)page * 16 + writer;
}

static void change(enum who who, long from, long to)
{
	for (long page = from; page < to; page++)
		*word(page) = expected(who, page);
}

/* @but is the page that @who has written later. */
static void check_content(enum who who, long but)
{
	long wrong = 0;

	for (long page = 0; page < PAGES; page++)
		if (page != but && *word(page) != expected(who, page))
			wrong++;
	printf("%s: pages with wrong content: %ld\n", names[who], wrong);
}

static long field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	if (!at)
		die(name);
	return strtol(at + strlen(name), NULL, 10);
}

static void check_sharing(enum who who)
{
	char text[4096];
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	size_t length;
	long percent;

	if (!file)
		die("smaps_rollup");
	length = fread(text, 1, sizeof(text) - 1, file);
	text[length] = '\0';
	fclose(file);
	percent = 100 * field(text, "\nPss_Anon:") / field(text, "\nAnonymous:");
	if (labs(percent - shares[who]) <= SLACK)
		printf("%s: shares as many pages as before: yes\n", names[who]);
	else
		printf("%s: shares as many pages as before: no, Pss_Anon is %ld%% of Anonymous, not %ld%%\n",
		       names[who], percent, shares[who]);
}

/* Reports its pages, then writes a page and reports again when the others have written, too. */
static void answer(enum who who, int go, int done)
{
	receive_byte(go);
	check_content(who, -1);
	check_sharing(who);
	send_byte(done);
	receive_byte(go);
	*word(300 + who) = 0;
	send_byte(done);
	receive_byte(go);
	check_content(who, 300 + who);
	send_byte(done);
}

/* Maps memory at the address of its parent's vdso, a special mapping. */
static void replace_vdso(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	unsigned long start, end, first = 0, vdso = 0, last = 0;
	char line[512], *memory;

	if (!file)
		die("maps");
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx", &start, &end) != 2)
			die("maps");
		if (!first && strstr(line, "[vvar"))
			first = start;
		if (strstr(line, "[vdso]")) {
			vdso = start;
			last = end;
		}
	}
	fclose(file);
	if (!first || !vdso || munmap((void *)first, last - first))
		die("the vdso");
	memory = mmap((void *)vdso, PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (memory != (char *)vdso)
		die("mmap");
}

int main(void)
{
	int go[3][2], done[2], status;
	pid_t child, grandchild;

	nonce_draw();
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	change(PARENT, 0, PAGES);
	make_pipe(done);
	for (int n = 0; n < 3; n++)
		make_pipe(go[n]);
	child = fork();
	if (!child) {
		change(CHILD, 0, CHILD_CHANGED);
		grandchild = fork();
		if (!grandchild) {
			change(GRANDCHILD, PAGES - GRANDCHILD_CHANGED, PAGES);
			replace_vdso();
			send_byte(done[1]);
			answer(GRANDCHILD, go[GRANDCHILD][0], done[1]);
			_exit(3);
		}
		send_byte(done[1]);
		answer(CHILD, go[CHILD][0], done[1]);
		status = wait_for_child(grandchild);
		_exit(WEXITSTATUS(status) + 1);
	}
	receive_byte(done[0]);
	receive_byte(done[0]);

	/* the event: each process has changed its part */
	syscall(SYS_getppid);

	check_content(PARENT, -1);
	check_sharing(PARENT);
	fflush(stdout);
	for (int round = 0; round < 3; round++) {
		if (round == 1)
			*word(300 + PARENT) = 0;
		for (enum who who = CHILD; who <= GRANDCHILD; who++) {
			send_byte(go[who][1]);
			receive_byte(done[0]);
		}
	}
	check_content(PARENT, 300 + PARENT);
	status = wait_for_child(child);
	printf("the child exited %d\n", WEXITSTATUS(status));
	nonce_print();
	return 0;
}
