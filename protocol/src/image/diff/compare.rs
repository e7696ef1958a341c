// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares two records field by field, and keeps the differences.

use std::collections::{BTreeMap, HashMap};

use zerocopy::{FromBytes, IntoBytes};

use super::name::{element_name, joined, value_of, xsave};
use super::pairs::Pairs;
use super::rules::{Clocks, Pair, Rule, itimer_is_due, posix_timer_is_due, stands_still};
use super::table::{Tail, is_reference, shape};
use super::value::{Value, number};
use super::{Comparison, Difference, MOST, TaskName, Which};
use crate::image::layout::{self, Field};
use crate::image::record::{Kind, Record};

/// Types of records without a number of an object. If their bytes are equal, the records are.
fn has_references(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Task
            | Kind::File
            | Kind::Files
            | Kind::Mm
            | Kind::Vma
            | Kind::Signal
            | Kind::Ptrace
            | Kind::Seccomp
            | Kind::Sockets
            | Kind::Message
    )
}

/// The state of a comparison of two images, with the differences that it has found.
pub struct Findings {
    /// The result.
    pub found: Comparison,
    /// The objects.
    pub pairs: Pairs,
    /// True when one image has a record that the other one lacks.
    pub is_unpaired: bool,
    exact: bool,
    clocks: Clocks,
    /// Index of the section's first difference; for each difference, the image that names its
    /// record.
    begin: usize,
    named_by: Vec<Which>,
    task: Option<TaskName>,
    /// POSIX timers of the process that have expired since the first image.
    due: Vec<u32>,
    /// An alarm that only the second image has.
    alarm: Option<Difference>,
    mapping: Option<(u64, u64)>,
    mapped: u32,
    file: u32,
}

impl Findings {
    /// Starts without any pairs. With `exact`, no rule is used.
    pub fn new(exact: bool) -> Self {
        Self {
            found: Comparison::default(),
            pairs: Pairs::default(),
            is_unpaired: false,
            exact,
            clocks: Clocks::default(),
            begin: 0,
            named_by: Vec::new(),
            task: None,
            due: Vec::new(),
            alarm: None,
            mapping: None,
            mapped: 0,
            file: 0,
        }
    }

    /// Begins the section of a task.
    pub fn begin_section(&mut self, pid: i32, tid: i32) {
        self.begin = self.found.differences.len();
        self.due.clear();
        self.mapping = None;
        self.task = Some(TaskName {
            pid,
            tid,
            comm: String::new(),
        });
    }

    /// Ignores files that one image lacks, if only mappings refer to them, and the other image has
    /// a file whose mappings look the same.
    fn forget_mapped(&mut self) {
        let mut n = self.begin;
        while let Some(difference) = self.found.differences.get(n) {
            let which = self.named_by[n];
            let is_file = difference.record == "File" && difference.field.is_empty();
            let object = difference.object.unwrap_or_default();
            if is_file
                && self.pairs.descriptors(which, object).is_empty()
                && self.pairs.has_twin(which, object)
            {
                self.found.differences.remove(n);
                self.named_by.remove(n);
                *self.found.rules.entry(Rule::MappedFiles).or_default() += 1;
            } else {
                n += 1;
            }
        }
    }

    /// Ends a section: adds descriptions to its differences that were unknown when they were found.
    pub fn end_section(&mut self) {
        self.judge_alarm(None);
        if !self.exact {
            self.forget_mapped();
        }
        let comm = self.task.take().map(|task| task.comm).unwrap_or_default();
        let section = self.found.differences[self.begin..].iter_mut();
        for (difference, which) in section.zip(&self.named_by[self.begin..]) {
            if let Some(task) = &mut difference.task {
                task.comm.clone_from(&comm);
            }
            if let Some(object) = difference.object {
                difference.descriptors = self.pairs.descriptors(*which, object);
                if difference.what.is_empty() {
                    self.pairs
                        .what(*which, object)
                        .clone_into(&mut difference.what);
                }
            }
        }
        self.pairs.end_section();
    }

    /// Adds a difference for a record that only one image has.
    pub fn only(&mut self, record: &Record, which: Which) {
        self.look(record, which);
        self.unpaired(record, which);
        let mut difference = self.at(record, String::new());
        match which {
            Which::First => difference.first = Value::Present,
            Which::Second => difference.second = Value::Present,
        }
        if which == Which::Second && !self.exact && record.kind == Kind::Siginfo {
            match self.sent_by_timer(record) {
                Some(Sender::Timer) => return self.count(Rule::RunningTimers),
                Some(Sender::Alarm) if self.alarm.is_none() => {
                    self.alarm = Some(difference);
                    return;
                }
                _ => {}
            }
        }
        self.add_named_by(difference, which);
    }

