// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checks the pages against the repository: links resolve, the files and functions that the pages
//! name exist, and crucible accepts the commands.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::cli;
use walkdir::WalkDir;

use crucible_artefacts::{Cache, Silent, Sources, host, kernel};

/// The checkout.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The pages at the top of the checkout.
const PAGES: [&str; 5] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "MAINTAINERS",
    "CHANGELOG.md",
];

/// A page: its path from the checkout, and its text.
struct Page {
    name: String,
    text: String,
}

fn pages() -> Vec<Page> {
    let docs = WalkDir::new(Path::new(ROOT).join("docs"))
        .into_iter()
        .map(|entry| entry.expect("an entry").into_path());
    let mut names: Vec<_> = docs
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .map(|path| {
            path.strip_prefix(ROOT)
                .expect("a page")
                .display()
                .to_string()
        })
        .chain(PAGES.map(str::to_owned))
        .collect();
    names.sort();
    let read = |name: String| Page {
        text: fs::read_to_string(Path::new(ROOT).join(&name)).expect("a page"),
        name,
    };
    names.into_iter().map(read).collect()
}

/// Returns the parts of a text between `open` and `close` on one line.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().flat_map(move |line| {
        line.split(open)
            .skip(1)
            .filter_map(move |rest| rest.split_once(close).map(|(part, _)| part))
    })
}

/// Returns a text without its fenced blocks.
fn unfenced(text: &str) -> String {
    text.split("\n```").step_by(2).collect()
}

/// Returns the code spans of a page: the text in single backquotes.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns the anchor that a renderer gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>()
        .trim()
        .to_lowercase()
        .replace(' ', "-")
}

fn has_anchor(page: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(page).unwrap_or_default();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#')))
        .any(|anchor| anchor == wanted)
}

