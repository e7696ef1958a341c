// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Code that the cases share, and the robust mutex. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "state.h"
#include "workload.h"

void print_end(const char *who, pid_t pid)
{
	int status;

	status = wait_for_child(pid);
	if (WIFEXITED(status))
		printf("%s exited %d\n", who, WEXITSTATUS(status));
	else
		printf("%s got signal %d\n", who, WTERMSIG(status));
}

/*
 * Two children share a robust mutex: one holds it until it is killed after the event, and
 * one waits for it.
 */
void robust(void)
{
	pthread_mutexattr_t attributes;
	pthread_mutex_t *mutex;
	int held[2], never[2];
	pid_t owner, waiter;

	mutex = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mutex == MAP_FAILED)
		die("mmap");
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(mutex, &attributes);
	make_pipe(held);
	make_pipe(never);
	owner = forked();
	if (!owner) {
		pthread_mutex_lock(mutex);
		send_byte(held[1]);
		receive_byte(never[0]);
		_exit(1);
	}
	receive_byte(held[0]);
	waiter = forked();
	if (!waiter) {
		send_byte(held[1]);
		if (pthread_mutex_lock(mutex) != EOWNERDEAD)
			_exit(2);
		pthread_mutex_consistent(mutex);
		pthread_mutex_unlock(mutex);
		_exit(61);
	}
	receive_byte(held[0]);

	stop_here();

	kill(owner, SIGKILL);
	print_end("the owner", owner);
	print_end("the waiter", waiter);
	printf("the mutex can be locked: %d\n", pthread_mutex_lock(mutex) == 0);
	pthread_mutex_unlock(mutex);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "identity", identity }, { "family", family }, { "files", files },
	{ "cpu", cpu },		  { "robust", robust },
};

int main(int argc, char **argv)
{
	nonce_draw();
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		if (argc > 1 && !strcmp(argv[1], cases[n].name)) {
			cases[n].run();
			nonce_print();
			return 0;
		}
	}
	return 1;
}
