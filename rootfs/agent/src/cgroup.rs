// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Operations on a cgroup v2 directory: freeze, wait, kill.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Mount point of cgroup v2.
pub const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

/// Content of `cgroup.events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// True when the cgroup or a descendant has live tasks.
    pub populated: bool,
    /// True when the cgroup is frozen and all of its tasks count as frozen.
    pub frozen: bool,
}

/// Content of `cgroup.freeze_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerState {
    /// Count of the event.
    pub count: u64,
    /// True when the trigger has fired.
    pub fired: bool,
    /// The triggering thread's id in the reader's pid namespace.
    pub tid: i32,
}

impl Cgroup {
    /// Opens an existing cgroup.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Creates a cgroup.
    pub fn create(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Finds the cgroup of a process.
    pub fn of(pid: &str) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = text
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .ok_or_else(|| io::Error::other("it is in no cgroup v2"))?;
        Ok(Self::at(Path::new(ROOT).join(path)))
    }

    /// Returns the directory of the cgroup.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns true for the root cgroup, which cannot be frozen.
    pub fn is_root(&self) -> bool {
        self.dir.components().eq(Path::new(ROOT).components())
    }

    /// Opens the directory.
    pub fn open(&self) -> io::Result<OwnedFd> {
        Ok(File::open(&self.dir)?.into())
    }

    /// Opens one of its files, for reading and poll.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        File::open(self.dir.join(name))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        fs::write(self.dir.join(name), text)
    }

    /// Starts a freeze. [`Self::wait_frozen`] waits for the tasks.
    pub fn freeze(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "1")
    }

    /// Thaws the cgroup.
    pub fn thaw(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "0")
    }

    /// Returns true when a freeze has been requested.
    pub fn is_freezing(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.dir.join("cgroup.freeze"))?.trim() == "1")
    }

    /// Sends SIGKILL to all tasks of the cgroup and its descendants, frozen or not.
    pub fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Moves a process into the cgroup, by its pid in the caller's namespace.
    pub fn attach(&self, pid: u32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Arms the trigger with a line such as `vfork 1`.
    pub fn arm(&self, line: &str) -> io::Result<()> {
        self.write("cgroup.freeze_at", line)
    }

    /// Reads the trigger.
    pub fn trigger(&self) -> io::Result<TriggerState> {
        parse_trigger(&fs::read_to_string(self.dir.join("cgroup.freeze_at"))?)
            .ok_or_else(|| io::Error::other("cgroup.freeze_at has an unknown format"))
    }

    /// Reads the events.
    pub fn events(&self) -> io::Result<Events> {
        Ok(parse_events(&fs::read_to_string(
            self.dir.join("cgroup.events"),
        )?))
    }

    /// Waits until the cgroup is frozen. Returns false at the limit.
    pub fn wait_frozen(&self, limit: Duration) -> io::Result<bool> {
        self.wait_events(limit, |events| events.frozen)
    }

    /// Returns true when none of its threads is runnable. A frozen thread can be runnable for a
    /// moment: if it was thawed and frozen again before it ran, it runs and goes back to sleep.
    pub fn is_asleep(&self) -> io::Result<bool> {
        let threads = fs::read_to_string(self.dir.join("cgroup.threads"))?;
        Ok(!threads.lines().any(|tid| {
            // A thread that has ended is not runnable.
            fs::read_to_string(format!("/proc/{tid}/stat"))
                .is_ok_and(|stat| stat_state(&stat) == Some('R'))
        }))
    }

    /// Waits until the cgroup is frozen or has no live task. Returns the state at that time; at the
    /// limit it is neither.
    pub fn wait_frozen_or_empty(&self, limit: Duration) -> io::Result<Events> {
        self.wait_events(limit, |events| events.frozen || !events.populated)?;
        self.events()
    }

    /// Waits until the cgroup has no live task. Returns false at the limit.
    pub fn wait_empty(&self, limit: Duration) -> io::Result<bool> {
        self.wait_events(limit, |events| !events.populated)
    }

    fn wait_events(&self, limit: Duration, done: impl Fn(Events) -> bool) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        let mut file = self.open_file("cgroup.events")?;
        loop {
            if done(parse_events(&reread(&mut file)?)) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut fds, poll_timeout(left)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Removes the cgroup, which must be empty.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.dir)
    }
}

/// Parses the state letter in `stat`; the name before it may contain any characters.
fn stat_state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Reads a kernel file from its start, which also rearms `poll`.
pub fn reread(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Converts a time for `poll`, rounded up so that a loop does not spin.
pub fn poll_timeout(left: Duration) -> PollTimeout {
    let ms = left.as_micros().div_ceil(1000).min(i32::MAX as u128);
    PollTimeout::try_from(ms as i32).unwrap_or(PollTimeout::MAX)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

fn parse_events(text: &str) -> Events {
    Events {
        populated: field(text, "populated") == Some("1"),
        frozen: field(text, "frozen") == Some("1"),
    }
}

fn parse_trigger(text: &str) -> Option<TriggerState> {
    Some(TriggerState {
        count: field(text, "count")?.parse().ok()?,
        fired: field(text, "fired")? == "1",
        tid: field(text, "pid")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_name() {
        let events = parse_events("populated 1\nfrozen 0\n");
        assert_eq!((events.populated, events.frozen), (true, false));
    }

    #[test]
    fn a_task_s_name_does_not_hide_its_state() {
        assert_eq!(stat_state("7 (a) R b) S 1 7 7 0"), Some('S'));
        assert_eq!(stat_state("7 (make) R 1 7 7 0"), Some('R'));
        assert_eq!(stat_state(""), None);
    }

    #[test]
    fn a_trigger_reads_as_documented() {
        let text = "event vfork\narg 0\ntarget 3\ncount 1\nfired 0\npid 0\n";
        let state = parse_trigger(text).unwrap();
        assert_eq!((state.count, state.fired, state.tid), (1, false, 0));
        assert_eq!(parse_trigger("count x\n"), None);
    }

    #[test]
    fn a_short_wait_is_never_a_busy_one() {
        assert_eq!(
            poll_timeout(Duration::from_micros(1)),
            PollTimeout::from(1u8)
        );
    }
}
