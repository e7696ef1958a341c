// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible torture --adversary`.

use std::fmt::Write as _;

use crucible_engine::experiment::{AdversarySummary, Attacked, Report};
use crucible_engine::record::Record;

use super::{end, failure, head, others};

/// Formats a run.
pub fn screen(report: &Report<Attacked, AdversarySummary>, record: &Record) -> String {
    let mut text = String::new();
    head(&mut text, "adversary", record);
    for finding in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        failure(&mut text, finding, 40);
        if let Some(seed) = finding.key.strip_prefix("adversary/") {
            let _ = writeln!(text, "    again    {}", again(&record.reproduce, seed));
        }
    }
    let results: Vec<_> = report
        .summary
        .results
        .iter()
        .map(|(result, count)| format!("{count} {result}"))
        .collect();
    let _ = writeln!(text, "  calls: {}", results.join(", "));
    let rarest = report.summary.attackers.iter().min_by_key(|one| one.1);
    if let Some((name, count)) = rarest {
        let attackers = report.summary.attackers.len();
        let _ = writeln!(
            text,
            "  {attackers} attackers, the rarest {count} times: {name}"
        );
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}

/// Returns the command of a run for one of its seeds.
fn again(reproduce: &str, seed: &str) -> String {
    let mut before = "";
    let words = reproduce.split(' ').map(|word| {
        let now = match before {
            "--seed" => seed,
            "--count" => "1",
            _ => word,
        };
        before = word;
        now
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_attack_is_repeated_with_the_options_of_its_run() {
        let run = "crucible torture --adversary --seed 81 --count 24 --break guard-filter";
        assert_eq!(
            again(run, "94"),
            "crucible torture --adversary --seed 94 --count 1 --break guard-filter"
        );
    }
}
