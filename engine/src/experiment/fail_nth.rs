// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible torture --fail-nth`: a range of allocations or copies, each of which
//! fails in turn, is a unit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use crucible_mutants::SWITCH;
use serde::{Deserialize, Serialize};

use super::{
    Done, Experiment, Finding, Group, Identity, Summary,
    adversary::exec,
    torture::{build_programs, program_sources},
};
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    leaks,
    outcome::Outcome,
    session::Session,
};

/// Time limit of the guest's program, in addition to the time limit of each call. The program's own
/// limits are shorter.
const LIMIT: Duration = Duration::from_secs(200);

/// Time limit per call on average.
const PER_CALL: Duration = Duration::from_millis(500);

/// Number of failures of a unit. A call takes milliseconds, and reading the books seconds.
const RANGE: u32 = 2000;

/// Number of times that a range is repeated between two readings of the books.
const RUNS: u32 = 8;

/// The sources of the guest's program, and of programs that torture does not have.
const SOURCES: [&str; 11] = [
    "rootfs/fail-nth/books.c",
    "rootfs/fail-nth/fail-nth.c",
    "rootfs/fail-nth/fail-nth.h",
    "rootfs/fail-nth/look.c",
    "rootfs/fail-nth/origin.c",
    "rootfs/fail-nth/traced.c",
    "rootfs/shared/harness.h",
    "guest-kernel/src/include/uapi/linux/checkpoint.h",
    "scenarios/exec-threads/execs.c",
    "scenarios/exec-threads/tracer.c",
    "scenarios/proc-files/proc-files.c",
];

/// Builds them.
const BUILD: &str = "set -e
gcc -O2 -o fail-nth fail-nth.c books.c look.c origin.c
gcc -O2 -o traced traced.c
gcc -O2 -pthread -o proc-files proc-files.c workload.c
gcc -O1 -pthread -o execs execs.c
gcc -O1 -o tracer tracer.c
printf '#include <unistd.h>
int main(void) { return execl(\"./tracer\", \"tracer\", \"exits\", \"late\", (char *)0); }
' > exec.c
gcc -O1 -o exec exec.c";

/// The directories and files of the kernel's code in which failures are injected.
const OURS: [&str; 2] = ["kernel/checkpoint", "arch/x86/kernel"];

/// The programs whose trees are saved and restarted.
pub const PROGRAMS: [&str; 7] = [
    "tree",
    "threads",
    "chain",
    "many",
    "traced",
    "exec",
    "proc-files",
];

/// The calls.
const CALLS: [&str; 2] = ["checkpoint", "restart"];

/// The kind of operation that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailKind {
    /// An allocation of an object.
    Slab,
    /// An allocation of pages.
    Page,
    /// A copy from or to user memory.
    Usercopy,
}

impl FailKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Slab, Self::Page, Self::Usercopy];

    /// Returns the name, as the guest's program has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slab => "slab",
            Self::Page => "page",
            Self::Usercopy => "usercopy",
        }
    }
}

/// The selection of failures.
#[derive(Clone, Debug)]
pub struct Which {
    /// Their kinds.
    pub kinds: Vec<FailKind>,
    /// The programs; all if empty.
    pub programs: Vec<String>,
    /// Their numbers, from 1 on; all if `None`.
    pub nth: Option<RangeInclusive<u32>>,
    /// Number of a mutant of the kernel's code, to check that its mistake is found; 0 for none.
    pub mutant: u32,
}

/// Failures in checkpoint(2) and restart(2).
pub struct FailNthExperiment {
    root: PathBuf,
    which: Which,
}

/// A range of failures of one kind in one call.
#[derive(Clone, Debug)]
pub struct Failures {
    program: &'static str,
    call: &'static str,
    kind: FailKind,
    from: u32,
    /// Last number; `None` to continue until no further operation could fail.
    to: Option<u32>,
}

impl Failures {
    fn command(&self, patience: u32, runs: u32) -> String {
        let Self {
            program,
            call,
            kind,
            from,
            to,
        } = self;
        let kind = kind.name();
        let to = to.unwrap_or(0);
        format!("PATIENCE={patience} ./fail-nth {call} {kind} {program} {from} {to} {runs}")
    }
}

