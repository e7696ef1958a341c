// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parses `scenario.toml` into cases.
//!
//! [`KEYS`] describes every key.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::{
    event::{EventSpec, suggest},
    normalise::Rule,
};

/// A parsed scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name of its directory.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// One line for `crucible list`.
    pub summary: String,
    /// Files of `scenarios/shared` that are copied to `/work`.
    pub shared: Vec<String>,
    /// Commands that build the workload in the guest, each run by `sh -c` in `/work`.
    pub build: Vec<String>,
    /// The cases, in the order in which they run.
    pub cases: Vec<Case>,
}

/// A workload, and the event at which to stop it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name; `main` if the scenario has only one case.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// Event to stop at.
    pub at: EventSpec,
    /// Limit for each wait, in seconds.
    pub timeout: u64,
    /// Exit status that the workload must end with.
    pub status: i32,
    /// File in `/work` with the nonce, which the workload draws before the checkpoint.
    pub nonce: Option<String>,
    /// Rules for the comparison of logs.
    pub normalise: Vec<Rule>,
    /// Files in `/work` that are compared as logs, by the rules; a name may end with `*`.
    pub logs: Vec<String>,
    /// Tasks that must exist at the freeze.
    pub tasks: Vec<ExpectedTask>,
    /// True when any of several concurrent tasks may trigger the event.
    pub any_task: bool,
}

/// A task that must exist at the freeze.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ExpectedTask {
    /// Command name.
    pub comm: String,
    /// Beginning of its site: `vfork`, `freezer`, `stopped sig=19`, `exiting`.
    pub site: String,
    /// Command name of its parent; any if `None`.
    pub parent: Option<String>,
    /// Number of such tasks; at least one if `None`.
    pub count: Option<usize>,
}

/// An error in a `scenario.toml`.
#[derive(Debug, Error, PartialEq, Eq)]
pub struct ScenarioError {
    /// The file.
    pub file: PathBuf,
    /// Line and column, counted from 1.
    pub place: Option<(usize, usize)>,
    /// The error.
    pub message: String,
    /// A suggestion.
    pub help: Option<String>,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// The keys of the file or of a case; `unknown_keys` has checked that each is permitted
/// there. Keys of a case may be given at the top as defaults.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Table {
    summary: Option<String>,
    shared: Vec<String>,
    build: Vec<String>,
    case: Vec<Spanned<Self>>,
    name: Option<String>,
    argv: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    cwd: Option<String>,
    at: Option<Spanned<String>>,
    timeout: Option<u64>,
    status: Option<i32>,
    nonce: Option<String>,
    normalise: Option<Vec<Spanned<String>>>,
    logs: Option<Vec<String>>,
    tasks: Option<Vec<ExpectedTask>>,
    any_task: Option<bool>,
}

/// The names of the sites that `/proc/PID/ckpt_site` reports for a quiesced task.
const SITES: &[&str] = &[
    "freezer",
    "vfork",
    "ptrace-stop",
    "stopped",
    "exec",
    "exiting",
];

/// The table of the file in which a key is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the top of the file.
    Top,
    /// In a case.
    Case,
    /// In both; the case's value is used.
    Both,
}

/// A key of `scenario.toml`, for the parser and the reference.
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// The table in which it is permitted.
    pub place: Place,
    /// Its meaning.
    pub meaning: &'static str,
}

const fn key(name: &'static str, place: Place, meaning: &'static str) -> Key {
    Key {
        name,
        place,
        meaning,
    }
}

/// All keys of `scenario.toml`.
pub const KEYS: &[Key] = &[
    key(
        "summary",
        Place::Top,
        "one line for `crucible list`; required",
    ),
    key(
        "shared",
        Place::Top,
        "files of `../shared` (for the scenarios here: `scenarios/shared`) that are copied to `/work`",
    ),
    key(
        "build",
        Place::Top,
        "commands, each run by `sh -ec` in `/work` before the first run",
    ),
    key(
        "case",
        Place::Top,
        "a workload and an event (`[[case]]`); without any, there is one case, `main`",
    ),
    key("name", Place::Case, "name of the case; required"),
    key("argv", Place::Both, "program and arguments; required"),
    key(
        "at",
        Place::Both,
        "the [event](events.md) at which to stop; required",
    ),
    key(
        "env",
        Place::Both,
        "added to `PATH`, `HOME`, `LANG`, `TMPDIR` and `SLOWNESS` (how much slower this guest is: 1, or 6 with the debug kernel); nothing else is in the environment",
    ),
    key("cwd", Place::Both, "working directory; default `/work`"),
    key(
        "timeout",
        Place::Both,
        "limit for each wait, in seconds; default 120",
    ),
    key(
        "status",
        Place::Both,
        "exit status that the workload must end with; default 0",
    ),
    key(
        "nonce",
        Place::Both,
        "file in `/work` that contains the nonce, on a line of its own",
    ),
    key(
        "logs",
        Place::Both,
        "files in `/work` that are compared as logs of strace, one per task; a name may end with `*`",
    ),
    key(
        "normalise",
        Place::Both,
        "[rules](rules.md) for the comparison of logs",
    ),
    key(
        "tasks",
        Place::Both,
        "tasks that must exist at the freeze: `{ comm, site, parent, count }`. `site` is compared by its beginning: `vfork`, `freezer`, `stopped sig=19`, `exiting`. Without `count`, one task is enough",
    ),
    key(
        "any-task",
        Place::Both,
        "which of several tasks triggers the event may differ from run to run, if they race to it; by default, the task of the restarted run must be that of the control, and the expected result names it",
    ),
];

