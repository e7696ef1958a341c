// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Pairs of pseudo-terminals with buffered characters. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "workload.h"

static int make_master(void)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY);

	check(fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC), "posix_openpt");
	return fd;
}

static int open_slave(int master, int flags)
{
	int fd;

	check(unlockpt(master), "unlockpt");
	fd = open(ptsname(master), O_RDWR | O_NOCTTY | flags);
	check(fd < 0, "opening the slave");
	return fd;
}

static void type(int fd, const char *text)
{
	check(write(fd, text, strlen(text)) != (ssize_t)strlen(text), "write");
}

static void print_text(const unsigned char *text, ssize_t n)
{
	printf(" %zd \"", n);
	for (ssize_t i = 0; i < n; i++)
		if (text[i] >= ' ' && text[i] < 127)
			putchar(text[i]);
		else
			printf("\\x%02x", text[i]);
	printf("\"");
}

/*
 * Prints the available characters with C escapes; waits @wait ms for them. A master reads
 * pieces of any size, so with @all it reads until no more arrive.
 */
static void show_some(const char *what, int fd, int wait, int all)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	unsigned char text[512];
	ssize_t n = 0, more = 0;

	do {
		if (poll(&ready, 1, n ? 200 : wait) <= 0)
			break;
		more = read(fd, text + n, sizeof(text) - n);
		if (more > 0)
			n += more;
	} while (all && more > 0);
	printf("%s:", what);
	if (n)
		print_text(text, n);
	else
		printf(" %s", more < 0 ? strerrorname_np(errno) : "nothing");
	printf("\n");
}

static void show(const char *what, int fd, int wait)
{
	show_some(what, fd, wait, 0);
}

static void show_all(const char *what, int fd)
{
	show_some(what, fd, 1000, 1);
}

static void print_modes(const char *what, int fd)
{
	struct termios modes;
	struct winsize size;

	check(tcgetattr(fd, &modes) || ioctl(fd, TIOCGWINSZ, &size), what);
	printf("%s: %#o %#o %#o %#o erase %#x min %d speed %d, %d rows %d columns\n", what,
	       modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag, modes.c_cc[VERASE],
	       modes.c_cc[VMIN], cfgetospeed(&modes) == B9600, size.ws_row, size.ws_col);
}

static void modes(void)
{
	struct winsize small = { .ws_row = 17, .ws_col = 83, .ws_xpixel = 5 };
	int one, two, three, slave, again, set = 1, number, value;
	struct termios raw;
	struct stat stat;

	one = make_master();
	two = make_master();
	three = make_master();
	slave = open_slave(one, O_NONBLOCK);
	again = open_slave(one, 0);
	check(tcgetattr(slave, &raw), "tcgetattr");
	raw.c_lflag &= ~(ICANON | ECHO | ISIG);
	raw.c_iflag |= IXANY | IUCLC;
	raw.c_oflag &= ~ONLCR;
	raw.c_cc[VERASE] = 'x';
	raw.c_cc[VMIN] = 3;
	cfsetospeed(&raw, B9600);
	cfsetispeed(&raw, B9600);
	check(tcsetattr(slave, TCSANOW, &raw), "tcsetattr");
	check(ioctl(slave, TIOCSWINSZ, &small), "TIOCSWINSZ");
	check(fchown(slave, 1234, 5) || fchmod(slave, 0620), "fchown");
	/* packet mode, with two status bits to report */
	check(ioctl(one, TIOCPKT, &set), "TIOCPKT");
	check(tcflow(slave, TCOOFF) || tcflush(slave, TCIOFLUSH), "tcflow");
	check(ioctl(again, TIOCEXCL), "TIOCEXCL");
	/* the index in the middle is free */
	close(two);

	stop_here();

	print_modes("master", one);
	print_modes("slave", slave);
	check(fstat(slave, &stat) || ioctl(one, TIOCGPTN, &number), "fstat");
	printf("owner %d:%d, mode %#o, same terminal as before: %d\n", stat.st_uid, stat.st_gid,
	       stat.st_mode & 07777, minor(stat.st_rdev) == (unsigned int)number);
	show("packet", one, 1000);
	check(tcflow(slave, TCOON), "tcflow");
	show("packet", one, 1000);
	check(write(again, "text\n", 5) != 5, "write");
	show("packet", one, 1000);
	check(ioctl(one, TIOCGPKT, &value), "TIOCGPKT");
	printf("packet mode: %d\n", value);
	check(ioctl(again, TIOCGEXCL, &value), "TIOCGEXCL");
	printf("exclusive: %d\n", value);
	check(ioctl(one, TIOCGPTLCK, &value), "TIOCGPTLCK");
	check(ioctl(three, TIOCGPTLCK, &set), "TIOCGPTLCK");
	printf("locked: %d %d, and cannot be opened: %d\n", value, set,
	       open(ptsname(three), O_RDWR | O_NOCTTY) < 0 && errno == EIO);
	two = make_master();
	check(ioctl(two, TIOCGPTN, &value), "TIOCGPTN");
	printf("the free number in the middle is used next: %d\n", value == number + 1);
	printf("non-blocking: %d %d, close-on-exec: %d\n", !!(fcntl(slave, F_GETFL) & O_NONBLOCK),
	       !!(fcntl(again, F_GETFL) & O_NONBLOCK), fcntl(one, F_GETFD));
	close(again);
	close(slave);
	show("closed", one, 1000);
}

