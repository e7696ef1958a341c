// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Forges single fields according to their meaning, with values that are nearly valid.

use std::mem::size_of;

use fastrand::Rng;

use super::{Forged, Known};
use crate::image::layout::{
    Cred, Data, Epoll, Eventfd, Fd, File, Fs, Header, Inode, Inotify, InotifyEvent, Message, Mm,
    Pages, Pipe, PipeBuf, PosixTimer, Ptrace, Regs, Rlimit, Seccomp, Sigaction, Siginfo, Signal,
    Signalfd, SocketEnd, Sockets, Task, Timerfd, Trailer, Tree, Tty, Vma, Watch,
};
use crate::image::record::Kind;

/// The meaning of a field.
#[derive(Clone, Copy)]
enum Class {
    /// A count or a length.
    Count,
    /// A bit mask.
    Flags,
    /// One of a few kinds, numbered from 0 or 1 up to this number.
    Choice(u64),
    /// An address in user space.
    Address,
    /// A time in nanoseconds.
    Time,
    /// The number of an object of this type.
    Ref(Kind),
    /// The number of an object of any type.
    Objref,
    /// The ID of a task, group or session.
    Pid,
    /// The ID of a user or group.
    Uid,
    /// The number of a signal.
    Number,
    /// A nice value or an OOM score.
    Score,
    /// A file mode, device, selector or checksum, for which any other value is wrong.
    Exact,
}

use Class::{Address, Choice, Count, Exact, Flags, Number, Objref, Pid, Ref, Score, Time, Uid};

/// Offset and size of a field in bytes, and its meaning.
type Field = (usize, usize, Class);

/// The fields of a record's elements. All elements have the same size; a record has one or many.
struct Shape {
    size: usize,
    many: bool,
    fields: &'static [Field],
}

const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! shape {
    ($many:literal, $name:ident { $($class:expr => $($field:ident)+;)+ }) => {
        Some(Shape {
            size: size_of::<$name>(),
            many: $many,
            fields: const { &[$($((
                std::mem::offset_of!($name, $field),
                size_of_field(|whole: &$name| &whole.$field),
                $class,
            ),)+)+] },
        })
    };
}

macro_rules! ends {
    ($($class:expr => $($field:ident)+;)+) => {
        &[
            (std::mem::offset_of!(Sockets, kind), 4, Choice(5)),
            (std::mem::offset_of!(Sockets, flags), 4, Flags),
            $($((
                std::mem::offset_of!(Sockets, first) + std::mem::offset_of!(SocketEnd, $field),
                size_of_field(|end: &SocketEnd| &end.$field),
                $class,
            ), (
                std::mem::offset_of!(Sockets, second) + std::mem::offset_of!(SocketEnd, $field),
                size_of_field(|end: &SocketEnd| &end.$field),
                $class,
            ),)+)+
        ]
    };
}

const SOCKETS: &[Field] = ends! {
    Flags => flags shutdown; Count => sndbuf rcvbuf rcvlowat peek_off linger name_len pad backlog;
    Uid => uid gid; Exact => mode; Time => times;
    Number => error; Time => rcvtimeo sndtimeo; Pid => peer_pid; Ref(Kind::Cred) => peer_cred;
};

