// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The structures of the format, as defined by the header file.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A field of a structure that is a number or a text, and not itself a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name: `mono_ns`, `restart[3]`, `slave.rows`.
    pub name: String,
    /// Offset in bytes from the beginning of the outermost structure.
    pub at: usize,
    /// Size in bytes.
    pub size: usize,
    /// The encoding of its bytes.
    pub form: Form,
}

/// The encoding of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A number that is not negative.
    Unsigned,
    /// A number in two's complement.
    Signed,
    /// A text or an array of bytes.
    Bytes,
}

/// A type that occurs in an image, and the fields that it consists of.
pub trait Fields {
    /// Adds the fields of a value that has this name at this offset.
    fn list(name: &str, at: usize, to: &mut Vec<Field>);

    /// Returns the fields of a structure, in their order.
    fn fields() -> Vec<Field> {
        let mut fields = Vec::new();
        Self::list("", 0, &mut fields);
        fields
    }
}

macro_rules! numbers {
    ($($kind:ty: $form:ident,)*) => {$(
        impl Fields for $kind {
            fn list(name: &str, at: usize, to: &mut Vec<Field>) {
                let (name, size) = (name.to_owned(), size_of::<Self>());
                to.push(Field { name, at, size, form: Form::$form });
            }
        }
    )*};
}

numbers! {
    u8: Unsigned, u16: Unsigned, u32: Unsigned, u64: Unsigned, i32: Signed, i64: Signed,
}

impl<const N: usize> Fields for [u8; N] {
    fn list(name: &str, at: usize, to: &mut Vec<Field>) {
        let (name, form) = (name.to_owned(), Form::Bytes);
        to.push(Field {
            name,
            at,
            size: N,
            form,
        });
    }
}

macro_rules! arrays {
    ($($kind:ty,)*) => {$(
        impl<const N: usize> Fields for [$kind; N] {
            fn list(name: &str, at: usize, to: &mut Vec<Field>) {
                for n in 0..N {
                    <$kind>::list(&format!("{name}[{n}]"), at + n * size_of::<$kind>(), to);
                }
            }
        }
    )*};
}

arrays! { u32, u64, }

macro_rules! layout {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $kind,)* }

        impl Fields for $name {
            fn list(name: &str, at: usize, to: &mut Vec<Field>) {
                let dot = if name.is_empty() { "" } else { "." };
                $(<$kind>::list(
                    &format!("{name}{dot}{}", stringify!($field)),
                    at + std::mem::offset_of!($name, $field),
                    to,
                );)*
            }
        }
    };
}

/// `CKPT_MAGIC`.
pub const MAGIC: u64 = 0x3145_4c42_4943_5543;

/// `CKPT_VERSION`.
pub const VERSION: u32 = 1;

/// `CKPT_REC_MAX`.
pub const MAX_PAYLOAD: u64 = 1 << 20;

