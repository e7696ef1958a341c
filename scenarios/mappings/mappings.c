// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Properties of mappings, other than content.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

#define PAGE 4096

/* VmFlags of the mapping at an address, without soft-dirty. */
static void tell_flags(const char *when, const char *what, const void *at)
{
	unsigned long start, end;
	char line[512], *dirty, *last;
	int here = 0;
	FILE *smaps = fopen("/proc/self/smaps", "r");

	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start == (unsigned long)at;
		if (!here || strncmp(line, "VmFlags:", 8))
			continue;
		dirty = strstr(line, " sd");
		if (dirty)
			memmove(dirty, dirty + 3, strlen(dirty + 3) + 1);
		for (last = line + strlen(line); strchr(" \n", last[-1]); last--)
			;
		*last = 0;
		printf("%s: %s%s\n", when, what, line + 8);
	}
	fclose(smaps);
}

static char *map(int prot, int flags)
{
	/* holes on both sides: neighbours with equal flags would be merged */
	char *p = mmap(NULL, 6 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);

	if (p == MAP_FAILED || munmap(p, PAGE) || munmap(p + 5 * PAGE, PAGE))
		die("mmap");
	p = mmap(p + PAGE, 4 * PAGE, prot, flags | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void flags(void)
{
	char *hidden = map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *unreserved = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
	char *shared = map(PROT_READ | PROT_WRITE, MAP_SHARED);
	char *droppable = map(PROT_READ | PROT_WRITE, MAP_DROPPABLE);
	const char *const names[] = { "read-only", "unreserved", "shared", "droppable" };
	char *const maps[] = { hidden, unreserved, shared, droppable };
	int i;

	if (!hidden || !unreserved || !shared || !droppable)
		die("mmap");
	strcpy(hidden, "read-only");
	strcpy(shared, "shared");
	strcpy(droppable, "a secret");
	/* it stays committed memory */
	mprotect(hidden, 4 * PAGE, PROT_READ);
	for (i = 0; i < 4; i++)
		tell_flags("before", names[i], maps[i]);
	flush_and_stop_here();
	for (i = 0; i < 4; i++)
		tell_flags("after", names[i], maps[i]);
	printf("content: %s, %s\n", hidden, shared);
}

static void grown(void)
{
	char *heap = sbrk(8 * PAGE);
	int done[2], status;
	char byte;

	memset(heap, 'p', 8 * PAGE);
	if (pipe(done))
		die("pipe");
	if (!fork()) {
		heap[0] = 'c';
		close(done[1]);
		if (read(done[0], &byte, 1))
			_exit(1);
		_exit(heap[0] == 'c' && heap[7 * PAGE] == 'p' ? 3 : 1);
	}
	close(done[0]);
	memset(sbrk(8 * PAGE), 'q', 8 * PAGE);
	flush_and_stop_here();
	close(done[1]);
	wait(&status);
	printf("the child ended with %d, the parent has %c %c %c\n", WEXITSTATUS(status), heap[0],
	       heap[7 * PAGE], heap[8 * PAGE]);
}

static void no_vdso(void)
{
	unsigned long start, end, from[8], to[8];
	char line[512];
	int i, n = 0;
	FILE *maps = fopen("/proc/self/maps", "r");

	while (fgets(line, sizeof(line), maps) && n < 8)
		if ((strstr(line, "[vdso]") || strstr(line, "[vvar")) &&
		    sscanf(line, "%lx-%lx", &start, &end) == 2) {
			from[n] = start;
			to[n++] = end;
		}
	fclose(maps);
	for (i = 0; i < n; i++)
		if (munmap((void *)from[i], to[i] - from[i]))
			die("munmap");
	flush_and_stop_here();
	maps = fopen("/proc/self/maps", "r");
	n = 0;
	while (fgets(line, sizeof(line), maps))
		n += strstr(line, "[v") && !strstr(line, "[vsyscall]");
	fclose(maps);
	printf("mappings of the kernel: %d\n", n);
}

static long status_of(const char *what)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];
	long kib = -1;

	while (status && fgets(line, sizeof(line), status))
		if (!strncmp(line, what, strlen(what)))
			kib = atol(line + strlen(what));
	if (status)
		fclose(status);
	return kib;
}

static void tell_peak(const char *when)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	printf("%s: peak of 64 MiB: resident %d, mapped %d, getrusage() %d; now %d\n", when,
	       status_of("VmHWM:") >= 65536, status_of("VmPeak:") >= 65536,
	       usage.ru_maxrss >= 65536, status_of("VmRSS:") >= 65536);
}

/* Memory that has been unmapped: only the peak values show it. */
static void peak(void)
{
	const size_t size = 64 << 20;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");
	memset(memory, 1, size);
	munmap(memory, size);
	tell_peak("before");
	flush_and_stop_here();
	tell_peak("after");
}

int main(int argc, char **argv)
{
	nonce_draw();
	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "flags"))
		flags();
	else if (!strcmp(argv[1], "grown"))
		grown();
	else if (!strcmp(argv[1], "peak"))
		peak();
	else
		no_vdso();
	nonce_print();
	return 0;
}
