// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Open files: their state, and the state that descriptors share. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "state.h"
#include "workload.h"

#define ENTRIES 40

static int opened(const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0)
		die(path);
	return fd;
}

static void put(int fd, const char *text)
{
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die("write");
}

static void print_content(const char *what, int fd)
{
	char text[256] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	printf("%s holds %zd bytes: %s\n", what, n, text);
}

static void print_flags(const char *what, int fd)
{
	int flags = fcntl(fd, F_GETFL);

	printf("%s: access %d, append %d, nonblock %d, path %d, cloexec %d\n", what,
	       flags & O_ACCMODE, !!(flags & O_APPEND), !!(flags & O_NONBLOCK),
	       !!(flags & O_PATH), fcntl(fd, F_GETFD));
}

/* Reads half of a directory; after the event, reading must return exactly the other half. */
static DIR *half_read(unsigned char seen[ENTRIES])
{
	struct dirent *entry;
	char name[32];
	DIR *dir;

	if (mkdir("many", 0755))
		die("many");
	for (int n = 0; n < ENTRIES; n++) {
		snprintf(name, sizeof(name), "many/entry-%d", n);
		close(opened(name, O_CREAT | O_WRONLY));
	}
	dir = opendir("many");
	for (int n = 0; n < ENTRIES / 2 && (entry = readdir(dir)); n++)
		if (entry->d_name[0] != '.')
			seen[atoi(entry->d_name + 6)]++;
	/* glibc has read ahead: set the kernel's position */
	seekdir(dir, telldir(dir));
	return dir;
}

static void print_directory(DIR *dir, unsigned char seen[ENTRIES])
{
	struct dirent *entry;
	char name[32];
	int once = 0;

	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			seen[atoi(entry->d_name + 6)]++;
	for (int n = 0; n < ENTRIES; n++) {
		snprintf(name, sizeof(name), "many/entry-%d", n);
		unlink(name);
		once += seen[n] == 1;
	}
	printf("entries of the directory seen exactly once: %d\n", once);
}

void files(void)
{
	int deleted, append, twice, other, own, path, high, memory, ends[2], go[2], done[2];
	unsigned char seen[ENTRIES] = { 0 };
	char text[64] = "", link[64];
	DIR *dir;
	pid_t child;
	ssize_t n;

	deleted = opened("deleted", O_CREAT | O_RDWR);
	put(deleted, "0123456789");
	unlink("deleted");
	lseek(deleted, 4, SEEK_SET);
	append = opened("log", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC);
	put(append, "one,");
	other = opened("shared", O_CREAT | O_RDWR);
	twice = dup(other);
	own = opened("shared", O_RDONLY);
	path = opened("/etc/passwd", O_PATH);
	high = fcntl(own, F_DUPFD_CLOEXEC, 700);
	memory = memfd_create("sealed", MFD_ALLOW_SEALING);
	put(memory, "in memory");
	fcntl(memory, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK);
	if (pipe2(ends, O_NONBLOCK) || fcntl(ends[1], F_SETPIPE_SZ, 16384) != 16384)
		die("pipe");
	put(ends[1], "in the pipe");
	dir = half_read(seen);
	make_pipe(go);
	make_pipe(done);
	child = forked();
	if (!child) {
		receive_byte(go[0]);
		/* `other` shares its offset with the parent */
		put(other, "child,");
		send_byte(done[1]);
		receive_byte(go[0]);
		_exit(0);
	}
	put(twice, "parent,");

	stop_here();

	n = read(deleted, text, sizeof(text) - 1);
	printf("the deleted file continues with %zd bytes: %s\n", n, text);
	put(deleted, "abc");
	print_content("the deleted file", deleted);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", deleted);
	n = readlink(link, text, sizeof(text) - 1);
	printf("its name: %.*s\n", (int)n, text);
	close(opened("log", O_WRONLY | O_TRUNC));
	put(append, "two,");
	print_content("the log", opened("log", O_RDONLY));
	send_byte(go[1]);
	receive_byte(done[0]);
	put(twice, "parent again");
	print_content("the shared file", other);
	printf("offsets: %ld %ld, of another open file: %ld\n", (long)lseek(other, 0, SEEK_CUR),
	       (long)lseek(twice, 0, SEEK_CUR), (long)lseek(own, 0, SEEK_CUR));
	lseek(own, 3, SEEK_SET);
	printf("offset through descriptor %d: %ld\n", high, (long)lseek(high, 0, SEEK_CUR));
	print_flags("log", append);
	print_flags("path", path);
	print_flags("high", high);
	print_flags("pipe", ends[0]);
	printf("seals of the memory: %#x\n", fcntl(memory, F_GET_SEALS));
	print_content("the memory", memory);
	printf("size of the pipe: %d\n", fcntl(ends[0], F_GETPIPE_SZ));
	memset(text, 0, sizeof(text));
	n = read(ends[0], text, sizeof(text) - 1);
	printf("the pipe holds %zd bytes: %s\n", n, text);
	n = read(ends[0], text, 1);
	printf("then it would block: %d\n", n == -1 && errno == EAGAIN);
	print_directory(dir, seen);
	send_byte(go[1]);
	print_end("the child", child);
}
