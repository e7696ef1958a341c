// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rules by which two images may differ: changes by the passing of time while the tree is
//! checkpointed, killed and restarted, and values that no restart can choose.

use serde::{Deserialize, Serialize};
use zerocopy::FromBytes;

use super::value::{number, signed};
use crate::image::layout::{self, Field, Header};
use crate::image::record::Kind;

/// Two records of one type, or two elements of their arrays.
pub struct Pair<'a> {
    /// The type.
    pub kind: Kind,
    /// The bytes in the first image.
    pub first: &'a [u8],
    /// The bytes in the second image.
    pub second: &'a [u8],
}

impl Pair<'_> {
    /// Returns both values of a field as numbers.
    fn values(&self, field: &Field) -> (i128, i128) {
        let value = |bytes: &[u8]| {
            let bytes = bytes
                .get(field.at..field.at + field.size)
                .unwrap_or_default();
            match field.form {
                layout::Form::Signed => i128::from(signed(bytes)),
                _ => i128::from(number(bytes)),
            }
        };
        (value(self.first), value(self.second))
    }

    /// Returns the structure at the beginning of the bytes in the first image.
    fn first<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(&self) -> Option<T> {
        T::read_from_prefix(self.first).ok().map(|(whole, _)| whole)
    }
}

/// Nanoseconds by which clocks that are read in turn may disagree.
const TOGETHER: i128 = 1_000_000_000;

/// The clocks of both images.
#[derive(Default)]
pub struct Clocks {
    /// Nanoseconds between the two images on CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME
    /// and CLOCK_TAI.
    real: i128,
    mono: i128,
    boot: i128,
    tai: i128,
    /// CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME and CLOCK_TAI of the first image.
    first: [i128; 4],
    /// CLOCK_MONOTONIC of the first image.
    began: i128,
    /// The shift of the first time on CLOCK_MONOTONIC.
    moved: Option<i128>,
}

impl Clocks {
    /// Takes the clocks from the two headers.
    pub fn new(first: &[u8], second: &[u8]) -> Self {
        let header = |bytes| {
            Header::read_from_prefix(bytes)
                .ok()
                .map(|(header, _)| header)
        };
        let (Some(first), Some(second)) = (header(first), header(second)) else {
            return Self::default();
        };
        let passed =
            |clock: fn(&Header) -> u64| i128::from(clock(&second)) - i128::from(clock(&first));
        Self {
            real: passed(|header| header.real_ns),
            mono: passed(|header| header.mono_ns),
            boot: passed(|header| header.boot_ns),
            tai: passed(|header| header.tai_ns),
            first: [first.real_ns, first.mono_ns, first.boot_ns, first.tai_ns].map(Into::into),
            began: first.mono_ns.into(),
            moved: None,
        }
    }

    /// Returns true when the same time has passed on all clocks. On a different machine, which has
    /// been started since, CLOCK_MONOTONIC and CLOCK_BOOTTIME may have gone back together.
    fn sound(&self) -> bool {
        let near = |one: i128, other: i128| (one - other).abs() < TOGETHER;
        self.real >= 0
            && near(self.real, self.tai)
            && near(self.mono, self.boot)
            && self.mono < self.real + TOGETHER
    }

    /// Returns true when the second image is of the same machine as the first.
    fn same_machine(&self) -> bool {
        (self.mono - self.real).abs() < TOGETHER
    }

    /// Returns true when this time can have passed.
    fn within(&self, time: i128) -> bool {
        (0..=self.real.max(self.mono)).contains(&time)
    }

    /// Returns true when a timer that had this time left, or was set for this time of a clock, has
    /// expired since.
    fn is_due(&self, value: i128, absolute: bool, clock: u32) -> bool {
        let now = match (absolute, clock) {
            (false, _) => 0,
            // CLOCK_REALTIME and its alarms, CLOCK_MONOTONIC, CLOCK_BOOTTIME and its alarms,
            // CLOCK_TAI.
            (true, 0 | 8) => self.first[0],
            (true, 1) => self.first[1],
            (true, 7 | 9) => self.first[2],
            (true, 11) => self.first[3],
            (true, _) => return false,
        };
        value - now <= self.real.max(self.mono)
    }

    /// Returns true when a time on CLOCK_MONOTONIC has moved by `by`, the time between checkpoint
    /// and restart, which is the same for all such times.
    fn moves(&mut self, by: i128) -> bool {
        let least = if self.same_machine() { 0 } else { -self.began };
        (least..=self.mono).contains(&by) && *self.moved.get_or_insert(by) == by
    }
}

