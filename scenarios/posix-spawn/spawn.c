// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Spawns a program with actions and attributes, then one that does not exist. A parent
 * that was released too early would see no error, or its signals still blocked.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

extern char **environ;

static char *const leaf[] = { "./leaf", "spawned", NULL };

static void blocked(const char *when)
{
	sigset_t mask;
	int count = 0;

	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int n = 1; n < NSIG; n++)
		count += sigismember(&mask, n) == 1;
	printf("%s: %d signals blocked, SIGHUP among them %d\n", when, count,
	       sigismember(&mask, SIGHUP));
	fflush(stdout);
}

int main(void)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int status, error;
	sigset_t mask;
	pid_t pid;

	nonce_draw();
	sigemptyset(&mask);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	blocked("before");
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "output", O_WRONLY | O_CREAT | O_TRUNC, 0644);
	posix_spawn_file_actions_addclosefrom_np(&actions, 3);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
	sigemptyset(&mask);
	posix_spawnattr_setsigmask(&attributes, &mask);
	error = posix_spawn(&pid, leaf[0], &actions, &attributes, leaf, environ);
	printf("spawn: %s, process %d\n", strerror(error), pid);
	blocked("after");
	status = wait_for_child(pid);
	printf("the child ended with %d\n", WEXITSTATUS(status));
	error = posix_spawn(&pid, "./nothing", NULL, NULL, leaf, environ);
	printf("spawn of nothing: %s\n", strerror(error));
	blocked("at the end");
	error = waitpid(-1, &status, WNOHANG);
	printf("children left: %d\n", error >= 0);
	nonce_print();
	return 0;
}
