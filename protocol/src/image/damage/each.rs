// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Forges each field of each type of record in turn, so that the code that refuses or accepts a
//! value can be compared between two kernels.

use std::collections::{BTreeMap, BTreeSet};

use super::super::diff::table::{Tail, shape};
use super::{Forged, put_together, recount};
use crate::image::layout::Field;
use crate::image::record::Kind;

/// The first invalid values of a process ID (32 bits) and of an address (64 bits):
/// `PID_MAX_LIMIT`, `TASK_SIZE_MAX`.
const LIMITS: [u64; 2] = [4_194_304, 0x7fff_ffff_f000];

/// A change of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The change: `Task.utime = 0xffffffffffffffff`.
    pub name: String,
    index: usize,
    how: How,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    LeaveOut,
    Repeat,
    Set { at: usize, size: usize, value: u64 },
}

/// Returns the changes of an image: the first record of each type is left out and repeated, and
/// each of its fields is set to values at which checks fail. Equal images have equal lists.
#[must_use]
pub fn changes(records: &[Forged]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, record) in records.iter().enumerate() {
        if !seen.insert(record.kind) {
            continue;
        }
        let kind = Kind::from(record.kind);
        for (what, how) in [("left out", How::LeaveOut), ("twice", How::Repeat)] {
            let name = format!("{kind:?} {what}");
            changes.push(Change { name, index, how });
        }
        let shape = shape(kind);
        let mut add = |field: &Field, start: usize| {
            let at = start + field.at;
            if at + field.size > record.payload.len() || field.size > 8 {
                return;
            }
            for value in values(field.size) {
                changes.push(Change {
                    name: format!("{kind:?}.{} = {value:#x}", field.name),
                    index,
                    how: How::Set {
                        at,
                        size: field.size,
                        value,
                    },
                });
            }
        };
        shape.head.iter().for_each(|field| add(field, 0));
        if let Tail::Elements { fields, .. } = &shape.tail {
            fields.iter().for_each(|field| add(field, shape.size));
        }
    }
    changes
}

/// Maximum number of changes of a thorough list.
const MOST: usize = 800;

/// Maximum number of records of a type that a thorough list changes, and of elements of each.
const SAMPLES: usize = 3;

/// Returns changes of the records of these types, like [`changes`], but of several different
/// records, and to each value around which a check may be wrong by one. The first record of each
/// type comes first, and the list ends at `MOST`. Equal images have equal lists.
#[must_use]
pub fn thorough(records: &[Forged], kinds: &[Kind]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut seen: BTreeMap<u32, BTreeSet<&[u8]>> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        let kind = Kind::from(record.kind);
        if !kinds.contains(&kind) {
            continue;
        }
        // The first bytes of a record often identify the kind of object that it describes.
        let begin = &record.payload[..record.payload.len().min(8)];
        let seen = seen.entry(record.kind).or_default();
        if seen.len() == SAMPLES || !seen.insert(begin) {
            continue;
        }
        let number = seen.len();
        let shape = shape(kind);
        let mut add = |name: String, field: &Field, start: usize| {
            let at = start + field.at;
            if at + field.size > record.payload.len() || field.size > 8 {
                return;
            }
            let now = record.payload[at..at + field.size].iter().rev();
            let now = now.fold(0, |value, byte| value << 8 | u64::from(*byte));
            for value in boundaries(field, now) {
                let name = format!("{kind:?} {number}, {name}{} = {value:#x}", field.name);
                let how = How::Set {
                    at,
                    size: field.size,
                    value,
                };
                changes.push((number, Change { name, index, how }));
            }
        };
        for field in &shape.head {
            add(String::new(), field, 0);
        }
        if let Tail::Elements { fields, size, .. } = &shape.tail {
            let count = record.payload.len().saturating_sub(shape.size) / size;
            let last = count.saturating_sub(1);
            for n in BTreeSet::from([0, last / 2, last]) {
                for field in fields {
                    add(format!("[{n}]."), field, shape.size + n * size);
                }
            }
        }
    }
    changes.sort_by_key(|(number, _)| *number);
    changes.truncate(MOST);
    changes.into_iter().map(|(_, change)| change).collect()
}

