// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Files without a path, and their properties other than content.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "workload.h"

extern char **environ;

static int open_or_die(const char *path, int flags, mode_t mode)
{
	int fd = open(path, flags, mode);

	if (fd < 0)
		die(path);
	return fd;
}

/* Prints the results of stat(2), lsattr and /proc. */
static void tell(const char *what, int fd)
{
	char link[64], name[512];
	struct stat st;
	int attrs = 0;
	uint64_t hint = 0;
	ssize_t len;

	if (fstat(fd, &st))
		die("fstat");
	ioctl(fd, FS_IOC_GETFLAGS, &attrs);
	fcntl(fd, F_GET_RW_HINT, &hint);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, name, sizeof(name) - 1);
	name[len < 0 ? 0 : len] = 0;
	printf("%s: %o of %u:%u, %u names, %lld bytes, read %lld.%09ld, changed %lld.%09ld, ",
	       what, st.st_mode, st.st_uid, st.st_gid, (unsigned int)st.st_nlink,
	       (long long)st.st_size, (long long)st.st_atime, st.st_atim.tv_nsec,
	       (long long)st.st_mtime, st.st_mtim.tv_nsec);
	printf("nodump %d, hint %d, %s\n", !!(attrs & FS_NODUMP_FL), (int)hint, name);
}

static void tell_link(const char *what, int fd)
{
	char link[64], name[512];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, name, sizeof(name) - 1);
	name[len < 0 ? 0 : len] = 0;
	printf("%s: %s\n", what, name);
}

/* Makes it a set-user-id file of a different owner, with old times. */
static void adorn(int fd)
{
	const struct timespec times[2] = { { 1000000007, 123456789 }, { 7, 5 } };
	uint64_t hint = RWH_WRITE_LIFE_LONG;
	int attrs;

	if (fchown(fd, 1000, 50) || fchmod(fd, 06751) || futimens(fd, times))
		die("owner, mode and times");
	if (!ioctl(fd, FS_IOC_GETFLAGS, &attrs)) {
		attrs |= FS_NODUMP_FL;
		if (ioctl(fd, FS_IOC_SETFLAGS, &attrs))
			die("FS_IOC_SETFLAGS");
	}
	if (fcntl(fd, F_SET_RW_HINT, &hint))
		die("F_SET_RW_HINT");
}

static void unlinked(void)
{
	int plain, taken, gone;

	mkdir("gone", 0755);
	mkdir("gone/deep", 0755);
	plain = open_or_die("plain", O_CREAT | O_RDWR, 0600);
	taken = open_or_die("taken", O_CREAT | O_RDWR, 0600);
	gone = open_or_die("gone/deep/file", O_CREAT | O_RDWR, 0600);
	if (write(plain, "plain", 5) != 5 || write(taken, "taken", 5) != 5 ||
	    write(gone, "gone", 4) != 4)
		die("write");
	unlink("plain");
	unlink("taken");
	unlink("gone/deep/file");
	rmdir("gone/deep");
	rmdir("gone");
	close(open_or_die("taken", O_CREAT | O_WRONLY, 0644));
	adorn(plain);
	adorn(taken);
	adorn(gone);
	tell("before", plain);
	tell("before", taken);
	tell("before", gone);
	flush_and_stop_here();
	tell("after", plain);
	tell("after", taken);
	tell("after", gone);
	printf("the directory is %s\n", access("gone", F_OK) ? "gone" : "back");
	if (linkat(AT_FDCWD, "/proc/self/fd/3", AT_FDCWD, "again", AT_SYMLINK_FOLLOW))
		printf("an unlinked file cannot be linked again: %s\n", strerror(errno));
}

