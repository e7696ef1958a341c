// SPDX-License-Identifier: Apache-2.0 OR MIT
/* A checkpoint(2) that is attacked while its image is not read. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "adversary.h"

static int feed_end, filled;

static int is_full(void)
{
	return is_over() || (!ioctl(feed_end, FIONREAD, &filled) && filled == 4096);
}

const char *checkpoint(int nth)
{
	static char result[64], again[80];
	struct image old = load(IMAGE), image = { };
	int ends[2], pages = old.size / 4096, page = nth % pages, error;
	pid_t root = start_victim(), caller, enemy;
	int refused = wants("shared-memory") || wants("namespace") || wants("unlinked");

	list_tree();
	reachable = 1;
	error = check_at_rest(root);
	if (error && !refused)
		fail("the victim cannot be checkpointed: %s", strerror(error));
	/* a call that is refused at once has no stall */
	if (error) {
		end_tree(root);
		snprintf(result, sizeof(result), "%s", strerrorname_np(error));
		return result;
	}
	if (wants("shared-memory") || wants("namespace"))
		tell("a tree with %s is saved", wants("namespace") ? "another user namespace" :
		     "memory that it shares with a task outside");
	image.data = malloc(old.size + (1 << 20));
	if (!image.data || pipe2(ends, O_CLOEXEC) || fcntl(ends[1], F_SETPIPE_SZ, 4096) != 4096)
		fail("pipe: %m");
	feed_end = ends[0];
	caller = forked();
	if (!caller) {
		int log = a_log();

		close(ends[0]);
		must_put(CGROUP "/user/cgroup.procs", "0");
		become_user();
		signal(SIGUSR2, on_signal);
		signal(SIGPIPE, SIG_IGN);
		shared->ret = syscall(SYS_checkpoint, root, ends[1], 0UL, log);
		shared->error = errno;
		__atomic_store_n(&shared->over, 1, __ATOMIC_RELEASE);
		_exit(0);
	}
	shared->caller = caller;
	enemy = forked();
	if (!enemy) {
		close(ends[0]);
		close(ends[1]);
		must_put(CGROUP "/user/cgroup.procs", "0");
		become_user();
		attacker();
	}
	close(ends[1]);
	for (int i = 0; i <= page; i++) {
		if (!until(is_full))
			tell("checkpoint(2) does not continue after page %d", i);
		if (is_over())
			break;
		if (i < page) {
			if (read(ends[0], image.data + image.size, 4096) != 4096)
				fail("reading the image: %m");
			image.size += 4096;
		}
	}
	let_attack(1);
	let_attack(2);
	if (wants("cut"))
		close(ends[0]);
	while (!wants("cut") && !wants("kill-caller")) {
		struct pollfd there = { .fd = ends[0], .events = POLLIN };
		ssize_t n = poll(&there, 1, limit * 1000) == 1 ?
			read(ends[0], image.data + image.size, 4096) : -1;

		/* a call that fails may wait for the reader of its log */
		if (n < 0 && !wants("full-log"))
			tell("checkpoint(2) does not continue at byte %zu", image.size);
		if (n <= 0 || image.size > old.size + (1 << 19))
			break;
		image.size += n;
	}
	/*
	 * a call that fails writes its log lines last, and a full log is not
	 * read
	 */
	if (wants("full-log") && !until(is_over))
		kill(caller, SIGKILL);
	if (waitpid(caller, NULL, 0) != caller)
		fail("waitpid: %m");
	kill(enemy, SIGKILL);
	waitpid(enemy, NULL, 0);
	if (!is_over())
		snprintf(result, sizeof(result), "killed");
	else if (shared->ret < 0)
		snprintf(result, sizeof(result), "%s", strerrorname_np(shared->error));
	else
		snprintf(result, sizeof(result), "saved");
	if (image.size && memmem(image.data, image.size, TEXT, strlen(TEXT)))
		tell("the image has the content of a file that the user may not read");
	if (!strcmp(result, "EPERM") || !strcmp(result, "EAGAIN") || !strcmp(result, "EINTR"))
		may_change |= wants("seize") || wants("signal-caller");
	if (is_over() && shared->ret < 0 && !may_change && !wants("cut"))
		tell("checkpoint(2) fails: %s", strerror(shared->error));
	/* the attacks must not have changed the tree */
	truncate(OUT, 0);
	if (is_over() && !kill(root, 0) && !may_change) {
		must_put(TREE "/cgroup.freeze", "0");
		if (!until(is_empty) || !contains(OUT, "unharmed\n"))
			tell("the checkpointed tree is harmed");
	}
	if (!access(CHILD, F_OK)) {
		pid_t pid;

		put(TREE "/cgroup.freeze", "0");
		pid = forked();
		if (!pid) {
			must_put(CHILD "/cgroup.procs", "0");
			_exit(0);
		}
		for (time_t end = time(NULL) + limit; waitpid(pid, NULL, WNOHANG) != pid;)
			if (time(NULL) > end) {
				tell("a cgroup that was made during a checkpoint stays frozen");
				kill(pid, SIGKILL);
				break;
			}
	}
	end_tree(root);
	if (strcmp(result, "saved"))
		return result;
	/* a saved tree restarts, whatever the attacks were */
	nr_chosen = 0;
	memset(shared, 0, offsetof(struct shared, reached));
	image.data = realloc(image.data, image.size);
	read_pids(&image);
	snprintf(again, sizeof(again), "saved, %s", restart(&image, records(&image) - 2));
	if (!strstr(again, "restarted"))
		tell("checkpoint(2) has succeeded, but the image does not restart");
	return again;
}
