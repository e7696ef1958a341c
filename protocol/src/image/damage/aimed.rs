// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Forges several related fields at once. Random changes would rarely do this, because a length
//! must be consistent, or one record must refer to a different one.

use fastrand::Rng;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Forged, Known};
use crate::image::layout::{
    Cred, Data, File, Fs, Inode, Message, Mm, Pages, Siginfo, Task, Tree, Vma, Watch,
};
use crate::image::record::Kind;

/// Paths: existing, nonexistent, and invalid ones.
const PATHS: [&[u8]; 12] = [
    b"/",
    b"/tmp",
    b"/work",
    b"/nowhere/at-all",
    b"/etc/passwd",
    b"/etc/shadow",
    b"/dev/null",
    b"/dev/full",
    b"/proc/self/exe",
    b"relative",
    b"/a\0b",
    b"",
];

/// Process IDs that no task has: unused ones, and ones beyond the kernel's maximum.
const FREE: [i32; 4] = [300, 40_000, 100_000, 4_194_303];

/// `SI_TIMER`, and the offset of `si_code` in a record of a queued signal.
const SI_TIMER: i32 = -2;
const SI_CODE: usize = size_of::<Siginfo>() + 8;

/// Forges a record and the fields related to it; returns false if there are none.
pub(super) fn change(
    records: &mut Vec<Forged>,
    index: usize,
    known: &Known,
    rng: &mut Rng,
) -> bool {
    match Kind::from(records[index].kind) {
        Kind::Tree => tree(&mut records[index], known, rng),
        Kind::Task => edit(&mut records[index], |task: &mut Task| {
            task_of(task, known, rng);
        }),
        Kind::Cred => cred(&mut records[index], rng),
        Kind::Fs => directories(&mut records[index], rng),
        Kind::File => edit_with_tail(&mut records[index], |file: &mut File, _| {
            let path = path(rng);
            file.path_len = path.len() as u32;
            path
        }),
        Kind::Inode => inode(records, index, rng),
        Kind::Message => message(&mut records[index], known, rng),
        Kind::Watch if rng.bool() => edit_with_tail(&mut records[index], |watch: &mut Watch, _| {
            let path = path(rng);
            watch.path_len = path.len() as u32;
            path
        }),
        Kind::Vma => mapping(records, index, rng),
        Kind::Pages => pages(&mut records[index], rng),
        Kind::Siginfo => siginfo(&mut records[index], rng),
        Kind::Mm if rng.bool() => edit(&mut records[index], |mm: &mut Mm| {
            mm.exe_file = known.object(Kind::File, rng);
        }),
        Kind::Header | Kind::Trailer => false,
        _ => another(records, index, rng),
    }
}

/// Edits the structure at the start of a record.
fn edit<T>(record: &mut Forged, change: impl FnOnce(&mut T)) -> bool
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    edit_with_tail(record, |whole: &mut T, tail| {
        change(whole);
        tail.to_vec()
    })
}

/// Edits the structure at the start of a record, and replaces the bytes after it.
fn edit_with_tail<T>(record: &mut Forged, change: impl FnOnce(&mut T, &[u8]) -> Vec<u8>) -> bool
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    let Ok((mut whole, tail)) = T::read_from_prefix(&record.payload) else {
        return false;
    };
    let tail = change(&mut whole, tail);
    record.payload = [whole.as_bytes(), &tail].concat();
    true
}

fn path(rng: &mut Rng) -> Vec<u8> {
    rng.choice(PATHS).unwrap_or_default().to_vec()
}

