// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs `gcov` on the compiler's notes and the kernel's counters.

use std::{collections::HashMap, fs, path::Path, process::Command};

use serde::Deserialize;

use super::CoverageError;

/// Execution count of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Sum over all functions that the line was compiled into.
    pub count: u64,
    /// True when no function executed all blocks of the line.
    pub partly: bool,
}

/// Counts of a file, by line number.
pub type Lines = HashMap<usize, Line>;

#[derive(Deserialize)]
struct Report {
    files: Vec<FileReport>,
}

#[derive(Deserialize)]
struct FileReport {
    file: String,
    lines: Vec<LineReport>,
}

#[derive(Deserialize)]
struct LineReport {
    line_number: usize,
    count: u64,
    unexecuted_block: bool,
}

/// Runs gcov for the source `name`, a path in the kernel's tree, with the notes in
/// `counted` and the counters `counts`.
pub fn lines(counted: &Path, name: &str, counts: &[u8]) -> Result<Lines, CoverageError> {
    let all = all(counted, &[(name.to_owned(), counts)])?;
    Ok(all.into_iter().next().unwrap_or_default())
}

/// Runs gcov for several sources at once, and returns their lines in the same order.
pub fn all(counted: &Path, sources: &[(String, &[u8])]) -> Result<Vec<Lines>, CoverageError> {
    let names = || {
        let names: Vec<_> = sources.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    };
    let io = |source| CoverageError::Io {
        path: names(),
        source,
    };
    let directory = tempfile::tempdir().map_err(io)?;
    let mut command = Command::new("gcov");
    command
        .args(["--json-format", "--stdout", "--branch-probabilities"])
        .current_dir(directory.path());
    for (number, (name, counts)) in sources.iter().enumerate() {
        let at = directory.path().join(number.to_string());
        let notes = counted.join(name).with_extension("gcno");
        fs::copy(&notes, at.with_extension("gcno")).map_err(io)?;
        let counters = at.with_extension("gcda");
        fs::write(&counters, counts).map_err(io)?;
        command.arg(counters);
    }
    let output = command.output().map_err(io)?;
    let words = String::from_utf8_lossy(&output.stderr);
    // gcov ignores counters that do not match the notes, and reports that on stderr only.
    if !output.status.success() || !words.is_empty() {
        return Err(CoverageError::Gcov {
            path: names(),
            words: words.trim().to_owned(),
        });
    }
    let json = |source| CoverageError::Json {
        path: names(),
        source,
    };
    let reports = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    let reports: Vec<Report> = reports.collect::<Result<_, _>>().map_err(json)?;
    if reports.len() != sources.len() {
        let words = format!("{} reports of {} sources", reports.len(), sources.len());
        return Err(CoverageError::Gcov {
            path: names(),
            words,
        });
    }
    let each = reports.iter().zip(sources);
    Ok(each
        .map(|(report, (name, _))| of_report(report, name))
        .collect())
}

fn of_report(report: &Report, name: &str) -> Lines {
    let mut lines = Lines::new();
    let of_file = report.files.iter().filter(|f| f.file.ends_with(name));
    for line in of_file.flat_map(|file| &file.lines) {
        let partly = line.count == 0 || line.unexecuted_block;
        lines
            .entry(line.line_number)
            .and_modify(|l| {
                l.count += line.count;
                l.partly &= partly;
            })
            .or_insert(Line {
                count: line.count,
                partly,
            });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses the compiler and the options of the kernel's build.
    #[test]
    fn a_program_that_was_run_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let source = "#define NR ({ asm volatile(\"\"); 22; })\n\
            int main(int argc, char **argv)\n{\n\
            \tif (argc > 1)\n\t\treturn NR;\n\
            \tif (!argv[0])\n\t\treturn NR;\n\
            \treturn argc ? 0 : NR;\n}\n";
        fs::write(directory.path().join("counted.c"), source).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(directory.path());
            command.status().unwrap().code()
        };
        let compile = ["-O2", "--coverage", "-c", "counted.c"];
        assert_eq!(run("gcc", &compile), Some(0));
        assert_eq!(run("gcc", &["--coverage", "counted.o"]), Some(0));
        assert_eq!(run("./a.out", &[]), Some(0));
        assert_eq!(run("./a.out", &["one"]), Some(22));
        let counts = fs::read(directory.path().join("counted.gcda")).unwrap();
        let lines = lines(directory.path(), "counted.c", &counts).unwrap();
        let line = |count, partly| Some(Line { count, partly });
        assert_eq!(lines.get(&5).copied(), line(1, false));
        assert_eq!(lines.get(&7).copied(), line(0, true));
        assert_eq!(lines.get(&8).copied(), line(1, true));
        // Two sources at once, each with its own counters.
        let two = [
            ("counted.c".to_owned(), &counts[..]),
            ("counted.c".to_owned(), &counts[..]),
        ];
        let two = all(directory.path(), &two).unwrap();
        assert_eq!(two, [lines.clone(), lines]);
        // Counters of a different build do not match.
        assert!(super::lines(directory.path(), "counted.c", &counts[..8]).is_err());
    }

    #[test]
    fn a_line_in_two_functions_is_counted_once() {
        let json = r#"{"gcc_version":"12","files":[
            {"file":"/x/include/linux/a.h","functions":[],"lines":[
                {"line_number":7,"count":9,"unexecuted_block":false,"branches":[]}]},
            {"file":"/x/kernel/checkpoint/a.c","functions":[],"lines":[
                {"line_number":7,"count":0,"unexecuted_block":true,"branches":[]},
                {"line_number":7,"count":3,"unexecuted_block":false,"branches":[]},
                {"line_number":8,"count":3,"unexecuted_block":true,"branches":[]}]}]}"#;
        let report = serde_json::from_str(json).unwrap();
        let lines = of_report(&report, "kernel/checkpoint/a.c");
        let line = |count, partly| Line { count, partly };
        assert_eq!(lines[&7], line(3, false));
        assert_eq!(lines[&8], line(3, true));
    }
}
