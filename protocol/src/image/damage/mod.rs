// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Damages images, to test that the kernel refuses them: corrupted bytes, and forged images with
//! valid checksums. The same seed produces the same damage.

use std::io::Read;

use fastrand::Rng;
use xxhash_rust::xxh64::xxh64;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    layout::{RecordHead, Task, Trailer, Tree, Vma},
    record::{ImageError, Kind, Reader, SUMMED},
};

mod aimed;
mod each;
mod fields;
mod recipe;

pub use each::{Change, changes, thorough};
pub use recipe::Recipe;

/// Values at which arithmetic and bounds checks tend to fail.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0xfff,
    0x1000,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_f000,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// In payloads that are longer than this, only the first bytes are changed, which hold the
/// structure.
const STRUCTURE: usize = 512;

/// The highest record type in an image; the lowest is 1.
const LAST_TYPE: u32 = 40;

/// `CKPT_VMA_VDSO`.
const VDSO: u32 = 3;

/// Record types with many interdependent fields.
const RICH: [Kind; 11] = [
    Kind::Header,
    Kind::Tree,
    Kind::Task,
    Kind::Cred,
    Kind::Inode,
    Kind::Mm,
    Kind::Vma,
    Kind::Ptrace,
    Kind::Tty,
    Kind::Sockets,
    Kind::Message,
];

/// A record, which may be invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forged {
    /// Number of the record type.
    pub kind: u32,
    /// Number of the object, or 0.
    pub objref: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Splits a valid image into its records.
///
/// # Errors
/// Fails if the image is damaged or malformed.
pub fn take_apart(image: impl Read) -> Result<Vec<Forged>, ImageError> {
    let mut reader = Reader::new(image);
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        records.push(Forged {
            kind: record.kind.number(),
            objref: record.objref,
            payload: record.payload,
        });
    }
    Ok(records)
}

/// Returns an image of these records with valid checksums.
#[must_use]
pub fn put_together(records: &[Forged]) -> Vec<u8> {
    let mut image = Vec::new();
    for (number, record) in records.iter().enumerate() {
        let mut head = RecordHead {
            kind: record.kind,
            objref: record.objref,
            len: record.payload.len() as u64,
            sum: 0,
        };
        let seed = xxh64(&head.as_bytes()[..SUMMED], number as u64);
        head.sum = xxh64(&record.payload, seed);
        image.extend_from_slice(head.as_bytes());
        image.extend_from_slice(&record.payload);
    }
    image
}

/// Damages an image as a disk or network may do: flips bits, truncates it, or copies a part of it
/// to a different place. Returns the kind of damage and the image, which differs from the original.
pub fn raw(image: &[u8], rng: &mut Rng) -> (&'static str, Vec<u8>) {
    loop {
        let mut damaged = image.to_vec();
        let what = match rng.u8(0..3) {
            0 => {
                for _ in 0..rng.u8(1..9) {
                    let at = rng.usize(0..damaged.len());
                    damaged[at] ^= 1 << rng.u8(0..8);
                }
                "flip"
            }
            1 => {
                damaged.truncate(rng.usize(0..image.len()));
                "truncate"
            }
            _ => {
                let length = rng.usize(1..image.len().min(4096));
                let from = rng.usize(0..=image.len() - length);
                let to = rng.usize(0..=image.len() - length);
                damaged.copy_within(from..from + length, to);
                "splice"
            }
        };
        if damaged != image {
            return (what, damaged);
        }
    }
}

/// Properties of the whole image that a forged record must agree with.
struct Known {
    /// Number and type of each object.
    objects: Vec<(u32, Kind)>,
    /// IDs of tasks.
    tasks: Vec<i32>,
    /// IDs of tasks, groups and sessions.
    ids: Vec<i32>,
    /// IDs of tasks for which a parent waits in a vfork.
    awaited: Vec<i32>,
}