/// Forges an entry of the tree: a different pid, session, group or parent, or turns the task into a
/// zombie or a thread.
fn tree(record: &mut Forged, known: &Known, rng: &mut Rng) -> bool {
    const ZOMBIE: u32 = 2;
    let entries = record.payload.len() / size_of::<Tree>();
    if entries == 0 {
        return false;
    }
    let at = rng.usize(0..entries) * size_of::<Tree>();
    let Ok((mut entry, _)) = Tree::read_from_prefix(&record.payload[at..]) else {
        return false;
    };
    let free = *rng.choice(&FREE).unwrap_or(&1);
    match rng.u8(0..9) {
        0 => (entry.pid, entry.tgid) = (free, free),
        1 => (entry.pid, entry.tgid) = (known.number(rng), known.number(rng)),
        2 => (entry.sid, entry.pgid) = (free, free),
        3 => entry.pgid = free,
        4 => (entry.sid, entry.pgid) = (known.number(rng), known.number(rng)),
        5 => entry.ppid = known.number(rng),
        6 => entry.flags ^= ZOMBIE,
        // A process group of its own, in the session of a task that is not a session leader.
        7 => {
            let task = rng.choice(&known.tasks).copied();
            (entry.sid, entry.pgid) = (task.unwrap_or(1), entry.pid);
        }
        _ => (entry.tgid, entry.flags, entry.exit_signal) = (known.number(rng), 0, -1),
    }
    record.payload[at..at + size_of::<Tree>()].copy_from_slice(entry.as_bytes());
    true
}

/// Forges a message: more or fewer files, some of them forged, or data of a different length.
fn message(record: &mut Forged, known: &Known, rng: &mut Rng) -> bool {
    /// One file more than a message can have.
    const TOO_MANY: u32 = 254;
    edit_with_tail(record, |message: &mut Message, tail| {
        let refs = (message.nr_files as usize * 4).min(tail.len());
        let (mut files, mut data) = (tail[..refs].to_vec(), tail[refs..].to_vec());
        match rng.u8(0..4) {
            0 => {
                let count = *rng.choice(&[1, 2, TOO_MANY - 1, TOO_MANY]).unwrap_or(&1);
                files = (0..count)
                    .flat_map(|_| known.object(Kind::File, rng).to_le_bytes())
                    .collect();
            }
            1 => message.socket = known.object(Kind::File, rng),
            2 => data.truncate(rng.usize(0..=data.len())),
            _ => data.resize(*rng.choice(&[0, 1, 5000, 400_000]).unwrap_or(&0), 1),
        }
        message.nr_files = (files.len() / 4) as u32;
        message.len = data.len() as u32;
        [files, data].concat()
    })
}

/// Forges a task: a different site, a different child to wait for, a different restart block, the
/// memory of a different process, or scheduling parameters or an OOM score beyond its privileges.
fn task_of(task: &mut Task, known: &Known, rng: &mut Rng) {
    const VFORK: u32 = 2;
    match rng.u8(0..8) {
        0 => {
            task.site = rng.u32(1..4);
            task.site_arg = *rng.choice(&[-1, 0, 1, 19, 65]).unwrap_or(&0);
            task.site_child = known.number(rng);
        }
        1 => {
            task.site = VFORK;
            task.site_arg = 1;
            let child = rng.choice(&known.awaited).copied();
            task.site_child = child.unwrap_or_else(|| known.number(rng));
        }
        2 => {
            let values = [
                0,
                1,
                4,
                7,
                u64::from(u32::MAX),
                i64::MAX as u64,
                1 << 63,
                u64::MAX,
            ];
            task.restart_kind = rng.u32(1..7);
            for argument in &mut task.restart {
                *argument = *rng.choice(&values).unwrap_or(&0);
            }
        }
        3 => {
            task.policy = rng.i32(0..7);
            task.rt_priority = rng.u32(0..101);
        }
        4 => task.nice = rng.i32(-21..21),
        5 | 6 => task.mm = known.object(Kind::Mm, rng),
        _ => task.oom_score_adj = rng.i32(-1001..1002),
    }
}

/// Forges credentials: securebits that need a capability, or different groups.
fn cred(record: &mut Forged, rng: &mut Rng) -> bool {
    if rng.u8(0..3) == 0 {
        return edit(record, |cred: &mut Cred| {
            cred.securebits ^= 1 << rng.u32(0..8);
        });
    }
    groups(record, rng)
}

fn groups(record: &mut Forged, rng: &mut Rng) -> bool {
    edit_with_tail(record, |cred: &mut Cred, _| {
        let values = [0, 27, 65534, u32::MAX];
        let groups: Vec<_> = (0..rng.usize(1..4))
            .map(|_| *rng.choice(&values).unwrap_or(&0))
            .collect();
        cred.ngroups = groups.len() as u32;
        groups.as_bytes().to_vec()
    })
}

