// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a cell once: starts it, may freeze or restart it, and collects its observations.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    ffi::CString,
    fs::{self, File},
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use crucible_agent::{
    cgroup::{self, Cgroup},
    sys,
};
use crucible_protocol::KEEP_DIR;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    mount::{MsFlags, mount},
    sched::{CloneFlags, sched_yield, unshare},
    sys::{
        memfd::{MFdFlags, memfd_create},
        personality::{self, Persona},
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{
        ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execv, fork, pipe2, read,
        setsid,
    },
};

use crate::second::{self, Second};

/// Time limit for each phase of a cell; a phase normally takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Factor for [`LIMIT`] in a guest that is slower than usual.
static PATIENCE: AtomicU32 = AtomicU32::new(1);

/// Sets the factor for all limits of a cell.
pub fn set_patience(factor: u32) {
    PATIENCE.store(factor.max(1), Ordering::Relaxed);
}

fn limit() -> Duration {
    LIMIT * PATIENCE.load(Ordering::Relaxed)
}

/// Time that a tree may still need to settle after it reads as frozen.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// The trigger for the tracer's getppid(2), at which it parks; no other task makes this call.
const AT: &str = "syscall 110 1";

/// The files that a cell writes, with a label for their author.
const LOGS: [(&str, &str); 3] = [
    ("tracer.log", "tracer sees"),
    ("init.log", "init sees"),
    ("seen.log", "tasks see"),
];

/// The way in which a cell is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Run to the end without interruption.
    Undisturbed,
    /// Like `Undisturbed`, but block steps are replaced by single steps.
    Absent,
    /// Frozen where the tracer parks, then thawed.
    Control,
    /// Frozen where the tracer parks, checkpointed, killed, restarted, and thawed.
    Restarted,
}

/// The result of a run.
#[derive(Debug)]
pub enum Outcome {
    /// The run ended normally: its observations, each with its author.
    Seen(Vec<String>),
    /// checkpoint(2) refused the tree, for this reason.
    Refused(String),
    /// checkpoint(2) refused the restarted tree, for this reason.
    SecondRefused(String),
    /// The run did not end normally, for this reason.
    Failed(String),
}

/// Runs cells.
pub struct CellRunner {
    program: PathBuf,
    directory: PathBuf,
    runs: Cell<u32>,
    /// True when a restarted cell's second image is compared.
    eye: bool,
    /// The comparison of the last restarted run.
    seen: RefCell<Second>,
}

/// Result of waiting for the tracer to park.
enum Parked {
    Frozen,
    Failed(String),
}

