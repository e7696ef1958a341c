// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The census finds every function of a built kernel in which a task can sleep, so that the lists
//! in `guest-kernel/census/` can be compared with it.
//!
//! All sleeps end in `__schedule()`. A function that calls it is listed; if the list marks the
//! function as a primitive, its callers are listed as well, and so on. The objects show the calls:
//! as a relocation or, for a static function of the same file, as a displacement that the
//! assembler has already filled in. An inlined function counts as the function that contains it.
//!
//! A task can also wait without sleeping, in a loop. The sources show such loops: a function that
//! gives up the CPU between iterations and whose source jumps back or loops endlessly.

mod calls;
mod compare;
mod loops;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crucible_protocol::census::{Class, Entry, Function};
use object::read::archive::ArchiveFile;

pub use calls::{Census, object_calls};
pub use compare::{Difference, compare, merged};

use super::{Custom, Flavour, Plan, source};
use crate::{Cache, Error, Progress, Result, Sources};

/// The function in which every sleep ends.
pub const ROOT: &str = "__schedule";

/// Functions that do not sleep, but that their callers retry until the resource they need is
/// available: a page fault that a signal or another task has interrupted.
const RETRIED: [&str; 2] = ["handle_mm_fault", "fixup_user_fault"];

/// Functions that add a task to a wait queue and set the task state in which a following
/// `schedule()` sleeps.
const PREPARES: [&str; 5] = [
    "prepare_to_wait",
    "prepare_to_wait_exclusive",
    "prepare_to_wait_event",
    "prepare_to_swait_exclusive",
    "prepare_to_swait_event",
];

/// Archives in the build directory from which the kernel is linked.
const ARCHIVES: [&str; 3] = ["vmlinux.a", "lib/lib.a", "arch/x86/lib/lib.a"];

/// Returns the functions whose callers are places: those above, and those that the lists mark as
/// primitives.
pub fn primitives(entries: &[Entry]) -> BTreeSet<String> {
    let listed = entries.iter().filter(|e| e.class == Class::Primitive);
    let names = listed.map(|e| e.function.name.clone());
    let fixed = [ROOT, loops::RESCHEDULE];
    let fixed = fixed.iter().chain(&RETRIED).chain(&PREPARES);
    let fixed = fixed.map(|name| (*name).to_owned());
    names.chain(fixed).collect()
}

/// Returns the places of the pinned kernel in a flavour. Builds the objects that are missing or
/// stale.
pub fn census(
    cache: &Cache,
    sources: &Sources,
    flavour: Flavour,
    primitives: &BTreeSet<String>,
    progress: &dyn Progress,
) -> Result<Census> {
    let source = source::pinned(cache, sources, progress)?;
    let plan = Plan::new(sources, &source.base(), flavour, &Custom::default())?;
    plan.make(cache, &source, progress, |out, _| of_build(out, primitives))
}

/// Returns the places of a kernel that was built in `out`.
pub fn of_build(out: &Path, primitives: &BTreeSet<String>) -> Result<Census> {
    let tree = out.join("source");
    let mut census = Census::new();
    for object in objects(out)? {
        let path = out.join(&object);
        let data = fs::read(&path).map_err(Error::file("read", &path))?;
        let found = object_calls(&data, primitives).map_err(|problem| Error::Malformed {
            path: path.clone(),
            problem,
        })?;
        let file = object.with_extension("c").to_string_lossy().into_owned();
        for (name, mut calls) in found {
            let file = file.clone();
            if calls.contains_key(loops::RESCHEDULE) && !loops::tries_again(&tree, &file, &name) {
                calls.remove(loops::RESCHEDULE);
            }
            if calls.is_empty() {
                continue;
            }
            census.insert(Function { file, name }, calls);
        }
    }
    Ok(census)
}

/// Returns the objects that the kernel is linked from. Objects that an older configuration has
/// left in the build directory are not included.
fn objects(out: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut objects = BTreeSet::new();
    for archive in ARCHIVES {
        let path = out.join(archive);
        let data = fs::read(&path).map_err(Error::file("read", &path))?;
        let malformed = |error: object::Error| Error::Malformed {
            path: path.clone(),
            problem: error.to_string(),
        };
        let parsed = ArchiveFile::parse(&*data).map_err(malformed)?;
        let place = Path::new(archive).parent().unwrap_or(Path::new(""));
        for member in parsed.members() {
            let member = member.map_err(malformed)?;
            let name = String::from_utf8_lossy(member.name()).into_owned();
            objects.insert(place.join(name.trim_end_matches('/')));
        }
    }
    Ok(objects)
}
