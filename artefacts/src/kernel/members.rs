// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The members of kernel structs, as the compiler lays them out under a flavour's configuration.
//! They are read from the debug information of objects that are compiled with `-g` in a separate
//! build directory, so that the kernel image does not change.

mod dwarf;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

pub use dwarf::Member;
pub(super) use dwarf::leaves;

use super::state::List;
use super::{Custom, Flavour, Plan, build, source, tree};
use crate::progress::Step;
use crate::{Cache, Error, Progress, Result, Sources};

/// The members of the structs of a [`List`] under one flavour's configuration.
#[derive(Debug, Clone)]
pub struct Members {
    /// The flavour's name.
    pub flavour: String,
    /// The members of each struct, in the order of their offsets.
    pub structs: BTreeMap<String, Vec<Member>>,
    /// The kernel's source tree, with our series applied.
    pub tree: PathBuf,
}

/// Compiles the sources that the list names and reads the members of its structs. Objects that are
/// up to date are not compiled again.
pub fn members(
    cache: &Cache,
    sources: &Sources,
    list: &List,
    flavour: Flavour,
    progress: &dyn Progress,
) -> Result<Members> {
    let source = source::pinned(cache, sources, progress)?;
    let plan = Plan::new(sources, &source.base(), flavour, &Custom::default())?;
    let name = format!("{}{}", source.tree_name, flavour.tree());
    let trees = cache.root().join("kernel-tree").join(&name);
    let lock = cache.lock(&format!("kernel-tree-{name}"), progress)?;
    let tree = trees.join("src");
    {
        let _step = Step::begin(progress, "making the kernel's tree");
        tree::mirror(&source, &tree)?;
        tree::apply(&source, &plan.series, &tree)?;
    }
    let out = trees.join(format!("members-{}", flavour.name()));
    let objects: BTreeSet<PathBuf> = list
        .structs
        .iter()
        .map(|one| Path::new(&one.source).with_extension("o"))
        .collect();
    build::objects(&tree, &out, &plan.config, &objects, &lock, progress)?;
    let mut structs = BTreeMap::new();
    for one in &list.structs {
        let path = out.join(&one.source).with_extension("o");
        let object = fs::read(&path).map_err(Error::file("read", &path))?;
        let members =
            leaves(&object, &one.name, &list.whole()).map_err(|problem| Error::Malformed {
                path: path.clone(),
                problem,
            })?;
        structs.insert(one.name.clone(), members);
    }
    Ok(Members {
        flavour: flavour.name().into(),
        structs,
        tree,
    })
}
