// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The process that runs one guest on KVM.
//!
//! The monitor is a separate process to contain a guest that takes it over: it can be killed at any
//! time, it is confined, and its death ends the guest. It inherits its sockets (control, console,
//! channel, terminal, …) from its parent, which sends the configuration of the guest as the first
//! line on the control socket.
//!
//! The main thread waits for all events. Each vCPU has a thread, which also runs the devices when
//! the vCPU writes to them.

mod boot;
mod bus;
mod confine;
mod cpu;
mod dirty;
mod gdb;
mod mptable;
mod save;
mod snapshot;
mod state;
mod vcpu;
mod vm;

use std::io::BufReader;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, PoisonError};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use self::dirty::Dirty;
use self::gdb::{Debugger, Setup};
use self::save::What;
use self::snapshot::Snapshot;
use self::vcpu::Notice;
use self::vm::{Ends, Saved, Vm};
use super::devices::TOKENS;
use super::failure::{During, Failure};
use super::phases::Phases;
use super::wire::{self, Config, Ended, Message, Reply, Request};
use crate::child::{self, fd};

/// Tokens of the event loop.
const CONTROL: u64 = 0;
const OUTCOME: u64 = 1;
/// A debugger connects, and a debugger sends data.
const DEBUGGER: u64 = 2;
const SESSION: u64 = 3;
/// The first token of the devices.
const DEVICES: u64 = 16;

/// Maximum number of events that one epoll_wait(2) returns.
const EVENTS: usize = 16;

