// SPDX-License-Identifier: GPL-2.0-only
/* Tasks that wait for a file system, an inode or an entry of /proc. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stuck.h"

#define FILE_NAME	"/work/written"

static int open_disk(void)
{
	int disk = open("/work", O_RDONLY | O_DIRECTORY);

	CHECK(disk >= 0);
	return disk;
}

/* A write to a file system that an administrator has frozen. */
void frozen_file_system(void)
{
	int disk = open_disk();
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		int fd = open(FILE_NAME, O_WRONLY | O_CREAT, 0600);

		CHECK(fd >= 0);
		join();
		begin();
		_exit(write(fd, "x", 1) == 1 ? 7 : 1);
	}
	while (!shared->tid)
		pass_time();
	CHECK(!ioctl(disk, FIFREEZE, 0));
	shared->done = 1;
	wait_for_place(pid, "percpu_rwsem_wait");
	checkpoint(pid);
	CHECK(!ioctl(disk, FITHAW, 0));
	ends(pid);
}

/* A second freeze of a file system, while the first freeze waits for a writer. */
void freezing_file_system(void)
{
	int disk = open_disk(), monitor, status;
	pid_t writer, other, pid;

	writer = writer_of_missing(FILE_NAME, &monitor);
	other = fork();
	CHECK(other >= 0);
	if (!other)
		_exit(ioctl(disk, FIFREEZE, 0) ? 1 : 0);
	wait_for_place(other, "freeze_super");
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		join();
		/*
		 * the first freeze is complete by now, and its thaw may be
		 * complete, too
		 */
		if (!ioctl(disk, FIFREEZE, 0))
			_exit(ioctl(disk, FITHAW, 0) ? 1 : 7);
		_exit(errno == EBUSY ? 7 : 1);
	}
	wait_for_place(pid, "freeze_super");
	checkpoint(pid);
	provide(monitor);
	CHECK(waitpid(other, &status, 0) == other && !status);
	CHECK(!ioctl(disk, FITHAW, 0));
	ends(pid);
	CHECK(waitpid(writer, &status, 0) == writer);
}

/*
 * The inode of a deleted file whose eviction waits for its frozen file system:
 * a task that looks the inode up by its handle waits for the eviction.
 */
void freeing_inode(void)
{
	struct {
		struct file_handle handle;
		unsigned char bytes[MAX_HANDLE_SZ];
	} file = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int disk = open_disk(), mount, status;
	int fd = open(FILE_NAME, O_WRONLY | O_CREAT, 0600);
	pid_t last, pid;

	CHECK(fd >= 0);
	CHECK(!name_to_handle_at(AT_FDCWD, FILE_NAME, &file.handle, &mount, 0));
	CHECK(!unlink(FILE_NAME));
	last = fork();
	CHECK(last >= 0);
	if (!last) {
		begin();
		close(fd);
		_exit(0);
	}
	close(fd);
	while (!shared->tid)
		pass_time();
	CHECK(!ioctl(disk, FIFREEZE, 0));
	shared->done = 1;
	wait_for_place(last, "percpu_rwsem_wait");
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		join();
		CHECK(open_by_handle_at(disk, &file.handle, O_RDONLY) < 0);
		_exit(errno == ESTALE ? 7 : 1);
	}
	wait_for_place(pid, "__wait_on_freeing_inode");
	checkpoint(pid);
	CHECK(!ioctl(disk, FITHAW, 0));
	CHECK(waitpid(last, &status, 0) == last && !status);
	ends(pid);
}

/* A network interface that is removed while a task reads its file in /proc. */
void removed_proc_entry(void)
{
	struct ifreq interface = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	int monitor, status;
	pid_t pid, reader;

	strcpy(interface.ifr_name, "stuck0");
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		int tun = open("/dev/net/tun", O_RDWR);

		CHECK(tun >= 0);
		CHECK(!ioctl(tun, TUNSETIFF, &interface));
		join();
		begin();
		_exit(close(tun) ? 1 : 7);
	}
	while (!shared->tid)
		pass_time();
	reader = reader_of_missing("/proc/net/dev_snmp6/stuck0", &monitor);
	let_go();
	wait_for_place(pid, "proc_entry_rundown");
	checkpoint(pid);
	provide(monitor);
	ends(pid);
	CHECK(waitpid(reader, &status, 0) == reader);
}
