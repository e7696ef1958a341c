// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A summary of an image, for display and for programs.
//!
//! Its size, and the time to make it, are linear in the image's size, whatever its content: an
//! object that tasks share is in it once, and no text is longer than [`LONGEST`].

use std::{collections::BTreeMap, io::Read, sync::Arc};

use serde::Serialize;

use super::{
    layout::{self, name},
    record::{ImageError, Kind, Reader, Record},
};

/// Maximum length of a text in bytes: no path is longer. Longer texts are cut off.
const LONGEST: usize = 4096;

/// A summary of an image.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The release of the kernel that wrote the image.
    pub release: String,
    /// The build of that kernel.
    pub build: String,
    /// The time when the image was written, in nanoseconds since 1970.
    pub real_ns: u64,
    /// The next pid that the pid namespace assigns.
    pub next_pid: u32,
    /// The size in bytes, including the record heads.
    pub bytes: u64,
    /// The number of records of each type.
    pub records: BTreeMap<String, u64>,
    /// The tasks, in the order of the tree.
    pub tasks: Vec<Task>,
    /// The address spaces, by their object numbers.
    pub memories: BTreeMap<u32, Memory>,
    /// The file descriptor tables, by their object numbers.
    pub tables: BTreeMap<u32, Vec<Descriptor>>,
    /// The open files, by their object numbers.
    pub files: BTreeMap<u32, OpenFile>,
}

/// A task of the image.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Task {
    /// Thread ID.
    pub tid: i32,
    /// Process ID.
    pub pid: i32,
    /// Process ID of the parent; 0 for the root.
    pub ppid: i32,
    /// Process group ID.
    pub pgid: i32,
    /// Session ID.
    pub sid: i32,
    /// Command name.
    pub comm: String,
    /// The site at which the task was frozen.
    pub site: String,
    /// The thread ID of its tracer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracer: Option<i32>,
    /// A zombie's exit code, as `wait4` reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The registers, which show the system call that the task was in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registers: Option<Registers>,
    /// The system call that its restart block continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// Mask of blocked signals, one bit per signal.
    pub blocked: u64,
    /// Pending signals.
    pub pending: Vec<Signal>,
    /// Effective user and group ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<(u32, u32)>,
    /// Working directory.
    pub cwd: String,
    /// The object number of the address space, in [`Summary::memories`]. Tasks with the same number
    /// share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// The object number of the file descriptor table, in [`Summary::tables`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
}

/// A selection of registers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Registers {
    /// Number of the system call, -1 for none.
    pub syscall: i64,
    /// The return value so far.
    pub ax: i64,
    /// The instruction pointer.
    pub ip: u64,
    /// The stack pointer.
    pub sp: u64,
}

/// A pending signal.
#[derive(Clone, Debug, Serialize)]
pub struct Signal {
    /// The signal's number.
    pub number: u32,
    /// True when the signal was sent to the process, false if it was sent to the thread.
    pub shared: bool,
}

/// An address space.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// The path of the program.
    pub program: String,
    /// The mappings.
    pub mappings: Vec<Mapping>,
    /// Number of pages stored for it.
    pub pages: u64,
    /// Number of pages that are shared copy-on-write with a different address space.
    pub same: u64,
}

/// A mapping of an address space.
#[derive(Clone, Debug, Serialize)]
pub struct Mapping {
    /// Address of the first byte.
    pub start: u64,
    /// Address after the last byte.
    pub end: u64,
    /// The permissions `rwx`, followed by `s` for shared or `p` for private.
    pub access: String,
    /// The path of the mapped file, or a description.
    pub what: Arc<str>,
}

/// A file descriptor.
#[derive(Clone, Debug, Serialize)]
pub struct Descriptor {
    /// The descriptor's number.
    pub fd: u32,
    /// Object number of the open file, in [`Summary::files`]; descriptors with the same number
    /// share a position.
    pub object: u32,
}