impl Known {
    fn of(records: &[Forged]) -> Self {
        let of_kind = |kind| records.iter().filter(move |r| Kind::from(r.kind) == kind);
        let entries: Vec<_> = of_kind(Kind::Tree)
            .flat_map(|tree| tree.payload.chunks_exact(size_of::<Tree>()))
            .filter_map(|entry| Tree::read_from_bytes(entry).ok())
            .collect();
        let objects = records.iter().filter(|r| r.objref != 0);
        let ids = |entry: &Tree| [entry.pid, entry.pgid, entry.sid];
        Self {
            objects: objects.map(|r| (r.objref, Kind::from(r.kind))).collect(),
            tasks: entries.iter().map(|entry| entry.pid).collect(),
            ids: entries.iter().flat_map(ids).collect(),
            awaited: of_kind(Kind::Task)
                .filter_map(|task| Task::read_from_bytes(&task.payload).ok())
                .map(|task| task.site_child)
                .filter(|&child| child != 0)
                .collect(),
        }
    }

    /// Returns the ID of a task, group or session, or an unused ID.
    fn number(&self, rng: &mut Rng) -> i32 {
        const NONE: [i32; 6] = [0, -1, 300, 100_000, 4_194_304, i32::MAX];
        let numbers = if rng.u8(0..3) == 0 {
            &NONE[..]
        } else {
            &self.ids
        };
        *rng.choice(numbers).unwrap_or(&0)
    }

    /// Returns the number of an object of this type, or 0 if there is none.
    fn object(&self, kind: Kind, rng: &mut Rng) -> u32 {
        let of_kind: Vec<_> = self
            .objects
            .iter()
            .filter(|object| object.1 == kind)
            .collect();
        rng.choice(of_kind).map_or(0, |object| object.0)
    }
}

/// Forges an image with valid checksums, and in most cases a valid record count in the trailer, so
/// that this count is not the reason for the refusal. Half of the images have a single change that
/// follows the meaning of the fields, the others one to three changes of any kind.
///
/// Returns the type of the first changed record, and the image.
pub fn forge(records: &[Forged], rng: &mut Rng) -> (Kind, Vec<u8>) {
    let mut forged = records.to_vec();
    let kind = forge_records(&mut forged, rng);
    (kind, put_together(&forged))
}

/// Makes the changes of [`forge`] to these records. Returns the type of the first changed one.
fn forge_records(forged: &mut Vec<Forged>, rng: &mut Rng) -> Kind {
    let known = Known::of(forged);
    let single = rng.bool();
    let changes = if single { 1 } else { rng.u8(1..4) };
    let mut first = None;
    for _ in 0..changes {
        if forged.is_empty() {
            break;
        }
        let rich = (single && rng.bool())
            .then(|| pick_rich(forged, rng))
            .flatten();
        let index = rich.unwrap_or_else(|| pick(forged, rng));
        first.get_or_insert(forged[index].kind);
        if !(single || rng.bool()) || !aim(forged, index, &known, rng) {
            change(forged, index, rng);
        }
    }
    if rng.u8(0..8) != 0 {
        recount(forged);
    }
    Kind::from(first.unwrap_or(0))
}

/// Makes a change that follows the meaning of the fields; returns false if no such change exists
/// for the record.
fn aim(records: &mut Vec<Forged>, index: usize, known: &Known, rng: &mut Rng) -> bool {
    (rng.bool() && aimed::change(records, index, known, rng))
        || fields::change(&mut records[index], known, rng)
}

/// Picks a record. All types have the same probability, because otherwise nearly all changes would
/// affect pages.
fn pick(records: &[Forged], rng: &mut Rng) -> usize {
    loop {
        let kind = rng.u32(1..=LAST_TYPE);
        let of_kind: Vec<_> = (0..records.len())
            .filter(|&index| records[index].kind == kind)
            .collect();
        if let Some(&index) = rng.choice(&of_kind) {
            return index;
        }
        if records.iter().all(|r| r.kind == 0 || r.kind > LAST_TYPE) {
            return rng.usize(0..records.len());
        }
    }
}

