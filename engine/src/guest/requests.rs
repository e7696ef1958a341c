// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The requests to a guest, each with its limit.

use std::{collections::BTreeMap, time::Duration};

use crucible_protocol::{
    FileEntry, Observation, Reply, Request, Stopped, ToolRun, Trigger, frame::MAX_CHUNK,
    image::diff::Comparison,
};
use crucible_vmm::{Exit, TaskStates};

use super::{GRACE, Guest, GuestError, SESSION};

/// Maximum size of a file that is read, in bytes: more than the image of any workload.
const LONGEST_FILE: usize = 1 << 30;

/// The result of a second checkpoint.
#[derive(Clone, Debug)]
pub struct SecondImage {
    /// The result of the checkpoint tool.
    pub tool: ToolRun,
    /// The comparison of the two images; `None` if there are not two.
    pub comparison: Option<Comparison>,
    /// The error of an image that cannot be read.
    pub unreadable: Option<String>,
}

impl Guest {
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

    /// Empties the work directory, or fills it with a kept tree.
    pub fn prepare(&mut self, from: Option<&str>) -> Result<(), GuestError> {
        let from = from.map(str::to_owned);
        self.done(Request::Prepare { from }, "prepare", self.prompt)
    }

    /// Keeps a copy of the work directory.
    pub fn stash(&mut self, name: &str) -> Result<(), GuestError> {
        let name = name.to_owned();
        self.done(Request::Stash { name }, "stash", self.prompt)
    }

    /// Measures the present speed of the guest's CPU: returns the time that a fixed computation
    /// takes.
    pub fn calibrate(&mut self) -> Result<Duration, GuestError> {
        match self.ask(Request::Calibrate, "calibrate", self.prompt)? {
            Reply::Calibrated { ns } => Ok(Duration::from_nanos(ns)),
            _ => Err(GuestError::Confused("calibrate")),
        }
    }

    /// Runs a program.
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

    /// Runs a shell's command, which must succeed.
    ///
    /// # Errors
    /// [`GuestError::Failed`] if it does not, and the errors of any request.
    pub fn shell(&mut self, command: &str) -> Result<(), GuestError> {
        let argv = ["/bin/sh", "-c", command].map(String::from);
        let run = self.exec(&argv, &BTreeMap::new(), "/", self.prompt)?;
        match run.success() {
            true => Ok(()),
            false => {
                let words = run.stderr.trim();
                Err(GuestError::Failed(format!("`{command}` failed: {words}")))
            }
        }
    }

    /// Starts processes that each keep a vCPU busy, outside of any container, until the guest ends.
    pub fn load(&mut self, processes: u32) -> Result<(), GuestError> {
        for _ in 0..processes {
            self.shell("while :; do :; done &")?;
        }
        Ok(())
    }

