// SPDX-License-Identifier: GPL-2.0-only
/* Mappings. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tree.h"
#include "workload.h"

#define PAGE 4096
#define PAGES 6

static void fill(struct item *item)
{
	unsigned char *bytes = item->memory;

	for (long at = 0; at < PAGES * PAGE; at++)
		bytes[at] = pattern(item->number, at);
}

static const char *verify_memory(struct item *item)
{
	const unsigned char *bytes = item->memory;

	for (long at = 0; at < PAGES * PAGE; at++)
		if (bytes[at] != pattern(item->number, at))
			return "other bytes";
	return NULL;
}

static void map(struct item *item, int flags, int fd)
{
	item->memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	check(item->memory == MAP_FAILED, "mmap");
	fill(item);
}

static void make_private(struct item *item)
{
	map(item, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	/* Several mappings with rights and flags of their own. */
	check(mprotect((char *)item->memory + PAGE, PAGE, PROT_READ) < 0, "mprotect");
	check(madvise((char *)item->memory + 3 * PAGE, PAGE, MADV_DONTDUMP) < 0, "madvise");
}

/* Returns true when /proc/self/smaps shows a flag of the mapping at this address. */
static int has_flag(const void *address, const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	char line[512];
	unsigned long start, end;
	int here = 0, found = 0;

	check(!file, "smaps");
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2 && line[0] != 'V')
			here = start <= (unsigned long)address && (unsigned long)address < end;
		else if (here && !strncmp(line, "VmFlags:", 8))
			found = !!strstr(line, flag);
	}
	fclose(file);
	return found;
}

static const char *verify_private(struct item *item)
{
	char *bytes = item->memory;

	if (has_flag(bytes + PAGE, " wr ") || !has_flag(bytes, " wr "))
		return "other rights";
	if (!has_flag(bytes + 3 * PAGE, " dd "))
		return "other flags";
	return verify_memory(item);
}

static void make_shared(struct item *item)
{
	map(item, MAP_SHARED | MAP_ANONYMOUS, -1);
}

static void make_file_private(struct item *item)
{
	char name[64];
	int fd = own_file("mapped", O_RDWR, name, sizeof(name));

	check(ftruncate(fd, PAGES * PAGE) < 0, "ftruncate");
	map(item, MAP_PRIVATE, fd);
	close(fd);
}

static void make_file_shared(struct item *item)
{
	char name[64];

	item->fd[0] = own_file("mapped", O_RDWR, name, sizeof(name));
	check(ftruncate(item->fd[0], PAGES * PAGE) < 0, "ftruncate");
	map(item, MAP_SHARED, item->fd[0]);
}

static const char *verify_file_shared(struct item *item)
{
	unsigned char *bytes = item->memory, byte;

	if (verify_memory(item))
		return "other bytes";
	bytes[PAGE] = 0x77;
	return pread(item->fd[0], &byte, 1, PAGE) == 1 && byte == 0x77 ? NULL : "it is not shared";
}

const struct kind memory_kinds[] = {
	{ "private", make_private, verify_private },
	{ "shared", make_shared, verify_memory },
	{ "file-private", make_file_private, verify_memory },
	{ "file-shared", make_file_shared, verify_file_shared },
	{}
};
