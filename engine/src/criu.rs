// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CRIU as a backend. It gets the frozen cgroup, the mounts that guest and container share,
//! and every option that extends its support.

use std::{collections::BTreeMap, time::Duration};

use crucible_protocol::{KEEP_DIR, ToolRun};

use crate::guest::{Guest, GuestError};

/// Directory of its images and logs in the guest.
pub const DIR: &str = "/scratch/keep/criu";

/// Options beyond CRIU's defaults. The mounts of a container are also mounts of the guest,
/// so CRIU can find each of them at the restore.
const ABILITIES: &str = "--manage-cgroups=ignore --external 'mnt[]' --file-locks --link-remap";

/// CRIU's action script. CRIU runs it when all tasks are restored and none has run yet:
/// it moves CRIU's own processes out of the cgroup and freezes the rest, as `restart` does.
const PRE_RESUME: &str = r#"#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0
own=$(readlink /proc/$$/ns/pid)
for pid in $(cat CGROUP/cgroup.procs); do
    # The shell that listed them is gone by now.
    [ "$(readlink /proc/$pid/ns/pid)" != "$own" ] || echo $pid > /sys/fs/cgroup/cgroup.procs || :
done
echo 1 > CGROUP/cgroup.freeze
"#;

/// Returns the path of the cgroup of a run.
fn cgroup(run: &str) -> String {
    format!("/sys/fs/cgroup/crucible/{run}")
}

/// Returns the path of a log in the guest.
pub fn log(name: &str) -> String {
    format!("{DIR}/{name}.log")
}

/// Dumps a frozen container. CRIU kills the tasks after dumping them.
pub fn dump(
    guest: &mut Guest,
    run: &str,
    root: i32,
    limit: Duration,
) -> Result<ToolRun, GuestError> {
    let cgroup = cgroup(run);
    let command = format!(
        "rm -rf {DIR} && mkdir -p {DIR} && \
         exec criu dump --tree {root} --images-dir {DIR} --log-file dump.log -v4 \
         --freeze-cgroup {cgroup} --ghost-limit 64M {ABILITIES}"
    );
    shell(guest, &command, limit)
}

/// Restores a container into its cgroup, frozen.
pub fn restore(guest: &mut Guest, run: &str, limit: Duration) -> Result<ToolRun, GuestError> {
    guest.cgroup(run)?;
    let cgroup = cgroup(run);
    let script = format!("{KEEP_DIR}/criu-pre-resume");
    let text = PRE_RESUME.replace("CGROUP", &cgroup);
    guest.write_file(&script, 0o755, text.as_bytes())?;
    let root = format!("{KEEP_DIR}/criu-root");
    let command = format!(
        "mkdir -p {root} && mount --bind / {root} && echo $$ > {cgroup}/cgroup.procs && \
         criu restore --images-dir {DIR} --log-file restore.log -v4 --root {root} \
         --restore-detached --pidfile {DIR}/pid --action-script {script} {ABILITIES}; \
         status=$?; umount {root}; exit $status"
    );
    shell(guest, &command, limit)
}

/// Reads the pid of the restored root process.
pub fn restored(guest: &mut Guest) -> Result<i32, GuestError> {
    let pid = guest.read_file(&format!("{DIR}/pid"))?;
    let pid = String::from_utf8_lossy(&pid).trim().parse();
    pid.map_err(|_| GuestError::Confused("criu's pid file"))
}

/// Returns CRIU's version, as it prints it.
pub fn version(guest: &mut Guest) -> Result<String, GuestError> {
    let run = shell(guest, "exec criu --version", Duration::from_secs(60))?;
    Ok(run.stdout.trim().replace('\n', ", "))
}

/// Returns the errors and warnings of a log. The whole log is kept as a file.
pub fn words(log: &str) -> String {
    let wrong = |line: &&str| line.contains("Error (") || line.contains("Warn  (");
    let lines: Vec<&str> = log.lines().filter(wrong).collect();
    match lines.is_empty() {
        true => log.to_owned(),
        false => lines.join("\n"),
    }
}

/// Returns the first error in a log, without its time stamp; later errors follow from it.
pub fn first_error(log: &str) -> String {
    let error = log.lines().find(|line| line.contains("Error ("));
    let text = error.and_then(|line| line.split_once(") "));
    text.map_or("", |(_, text)| text).to_owned()
}

/// Appends to each line the names of the processes whose pids are in it: logs have pids of the
/// namespace outside the container.
pub fn annotate(words: &str, tasks: &[(String, String)]) -> String {
    let about = |line: &str| -> String {
        let mut line = line.to_owned();
        let numbers: Vec<&str> = line.split(|c: char| !c.is_ascii_digit()).collect();
        let known = tasks
            .iter()
            .filter(|(pid, _)| numbers.contains(&pid.as_str()));
        let notes: Vec<String> = known
            .map(|(pid, who)| format!(" [{pid} is {who}]"))
            .collect();
        line.push_str(&notes.concat());
        line
    };
    words.lines().map(about).collect::<Vec<_>>().join("\n")
}

/// Lists the processes in a run's cgroup: the pid in the guest, and the command name followed by
/// the pid in the container.
pub fn tasks(guest: &mut Guest, run: &str) -> Result<Vec<(String, String)>, GuestError> {
    let command = format!(
        r#"for p in $(cat {}/cgroup.procs); do
            echo "$p $(sed -n 's/^NSpid:.*\t//p' /proc/$p/status) $(cat /proc/$p/comm)"
        done"#,
        cgroup(run)
    );
    let listed = shell(guest, &command, Duration::from_secs(60))?;
    let task = |line: &str| {
        let (pid, rest) = line.split_once(' ')?;
        let (inner, comm) = rest.split_once(' ')?;
        Some((pid.to_owned(), format!("{comm} ({inner})")))
    };
    Ok(listed.stdout.lines().filter_map(task).collect())
}

fn shell(guest: &mut Guest, command: &str, limit: Duration) -> Result<ToolRun, GuestError> {
    let argv = ["/bin/sh", "-c", command].map(String::from);
    guest.exec(&argv, &BTreeMap::new(), "/", limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_picked_from_a_log() {
        let log = "(00.01) Dumping\n(00.02) Error (criu/mem.c:1): No\n(00.03) Done\n";
        assert_eq!(words(log), "(00.02) Error (criu/mem.c:1): No");
    }

    #[test]
    fn a_line_says_whom_it_is_about() {
        let tasks = [("136".to_owned(), "make (3)".to_owned())];
        let words = annotate("Error (infect.c:1136): 136 found\nError: 36", &tasks);
        assert_eq!(
            words,
            "Error (infect.c:1136): 136 found [136 is make (3)]\nError: 36"
        );
    }

    #[test]
    fn a_log_without_complaints_is_shown_whole() {
        assert_eq!(words("(00.01) Dumping\n"), "(00.01) Dumping\n");
    }
}
