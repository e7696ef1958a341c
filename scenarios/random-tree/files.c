// SPDX-License-Identifier: GPL-2.0-only
/* Files. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tree.h"
#include "workload.h"

static void make_content(struct item *item, const char *what, int flags, int unlinked)
{
	char name[64];

	item->fd[0] = own_file(what, flags, name, sizeof(name));
	put_pattern(item->fd[0], item->number, BYTES);
	if (unlinked)
		check(unlink(name) < 0, "unlink");
	check(lseek(item->fd[0], item->number % BYTES, SEEK_SET) < 0, "lseek");
	item->kept = fcntl(item->fd[0], F_GETFL);
}

static const char *verify_content(struct item *item)
{
	int fd = item->fd[0];

	if (lseek(fd, 0, SEEK_CUR) != item->number % BYTES)
		return "another offset";
	if (fcntl(fd, F_GETFL) != item->kept)
		return "other flags";
	if (lseek(fd, 0, SEEK_SET) < 0 || !has_pattern(fd, item->number, BYTES))
		return "other content";
	return NULL;
}

static void make_file(struct item *item)
{
	make_content(item, "file", item->number % 2 ? O_RDWR : O_RDWR | O_APPEND, 0);
}

static void make_unlinked(struct item *item)
{
	make_content(item, "unlinked", O_RDWR, 1);
}

static const char *verify_unlinked(struct item *item)
{
	struct stat stat;

	if (fstat(item->fd[0], &stat) < 0 || stat.st_nlink || stat.st_size != BYTES)
		return "another inode";
	return verify_content(item);
}

static void make_memfd(struct item *item)
{
	item->fd[0] = memfd_create("memfd", MFD_ALLOW_SEALING);
	check(item->fd[0] < 0, "memfd_create");
	put_pattern(item->fd[0], item->number, BYTES);
	check(lseek(item->fd[0], item->number % BYTES, SEEK_SET) < 0, "lseek");
	check(fcntl(item->fd[0], F_ADD_SEALS, F_SEAL_SHRINK) < 0, "F_ADD_SEALS");
	item->kept = fcntl(item->fd[0], F_GETFL);
}

static const char *verify_memfd(struct item *item)
{
	return fcntl(item->fd[0], F_GET_SEALS) == F_SEAL_SHRINK ? verify_content(item) :
								   "other seals";
}

/* Two descriptors of one open file, and one of a second open file. */
static void make_shared_offset(struct item *item)
{
	char name[64];

	item->fd[0] = own_file("shared", O_RDWR, name, sizeof(name));
	put_pattern(item->fd[0], item->number, BYTES);
	item->fd[1] = dup(item->fd[0]);
	item->fd[2] = open(name, O_RDONLY);
	check(item->fd[1] < 0 || item->fd[2] < 0, name);
}

static const char *verify_shared_offset(struct item *item)
{
	lseek(item->fd[0], item->number % 100, SEEK_SET);
	if (lseek(item->fd[1], 0, SEEK_CUR) != item->number % 100)
		return "offsets are no longer shared";
	if (lseek(item->fd[2], 0, SEEK_CUR))
		return "another file shares the offset";
	return NULL;
}

static void make_descriptor(struct item *item)
{
	int fd = open("/dev/null", item->number % 2 ? O_RDONLY | O_CLOEXEC : O_WRONLY);

	check(fd < 0, "/dev/null");
	item->fd[0] = fcntl(fd, item->number % 2 ? F_DUPFD_CLOEXEC : F_DUPFD,
			    100 + item->number % 50);
	check(item->fd[0] < 0, "F_DUPFD");
	close(fd);
}

static const char *verify_descriptor(struct item *item)
{
	return fcntl(item->fd[0], F_GETFD) == (item->number % 2 ? FD_CLOEXEC : 0) ? NULL :
										    "another flag";
}

static void make_cwd(struct item *item)
{
	char name[64];

	snprintf(name, sizeof(name), "directory.%d", own_id);
	check(mkdir(name, 0755) < 0 || chdir(name) < 0, name);
	item->memory = get_current_dir_name();
}

static const char *verify_cwd(struct item *item)
{
	char *now = get_current_dir_name();

	return now && !strcmp(now, item->memory) ? NULL : "another directory";
}

const struct kind file_kinds[] = {
	{ "file", make_file, verify_content },
	{ "unlinked", make_unlinked, verify_unlinked },
	{ "memfd", make_memfd, verify_memfd },
	{ "shared-offset", make_shared_offset, verify_shared_offset },
	{ "descriptor", make_descriptor, verify_descriptor },
	{ "cwd", make_cwd, verify_cwd },
	{}
};
