// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `git bisect run` over crucible: a C/R bug is bad, a machine that is killed is skipped, and a
//! full disk stops the bisection, since it would skip forever.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::cli;

/// The script that git runs at each step: it runs `crucible` according to the commit's file `step`.
const STEP: &str = r#"
step=$(cat step)
echo "step: $step"
cd "$ROOT"
case $step in
good)   exec "$CRUCIBLE" -q scenario hello ;;
bug)    exec "$CRUCIBLE" -q scenario hello --break free ;;
full)   CRUCIBLE_RESULTS=$FULL exec "$CRUCIBLE" -q scenario tests/scenarios/fills ;;
killed)
	"$CRUCIBLE" -q scenario tests/scenarios/held &
	crucible=$!
	machine=
	until [ "$machine" ]; do
		for status in /proc/[0-9]*/status; do
			if grep -qs "^PPid:[[:space:]]$crucible\$" "$status" &&
			   grep -qs '^Name:[[:space:]]qemu-system' "$status"; then
				machine=$(basename "$(dirname "$status")")
			fi
		done
	done
	kill -KILL "$machine"
	wait "$crucible" ;;
esac
"#;

/// Makes a history with a commit for each step, the first of which is known to be good and the
/// last to be bad.
struct History(tempfile::TempDir);

impl History {
    fn new(steps: &[&str]) -> Self {
        let history = Self(tempfile::tempdir().expect("a directory"));
        history.git(&["init", "-q"]);
        fs::write(history.path().join("run"), STEP).expect("a script");
        for (number, step) in steps.iter().enumerate() {
            fs::write(history.path().join("step"), step).expect("a step");
            fs::write(history.path().join("number"), number.to_string()).expect("a number");
            history.git(&["add", "-A"]);
            let name = format!("{number} {step}");
            history.git(&["commit", "-q", "-m", &name]);
            history.git(&["tag", &format!("at{number}")]);
        }
        history
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn git(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new("git");
        for (name, value) in [("NAME", "crucible"), ("EMAIL", "crucible@localhost")] {
            command
                .env(format!("GIT_AUTHOR_{name}"), value)
                .env(format!("GIT_COMMITTER_{name}"), value);
        }
        let command = command.args(args).current_dir(self.path());
        command.output().expect("git")
    }

    /// Bisects with this directory on a file system that has no room. Returns git's output.
    fn bisect(&self, full: &Path) -> (Output, String) {
        let last = self.git(&["rev-list", "--count", "at0..HEAD"]);
        self.git(&["bisect", "start", &format!("at{last}"), "at0"]);
        let results = tempfile::tempdir().expect("a directory");
        let output = Command::new("git")
            .args(["bisect", "run", "sh", "./run"])
            .current_dir(self.path())
            .env("ROOT", env!("CARGO_MANIFEST_DIR"))
            .env("CRUCIBLE", cli::PROGRAM)
            .env("CRUCIBLE_RESULTS", results.path())
            .env("FULL", full)
            .output()
            .expect("git");
        let log = self.git(&["bisect", "log"]);
        (output, log)
    }
}

#[test]
fn a_bug_is_found_past_a_machine_that_is_killed() {
    common::fixture();
    let history = History::new(&["good", "good", "killed", "good", "bug", "bug"]);
    let (output, log) = history.bisect(Path::new("/nowhere"));
    assert!(output.status.success(), "{output:?}");
    let culprit = history.git(&["rev-parse", "refs/bisect/bad"]);
    assert_eq!(culprit, history.git(&["rev-parse", "at4"]), "{log}");
    let skipped = history.git(&["rev-parse", "at2"]);
    assert!(log.contains(&format!("git bisect skip {skipped}")), "{log}");
}

#[test]
fn a_full_disk_stops_it() {
    common::fixture();
    let place = tempfile::tempdir().expect("a directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs"])
        .arg(place.path())
        .status()
        .expect("mount");
    assert!(mounted.success(), "this test needs the right to mount");
    let history = History::new(&["good", "good", "full", "bug"]);
    let (output, log) = history.bisect(place.path());
    let unmounted = Command::new("umount").arg(place.path()).status();
    assert!(unmounted.expect("umount").success());
    assert!(!output.status.success(), "{output:?}");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("129"), "{output:?}");
    // The commit gets no verdict, neither now nor when the bisection is resumed.
    let commit = history.git(&["rev-parse", "at2"]);
    let said = log.lines().filter(|line| line.starts_with("git bisect "));
    assert!(said.clone().count() > 0, "{log}");
    assert!(said.clone().all(|line| !line.ends_with(&commit)), "{log}");
}