    fn count(&mut self, rule: Rule) {
        *self.found.rules.entry(rule).or_default() += 1;
    }

    /// Returns the timer that can have sent a signal since the first image, if there is one.
    fn sent_by_timer(&self, record: &Record) -> Option<Sender> {
        const PREALLOCATED: u32 = 2;
        const ALARM: u32 = 14;
        let (signal, _) = layout::Siginfo::read_from_prefix(&record.payload).ok()?;
        let timer = number(&signal.info[16..20]) as u32;
        match signal {
            layout::Siginfo {
                queued: PREALLOCATED,
                ..
            } => self.due.contains(&timer).then_some(Sender::Timer),
            layout::Siginfo {
                signo: ALARM,
                shared: 1,
                ..
            } => Some(Sender::Alarm),
            _ => None,
        }
    }

    /// Ignores an alarm if the process's interval timer has expired.
    fn judge_alarm(&mut self, timers: Option<&Record>) {
        let Some(difference) = self.alarm.take() else {
            return;
        };
        let timers = timers.and_then(|record| {
            let timers = layout::Timers::read_from_prefix(&record.payload).ok()?;
            Some(timers.0)
        });
        match timers {
            Some(timers) if itimer_is_due(&self.clocks, &timers) => {
                self.count(Rule::RunningTimers);
            }
            _ => self.add_named_by(difference, Which::Second),
        }
    }

    /// Records that one image lacks a record.
    pub fn unpaired(&mut self, record: &Record, which: Which) {
        self.is_unpaired = true;
        match which {
            Which::First => self.pairs.only_first(record.objref),
            Which::Second => self.pairs.only_second(record.objref),
        }
    }

    /// Compares two records of one type that describe the same thing.
    pub fn records(&mut self, first: &Record, second: &Record) {
        if first.kind == Kind::Header {
            self.clocks = Clocks::new(&first.payload, &second.payload);
        }
        self.pairs.pair(first.objref, second.objref);
        match first.kind {
            Kind::Timers => self.judge_alarm(Some(first)),
            Kind::PosixTimer => {
                if let Ok((timer, _)) = layout::PosixTimer::read_from_prefix(&first.payload)
                    && posix_timer_is_due(&self.clocks, &timer)
                {
                    self.due.push(timer.id);
                }
            }
            _ => {}
        }
        self.look(second, Which::Second);
        self.look(first, Which::First);
        if first.payload == second.payload && !has_references(first.kind) {
            return;
        }
        let shape = shape(first.kind);
        let size = match first.payload.len().min(second.payload.len()) < shape.size {
            true => 0,
            false => shape.size,
        };
        let both = Pair {
            kind: first.kind,
            first: &first.payload,
            second: &second.payload,
        };
        if size != 0 {
            self.fields(first, &both, "", &shape.head);
        }
        let tails = (&first.payload[size..], &second.payload[size..]);
        match &shape.tail {
            _ if size != shape.size => self.content(first, "payload", 0, tails),
            Tail::Bytes(name) => self.tail(first, name, size, tails),
            Tail::Elements {
                name,
                size: each,
                fields,
                key,
            } => self.elements(first, (name, *each, fields, *key), tails),
        }
    }

    /// Compares the part after the structure.
    fn tail(&mut self, record: &Record, name: &str, at: usize, tails: (&[u8], &[u8])) {
        match record.kind {
            Kind::Message => {
                let files = message_files(record)
                    .min(tails.0.len() / 4)
                    .min(tails.1.len() / 4);
                let (first, second) = (tails.0.split_at(files * 4), tails.1.split_at(files * 4));
                for n in 0..files {
                    let number = |files: &[u8]| number(&files[n * 4..n * 4 + 4]) as u32;
                    let numbers = (number(first.0), number(second.0));
                    self.reference(record, format!("file[{n}]"), numbers);
                }
                self.content(record, name, at + files * 4, (first.1, second.1));
            }
            Kind::Data => {
                let offset = number(&record.payload[..8]) as usize;
                self.content(record, name, offset, tails);
            }
            _ => self.content(record, name, at, tails),
        }
    }

