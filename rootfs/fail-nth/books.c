// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Reads the kernel's counts of its objects, before and after a range of operations has
 * failed several times. The engine (engine/src/books.rs) drops all caches before it reads
 * them, which takes longer than thousands of calls.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail-nth.h"

#define READINGS	20

static void add(struct books *books, const char *name, long count)
{
	if (books->nr == MAX_BOOKS)
		fail("too many caches");
	snprintf(books->rows[books->nr].name, sizeof(books->rows[0].name), "%s", name);
	books->rows[books->nr++].count = count;
}

/* Frees objects that the caches of the CPUs hold. */
static void shrink(void)
{
	DIR *dir = opendir("/sys/kernel/slab");
	struct dirent *entry;
	char path[300];

	if (!dir)
		fail("/sys/kernel/slab: %m");
	while ((entry = readdir(dir))) {
		/* the names of caches that are merged are links */
		if (entry->d_type != DT_DIR)
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", entry->d_name);
		int fd = open(path, O_WRONLY | O_CLOEXEC);

		if (fd >= 0 && write(fd, "1", 1) < 0)
			fail("%s: %m", path);
		if (fd >= 0)
			close(fd);
	}
	closedir(dir);
}

/* Returns the number of lines that do not have the words. */
static long lines_of(const char *path, const char *without)
{
	FILE *file = fopen(path, "re");
	char line[4096];
	long lines = 0;

	if (!file)
		fail("%s: %m", path);
	while (fgets(line, sizeof(line), file))
		lines += !strstr(line, without);
	fclose(file);
	return lines;
}

static long number_in(const char *path, const char *name)
{
	char line[256];
	long number = 0;
	size_t len = strlen(name);
	FILE *file = fopen(path, "re");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, len))
			number = strtol(line + len, NULL, 10);
	if (file)
		fclose(file);
	return number;
}

/*
 * Frees the objects of kfree_rcu() now, by its shrinker, and not seconds later. The value 4 stops
 * its message.
 */
static void drop_slab(void)
{
	static const char *const values[] = { "4", "2" };

	for (int i = 0; i < 2; i++) {
		int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

		if (fd < 0 || write(fd, values[i], 1) != 1)
			fail("drop_caches: %m");
		close(fd);
	}
}

/* Waits until all objects passed to call_rcu() are freed. */
static void rcu_barrier(void)
{
	int fd = open("/sys/module/rcutree/parameters/do_rcu_barrier", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "1", 1) != 1)
		fail("do_rcu_barrier: %m");
	close(fd);
}

static void read_once(struct books *books, int drop)
{
	static const char vmstat[] = "/proc/vmstat";
	char line[512], name[64], text[96];
	long active, per_slab, slabs, pages = 0;
	FILE *file = fopen("/proc/slabinfo", "re");

	memset(books, 0, sizeof(*books));
	if (drop)
		drop_slab();
	rcu_barrier();
	shrink();
	if (!file)
		fail("/proc/slabinfo: %m");
	while (fgets(line, sizeof(line), file)) {
		char *data = strstr(line, ": slabdata");

		if (!data || sscanf(line, "%63s %ld %*d %*d %*d %ld", name, &active, &per_slab) != 3 ||
		    sscanf(data, ": slabdata %*d %ld", &slabs) != 1)
			continue;
		pages += per_slab * slabs;
		/*
		 * Not counted: vmalloc areas, which are unmapped together, much later; and
		 * kmalloc-96, which varies by hundreds. Only kmemleak, in the debug flavour, finds a leak there.
		 */
		if (!strcmp(name, "vmap_area") || !strcmp(name, "kmalloc-96"))
			continue;
		snprintf(text, sizeof(text), "objects of %s", name);
		add(books, text, active);
	}
	fclose(file);
	file = fopen("/proc/sys/vm/stat_refresh", "we");
	if (file) {
		fputs("1", file);
		fclose(file);
	}
	/* allocations that are too large for every cache are pages */
	add(books, "pages of large objects", number_in(vmstat, "nr_slab_reclaimable ") +
	    number_in(vmstat, "nr_slab_unreclaimable ") - pages);
	add(books, "pinned pages", number_in(vmstat, "nr_foll_pin_acquired ") -
	    number_in(vmstat, "nr_foll_pin_released "));
	add(books, "anonymous pages of nobody", number_in(vmstat, "nr_inactive_anon ") +
	    number_in(vmstat, "nr_active_anon ") - number_in(vmstat, "nr_anon_pages ") -
	    number_in(vmstat, "nr_shmem "));
	add(books, "open files", number_in("/proc/sys/fs/file-nr", ""));
	add(books, "dying cgroups", number_in("/sys/fs/cgroup/cgroup.stat", "nr_dying_descendants "));
	add(books, "mounts", lines_of("/proc/self/mountinfo", "\n\n"));
	add(books, "vmalloc areas", lines_of("/proc/vmallocinfo", "unpurged"));
}

/*
 * Reads the books until two readings agree: some objects are freed only after a
 * grace period. @drop: also drops unused names; otherwise a tree that watches
 * files cannot be saved.
 */
void read_books(struct books *books, int drop)
{
	struct books last;

	read_once(&last, drop);
	for (int i = 0; i < READINGS; i++) {
		read_once(books, drop);
		if (!memcmp(&last, books, sizeof(last)))
			return;
		last = *books;
	}
}

/*
 * Keeps the counts of @lost that have grown by at least @runs. Returns their
 * number.
 */
int keep_lost(struct books *lost, const struct books *before, const struct books *after, int runs)
{
	int kept = 0;

	for (int i = 0; i < lost->nr; i++) {
		long was = 0, is = 0;

		for (int j = 0; j < before->nr; j++)
			if (!strcmp(before->rows[j].name, lost->rows[i].name))
				was = before->rows[j].count;
		for (int j = 0; j < after->nr; j++)
			if (!strcmp(after->rows[j].name, lost->rows[i].name))
				is = after->rows[j].count;
		if (is - was < runs)
			continue;
		lost->rows[kept] = lost->rows[i];
		lost->rows[kept++].count = is - was;
	}
	lost->nr = kept;
	return kept;
}
