// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Forges each field of each type of record in turn, so that what refuses or accepts a value can be
//! compared between two kernels.

use std::collections::BTreeSet;

use super::super::diff::table::{Tail, shape};
use super::{Forged, put_together, recount};
use crate::image::layout::Field;
use crate::image::record::Kind;

/// The first values that 32 and 64 bits may not have where they are a process ID or an address:
/// `PID_MAX_LIMIT`, `TASK_SIZE_MAX`.
const LIMITS: [u64; 2] = [4_194_304, 0x7fff_ffff_f000];

/// A change of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it changes: `Task.utime = 0xffffffffffffffff`.
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

/// Returns the changes of an image: the first record of each type is left out and repeated, and each
/// of its fields is set to values at which checks fail. Equal images have equal lists.
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
        match self.how {
            How::LeaveOut => {
                forged.remove(self.index);
            }
            How::Repeat => forged.insert(self.index, records[self.index].clone()),
            How::Set { at, size, value } => {
                let bytes = &value.to_le_bytes()[..size];
                forged[self.index].payload[at..at + size].copy_from_slice(bytes);
            }
        }
        recount(&mut forged);
        put_together(&forged)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::tests::{header, image, trailer};
    use super::super::take_apart;
    use super::*;

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