    /// Compares bytes. `at` is the offset of the first.
    fn content(&mut self, record: &Record, name: &str, at: usize, both: (&[u8], &[u8])) {
        let (first, second) = both;
        if first == second {
            return;
        }
        let differs = first.iter().zip(second).position(|(a, b)| a != b);
        let differs = differs.unwrap_or(first.len().min(second.len()));
        let name = match record.kind {
            Kind::Xstate => xsave(differs),
            _ => name,
        };
        let is_content = matches!(record.kind, Kind::Pages | Kind::Data | Kind::Xstate);
        let value = |bytes: &[u8]| match Value::bytes(bytes) {
            text @ Value::Text(_) if !is_content => text,
            _ if bytes.len() == differs => Value::Absent,
            _ => Value::raw(&bytes[differs..]),
        };
        let mut difference = self.at(record, name.to_owned());
        difference.offset = Some((at + differs) as u64);
        difference.first = value(first);
        difference.second = value(second);
        self.add(difference);
    }

    /// Compares the fields of a structure.
    fn fields(&mut self, record: &Record, both: &Pair<'_>, prefix: &str, fields: &[Field]) {
        for field in fields {
            let range = field.at..field.at + field.size;
            let (first, second) = (&both.first[range.clone()], &both.second[range]);
            if is_reference(record.kind, &field.name) {
                let numbers = (number(first) as u32, number(second) as u32);
                self.reference(record, joined(prefix, &field.name), numbers);
                continue;
            }
            if first == second && (self.exact || !stands_still(&self.clocks, both, field)) {
                continue;
            }
            if first != second
                && !self.exact
                && let Some(rule) = Rule::of(record.kind, &field.name)
                && rule.ignores(&mut self.clocks, both, field)
            {
                *self.found.rules.entry(rule).or_default() += 1;
                continue;
            }
            let mut difference = self.at(record, joined(prefix, &field.name));
            difference.first = Value::of(field, first);
            difference.second = match first == second {
                true => Value::Text("the same, although time has passed".to_owned()),
                false => Value::of(field, second),
            };
            self.add(difference);
        }
    }

    fn reference(&mut self, record: &Record, field: String, (first, second): (u32, u32)) {
        if self.pairs.alike(first, second) {
            return;
        }
        if record.kind == Kind::Vma && !self.exact && self.pairs.map_alike(first, second) {
            *self.found.rules.entry(Rule::MappedFiles).or_default() += 1;
            return;
        }
        let mut difference = self.at(record, field);
        difference.first = Value::Object(first);
        difference.second = Value::Object(second);
        self.add(difference);
    }

