// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Simpler trees, to find the smallest one that still fails.

use std::collections::BTreeSet;

use super::{How, Tree};

/// Returns the trees that are one step simpler, the smallest first.
pub fn simpler(tree: &Tree) -> Vec<Tree> {
    let mut found = Vec::new();
    for process in tree.processes.iter().skip(1) {
        found.push(without(tree, process.id));
    }
    for at in 0..tree.processes.len() {
        let items = &tree.processes[at].items;
        if items.len() > 1 {
            let mut fewer = tree.clone();
            fewer.processes[at].items.clear();
            found.push(fewer);
        }
        for item in 0..items.len() {
            let mut fewer = tree.clone();
            fewer.processes[at].items.remove(item);
            found.push(fewer);
        }
    }
    for at in 1..tree.processes.len() {
        if tree.processes[at].how != How::Fork && tree.processes[at].how != How::Zombie {
            let mut plain = tree.clone();
            plain.processes[at].how = How::Fork;
            found.push(plain);
        }
        // A grandchild becomes a child.
        let parent = tree.processes[at].parent;
        let grandparent = tree.processes.iter().find(|it| it.id == parent);
        if let Some(grandparent) = grandparent.map(|it| it.parent)
            && grandparent > 0
            && tree.processes[at].how != How::Vfork
        {
            let mut flat = tree.clone();
            flat.processes[at].parent = grandparent;
            found.push(flat);
        }
    }
    for at in 0..tree.processes.len() {
        for item in 0..tree.processes[at].items.len() {
            let number = tree.processes[at].items[item].number;
            // The last bits select the variant.
            for less in [number % 4, number / 8 * 4 + number % 4] {
                if less < number {
                    let mut small = tree.clone();
                    small.processes[at].items[item].number = less;
                    found.push(small);
                }
            }
        }
    }
    found
}

/// Returns the tree without a process and its descendants.
fn without(tree: &Tree, id: u32) -> Tree {
    let mut gone = BTreeSet::from([id]);
    let mut rest = tree.clone();
    rest.processes.retain(|process| {
        let goes = gone.contains(&process.id) || gone.contains(&process.parent);
        if goes {
            gone.insert(process.id);
        }
        !goes
    });
    rest
}

#[cfg(test)]
mod tests {
    use super::super::draw;
    use super::*;

    fn size(tree: &Tree) -> u64 {
        let of = |it: &super::super::Process| {
            let numbers: u64 = it.items.iter().map(|item| 1 + u64::from(item.number)).sum();
            let how = u64::from(it.how != How::Fork);
            1_000_000 + 10_000 * (how + u64::from(it.parent)) + numbers
        };
        tree.processes.iter().map(of).sum()
    }

    #[test]
    fn each_step_is_smaller_and_still_a_tree() {
        for seed in 0..200 {
            let tree = draw(seed);
            for smaller in simpler(&tree) {
                assert!(size(&smaller) < size(&tree), "{tree}\n{smaller}");
                let ids: BTreeSet<_> = smaller.processes.iter().map(|it| it.id).collect();
                let sound = |parent: u32| parent == 0 || ids.contains(&parent);
                assert!(
                    smaller.processes.iter().all(|it| sound(it.parent)),
                    "{smaller}"
                );
                assert_eq!(smaller.processes[0].id, 1);
            }
        }
    }

    /// A failure that needs two things is shrunk to these.
    #[test]
    fn what_a_failure_needs_is_left() {
        let fails = |tree: &Tree| {
            let has = |how: How, kind: &str| {
                tree.processes
                    .iter()
                    .any(|it| it.how == how && it.items.iter().any(|item| item.kind == kind))
            };
            has(How::Traced, "pipe")
        };
        let mut shrunk = 0;
        for seed in 0..20_000 {
            let mut tree = draw(seed);
            if !fails(&tree) {
                continue;
            }
            while let Some(next) = simpler(&tree).into_iter().find(fails) {
                tree = next;
            }
            assert_eq!(tree.processes.len(), 2, "{tree}");
            assert_eq!(tree.processes[1].items.len(), 1, "{tree}");
            assert!(tree.processes[0].items.is_empty(), "{tree}");
            shrunk += 1;
        }
        assert!(shrunk > 20, "{shrunk}");
    }
}