/// An open file.
#[derive(Clone, Debug, Serialize)]
pub struct OpenFile {
    /// The path, or a description.
    pub what: Arc<str>,
    /// The file position in bytes.
    pub pos: i64,
    /// The `O_*` flags.
    pub flags: u32,
}

impl Summary {
    /// Reads a whole image. Fails if it is damaged or malformed.
    pub fn read(from: impl Read) -> Result<Self, ImageError> {
        let mut reader = Reader::new(from);
        let mut builder = Builder::default();
        while let Some(record) = reader.next_record()? {
            builder.add(&record)?;
        }
        Ok(builder.finish())
    }
}

struct File {
    open: OpenFile,
    messages: u64,
}

impl File {
    fn finish(mut self) -> OpenFile {
        if self.messages != 0 {
            self.open.what = format!("{} with {} messages", self.open.what, self.messages).into();
        }
        self.open
    }
}

#[derive(Default)]
struct Builder {
    summary: Summary,
    tree: Vec<layout::Tree>,
    sections: Vec<Section>,
    section: Section,
    names: BTreeMap<u32, String>,
    files: BTreeMap<u32, File>,
    tables: BTreeMap<u32, Vec<layout::Fd>>,
    memories: BTreeMap<u32, Memory>,
    cwds: BTreeMap<u32, String>,
    creds: BTreeMap<u32, (u32, u32)>,
    current_mm: u32,
    current_file: u32,
}

/// The records between the ends of two tasks' sections.
#[derive(Default)]
struct Section {
    task: Option<layout::Task>,
    regs: Option<layout::Regs>,
    ptrace: Option<layout::Ptrace>,
    pending: Vec<Signal>,
}

impl Builder {
    fn add(&mut self, record: &Record) -> Result<(), ImageError> {
        let size = record.payload.len() as u64;
        self.summary.bytes = record.offset.saturating_add(24).saturating_add(size);
        let kind = match record.kind {
            Kind::Unknown(number) => self.names.get(&number).cloned(),
            _ => None,
        };
        let kind = kind.unwrap_or_else(|| format!("{:?}", record.kind));
        *self.summary.records.entry(kind).or_default() += 1;
        match record.kind {
            Kind::Header => {
                let (header, _) = record.split::<layout::Header>()?;
                self.summary.release = name(&header.release);
                self.summary.build = name(&header.build);
                self.summary.real_ns = header.real_ns;
                self.summary.next_pid = header.next_pid;
            }
            Kind::Schema => {
                for entry in record.array::<layout::Schema>()? {
                    self.names.insert(entry.kind, name(&entry.name));
                }
            }
            Kind::Tree => self.tree = record.array()?,
            Kind::Task => self.section.task = Some(record.split()?.0),
            Kind::TaskEnd => {
                let section = std::mem::take(&mut self.section);
                if section.task.is_none() {
                    return Err(record.malformed("there is no task to end"));
                }
                self.sections.push(section);
            }
            Kind::Regs => self.section.regs = Some(record.split()?.0),
            Kind::Ptrace => self.section.ptrace = Some(record.split()?.0),
            Kind::Siginfo => {
                let (info, _) = record.split::<layout::Siginfo>()?;
                self.section.pending.push(Signal {
                    number: info.signo,
                    shared: info.shared != 0,
                });
            }
            Kind::Cred => {
                let (cred, _) = record.split::<layout::Cred>()?;
                self.creds.insert(record.objref, (cred.euid, cred.egid));
            }
            Kind::Fs => {
                let (fs, paths) = record.split::<layout::Fs>()?;
                let cwd = paths
                    .get(fs.root_len as usize..)
                    .ok_or_else(|| record.malformed("its paths are truncated"))?;
                self.cwds.insert(record.objref, text(cwd));
            }
            Kind::File => self.file(record)?,
            Kind::Message => {
                let (message, _) = record.split::<layout::Message>()?;
                let socket = self
                    .files
                    .get_mut(&message.socket)
                    .ok_or_else(|| record.malformed("its socket does not exist"))?;
                socket.messages = socket.messages.saturating_add(1);
            }
            Kind::Inotify => {
                let (inotify, _) = record.split::<layout::Inotify>()?;
                let (watches, events) = (inotify.nr_watches, inotify.nr_events);
                self.files
                    .get_mut(&self.current_file)
                    .ok_or_else(|| record.malformed("it belongs to no file"))?
                    .open
                    .what = format!("inotify of {watches} files, with {events} events").into();
            }
            Kind::Files => {
                self.tables.insert(record.objref, record.array()?);
            }
            Kind::Mm => self.mm(record)?,
            Kind::Vma => self.vma(record)?,
            Kind::Pages => {
                let (pages, _) = record.split::<layout::Pages>()?;
                let memory = self.memory(record)?;
                memory.pages = memory.pages.saturating_add(pages.nr);
            }
            Kind::Same => {
                let (pages, _) = record.split::<layout::Pages>()?;
                let memory = self.memory(record)?;
                memory.same = memory.same.saturating_add(pages.nr);
            }
            _ => {}
        }
        Ok(())
    }