/// Picks a record of one of the types in [`RICH`], in which most errors are possible.
fn pick_rich(records: &[Forged], rng: &mut Rng) -> Option<usize> {
    let kind = *rng.choice(&RICH)?;
    let of_kind: Vec<_> = (0..records.len())
        .filter(|&index| Kind::from(records[index].kind) == kind)
        .collect();
    // Prefer the vdso: it is one of many mappings, and the kernel creates it in a special way.
    let is_vdso = |&index: &usize| {
        let vma = Vma::read_from_bytes(&records[index].payload);
        kind == Kind::Vma && vma.is_ok_and(|vma| vma.kind == VDSO)
    };
    let vdsos: Vec<_> = of_kind.iter().copied().filter(is_vdso).collect();
    let vdso = if rng.bool() { rng.choice(vdsos) } else { None };
    vdso.or_else(|| rng.choice(of_kind))
}

fn change(records: &mut Vec<Forged>, index: usize, rng: &mut Rng) {
    match rng.u8(0..16) {
        0 => records[index].kind = rng.u32(0..LAST_TYPE + 3),
        1 => {
            let near = records[index]
                .objref
                .wrapping_add(rng.u32(0..5))
                .wrapping_sub(2);
            records[index].objref = *rng.choice(&[0, 1, near, u32::MAX]).unwrap_or(&0);
        }
        2 => {
            let length = rng.usize(0..=records[index].payload.len());
            records[index].payload.truncate(length);
        }
        3 => {
            let more = rng.usize(1..64);
            let length = records[index].payload.len() + more;
            records[index].payload.resize(length, rng.u8(..));
        }
        4 => {
            let other = rng.usize(0..records.len());
            records.swap(index, other);
        }
        5 => {
            records.remove(index);
        }
        6 => {
            let twin = records[index].clone();
            let at = rng.usize(0..=records.len());
            records.insert(at, twin);
        }
        7 => {
            let other = rng.usize(0..records.len());
            records[index].payload = records[other].payload.clone();
        }
        _ => change_field(&mut records[index].payload, rng),
    }
}

fn change_field(payload: &mut [u8], rng: &mut Rng) {
    let size = if rng.bool() { 4 } else { 8 };
    let fields = payload.len().min(STRUCTURE) / size;
    if fields == 0 {
        return;
    }
    let at = rng.usize(0..fields) * size;
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(&payload[at..at + size]);
    let old = u64::from_le_bytes(wide);
    let new = match rng.u8(0..5) {
        0 => *rng.choice(&EDGES).unwrap_or(&0),
        1 => old ^ (1 << rng.u32(0..size as u32 * 8)),
        2 => old.wrapping_add(rng.u64(1..4)),
        3 => old.wrapping_sub(rng.u64(1..4)),
        _ => rng.u64(..),
    };
    payload[at..at + size].copy_from_slice(&new.to_le_bytes()[..size]);
}

fn recount(records: &mut [Forged]) {
    let trailer = Trailer {
        nr_records: records.len() as u64,
        nr_objects: records.iter().filter(|r| r.objref != 0).count() as u64,
    };
    if let Some(last) = records.last_mut()
        && Kind::from(last.kind) == Kind::Trailer
    {
        last.payload = trailer.as_bytes().to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{header, image, trailer};
    use super::*;

    fn sample() -> Vec<u8> {
        image(&[(1, 0, header(0)), (21, 0, vec![]), (4, 0, trailer(3))])
    }

    #[test]
    fn a_split_image_is_reassembled_unchanged() {
        let image = sample();
        assert_eq!(put_together(&take_apart(&image[..]).unwrap()), image);
    }

    #[test]
    fn raw_damage_is_detected() {
        let image = sample();
        let mut rng = Rng::with_seed(1);
        for _ in 0..1000 {
            let (what, damaged) = raw(&image, &mut rng);
            assert!(take_apart(&damaged[..]).is_err(), "{what}");
        }
    }

    #[test]
    fn the_same_seed_forges_the_same_images() {
        let records = take_apart(&sample()[..]).unwrap();
        let forge_all = |seed| {
            let mut rng = Rng::with_seed(seed);
            (0..100)
                .map(|_| forge(&records, &mut rng).1)
                .collect::<Vec<_>>()
        };
        assert_eq!(forge_all(7), forge_all(7));
        assert_ne!(forge_all(7), forge_all(8));
    }
}