/* Creates a file as sem_open(3) does: under a temporary name, which is unlinked. */
static void linked(void)
{
	struct stat before, after;
	char buf[16] = "", *memory;
	int fd, again;

	fd = open_or_die("/dev/shm/made", O_CREAT | O_EXCL | O_RDWR, 0600);
	if (write(fd, "content", 7) != 7)
		die("write");
	memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED || link("/dev/shm/made", "/dev/shm/asked-for") ||
	    unlink("/dev/shm/made") || fstat(fd, &before))
		die("link");
	flush_and_stop_here();
	tell_link("descriptor", fd);
	if (fstat(fd, &after))
		die("fstat");
	printf("the same inode %d, names %d\n", before.st_ino == after.st_ino, (int)after.st_nlink);
	memory[0] = 'C';
	again = open_or_die("/dev/shm/asked-for", O_RDWR, 0);
	if (read(again, buf, sizeof(buf)) != 7)
		die("read");
	printf("by its other name: %s\n", buf);
	printf("by its first name: %s\n",
	       access("/dev/shm/made", F_OK) ? strerror(errno) : "there");
	unlink("/dev/shm/asked-for");
	if (fstat(fd, &after))
		die("fstat");
	printf("then it has %d names\n", (int)after.st_nlink);
}

static void link_it(int fd, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW))
		printf("%s: not linked: %s\n", name, strerror(errno));
	else
		printf("%s: linked\n", name);
}

static void tmpfile_case(void)
{
	int open = open_or_die(".", O_TMPFILE | O_RDWR, 0640);
	int closed = open_or_die(".", O_TMPFILE | O_EXCL | O_RDWR, 0640);

	if (write(open, "complete\n", 9) != 9)
		die("write");
	flush_and_stop_here();
	link_it(open, "linked");
	link_it(closed, "never");
}

static void memfd(char **argv)
{
	char *const args[] = { "nameless", "child", NULL };
	char buf[65536];
	int from, fd, status;
	ssize_t n;

	from = open_or_die("/proc/self/exe", O_RDONLY, 0);
	fd = memfd_create("program", MFD_CLOEXEC);
	if (fd < 0)
		die("memfd_create");
	while ((n = read(from, buf, sizeof(buf))) > 0)
		if (write(fd, buf, n) != n)
			die("write");
	if (!argv[2]) {
		/* continue as a process whose executable is a memfd that it can write to */
		char *const again[] = { "nameless", "memfd", "again", NULL };

		fcntl(fd, F_SETFD, 0);
		fexecve(fd, again, environ);
		die("fexecve");
	}
	flush_and_stop_here();
	n = readlink("/proc/self/exe", buf, sizeof(buf) - 1);
	buf[n < 0 ? 0 : n] = 0;
	printf("the program is %s\n", buf);
	fflush(stdout);
	if (!fork()) {
		fexecve(fd, args, environ);
		perror("fexecve");
		_exit(1);
	}
	wait(&status);
	printf("executed from a memfd: status %d\n", WEXITSTATUS(status));
}

static void copy(const char *from, const char *to)
{
	char buf[65536];
	int in = open_or_die(from, O_RDONLY, 0), out;
	ssize_t n;

	out = open_or_die(to, O_CREAT | O_EXCL | O_WRONLY, 0755);
	while ((n = read(in, buf, sizeof(buf))) > 0)
		if (write(out, buf, n) != n)
			die(to);
	close(in);
	close(out);
}

static void tell_name(const char *when)
{
	char name[512];
	ssize_t len = readlink("/proc/self/exe", name, sizeof(name) - 1);

	name[len < 0 ? 0 : len] = 0;
	printf("%s: the program is %s\n", when, name);
}

static void replaced(char **argv)
{
	int status;

	if (!argv[2]) {
		copy("/proc/self/exe", "running");
		execl("./running", "running", "replaced", "again", NULL);
		die("execl");
	}
	copy("/bin/true", "new");
	if (rename("new", "running"))
		die("rename");
	tell_name("before");
	flush_and_stop_here();
	tell_name("after");
	if (!fork())
		_exit(3);
	wait(&status);
	printf("a child ended with %d\n", WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "child"))
		return 7;
	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "unlinked")) {
		nonce_draw();
		unlinked();
	} else if (!strcmp(argv[1], "tmpfile")) {
		nonce_draw();
		tmpfile_case();
	} else if (!strcmp(argv[1], "linked")) {
		nonce_draw();
		linked();
	} else if (!strcmp(argv[1], "kernel")) {
		nonce_draw();
		kernel();
	} else if (!strcmp(argv[1], "opener")) {
		nonce_draw();
		opener();
	} else if (!strcmp(argv[1], "memfd")) {
		if (argv[2])
			nonce_draw();
		memfd(argv);
	} else {
		if (argv[2])
			nonce_draw();
		replaced(argv);
	}
	nonce_print();
	return 0;
}