fn directories(record: &mut Forged, rng: &mut Rng) -> bool {
    edit_with_tail(record, |fs: &mut Fs, tail| {
        let middle = tail.len().min(fs.root_len as usize);
        let (mut root, mut cwd) = (tail[..middle].to_vec(), tail[middle..].to_vec());
        *if rng.bool() { &mut root } else { &mut cwd } = path(rng);
        (fs.root_len, fs.cwd_len) = (root.len() as u32, cwd.len() as u32);
        [root, cwd].concat()
    })
}

/// Forges an inode: a different kind, a different path, or content at the end of a file that is
/// larger than any file can be.
fn inode(records: &mut [Forged], index: usize, rng: &mut Rng) -> bool {
    if rng.u8(0..3) == 0 {
        return edit(&mut records[index], |inode: &mut Inode| {
            inode.kind = rng.u32(1..5);
        });
    }
    if let (true, Some(content)) = (rng.bool(), records.get_mut(index + 1)) {
        return edit(content, |data: &mut Data| data.offset = 1 << 61)
            && edit(&mut records[index], |inode: &mut Inode| {
                inode.size = 1 << 62;
            });
    }
    edit_with_tail(&mut records[index], |inode: &mut Inode, _| {
        let path = path(rng);
        inode.path_len = path.len() as u32;
        path
    })
}

/// Forges a mapping: moves it while keeping its length, by one page or by the four pages that the
/// vdso has before its code, or to either end of user space; or maps a part beyond the end of its
/// file.
fn mapping(records: &mut Vec<Forged>, index: usize, rng: &mut Rng) -> bool {
    const END: u64 = 0x7fff_ffff_f000;
    if rng.u8(0..4) == 0 {
        return edit(&mut records[index], |vma: &mut Vma| vma.offset = 1 << 40);
    }
    let first = rng.u8(0..3) == 0;
    let moved = edit(&mut records[index], |vma: &mut Vma| {
        let length = vma.end.wrapping_sub(vma.start);
        let up = |bytes| vma.start.wrapping_add(bytes);
        let start = match first {
            true => *rng.choice(&[0, 0x1000, 0x10000]).unwrap_or(&0),
            false => *rng
                .choice(&[up(0x1000), up(0x4000), up(0x4000), END.wrapping_sub(length)])
                .unwrap_or(&0),
        };
        (vma.start, vma.end) = (start, start.wrapping_add(length));
    });
    // The lowest mapping must be the first of its address space.
    let begin = records[..index]
        .iter()
        .rposition(|r| Kind::from(r.kind) == Kind::Mm);
    if let (true, Some(begin)) = (first, begin) {
        let vma = records.remove(index);
        records.insert(begin + 1, vma);
    }
    moved
}

/// Forges pages: declares them shared with the parent.
fn pages(record: &mut Forged, rng: &mut Rng) -> bool {
    record.kind = Kind::Same.number();
    edit_with_tail(record, |pages: &mut Pages, _| {
        if rng.bool() {
            pages.nr = 1;
        }
        Vec::new()
    })
}

/// Forges a signal: queued by a kernel timer, or with a number that contradicts its information.
fn siginfo(record: &mut Forged, rng: &mut Rng) -> bool {
    if record.payload.len() < SI_CODE + 4 {
        return false;
    }
    if rng.bool() {
        record.payload[SI_CODE..SI_CODE + 4].copy_from_slice(&SI_TIMER.to_le_bytes());
        return edit(record, |info: &mut Siginfo| info.queued = 1);
    }
    edit(record, |info: &mut Siginfo| info.signo = rng.u32(0..66))
}

/// Duplicates a record at the beginning of a task's section, which may be that of a thread or a
/// zombie.
fn another(records: &mut Vec<Forged>, index: usize, rng: &mut Rng) -> bool {
    let begins: Vec<_> = (0..records.len())
        .filter(|&at| matches!(Kind::from(records[at].kind), Kind::Tree | Kind::TaskEnd))
        .collect();
    let Some(&before) = rng.choice(&begins) else {
        return false;
    };
    let twin = records[index].clone();
    records.insert(before + 1, twin);
    true
}
