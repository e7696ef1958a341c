// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A running guest as the engine sees it: questions, answers, and the kernel's alerts.

use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use crucible_protocol::{
    Envelope, FileEntry, Identity, Observation, Reply, Request, Stopped, ToolRun, Trigger, VERSION,
    frame::{self, FrameError, MAX_CHUNK},
};
use crucible_vmm::{Alert, Exit, Machine, TaskStates};
use thiserror::Error;

use crate::identity;

/// How much longer than the guest's own limit an answer may take.
const GRACE: Duration = Duration::from_secs(30);

/// How long an alert's report may take to be complete on the console.
const ALERT_SETTLE: Duration = Duration::from_secs(2);

/// Limit for requests that do not wait for anything.
const PROMPT: Duration = Duration::from_secs(120);

/// Why the guest gave no answer.
#[derive(Debug, Error)]
pub enum GuestError {
    /// Its kernel reported a fault.
    #[error("the guest's kernel reported: {}", headlines(.0))]
    Alert(Vec<Alert>),
    /// The machine ended.
    #[error("the machine ended: {0:?}")]
    Ended(Option<Exit>),
    /// There was no answer in time.
    #[error("the guest gave no answer in {} s to {what}", .limit.as_secs())]
    Silent {
        /// The question.
        what: &'static str,
        /// How long it had.
        limit: Duration,
        /// What its tasks were doing.
        states: Box<TaskStates>,
    },
    /// The agent answered that it could not.
    #[error("{0}")]
    Failed(String),
    /// The agent's answer makes no sense.
    #[error("the agent's answer to {0} is of the wrong kind: rebuild its disk")]
    Confused(&'static str),
    /// The channel cannot carry the question.
    #[error("the channel to the guest is broken")]
    Channel(#[from] FrameError),
    /// The host's side of the machine failed.
    #[error(transparent)]
    Machine(#[from] crucible_vmm::Error),
    /// The host has no random numbers.
    #[error("cannot get random numbers")]
    Random(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

fn headlines(alerts: &[Alert]) -> String {
    let lines: Vec<_> = alerts.iter().map(|a| a.headline.as_str()).collect();
    lines.join("; ")
}

/// What the guest said about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GuestInfo {
    /// Its kernel's release.
    pub kernel: String,
    /// Its kernel's build.
    pub build: String,
    /// Whether the kernel has checkpoint/restart.
    pub checkpoint: bool,
    /// Milliseconds from the kernel's start to the first answer.
    pub uptime_ms: u64,
}

/// Limit of an interactive session.
const SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

enum Incoming {
    Reply(Envelope<Reply>),
    Alert(Alert),
    Closed,
}

/// A guest that answers.
pub struct Guest {
    machine: Box<dyn Machine>,
    to: UnixStream,
    incoming: Receiver<Incoming>,
    alerts: Vec<Alert>,
    next: u64,
    info: GuestInfo,
    identity: Identity,
    /// Whether a debugger may hold it: then nothing is too slow.
    is_debugged: bool,
}

impl Guest {
    /// Waits for the agent of a machine that was just started, and makes it a guest of
    /// its own.
    pub fn connect(machine: Box<dyn Machine>, limit: Duration) -> Result<Self, GuestError> {
        let mut guest = Self::greet(machine, limit)?;
        let begin = identity::new().map_err(GuestError::Random)?;
        match guest.ask(Request::Begin(begin), "begin", PROMPT)? {
            Reply::Begun(identity) => guest.identity = identity,
            _ => return Err(GuestError::Confused("begin")),
        }
        Ok(guest)
    }

    /// Waits for the agent of a machine that was just started. Nothing more may be asked
    /// of such a guest; but its machine may be saved.
    pub fn greet(machine: Box<dyn Machine>, limit: Duration) -> Result<Self, GuestError> {
        let (sender, incoming) = channel();
        read_replies(machine.channel()?, sender.clone()).map_err(GuestError::Thread)?;
        forward_alerts(machine.alerts(), sender).map_err(GuestError::Thread)?;
        let mut guest = Self {
            to: machine.channel()?,
            is_debugged: machine.is_debugged(),
            machine,
            incoming,
            alerts: Vec::new(),
            next: 0,
            info: GuestInfo::default(),
            identity: Identity::default(),
        };
        let hello = Request::Hello { version: VERSION };
        match guest.ask(hello, "hello", limit)? {
            Reply::Hello {
                kernel,
                build,
                checkpoint,
                uptime_ms,
                ..
            } => {
                guest.info = GuestInfo {
                    kernel,
                    build,
                    checkpoint,
                    uptime_ms,
                };
                Ok(guest)
            }
            _ => Err(GuestError::Confused("hello")),
        }
    }

    /// What it said about itself.
    pub fn info(&self) -> &GuestInfo {
        &self.info
    }

    /// Who it has become; of no use after [`greet`](Self::greet), which leaves that open.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The machine it runs on.
    pub fn machine(&mut self) -> &mut dyn Machine {
        self.machine.as_mut()
    }

    /// How long something may take that should take no longer than this.
    fn limit(&self, usual: Duration) -> Duration {
        match self.is_debugged {
            true => SESSION,
            false => usual,
        }
    }

    /// Asks, and waits for the answer, an alert, or the end.
    fn ask(
        &mut self,
        body: Request,
        what: &'static str,
        limit: Duration,
    ) -> Result<Reply, GuestError> {
        let limit = self.limit(limit);
        let deadline = Instant::now() + limit + GRACE;
        self.next += 1;
        let id = self.next;
        match frame::write(&mut self.to, &Envelope { id, body }) {
            // Why it is closed, what comes in will tell.
            Err(FrameError::Io(_)) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left) {
                Ok(Incoming::Reply(reply)) if reply.id == id => {
                    return match reply.body {
                        Reply::Failed { message } => Err(GuestError::Failed(message)),
                        reply => Ok(reply),
                    };
                }
                // The answer to a question that was given up.
                Ok(Incoming::Reply(_)) => {}
                Ok(Incoming::Alert(alert)) => {
                    self.alerts.push(alert);
                    self.collect_alerts();
                    return Err(GuestError::Alert(std::mem::take(&mut self.alerts)));
                }
                Ok(Incoming::Closed) | Err(RecvTimeoutError::Disconnected) => {
                    self.collect_alerts();
                    if !self.alerts.is_empty() {
                        return Err(GuestError::Alert(std::mem::take(&mut self.alerts)));
                    }
                    return Err(GuestError::Ended(self.machine.wait(GRACE)?));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let states = self.machine.task_states(GRACE)?;
                    return Err(GuestError::Silent {
                        what,
                        limit,
                        states: Box::new(states),
                    });
                }
            }
        }
    }

    /// Takes what follows an alert at once: an oops is often followed by a panic.
    fn collect_alerts(&mut self) {
        let deadline = Instant::now() + ALERT_SETTLE;
        while let Ok(incoming) = self
            .incoming
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if let Incoming::Alert(alert) = incoming {
                self.alerts.push(alert);
            }
        }
    }

    /// Alerts that came while nobody asked anything.
    pub fn check_alerts(&mut self) -> Result<(), GuestError> {
        while let Ok(incoming) = self.incoming.try_recv() {
            if let Incoming::Alert(alert) = incoming {
                self.alerts.push(alert);
            }
        }
        if self.alerts.is_empty() {
            Ok(())
        } else {
            Err(GuestError::Alert(std::mem::take(&mut self.alerts)))
        }
    }

    fn done(
        &mut self,
        request: Request,
        what: &'static str,
        limit: Duration,
    ) -> Result<(), GuestError> {
        match self.ask(request, what, limit)? {
            Reply::Done => Ok(()),
            _ => Err(GuestError::Confused(what)),
        }
    }

    fn tool(
        &mut self,
        request: Request,
        what: &'static str,
        limit: Duration,
    ) -> Result<ToolRun, GuestError> {
        match self.ask(request, what, limit)? {
            Reply::Tool(run) => Ok(run),
            _ => Err(GuestError::Confused(what)),
        }
    }

    /// Empties the work directory, or fills it from a kept tree.
    pub fn prepare(&mut self, from: Option<&str>) -> Result<(), GuestError> {
        let from = from.map(str::to_owned);
        self.done(Request::Prepare { from }, "prepare", PROMPT)
    }

    /// Keeps the work directory.
    pub fn stash(&mut self, name: &str) -> Result<(), GuestError> {
        let name = name.to_owned();
        self.done(Request::Stash { name }, "stash", PROMPT)
    }

    /// Runs a helper.
    pub fn exec(
        &mut self,
        argv: &[String],
        env: &BTreeMap<String, String>,
        cwd: &str,
        limit: Duration,
    ) -> Result<ToolRun, GuestError> {
        let request = Request::Exec {
            argv: argv.to_vec(),
            env: env.clone(),
            cwd: cwd.to_owned(),
            timeout_ms: ms(self.limit(limit)),
        };
        self.tool(request, "exec", limit)
    }

    /// Starts a workload; returns its init.
    pub fn start(
        &mut self,
        run: &str,
        argv: &[String],
        env: &BTreeMap<String, String>,
        cwd: &str,
        trigger: Option<&Trigger>,
    ) -> Result<i32, GuestError> {
        let request = Request::Start {
            run: run.to_owned(),
            argv: argv.to_vec(),
            env: env.clone(),
            cwd: cwd.to_owned(),
            trigger: trigger.cloned(),
        };
        match self.ask(request, "start", PROMPT)? {
            Reply::Started { pid } => Ok(pid),
            _ => Err(GuestError::Confused("start")),
        }
    }

    /// Waits for a container to freeze or to end.
    pub fn wait(&mut self, run: &str, limit: Duration) -> Result<Stopped, GuestError> {
        let request = Request::Wait {
            run: run.to_owned(),
            timeout_ms: ms(self.limit(limit)),
        };
        match self.ask(request, "wait", limit)? {
            Reply::Stopped(stopped) => Ok(stopped),
            _ => Err(GuestError::Confused("wait")),
        }
    }

    /// Reads a container's tasks.
    pub fn observe(&mut self, run: &str) -> Result<Observation, GuestError> {
        let run = run.to_owned();
        match self.ask(Request::Observe { run }, "observe", PROMPT)? {
            Reply::Observed(observation) => Ok(observation),
            _ => Err(GuestError::Confused("observe")),
        }
    }

    /// Saves a frozen container.
    pub fn checkpoint(
        &mut self,
        run: &str,
        image: &str,
        log: &str,
        limit: Duration,
    ) -> Result<ToolRun, GuestError> {
        let request = Request::Checkpoint {
            run: run.to_owned(),
            image: image.to_owned(),
            log: log.to_owned(),
            timeout_ms: ms(self.limit(limit)),
        };
        self.tool(request, "checkpoint", limit)
    }

    /// Ends a container, leaving nothing of it.
    pub fn kill(&mut self, run: &str) -> Result<(), GuestError> {
        let request = Request::Kill {
            run: run.to_owned(),
            timeout_ms: ms(self.limit(PROMPT)),
        };
        self.done(request, "kill", PROMPT)
    }

    /// Brings a container back, frozen. The tool's own words if it could not.
    pub fn restart(
        &mut self,
        run: &str,
        image: &str,
        log: &str,
        limit: Duration,
    ) -> Result<Result<i32, Option<ToolRun>>, GuestError> {
        let request = Request::Restart {
            run: run.to_owned(),
            image: image.to_owned(),
            log: log.to_owned(),
            timeout_ms: ms(self.limit(limit)),
        };
        match self.ask(request, "restart", limit)? {
            Reply::Restarted { pid: Some(pid), .. } => Ok(Ok(pid)),
            Reply::Restarted { pid: None, tool } => Ok(Err(tool)),
            _ => Err(GuestError::Confused("restart")),
        }
    }

    /// Makes a cgroup for somebody else's container.
    pub fn cgroup(&mut self, run: &str) -> Result<(), GuestError> {
        let run = run.to_owned();
        self.done(Request::Cgroup { run }, "cgroup", PROMPT)
    }

    /// Takes over what somebody else restored and froze, or failed to restore.
    pub fn adopt(&mut self, run: &str, pid: Option<i32>) -> Result<(), GuestError> {
        let run = run.to_owned();
        self.done(Request::Adopt { run, pid }, "adopt", PROMPT)
    }

    /// Lets a container go on.
    pub fn thaw(&mut self, run: &str) -> Result<(), GuestError> {
        let run = run.to_owned();
        self.done(Request::Thaw { run }, "thaw", PROMPT)
    }

    /// Lists a tree.
    pub fn list(&mut self, root: &str, exclude: &[&str]) -> Result<Vec<FileEntry>, GuestError> {
        let request = Request::List {
            root: root.to_owned(),
            exclude: exclude.iter().map(|&name| name.to_owned()).collect(),
        };
        match self.ask(request, "list", PROMPT)? {
            Reply::Files { entries } => Ok(entries),
            _ => Err(GuestError::Confused("list")),
        }
    }

    /// Reads a whole file.
    pub fn read_file(&mut self, path: &str) -> Result<Vec<u8>, GuestError> {
        let mut content = Vec::new();
        loop {
            let request = Request::ReadFile {
                path: path.to_owned(),
                offset: content.len() as u64,
                length: MAX_CHUNK,
            };
            match self.ask(request, "read", PROMPT)? {
                Reply::Data { data, end } => {
                    content.extend(data);
                    if end {
                        return Ok(content);
                    }
                }
                _ => return Err(GuestError::Confused("read")),
            }
        }
    }

    /// Writes a whole file.
    pub fn write_file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), GuestError> {
        let mut offset = 0;
        loop {
            let end = content.len().min(offset + MAX_CHUNK);
            let request = Request::WriteFile {
                path: path.to_owned(),
                offset: offset as u64,
                mode,
                data: content[offset..end].to_vec(),
            };
            self.done(request, "write", PROMPT)?;
            offset = end;
            if offset == content.len() {
                return Ok(());
            }
        }
    }

    /// Sets a switch of the debug kernel.
    pub fn set_break(&mut self, name: &str) -> Result<(), GuestError> {
        let name = name.to_owned();
        self.done(Request::Break { name }, "break", PROMPT)
    }

    /// Has the kernel list its tasks, by whatever still answers.
    pub fn task_states(&mut self) -> Result<TaskStates, GuestError> {
        Ok(self.machine.task_states(GRACE)?)
    }

    /// Serves a shell on the machine's terminal until it ends.
    pub fn terminal(&mut self, rows: u16, columns: u16, term: &str) -> Result<ToolRun, GuestError> {
        let request = Request::Terminal {
            port: crucible_vmm::TERMINAL_PORT.to_owned(),
            rows,
            columns,
            term: term.to_owned(),
        };
        self.tool(request, "terminal", SESSION)
    }

    /// Shuts the guest down and waits for the machine's end.
    pub fn shutdown(mut self) -> Result<(), GuestError> {
        self.done(Request::Shutdown, "shutdown", PROMPT)?;
        let exit = self.machine.wait(self.limit(PROMPT))?;
        self.check_alerts()?;
        match exit {
            Some(Exit::Shutdown) => Ok(()),
            exit => Err(GuestError::Ended(exit)),
        }
    }
}

fn ms(limit: Duration) -> u64 {
    limit.as_millis() as u64
}

fn read_replies(mut from: UnixStream, to: Sender<Incoming>) -> io::Result<()> {
    let read = move || {
        while let Ok(reply) = frame::read(&mut from) {
            if to.send(Incoming::Reply(reply)).is_err() {
                return;
            }
        }
        // Nobody may be left to hear it.
        let _ = to.send(Incoming::Closed);
    };
    thread::Builder::new().name("replies".into()).spawn(read)?;
    Ok(())
}

fn forward_alerts(from: Receiver<Alert>, to: Sender<Incoming>) -> io::Result<()> {
    let forward = move || {
        for alert in from {
            if to.send(Incoming::Alert(alert)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("alerts".into())
        .spawn(forward)?;
    Ok(())
}
