// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Turns console lines into alerts.
//!
//! A report begins with a line that only the kernel's checkers print, and extends over the lines
//! that follow. It ends with its own last line if it has one, otherwise when the console has been
//! silent for [`SILENCE`], and at most [`LONGEST`] after it began, so that a subscriber receives it
//! within a second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::alert::{Alert, AlertKind};

/// A report is complete when the console has been silent for this long.
const SILENCE: Duration = Duration::from_millis(300);
/// A report is delivered at most this long after it began.
const LONGEST: Duration = Duration::from_millis(900);
/// A report is delivered when it has this many lines.
const MOST_LINES: usize = 400;
/// Number of lines before a report that are included in it.
const CONTEXT: usize = 8;

/// Finds the reports in a console's lines.
#[derive(Default)]
pub(super) struct Classifier {
    context: VecDeque<String>,
    open: Option<Open>,
}

struct Open {
    alert: Alert,
    began: Instant,
    last: Instant,
}

impl Classifier {
    /// Takes the next line; returns the reports that it completed (two when a panic follows an
    /// oops).
    pub fn line(&mut self, line: &str, now: Instant) -> Vec<Alert> {
        let text = message(line);
        let head = headline(text);
        let mut closed = Vec::new();

        if let (Some(open), Some(kind)) = (&self.open, head)
            && kind == AlertKind::Panic
            && open.alert.kind != AlertKind::Panic
        {
            closed.extend(self.close());
        }
        match (&mut self.open, head) {
            (Some(open), _) => {
                open.alert.lines.push(line.to_owned());
                open.last = now;
                let has_rule = matches!(open.alert.kind, AlertKind::Kasan | AlertKind::Kcsan);
                if has_rule && is_rule(text) || is_end(text) || open.alert.lines.len() >= MOST_LINES
                {
                    closed.extend(self.close());
                }
            }
            (None, Some(kind)) => {
                let mut lines: Vec<_> = self.context.drain(..).collect();
                lines.push(line.to_owned());
                self.open = Some(Open {
                    alert: Alert {
                        kind,
                        headline: text.to_owned(),
                        lines,
                    },
                    began: now,
                    last: now,
                });
            }
            (None, None) => {
                if self.context.len() == CONTEXT {
                    self.context.pop_front();
                }
                self.context.push_back(line.to_owned());
            }
        }
        closed.extend(self.expire(now));
        closed
    }

    /// Returns the time at which to close the open report, or `None` if no report is open.
    pub fn deadline(&self) -> Option<Instant> {
        let open = self.open.as_ref()?;
        Some((open.last + SILENCE).min(open.began + LONGEST))
    }

    /// Closes the open report if its deadline has passed.
    pub fn expire(&mut self, now: Instant) -> Option<Alert> {
        if self.deadline()? <= now {
            self.close()
        } else {
            None
        }
    }

    /// Closes the open report and returns it.
    pub fn close(&mut self) -> Option<Alert> {
        self.open.take().map(|open| open.alert)
    }
}

/// Returns a console line without printk's prefixes: `[   12.345678][  T123] `.
pub(super) fn message(line: &str) -> &str {
    let mut text = line;
    while let Some(rest) = text.strip_prefix('[') {
        let Some((stamp, rest)) = rest.split_once(']') else {
            break;
        };
        let stamp = stamp.trim();
        let caller = stamp.strip_prefix(['T', 'C']).unwrap_or(stamp);
        if caller.is_empty() || !caller.chars().all(|c| c.is_ascii_digit() || c == '.') {
            break;
        }
        text = rest;
    }
    text.strip_prefix(' ').unwrap_or(text)
}

/// Returns true for the line, without printk's prefixes, with which the kernel panics.
pub(super) fn is_panic(text: &str) -> bool {
    headline(text) == Some(AlertKind::Panic)
}

/// Returns the kind of report that this line begins, if it begins one.
fn headline(text: &str) -> Option<AlertKind> {
    use AlertKind::*;

    const STARTS: &[(&str, AlertKind)] = &[
        ("Kernel panic - not syncing", Panic),
        ("PANIC: ", Panic),
        ("BUG: KASAN: ", Kasan),
        ("BUG: KFENCE: ", Kasan),
        ("BUG: KCSAN: ", Kcsan),
        ("UBSAN: ", Ubsan),
        ("BUG: unable to handle ", Oops),
        ("BUG: kernel NULL pointer", Oops),
        ("BUG: soft lockup", Lockup),
        ("BUG: workqueue lockup", Lockup),
        ("watchdog: BUG: soft lockup", Lockup),
        ("watchdog: CPU", Lockup),
        ("NMI watchdog: Watchdog detected hard LOCKUP", Lockup),
        ("BUG: held lock freed!", Lockdep),
        ("[ BUG: ", Lockdep),
        ("BUG: MAX_LOCK", Lockdep),
        ("BUG: ", Bug),
        ("ODEBUG: ", Bug),
        ("VFS: Busy inodes after unmount", Bug),
        ("unregister_netdevice: waiting for ", Bug),
        ("pagealloc: memory corruption", Bug),
        ("pagealloc: single bit error", Bug),
        ("ref_tracker: ", Bug),
        ("EXT4-fs error ", Bug),
        ("kernel BUG at ", Oops),
        ("Oops: ", Oops),
        ("Oops ", Oops),
        ("general protection fault", Oops),
        ("invalid opcode: ", Oops),
        ("divide error: ", Oops),
        ("stack segment: ", Oops),
        ("int3: ", Oops),
        ("double fault: ", Oops),
        ("WARNING: possible circular locking", Lockdep),
        ("WARNING: possible recursive locking", Lockdep),
        ("WARNING: possible irq lock inversion", Lockdep),
        ("WARNING: inconsistent lock state", Lockdep),
        ("WARNING: bad unlock balance", Lockdep),
        ("WARNING: bad contention", Lockdep),
        ("WARNING: lock held when returning", Lockdep),
        ("WARNING: held lock freed", Lockdep),
        ("WARNING: Nested lock was not taken", Lockdep),
        ("WARNING: suspicious RCU usage", Lockdep),
        ("INFO: trying to register non-static key", Lockdep),
        ("WARNING: ", Warning),
        ("INFO: task ", HungTask),
        ("INFO: rcu_", RcuStall),
        ("rcu: INFO: ", RcuStall),
    ];

    // The prefixes above do not identify these reports: their kind is in the middle of the line.
    // SLUB names the cache after BUG, without a colon.
    if text.starts_with("BUG ") && (text.contains("ainted): ") || text.contains("ainted:")) {
        return Some(Bug);
    }
    if text.starts_with("kmemleak: ") && text.contains("new suspected memory leak") {
        return Some(Kmemleak);
    }
    if text.starts_with("INFO: task ") && !text.contains(" blocked for more than ") {
        return None;
    }
    if text.starts_with("WARNING: ") && text.contains("-safe -> ") {
        return Some(Lockdep);
    }
    STARTS
        .iter()
        .find(|(start, _)| text.starts_with(start))
        .map(|&(_, kind)| kind)
}

/// Returns true for the last line of a report.
fn is_end(text: &str) -> bool {
    text.starts_with("---[ end trace") || text.starts_with("---[ end Kernel panic")
}

/// Returns true for the rule above and below KASAN's reports.
fn is_rule(text: &str) -> bool {
    text.len() > 20 && text.bytes().all(|b| b == b'=')
}

#[cfg(test)]
mod tests;