/* A kernel worker echoes typed characters; there is no way to wait for it. */
static void settle(void)
{
	usleep(200000);
}

static void lines(void)
{
	int master = make_master(), slave = open_slave(master, O_NONBLOCK), stopped, waits;
	int closed = make_master(), other = open_slave(closed, 0), exclusive;

	type(master, "first\nsecond\nha");
	settle();
	type(slave, "out\n");
	/* ^V makes the next character literal, which is typed after the event */
	type(master, "lx\177\026");
	/* a second pair: ^S stops the slave's output */
	stopped = make_master();
	waits = open_slave(stopped, O_NONBLOCK);
	type(stopped, "\023");
	settle();
	printf("stopped: %d\n", write(waits, "held", 4) < 0 && errno == EAGAIN);
	/* a master with unread characters, whose slave is closed */
	type(other, "last words\n");
	close(other);

	stop_here();

	type(master, "\003 line\n");
	show("line", slave, 1000);
	show("line", slave, 1000);
	show("line", slave, 1000);
	show("line", slave, 100);
	show_all("echo", master);
	check(ioctl(waits, TIOCGEXCL, &exclusive), "TIOCGEXCL");
	printf("still stopped: %d, exclusive: %d\n",
	       write(waits, "held", 4) < 0 && errno == EAGAIN, exclusive);
	type(stopped, "\021");
	settle();
	type(waits, "let go");
	settle();
	show_all("other", stopped);
	show_all("of a closed one", closed);
	show("and then", closed, 1000);
	/* a typed end of file */
	type(master, "without end\004");
	show("line", slave, 1000);
}

/* Without ICANON no characters are discarded: all must arrive in order. */
static void flood(void)
{
	int master = make_master(), slave = open_slave(master, O_NONBLOCK);
	unsigned int written = 0, seen = 0, wrong = 0;
	struct pollfd ready = { .fd = slave, .events = POLLIN };
	struct termios raw;
	unsigned char byte;

	check(tcgetattr(slave, &raw), "tcgetattr");
	cfmakeraw(&raw);
	check(tcsetattr(slave, TCSANOW, &raw), "tcsetattr");
	check(fcntl(master, F_SETFL, O_NONBLOCK), "F_SETFL");
	for (;;) {
		byte = written * 7;
		if (write(master, &byte, 1) != 1)
			break;
		written++;
	}
	printf("more than one buffer holds: %d\n", written > 5000);
	type(slave, "the other way");

	stop_here();

	while (poll(&ready, 1, 1000) > 0 && read(slave, &byte, 1) == 1) {
		wrong += byte != (unsigned char)(seen * 7);
		seen++;
	}
	printf("all came: %d, wrong: %u\n", seen == written, wrong);
	show_all("the other way", master);
}

static volatile sig_atomic_t interrupts, hangups;