/// The results of a range.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// `checkpoint` or `restart`.
    pub call: String,
    /// The kind of operation that failed.
    pub kind: String,
    /// Number of calls, including repeated ones.
    pub calls: u32,
    /// The last number for which there was an operation that could fail.
    pub last: u32,
    /// For each origin: its name, the error of the call or an empty text if it succeeded, and the
    /// number of failures.
    pub origins: Vec<(String, String, u32)>,
}

/// The outcome of a range that failed, and its results as far as they are known.
struct Wrong(Outcome, Option<Failed>);

/// The failures of one kind in one call.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sum {
    /// Number of failures.
    pub failures: u64,
    /// Number of failures by the error of the call; `harmless` when the call has succeeded
    /// nevertheless.
    pub results: BTreeMap<String, u64>,
    /// Number of origins.
    pub origins: usize,
}

/// The results of all ranges.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FailNthSummary {
    /// Number of failures.
    pub failures: u64,
    /// Number of origins.
    pub origins: usize,
    /// By call and kind.
    pub kinds: BTreeMap<String, Sum>,
}

impl Summary for FailNthSummary {}

impl FailNthExperiment {
    /// Returns the experiment of these failures. The sources of the programs and of the kernel's
    /// code are below `root`.
    pub fn new(root: &Path, which: Which) -> Self {
        Self {
            root: root.to_owned(),
            which,
        }
    }