/// A rule; [`Rule::meaning`] describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The clocks of the header.
    Clocks,
    /// CPU times.
    CpuTimes,
    /// Creation times of tasks in a different machine.
    StartTimes,
    /// Counters of the kernel.
    Counters,
    /// Times at which a sleep ends.
    SleepTimes,
    /// Timers that run while the tree is frozen.
    RunningTimers,
    /// The open file of a mapping.
    MappedFiles,
    /// Inode numbers of files without a name, and in /proc.
    InodeNumbers,
}

impl Rule {
    /// All rules.
    pub const ALL: &'static [Self] = &[
        Self::Clocks,
        Self::CpuTimes,
        Self::StartTimes,
        Self::Counters,
        Self::SleepTimes,
        Self::RunningTimers,
        Self::MappedFiles,
        Self::InodeNumbers,
    ];

    /// Returns the name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clocks => "clocks",
            Self::CpuTimes => "cpu-times",
            Self::StartTimes => "start-times",
            Self::Counters => "counters",
            Self::SleepTimes => "sleep-times",
            Self::RunningTimers => "running-timers",
            Self::MappedFiles => "mapped-files",
            Self::InodeNumbers => "inode-numbers",
        }
    }

    /// Returns the description of the differences that it ignores, for the reference.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Clocks => {
                "time that has passed: the same amount on CLOCK_REALTIME and CLOCK_TAI, and on \
                 CLOCK_MONOTONIC and CLOCK_BOOTTIME, unless a different machine has restarted \
                 the tree"
            }
            Self::CpuTimes => {
                "CPU time that a task has used since the checkpoint: it does not decrease, and grows \
                 by no more than the time that has passed"
            }
            Self::StartTimes => {
                "creation times of tasks that a different machine has restarted: it has started \
                 after they were created, and the times are those of the restart"
            }
            Self::Counters => {
                "context switches and page faults of the restart itself: the counters do not \
                 decrease"
            }
            Self::SleepTimes => {
                "the time at which a sleep for a duration ends, moved by the time between checkpoint \
                 and restart, the same for all tasks"
            }
            Self::RunningTimers => {
                "the remaining time of a timer, which is shorter by no more than the time that has \
                 passed; its expiry within that time; and the pending signal of an expired timer of \
                 the process: timers run while the restarted tasks are still frozen"
            }
            Self::MappedFiles => {
                "the open file of a mapping, if several are of one path with equal flags, or if only \
                 mappings refer to it: no program can notice the difference"
            }
            Self::InodeNumbers => {
                "the numbers that the kernel assigns to inodes without a name, and to those in /proc"
            }
        }
    }

    /// Returns the rule for a field.
    pub fn of(kind: Kind, field: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|rule| rule.covers(kind, field)).copied()
    }

    fn covers(self, kind: Kind, field: &str) -> bool {
        let mut fields = self.fields().iter();
        fields.any(|(of, fields)| *of == kind && fields.contains(&field))
    }

    /// Returns the fields to which the rule applies.
    #[must_use]
    pub fn fields(self) -> &'static [(Kind, &'static [&'static str])] {
        match self {
            Self::Clocks => &[(Kind::Header, &["mono_ns", "real_ns", "boot_ns", "tai_ns"])],
            Self::CpuTimes => &[
                (
                    Kind::Task,
                    &["utime", "stime", "exec_ns", "seen_utime", "seen_stime"],
                ),
                (Kind::Signal, &["seen_utime", "seen_stime"]),
            ],
            Self::StartTimes => &[(Kind::Task, &["start_ns", "start_boot_ns"])],
            Self::Counters => &[(Kind::Task, &["nvcsw", "nivcsw", "min_flt", "maj_flt"])],
            Self::SleepTimes => &[(Kind::Task, &["restart[3]", "restart[4]"])],
            Self::RunningTimers => &[
                (Kind::Timers, &["real_value", "virt_value", "prof_value"]),
                (Kind::Timerfd, &["value", "ticks", "flags"]),
                (Kind::PosixTimer, &["value", "flags"]),
                (Kind::Siginfo, &[]),
            ],
            Self::MappedFiles => &[(Kind::Vma, &["file"])],
            Self::InodeNumbers => &[
                (Kind::File, &["ino"]),
                (Kind::Inode, &["ino"]),
                (Kind::Pipe, &["ino"]),
            ],
        }
    }

    /// Returns true when the rule ignores the difference of one of its fields.
    pub fn ignores(self, clocks: &mut Clocks, pair: &Pair<'_>, field: &Field) -> bool {
        let (first, second) = pair.values(field);
        match self {
            Self::Clocks => clocks.sound(),
            Self::CpuTimes => clocks.within(second - first),
            Self::StartTimes => !clocks.same_machine() && (1..first).contains(&second),
            Self::Counters => second >= first,
            Self::SleepTimes => sleeps(clocks, pair, &field.name, second - first),
            Self::RunningTimers => timer(clocks, pair, &field.name, first, second),
            // The comparison of references applies this rule.
            Self::MappedFiles => false,
            Self::InodeNumbers => is_nameless(pair),
        }
    }
}

