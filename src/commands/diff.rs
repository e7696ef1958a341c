// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible diff`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use crucible_protocol::image::diff::{self, Comparison, Which};
use serde::Serialize;

use crate::exit;
use crate::images;
use crate::stdout;

/// Version of the JSON form.
const SCHEMA: u32 = 1;

/// The options of `crucible diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The first image, from which the tree was restarted
    first: PathBuf,
    /// The second image: that of the restarted tree
    second: PathBuf,
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,
    /// Use no rule: report changes by the passing of time, too
    #[arg(long)]
    exact: bool,
}

/// The JSON form; docs/howto/read-a-failure.md describes it.
#[derive(Serialize)]
struct Written<'a> {
    schema: u32,
    equal: bool,
    exact: bool,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

/// Compares two images, and shows their differences.
pub fn run(args: &DiffArgs) -> Result<ExitCode> {
    let (first, second) = (images::open(&args.first)?, images::open(&args.second)?);
    let comparison = diff::compare(first, second, args.exact).map_err(|error| {
        let path = match error.which {
            Which::First => &args.first,
            Which::Second => &args.second,
        };
        images::unreadable(path, error.error)
    })?;
    match args.json {
        true => stdout::json(&json(&comparison, args.exact)?)?,
        false => stdout::screen(&screen(&comparison))?,
    }
    let code = match comparison.is_equal() {
        true => exit::PASS,
        false => exit::DIVERGED,
    };
    Ok(code.into())
}

fn json(comparison: &Comparison, exact: bool) -> Result<String> {
    Ok(serde_json::to_string_pretty(&Written {
        schema: SCHEMA,
        equal: comparison.is_equal(),
        exact,
        comparison,
    })?)
}

fn screen(comparison: &Comparison) -> String {
    let mut text = String::new();
    for difference in &comparison.differences {
        // A name in an image may have line breaks.
        let line = difference.to_string().replace('\n', "\\n");
        let _ = writeln!(text, "{line}");
    }
    if comparison.more > 0 {
        let _ = writeln!(text, "and {} more", comparison.more);
    }
    let uses = comparison.rules.iter();
    let uses = uses.map(|(rule, count)| format!("{} {count}", rule.name()));
    let uses = uses.collect::<Vec<_>>().join(", ");
    if !uses.is_empty() {
        let _ = writeln!(text, "rules: {uses}");
    }
    if comparison.is_equal() {
        let (records, _) = comparison.records;
        let _ = writeln!(text, "equal: {records} records");
    }
    text
}

#[cfg(test)]
mod tests {
    use crucible_protocol::image::samples;

    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let (one, other) = (samples::escape(), samples::shared(1, 1, 5));
        let found = diff::compare(one.as_slice(), other.as_slice(), false).unwrap();
        assert!(!found.is_equal());
        let text = crucible_protocol::shown_lines(&screen(&found)).into_owned();
        let json = crucible_protocol::shown_json(&json(&found, false).unwrap()).into_owned();
        for text in [text, json] {
            let control = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(control), "{text:?}");
            assert!(text.contains("owned"), "{text}");
        }
    }

    /// The page has each member of the JSON form.
    #[test]
    fn the_json_form_is_documented() {
        let page = include_str!("../../docs/howto/read-a-failure.md");
        let (one, other) = (samples::escape(), samples::shared(1, 1, 5));
        let found = diff::compare(one.as_slice(), other.as_slice(), false).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json(&found, false).unwrap()).unwrap();
        let object = value.as_object().unwrap();
        let difference = value["differences"][0].as_object().unwrap();
        for name in object.keys().chain(difference.keys()) {
            assert!(page.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