/// Returns the names of the keys that are permitted at the top, or in a case.
fn permitted(place: Place) -> impl Iterator<Item = &'static str> {
    let known = move |key: &&Key| key.place == place || key.place == Place::Both;
    KEYS.iter().filter(known).map(|key| key.name)
}

#[cfg(test)]
impl Case {
    /// Returns a case with default values, without a workload.
    pub(crate) fn example() -> Self {
        Self {
            name: "main".into(),
            argv: Vec::new(),
            env: BTreeMap::new(),
            cwd: "/work".into(),
            at: EventSpec::next(crucible_protocol::EventKind::All),
            timeout: 1,
            status: 0,
            nonce: None,
            normalise: Vec::new(),
            logs: Vec::new(),
            tasks: Vec::new(),
            any_task: false,
        }
    }
}

impl Case {
    /// Returns true when a file in `/work` is one of [`Self::logs`].
    pub fn is_log(&self, path: &str) -> bool {
        self.logs.iter().any(|log| match log.strip_suffix('*') {
            Some(begin) => path.starts_with(begin),
            None => path == log,
        })
    }
}

impl Scenario {
    /// Reads and parses `DIR/scenario.toml`.
    pub fn load(dir: &Path) -> Result<Self, ScenarioError> {
        let file = dir.join("scenario.toml");
        let text = fs::read_to_string(&file).map_err(|e| ScenarioError {
            file: file.clone(),
            place: None,
            message: format!("cannot read it: {e}"),
            help: None,
        })?;
        // "." and ".." have no last component that names the directory.
        let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        // A directory in the guest has the same name, and keys and file names contain it.
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(ScenarioError {
                file,
                place: None,
                message: format!(
                    "the name of its directory, {name:?}, is not valid for a scenario"
                ),
                help: Some("letters, digits, `-` and `_` only: rename the directory".into()),
            });
        }
        parse(&name, dir, &file, &text)
    }

    /// Lists the names of the scenarios in a directory, sorted.
    pub fn names(root: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if entry.path().join("scenario.toml").is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads the workload's sources: all files except the description and the expected
    /// results.
    pub fn sources(&self) -> io::Result<Vec<Source>> {
        let mut sources = Vec::new();
        collect(&self.dir, "", &mut sources)?;
        for name in &self.shared {
            let path = self.dir.join("../shared").join(name);
            let content = fs::read(&path)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
            sources.push(Source {
                path: name.clone(),
                mode: 0o644,
                content,
            });
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(sources)
    }
}

/// A source file of the workload.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Path relative to the scenario's directory, and to `/work` in the guest.
    pub path: String,
    /// Mode bits.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

fn collect(dir: &Path, prefix: &str, to: &mut Vec<Source>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if prefix.is_empty() && ["scenario.toml", "snapshots"].contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{path}/"), to)?;
        } else {
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            to.push(Source {
                path,
                mode: if executable { 0o755 } else { 0o644 },
                content: fs::read(entry.path())?,
            });
        }
    }
    Ok(())
}

fn parse(name: &str, dir: &Path, file: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let at = |span: Option<Range<usize>>, message: String, help: Option<String>| ScenarioError {
        file: file.to_owned(),
        place: span.map(|span| place(text, span.start)),
        message,
        help,
    };
    unknown_keys(text, &at)?;
    let mut top: Table =
        toml::from_str(text).map_err(|e| at(e.span(), in_terms_of_toml(e.message()), None))?;
    let mut cases: Vec<Case> = Vec::new();
    for table in std::mem::take(&mut top.case) {
        let span = Some(table.span());
        let mut table = table.into_inner();
        let Some(name) = table.name.take() else {
            return Err(at(span, "this case has no `name`".into(), None));
        };
        if cases.iter().any(|case| case.name == name) {
            return Err(at(
                span,
                format!("there are two cases named `{name}`"),
                None,
            ));
        }
        cases.push(case(name, span, table, &top, &at)?);
    }
    if cases.is_empty() {
        cases.push(case("main".into(), None, Table::default(), &top, &at)?);
    }
    let Some(summary) = top.summary else {
        let help = "add one line that describes the scenario".to_owned();
        return Err(at(None, "there is no `summary`".into(), Some(help)));
    };
    Ok(Scenario {
        name: name.to_owned(),
        dir: dir.to_owned(),
        summary,
        shared: top.shared,
        build: top.build,
        cases,
    })
}

