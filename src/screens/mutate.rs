// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible mutate`.

use std::fmt::Write as _;

use crucible_engine::experiment::Report;
use crucible_engine::experiment::Score;
use crucible_engine::experiment::mutate::{FileScore, MutantDetail};
use crucible_engine::record::Record;

use super::{end, head, others};

/// Maximum number of characters of a mutant's text.
const WIDTH: usize = 60;

/// Formats a run.
pub fn screen(report: &Report<MutantDetail, Score>, record: &Record) -> String {
    let mut text = String::new();
    let score = &report.summary;
    head(&mut text, "mutate", record);
    let _ = writeln!(
        text,
        "  {} mutants: {} on lines that some case runs, {} never run, {} equivalent; seed {}",
        score.mutants, score.reached, score.sum.never_run, score.sum.equivalent, score.seed
    );
    let _ = writeln!(text, "  killed survived unknown never run equivalent");
    let row = |text: &mut String, name: &str, of: &FileScore| {
        let FileScore {
            killed,
            survived,
            unknown,
            never_run,
            equivalent,
        } = of;
        let _ = writeln!(
            text,
            "  {killed:6} {survived:8} {unknown:7} {never_run:9} {equivalent:10}  {name}"
        );
    };
    let tried = |of: &&FileScore| of.killed + of.survived + of.unknown > 0;
    for (name, of) in score.files.iter().filter(|(_, of)| tried(of)) {
        row(&mut text, name, of);
    }
    row(&mut text, "all", &score.sum);
    let _ = writeln!(text, "  first   all  seen by");
    let mut eyes: Vec<_> = score.eyes.iter().collect();
    eyes.sort_by_key(|(_, eye)| std::cmp::Reverse((eye.first, eye.all)));
    for (name, eye) in eyes {
        let _ = writeln!(text, "  {:5} {:5}  {name}", eye.first, eye.all);
    }
    for mutant in &score.survivors {
        let what: String = mutant.text.chars().take(WIDTH).collect();
        let _ = writeln!(
            text,
            "  survived {} {} {}(): {}: {what}",
            mutant.id,
            mutant.place(),
            mutant.function,
            mutant.kind.name(),
        );
    }
    for (case, why) in &score.useless {
        let _ = writeln!(
            text,
            "  not used: {case} does not pass without a mutant: {why}"
        );
    }
    for finding in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        let condition = finding.outcome.condition.name();
        let _ = writeln!(
            text,
            "  {}: {condition}: {}",
            finding.key, finding.outcome.why
        );
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}
