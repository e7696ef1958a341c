// SPDX-License-Identifier: GPL-2.0-only
/* Resources that checkpoint(2) refuses; the tree keeps them and continues. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tree.h"
#include "workload.h"

static void make_lock(struct item *item)
{
	struct flock lock = { .l_type = F_WRLCK, .l_len = 1 + item->number };
	char name[64];

	item->fd[0] = own_file("locked", O_RDWR, name, sizeof(name));
	check(fcntl(item->fd[0], F_SETLK, &lock) < 0, "F_SETLK");
}

static const char *verify_lock(struct item *item)
{
	struct flock lock = { .l_type = F_UNLCK, .l_len = 1 + item->number };

	return fcntl(item->fd[0], F_SETLK, &lock) < 0 ? "the lock is lost" : NULL;
}

static void make_tcp(struct item *item)
{
	item->fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	check(item->fd[0] < 0, "socket");
}

static const char *verify_tcp(struct item *item)
{
	int type;
	socklen_t size = sizeof(type);

	return getsockopt(item->fd[0], SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM ?
		       "another socket" : NULL;
}

static void make_locked(struct item *item)
{
	item->memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(item->memory == MAP_FAILED || mlock(item->memory, 8192) < 0, "mlock");
	*(long *)item->memory = item->number;
}

static const char *verify_locked(struct item *item)
{
	return *(long *)item->memory == item->number ? NULL : "other bytes";
}

static void make_fifo(struct item *item)
{
	char name[64];

	snprintf(name, sizeof(name), "fifo.%d", own_id);
	check(mkfifo(name, 0600) < 0, name);
	item->fd[0] = open(name, O_RDWR);
	check(item->fd[0] < 0, name);
	put_pattern(item->fd[0], item->number, 1 + item->number % 500);
}

static const char *verify_fifo(struct item *item)
{
	return has_pattern(item->fd[0], item->number, 1 + item->number % 500) ? NULL : "other bytes";
}

const struct kind refused_kinds[] = {
	{ "lock", make_lock, verify_lock },
	{ "locked", make_locked, verify_locked },
	{ "tcp", make_tcp, verify_tcp },
	{ "fifo", make_fifo, verify_fifo },
	{}
};
