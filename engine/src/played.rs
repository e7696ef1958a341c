// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Machines and guests for unit tests: a machine is a socket, and a thread of the test answers in
//! the agent's place.

use std::{
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use crucible_protocol::{
    Ended, Envelope, Freeze, Identity, Observation, Reply, Request, Stopped, TaskFacts, ToolRun,
    VERSION, frame, image::diff::Comparison,
};
use crucible_vmm::{Alert, Changes, Description, Exit, HostFault, Machine, TaskStates};

use crate::{
    experiment::Setup,
    outcome::SourceLine,
    results::Store,
    session::{Lab, LabError, Session},
    stream::Stream,
};

/// A machine whose agent is a thread of the test.
pub(crate) struct Played {
    /// The host's end of the agent's channel.
    pub ours: UnixStream,
    /// The failure of the host's disk, if there is one.
    pub fault: Option<HostFault>,
    /// Number of questions for the failure before it is known.
    pub unaware: u32,
    /// A report on the console.
    pub alert: Option<Alert>,
    /// True once the agent has shut the guest down.
    pub is_down: Arc<AtomicBool>,
}

impl Played {
    pub(crate) fn new(ours: UnixStream, fault: Option<HostFault>) -> Self {
        Self {
            ours,
            fault,
            unaware: 0,
            alert: None,
            is_down: Arc::default(),
        }
    }
}

impl Machine for Played {
    fn channel(&self) -> crucible_vmm::Result<UnixStream> {
        Ok(self.ours.try_clone().expect("a socket"))
    }
    fn terminal(&self) -> crucible_vmm::Result<UnixStream> {
        self.channel()
    }
    fn alerts(&self) -> Receiver<Alert> {
        let (to, alerts) = mpsc::channel();
        if let Some(alert) = &self.alert {
            to.send(alert.clone()).expect("a receiver");
        }
        alerts
    }
    fn wait_mark(&self, _: &str, _: Duration) -> bool {
        true
    }
    fn console_tail(&self, _: usize) -> Vec<String> {
        Vec::new()
    }
    fn try_exit(&mut self) -> crucible_vmm::Result<Option<Exit>> {
        let is_down = self.is_down.load(Ordering::Acquire);
        Ok(is_down.then_some(Exit::Shutdown))
    }
    fn wait(&mut self, _: Duration) -> crucible_vmm::Result<Option<Exit>> {
        self.try_exit()
    }
    fn host_fault(&mut self) -> Option<HostFault> {
        match self.unaware.checked_sub(1) {
            Some(unaware) => {
                self.unaware = unaware;
                None
            }
            None => self.fault.clone(),
        }
    }
    fn task_states(&mut self, _: Duration) -> crucible_vmm::Result<TaskStates> {
        Ok(TaskStates::default())
    }
    fn pause(&mut self) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn resume(&mut self) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn save(&mut self) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn save_in(&mut self, _: &Path) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn save_changes(&mut self, _: &Path) -> crucible_vmm::Result<Changes> {
        Ok(Changes { pages: 0, of: 0 })
    }
    fn kill(&mut self) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn pid(&self) -> u32 {
        0
    }
    fn is_debugged(&self) -> bool {
        false
    }
    fn describe(&self) -> Description {
        Description {
            kind: "played".into(),
            version: String::new(),
            accel: String::new(),
            start: "cold".into(),
            command: Vec::new(),
        }
    }
}

/// Answers a request in a guest with this number, from 1 on. `None` is the usual answer.
type Answers = dyn FnMut(u32, &Request) -> Option<Reply> + Send;

/// A lab whose guests are threads of the test. Their workloads end with status 0 and no output,
/// freeze at each event, and restart from each checkpoint.
pub(crate) struct PlayedLab {
    answers: Arc<Mutex<Box<Answers>>>,
    guests: AtomicU32,
}

impl PlayedLab {
    /// Returns a lab whose guests answer some requests otherwise.
    pub(crate) fn new(
        answers: impl FnMut(u32, &Request) -> Option<Reply> + Send + 'static,
    ) -> Self {
        Self {
            answers: Arc::new(Mutex::new(Box::new(answers))),
            guests: AtomicU32::new(0),
        }
    }

    /// Returns the number of guests that were booted.
    pub(crate) fn guests(&self) -> u32 {
        self.guests.load(Ordering::Relaxed)
    }

    /// Runs `work` with a session of this lab.
    pub(crate) fn session<T>(&self, work: impl FnOnce(&mut Session<'_>) -> T) -> T {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::begin(directory.path(), "test").expect("results");
        let stream = Stream::default();
        let setup = Setup {
            lab: self,
            store: &store,
            stream: &stream,
            jobs: 1,
            break_switch: None,
            without: &[],
            skip: None,
        };
        work(&mut Session::new(setup, 1))
    }
}

impl Lab for PlayedLab {
    fn boot(&self, _: &Path, _: &Path) -> Result<Box<dyn Machine>, LabError> {
        let number = self.guests.fetch_add(1, Ordering::Relaxed) + 1;
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let machine = Played::new(ours, None);
        let (is_down, answers) = (machine.is_down.clone(), self.answers.clone());
        thread::spawn(move || {
            serve(theirs, &is_down, |request| {
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers(number, request)
            });
        });
        Ok(Box::new(machine))
    }
    fn scratch(&self, _: &Path) -> Result<(), LabError> {
        Ok(())
    }
    fn open_memory(&self, file: &Path) -> String {
        file.display().to_string()
    }
    fn source_lines(&self, _: &[String]) -> Vec<SourceLine> {
        Vec::new()
    }
    fn slowness(&self) -> u32 {
        1
    }
    fn finds_leaks(&self) -> bool {
        false
    }
}

/// Answers the requests of a channel until it is closed.
fn serve(
    mut channel: UnixStream,
    is_down: &AtomicBool,
    mut answer: impl FnMut(&Request) -> Option<Reply>,
) {
    let mut is_armed = false;
    while let Ok(request) = frame::read::<Envelope<Request>>(&mut channel) {
        let Envelope { id, body } = request;
        // Before the answer, after which the host asks for the machine's end.
        is_down.store(body == Request::Shutdown, Ordering::Release);
        let usual = usual(&body, &mut is_armed);
        let body = answer(&body).unwrap_or(usual);
        if frame::write(&mut channel, &Envelope { id, body }).is_err() {
            return;
        }
    }
}

/// The end of a program that has succeeded.
pub(crate) const GOOD: Ended = Ended::Exited { code: 0 };

/// Returns the usual answer to a request. A container is frozen once for each trigger.
fn usual(request: &Request, is_armed: &mut bool) -> Reply {
    let tool = || ToolRun {
        ended: Some(GOOD),
        stdout: String::new(),
        stderr: String::new(),
        ms: 1,
    };
    match request {
        Request::Hello { .. } => Reply::Hello {
            version: VERSION,
            kernel: String::new(),
            build: String::new(),
            checkpoint: true,
            uptime_ms: 1,
        },
        Request::Begin(_) => Reply::Begun(Identity::default()),
        Request::Calibrate => Reply::Calibrated { ns: 1 },
        Request::Exec { .. } | Request::Checkpoint { .. } => Reply::Tool(tool()),
        Request::Start { trigger, .. } => {
            *is_armed = trigger.is_some();
            Reply::Started { pid: 1 }
        }
        Request::Arm { .. } => {
            *is_armed = true;
            Reply::Done
        }
        Request::Restart { .. } => Reply::Restarted {
            pid: Some(1),
            tool: None,
        },
        Request::SecondImage { .. } => Reply::SecondImage {
            tool: tool(),
            comparison: Some(Comparison::default()),
            unreadable: None,
        },
        Request::Wait { .. } => Reply::Stopped(match std::mem::take(is_armed) {
            true => Stopped::Frozen(Freeze { tid: 1, count: 1 }),
            false => Stopped::Exited {
                root: Some(GOOD),
                workload: Some(GOOD),
                count: None,
            },
        }),
        Request::Observe { .. } => Reply::Observed(Observation {
            tasks: vec![TaskFacts {
                pid: 1,
                tid: 1,
                comm: "workload".into(),
                state: 'S',
                site: "freezer".into(),
                ..TaskFacts::default()
            }],
        }),
        Request::List { .. } => Reply::Files {
            entries: Vec::new(),
        },
        Request::ReadFile { .. } => Reply::Data {
            data: Vec::new(),
            end: true,
        },
        _ => Reply::Done,
    }
}

/// The answer to a wait whose limit was reached before the event, or before the workload's end.
pub(crate) fn timeout() -> Reply {
    Reply::Stopped(Stopped::Timeout {
        fired: false,
        count: Some(0),
        stuck: Vec::new(),
    })
}