#[test]
fn links_resolve() {
    let mut dead = Vec::new();
    for Page { name, text } in pages() {
        let here = Path::new(ROOT).join(&name);
        for link in between(&unfenced(&text), "](", ")") {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => here.clone(),
                path => here.parent().expect("a directory").join(path),
            };
            if !target.exists() || !(anchor.is_empty() || has_anchor(&target, anchor)) {
                dead.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// Returns true for a code span that names a file or a directory of the checkout.
fn is_path(span: &str) -> bool {
    const TOPS: [&str; 10] = [
        "src/",
        "engine/",
        "artefacts/",
        "vmm/",
        "protocol/",
        "guest-kernel/",
        "rootfs/",
        "scenarios/",
        "tests/",
        "docs/",
    ];
    TOPS.iter().any(|top| span.starts_with(top))
        && span
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        // `NAME` is a placeholder.
        && !span.contains("NAME")
}

#[test]
fn named_files_exist() {
    let mut missing = Vec::new();
    for Page { name, text } in pages() {
        for span in spans(&unfenced(&text)).filter(|span| is_path(span)) {
            if !Path::new(ROOT).join(span).exists() {
                missing.push(format!("{name}: {span}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn named_tests_exist() {
    let (mut checked, mut missing) = (0, Vec::new());
    for Page { name, text } in pages() {
        for span in spans(&text) {
            // `path/file.rs::name_of_the_test`
            let Some((path, test)) = span.split_once(".rs::") else {
                continue;
            };
            let source = Path::new(ROOT).join(format!("{path}.rs"));
            let source = fs::read_to_string(source).unwrap_or_default();
            let lines = Vec::from_iter(source.lines().map(str::trim));
            let is_test =
                |pair: &[&str]| pair[0] == "#[test]" && pair[1] == format!("fn {test}() {{");
            checked += 1;
            if !lines.windows(2).any(is_test) {
                missing.push(format!("{name}: {span}"));
            }
        }
    }
    assert!(checked > 20, "{checked}");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Returns the functions that the pages name, such as `name()`, with the page.
fn functions() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for Page { name, text } in pages() {
        for span in spans(&text) {
            let Some(function) = span.strip_suffix("()") else {
                continue;
            };
            let function = function.rsplit("::").next().unwrap_or(function);
            if function
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                found.insert((function.to_owned(), name.clone()));
            }
        }
    }
    found
}

/// Returns the directory of the pinned kernel's source.
fn linux_source() -> PathBuf {
    host::ensure(true, &Silent).expect("host packages");
    let cache = Cache::from_env().expect("a cache");
    let sources = Sources::find().expect("a checkout");
    kernel::source(&cache, &sources, &Silent).expect("the kernel's source")
}

/// Returns the words of `wanted` that occur in files below `directory` with these extensions.
fn words_in(directory: &Path, wanted: &Path, endings: &[&str]) -> BTreeSet<String> {
    let includes = endings.iter().map(|ending| format!("--include=*.{ending}"));
    let output = Command::new("grep")
        .args(["-rhowF", "-f"])
        .arg(wanted)
        .args(includes)
        .args(["--exclude-dir=target", "--exclude-dir=results"])
        .arg(directory)
        .stderr(Stdio::inherit())
        .output()
        .expect("grep");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn named_functions_exist() {
    let functions = functions();
    assert!(functions.len() > 50, "{}", functions.len());
    let directory = tempfile::tempdir().expect("a directory");
    let wanted = directory.path().join("wanted");
    let names: BTreeSet<_> = functions.iter().map(|(name, _)| name.as_str()).collect();
    fs::write(&wanted, Vec::from_iter(names).join("\n")).expect("a list");
    let mut known = words_in(Path::new(ROOT), &wanted, &["c", "h", "rs", "patch", "S"]);
    let linux: PathBuf = linux_source();
    for part in [
        "kernel",
        "fs",
        "mm",
        "net",
        "ipc",
        "lib",
        "include",
        "arch/x86",
        "drivers/tty",
        "block",
        "security",
    ] {
        known.extend(words_in(&linux.join(part), &wanted, &["c", "h", "S"]));
    }
    let stale: Vec<_> = functions
        .iter()
        .filter(|(name, _)| !known.contains(name))
        .collect();
    assert!(stale.is_empty(), "{stale:#?}");
}

/// Returns the words of a command line after `crucible`, or `None` for a line that does not run
/// crucible.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.trim_start_matches("$ ").trim();
    let line = line.split(" #").next().unwrap_or(line);
    let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    let ours = match words.first()?.as_str() {
        "cargo" if words.get(1)? == "run" => words.iter().position(|word| word == "--")? + 1,
        "crucible" => 1,
        program if program.ends_with("/crucible") => 1,
        _ => return None,
    };
    Some(words[ours..].to_vec())
}

/// Returns true for a placeholder, or a word that a shell would expand.
fn is_placeholder(word: &str) -> bool {
    word.contains(['[', ']', '…', '|', '$', '"', '\'', '\\', '<', '>'])
        || word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

#[test]
fn commands_are_accepted() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for Page { name, text } in pages() {
        let code = text.lines().filter(|line| line.starts_with("    "));
        for line in code.filter(|line| !line.starts_with("    crucible: ")) {
            let Some(words) = arguments(line.trim()) else {
                continue;
            };
            if words.is_empty() || words.iter().any(|word| is_placeholder(word)) {
                continue;
            }
            // `--help` makes clap parse the whole line, then print the help instead of running the
            // command. `nested` passes all arguments after its own options on, so its line is cut
            // there, and that of `exec` at the command that it would run.
            let dashes = words.iter().position(|word| word == "--");
            let words = match (words.first().map(String::as_str), dashes) {
                (Some("exec"), Some(dashes)) => words[..dashes].to_vec(),
                _ => words,
            };
            let words = match words.iter().position(|word| word == "nested") {
                Some(at) => match words.iter().position(|word| word == "--") {
                    Some(dashes) => &words[dashes + 1..],
                    None => &words[at + 1..],
                },
                None => &words[..],
            };
            let output = cli::program(&[])
                .args(words)
                .arg("--help")
                .output()
                .expect("crucible");
            checked += 1;
            if !output.status.success() {
                let stderr = String::from_utf8_lossy(&output.stderr);
                wrong.push(format!("{name}: {}: {stderr}", line.trim()));
            }
        }
    }
    assert!(checked > 15, "{checked}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns the texts between `open` and `close` on those lines of a kernel file that contain
/// `mark`.
fn listed<'a>(text: &'a str, mark: &str, open: &str, close: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.contains(mark))
        .filter_map(|line| line.split_once(open)?.1.split_once(close))
        .map(|(part, _)| part)
        .collect()
}

#[test]
fn flags_events_and_sites_of_the_kernel_are_documented() {
    let read = |path: &str| fs::read_to_string(Path::new(ROOT).join(path)).expect(path);
    let uapi = read("guest-kernel/src/include/uapi/linux/checkpoint.h");
    let flags = ["#define CHECKPOINT_", "#define RESTART_"]
        .iter()
        .flat_map(|mark| listed(&uapi, mark, "#define ", "\t"))
        .collect::<Vec<_>>();
    let trigger = read("guest-kernel/src/kernel/checkpoint/trigger.c");
    let events = listed(&trigger, "[CKPT_EVENT_", "\"", "\"");
    let proc = read("guest-kernel/src/kernel/checkpoint/proc.c");
    let sites = listed(&proc, "(m, \"", "(m, \"", "\\n");
    assert!(flags.len() >= 4 && events.len() >= 9 && sites.len() >= 7);
    let page = read("docs/reference/system-calls.md");
    let missing: Vec<_> = [flags, events, sites]
        .concat()
        .into_iter()
        // A site's name is its first word.
        .map(|name| name.split(' ').next().unwrap_or(name))
        .filter(|name| !page.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_names_every_command() {
    let help = cli::run(&["--help"]).stdout;
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("README.md");
    let commands = help
        .split("Commands:\n")
        .nth(1)
        .expect("a list of commands")
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help");
    let missing: Vec<_> = commands
        .filter(|name| !readme.contains(&format!("`crucible {name}")))
        .collect();
    assert!(missing.is_empty(), "not in README.md: {missing:?}");
}

/// Runs crucible's generator of the reference's pages.
fn generate(into: &Path) {
    let output = cli::program(&["completions", "--reference"])
        .arg(into)
        .output()
        .expect("crucible");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn generated_pages_are_current() {
    let reference = Path::new(ROOT).join("docs/reference");
    if std::env::var_os("CRUCIBLE_UPDATE").is_some() {
        generate(&reference);
    }
    let directory = tempfile::tempdir().expect("a directory");
    generate(directory.path());
    let mut compared = 0;
    for entry in fs::read_dir(directory.path()).expect("pages") {
        let entry = entry.expect("an entry");
        let wanted = fs::read_to_string(entry.path()).expect("a page");
        let page = reference.join(entry.file_name());
        let current = fs::read_to_string(&page).unwrap_or_default();
        let differs = wanted.lines().zip(current.lines()).find(|(a, b)| a != b);
        assert!(
            wanted == current,
            "{} is not current ({differs:?}): run `CRUCIBLE_UPDATE=1 cargo test --test docs`",
            page.display()
        );
        compared += 1;
    }
    assert_eq!(compared, 10);
}

#[test]
fn the_summary_lists_every_page() {
    let docs = Path::new(ROOT).join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("SUMMARY.md");
    let listed: BTreeSet<_> = between(&summary, "](", ")").map(str::to_owned).collect();
    let names = pages().into_iter().filter_map(|page| {
        let name = page.name.strip_prefix("docs/")?.to_owned();
        // The page of measurements lists its own.
        let measured = name.starts_with("measurements/") && name != "measurements/README.md";
        (name != "SUMMARY.md" && !measured).then_some(name)
    });
    assert_eq!(listed, names.collect());
    let measurements = fs::read_to_string(docs.join("measurements/README.md")).expect("a page");
    for Page { name, .. } in pages() {
        if let Some(file) = name.strip_prefix("docs/measurements/") {
            assert!(
                file == "README.md" || measurements.contains(&format!("({file})")),
                "{file} is not in docs/measurements/README.md"
            );
        }
    }
}

#[test]
fn the_book_builds() {
    let output = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--locked",
            "--manifest-path",
            "tools/book/Cargo.toml",
        ])
        .args(["--target-dir", "target/tools"])
        .current_dir(ROOT)
        .output()
        .expect("cargo");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("WARN"), "{text}");
    let page = Path::new(ROOT).join("target/book/reference/supported.html");
    assert!(page.is_file(), "{}", page.display());
}