#[rustfmt::skip]
fn shape(kind: Kind) -> Option<Shape> {
    match kind {
        Kind::Header => shape!(false, Header {
            Exact => magic version page_size vdso_sum release;
            Flags => xfeatures; Count => nr_tasks ncpus next_pid pad mounts_len pad2;
            Time => mono_ns real_ns boot_ns tai_ns;
        }),
        Kind::Tree => shape!(true, Tree {
            Pid => pid tgid ppid pgid sid; Flags => flags exit_code; Number => exit_signal;
        }),
        Kind::Trailer => shape!(false, Trailer { Count => nr_records nr_objects; }),
        Kind::Task => shape!(false, Task {
            Choice(5) => site restart_kind policy restart_clock; Number => site_arg pdeath_signal;
            Pid => site_child; Flags => flags blocked saved_sigmask sas_flags personality cpus;
            Address => sas_sp set_child_tid clear_child_tid robust_list rseq;
            Count => sas_size rt_priority rseq_len; Score => nice oom_score_adj;
            Time => timer_slack_ns default_timer_slack_ns utime stime exec_ns gtime seen_utime
                seen_stime slice_ns start_ns start_boot_ns;
            Count => nvcsw nivcsw min_flt maj_flt;
            Ref(Kind::Mm) => mm; Ref(Kind::Fs) => fs; Ref(Kind::Files) => files;
            Ref(Kind::Cred) => cred; Ref(Kind::Seccomp) => seccomp;
        }),
        Kind::Regs => shape!(false, Regs {
            Address => ip sp fsbase gsbase cr2; Flags => flags ax orig_ax error_code spec;
            Choice(2) => tsc; Count => trap_nr; Exact => cs ss ds es fs gs;
        }),
        Kind::Cred => shape!(false, Cred {
            Uid => uid gid euid egid suid sgid fsuid fsgid; Count => ngroups;
            Flags => securebits cap_inheritable cap_permitted cap_effective cap_bset cap_ambient;
        }),
        Kind::Fs => shape!(false, Fs { 
            Flags => umask; Count => root_len cwd_len pad; Exact => root_ino cwd_ino;
        }),
        Kind::File => shape!(false, File {
            Choice(14) => kind; Flags => flags state; Count => pos path_len; Objref => inode;
            Number => signum; Choice(5) => write_hint; Ref(Kind::Cred) => cred; Count => gone_len;
            Exact => mode rdev ino;
        }),
        Kind::Files => shape!(true, Fd { Count => fd cloexec pad; Ref(Kind::File) => file; }),
        Kind::Pipe => shape!(false, Pipe { 
            Count => ring_size nr_bufs pad; Uid => uid gid; Exact => mode; Time => times;
        }),
        Kind::PipeBuf => shape!(false, PipeBuf { Flags => flags; Count => len; }),
        Kind::Inode => shape!(false, Inode {
            Choice(4) => kind; Exact => mode; Uid => uid gid; Count => size path_len pad;
            Flags => seals flags attrs; Choice(5) => write_hint;
            Time => atime mtime atime_nsec mtime_nsec ctime ctime_nsec btime btime_nsec;
        }),
        Kind::Data => shape!(false, Data { Count => offset len; }),
        Kind::Mm => shape!(false, Mm {
            Address => start_code end_code start_data end_data start_brk brk start_stack
                arg_start arg_end env_start env_end mmap_base vdso;
            Ref(Kind::File) => exe_file; Ref(Kind::Mm) => same_as; Count => dumpable topdown auxv_len pad;
            Count => hiwater_rss hiwater_vm;
            Flags => dump_filter membarrier;
        }),
        Kind::Vma => shape!(false, Vma {
            Address => start end offset; Choice(3) => kind; Flags => prot flags advice;
            Ref(Kind::File) => file; Count => pad;
        }),
        Kind::Pages | Kind::Same => shape!(false, Pages { Address => addr; Count => nr; }),
        Kind::Sighand => shape!(true, Sigaction { Address => handler restorer; Flags => flags mask; }),
        Kind::Signal => shape!(false, Signal {
            Flags => flags; Number => group_exit_code;
            Count => is_child_subreaper has_child_subreaper group_stop_count; Score => oom_score_adj_min;
            Time => utime stime cutime cstime exec_ns gtime cgtime seen_utime seen_stime;
            Count => nvcsw nivcsw cnvcsw cnivcsw inblock oublock cinblock coublock;
            Objref => tty; Pid => tty_old_pgrp;
        }),
        Kind::Siginfo => shape!(false, Siginfo { Choice(1) => shared; Choice(2) => queued; Number => signo; }),
        Kind::Timers => Some(Shape { size: 8, many: true, fields: &[(0, 8, Time)] }),
        Kind::Ptrace => shape!(false, Ptrace {
            Pid => tracer; Flags => flags exit_code message jobctl work;
            Ref(Kind::Cred) => cred; Count => place pad; Choice(11) => stop;
            Choice(1) => has_info;
        }),
        Kind::Debugregs => Some(Shape { size: 8, many: true, fields: &[(0, 8, Address), (0, 8, Flags)] }),
        Kind::Seccomp => shape!(false, Seccomp {
            Ref(Kind::Seccomp) => prev; Flags => flags; Count => len pad;
        }),
        Kind::Eventfd => shape!(false, Eventfd { Count => count pad; Choice(1) => semaphore; }),
        Kind::Signalfd => shape!(false, Signalfd { Flags => mask; }),
        Kind::Timerfd => shape!(false, Timerfd {
            Choice(9) => clockid; Flags => settime_flags flags; Time => interval value;
            Count => ticks pad;
        }),
        Kind::Epoll => shape!(false, Epoll {
            Count => fd nr data item_fd added; Flags => events; Choice(1) => ready;
        }),
        Kind::PosixTimer => shape!(false, PosixTimer {
            Count => id pad requeue_pending overrun overrun_last; Choice(11) => clockid;
            Choice(4) => notify; Number => signo; Pid => thread; Flags => flags sival;
            Time => interval value;
        }),
        Kind::Tty => shape!(false, Tty {
            Count => index path_len; Flags => flags; Pid => session pgrp; Uid => uid gid;
            Exact => mode;
        }),
        // The type, the flags, and the two ends.
        Kind::Sockets => Some(Shape {
            size: size_of::<Sockets>(), many: false, fields: SOCKETS,
        }),
        Kind::Message => shape!(false, Message {
            Ref(Kind::File) => socket; Flags => flags; Count => len consumed nr_files;
            Pid => pid; Uid => uid gid; Time => stamp;
        }),
        Kind::Inotify => shape!(false, Inotify { Count => nr_watches nr_events next_wd pad; }),
        Kind::Watch => shape!(false, Watch {
            Count => wd path_len; Flags => mask; Exact => mode ino;
        }),
        Kind::InotifyEvent => shape!(false, InotifyEvent {
            Count => wd cookie name_len; Flags => mask;
        }),
        Kind::Rlimits => shape!(true, Rlimit { Count => cur max; }),
        // Offsets in the standard XSAVE area: MXCSR, XSTATE_BV, XCOMP_BV and the reserved bytes.
        Kind::Xstate => Some(Shape {
            size: 576, many: false,
            fields: &[(24, 4, Flags), (512, 8, Flags), (520, 8, Flags), (528, 8, Flags)],
        }),
        _ => None,
    }
}

