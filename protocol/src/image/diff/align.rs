// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads two images side by side, and finds the records that belong together.

use std::collections::{HashSet, VecDeque};
use std::io::Read;

use zerocopy::FromBytes;

use super::compare::Findings;
use super::rules::Rule;
use super::table::{is_reference, shape};
use super::value::Value;
use super::{Comparison, Unreadable, Which};
use crate::image::layout;
use crate::image::record::{ImageError, Kind, Reader, Record};

/// Maximum number of records, and of their bytes, that are read ahead to find a pair.
const AHEAD: usize = 512;
const AHEAD_BYTES: usize = 32 << 20;

/// Maximum number of records of one type that are searched for an equal one.
const ALIKE: usize = 16;

const PAGE: u64 = 4096;

/// An image, with the records that were read but not yet compared.
struct Side<R> {
    reader: Reader<R>,
    which: Which,
    ahead: VecDeque<Record>,
    bytes: usize,
    /// Number of pages of the first record that have already been compared.
    used: u64,
    records: u64,
    size: u64,
}

impl<R: Read> Side<R> {
    fn new(from: R, which: Which) -> Self {
        Self {
            reader: Reader::new(from),
            which,
            ahead: VecDeque::new(),
            bytes: 0,
            used: 0,
            records: 0,
            size: 0,
        }
    }

    fn error(&self, error: ImageError) -> Unreadable {
        let which = self.which;
        Unreadable { which, error }
    }

    /// Reads up to the record with this number from the front. Returns false when there is none, or
    /// if it is too far.
    fn has(&mut self, n: usize) -> Result<bool, Unreadable> {
        while self.ahead.len() <= n {
            if n != 0 && (n >= AHEAD || self.bytes > AHEAD_BYTES) {
                return Ok(false);
            }
            let read = self.reader.next_record();
            let Some(record) = read.map_err(|error| self.error(error))? else {
                return Ok(false);
            };
            self.bytes += record.payload.len();
            self.records += 1;
            self.size += record.payload.len() as u64 + 24;
            self.ahead.push_back(record);
        }
        Ok(true)
    }

    /// Reads the rest of the section, up to the limit of reading ahead. Returns the number of its
    /// records before its end.
    fn rest(&mut self) -> Result<usize, Unreadable> {
        for n in 0.. {
            if !self.has(n)? || self.ahead[n].kind == Kind::TaskEnd {
                return Ok(n);
            }
        }
        Ok(0)
    }

    /// Checks that the next record of the image belongs to a section.
    fn within_section(&mut self) -> Result<(), Unreadable> {
        self.has(0)?;
        match self.ahead.front() {
            Some(record) if record.kind != Kind::Trailer => Ok(()),
            Some(record) => Err(self.error(record.malformed("it is out of place"))),
            None => Err(self.error(ImageError::NoImage)),
        }
    }

    fn front(&mut self) -> Result<Option<&Record>, Unreadable> {
        self.has(0)?;
        Ok(self.ahead.front())
    }

    fn pop(&mut self) -> Option<Record> {
        let record = self.ahead.pop_front()?;
        self.bytes -= record.payload.len();
        self.used = 0;
        Some(record)
    }

    /// Takes the next record, which must be of this type.
    fn take(&mut self, kind: Kind) -> Result<Record, Unreadable> {
        self.has(0)?;
        match self.pop() {
            Some(record) if record.kind == kind => Ok(record),
            Some(record) => Err(self.error(record.malformed("it is out of place"))),
            None => Err(self.error(ImageError::NoImage)),
        }
    }

    /// Returns the pages of the first record that have not been compared yet.
    fn pages(&self) -> Option<Pages<'_>> {
        let record = self.ahead.front()?;
        let pages = whole_pages(record)?;
        let content = match record.kind {
            Kind::Pages => Some(&record.payload[16 + (self.used * PAGE) as usize..]),
            _ => None,
        };
        Some(Pages {
            record,
            address: pages.addr + self.used * PAGE,
            count: pages.nr - self.used,
            content,
        })
    }

    /// Consumes this many compared pages of the first record.
    fn use_pages(&mut self, count: u64) {
        self.used += count;
        let record = self.ahead.front();
        let all = record.and_then(whole_pages).map_or(0, |pages| pages.nr);
        if self.used >= all {
            self.pop();
        }
    }

    /// Passes over a section.
    fn pass(&mut self, findings: &mut Findings) -> Result<(), Unreadable> {
        while self.has(0)? {
            let Some(record) = self.pop() else { break };
            findings.unpaired(&record, self.which);
            if record.kind == Kind::TaskEnd {
                break;
            }
        }
        Ok(())
    }
}