    fn memory(&mut self, record: &Record) -> Result<&mut Memory, ImageError> {
        self.memories
            .get_mut(&self.current_mm)
            .ok_or_else(|| record.malformed("it belongs to no address space"))
    }

    fn file(&mut self, record: &Record) -> Result<(), ImageError> {
        let (file, path) = record.split::<layout::File>()?;
        let path = text(path);
        let what = match file.kind {
            1 | 12 => path,
            2 => format!("{path} (deleted)"),
            3 => format!("pipe <{}>", file.inode),
            4 => format!("shared memory <{}> {path}", file.inode),
            5 => format!("{path} of {}", file.rdev),
            6 => "eventfd".to_owned(),
            7 => "signalfd".to_owned(),
            8 => "timerfd".to_owned(),
            9 => "epoll".to_owned(),
            10 => format!("pseudo-terminal <{}>", file.inode),
            11 => format!("{path} <{}>", file.inode),
            13 => format!("socket <{}> end {}", file.inode, file.rdev),
            14 => "inotify".to_owned(),
            other => format!("file of unknown kind {other}"),
        };
        self.files.insert(
            record.objref,
            File {
                open: OpenFile {
                    what: what.into(),
                    pos: file.pos,
                    flags: file.flags,
                },
                messages: 0,
            },
        );
        self.current_file = record.objref;
        Ok(())
    }

    fn mm(&mut self, record: &Record) -> Result<(), ImageError> {
        let (mm, _) = record.split::<layout::Mm>()?;
        self.current_mm = record.objref;
        let memory = Memory {
            program: self.file_name(mm.exe_file).to_string(),
            ..Memory::default()
        };
        self.memories.insert(record.objref, memory);
        Ok(())
    }

    fn vma(&mut self, record: &Record) -> Result<(), ImageError> {
        let (vma, _) = record.split::<layout::Vma>()?;
        let what = match vma.kind {
            1 => "anonymous".into(),
            2 => self.file_name(vma.file),
            3 => "vdso".into(),
            other => format!("mapping of unknown kind {other}").into(),
        };
        let bit = |mask: u32, letter: char| if vma.prot & mask != 0 { letter } else { '-' };
        let shared = if vma.flags & 1 != 0 { 's' } else { 'p' };
        let access = [bit(1, 'r'), bit(2, 'w'), bit(4, 'x'), shared];
        self.memory(record)?.mappings.push(Mapping {
            start: vma.start,
            end: vma.end,
            access: access.iter().collect(),
            what,
        });
        Ok(())
    }

    fn file_name(&self, object: u32) -> Arc<str> {
        match self.files.get(&object) {
            Some(file) => Arc::clone(&file.open.what),
            None => format!("<{object}>").into(),
        }
    }