/// Forges one field of a record; returns false if the fields of its type are unknown.
pub(super) fn change(record: &mut Forged, known: &Known, rng: &mut Rng) -> bool {
    let Some(shape) = shape(Kind::from(record.kind)) else {
        return false;
    };
    let elements = record.payload.len() / shape.size;
    let Some(&(offset, size, class)) = rng.choice(shape.fields) else {
        return false;
    };
    if elements == 0 {
        return false;
    }
    let element = if shape.many {
        rng.usize(0..elements)
    } else {
        0
    };
    let at = element * shape.size + offset;
    // Change only the first 8 bytes of a text.
    let size = size.min(8);
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(&record.payload[at..at + size]);
    let new = value(class, u64::from_le_bytes(wide), size, known, rng);
    record.payload[at..at + size].copy_from_slice(&new.to_le_bytes()[..size]);
    true
}

/// Returns a new value for a field of a class, given its old value and its size in bytes.
fn value(class: Class, old: u64, size: usize, known: &Known, rng: &mut Rng) -> u64 {
    /// The end of user space: the first address beyond it.
    const END: u64 = 0x7fff_ffff_f000;
    let of = |values: &[u64], rng: &mut Rng| *rng.choice(values).unwrap_or(&0);
    match class {
        Count => {
            let near = [
                0,
                1,
                2,
                old.wrapping_add(1),
                old.wrapping_sub(1),
                old.wrapping_mul(2),
            ];
            let far = [
                17,
                255,
                300,
                4096,
                65536,
                65537,
                1 << 20,
                1 << 22,
                1 << 31,
                u64::MAX,
            ];
            of(if rng.bool() { &near } else { &far }, rng)
        }
        Flags => match rng.u8(0..4) {
            0 => of(&[0, u64::MAX], rng),
            // The low bits are the ones most likely to have a meaning.
            1 => old ^ (1 << rng.usize(0..size * 8)),
            _ => old ^ (1 << rng.u32(0..8)),
        },
        Choice(last) => rng.u64(0..=last + 1),
        Address => of(
            &[
                0,
                1,
                0x1000,
                END,
                END - 0x1000,
                u64::MAX,
                old.wrapping_add(1),
                old.wrapping_add(0x1000),
                old.wrapping_sub(0x1000),
                old.wrapping_add(0x10_0000),
            ],
            rng,
        ),
        Time => of(
            &[
                0,
                1,
                i64::MAX as u64,
                i64::MAX as u64 / 2,
                1 << 63,
                u64::MAX,
            ],
            rng,
        ),
        Ref(kind) if rng.u8(0..4) != 0 => known.object(kind, rng).into(),
        Ref(_) | Objref => rng.u64(0..known.objects.len() as u64 + 2),
        Pid => known.number(rng) as u64,
        Uid => of(&[0, 1, 1000, 65534, u64::from(u32::MAX)], rng),
        Number => of(&[0, 9, 17, 19, 64, 65, 128, u64::MAX], rng),
        Score => {
            let scores = [0, 1, 19, 20, 1000, 1001, -1, -20, -21, -500, -1000, -1001];
            *rng.choice(&scores).unwrap_or(&0) as i64 as u64
        }
        Exact => old ^ (1 << rng.usize(0..size * 8)),
    }
}