/// Returns values at which checks compare: the neighbours of the field's value, small numbers,
/// limits of the kernel, and, for flags, each of the low 32 bits.
fn boundaries(field: &Field, now: u64) -> BTreeSet<u64> {
    let all = u64::MAX >> (64 - 8 * field.size);
    let is_set = [
        "flags", "mask", "mode", "prot", "advice", "state", "attrs", "seals", "events",
    ]
    .iter()
    .any(|name| field.name.contains(name));
    let mut values = BTreeSet::from([0, 1, 2, 64, 4096, 1_000_000_000]);
    values.extend([now.wrapping_sub(1), now.wrapping_add(1)]);
    match field.size {
        // CAP_LAST_CAP + 1, UINT_MAX + 1, the last address, KTIME_MAX and one more.
        8 => values.extend([1 << 41, 1 << 32, LIMITS[1] - 1, (1 << 63) - 1, 1 << 63]),
        _ => {
            // MAX_NICE, MAX_RT_PRIO, OOM_SCORE_ADJ_MAX, INT_MAX, MIN_NICE, OOM_SCORE_ADJ_MIN.
            values.extend([19, 100, 1000, (1 << 31) - 1]);
            values.extend([20, 1000].map(|value: u64| value.wrapping_neg()));
            values.extend(3..=9);
        }
    }
    if is_set {
        values.extend((0..8 * field.size.min(4)).map(|bit| now ^ 1 << bit));
    }
    let mut values: BTreeSet<u64> = values.into_iter().map(|value| value & all).collect();
    values.remove(&now);
    values
}

fn values(size: usize) -> Vec<u64> {
    let all = u64::MAX >> (64 - 8 * size);
    match size {
        8 => vec![LIMITS[1], all],
        4 => vec![LIMITS[0], all],
        _ => vec![all],
    }
}

impl Change {
    /// Returns the changed image, with valid checksums and a valid number of records.
    #[must_use]
    pub fn image(&self, records: &[Forged]) -> Vec<u8> {
        let mut forged = records.to_vec();
        self.apply(&mut forged);
        put_together(&forged)
    }

    /// Makes the change to the records that it was listed for.
    pub(super) fn apply(&self, forged: &mut Vec<Forged>) {
        match self.how {
            How::LeaveOut => {
                forged.remove(self.index);
            }
            How::Repeat => forged.insert(self.index, forged[self.index].clone()),
            How::Set { at, size, value } => {
                let bytes = &value.to_le_bytes()[..size];
                forged[self.index].payload[at..at + size].copy_from_slice(bytes);
            }
        }
        recount(forged);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::tests::{header, image, trailer};
    use super::super::take_apart;
    use super::*;

    #[test]
    fn a_thorough_list_has_the_values_around_each_limit() {
        let image = image(&[(1, 0, header(0)), (4, 0, trailer(2))]);
        let records = take_apart(&image[..]).unwrap();
        let changes = thorough(&records, &[Kind::Header]);
        let names: BTreeSet<_> = changes.iter().map(|change| &*change.name).collect();
        assert_eq!(names.len(), changes.len());
        for value in [3, 4, 0x7fff_ffff] {
            let name = format!("Header 1, nr_tasks = {value:#x}");
            assert!(names.contains(&*name), "{name}");
        }
        assert!(names.contains("Header 1, mono_ns = 0x7fffffffefff"));
        assert!(changes.len() <= MOST);
        assert!(thorough(&records, &[Kind::Task]).is_empty());
    }

    #[test]
    fn each_field_is_changed_once_by_each_value() {
        let image = image(&[(1, 0, header(0)), (4, 0, trailer(2))]);
        let records = take_apart(&image[..]).unwrap();
        let changes = changes(&records);
        let names: BTreeSet<_> = changes.iter().map(|change| &change.name).collect();
        assert_eq!(names.len(), changes.len());
        let find = |name: &str| changes.iter().find(|change| change.name == name).unwrap();
        let changed = take_apart(&find("Header.mono_ns = 0x7ffffffff000").image(&records)[..]);
        let changed = changed.unwrap();
        assert_ne!(changed[0], records[0]);
        assert_eq!(changed[1], records[1]);
        assert_eq!(changed.len(), 2);
        let twice = find("Header twice").image(&records);
        assert!(twice.len() > image.len());
        for change in &changes {
            let forged = change.image(&records);
            assert!(
                forged != image || change.name.contains("= 0"),
                "{}",
                change.name
            );
        }
    }
}
