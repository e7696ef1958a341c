// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Serves the host's requests, one at a time.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use crucible_agent::cgroup::Cgroup;
use crucible_protocol::{
    Begin, CONSOLE_MARK, Envelope, Reply, Request, TOOLS_DIR, Terminal, ToolRun, VERSION, WORK_DIR,
    frame::{self, FrameError},
};
use nix::{
    fcntl::OFlag,
    sys::{
        reboot::{RebootMode, reboot},
        utsname::uname,
    },
    time::{ClockId, clock_gettime},
    unistd::{Pid, pipe2, sync},
};

use crate::{
    boot,
    channel::Channel,
    container::{self, Container, Start},
    files, observe,
    reaper::Reaper,
    second, tool,
};

/// Limit for an interactive session.
const SESSION_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Limit for tasks that another tool restored to quiesce.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Number of rounds of [`calibrate`]: some tens of milliseconds in an emulated CPU, so that the
/// result includes the effect of the host's scheduler.
const CALIBRATION: u32 = 20_000_000;

/// State of the agent between requests.
pub struct Agent {
    reaper: Reaper,
    containers: HashMap<String, Container>,
    begun: bool,
}

impl Agent {
    /// Creates an agent without containers.
    pub fn new() -> Result<Self> {
        Ok(Self {
            reaper: Reaper::new()?,
            containers: HashMap::new(),
            begun: false,
        })
    }

