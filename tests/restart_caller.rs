// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The influence of the caller of restart(2) on the tree: the tree inherits no attributes that the
//! caller has set for itself, and keeps all restrictions that the caller could not lift.

mod common;

use common::scripts::{assert_lines, run_script};

const ASKED: &str = include_str!("restart_caller/asked.c");
const ODD: &str = include_str!("restart_caller/odd.c");

/// restart(2) creates the tasks as children of its caller, and children inherit attributes.
#[test]
fn a_tree_does_not_inherit_from_the_caller() {
    let output = run_script(&format!(
        r#"
cat > asked.c <<'END'
{ASKED}END
cat > odd.c <<'END'
{ODD}END
gcc -O1 -Wall -Werror -o asked asked.c && gcc -O1 -Wall -Werror -o odd odd.c || die gcc
begin ./asked
until [ -s before ]; do kill -0 $root || die "asked has ended: $(cat out)"; done
freeze
save
end
./odd image log || cat log
touch go
until ! kill -0 $root 2> /dev/null; do :; done
wc -l < before
diff before after && echo the same
cat out
"#
    ));
    assert_lines(&output, &["saved", "restarted", "26", "the same"]);
}

/// If the caller has a restriction that no process can lift, a tree that it restarts has it too.
#[test]
fn irrevocable_restrictions_of_the_caller_stay_in_force() {
    let output = run_script(&format!(
        r#"
cat > asked.c <<'END'
{ASKED}END
cat > bound.c <<'END'
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{{
	/* PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN */
	if (argc < 2 || prctl(65, 1, 0, 0, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return 1;
	execvp(argv[1], argv + 1);
	return 1;
}}
END
gcc -O1 -Wall -Werror -o asked asked.c && gcc -o bound bound.c || die gcc
begin ./asked
until [ -s before ]; do kill -0 $root || die "asked has ended: $(cat out)"; done
freeze
save
end
./bound $tools/restart --pids --no-wait -i image -l log > /dev/null || cat log
touch go
until ! kill -0 $root 2> /dev/null; do :; done
diff before after | grep '^[<>]'
"#
    ));
    assert_lines(
        &output,
        &[
            "saved",
            "< no gain of execution: 0",
            "> no gain of execution: 1",
            "< no new privileges: 0",
            "> no new privileges: 1",
        ],
    );
}

/// Orphans are reparented to the nearest ancestor that is a child subreaper, which the caller of
/// restart(2) may be.
#[test]
fn orphans_of_a_restarted_tree_go_to_a_subreaper_caller() {
    let output = run_script(
        r#"
cat > reaper.c <<'END'
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 2 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		return 1;
	execvp(argv[1], argv + 1);
	return 1;
}
END
gcc -o reaper reaper.c || die gcc
begin sh -c 'sh -c "sleep 1000 & echo \$! > orphan; exec sleep 900" & echo $! > parent; exec sleep 1000'
until [ -s orphan ] && [ -s parent ]; do :; done
orphan=$(cat orphan) parent=$(cat parent)
at_rest sleep $orphan
at_rest sleep $parent
at_rest sleep
freeze
save
end
./reaper $tools/restart --pids -i image -l log > /dev/null &
reaper=$!
until [ -e /proc/$orphan ]; do kill -0 $reaper || die "restart has ended: $(cat log)"; done
kill -9 $parent
until adopter=$(sed -n 's/^PPid:.//p' /proc/$orphan/status) && [ $adopter != $parent ]; do :; done
[ $adopter = $reaper ] && echo adopted || echo lost to $adopter
kill $orphan $root
wait
"#,
    );
    assert_lines(&output, &["saved", "adopted"]);
}

/// The remaining time of a CLOCK_TAI sleep is preserved, although the clocks are set in between.
#[test]
fn a_sleep_continues_on_its_own_clock() {
    let output = run_script(
        r#"
cat > tai.c <<'END'
#include <signal.h>
#include <stdio.h>
#include <time.h>

static void on_signal(int sig)
{
	(void)sig;
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct timespec time = { .tv_sec = 1000 };

	sigaction(SIGUSR1, &action, NULL);
	if (clock_nanosleep(CLOCK_TAI, 0, &time, &time))
		printf("%s\n", time.tv_sec > 500 && time.tv_sec < 1000 ? "goes on" : "moved");
	else
		puts("ended early");
	return 0;
}
END
gcc -o tai tai.c || die gcc
begin ./tai
at_rest tai
freeze
save
end
date -s @$(($(date +%s) + 3600)) > /dev/null
$tools/restart --pids --no-wait -i image -l log > /dev/null || cat log
until [ -s out ]; do kill -USR1 $root 2> /dev/null; done
cat out
"#,
    );
    assert_lines(&output, &["saved", "goes on"]);
}

/// A process that changes to a user with more processes than RLIMIT_NPROC permits must fail in its
/// next execve(2), as after setuid(2). A caller that may raise the limit, and lower it again
/// afterwards, is not bound by it.
#[test]
fn a_restart_respects_the_limit_of_processes() {
    let output = run_script(
        r#"
cat > limited.c <<'END'
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rlimit limit = { 1, 1 };

	if (argc != 2 || setrlimit(RLIMIT_NPROC, &limit))
		return 1;
	while (access("go", F_OK))
		usleep(1000);
	execlp("echo", "echo", "executed", NULL);
	perror("exec");
	return 1;
}
END
gcc -o limited limited.c || die gcc
user="setpriv --reuid 1000 --regid 1000 --clear-groups"
# more than one of the user's
$user sleep 1000 &
$user sleep 1000 &
# try [OPTION]...: options of the tree and of the caller of restart
try() {
	rm -f go
	begin setpriv "$@" $user ./limited 1
	at_rest limited
	freeze
	save
	end
	setpriv "$@" $tools/restart --pids --no-wait -i image -l log > /dev/null || cat log
	touch go
	until ! kill -0 $root 2> /dev/null; do :; done
	cat out
}
try
try --bounding-set -sys_resource --inh-caps -sys_resource
kill %1 %2
"#,
    );
    assert_lines(
        &output,
        &[
            "saved",
            "executed",
            "saved",
            "exec: Resource temporarily unavailable",
        ],
    );
}
