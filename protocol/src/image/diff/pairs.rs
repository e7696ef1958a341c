// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pairs the objects of two images, and keeps descriptions of them.

use std::collections::{BTreeSet, HashMap};

use super::Which;

/// The objects of two images that were read so far.
#[derive(Default)]
pub struct Pairs {
    /// The object of the second image for each of the first.
    same: HashMap<u32, u32>,
    back: HashMap<u32, u32>,
    known: (BTreeSet<u32>, BTreeSet<u32>),
    /// The description of each file, the file that an object without a name belongs to, and the
    /// descriptors of each file in this section.
    what: HashMap<(Which, u32), String>,
    owner: HashMap<(Which, u32), u32>,
    descriptors: HashMap<(Which, u32), BTreeSet<u32>>,
    /// For each open file: the description of its mappings, and the object with its content.
    mapped: HashMap<(Which, u32), (Vec<u8>, u32)>,
}

impl Pairs {
    /// Records that these two objects are the same.
    pub fn pair(&mut self, first: u32, second: u32) {
        self.only_first(first);
        self.only_second(second);
        if first != 0 && second != 0 {
            self.same.insert(first, second);
            self.back.insert(second, first);
        }
    }

    /// Records that the first image has an object that the second one lacks.
    pub fn only_first(&mut self, object: u32) {
        if object != 0 {
            self.known.0.insert(object);
        }
    }

    /// Records that the second image has an object that the first one lacks.
    pub fn only_second(&mut self, object: u32) {
        if object != 0 {
            self.known.1.insert(object);
        }
    }

    /// Returns true when two references mean the same object, or when both mean objects that the
    /// other image lacks, which is already a difference.
    pub fn alike(&self, first: u32, second: u32) -> bool {
        match (self.same.get(&first), self.back.get(&second)) {
            (Some(other), _) => *other == second,
            (None, Some(_)) => false,
            (None, None) if first == 0 || second == 0 => first == second,
            // Neither has a counterpart.
            (None, None) => {
                let known = (
                    self.known.0.contains(&first),
                    self.known.1.contains(&second),
                );
                known.0 || known.1 || first == second
            }
        }
    }

    /// Records the description of a file's mappings.
    pub fn map(&mut self, which: Which, object: u32, shows: Vec<u8>, inode: u32) {
        self.mapped.insert((which, object), (shows, inode));
    }

    /// Returns true when the mappings of two files look the same.
    pub fn map_alike(&self, first: u32, second: u32) -> bool {
        let file = |which, object| self.mapped.get(&(which, object));
        match (file(Which::First, first), file(Which::Second, second)) {
            (Some((one, inode)), Some((other, others))) => {
                one == other && self.alike(*inode, *others)
            }
            _ => false,
        }
    }

    /// Returns true when the other image has a file whose mappings look like those of this one.
    pub fn has_twin(&self, which: Which, object: u32) -> bool {
        let mut others = self.mapped.keys().filter(|(of, _)| *of != which);
        others.any(|(_, other)| match which {
            Which::First => self.map_alike(object, *other),
            Which::Second => self.map_alike(*other, object),
        })
    }

    /// Records the description of a file of an image.
    pub fn name(&mut self, which: Which, object: u32, inode: u32, what: String) {
        self.what.insert((which, object), what);
        if inode != 0 {
            self.owner.entry((which, inode)).or_insert(object);
        }
    }

    /// Returns the description of a file, or of the file that an object belongs to.
    pub fn what(&self, which: Which, object: u32) -> &str {
        let file = self.owner.get(&(which, object)).unwrap_or(&object);
        self.what.get(&(which, *file)).map_or("", String::as_str)
    }

    /// Records that a descriptor refers to a file.
    pub fn descriptor(&mut self, which: Which, file: u32, number: u32) {
        self.descriptors
            .entry((which, file))
            .or_default()
            .insert(number);
    }

    /// Returns the descriptors of the section that refer to an object, in their order.
    pub fn descriptors(&self, which: Which, object: u32) -> Vec<u32> {
        let file = self.owner.get(&(which, object)).unwrap_or(&object);
        let numbers = self.descriptors.get(&(which, *file));
        numbers.map_or_else(Vec::new, |numbers| numbers.iter().copied().collect())
    }

    /// Clears the descriptors at the end of a section.
    pub fn end_section(&mut self) {
        self.descriptors.clear();
    }
}