/// The rest of a record of pages.
struct Pages<'a> {
    record: &'a Record,
    address: u64,
    count: u64,
    /// `None` for pages of a different address space.
    content: Option<&'a [u8]>,
}

/// Returns the pages of a record, if its length agrees with them.
fn whole_pages(record: &Record) -> Option<layout::Pages> {
    let (pages, rest) = layout::Pages::read_from_prefix(&record.payload).ok()?;
    let sound = match record.kind {
        Kind::Pages => pages.nr.checked_mul(PAGE) == Some(rest.len() as u64),
        Kind::Same => rest.is_empty(),
        _ => false,
    };
    let end = pages
        .nr
        .checked_mul(PAGE)
        .and_then(|size| pages.addr.checked_add(size));
    (sound && pages.nr != 0 && end.is_some()).then_some(pages)
}

struct Both<A, B> {
    first: Side<A>,
    second: Side<B>,
    findings: Findings,
}

/// Compares two images.
pub fn images(first: impl Read, second: impl Read, exact: bool) -> Result<Comparison, Unreadable> {
    let mut both = Both {
        first: Side::new(first, Which::First),
        second: Side::new(second, Which::Second),
        findings: Findings::new(exact),
    };
    both.records(Kind::Header)?;
    both.records(Kind::Schema)?;
    let (first, second) = both.records(Kind::Tree)?;
    both.sections(&tasks(&first), &tasks(&second))?;
    both.trailers()?;
    let mut found = both.findings.found;
    found.records = (both.first.records, both.second.records);
    found.bytes = (both.first.size, both.second.size);
    Ok(found)
}

/// Returns the tasks of a tree, by process and thread.
fn tasks(record: &Record) -> Vec<(i32, i32)> {
    let tree = record.array::<layout::Tree>().unwrap_or_default();
    tree.iter().map(|task| (task.tgid, task.pid)).collect()
}

impl<A: Read, B: Read> Both<A, B> {
    /// Compares the next records, which must be of this type.
    fn records(&mut self, kind: Kind) -> Result<(Record, Record), Unreadable> {
        let (first, second) = (self.first.take(kind)?, self.second.take(kind)?);
        self.findings.records(&first, &second);
        Ok((first, second))
    }

    /// Compares the sections of tasks that both trees have.
    fn sections(&mut self, first: &[(i32, i32)], second: &[(i32, i32)]) -> Result<(), Unreadable> {
        let all = |tasks: &[(i32, i32)]| -> HashSet<i32> { tasks.iter().map(|t| t.1).collect() };
        let (in_first, in_second) = (all(first), all(second));
        let (mut i, mut j) = (0, 0);
        while i < first.len() || j < second.len() {
            let pair = (first.get(i), second.get(j));
            if let (Some((pid, tid)), Some((_, other))) = pair
                && tid == other
            {
                self.findings.begin_section(*pid, *tid);
                self.section()?;
                self.findings.end_section();
                (i, j) = (i + 1, j + 1);
                continue;
            }
            // The trees have been compared, so each such task is already a difference.
            let lost = |task: Option<&(i32, i32)>, other: &HashSet<i32>| {
                task.is_some_and(|task| !other.contains(&task.1))
            };
            let (lost, new) = (lost(pair.0, &in_second), lost(pair.1, &in_first));
            self.findings.is_unpaired = true;
            if pair.0.is_some() && (lost || !new) {
                self.first.pass(&mut self.findings)?;
                i += 1;
            }
            if pair.1.is_some() && (new || !lost) {
                self.second.pass(&mut self.findings)?;
                j += 1;
            }
        }
        Ok(())
    }

    /// Compares two sections.
    fn section(&mut self) -> Result<(), Unreadable> {
        loop {
            if self.memory()? {
                continue;
            }
            self.first.within_section()?;
            self.second.within_section()?;
            let (p, q) = match self.meet(0, 0) {
                true => self.shifted()?,
                false => self.resynchronised()?,
            };
            self.skip(p, q);
            if self.meet(0, 0)
                && let (Some(first), Some(second)) = (self.first.pop(), self.second.pop())
            {
                self.findings.records(&first, &second);
                if first.kind == Kind::TaskEnd {
                    return Ok(());
                }
            }
        }
    }