/// Returns true when the field is the end of the task's sleep, and has moved by the right time.
fn sleeps(clocks: &mut Clocks, pair: &Pair<'_>, field: &str, by: i128) -> bool {
    match sleep_clock(pair, field) {
        Some(MONOTONIC) => clocks.moves(by),
        Some(_) => clocks.within(by),
        None => false,
    }
}

/// Returns true for a timer that has continued, or has expired if its time had passed.
fn timer(clocks: &Clocks, pair: &Pair<'_>, field: &str, first: i128, second: i128) -> bool {
    const ARMED: i128 = 1;
    const EXPIRED: i128 = 2;
    match (pair.kind, field) {
        (Kind::Timerfd, "ticks") => {
            let Some(timer) = pair.first::<layout::Timerfd>() else {
                return false;
            };
            let passed = clocks.real.max(clocks.mono);
            let most = match i128::from(timer.interval) {
                0 => 1,
                interval => 1 + passed / interval,
            };
            timerfd_is_due(clocks, &timer) && (0..=most).contains(&(second - first))
        }
        (Kind::Timerfd, "flags") => {
            let due = pair.first::<layout::Timerfd>();
            let due = due.is_some_and(|timer| timerfd_is_due(clocks, &timer));
            let others = !(ARMED | EXPIRED);
            due && first & others == second & others && second & EXPIRED != 0
        }
        (Kind::PosixTimer, "flags") => {
            let due = pair.first::<layout::PosixTimer>();
            let due = due.is_some_and(|timer| posix_timer_is_due(clocks, &timer));
            due && first - second == ARMED
        }
        _ => clocks.within(first - second),
    }
}

fn timerfd_is_due(clocks: &Clocks, timer: &layout::Timerfd) -> bool {
    let absolute = timer.settime_flags & 1 != 0;
    timer.flags & 1 != 0 && clocks.is_due(timer.value.into(), absolute, timer.clockid)
}

/// Returns true for a POSIX timer that has expired since the first image.
pub fn posix_timer_is_due(clocks: &Clocks, timer: &layout::PosixTimer) -> bool {
    let absolute = timer.flags & 2 != 0;
    timer.flags & 1 != 0 && clocks.is_due(timer.value.into(), absolute, timer.clockid)
}

/// Returns true for an interval timer (ITIMER_REAL) that has expired since the first image.
pub fn itimer_is_due(clocks: &Clocks, timers: &layout::Timers) -> bool {
    timers.real_value != 0 && clocks.is_due(timers.real_value.into(), false, 0)
}

const MONOTONIC: u32 = 1;

/// Returns the clock of the task's sleep if this field is the time of its end.
fn sleep_clock(pair: &Pair<'_>, field: &str) -> Option<u32> {
    let task = pair.first::<layout::Task>()?;
    match (task.restart_kind, field) {
        // CKPT_RESTART_NANOSLEEP, _FUTEX and _POLL.
        (1, "restart[3]") => Some(task.restart[0] as u32),
        (4, "restart[4]") => Some(task.restart_clock),
        (5, "restart[3]") if task.restart[2] != 0 => Some(MONOTONIC),
        _ => None,
    }
}

/// Returns true when a field is equal and should differ: a sleep whose end was not moved.
pub fn stands_still(clocks: &Clocks, pair: &Pair<'_>, field: &Field) -> bool {
    const NEVER: i128 = i64::MAX as i128;
    let (time, _) = pair.values(field);
    Rule::SleepTimes.covers(pair.kind, &field.name)
        && clocks.mono != 0
        && time != NEVER
        && sleep_clock(pair, &field.name) == Some(MONOTONIC)
}

/// Returns true for a file without a path or in /proc, and for an object that belongs to one.
fn is_nameless(pair: &Pair<'_>) -> bool {
    match pair.kind {
        Kind::File => pair
            .first::<layout::File>()
            .is_some_and(|file| file.inode != 0 || !matches!(file.kind, 1 | 11)),
        _ => true,
    }
}