    /// Starts a workload; returns the pid of the container's init.
    pub fn start(
        &mut self,
        run: &str,
        argv: &[String],
        env: &BTreeMap<String, String>,
        cwd: &str,
        trigger: Option<&Trigger>,
    ) -> Result<i32, GuestError> {
        self.used |= trigger.is_some();
        let request = Request::Start {
            run: run.to_owned(),
            argv: argv.to_vec(),
            env: env.clone(),
            cwd: cwd.to_owned(),
            trigger: trigger.cloned(),
        };
        match self.ask(request, "start", self.prompt)? {
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
        match self.ask(Request::Observe { run }, "observe", self.prompt)? {
            Reply::Observed(observation) => Ok(observation),
            _ => Err(GuestError::Confused("observe")),
        }
    }

    /// Checkpoints a frozen container.
    pub fn checkpoint(
        &mut self,
        run: &str,
        image: &str,
        log: &str,
        limit: Duration,
    ) -> Result<ToolRun, GuestError> {
        self.used = true;
        if let Some(command) = self.before_checkpoint.clone() {
            self.shell(&command)?;
        }
        let request = Request::Checkpoint {
            run: run.to_owned(),
            image: image.to_owned(),
            log: log.to_owned(),
            timeout_ms: ms(self.limit(limit)),
        };
        self.tool(request, "checkpoint", limit)
    }

    /// Checkpoints a container that was restarted from an image and is frozen, and compares the two
    /// images.
    pub fn second_image(
        &mut self,
        run: &str,
        [first, second]: [&str; 2],
        log: &str,
        limit: Duration,
    ) -> Result<SecondImage, GuestError> {
        let request = Request::SecondImage {
            run: run.to_owned(),
            first: first.to_owned(),
            second: second.to_owned(),
            log: log.to_owned(),
            timeout_ms: ms(self.limit(limit)),
        };
        match self.ask(request, "second-image", limit + self.prompt)? {
            Reply::SecondImage {
                tool,
                comparison,
                unreadable,
            } => Ok(SecondImage {
                tool,
                comparison,
                unreadable,
            }),
            _ => Err(GuestError::Confused("second-image")),
        }
    }

    /// Kills a container and waits until no task of it is left.
    pub fn kill(&mut self, run: &str) -> Result<(), GuestError> {
        let request = Request::Kill {
            run: run.to_owned(),
            timeout_ms: ms(self.limit(self.prompt)),
        };
        self.done(request, "kill", self.prompt)
    }

    /// Restarts a container, frozen. Returns the tool's output if it failed.
    pub fn restart(
        &mut self,
        run: &str,
        image: &str,
        log: &str,
        limit: Duration,
    ) -> Result<Result<i32, Option<ToolRun>>, GuestError> {
        self.used = true;
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

    /// Creates a cgroup for a container that another tool restores.
    pub fn cgroup(&mut self, run: &str) -> Result<(), GuestError> {
        let run = run.to_owned();
        self.done(Request::Cgroup { run }, "cgroup", self.prompt)
    }

    /// Adopts a container that another tool has restored and frozen, or failed to restore.
    pub fn adopt(&mut self, run: &str, pid: Option<i32>) -> Result<(), GuestError> {
        let run = run.to_owned();
        self.done(Request::Adopt { run, pid }, "adopt", self.prompt)
    }

    /// Arms a new trigger for a frozen container.
    pub fn arm(&mut self, run: &str, trigger: &Trigger) -> Result<(), GuestError> {
        let (run, trigger) = (run.to_owned(), trigger.clone());
        self.done(Request::Arm { run, trigger }, "arm", self.prompt)
    }

    /// Thaws a container.
    pub fn thaw(&mut self, run: &str) -> Result<(), GuestError> {
        let run = run.to_owned();
        self.done(Request::Thaw { run }, "thaw", self.prompt)
    }

    /// Lists a directory tree.
    pub fn list(&mut self, root: &str, exclude: &[&str]) -> Result<Vec<FileEntry>, GuestError> {
        let request = Request::List {
            root: root.to_owned(),
            exclude: exclude.iter().map(|&name| name.to_owned()).collect(),
        };
        match self.ask(request, "list", self.prompt)? {
            Reply::Files { entries } => Ok(entries),
            _ => Err(GuestError::Confused("list")),
        }
    }

    /// Reads a whole file, of at most 1 GiB.
    pub fn read_file(&mut self, path: &str) -> Result<Vec<u8>, GuestError> {
        let mut content = Vec::new();
        loop {
            let request = Request::ReadFile {
                path: path.to_owned(),
                offset: content.len() as u64,
                length: MAX_CHUNK,
            };
            match self.ask(request, "read", self.prompt)? {
                Reply::Data { data, end } if end || !data.is_empty() => {
                    content.extend(data);
                    if end {
                        return Ok(content);
                    }
                    // A guest must not be able to fill the host's memory.
                    if content.len() > LONGEST_FILE {
                        return Err(GuestError::Failed(format!("{path} is too long to read")));
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
            self.done(request, "write", self.prompt)?;
            offset = end;
            if offset == content.len() {
                return Ok(());
            }
        }
    }

    /// Sets a switch of the debug kernel.
    pub fn set_break(&mut self, name: &str) -> Result<(), GuestError> {
        let name = name.to_owned();
        self.done(Request::Break { name }, "break", self.prompt)
    }

    /// Makes the kernel print its tasks, by the agent or by SysRq.
    pub fn task_states(&mut self) -> Result<TaskStates, GuestError> {
        Ok(self.machine.task_states(self.grace)?)
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
        self.done(Request::Shutdown, "shutdown", self.prompt)?;
        let limit = self.limit(self.prompt);
        if self.machine.wait(limit)?.is_none() {
            let states = self.machine.task_states(GRACE)?;
            return Err(GuestError::Silent {
                what: "shutdown",
                limit,
                states: Box::new(states),
            });
        }
        match self.ended()? {
            GuestError::Ended {
                exit: Some(Exit::Shutdown),
                ..
            } => Ok(()),
            error => Err(error),
        }
    }
}

fn ms(limit: Duration) -> u64 {
    limit.as_millis() as u64
}
