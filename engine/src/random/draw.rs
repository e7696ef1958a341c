// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Draws a tree by a seed.

use crucible_protocol::dice::Dice;

use super::{How, Item, Process, REFUSED, SAVED, Tree};

/// Maximum number of processes.
const PROCESSES: u64 = 7;

/// Maximum number of items of a process.
const ITEMS: u64 = 6;

/// One tree in this many has a resource that checkpoint(2) refuses.
const SELDOM: u64 = 8;

/// Returns the tree of a seed. A seed yields the same tree as long as the lists of kinds do not
/// change.
pub fn draw(seed: u64) -> Tree {
    let mut dice = Dice::new(seed);
    let count = 1 + dice.below(PROCESSES) as u32;
    let mut processes = vec![process(&mut dice, 1, 0, How::Fork)];
    for id in 2..=count {
        // A zombie has no children.
        let parents: Vec<_> = processes
            .iter()
            .filter(|process| process.how != How::Zombie)
            .map(|process| process.id)
            .collect();
        let parent = dice.of(&parents);
        let mut how = dice.of(&How::ALL);
        // The first process waits for the others, and a stopped one cannot wait; no process waits
        // in vfork for two children.
        let waits = |it: &Process| it.parent == parent && it.how == How::Vfork;
        let halts = |it: &Process| it.id == parent && it.how.is_stop();
        let cannot = |it: &Process| waits(it) || halts(it);
        if how == How::Vfork && (parent == 1 || processes.iter().any(cannot)) {
            how = How::Fork;
        }
        let process = process(&mut dice, id, parent, how);
        processes.push(process);
    }
    if dice.below(SELDOM) == 0 {
        let living: Vec<_> = (0..processes.len())
            .filter(|&at| processes[at].how != How::Zombie)
            .collect();
        let at = dice.of(&living);
        let kind = dice.of(&REFUSED);
        processes[at].items.push(Item { kind, number: 1 });
    }
    Tree { processes }
}

fn process(dice: &mut Dice, id: u32, parent: u32, how: How) -> Process {
    let mut items: Vec<Item> = Vec::new();
    let count = match how {
        How::Zombie => 0,
        _ => dice.below(ITEMS + 1),
    };
    for _ in 0..count {
        let kind = dice.of(&SAVED);
        // Many kinds are attributes, of which a process has only one.
        if !items.iter().any(|item| item.kind == kind) {
            let number = dice.below(2500) as u32;
            items.push(Item { kind, number });
        }
    }
    Process {
        id,
        parent,
        how,
        items,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn everything_occurs_and_most_trees_can_be_saved() {
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        let mut refused = 0;
        for seed in 0..2000 {
            let tree = draw(seed);
            assert_eq!(tree, draw(seed));
            refused += u32::from(tree.may_be_refused());
            for kind in tree.kinds() {
                *seen.entry(kind).or_default() += 1;
            }
            for process in &tree.processes[1..] {
                let parent = &tree.processes[process.parent as usize - 1];
                assert!(
                    parent.id < process.id && parent.how != How::Zombie,
                    "{tree}"
                );
                assert!(process.how != How::Vfork || process.parent != 1, "{tree}");
            }
        }
        let all = SAVED.iter().copied().chain(How::ALL.map(How::name));
        for kind in all {
            assert!(seen.get(kind) >= Some(&20), "{kind}: {seen:?}");
        }
        assert!((100..600).contains(&refused), "{refused}");
    }
}