/// Replaces the names of Rust's types in a deserializer's message by those of TOML.
fn in_terms_of_toml(message: &str) -> String {
    let message = message.trim_end();
    // The value itself may contain any text.
    let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    else {
        return message.to_owned();
    };
    let found = match found {
        "sequence" => "an array",
        "map" => "a table",
        other => other,
    };
    let between = |least: i64, most: i64| format!("an integer from {least} to {most}");
    let expected = match expected {
        "u8" => between(0, u8::MAX.into()),
        "u16" => between(0, u16::MAX.into()),
        "u32" => between(0, u32::MAX.into()),
        "i8" => between(i8::MIN.into(), i8::MAX.into()),
        "i16" => between(i16::MIN.into(), i16::MAX.into()),
        "i32" => between(i32::MIN.into(), i32::MAX.into()),
        "u64" | "usize" => "an integer that is not negative".into(),
        "i64" | "isize" => "an integer".into(),
        "a sequence" => "an array".into(),
        "a map" => "a table".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other => other.to_owned(),
    };
    format!("{expected} is expected here, not {found}")
}

type Fail<'a> = dyn Fn(Option<Range<usize>>, String, Option<String>) -> ScenarioError + 'a;

/// Reports unknown keys, which serde cannot report for flattened tables.
fn unknown_keys(text: &str, at: &Fail<'_>) -> Result<(), ScenarioError> {
    let Ok(table) = toml::de::DeTable::parse(text) else {
        return Ok(());
    };
    let check = |table: &toml::de::DeTable<'_>, place: Place| {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            let known = || permitted(place);
            if !known().any(|k| k == name) {
                let help = match suggest(name, known()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known keys are {}", known().collect::<Vec<_>>().join(", ")),
                };
                return Err(at(
                    Some(key.span()),
                    format!("unknown key `{name}`"),
                    Some(help),
                ));
            }
        }
        Ok(())
    };
    let table = table.get_ref();
    check(table, Place::Top)?;
    if let Some(cases) = table.get("case").and_then(|c| c.get_ref().as_array()) {
        for case in cases.iter().filter_map(|c| c.get_ref().as_table()) {
            check(case, Place::Case)?;
        }
    }
    Ok(())
}

fn case(
    name: String,
    span: Option<Range<usize>>,
    own: Table,
    top: &Table,
    fail: &Fail<'_>,
) -> Result<Case, ScenarioError> {
    let missing = |key: &str, example: &str| {
        let help = format!("add it, as in `{key} = {example}`");
        fail(
            span.clone(),
            format!("case `{name}` has no `{key}`"),
            Some(help),
        )
    };
    let argv = own
        .argv
        .or_else(|| top.argv.clone())
        .filter(|argv| !argv.is_empty())
        .ok_or_else(|| missing("argv", "[\"./hello\"]"))?;
    let at = own
        .at
        .or_else(|| top.at.clone())
        .ok_or_else(|| missing("at", "\"vfork:1\""))?;
    let event = at.get_ref().parse::<EventSpec>().map_err(|e| {
        fail(
            Some(at.span()),
            format!("`{}` is not an event", e.text),
            Some(e.reason),
        )
    })?;
    let mut rules = Vec::new();
    for rule in own
        .normalise
        .or_else(|| top.normalise.clone())
        .unwrap_or_default()
    {
        rules.push(Rule::by_name(rule.get_ref()).ok_or_else(|| {
            let names: Vec<_> = Rule::ALL.iter().map(|r| r.name()).collect();
            let help = match suggest(rule.get_ref(), names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", names.join(", ")),
            };
            let message = format!("there is no rule `{}`", rule.get_ref());
            fail(Some(rule.span()), message, Some(help))
        })?);
    }
    let mut env = default_env();
    env.extend(top.env.clone().unwrap_or_default());
    env.extend(own.env.unwrap_or_default());
    let tasks = own.tasks.or_else(|| top.tasks.clone()).unwrap_or_default();
    for task in &tasks {
        let site = task.site.split(' ').next().unwrap_or_default();
        if !SITES.contains(&site) {
            let help = match suggest(site, SITES.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("sites are {}", SITES.join(", ")),
            };
            let message = format!("case `{name}`: there is no site `{site}`");
            return Err(fail(span, message, Some(help)));
        }
    }
    Ok(Case {
        name,
        argv,
        env,
        cwd: own
            .cwd
            .or_else(|| top.cwd.clone())
            .unwrap_or_else(|| "/work".into()),
        at: event,
        timeout: own.timeout.or(top.timeout).unwrap_or(120),
        status: own.status.or(top.status).unwrap_or(0),
        nonce: own.nonce.or_else(|| top.nonce.clone()),
        normalise: rules,
        logs: own.logs.or_else(|| top.logs.clone()).unwrap_or_default(),
        tasks,
        any_task: own.any_task.or(top.any_task).unwrap_or(false),
    })
}