impl CellRunner {
    /// Returns a runner for cells of `program`, which work in `directory`. With `eye`, restarted
    /// cells are checkpointed once more.
    pub fn new(program: &Path, directory: &Path, eye: bool) -> Self {
        Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            runs: Cell::new(0),
            eye,
            seen: RefCell::default(),
        }
    }

    /// Takes the comparison of images of the last restarted run.
    pub fn second(&self) -> Second {
        self.seen.take()
    }

    /// Runs a cell once.
    ///
    /// # Errors
    /// Fails if the result of the cell cannot be determined, or if its tasks cannot be removed.
    pub fn run(&self, name: &str, mode: Mode) -> Result<Outcome> {
        self.runs.set(self.runs.get() + 1);
        let directory = self.directory.join("run");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let cgroup = Cgroup::create(self.cgroup("")).context("cannot create a cgroup")?;
        let outcome = self.run_in(&cgroup, &directory, name, mode);
        cgroup.kill()?;
        ensure!(cgroup.wait_empty(limit())?, "tasks cannot be killed");
        cgroup.remove().context("tasks remain in the cgroup")?;
        outcome
    }

    fn cgroup(&self, what: &str) -> PathBuf {
        let number = self.runs.get();
        Path::new(cgroup::ROOT).join(format!("matrix.{number}{what}"))
    }

    fn run_in(&self, cgroup: &Cgroup, at: &Path, name: &str, mode: Mode) -> Result<Outcome> {
        let (go, gate) = pipe2(OFlag::O_CLOEXEC)?;
        let dir = cgroup.open()?;
        // SAFETY: this program has a single thread.
        let Some(root) = (unsafe { sys::fork_container(dir.as_fd()) }).context("cannot fork")?
        else {
            drop(gate);
            let error = self.become_cell(&go, at, name, mode).unwrap_err();
            eprintln!("matrix: cannot start the cell: {error:#}");
            std::process::exit(127);
        };
        if matches!(mode, Mode::Control | Mode::Restarted) {
            cgroup.arm(AT).context("the kernel rejected the trigger")?;
        }
        File::from(gate).write_all(b"g")?;
        let outcome = match mode {
            Mode::Undisturbed | Mode::Absent => finish(cgroup, at),
            Mode::Control => match wait_parked(cgroup, at)? {
                Parked::Failed(why) => Ok(Outcome::Failed(why)),
                Parked::Frozen => {
                    cgroup.thaw()?;
                    finish(cgroup, at)
                }
            },
            Mode::Restarted => match wait_parked(cgroup, at)? {
                Parked::Failed(why) => Ok(Outcome::Failed(why)),
                Parked::Frozen => self.restart(cgroup, root, at, name),
            },
        };
        // Tasks that exit on their own have already exited.
        cgroup.kill()?;
        ensure!(cgroup.wait_empty(limit())?, "tasks cannot be killed");
        match waitpid(root, None) {
            // The restarted run has already reaped the first root, before it created the second.
            Ok(_) | Err(Errno::ECHILD) => outcome,
            Err(errno) => Err(errno.into()),
        }
    }

    /// In the child: sets up and executes the first process of a cell.
    fn become_cell(&self, go: &OwnedFd, at: &Path, name: &str, mode: Mode) -> Result<Infallible> {
        setsid()?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // Mounts /proc with the flags that restart(2) uses, because the mounts must be equal.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, none)?;
        chdir(at)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let messages = File::create("messages")?;
        // The observations contain addresses.
        personality::set(personality::get()? | Persona::ADDR_NO_RANDOMIZE)?;
        read(go, &mut [0])?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&messages)?;
        let path = CString::new(self.program.as_os_str().as_bytes())?;
        let blocks = match mode {
            Mode::Absent => c"absent",
            _ => c"blocks",
        };
        let argv = [c"cell", &CString::new(name)?, blocks];
        Ok(execv(&path, &argv)?)
    }

    /// Checkpoints the frozen tree, kills it, restarts it, and waits for its end.
    fn restart(&self, cgroup: &Cgroup, root: Pid, at: &Path, name: &str) -> Result<Outcome> {
        let mut image = memory_file(c"image")?;
        let mut log = memory_file(c"log")?;
        let saved = save(root, &image, &log);
        cgroup.kill()?;
        ensure!(cgroup.wait_empty(limit())?, "tasks cannot be killed");
        waitpid(root, None)?;
        if let Err(errno) = saved {
            let why = format!("checkpoint(2): {errno:?}: {}", log_text(&mut log)?);
            return Ok(match errno {
                // Errors of the checkpoint itself, not refusals.
                Errno::EAGAIN | Errno::EFAULT | Errno::ENOMEM | Errno::EIO => Outcome::Failed(why),
                _ => Outcome::Refused(why),
            });
        }
        image.rewind()?;
        let second = Cgroup::create(self.cgroup(".again")).context("cannot create a cgroup")?;
        second.freeze()?;
        let kept = Path::new(KEEP_DIR)
            .join("matrix")
            .join(name.replace('/', "."));
        let look = |root: Pid| match self.eye {
            true => self.look(root, &image, &kept),
            false => Ok(None),
        };
        let outcome = restart_image(&second, &image, &mut log, at, &look);
        second.kill()?;
        ensure!(
            second.wait_empty(limit())?,
            "restarted tasks cannot be killed"
        );
        second
            .remove()
            .context("restarted tasks remain in the cgroup")?;
        outcome
    }

    /// Checkpoints a restarted tree once more and compares the images.
    fn look(&self, root: Pid, first: &File, kept: &Path) -> Result<Option<Outcome>> {
        let second = memory_file(c"second image")?;
        let mut log = memory_file(c"log")?;
        if let Err(errno) = save(root, &second, &log) {
            let why = format!("checkpoint(2): {errno:?}: {}", log_text(&mut log)?);
            return Ok(Some(Outcome::SecondRefused(why)));
        }
        self.seen.replace(second::compare(first, &second, kept)?);
        Ok(None)
    }
}

