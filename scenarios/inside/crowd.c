// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Many children: living ones, each with its number in memory, and dead ones that ended in each
 * way.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ask.h"
#include "inside.h"
#include "workload.h"

/* Number of living children: more than checkpoint(2) expects at first. */
#define LIVING 70

static void end(int way)
{
	const struct rlimit no_core = { 0, 0 };

	setrlimit(RLIMIT_CORE, &no_core);
	switch (way) {
	case 0:
		_exit(5);
	case 1:
		raise(SIGKILL);
		break;
	default:
		raise(SIGSEGV);
	}
	_exit(99);
}

void crowd(void)
{
	pid_t living[LIVING], dead[3];
	int answers[2], go[2];
	siginfo_t info;
	int good = 0;
	char number;

	make_pipe(answers);
	make_pipe(go);
	for (int n = 0; n < LIVING; n++) {
		living[n] = forked();
		if (!living[n]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(go[1]);
			number = n;
			/* it ends when the parent closes the pipe */
			if (read(go[0], &number, 1) == 0 &&
			    write(answers[1], &number, 1) == 1)
				_exit(n);
			_exit(99);
		}
	}
	for (int way = 0; way < 3; way++) {
		dead[way] = forked();
		if (!dead[way])
			end(way);
		check(waitid(P_PID, dead[way], &info, WEXITED | WNOWAIT), "waitid");
	}

	ask_before();
	ask_after();

	close(go[1]);
	for (int n = 0; n < LIVING; n++) {
		int status = wait_for_child(living[n]);

		good += WIFEXITED(status) && WEXITSTATUS(status) == n;
	}
	printf("children that ended as expected: %d\n", good);
	for (int way = 0; way < 3; way++) {
		memset(&info, 0, sizeof(info));
		check(waitid(P_PID, dead[way], &info, WEXITED), "waitid");
		printf("dead one %d: code %d, status %d\n", way, info.si_code, info.si_status);
	}
}