fn default_env() -> BTreeMap<String, String> {
    [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("TMPDIR", "/tmp"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Returns line and column of an offset, counted from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Scenario, ScenarioError> {
        parse("test", Path::new("d"), Path::new("d/scenario.toml"), text)
    }

    const GOOD: &str = "summary = \"s\"\nargv = [\"./a\"]\nat = \"vfork:2\"\n";

    #[test]
    fn the_smallest_scenario_has_one_case() {
        let scenario = read(GOOD).unwrap();
        assert_eq!(scenario.cases.len(), 1);
        assert_eq!(scenario.cases[0].name, "main");
        assert_eq!(scenario.cases[0].at.to_string(), "vfork:2");
        assert_eq!(scenario.cases[0].cwd, "/work");
    }

    #[test]
    fn a_case_overrides_the_top() {
        let text = format!(
            "{GOOD}env = {{ A = \"1\", B = \"1\" }}\n[[case]]\nname = \"x\"\nat = \"time:5ms\"\nenv = {{ B = \"2\" }}\n"
        );
        let case = &read(&text).unwrap().cases[0];
        assert_eq!(case.at.to_string(), "time:5ms");
        assert_eq!((case.env["A"].as_str(), case.env["B"].as_str()), ("1", "2"));
        assert_eq!(case.argv, ["./a"]);
    }

    #[test]
    fn a_value_of_a_wrong_type_is_named_in_terms_of_toml() {
        for (line, problem) in [
            (
                "timeout = \"5\"",
                "an integer that is not negative is expected here, not string \"5\"",
            ),
            (
                "timeout = -1",
                "an integer that is not negative is expected here, not integer `-1`",
            ),
            (
                "any-task = 1",
                "a boolean is expected here, not integer `1`",
            ),
            (
                "timeout = 1.5",
                "an integer that is not negative is expected here, not floating point `1.5`",
            ),
            // The user's own words stay.
            (
                "timeout = \"a map, expected u8\"",
                "an integer that is not negative is expected here, not string \"a map, expected u8\"",
            ),
            (
                "status = 3000000000",
                "an integer from -2147483648 to 2147483647 is expected here, not integer `3000000000`",
            ),
            ("env = [1]", "a table is expected here, not an array"),
            (
                "logs = \"x\"",
                "an array is expected here, not string \"x\"",
            ),
        ] {
            let error = read(&format!("{GOOD}{line}\n")).unwrap_err();
            let text = error.to_string();
            assert!(text.ends_with(problem), "{line}: {text}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_place_and_a_suggestion() {
        let error = read(&format!("{GOOD}tiemout = 3\n")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "d/scenario.toml:4:1: unknown key `tiemout`\n  help: did you mean `timeout`?"
        );
    }

    #[test]
    fn a_misspelt_key_of_a_case_is_named_too() {
        let error = read(&format!("{GOOD}[[case]]\nname = \"x\"\nargs = []\n")).unwrap_err();
        assert_eq!(error.place, Some((6, 1)));
    }

    #[test]
    fn a_bad_event_is_named_with_its_place() {
        let error = read("summary = \"s\"\nargv = [\"a\"]\nat = \"vfrok\"\n").unwrap_err();
        assert_eq!(error.place, Some((3, 6)));
        assert_eq!(error.help.as_deref(), Some("did you mean `vfork`?"));
    }

    #[test]
    fn what_is_missing_is_named_with_an_example() {
        let error = read("summary = \"s\"\nargv = [\"a\"]\n").unwrap_err();
        assert!(error.help.unwrap().contains("at = \"vfork:1\""));
    }

    #[test]
    fn a_wrong_type_has_a_place() {
        let error = read(&format!("{GOOD}timeout = \"long\"\n")).unwrap_err();
        assert!(error.place.is_some(), "{error}");
    }
}