/// Runs the guest that the parent configures, until the guest ends.
pub fn main() -> ExitCode {
    confine::abort_on_panic();
    let mut control = match child::inherited(fd::CONTROL) {
        Ok(control) => control,
        Err(error) => {
            eprintln!("crucible: this command is only for crucible's own use: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(failure) = run(&mut control) {
        let detail = failure.to_string();
        // Ignore a failure: the parent has exited.
        let _ = wire::send(&mut control, &Message::Ended(Ended::Monitor { detail }));
    }
    ExitCode::SUCCESS
}

/// Runs the guest, and reports its end.
fn run(control: &mut UnixStream) -> Result<(), Failure> {
    let mut requests = BufReader::new(control.try_clone().during("duplicate the control socket")?);
    let config: Config = wire::receive(&mut requests)
        .during("parse the configuration")?
        .ok_or_else(|| Failure::new("start: the parent closed the control socket"))?;
    let mut phases = Phases::since(config.began);
    phases.own("process");
    let ends = Ends {
        console: child::inherited(fd::CONSOLE).during("take the console's socket")?,
        channel: child::inherited(fd::CHANNEL).during("take the channel's socket")?,
        terminal: child::inherited(fd::TERMINAL).during("take the terminal's socket")?,
    };
    let epoll = Arc::new(Epoll::new().during("create an epoll instance")?);
    let wake = EventFd::new(libc::EFD_NONBLOCK).during("create an eventfd")?;
    for (fd, token) in [(control.as_raw_fd(), CONTROL), (wake.as_raw_fd(), OUTCOME)] {
        let event = EpollEvent::new(EventSet::IN, token);
        epoll
            .ctl(ControlOperation::Add, fd, event)
            .during("watch a socket")?;
    }
    vcpu::prepare()?;
    let (sender, notices) = mpsc::channel();
    let debugged = match config.debugger {
        true => {
            let listener = child::inherited(fd::DEBUGGER).during("take the debugger's socket")?;
            Some((listener, Setup::find()?))
        }
        false => None,
    };
    let saver = child::inherited(fd::SNAPSHOT).during("take the socket for saving")?;
    // Without a snapshot these descriptor numbers may belong to other files.
    let saved = match config.saved {
        true => {
            let mut state = child::inherited_file(fd::STATE).during("take the state's file")?;
            let pages = child::inherited_file(fd::PAGES).during("take the memory's file")?;
            let changes = match &config.changes {
                Some(_) => Some(
                    child::inherited_file(fd::CHANGES).during("take the changed pages' file")?,
                ),
                None => None,
            };
            Some(Saved {
                state: Snapshot::read(&mut state, &config.build)?,
                pages,
                changes,
            })
        }
        false => None,
    };
    phases.own("preparation");
    let vm = Vm::new(
        &config,
        ends,
        saved,
        (&epoll, DEVICES),
        (&sender, &wake),
        || debugged.as_ref().map(|(_, setup)| setup.watcher()),
        &mut phases,
    )?;
    let vm = Arc::new(vm);
    let debugger = debugged
        .map(|(listener, setup)| {
            Debugger::new(listener.into(), setup, &epoll, [DEBUGGER, SESSION], &vm)
        })
        .transpose()?;
    confine::process(&config)?;
    confine::thread(confine::Role::Loop, config.debugger)?;
    phases.own("threads and confinement");
    vm.resume();
    wire::send(&mut *control, &Message::Started(phases.list()))
        .during("send a message to the parent")?;
    let mut events = Loop {
        epoll,
        requests,
        control,
        notices,
        wake: &wake,
        debugger,
        vm: &vm,
        saver,
        dirty: config.track.then(|| {
            let changed = config.changes.as_deref().unwrap_or_default();
            Dirty::new(config.memory_mib, changed)
        }),
    };
    let ended = events.run();
    let done = ended.and_then(|ended| events.end(ended, config.dump));
    drop(events);
    // The debugger's reference to the machine was dropped with the loop.
    if let Some(vm) = Arc::into_inner(vm) {
        vm.stop();
    }
    done
}

struct Loop<'a> {
    epoll: Arc<Epoll>,
    requests: BufReader<UnixStream>,
    control: &'a mut UnixStream,
    notices: Receiver<Notice>,
    wake: &'a EventFd,
    debugger: Option<Debugger>,
    vm: &'a Vm,
    saver: UnixStream,
    dirty: Option<Dirty>,
}

impl Loop<'_> {
    /// Handles events until the guest has ended.
    fn run(&mut self) -> Result<Ended, Failure> {
        let mut events = [EpollEvent::default(); EVENTS];
        loop {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).during("wait for events"),
            };
            for event in &events[..count] {
                match event.data() {
                    CONTROL => self.request()?,
                    OUTCOME => {
                        // Reset the counter before reading the queue: a later notice sets it
                        // again.
                        let _ = self.wake.read();
                        while let Ok(notice) = self.notices.try_recv() {
                            match notice {
                                Notice::Ended(ended) => {
                                    if let Some(debugger) = &mut self.debugger {
                                        debugger.ended();
                                    }
                                    return Ok(ended);
                                }
                                Notice::Fault(fault) => {
                                    wire::send(&mut *self.control, &Message::HostFault(fault))
                                        .during("send a message to the parent")?;
                                }
                                Notice::Debug { index, hit } => {
                                    if let Some(debugger) = &mut self.debugger {
                                        debugger.stopped(index, hit);
                                    }
                                }
                            }
                        }
                    }
                    DEBUGGER => {
                        if let Some(debugger) = &mut self.debugger {
                            debugger.accept()?;
                        }
                    }
                    SESSION => {
                        if let Some(debugger) = &mut self.debugger {
                            debugger.input();
                        }
                    }
                    token => self.device(token),
                }
            }
        }
    }

    /// Reports that the guest has ended. If it may have to be dumped, serves the parent until that
    /// lets this process exit.
    fn end(&mut self, ended: Ended, dump: bool) -> Result<(), Failure> {
        self.vm.bus.serial().flush();
        wire::send(&mut *self.control, &Message::Ended(ended))
            .during("send a message to the parent")?;
        if !dump {
            return Ok(());
        }
        loop {
            let request = wire::receive(&mut self.requests).during("parse a request")?;
            let reply = match request {
                Some(Request::Dump) => {
                    self.pause();
                    match save::dump(self.vm, &self.saver) {
                        Ok(()) => Reply::Done,
                        Err(failure) => Reply::Failed(failure.to_string()),
                    }
                }
                Some(Request::Registers) => Reply::Registers(self.registers()),
                Some(Request::Exit) | None => return Ok(()),
                Some(_) => Reply::Failed("the guest has ended".into()),
            };
            wire::send(&mut *self.control, &Message::Reply(reply))
                .during("send a message to the parent")?;
        }
    }

    fn request(&mut self) -> Result<(), Failure> {
        let request = wire::receive(&mut self.requests)
            .during("parse a request")?
            .ok_or_else(|| Failure::new("continue: the parent has closed the control socket"))?;
        let reply = match request {
            Request::Pause => {
                self.pause();
                Reply::Done
            }
            Request::Resume => {
                self.vm.parent_holds(false);
                self.vm.bus.resume();
                self.vm.resume();
                Reply::Done
            }
            Request::Save => self.save(What::All),
            Request::SaveChanges => self.save(What::Changes),
            Request::Base => {
                if let Some(dirty) = &mut self.dirty {
                    dirty.base();
                }
                Reply::Done
            }
            Request::Registers => Reply::Registers(self.registers()),
            Request::Dump | Request::Exit => Reply::Failed("the guest runs".into()),
            Request::SysRq(key) => {
                let mut serial = self.vm.bus.serial();
                // A key that does not fit is lost; the parent presses it again when it gets no
                // answer.
                if serial.send_break() {
                    serial.send(&[key]);
                }
                Reply::Done
            }
        };
        wire::send(&mut *self.control, &Message::Reply(reply))
            .during("send a message to the parent")
    }

    fn pause(&self) {
        self.vm.parent_holds(true);
        self.vm.pause();
    }

    /// Saves the guest, which stays paused.
    fn save(&mut self, what: What) -> Reply {
        self.pause();
        match save::save(self.vm, what, &mut self.dirty, &self.saver) {
            Ok(()) => Reply::Done,
            Err(failure) => Reply::Failed(failure.to_string()),
        }
    }

    /// Returns the registers of all vCPUs, which are paused meanwhile.
    fn registers(&self) -> Vec<String> {
        self.vm.pause();
        let lines = self
            .vm
            .vcpus
            .iter()
            .enumerate()
            .flat_map(|(index, vcpu)| {
                let mut lines = vec![format!("CPU#{index}")];
                lines.extend(vcpu.registers());
                lines
            })
            .collect();
        self.vm.resume();
        lines
    }

    /// Lets the device handle the event with this token.
    fn device(&self, token: u64) {
        let index = (token.saturating_sub(DEVICES) / TOKENS) as usize;
        match self.vm.bus.transports.get(index) {
            Some(transport) => transport
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .ready(token),
            None => self.vm.bus.serial().ready(token),
        }
    }
}