    /// Compares arrays of structures, element by element.
    fn elements(
        &mut self,
        record: &Record,
        (name, size, fields, key): (&str, usize, &[Field], Option<&'static str>),
        tails: (&[u8], &[u8]),
    ) {
        let second = keyed(tails.1, size, fields, key);
        let mut left: HashMap<(u64, usize), (usize, &[u8])> = second
            .iter()
            .enumerate()
            .map(|(n, (key, element))| (*key, (n, *element)))
            .collect();
        let mut last = None;
        for (id, element) in keyed(tails.0, size, fields, key) {
            let name = element_name(name, id.0, id.1);
            let Some((n, other)) = left.remove(&id) else {
                self.element_of_one(record, name, true);
                continue;
            };
            if last.is_some_and(|last| n < last) {
                let mut difference = self.at(record, joined(&name, "order"));
                difference.first = Value::Present;
                self.add(difference);
            }
            last = Some(n);
            if element.len() != size || other.len() != size {
                self.content(record, &name, 0, (element, other));
                continue;
            }
            let both = Pair {
                kind: record.kind,
                first: element,
                second: other,
            };
            self.fields(record, &both, &name, fields);
        }
        let mut left: Vec<_> = left.into_iter().collect();
        left.sort_unstable_by_key(|(_, (n, _))| *n);
        for (id, _) in left {
            self.element_of_one(record, element_name(name, id.0, id.1), false);
        }
    }

    fn element_of_one(&mut self, record: &Record, name: String, in_first: bool) {
        let mut difference = self.at(record, name);
        match in_first {
            true => difference.first = Value::Present,
            false => difference.second = Value::Present,
        }
        self.add(difference);
    }

    /// Compares memory that both images have at this address.
    pub fn memory(&mut self, record: &Record, address: u64, both: (&[u8], &[u8])) {
        const PAGE: usize = 4096;
        if both.0 == both.1 {
            return;
        }
        for (n, (first, second)) in both.0.chunks(PAGE).zip(both.1.chunks(PAGE)).enumerate() {
            self.content(
                record,
                "memory",
                address as usize + n * PAGE,
                (first, second),
            );
        }
    }

    /// Adds a difference for pages that only one image has, or that the images store in different
    /// ways.
    pub fn pages(&mut self, record: &Record, field: &str, address: u64, sides: [Value; 2]) {
        let [first, second] = sides;
        let mut difference = self.at(record, field.to_owned());
        difference.offset = Some(address);
        difference.first = first;
        difference.second = second;
        self.add(difference);
    }

    /// Returns a difference of a record, without values.
    fn at(&self, record: &Record, field: String) -> Difference {
        let object = match record.kind {
            Kind::Pages | Kind::Same | Kind::Vma => self.mapped,
            Kind::Epoll => 0,
            Kind::Message => number(&record.payload[..4.min(record.payload.len())]) as u32,
            _ if record.objref != 0 => record.objref,
            kind if belongs_to_file(kind) => self.file,
            _ => 0,
        };
        Difference {
            task: self.task.clone(),
            record: format!("{:?}", record.kind),
            object: Some(object).filter(|&object| object != 0),
            mapping: match record.kind {
                Kind::Vma | Kind::Pages | Kind::Same => self.mapping,
                _ => None,
            },
            what: match record.kind {
                Kind::Vma | Kind::Pages | Kind::Same if self.mapped == 0 => "anonymous".to_owned(),
                _ => String::new(),
            },
            field,
            ..Difference::default()
        }
    }

    fn add(&mut self, difference: Difference) {
        self.add_named_by(difference, Which::First);
    }

    fn add_named_by(&mut self, difference: Difference, which: Which) {
        match self.found.differences.len() {
            MOST.. => self.found.more += 1,
            _ => {
                self.found.differences.push(difference);
                self.named_by.push(which);
            }
        }
    }

    /// Takes from a record the names for later differences.
    fn look(&mut self, record: &Record, which: Which) {
        let bytes = &record.payload[..];
        match record.kind {
            Kind::Task => {
                if let (Ok((task, _)), Some(name)) =
                    (layout::Task::read_from_prefix(bytes), &mut self.task)
                {
                    name.comm = layout::name(&task.comm);
                }
            }
            Kind::Vma => {
                if let Ok((vma, _)) = layout::Vma::read_from_prefix(bytes) {
                    self.mapping = Some((vma.start, vma.end));
                    self.mapped = vma.file;
                }
            }
            Kind::File => {
                if let Ok((file, path)) = layout::File::read_from_prefix(bytes) {
                    self.file = record.objref;
                    let shows = layout::File {
                        pos: 0,
                        inode: 0,
                        cred: 0,
                        size: 0,
                        state: 0,
                        ..file
                    };
                    let shows = [shows.as_bytes(), path].concat();
                    self.pairs.map(which, record.objref, shows, file.inode);
                    let name = file_name(file.kind, path);
                    self.pairs.name(which, record.objref, file.inode, name);
                }
            }
            Kind::Files => {
                for fd in bytes.chunks_exact(size_of::<layout::Fd>()) {
                    if let Ok(fd) = layout::Fd::read_from_bytes(fd) {
                        self.pairs.descriptor(which, fd.file, fd.fd);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A timer that has sent a signal.
enum Sender {
    /// A POSIX timer.
    Timer,
    /// A signal of ITIMER_REAL, whose state is known only later.
    Alarm,
}

fn belongs_to_file(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Eventfd
            | Kind::Signalfd
            | Kind::Timerfd
            | Kind::Inotify
            | Kind::Watch
            | Kind::InotifyEvent
    )
}

fn message_files(record: &Record) -> usize {
    let message = layout::Message::read_from_prefix(&record.payload);
    message.map_or(0, |(message, _)| message.nr_files as usize)
}

/// An element of an array: its key, and the number of earlier elements with the same key.
type Keyed<'a> = ((u64, usize), &'a [u8]);

fn keyed<'a>(
    bytes: &'a [u8],
    size: usize,
    fields: &[Field],
    key: Option<&'static str>,
) -> Vec<Keyed<'a>> {
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    bytes
        .chunks(size)
        .enumerate()
        .map(|(n, element)| {
            let key = key.and_then(|key| value_of(fields, key, element));
            let key = key.unwrap_or(n as u64);
            let earlier = seen.entry(key).or_default();
            *earlier += 1;
            ((key, *earlier - 1), element)
        })
        .collect()
}

/// Returns the description of a file.
fn file_name(kind: u32, path: &[u8]) -> String {
    let kind = match kind {
        1 | 5 | 11 | 12 => "",
        2 => "(deleted)",
        3 => "pipe",
        4 => "shared memory",
        6 => "eventfd",
        7 => "signalfd",
        8 => "timerfd",
        9 => "epoll",
        10 => "pseudo-terminal",
        13 => "socket",
        14 => "inotify",
        _ => "file of unknown kind",
    };
    let path = layout::name(path);
    match (path.as_str(), kind) {
        (path, "") => path.to_owned(),
        ("", kind) => kind.to_owned(),
        (path, kind) => format!("{path} {kind}"),
    }
}
