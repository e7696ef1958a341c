// SPDX-License-Identifier: GPL-2.0-only
/*
 * Operates a gdb on a pseudo-terminal: each step waits for an expected output
 * and then types something. One step is a call of getppid(), the event of the
 * checkpoint. argv[1] selects where: "half" in an incomplete line, "runs" while
 * the program runs under gdb.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROMPT "(gdb) "

static char screen[1 << 16];
static size_t shown, seen;
static int master;

static void check(int bad, const char *what)
{
	if (bad) {
		perror(what);
		fprintf(stderr, "the screen: %s\n", screen + seen);
		exit(1);
	}
}

/* Waits until this text follows the text that was expected before. */
static void expect(const char *text)
{
	char *found;

	while (!(found = strstr(screen + seen, text))) {
		struct pollfd fd = { .fd = master, .events = POLLIN };
		ssize_t n;

		check(poll(&fd, 1, 60000) != 1, text);
		n = read(master, screen + shown, sizeof(screen) - 1 - shown);
		check(n <= 0, text);
		shown += n;
		screen[shown] = '\0';
	}
	seen = found - screen + strlen(text);
}

static void type(const char *text)
{
	check(write(master, text, strlen(text)) != (ssize_t)strlen(text), "write");
	/* readline echoes the typed text */
	if (text[0] >= ' ' && !strchr(text, '\n'))
		expect(text);
}

static void start_gdb(const char *slave)
{
	struct winsize size = { .ws_row = 24, .ws_col = 100 };
	char *argv[] = { "gdb", "-q", "-nx", "./waits", NULL };
	int fd;

	setsid();
	fd = open(slave, O_RDWR);
	check(fd < 0 || ioctl(fd, TIOCSWINSZ, &size), slave);
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(fd, 2);
	if (fd > 2)
		close(fd);
	setenv("TERM", "dumb", 1);
	setenv("HISTFILE", "/dev/null", 1);
	execvp(argv[0], argv);
	_exit(127);
}

static void here(const char *wanted, const char *place)
{
	if (!strcmp(wanted, place))
		getppid();
}

int main(int argc, char **argv)
{
	const char *where = argc > 1 ? argv[1] : "";
	int status;
	pid_t pid;

	master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	check(master < 0 || grantpt(master) || unlockpt(master), "pty");
	pid = fork();
	check(pid < 0, "fork");
	if (!pid)
		start_gdb(ptsname(master));

	expect(PROMPT);
	type("set confirm off\n");
	expect(PROMPT);
	/* a line that is edited, and one that is completed by readline */
	type("print 1 + ");
	here(where, "half");
	type("41\n");
	expect("$1 = 42");
	expect(PROMPT);
	type("break wait_once\n");
	expect("Breakpoint 1");
	expect(PROMPT);
	type("run\n");
	expect("Breakpoint 1, wait_once");
	expect(PROMPT);
	type("print rounds\n");
	expect("$2 = 0");
	expect(PROMPT);
	type("delete\n");
	expect(PROMPT);
	type("continue\n");
	expect("Continuing.");
	expect("waiting");
	here(where, "runs");
	/* ^C, to the foreground group */
	type("\003");
	expect("SIGINT");
	expect(PROMPT);
	type("print rounds\n");
	expect("$3 = 1");
	expect(PROMPT);
	type("kill\n");
	expect("killed]");
	expect(PROMPT);
	type("quit\n");
	check(waitpid(pid, &status, 0) != pid, "waitpid");
	printf("gdb ended with status %d, the screen had all expected text\n", WEXITSTATUS(status));
	return 0;
}