    /// Compares pages if one image, or both, have pages as their next record. Returns false
    /// otherwise.
    fn memory(&mut self) -> Result<bool, Unreadable> {
        self.first.has(0)?;
        self.second.has(0)?;
        let (first, second) = (self.first.pages(), self.second.pages());
        // Pages that only one image has.
        let end = |pages: &Pages<'_>, other: Option<&Pages<'_>>| match other {
            Some(other) => pages
                .count
                .min(other.address.saturating_sub(pages.address) / PAGE),
            None => pages.count,
        };
        let count = |count: u64| Value::Text(format!("{count} pages"));
        match (first, second) {
            (None, None) => return Ok(false),
            (Some(first), second) if second.as_ref().is_none_or(|s| s.address > first.address) => {
                let only = end(&first, second.as_ref()).max(1);
                let sides = [count(only), Value::Absent];
                self.findings
                    .pages(first.record, "pages", first.address, sides);
                self.first.use_pages(only);
            }
            (first, Some(second)) if first.as_ref().is_none_or(|f| f.address > second.address) => {
                let only = end(&second, first.as_ref()).max(1);
                let sides = [Value::Absent, count(only)];
                self.findings
                    .pages(second.record, "pages", second.address, sides);
                self.second.use_pages(only);
            }
            (Some(first), Some(second)) => {
                let common = first.count.min(second.count);
                let size = (common * PAGE) as usize;
                match (first.content, second.content) {
                    (Some(one), Some(two)) => {
                        let both = (&one[..size], &two[..size]);
                        self.findings.memory(first.record, first.address, both);
                    }
                    (None, None) => {}
                    (one, _) => {
                        let words = ["own", "shared copy-on-write"];
                        let mut sides = words.map(|word| Value::Text(word.into()));
                        if one.is_none() {
                            sides.reverse();
                        }
                        self.findings
                            .pages(first.record, "pages", first.address, sides);
                    }
                }
                self.first.use_pages(common);
                self.second.use_pages(common);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Returns true when the records with these numbers from the front belong together.
    fn meet(&self, p: usize, q: usize) -> bool {
        match (self.first.ahead.get(p), self.second.ahead.get(q)) {
            (Some(first), Some(second)) => first.kind == second.kind && key(first) == key(second),
            _ => false,
        }
    }

    /// Returns the numbers of records to skip in both images until the first records describe the
    /// same thing, if few suffice. Records of one type may describe different things.
    fn shifted(&mut self) -> Result<(usize, usize), Unreadable> {
        let Some(kind) = self.first.front()?.map(|record| record.kind) else {
            return Ok((0, 0));
        };
        if !may_repeat(kind) || self.alike(0, 0) {
            return Ok((0, 0));
        }
        for n in 1..ALIKE {
            if self.first.has(n)? && self.meet(n, 0) && self.alike(n, 0) {
                return Ok((n, 0));
            }
            if self.second.has(n)? && self.meet(0, n) && self.alike(0, n) {
                return Ok((0, n));
            }
        }
        Ok((0, 0))
    }

    /// Returns true when two records are equal except for numbers of objects and fields to which a
    /// rule applies.
    fn alike(&self, p: usize, q: usize) -> bool {
        match (self.first.ahead.get(p), self.second.ahead.get(q)) {
            (Some(first), Some(second)) => essence(first) == essence(second),
            _ => false,
        }
    }

    /// Returns the smallest numbers of records to leave out so that the next ones belong together;
    /// the limit of reading ahead if none do.
    fn resynchronised(&mut self) -> Result<(usize, usize), Unreadable> {
        let (in_first, in_second) = (self.first.rest()?, self.second.rest()?);
        for sum in 1..=in_first + in_second {
            for p in sum.saturating_sub(in_second)..=sum.min(in_first) {
                if self.meet(p, sum - p) {
                    return Ok((p, sum - p));
                }
            }
        }
        Ok((in_first, in_second))
    }

    /// Takes this number of records from the front: those of one type are compared, the others are
    /// only in one image.
    fn skip(&mut self, p: usize, q: usize) {
        let mut first: VecDeque<_> = (0..p).filter_map(|_| self.first.pop()).collect();
        let mut second: VecDeque<_> = (0..q).filter_map(|_| self.second.pop()).collect();
        let mut heads = [None, None];
        loop {
            let kind = first.front().map(|record| record.kind);
            let next = second.iter().position(|record| Some(record.kind) == kind);
            match (first.pop_front(), next) {
                (Some(record), None) => self.only(&record, Which::First, &mut heads[0]),
                (Some(record), Some(n)) => {
                    for record in second.drain(..n) {
                        self.only(&record, Which::Second, &mut heads[1]);
                    }
                    if let Some(other) = second.pop_front() {
                        heads = [None, None];
                        self.findings.records(&record, &other);
                    }
                }
                (None, _) => break,
            }
        }
        for record in second {
            self.only(&record, Which::Second, &mut heads[1]);
        }
    }

    /// Adds a record that one image lacks. It is one difference, together with the records that
    /// belong to it.
    fn only(&mut self, record: &Record, which: Which, head: &mut Option<Kind>) {
        if head.is_some_and(|head| belongs(record.kind, head)) {
            self.findings.unpaired(record, which);
            return;
        }
        *head = Some(record.kind);
        self.findings.only(record, which);
    }

    /// Compares the ends of the images, which have the numbers of records and objects.
    fn trailers(&mut self) -> Result<(), Unreadable> {
        let first = self.first.take(Kind::Trailer)?;
        let second = self.second.take(Kind::Trailer)?;
        // Each such record is already a difference, or part of a range of pages.
        let follows = self.findings.is_unpaired;
        let objects = |record: &Record| record.payload.get(8..16).map(<[u8]>::to_vec);
        if !follows && objects(&first) != objects(&second) {
            self.findings.records(&first, &second);
        }
        self.first.has(0)?;
        self.second.has(0)?;
        Ok(())
    }
}

/// Returns the key of a record among those of its type.
fn key(record: &Record) -> (u64, &[u8]) {
    let bytes = &record.payload[..];
    let number = |at: usize, size: usize| bytes.get(at..at + size).map_or(0, super::value::number);
    let tail = |size: usize| bytes.get(size..).unwrap_or_default();
    match record.kind {
        Kind::Vma | Kind::Pages | Kind::Same | Kind::Data => (number(0, 8), &[]),
        Kind::Siginfo => (number(0, 8), &[]),
        Kind::PosixTimer | Kind::Watch | Kind::Epoll => (number(0, 4), &[]),
        Kind::File => (number(0, 4), tail(size_of::<layout::File>())),
        Kind::Inode => (number(0, 4), tail(size_of::<layout::Inode>())),
        _ => (0, &[]),
    }
}

/// Returns true for types of which a section may have several records without a key.
fn may_repeat(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Cred
            | Kind::File
            | Kind::Pipe
            | Kind::PipeBuf
            | Kind::Inode
            | Kind::Tty
            | Kind::Sockets
            | Kind::Seccomp
            | Kind::Message
            | Kind::Siginfo
            | Kind::InotifyEvent
    )
}

/// Returns true when a record of the first type belongs to an earlier one of the second.
pub(super) fn belongs(kind: Kind, head: Kind) -> bool {
    match head {
        Kind::Vma => matches!(kind, Kind::Pages | Kind::Same),
        Kind::Mm => matches!(kind, Kind::Vma | Kind::Pages | Kind::Same | Kind::MmEnd),
        Kind::Pipe => kind == Kind::PipeBuf,
        Kind::Inode => kind == Kind::Data,
        Kind::File => matches!(
            kind,
            Kind::Eventfd
                | Kind::Signalfd
                | Kind::Timerfd
                | Kind::Inotify
                | Kind::Watch
                | Kind::InotifyEvent
        ),
        Kind::Inotify => matches!(kind, Kind::Watch | Kind::InotifyEvent),
        _ => false,
    }
}

/// Returns the payload without numbers of objects and fields to which rules apply.
fn essence(record: &Record) -> Vec<u8> {
    let mut bytes = record.payload.clone();
    for field in &shape(record.kind).head {
        let varies =
            is_reference(record.kind, &field.name) || Rule::of(record.kind, &field.name).is_some();
        if varies && let Some(own) = bytes.get_mut(field.at..field.at + field.size) {
            own.fill(0);
        }
    }
    bytes
}