/// Observes the restarted tree with this root, which is still frozen. Returns the outcome if it
/// cannot be checkpointed.
type Look<'a> = dyn Fn(Pid) -> Result<Option<Outcome>> + 'a;

/// Restarts an image in a frozen cgroup, thaws the cgroup, and waits for the end of the tasks.
fn restart_image(
    cgroup: &Cgroup,
    image: &File,
    log: &mut File,
    at: &Path,
    look: &Look<'_>,
) -> Result<Outcome> {
    let (answer, to_answer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this program has a single thread.
    let caller = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(answer);
            let code = call(cgroup, image, log, to_answer).unwrap_or_else(|error| {
                eprintln!("matrix: the caller of restart(2): {error:#}");
                1
            });
            std::process::exit(code);
        }
    };
    drop(to_answer);
    let outcome = restarted(cgroup, answer, log, at, look);
    // The caller waits for its child, the root of the restarted tree, so that must be dead.
    cgroup.kill()?;
    if !cgroup.wait_empty(limit())? {
        bail!("restarted tasks cannot be killed");
    }
    match waitpid(caller, None)? {
        WaitStatus::Exited(_, 0) => outcome,
        status => match outcome? {
            Outcome::Seen(_) => Ok(Outcome::Failed(format!(
                "the root of the restarted tree did not exit with status 0: {status:?}"
            ))),
            outcome => Ok(outcome),
        },
    }
}

fn restarted(
    cgroup: &Cgroup,
    answer: OwnedFd,
    log: &mut File,
    at: &Path,
    look: &Look<'_>,
) -> Result<Outcome> {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, cgroup::poll_timeout(limit()))? == 0 {
        return Ok(Outcome::Failed(format!(
            "restart(2) did not return within {} s: {}",
            limit().as_secs(),
            states(cgroup)
        )));
    }
    let mut response = String::new();
    File::from(answer).read_to_string(&mut response)?;
    let root = response.strip_prefix("restored ").map(str::parse);
    let Some(Ok(root)) = root else {
        let why = log_text(log)?;
        return Ok(Outcome::Failed(format!(
            "restart(2) failed: {response}: {why}"
        )));
    };
    if !cgroup.wait_frozen(limit())? {
        return Ok(Outcome::Failed(format!(
            "the restarted tasks do not freeze: {}",
            states(cgroup)
        )));
    }
    if let Some(refused) = look(Pid::from_raw(root))? {
        return Ok(refused);
    }
    cgroup.thaw()?;
    finish(cgroup, at)
}

/// In the child: calls restart(2), and returns the exit status of the root of the tree.
fn call(cgroup: &Cgroup, image: &File, log: &File, answer: OwnedFd) -> Result<i32> {
    let dir = cgroup.open()?;
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = sys::RESTART_MOUNT_PROC | sys::RESTART_EQUAL_MOUNTS;
    let made = sys::restart(Some(dir.as_fd()), image.as_fd(), flags, Some(log.as_fd()));
    let mut answer = File::from(answer);
    let root = match made {
        Ok(root) => root,
        Err(errno) => {
            write!(answer, "{errno:?}")?;
            return Ok(0);
        }
    };
    write!(answer, "restored {root}")?;
    drop(answer);
    loop {
        match waitpid(root, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                kill(root, Signal::SIGKILL)?;
                return Err(errno.into());
            }
        }
    }
}

