// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that a reader must survive, for tests and as seeds of the fuzz target.

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::damage::{Forged, put_together};
use super::layout::{self, MAGIC, VERSION};
use super::record::Kind;

/// A text that takes over a terminal that prints it: sets its title, clears it, and changes
/// colours.
pub const ESCAPE: &str = "\x1b]0;owned\x07\x1b[2J\x1b[31mpwn";

/// Object numbers.
const MEMORY: u32 = 1;
const FILE: u32 = 2;
const TABLE: u32 = 3;

fn record(kind: Kind, objref: u32, payload: Vec<u8>) -> Forged {
    Forged {
        kind: kind.number(),
        objref,
        payload,
    }
}

/// Returns the records up to the tree's.
fn begin(tasks: u32) -> Vec<Forged> {
    let mut header = layout::Header::new_zeroed();
    header.magic = MAGIC;
    header.version = VERSION;
    header.page_size = 4096;
    header.nr_tasks = tasks;
    header.release[..4].copy_from_slice(b"6.12");
    let tree = |pid| layout::Tree {
        pid,
        tgid: pid,
        pgid: pid,
        sid: pid,
        flags: 1,
        ..layout::Tree::new_zeroed()
    };
    let tree = (0..tasks).flat_map(|n| tree(n as i32 + 2).as_bytes().to_vec());
    vec![
        record(Kind::Header, 0, header.as_bytes().to_vec()),
        record(Kind::Schema, 0, Vec::new()),
        record(Kind::Tree, 0, tree.collect()),
    ]
}

/// Returns the records of a task that uses all objects.
fn task(comm: &str) -> [Forged; 2] {
    let mut task = layout::Task::new_zeroed();
    task.mm = MEMORY;
    task.files = TABLE;
    for (to, from) in task.comm.iter_mut().zip(comm.bytes()) {
        *to = from;
    }
    [
        record(Kind::Task, 0, task.as_bytes().to_vec()),
        record(Kind::TaskEnd, 0, Vec::new()),
    ]
}

fn file(path: &str) -> Forged {
    let file = layout::File {
        kind: 1,
        path_len: path.len() as u32,
        ..layout::File::new_zeroed()
    };
    record(
        Kind::File,
        FILE,
        [file.as_bytes(), path.as_bytes()].concat(),
    )
}

fn table(files: u32) -> Forged {
    let fd = |fd| layout::Fd {
        fd,
        cloexec: 0,
        file: FILE,
        pad: 0,
    };
    let table = (0..files).flat_map(|n| fd(n).as_bytes().to_vec());
    record(Kind::Files, TABLE, table.collect())
}

fn memory() -> Forged {
    let mut mm = layout::Mm::new_zeroed();
    mm.exe_file = FILE;
    record(Kind::Mm, MEMORY, mm.as_bytes().to_vec())
}

fn end(mut records: Vec<Forged>) -> Vec<u8> {
    let trailer = layout::Trailer {
        nr_records: records.len() as u64 + 1,
        nr_objects: 3,
    };
    records.push(record(Kind::Trailer, 0, trailer.as_bytes().to_vec()));
    put_together(&records)
}

/// Returns an image whose numbers of pages overflow.
#[must_use]
pub fn overflow() -> Vec<u8> {
    let mut records = begin(1);
    records.push(memory());
    for kind in [Kind::Pages, Kind::Same] {
        for nr in [u64::MAX, 2] {
            let pages = layout::Pages { addr: 0, nr };
            records.push(record(kind, 0, pages.as_bytes().to_vec()));
        }
    }
    records.extend(task("pages"));
    end(records)
}

/// Returns an image of a task whose name and files have escape sequences in their names.
#[must_use]
pub fn escape() -> Vec<u8> {
    let mut records = begin(1);
    records.extend([file(ESCAPE), table(1), memory()]);
    // The part of the text that is short enough for a task's name.
    records.extend(task(&ESCAPE[10..]));
    end(records)
}

/// Returns an image of tasks that share a table of descriptors, all for a file with a name of
/// this many bytes.
#[must_use]
pub fn shared(tasks: u32, files: u32, name: usize) -> Vec<u8> {
    let mut records = begin(tasks);
    records.extend([file(&"x".repeat(name)), table(files), memory()]);
    for _ in 0..tasks {
        records.extend(task("shares"));
    }
    end(records)
}