    fn finish(mut self) -> Summary {
        let sections = std::mem::take(&mut self.sections).into_iter();
        let mut sections = sections.map(Some).chain(std::iter::repeat_with(|| None));
        let tree = std::mem::take(&mut self.tree);
        let tasks = tree
            .iter()
            .map(|entry| self.task(entry, sections.next().flatten().unwrap_or_default()))
            .collect();
        self.summary.tasks = tasks;
        let descriptors = |table: Vec<layout::Fd>| {
            let descriptor = |fd: layout::Fd| Descriptor {
                fd: fd.fd,
                object: fd.file,
            };
            table.into_iter().map(descriptor).collect()
        };
        self.summary.tables = self
            .tables
            .into_iter()
            .map(|(object, table)| (object, descriptors(table)))
            .collect();
        self.summary.files = self
            .files
            .into_iter()
            .map(|(object, file)| (object, file.finish()))
            .collect();
        self.summary.memories = self.memories;
        self.summary
    }

    fn task(&self, entry: &layout::Tree, section: Section) -> Task {
        let mut task = Task {
            tid: entry.pid,
            pid: entry.tgid,
            ppid: entry.ppid,
            pgid: entry.pgid,
            sid: entry.sid,
            tracer: section.ptrace.as_ref().map(|ptrace| ptrace.tracer),
            exit_code: (entry.flags & 2 != 0).then_some(entry.exit_code),
            pending: section.pending,
            registers: section.regs.map(|regs| Registers {
                syscall: regs.orig_ax as i64,
                ax: regs.ax as i64,
                ip: regs.ip,
                sp: regs.sp,
            }),
            ..Task::default()
        };
        if let Some(held) = section.task {
            task.comm = name(&held.comm);
            task.site = site(&held, section.ptrace.as_ref());
            task.restart = restart(&held);
            task.blocked = held.blocked;
            task.ids = self.creds.get(&held.cred).copied();
            task.cwd = self.cwds.get(&held.fs).cloned().unwrap_or_default();
            let known = |object: &u32| self.memories.contains_key(object);
            task.memory = Some(held.mm).filter(known);
            task.files = Some(held.files).filter(|object| self.tables.contains_key(object));
        }
        task
    }
}