/// Calls checkpoint(2), and retries it while tasks that already count as frozen settle.
fn save(root: Pid, image: &File, log: &File) -> nix::Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let flags = sys::CHECKPOINT_OWN_MOUNTS;
        match sys::checkpoint(root, image.as_fd(), flags, Some(log.as_fd())) {
            Err(Errno::EAGAIN) if Instant::now() < deadline => {
                for file in [image, log] {
                    nix::unistd::ftruncate(file, 0)?;
                    nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekSet)?;
                }
                sched_yield()?;
            }
            result => return result,
        }
    }
}

/// Waits until the tracer has parked and the tree is frozen.
fn wait_parked(cgroup: &Cgroup, at: &Path) -> Result<Parked> {
    let events = cgroup.wait_frozen_or_empty(limit())?;
    Ok(if events.frozen {
        Parked::Frozen
    } else if events.populated {
        Parked::Failed(format!("the tree does not freeze: {}", hung(cgroup, at)))
    } else {
        Parked::Failed("the tree ended before its tracer parked".to_owned())
    })
}

/// Waits for the end of all tasks, and reads their observations.
fn finish(cgroup: &Cgroup, at: &Path) -> Result<Outcome> {
    if !cgroup.wait_empty(limit())? {
        return Ok(Outcome::Failed(format!(
            "did not end within {} s: {}",
            limit().as_secs(),
            hung(cgroup, at)
        )));
    }
    let mut seen = Vec::new();
    for (name, author) in LOGS {
        let mut lines = match lines_of(&at.join(name)) {
            Ok(lines) => lines,
            // The task that writes this file died first.
            Err(error) => {
                let stderr = messages(at);
                return Ok(Outcome::Failed(format!("no {name} ({error}); {stderr}")));
            }
        };
        // The order between tasks is undefined. The stable sort groups the lines by task and keeps
        // the order of each task's lines.
        lines.sort_by_key(|line| line.split(' ').next().unwrap_or_default().to_owned());
        seen.extend(lines.iter().map(|line| format!("{author}: {line}")));
    }
    let stderr = messages(at);
    if !stderr.is_empty() {
        seen.push(format!("cell fails: {stderr}"));
    }
    Ok(Outcome::Seen(seen))
}

fn messages(at: &Path) -> String {
    fs::read_to_string(at.join("messages")).unwrap_or_default()
}

fn lines_of(path: &Path) -> std::io::Result<Vec<String>> {
    let text = fs::read(path)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().map(str::to_owned).collect())
}

/// Returns the states of the tasks and the last line that the tracer has written.
fn hung(cgroup: &Cgroup, at: &Path) -> String {
    let lines = lines_of(&at.join("tracer.log")).unwrap_or_default();
    let last = lines.iter().rev().find(|line| !line.contains("  "));
    format!(
        "{}; the tracer's last line: {}",
        states(cgroup),
        last.map_or("nothing", String::as_str)
    )
}

fn states(cgroup: &Cgroup) -> String {
    let threads = fs::read_to_string(cgroup.dir().join("cgroup.threads")).unwrap_or_default();
    let about = |tid: &str| {
        let file = |name: &str| {
            let text = fs::read_to_string(format!("/proc/{tid}/{name}")).unwrap_or_default();
            text.trim().to_owned()
        };
        let status = file("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        format!(
            "{} {} in {} ({})",
            field("NSpid:").replace('\t', "/"),
            field("State:"),
            file("wchan"),
            file("ckpt_site"),
        )
    };
    let all: Vec<_> = threads.split_whitespace().map(about).collect();
    all.join(", ")
}

fn memory_file(name: &std::ffi::CStr) -> Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// Returns the messages that the kernel has written to the log, on one line.
fn log_text(log: &mut File) -> Result<String> {
    log.rewind()?;
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim().replace('\n', "; "))
}