    fn sources(&self) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
        let read = |path: &&'static str| {
            let name = path.rsplit('/').next().unwrap_or_default();
            Ok((name, fs::read(self.root.join(path))?))
        };
        SOURCES.iter().map(read).collect()
    }

    /// Returns the names of our functions.
    fn names(&self) -> io::Result<String> {
        let mut names = BTreeSet::new();
        for dir in OURS {
            for entry in fs::read_dir(self.root.join("guest-kernel/src").join(dir))? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "c") {
                    names.extend(functions(&fs::read_to_string(path)?));
                }
            }
        }
        let mut text = String::new();
        for name in names {
            text += &name;
            text.push('\n');
        }
        Ok(text)
    }

    fn ready(&self, session: &mut Session<'_>) -> Result<(), Abort> {
        let patience = session.patience();
        let (guest, new) = session.guest().map_err(Abort::session)?;
        if !new {
            return Ok(());
        }
        let before = |error| Abort::guest(Phase::Before, error);
        let unread = |e: io::Error| Abort::io("cannot read the programs' sources", &e);
        guest.prepare(None).map_err(before)?;
        build_programs(guest, &self.root, patience)?;
        let mut files = self.sources().map_err(unread)?;
        files.push(("ours", self.names().map_err(unread)?.into_bytes()));
        for (name, content) in files {
            guest
                .write_file(&format!("/work/{name}"), 0o644, &content)
                .map_err(before)?;
        }
        let (status, _, lines) = exec(guest, BUILD, LIMIT * patience).map_err(before)?;
        match status {
            Some(0) => Ok(()),
            _ => {
                let why = "the build of fail-nth failed";
                Err(Abort::new(Condition::BuildFailed, why).with(lines))
            }
        }
    }

    /// Returns the number of operations that can fail in a call.
    fn count(&self, session: &mut Session<'_>, unit: &Failures) -> Result<u32, Abort> {
        self.ready(session)?;
        let patience = session.patience();
        let Failures {
            program,
            call,
            kind,
            ..
        } = unit;
        let kind = kind.name();
        let command = format!("PATIENCE={patience} ./fail-nth {call} {kind} {program} count");
        let guest = session.running();
        guest.mark_used();
        let after = |error| Abort::guest(Phase::After, error);
        let (status, stdout, lines) = exec(guest, &command, LIMIT * patience).map_err(after)?;
        match (status, stdout.trim().parse()) {
            (Some(0), Ok(count)) => Ok(count),
            _ => {
                let why = format!("cannot count the operations that can fail: `{command}`");
                Err(Abort::failed(why).with(lines))
            }
        }
    }

    /// Injects the failures of a range. The inner error is the outcome of a range that failed.
    fn attempt(
        &self,
        session: &mut Session<'_>,
        unit: &Failures,
        runs: u32,
    ) -> Result<Result<Failed, Wrong>, Abort> {
        self.ready(session)?;
        let patience = session.patience();
        let after = |error| Abort::guest(Phase::After, error);
        let guest = session.running();
        guest.mark_used();
        let mut command = unit.command(patience, runs);
        if self.which.mutant != 0 {
            let mutant = self.which.mutant;
            command = format!("echo {mutant} > {SWITCH} && {command}");
        }
        let limit = (LIMIT + PER_CALL * RANGE * (1 + runs)) * patience;
        let (status, stdout, mut lines) = exec(guest, &command, limit).map_err(after)?;
        guest.settle().map_err(after)?;
        let failed = serde_json::from_str(stdout.trim()).map(|failed| Failed {
            call: unit.call.to_owned(),
            kind: unit.kind.name().to_owned(),
            ..failed
        });
        if status == Some(0) {
            let report = |_| Abort::failed(format!("fail-nth printed no report: {stdout}"));
            return failed.map(Ok).map_err(report);
        }
        let first = lines.first().cloned();
        let (condition, why) = match (status, first) {
            (Some(1), Some(first)) => (Condition::Diverged, first),
            (_, first) => (
                Condition::RequestFailed,
                first.unwrap_or_else(|| "fail-nth failed without a message".into()),
            ),
        };
        lines.push(format!("in the guest: {command}"));
        let outcome = Outcome {
            lines,
            ..Outcome::new(condition, why)
        };
        Ok(Err(Wrong(outcome, failed.ok())))
    }

    fn unit(
        &self,
        session: &mut Session<'_>,
        unit: &Failures,
    ) -> Result<(Outcome, Option<Failed>), Abort> {
        // KASAN keeps freed objects, which are then in the books; its flavour has kmemleak.
        let scans = session.setup().lab.finds_leaks();
        let failed = match self.attempt(session, unit, if scans { 0 } else { RUNS })? {
            Ok(failed) => failed,
            Err(Wrong(outcome, failed)) => return Ok((outcome, failed)),
        };
        if scans {
            let patience = session.patience();
            leaks::scan(session.running(), patience)?;
        }
        let failures: u32 = failed.origins.iter().map(|(_, _, count)| count).sum();
        Ok((
            Outcome::passed(format!("{failures} failures")),
            Some(failed),
        ))
    }
}

/// Returns the names of the functions that a source defines, as the kernel's call traces have them.
fn functions(source: &str) -> Vec<String> {
    let lines = source
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    lines
        .filter(|line| !line.ends_with(';') && !line.contains('='))
        .filter_map(|line| line.split_once('('))
        .flat_map(|(before, after)| {
            if before.starts_with("SYSCALL_DEFINE") {
                let name = after.split(',').next().unwrap_or_default();
                // One of them is inlined into the other.
                return vec![format!("__do_sys_{name}"), format!("__x64_sys_{name}")];
            }
            let name = before.rsplit([' ', '*']).next().unwrap_or_default();
            vec![name.to_owned()]
        })
        .filter(|name| !name.is_empty())
        .collect()
}

impl Experiment for FailNthExperiment {
    type Unit = Failures;
    type Detail = Failed;
    type Summary = FailNthSummary;

    fn key(&self, unit: &Failures) -> String {
        let kind = unit.kind.name();
        format!("{}/{}/{kind}/{:05}", unit.program, unit.call, unit.from)
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        for (name, content) in program_sources(&self.root)? {
            identity.add(&name, content);
        }
        for (name, content) in self.sources()? {
            identity.add(name, content);
        }
        identity.add("which", format!("{:?}", self.which));
        Ok(())
    }