fn text(bytes: &[u8]) -> String {
    match bytes.get(..LONGEST) {
        Some(start) if bytes.len() > LONGEST => format!("{}…", String::from_utf8_lossy(start)),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The kinds of `enum ckpt_stop_kind`, as `/proc/PID/ckpt_site` names them.
const STOPS: [&str; 12] = [
    "none",
    "syscall-enter",
    "syscall-exit",
    "clone",
    "vfork",
    "vfork-done",
    "exec",
    "exit",
    "signal",
    "trap",
    "handler",
    "seccomp",
];

fn site(task: &layout::Task, ptrace: Option<&layout::Ptrace>) -> String {
    match task.site {
        0 => "none".into(),
        1 => "freezer".into(),
        2 => format!("vfork nr={} child={}", task.site_arg, task.site_child),
        3 => format!("stopped sig={}", task.site_arg),
        6 => "exec".into(),
        4 => "zombie".into(),
        5 => {
            let stop = ptrace.and_then(|p| STOPS.get(p.stop as usize));
            format!("ptrace-stop {}", stop.unwrap_or(&"unknown"))
        }
        other => format!("unknown site {other}"),
    }
}

fn restart(task: &layout::Task) -> Option<String> {
    Some(match task.restart_kind {
        0 => return None,
        1 => "nanosleep".into(),
        2 => "alarm timer".into(),
        3 => "cpu timer".into(),
        4 => "futex".into(),
        5 => "poll".into(),
        other => format!("unknown call {other}"),
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::super::record::tests::{header, image, trailer};
    use super::super::samples;
    use super::*;

    fn tree(pid: i32, flags: u32) -> Vec<u8> {
        [pid, pid, 0, pid, pid, flags as i32, 17, 256]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect()
    }

    fn task(site: u32, arg: i32, comm: &str) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<layout::Task>()];
        bytes[..4].copy_from_slice(&site.to_le_bytes());
        bytes[4..8].copy_from_slice(&arg.to_le_bytes());
        let start = std::mem::offset_of!(layout::Task, comm);
        bytes[start..start + comm.len()].copy_from_slice(comm.as_bytes());
        bytes
    }

    #[test]
    fn tasks_are_listed_with_their_sites() {
        let image = image(&[
            (1, 0, header(2)),
            (2, 0, Vec::new()),
            (3, 0, [tree(2, 1), tree(3, 3)].concat()),
            (5, 0, task(2, 3, "make")),
            (6, 0, Vec::new()),
            (5, 0, task(4, 0, "true")),
            (6, 0, Vec::new()),
            (4, 0, trailer(8)),
        ]);
        let summary = Summary::read(image.as_slice()).unwrap();
        assert_eq!(summary.release, "6.12");
        assert_eq!(summary.bytes, image.len() as u64);
        assert_eq!(summary.tasks[0].comm, "make");
        assert_eq!(summary.tasks[0].site, "vfork nr=3 child=0");
        assert_eq!(summary.tasks[0].exit_code, None);
        assert_eq!(summary.tasks[1].exit_code, Some(256));
        assert_eq!(summary.records["Task"], 2);
    }

    #[test]
    fn a_socket_is_listed_with_its_object_and_end() {
        let file = layout::File {
            kind: 13,
            inode: 1,
            rdev: 1,
            ..layout::File::new_zeroed()
        };
        let fd = layout::Fd {
            fd: 3,
            cloexec: 0,
            file: 2,
            pad: 0,
        };
        let mut held = layout::Task::new_zeroed();
        held.files = 3;
        let sockets = layout::Sockets::new_zeroed();
        let mut message = layout::Message::new_zeroed();
        message.socket = 2;
        let image = image(&[
            (1, 0, header(1)),
            (2, 0, Vec::new()),
            (3, 0, tree(2, 1)),
            (36, 1, sockets.as_bytes().to_vec()),
            (11, 2, file.as_bytes().to_vec()),
            (12, 3, fd.as_bytes().to_vec()),
            (37, 0, message.as_bytes().to_vec()),
            (5, 0, held.as_bytes().to_vec()),
            (6, 0, Vec::new()),
            (4, 0, trailer(10)),
        ]);
        let summary = Summary::read(image.as_slice()).unwrap();
        assert_eq!(summary.tasks[0].files, Some(3));
        assert_eq!(summary.tables[&3][0].object, 2);
        let what = &*summary.files[&2].what;
        assert_eq!(what, "socket <1> end 1 with 1 messages");
        assert_eq!(summary.records["Message"], 1);
    }

    #[test]
    fn numbers_of_pages_that_overflow_are_saturated() {
        let summary = Summary::read(samples::overflow().as_slice()).unwrap();
        let memory = &summary.memories[&1];
        assert_eq!((memory.pages, memory.same), (u64::MAX, u64::MAX));
    }

    #[test]
    fn what_tasks_share_is_in_the_summary_once() {
        let (tasks, files) = (500, 20_000);
        let summary = Summary::read(samples::shared(tasks, files, 1 << 16).as_slice()).unwrap();
        assert_eq!(summary.tasks.len(), tasks as usize);
        let shares = |task: &Task| task.files == Some(3) && task.memory == Some(1);
        assert!(summary.tasks.iter().all(shares));
        assert_eq!(summary.tables[&3].len(), files as usize);
        assert_eq!(summary.files[&2].what.len(), LONGEST + "…".len());
    }

    #[test]
    fn a_record_out_of_place_is_malformed() {
        let pages = [0u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
        let image = image(&[(1, 0, header(0)), (19, 0, pages), (4, 0, trailer(3))]);
        let error = Summary::read(image.as_slice()).unwrap_err();
        assert!(
            error.to_string().contains("belongs to no address space"),
            "{error}"
        );
    }
}
