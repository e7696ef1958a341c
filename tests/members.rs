// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares the list of a task's state (`guest-kernel/state/`) with the kernel's own structs.

mod common;

use std::fs;
use std::path::Path;

use crucible_artefacts::kernel::state::{Class, List};
use crucible_artefacts::kernel::{self, Flavour, Members};
use crucible_artefacts::{Cache, Sources, host};

/// If this variable is set, the test writes the generated parts of the document instead of
/// comparing them.
const UPDATE: &str = "CRUCIBLE_UPDATE";
const DOCUMENT: &str = "docs/reference/state.md";

fn list(sources: &Sources) -> List {
    List::load(&sources.root().join("guest-kernel/state")).unwrap()
}

fn members(sources: &Sources, list: &List, flavour: Flavour) -> Members {
    host::ensure(true, &common::PrintProgress).unwrap();
    let cache = Cache::from_env().unwrap();
    kernel::members(&cache, sources, list, flavour, &common::PrintProgress).unwrap()
}

#[test]
fn every_member_has_one_entry_and_every_entry_a_member() {
    let sources = Sources::find().unwrap();
    let list = list(&sources);
    let flavours = [Flavour::Base, Flavour::Debug].map(|f| members(&sources, &list, f));
    let tree = flavours[0].tree.clone();
    let problems = list.problems(&flavours, &|path| fs::read_to_string(tree.join(path)).ok());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Returns the part of the document between two marks of this name, with the text before and
/// after.
fn generated<'a>(text: &'a str, name: &str) -> [&'a str; 3] {
    let (begin, end) = (
        format!("<!-- {name} -->\n"),
        format!("<!-- end of {name} -->"),
    );
    let from = text.find(&begin).expect("the begin mark") + begin.len();
    let to = from + text[from..].find(&end).expect("the end mark");
    [&text[..from], &text[from..to], &text[to..]]
}

#[test]
fn the_document_matches_the_list() {
    let sources = Sources::find().unwrap();
    let list = list(&sources);
    let path = sources.root().join(DOCUMENT);
    for (name, wanted) in [
        ("members by class", list.table()),
        ("known gaps", list.of_class(Class::Gap)),
    ] {
        check(&path, name, &wanted);
    }
}

fn check(path: &Path, name: &str, wanted: &str) {
    let text = fs::read_to_string(path).unwrap();
    let [before, there, after] = generated(&text, name);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(path, format!("{before}{wanted}{after}")).unwrap();
    } else {
        assert_eq!(
            there, wanted,
            "{DOCUMENT}: `{UPDATE}=1 cargo test --test members`"
        );
    }
}