    fn plan(&mut self, session: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let mut groups = Vec::new();
        let Which {
            kinds,
            programs,
            nth,
            mutant: _,
        } = &self.which;
        let wanted = |name: &&str| programs.is_empty() || programs.iter().any(|one| one == name);
        for program in PROGRAMS.into_iter().filter(wanted) {
            for call in CALLS {
                for &kind in kinds {
                    let mut unit = Failures {
                        program,
                        call,
                        kind,
                        from: 1,
                        to: None,
                    };
                    let count = self.count(session, &unit)?;
                    let (first, last) = match nth {
                        Some(nth) => (*nth.start(), (*nth.end()).min(count)),
                        None => (1, count),
                    };
                    for from in (first..=last).step_by(RANGE as usize) {
                        let to = from + RANGE - 1;
                        unit.from = from;
                        // The number of allocations differs a little from call to call.
                        let open = nth.is_none() && to >= count;
                        unit.to = (!open).then_some(to.min(last));
                        groups.push(vec![unit.clone()]);
                    }
                }
            }
        }
        if groups.is_empty() {
            let why = "no call has that many allocations or copies that could fail";
            return Err(Abort::missed(why));
        }
        Ok(groups)
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[Failures],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        for unit in units {
            let (outcome, failed) = self.unit(session, unit)?;
            // The next failure gets a new guest: it must not be blamed for leftovers of this one.
            if !outcome.is_pass() {
                session.abandon();
            }
            done(unit, outcome, failed)?;
        }
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<Failed>]) -> FailNthSummary {
        let mut summary = FailNthSummary::default();
        let mut all = BTreeSet::new();
        let mut origins: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for detail in findings.iter().filter_map(|one| one.detail.as_ref()) {
            let name = format!("{} {}", detail.call, detail.kind);
            for (origin, error, count) in &detail.origins {
                let sum = summary.kinds.entry(name.clone()).or_default();
                let result = match error.as_str() {
                    "" => "harmless",
                    error => error,
                };
                let count = u64::from(*count);
                sum.failures += count;
                summary.failures += count;
                *sum.results.entry(result.to_owned()).or_default() += count;
                origins.entry(name.clone()).or_default().insert(origin);
                all.insert(origin);
            }
        }
        for (name, all) in origins {
            summary.kinds.entry(name).or_default().origins = all.len();
        }
        summary.origins = all.len();
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_their_definitions() {
        let source = "\
int declared(int a);
static const int table[] = { f(1) };
static int defined(struct a *b)
{
	called();
}
void *with_star(int a,
		int b)
SYSCALL_DEFINE4(restart, int, cgroup_fd, int, fd, unsigned long, flags,
		int, logfd)
late_initcall(init);
";
        assert_eq!(
            functions(source),
            [
                "defined",
                "with_star",
                "__do_sys_restart",
                "__x64_sys_restart"
            ]
        );
    }

    #[test]
    fn failures_are_summed_by_call_and_kind() {
        let experiment = FailNthExperiment::new(
            Path::new("/"),
            Which {
                kinds: FailKind::ALL.to_vec(),
                programs: Vec::new(),
                nth: None,
                mutant: 0,
            },
        );
        let failed = |call: &str, origin: &str, error: &str, count| Finding {
            key: String::new(),
            outcome: Outcome::passed(String::new()),
            ms: 0,
            detail: Some(Failed {
                call: call.to_owned(),
                kind: "slab".to_owned(),
                origins: vec![(origin.to_owned(), error.to_owned(), count)],
                ..Failed::default()
            }),
        };
        let summary = experiment.summarise(&[
            failed("restart", "a", "ENOMEM", 3),
            failed("restart", "a", "", 1),
            failed("checkpoint", "b", "ENOMEM", 2),
        ]);
        assert_eq!((summary.failures, summary.origins), (6, 2));
        let restart = &summary.kinds["restart slab"];
        assert_eq!((restart.failures, restart.origins), (4, 1));
        assert_eq!(
            restart.results,
            BTreeMap::from([("ENOMEM".to_owned(), 3), ("harmless".to_owned(), 1)])
        );
    }
}