static void count(int signal)
{
	if (signal == SIGINT)
		interrupts++;
	else
		hangups++;
}

/* Reads a line from its controlling terminal, if it is in the foreground. */
static void job(int start, int ready, const char *name)
{
	char text[64] = "";
	int tty = open("/dev/tty", O_RDWR);
	ssize_t n;

	signal(SIGINT, SIG_DFL);
	receive_byte(start);
	check(tty < 0, "/dev/tty");
	send_byte(ready);
	n = read(tty, text, sizeof(text) - 1);
	printf("%s read %zd: %s\n", name, n, n > 0 ? text : "\n");
	fflush(stdout);
	_exit(6);
}

static pid_t start_job(int start, int ready, const char *name)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	check(pid < 0, "fork");
	if (!pid) {
		setpgid(0, 0);
		job(start, ready, name);
	}
	setpgid(pid, pid);
	return pid;
}

static void print_end(const char *who, pid_t pid, int options)
{
	int status;

	check(waitpid(pid, &status, options) != pid, "waitpid");
	if (WIFSTOPPED(status))
		printf("%s is stopped by signal %d\n", who, WSTOPSIG(status));
	else if (WIFEXITED(status))
		printf("%s exited %d\n", who, WEXITSTATUS(status));
	else
		printf("%s got signal %d\n", who, WTERMSIG(status));
}

/* A shell in a session of its own: one job in the foreground, one in the background. */
static void shell(int slave, int go, int done)
{
	struct sigaction counting = { .sa_handler = count };
	int start[2], ready[2], tty;
	pid_t front, back;

	check(pipe(start) || pipe(ready), "pipe");
	check(setsid() < 0 || ioctl(slave, TIOCSCTTY, 0), "TIOCSCTTY");
	signal(SIGTTOU, SIG_IGN);
	sigaction(SIGINT, &counting, NULL);
	sigaction(SIGHUP, &counting, NULL);
	tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
	check(tty < 0, "/dev/tty");
	back = start_job(start[0], ready[1], "the job behind");
	front = start_job(start[0], ready[1], "the job in front");
	check(tcsetpgrp(tty, front), "tcsetpgrp");
	send_byte(start[1]);
	send_byte(start[1]);
	receive_byte(ready[0]);
	receive_byte(ready[0]);
	print_end("the job behind", back, WUNTRACED);
	send_byte(done);

	receive_byte(go);
	printf("same foreground group as before: %d, same session as before: %d\n",
	       tcgetpgrp(tty) == front, tcgetsid(tty) == getpid());
	print_end("the job in front", front, 0);
	printf("interrupts of mine: %d\n", interrupts);
	check(tcsetpgrp(tty, back) || kill(-back, SIGCONT), "tcsetpgrp");
	send_byte(done);
	print_end("the job behind", back, 0);
	check(tcsetpgrp(tty, getpgrp()), "tcsetpgrp");
	send_byte(done);
	while (!hangups)
		usleep(1000);
	printf("hangups: %d, the terminal is gone: %d\n", hangups,
	       open("/dev/tty", O_RDWR) < 0 && errno == ENXIO);
	fflush(stdout);
	_exit(7);
}

static void jobs(void)
{
	int master = make_master(), slave = open_slave(master, 0), go[2], done[2];
	pid_t pid;

	check(pipe(go) || pipe(done), "pipe");
	fflush(stdout);
	pid = fork();
	check(pid < 0, "fork");
	if (!pid) {
		close(master);
		shell(slave, go[0], done[1]);
	}
	close(slave);
	receive_byte(done[0]);
	/* the foreground job waits for the rest of an incomplete line */
	type(master, "ha");
	show_all("echo", master);

	stop_here();

	send_byte(go[1]);
	type(master, "\003");
	receive_byte(done[0]);
	type(master, "a line for it\n");
	receive_byte(done[0]);
	show_all("echo", master);
	printf("in front: %d\n", tcgetpgrp(master) == pid);
	fflush(stdout);
	close(master);
	print_end("the shell", pid, 0);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "modes", modes }, { "lines", lines }, { "flood", flood }, { "jobs", jobs },
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