layout!(
    /// `struct ckpt_rec`
    RecordHead { kind: u32, objref: u32, len: u64, sum: u64, }
);
layout!(
    /// `struct ckpt_header`
    Header {
        magic: u64, version: u32, page_size: u32, xfeatures: u64, vdso_sum: u64,
        mono_ns: u64, real_ns: u64, nr_tasks: u32, ncpus: u32, next_pid: u32, pad: u32,
        release: [u8; 64], build: [u8; 64], boot_ns: u64, tai_ns: u64,
        mounts_len: u32, pad2: u32,
    }
);
layout!(
    /// `struct ckpt_schema`
    Schema { kind: u32, min_len: u32, name: [u8; 16], }
);
layout!(
    /// `struct ckpt_tree`
    Tree {
        pid: i32, tgid: i32, ppid: i32, pgid: i32, sid: i32, flags: u32, exit_signal: i32,
        exit_code: i32,
    }
);
layout!(
    /// `struct ckpt_task`
    Task {
        site: u32, site_arg: i32, site_child: i32, flags: u32, blocked: u64,
        saved_sigmask: u64, sas_sp: u64, sas_size: u64, sas_flags: u32, policy: i32,
        nice: i32, rt_priority: u32, restart_kind: u32, restart_clock: u32,
        restart: [u64; 6], set_child_tid: u64, clear_child_tid: u64, robust_list: u64,
        rseq: u64, rseq_len: u32, rseq_sig: u32, pdeath_signal: u32, personality: u32,
        timer_slack_ns: u64, default_timer_slack_ns: u64, utime: u64, stime: u64,
        mm: u32, fs: u32, files: u32, cred: u32, oom_score_adj: i32, seccomp: u32, cpus: u64,
        comm: [u8; 16], exec_ino: u64, exec_interp_ino: u64, exec_ns: u64, gtime: u64,
        seen_utime: u64, seen_stime: u64, nvcsw: u64, nivcsw: u64, min_flt: u64, maj_flt: u64,
        slice_ns: u64, start_ns: u64, start_boot_ns: u64,
    }
);
layout!(
    /// `struct ckpt_regs`
    Regs {
        r15: u64, r14: u64, r13: u64, r12: u64, bp: u64, bx: u64, r11: u64, r10: u64,
        r9: u64, r8: u64, ax: u64, cx: u64, dx: u64, si: u64, di: u64, orig_ax: u64,
        ip: u64, flags: u64, sp: u64, fsbase: u64, gsbase: u64,
        cs: u32, ss: u32, ds: u32, es: u32, fs: u32, gs: u32, trap_nr: u64, error_code: u64,
        cr2: u64, tsc: u32, spec: [u32; 3],
    }
);
layout!(
    /// `struct ckpt_cred`
    Cred {
        uid: u32, gid: u32, euid: u32, egid: u32, suid: u32, sgid: u32, fsuid: u32,
        fsgid: u32, securebits: u32, ngroups: u32, cap_inheritable: u64,
        cap_permitted: u64, cap_effective: u64, cap_bset: u64, cap_ambient: u64,
    }
);
layout!(
    /// `struct ckpt_fs`
    Fs {
        umask: u32, root_len: u32, cwd_len: u32, pad: u32, root_ino: u64, cwd_ino: u64,
    }
);
layout!(
    /// `struct ckpt_file`
    File {
        kind: u32, flags: u32, pos: i64, inode: u32, mode: u32, rdev: u64, ino: u64,
        size: i64, path_len: u32, state: u32, signum: u32, write_hint: u32, cred: u32,
        gone_len: u32,
    }
);
layout!(
    /// `struct ckpt_fd`
    Fd { fd: u32, cloexec: u32, file: u32, pad: u32, }
);
layout!(
    /// `struct ckpt_times`
    Times {
        atime: i64, mtime: i64, ctime: i64, atime_nsec: u32, mtime_nsec: u32, ctime_nsec: u32,
        pad: u32,
    }
);
layout!(
    /// `struct ckpt_pipe`
    Pipe {
        ring_size: u32, nr_bufs: u32, ino: u64, uid: u32, gid: u32, mode: u32, pad: u32,
        times: Times,
    }
);
layout!(
    /// `struct ckpt_pipe_buf`
    PipeBuf { flags: u32, len: u32, }
);
layout!(
    /// `struct ckpt_inode`
    Inode {
        kind: u32, mode: u32, uid: u32, gid: u32, size: i64, ino: u64, path_len: u32,
        seals: u32, atime: i64, mtime: i64, atime_nsec: u32, mtime_nsec: u32, flags: u32,
        attrs: u32, write_hint: u32, pad: u32, ctime: i64, btime: i64, ctime_nsec: u32,
        btime_nsec: u32,
    }
);
layout!(
    /// `struct ckpt_data`
    Data { offset: u64, len: u64, }
);
layout!(
    /// `struct ckpt_mm`
    Mm {
        start_code: u64, end_code: u64, start_data: u64, end_data: u64, start_brk: u64,
        brk: u64, start_stack: u64, arg_start: u64, arg_end: u64, env_start: u64,
        env_end: u64, mmap_base: u64, vdso: u64, exe_file: u32, dumpable: u32,
        topdown: u32, auxv_len: u32, dump_filter: u32, same_as: u32, membarrier: u32, pad: u32,
        hiwater_rss: u64, hiwater_vm: u64,
    }
);
layout!(
    /// `struct ckpt_vma`
    Vma {
        start: u64, end: u64, offset: u64, kind: u32, prot: u32, flags: u32, file: u32,
        advice: u32, pad: u32,
    }
);
layout!(
    /// `struct ckpt_pages`
    Pages { addr: u64, nr: u64, }
);
layout!(
    /// `struct ckpt_sigaction`
    Sigaction { handler: u64, flags: u64, restorer: u64, mask: u64, }
);
layout!(
    /// `struct ckpt_signal`
    Signal {
        flags: u32, group_exit_code: i32, is_child_subreaper: u32, has_child_subreaper: u32,
        oom_score_adj_min: i32, group_stop_count: u32, utime: u64, stime: u64, cutime: u64, cstime: u64,
        min_flt: u64, maj_flt: u64, cmin_flt: u64, cmaj_flt: u64, maxrss: u64, cmaxrss: u64,
        tty: u32, tty_old_pgrp: i32, exec_ns: u64, gtime: u64, cgtime: u64, seen_utime: u64,
        seen_stime: u64, nvcsw: u64, nivcsw: u64, cnvcsw: u64, cnivcsw: u64, inblock: u64,
        oublock: u64, cinblock: u64, coublock: u64,
    }
);
layout!(
    /// `struct ckpt_rlimit`
    Rlimit { cur: u64, max: u64, }
);
layout!(
    /// `struct ckpt_siginfo`
    Siginfo { shared: u32, signo: u32, queued: u32, pad: u32, info: [u8; 48], }
);
layout!(
    /// `struct ckpt_ptrace`
    Ptrace {
        tracer: i32, flags: u32, cred: u32, place: u32, stop: u32, exit_code: u32,
        message: u64, jobctl: u32, work: u32, has_info: u32, pad: u32, info: [u8; 48],
    }
);
layout!(
    /// `struct ckpt_timers`
    Timers {
        real_value: u64, real_interval: u64, virt_value: u64, virt_interval: u64,
        prof_value: u64, prof_interval: u64, next_posix_timer: u64,
    }
);
layout!(
    /// `struct ckpt_debugregs`
    Debugregs { dr: [u64; 8], }
);
layout!(
    /// `struct ckpt_eventfd`
    Eventfd { count: u64, semaphore: u32, pad: u32, }
);
layout!(
    /// `struct ckpt_signalfd`
    Signalfd { mask: u64, }
);
layout!(
    /// `struct ckpt_timerfd`
    Timerfd {
        clockid: u32, settime_flags: u32, interval: u64, value: i64, ticks: u64, flags: u32,
        pad: u32,
    }
);
layout!(
    /// `struct ckpt_epoll` with its first item.
    Epoll { fd: u32, nr: u32, data: u64, events: u32, item_fd: u32, ready: u32, added: u32, }
);
layout!(
    /// `struct ckpt_epoll`
    EpollHead { fd: u32, nr: u32, }
);
layout!(
    /// `struct ckpt_epoll_item`
    EpollItem { data: u64, events: u32, fd: u32, ready: u32, added: u32, }
);
layout!(
    /// `struct ckpt_posix_timer`
    PosixTimer {
        id: u32, clockid: u32, notify: u32, signo: i32, sival: u64, thread: u32, flags: u32,
        interval: u64, value: i64, overrun: i64, overrun_last: i64, requeue_pending: i32,
        pad: u32,
    }
);
layout!(
    /// `struct ckpt_tty_end`
    TtyEnd {
        iflag: u32, oflag: u32, cflag: u32, lflag: u32, ispeed: u32, ospeed: u32, line: u8,
        cc: [u8; 19], rows: u16, cols: u16, xpixel: u16, ypixel: u16, flags: u32, column: u32,
        canon_column: u32, read_len: u32, canon_len: u32, echo_len: u32, echo_commit: u32,
        echo_mark: u32, flip_len: u32, pktstatus: u32,
    }
);
layout!(
    /// `struct ckpt_tty`
    Tty {
        index: u32, flags: u32, session: i32, pgrp: i32, uid: u32, gid: u32, mode: u32,
        path_len: u32, slave: TtyEnd, master: TtyEnd,
    }
);
layout!(
    /// `struct ckpt_seccomp`
    Seccomp { prev: u32, flags: u32, len: u32, pad: u32, }
);
layout!(
    /// `struct ckpt_socket_end`
    SocketEnd {
        flags: u32, shutdown: u32, error: i32, sndbuf: u32, rcvbuf: u32, rcvlowat: u32,
        peek_off: i32, linger: u32, rcvtimeo: u64, sndtimeo: u64, peer_pid: i32,
        peer_cred: u32, name_len: u32, pad: u32, uid: u32, gid: u32, mode: u32, backlog: u32,
        times: Times,
    }
);
layout!(
    /// `struct ckpt_sockets` with its two ends.
    Sockets { kind: u32, flags: u32, first: SocketEnd, second: SocketEnd, }
);
layout!(
    /// `struct ckpt_message`
    Message {
        socket: u32, flags: u32, len: u32, consumed: u32, pid: i32, uid: u32, gid: u32,
        nr_files: u32, stamp: i64,
    }
);
layout!(
    /// `struct ckpt_inotify`
    Inotify { nr_watches: u32, nr_events: u32, next_wd: u32, pad: u32, }
);
layout!(
    /// `struct ckpt_watch`
    Watch { wd: i32, mask: u32, mode: u32, path_len: u32, ino: u64, }
);
layout!(
    /// `struct ckpt_inotify_event`
    InotifyEvent { wd: i32, mask: u32, cookie: u32, name_len: u32, }
);
layout!(
    /// `struct ckpt_trailer`
    Trailer { nr_records: u64, nr_objects: u64, }
);

/// Returns the text of a fixed-size field, up to its first NUL.
pub fn name(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
