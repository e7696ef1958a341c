// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of the payload of each type of record, for comparisons and listings of fields.

use std::sync::LazyLock;

use crate::image::layout::{self, Field, Fields};
use crate::image::record::Kind;

/// The payload of a type of record: a structure, and the part after it.
pub struct Shape {
    /// The fields of the structure at the beginning.
    pub head: Vec<Field>,
    /// Its size in bytes.
    pub size: usize,
    /// The rest of the payload.
    pub tail: Tail,
}

/// The part of a payload after the structure at its beginning.
pub enum Tail {
    /// Bytes: a text, the content of a file, an area of the CPU. Without a name, the payload ends
    /// with the structure.
    Bytes(&'static str),
    /// Structures.
    Elements {
        /// Name of each.
        name: &'static str,
        /// Size of each in bytes.
        size: usize,
        /// The fields of each.
        fields: Vec<Field>,
        /// The field that identifies an element in both images; `None` for its index.
        key: Option<&'static str>,
    },
}

fn only<T: Fields>() -> Shape {
    with::<T>("")
}

fn with<T: Fields>(tail: &'static str) -> Shape {
    Shape {
        head: T::fields(),
        size: size_of::<T>(),
        tail: Tail::Bytes(tail),
    }
}

fn bytes(tail: &'static str) -> Shape {
    Shape {
        head: Vec::new(),
        size: 0,
        tail: Tail::Bytes(tail),
    }
}

fn many<T: Fields>(name: &'static str, key: Option<&'static str>) -> Shape {
    Shape {
        head: Vec::new(),
        size: 0,
        tail: Tail::Elements {
            name,
            size: size_of::<T>(),
            fields: T::fields(),
            key,
        },
    }
}

fn before<H: Fields, T: Fields>(name: &'static str, key: Option<&'static str>) -> Shape {
    Shape {
        head: H::fields(),
        size: size_of::<H>(),
        ..many::<T>(name, key)
    }
}

fn shape_of(kind: Kind) -> Shape {
    match kind {
        Kind::Header => with::<layout::Header>("mounts"),
        Kind::Schema => many::<layout::Schema>("type", Some("kind")),
        Kind::Tree => many::<layout::Tree>("task", Some("pid")),
        Kind::Trailer => only::<layout::Trailer>(),
        Kind::Task => only::<layout::Task>(),
        Kind::Regs => only::<layout::Regs>(),
        Kind::Xstate => bytes("xsave"),
        Kind::Cred => before::<layout::Cred, u32>("group", None),
        Kind::Fs => with::<layout::Fs>("paths"),
        Kind::File => with::<layout::File>("path"),
        Kind::Files => many::<layout::Fd>("fd", Some("fd")),
        Kind::Pipe => only::<layout::Pipe>(),
        Kind::PipeBuf => with::<layout::PipeBuf>("data"),
        Kind::Inode => with::<layout::Inode>("path"),
        Kind::Data => with::<layout::Data>("data"),
        Kind::Mm => with::<layout::Mm>("auxv"),
        Kind::Vma => only::<layout::Vma>(),
        Kind::Pages => with::<layout::Pages>("memory"),
        Kind::Same => only::<layout::Pages>(),
        Kind::Sighand => many::<layout::Sigaction>("action", None),
        Kind::Signal => only::<layout::Signal>(),
        Kind::Siginfo => only::<layout::Siginfo>(),
        Kind::Timers => only::<layout::Timers>(),
        Kind::Rlimits => many::<layout::Rlimit>("limit", None),
        Kind::Ptrace => only::<layout::Ptrace>(),
        Kind::Debugregs => only::<layout::Debugregs>(),
        Kind::Eventfd => only::<layout::Eventfd>(),
        Kind::Signalfd => only::<layout::Signalfd>(),
        Kind::Timerfd => only::<layout::Timerfd>(),
        Kind::Epoll => before::<layout::EpollHead, layout::EpollItem>("item", Some("fd")),
        Kind::PosixTimer => only::<layout::PosixTimer>(),
        Kind::Tty => with::<layout::Tty>("text"),
        Kind::Seccomp => with::<layout::Seccomp>("program"),
        Kind::Sockets => with::<layout::Sockets>("names"),
        Kind::Message => with::<layout::Message>("data"),
        Kind::Inotify => only::<layout::Inotify>(),
        Kind::Watch => with::<layout::Watch>("path"),
        Kind::InotifyEvent => with::<layout::InotifyEvent>("name"),
        Kind::TaskEnd | Kind::MmEnd => bytes(""),
        Kind::Unknown(_) => bytes("payload"),
    }
}

static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    let kinds = Kind::ALL.iter().map(|(kind, _)| *kind);
    kinds.map(shape_of).collect()
});

