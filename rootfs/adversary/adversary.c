// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Attacks a checkpoint(2) or a restart(2) of an unprivileged user in the middle.
 *
 *	adversary restart NTH ATTACK...
 *		the image comes through a pipe, which stalls after record NTH
 *	adversary checkpoint NTH ATTACK...
 *		the image goes into a pipe, which is not read beyond page NTH
 *
 * Numbers are taken modulo the number of records or pages. At the stall, a process of the same user
 * attacks (attacks.c). For a restart all of them are in a user and a pid namespace of that user;
 * the harness is root and outside. The image is of "./victim adversary", and is made when there is
 * none. Afterwards the tree must be unchanged or restarted correctly, or the call must have failed.
 * No task or object may be left over, and the attacker must not have gained any right.
 *
 * Prints a line about the run. Exit status 1 and a line on stderr for each gain, and for each task
 * or object that was reached or is left over; 2 if the harness has failed. PATIENCE in the
 * environment is a factor for time limits.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "adversary.h"

struct shared *shared;
pid_t pids[MAX_PIDS];
const char *attack_names[MAX_ATTACKS];
int nr_pids, reachable, nr_chosen, may_change, limit = 20;
static const struct attack *chosen[MAX_ATTACKS];

void tell(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	__atomic_add_fetch(&shared->reached, 1, __ATOMIC_RELAXED);
}

void fail(const char *format, ...)
{
	va_list args;

	fputs("the harness has failed: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	_exit(2);
}

int wants(const char *name)
{
	for (int i = 0; i < nr_chosen; i++)
		if (!strcmp(attack_names[i], name))
			return 1;
	return 0;
}

int is_over(void) { return __atomic_load_n(&shared->over, __ATOMIC_ACQUIRE); }
int all_empty(void) { return contains(CGROUP "/cgroup.events", "populated 0"); }
static int is_done(void)
{
	return __atomic_load_n(&shared->done, __ATOMIC_ACQUIRE) == shared->go;
}

static void own(const char *dir)
{
	static const char *const files[] = {
		"", "/cgroup.procs", "/cgroup.threads", "/cgroup.freeze", "/cgroup.kill",
	};
	char path[256];

	if (mkdir(dir, 0755) && errno != EEXIST)
		fail("%s: %m", dir);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", dir, files[i]);
		if (chown(path, USER, USER))
			fail("%s: %m", path);
	}
}

static void prepare(void)
{
	own(CGROUP);
	own(TREE);
	own(OTHER);
	own(CGROUP "/user");
	own(CGROUP "/a");
	own(CGROUP "/b");
	if (access(SECRET, F_OK))
		write_file(SECRET, TEXT, 0600);
	if (access(OUT, F_OK))
		write_file(OUT, "", 0666);
	rmdir(MADE);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGWINCH, SIG_IGN);
	signal(SIGURG, SIG_IGN);
}

/* The attacker, which acts each time that let_attack() advances the turn. */
void attacker(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int turn = 1;; turn++) {
		while (__atomic_load_n(&shared->go, __ATOMIC_ACQUIRE) < turn)
			usleep(500);
		for (int i = 0; i < nr_chosen; i++)
			if (chosen[i]->when == (turn == 1 ? STALL : END))
				chosen[i]->act();
		__atomic_store_n(&shared->done, turn, __ATOMIC_RELEASE);
	}
}

void let_attack(int turn)
{
	__atomic_store_n(&shared->go, turn, __ATOMIC_RELEASE);
	if (!until(is_done))
		tell("the attacker hangs");
}

void on_signal(int sig)
{
	(void)sig;
}

int a_log(void)
{
	int ends[2], log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (!wants("full-log"))
		return log;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		fail("pipe: %m");
	while (write(ends[1], "x", 1) == 1)
		;
	fcntl(ends[1], F_SETFL, 0);
	return ends[1];
}

static const char *setuid_program(void)
{
	pid_t pid;
	int status;

	if (access("/work/rooted", F_OK) && system(
		"cd /work && printf 'int pause(void); int main(void) { for (;;) pause(); }' > r.c && "
		"gcc -static -O1 -o rooted r.c && chown 0:0 rooted && chmod 4755 rooted"))
		fail("a setuid program cannot be built");
	pid = forked();
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);

		must_put(CGROUP "/user/cgroup.procs", "0");
		become_user();
		dup2(null, 1);
		dup2(null, 2);
		chdir("/work");
		execl("/work/setuid", "setuid", CGROUP, "/work/rooted", NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 1)
		tell("a program of root was saved");
	else if (!WIFEXITED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != 3))
		fail("setuid has ended with %#x", status);
	return WEXITSTATUS(status) == 3 ? "missed" : "refused";
}

static int has_no_process(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	struct stat st;
	char path[300];
	int left = 0;

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%s", entry->d_name);
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && !stat(path, &st) &&
		    st.st_uid == USER)
			left = 1;
	}
	if (dir)
		closedir(dir);
	return !left;
}

/* Returns true when the user can create the first namespace of each kind. */
static int has_no_namespace(void)
{
	static const char *const kinds[] = { "user", "pid", "mnt" };
	char path[64], old[3][32] = { };
	int status;
	pid_t pid;

	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/proc/sys/user/max_%s_namespaces", kinds[i]);
		FILE *file = fopen(path, "re");

		if (!file || !fgets(old[i], sizeof(old[i]), file))
			fail("%s: %m", path);
		fclose(file);
		must_put(path, "1");
	}
	pid = forked();
	if (!pid) {
		become_user();
		_exit(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID) ? errno : 0);
	}
	waitpid(pid, &status, 0);
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/proc/sys/user/max_%s_namespaces", kinds[i]);
		must_put(path, old[i]);
	}
	return !status;
}

static int removed(const char *path)
{
	return !rmdir(path) || errno == ENOENT;
}

static int cgroups_are_removed(void)
{
	return removed(CHILD) && removed(TREE) && removed(OTHER) && removed(CGROUP "/a") &&
	       removed(CGROUP "/b") && removed(CGROUP "/user") && removed(CGROUP);
}

int main(int argc, char **argv)
{
	const char *result, *patience = getenv("PATIENCE");
	struct image image;
	int nth;

	if (argc < 3 || argc > 35)
		return 2;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	limit *= patience ? atoi(patience) : 1;
	nth = atoi(argv[2]);
	prepare();
	if (access(IMAGE, F_OK))
		save();
	for (int i = 3; i < argc; i++) {
		attack_names[nr_chosen] = argv[i];
		chosen[nr_chosen++] = attack_named(argv[i]);
	}
	may_change = !!getenv("MAY_CHANGE");
	image = load(IMAGE);
	if (wants("setuid-program"))
		result = setuid_program();
	else if (!strcmp(argv[1], "checkpoint"))
		result = checkpoint(nth);
	else
		result = restart(&image, nth);
	put(CGROUP "/cgroup.kill", "1");
	if (!until(all_empty) || !until(has_no_process))
		tell("a process is left");
	if (!until(has_no_namespace))
		tell("a namespace is left");
	if (!until(cgroups_are_removed))
		tell("a cgroup is left: %s", strerror(errno));
	printf("%s\n", result);
	return !!shared->reached;
}