    /// Serves requests until the host sends `Shutdown`.
    pub fn serve(&mut self, mut channel: Channel) -> Result<()> {
        loop {
            let request: Envelope<Request> =
                frame::read(&mut channel).context("reading the channel")?;
            let last = request.body == Request::Shutdown;
            let body = self
                .answer(request.body)
                .unwrap_or_else(|error| Reply::Failed {
                    message: format!("{error:#}"),
                });
            let reply = Envelope {
                id: request.id,
                body,
            };
            match frame::write(&mut channel, &reply) {
                // No byte was written, so the host gets an error and the guest continues.
                Err(FrameError::TooLong(bytes)) => {
                    let body = Reply::TooLarge {
                        bytes: bytes as u64,
                    };
                    let id = request.id;
                    frame::write(&mut channel, &Envelope { id, body })
                }
                result => result,
            }
            .context("writing the channel")?;
            if last {
                let Err(errno) = reboot(RebootMode::RB_AUTOBOOT);
                bail!("cannot shut down: {errno}");
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<Reply> {
        let early = matches!(
            request,
            Request::Hello { .. }
                | Request::Begin(_)
                | Request::Mark { .. }
                | Request::Calibrate
                | Request::Sysrq { .. }
                | Request::Shutdown
        );
        if !self.begun && !early {
            bail!("this guest has not begun yet");
        }
        match request {
            Request::Hello { version } => hello(version),
            Request::Begin(begin) => self.begin(&begin),
            Request::Mark { token } => mark(&token),
            Request::Calibrate => Ok(Reply::Calibrated { ns: calibrate() }),
            Request::Prepare { from } => self.prepare(from.as_deref()),
            Request::Stash { name } => self.stash(&name),
            Request::Exec {
                argv,
                env,
                cwd,
                timeout_ms,
            } => tool::exec(&mut self.reaper, &argv, &env, &cwd, ms(timeout_ms)).map(Reply::Tool),
            Request::Start {
                run,
                argv,
                env,
                cwd,
                trigger,
            } => {
                let start = Start {
                    argv: &argv,
                    env: &env,
                    cwd: &cwd,
                    trigger,
                };
                let container = Container::start(&run, &start, &mut self.reaper)?;
                let pid = container.root.as_raw();
                self.containers.insert(run, container);
                Ok(Reply::Started { pid })
            }
            Request::Wait { run, timeout_ms } => {
                let container = find(&mut self.containers, &run)?;
                container
                    .wait(ms(timeout_ms), &mut self.reaper)
                    .map(Reply::Stopped)
            }
            Request::Observe { run } => {
                observe::observe(find(&mut self.containers, &run)?.root).map(Reply::Observed)
            }
            Request::Checkpoint {
                run,
                image,
                log,
                timeout_ms,
            } => self
                .checkpoint(&run, &["-o", &image, "-l", &log], ms(timeout_ms))
                .map(Reply::Tool),
            Request::SecondImage {
                run,
                first,
                second,
                log,
                timeout_ms,
            } => self.second_image(&run, [&first, &second], &log, ms(timeout_ms)),
            Request::Kill { run, timeout_ms } => {
                let container = self.containers.remove(&run);
                let container = container.with_context(|| unknown(&run))?;
                container.kill(ms(timeout_ms), &mut self.reaper)?;
                Ok(Reply::Done)
            }
            Request::Restart {
                run,
                image,
                log,
                timeout_ms,
            } => self.restart(run, &image, &log, ms(timeout_ms)),
            Request::Cgroup { run } => {
                Cgroup::create(container::cgroup_dir(&run)?)?;
                Ok(Reply::Done)
            }
            Request::Adopt { run, pid } => {
                let cgroup = Cgroup::at(container::cgroup_dir(&run)?);
                let container = self.adopt(cgroup, pid)?;
                self.containers.insert(run, container);
                Ok(Reply::Done)
            }
            Request::Arm { run, trigger } => {
                find(&mut self.containers, &run)?.arm(trigger)?;
                Ok(Reply::Done)
            }
            Request::Thaw { run } => {
                find(&mut self.containers, &run)?.cgroup.thaw()?;
                Ok(Reply::Done)
            }
            Request::List { root, exclude } => {
                files::list(&root, &exclude).map(|entries| Reply::Files { entries })
            }
            Request::ReadFile {
                path,
                offset,
                length,
            } => files::read(&path, offset, length).map(|(data, end)| Reply::Data { data, end }),
            Request::WriteFile {
                path,
                offset,
                mode,
                data,
            } => files::write(&path, offset, mode, &data).map(|()| Reply::Done),
            Request::Break { name } => set_break(&name),
            Request::Sysrq { key } => {
                fs::write("/proc/sysrq-trigger", key.to_string())?;
                Ok(Reply::Done)
            }
            Request::Terminal {
                port,
                rows,
                columns,
                term,
            } => self.terminal(&port, rows, columns, &term),
            Request::Attach {
                port,
                argv,
                cwd,
                terminal,
            } => self.attach(&port, &argv, &cwd, terminal.as_ref()),
            Request::Sync | Request::Shutdown => {
                sync();
                Ok(Reply::Done)
            }
        }
    }

    fn begin(&mut self, begin: &Begin) -> Result<Reply> {
        if self.begun {
            bail!("this guest has begun already");
        }
        boot::set_clock(begin.now_ns)?;
        boot::reseed(&begin.seed)?;
        boot::mount_own().context("cannot set up the guest's disks")?;
        let identity = boot::identify(begin)?;
        boot::prepare().context("cannot prepare the guest")?;
        self.begun = true;
        Ok(Reply::Begun(identity))
    }

    fn prepare(&mut self, from: Option<&str>) -> Result<Reply> {
        files::empty(WORK_DIR)?;
        files::empty("/tmp")?;
        if let Some(name) = from {
            self.copy_tree(&format!("{}/.", files::stash_dir(name)?), WORK_DIR)?;
        }
        Ok(Reply::Done)
    }

    fn stash(&mut self, name: &str) -> Result<Reply> {
        let dir = files::stash_dir(name)?;
        if Path::new(&dir).exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        self.copy_tree(&format!("{WORK_DIR}/."), &dir)?;
        Ok(Reply::Done)
    }

    /// Copies a tree with its time stamps, which `make` compares.
    fn copy_tree(&mut self, from: &str, to: &str) -> Result<()> {
        let argv = ["cp", "-a", from, to].map(String::from);
        let limit = Duration::from_secs(120);
        let run = tool::exec(&mut self.reaper, &argv, &Default::default(), "/", limit)?;
        if !run.success() {
            bail!("cannot copy {from} to {to}: {}", run.stderr);
        }
        Ok(())
    }

    fn terminal(&mut self, port: &str, rows: u16, columns: u16, term: &str) -> Result<Reply> {
        let mut command = Command::new(format!("{TOOLS_DIR}/agent"));
        command
            .arg("--terminal")
            .arg(boot::port_path(port)?)
            .arg(format!("--rows={rows}"))
            .arg(format!("--columns={columns}"))
            .env("TERM", term);
        tool::spawn(&mut self.reaper, &mut command)?
            .finish(&mut self.reaper, SESSION_LIMIT)
            .map(Reply::Tool)
    }

    fn attach(
        &mut self,
        port: &str,
        argv: &[String],
        cwd: &str,
        terminal: Option<&Terminal>,
    ) -> Result<Reply> {
        let mut command = Command::new(format!("{TOOLS_DIR}/agent"));
        command
            .arg("--attach")
            .arg(boot::port_path(port)?)
            .arg("--cwd")
            .arg(cwd);
        if let Some(Terminal {
            rows,
            columns,
            term,
        }) = terminal
        {
            command
                .arg("--on-terminal")
                .arg(format!("--rows={rows}"))
                .arg(format!("--columns={columns}"))
                .env("TERM", term);
        }
        command.arg("--").args(argv);
        tool::spawn(&mut self.reaper, &mut command)?
            .finish(&mut self.reaper, SESSION_LIMIT)
            .map(Reply::Tool)
    }

    fn checkpoint(&mut self, run: &str, options: &[&str], limit: Duration) -> Result<ToolRun> {
        let root = find(&mut self.containers, run)?.root;
        let mut command = Command::new(format!("{TOOLS_DIR}/checkpoint"));
        // Every container has its own mount namespace.
        command
            .arg("--own-mounts")
            .args(options)
            .arg(root.to_string());
        tool::spawn(&mut self.reaper, &mut command)?.finish(&mut self.reaper, limit)
    }

    fn second_image(
        &mut self,
        run: &str,
        [first, second]: [&str; 2],
        log: &str,
        limit: Duration,
    ) -> Result<Reply> {
        let options = ["--no-sync", "-o", second, "-l", log];
        let tool = self.checkpoint(run, &options, limit)?;
        let (mut comparison, mut unreadable) = (None, None);
        if tool.success() {
            match second::compare(first, second)? {
                Ok(found) => comparison = Some(found),
                Err(error) => unreadable = Some(error),
            }
        }
        Ok(Reply::SecondImage {
            tool,
            comparison,
            unreadable,
        })
    }

    /// Adopts a container; without a first process, it is the remains of a failed restore.
    fn adopt(&mut self, cgroup: Cgroup, pid: Option<i32>) -> Result<Container> {
        let Some(root) = pid.map(Pid::from_raw) else {
            return Ok(Container::adopt(cgroup, Pid::from_raw(0), None));
        };
        // The process is frozen, so it has not ended; as an orphan it is a child of the agent.
        if !cgroup.wait_frozen(SETTLE_LIMIT)? {
            bail!("the restored tasks did not quiesce");
        }
        self.reaper.watch(root);
        Ok(Container::adopt(cgroup, root, Some(root)))
    }

    fn restart(&mut self, run: String, image: &str, log: &str, limit: Duration) -> Result<Reply> {
        let cgroup = Cgroup::create(container::cgroup_dir(&run)?)
            .with_context(|| format!("cannot make a cgroup for {run}"))?;
        cgroup.freeze()?;
        let (ready, handed) = pipe2(OFlag::O_CLOEXEC)?;
        let mut command = Command::new(format!("{TOOLS_DIR}/restart"));
        command
            .args([
                "--pidns",
                "--equal-mounts",
                "--frozen",
                "--wait",
                "--copy-status",
            ])
            .args(["-i", image, "-l", log, "--cgroup"])
            .arg(cgroup.dir())
            .arg(format!("--ready-fd={}", handed.as_raw_fd()));
        let tool = tool::with_fd(&mut self.reaper, &mut command, handed)?;
        let line = tool::first_line(&mut self.reaper, File::from(ready), limit)?;
        match line.and_then(|line| line.parse().ok()) {
            Some(pid) => {
                let container = Container::adopt(cgroup, Pid::from_raw(pid), Some(tool.pid));
                self.containers.insert(run, container);
                Ok(Reply::Restarted {
                    pid: Some(pid),
                    tool: None,
                })
            }
            None => {
                let tool = tool.finish(&mut self.reaper, Duration::from_secs(1))?;
                if cgroup.events()?.populated {
                    bail!(
                        "restart failed and left tasks behind in {}",
                        cgroup.dir().display()
                    );
                }
                cgroup.remove()?;
                Ok(Reply::Restarted {
                    pid: None,
                    tool: Some(tool),
                })
            }
        }
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn unknown(run: &str) -> String {
    format!("container {run} does not exist; start or restart one first")
}

fn find<'a>(all: &'a mut HashMap<String, Container>, run: &str) -> Result<&'a mut Container> {
    all.get_mut(run).with_context(|| unknown(run))
}

fn hello(version: u32) -> Result<Reply> {
    if version != VERSION {
        bail!(
            "the host has protocol version {version}, this agent {VERSION}: run `crucible rootfs build`"
        );
    }
    let name = uname()?;
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(Reply::Hello {
        version: VERSION,
        kernel: name.release().to_string_lossy().into_owned(),
        build: name.version().to_string_lossy().into_owned(),
        checkpoint: Path::new("/proc/self/ckpt_site").exists(),
        uptime_ms: (uptime.tv_sec() * 1000 + uptime.tv_nsec() / 1_000_000) as u64,
    })
}

/// Prints a mark on the console, at the one level that the console always prints. It opens a new
/// file for each mark, because the kernel limits the rate per open file.
fn mark(token: &str) -> Result<Reply> {
    // Without a newline the kernel holds the line back, for a continuation.
    let line = format!("<0>{CONSOLE_MARK}{token}\n");
    fs::write("/dev/kmsg", line).context("cannot write to /dev/kmsg")?;
    Ok(Reply::Done)
}

/// Runs a fixed computation that needs only the CPU. Returns its duration in nanoseconds.
fn calibrate() -> u64 {
    let began = Instant::now();
    let mut state = 1u64;
    for _ in 0..CALIBRATION {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    std::hint::black_box(state);
    began.elapsed().as_nanos() as u64
}

fn set_break(name: &str) -> Result<Reply> {
    let path = format!(
        "/sys/kernel/debug/checkpoint/break_{}",
        name.replace('-', "_")
    );
    if !Path::new(&path).exists() {
        bail!(
            "this kernel has no switch {name}: use the debug flavour, and see the names in {}",
            "/sys/kernel/debug/checkpoint"
        );
    }
    fs::write(&path, "1").with_context(|| format!("cannot set {path}"))?;
    Ok(Reply::Done)
}