static UNKNOWN: LazyLock<Shape> = LazyLock::new(|| bytes("payload"));

/// Returns the shape of the payload of a type of record.
pub fn shape(kind: Kind) -> &'static Shape {
    let known = (kind.number() as usize).checked_sub(1);
    known.and_then(|at| SHAPES.get(at)).unwrap_or(&UNKNOWN)
}

/// Returns true when a field is the number of an object, 0 for none.
pub fn is_reference(kind: Kind, field: &str) -> bool {
    match kind {
        Kind::Task => matches!(field, "mm" | "fs" | "files" | "cred" | "seccomp"),
        Kind::File => matches!(field, "inode" | "cred"),
        Kind::Files => field == "file",
        Kind::Mm => matches!(field, "exe_file" | "same_as"),
        Kind::Vma => field == "file",
        Kind::Signal => field == "tty",
        Kind::Ptrace => field == "cred",
        Kind::Seccomp => field == "prev",
        Kind::Sockets => field.ends_with(".peer_cred"),
        Kind::Message => field == "socket",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const HEADER: &str =
        include_str!("../../../../guest-kernel/src/include/uapi/linux/checkpoint.h");

    /// Returns the fields of our structures, by the names of the header file.
    fn ours() -> BTreeMap<&'static str, Vec<Field>> {
        macro_rules! all {
            ($($name:literal $kind:ident,)*) => {
                BTreeMap::from([$(($name, layout::$kind::fields()),)*])
            };
        }
        all! {
            "rec" RecordHead, "header" Header, "schema" Schema, "tree" Tree, "task" Task,
            "regs" Regs, "cred" Cred, "fs" Fs, "file" File, "fd" Fd, "times" Times, "pipe" Pipe,
            "pipe_buf" PipeBuf, "inode" Inode, "data" Data, "mm" Mm, "vma" Vma, "pages" Pages,
            "sigaction" Sigaction, "signal" Signal, "rlimit" Rlimit, "siginfo" Siginfo,
            "timers" Timers, "posix_timer" PosixTimer, "ptrace" Ptrace, "debugregs" Debugregs,
            "eventfd" Eventfd, "signalfd" Signalfd, "timerfd" Timerfd, "epoll" EpollHead,
            "epoll_item" EpollItem, "tty_end" TtyEnd, "tty" Tty, "seccomp" Seccomp,
            "socket_end" SocketEnd, "sockets" Sockets, "message" Message, "inotify" Inotify,
            "watch" Watch, "inotify_event" InotifyEvent, "trailer" Trailer,
        }
    }

    /// Returns our name of a field whose name is a keyword of Rust, or an element of an array of
    /// two.
    fn our_name(name: &str) -> String {
        let name = name
            .replace("ends[0]", "first")
            .replace("ends[1]", "second");
        if name == "type" {
            "kind".to_owned()
        } else {
            name
        }
    }

    /// Adds the fields of a structure of the header file. Returns its size in bytes.
    fn listed(
        structure: &str,
        name: &str,
        at: usize,
        to: &mut Vec<(String, usize, usize)>,
    ) -> usize {
        let begin = format!("\nstruct ckpt_{structure} {{\n");
        let (_, rest) = HEADER
            .split_once(&begin)
            .unwrap_or_else(|| panic!("no {structure}"));
        let body = rest.split_once("\n};").expect("an end").0;
        let mut size = 0;
        let mut comment = false;
        for line in body.lines().map(str::trim) {
            let outside = !comment && !line.starts_with("/*");
            comment = (comment || line.contains("/*")) && !line.contains("*/");
            let Some((declaration, _)) = line.split_once(';').filter(|_| outside) else {
                continue;
            };
            let words = declaration.strip_prefix("struct ").unwrap_or(declaration);
            let (kind, members) = words.split_once([' ', '\t']).expect("a member");
            for member in members.split(',').map(str::trim) {
                let (plain, count) = match member.split_once('[') {
                    None => (member, None),
                    Some((plain, "NR_CKPT_SPECS]")) => (plain, Some(3)),
                    Some((plain, n)) => (plain, n.strip_suffix(']').map(|n| n.parse().unwrap())),
                };
                let dot = if name.is_empty() { "" } else { "." };
                let full = format!("{name}{dot}{plain}");
                let unit = match kind {
                    "__u8" | "char" => 1,
                    "__u16" => 2,
                    "__u32" | "__s32" => 4,
                    "__u64" | "__s64" => 8,
                    _ => 0,
                };
                let each = |full: &str, at, to: &mut Vec<_>| match unit {
                    0 => listed(kind.strip_prefix("ckpt_").expect("ours"), full, at, to),
                    unit => {
                        to.push((our_name(full), at, unit));
                        unit
                    }
                };
                size += match count {
                    None => each(&full, at + size, to),
                    Some(n) if unit == 1 => {
                        to.push((our_name(&full), at + size, n));
                        n
                    }
                    Some(n) => (0..n)
                        .map(|i| (i, each(&format!("{full}[{i}]"), 0, &mut Vec::new())))
                        .fold(0, |done, (i, one)| {
                            each(&format!("{full}[{i}]"), at + size + done, to);
                            done + one
                        }),
                };
            }
        }
        size
    }

    /// No field of the kernel's structures is left out of a comparison.
    #[test]
    fn the_fields_are_those_of_the_kernel() {
        let ours = ours();
        for (name, fields) in &ours {
            let mut theirs = Vec::new();
            listed(name, "", 0, &mut theirs);
            let fields: Vec<_> = fields
                .iter()
                .map(|field| (our_name(&field.name), field.at, field.size))
                .collect();
            assert_eq!(fields, theirs, "struct ckpt_{name}");
        }
        for (_, rest) in HEADER
            .match_indices("\nstruct ckpt_")
            .map(|(at, s)| HEADER[at..].split_at(s.len()))
        {
            let name = rest.split([' ', ';']).next().unwrap();
            assert!(ours.contains_key(name), "struct ckpt_{name} is in no table");
        }
    }

    /// A payload has no gap between its fields.
    #[test]
    fn every_byte_of_a_structure_belongs_to_a_field() {
        for (kind, _) in Kind::ALL {
            let Shape { head, size, tail } = shape(*kind);
            let covered = |fields: &[Field], size: usize| {
                let end = fields.iter().fold(0, |end, field| {
                    assert_eq!(field.at, end, "{kind:?} {}", field.name);
                    end + field.size
                });
                assert_eq!(end, size, "{kind:?}");
            };
            covered(head, *size);
            if let Tail::Elements { size, fields, .. } = tail {
                covered(fields, *size);
            }
        }
    }

    #[test]
    fn references_are_fields() {
        let mut count = 0;
        for (kind, _) in Kind::ALL {
            let Shape { head, tail, .. } = shape(*kind);
            let mut names: Vec<_> = head.iter().map(|field| &field.name).collect();
            if let Tail::Elements { fields, .. } = tail {
                names.extend(fields.iter().map(|field| &field.name));
            }
            count += names
                .into_iter()
                .filter(|name| is_reference(*kind, name))
                .count();
        }
        assert_eq!(count, 17);
    }
}
