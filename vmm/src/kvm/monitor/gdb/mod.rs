// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A debugger for the guest's kernel, by gdb's remote protocol.
//!
//! The guest waits for the first debugger before it runs. Later, debuggers may connect and
//! disconnect at any time: while one is connected it controls whether the guest runs, and when it
//! disconnects, for whatever reason, its breakpoints are removed and the guest continues.
//!
//! | module | purpose |
//! |---|---|
//! | `connection` | the socket |
//! | `target` | vCPUs, memory and breakpoints, in the form that `gdbstub` requires |
//! | `resume` | resuming the guest, and the reasons for its stops |
//! | `registers`, `paging` | the guest's registers, and its page tables |
//! | `traps` | software breakpoints (`break`) |
//! | `points` | hardware breakpoints and watchpoints (`hbreak`, `watch`) |
//! | `thread` | the part of the vCPU threads |
//! | `probe` | the capabilities of this host's KVM |

mod connection;
mod paging;
mod points;
mod probe;
mod registers;
mod resume;
mod target;
mod thread;
mod traps;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine as Machine;
use gdbstub::stub::{GdbStub, GdbStubError, MultiThreadStopReason};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use self::connection::{Line, Reader};
use self::probe::Abilities;
use self::target::Target;
pub(super) use self::thread::{Hit, Watcher};
pub(super) use self::traps::PORT;
use self::traps::Traps;
use super::vm::Vm;
use crate::kvm::failure::{During, Failure};

/// Maximum number of bytes that are read from gdb at once.
const CHUNK: usize = 4096;

type SessionError = GdbStubError<Failure, std::io::Error>;
type Session = Machine<'static, Target, Line>;

/// The debugger's state that exists before the machine does.
pub(super) struct Setup {
    abilities: Abilities,
    traps: Arc<Mutex<Traps>>,
}

impl Setup {
    /// Determines which debugging features this host's KVM supports.
    pub fn find() -> Result<Self, Failure> {
        let abilities = Abilities::find()?;
        Ok(Self {
            abilities,
            traps: Arc::new(Mutex::new(Traps::new(abilities.trap))),
        })
    }

    /// Returns the debugger's part of a vCPU's thread.
    pub fn watcher(&self) -> Watcher {
        Watcher::new(&self.traps)
    }
}

/// Listens for a debugger, and serves it.
pub(super) struct Debugger {
    listener: OwnedFd,
    setup: Setup,
    epoll: Arc<Epoll>,
    /// The token of the connection.
    token: u64,
    vm: Arc<Vm>,
    connected: Option<Connected>,
}

struct Connected {
    reader: Reader,
    target: Target,
    /// `None` only during a step of the session, and after its end.
    session: Option<Session>,
}

impl Debugger {
    /// Listens at `listener`, with the first of two event tokens; the second is for the connection.
    /// The guest does not run until a debugger resumes it.
    pub fn new(
        listener: OwnedFd,
        setup: Setup,
        epoll: &Arc<Epoll>,
        tokens: [u64; 2],
        vm: &Arc<Vm>,
    ) -> Result<Self, Failure> {
        let event = EpollEvent::new(EventSet::IN, tokens[0]);
        epoll
            .ctl(ControlOperation::Add, listener.as_raw_fd(), event)
            .during("listen for a debugger")?;
        vm.debugger_holds(|_| true);
        Ok(Self {
            listener,
            setup,
            epoll: Arc::clone(epoll),
            token: tokens[1],
            vm: Arc::clone(vm),
            connected: None,
        })
    }

    /// Accepts a connection. The guest stops, as gdb expects. A second debugger is disconnected.
    pub fn accept(&mut self) -> Result<(), Failure> {
        // The connection may already have been closed, which is not an error.
        let Ok(socket) = rustix::net::accept(&self.listener) else {
            return Ok(());
        };
        if let Some(connected) = &self.connected {
            if !connected.reader.is_at_end() {
                return Ok(());
            }
            // The event for the previous connection's end is still queued.
            self.leave();
        }
        let line = Line::new(socket);
        let reader = line.reader();
        let event = EpollEvent::new(EventSet::IN, self.token);
        self.epoll
            .ctl(ControlOperation::Add, reader.as_raw_fd(), event)
            .during("watch the debugger's connection")?;
        let mut target = Target::new(&self.vm, self.setup.abilities, &self.setup.traps);
        target.stop();
        let session = GdbStub::new(line).run_state_machine(&mut target);
        let mut connected = Connected {
            reader,
            target,
            session: None,
        };
        let good = connected.take(session);
        self.connected = Some(connected);
        if !good {
            self.leave();
        }
        Ok(())
    }

    /// Handles data from the debugger, or its disconnection.
    pub fn input(&mut self) {
        let mut bytes = [0; CHUNK];
        let Some(connected) = &mut self.connected else {
            return;
        };
        let received = match connected.reader.read(&mut bytes) {
            Ok(count) if count > 0 => connected.receive(&bytes[..count]),
            _ => false,
        };
        if !received {
            self.leave();
        }
    }

    /// Reports to the debugger that a vCPU has stopped for it, and is paused.
    pub fn stopped(&mut self, index: u8, hit: Hit) {
        // After a disconnection all vCPUs have been resumed already, so no stop is reported.
        if let Some(connected) = &mut self.connected
            && !connected.stopped(index, hit)
        {
            self.leave();
        }
    }

    /// Reports to the debugger that the guest has ended.
    pub fn ended(&mut self) {
        if let Some(connected) = &mut self.connected {
            connected.step(|session, target| match session {
                Machine::Running(running) => {
                    running.report_stop(target, MultiThreadStopReason::Exited(0))
                }
                other => Ok(other),
            });
        }
    }

    /// Disconnects the debugger and resumes the guest.
    fn leave(&mut self) {
        let Some(mut connected) = self.connected.take() else {
            return;
        };
        let nothing = EpollEvent::new(EventSet::empty(), 0);
        // Closing it is not enough to remove it from the event loop, because of its second handle.
        let fd = connected.reader.as_raw_fd();
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, nothing);
        connected.target.forget();
    }
}

impl Connected {
    /// Handles the debugger's data. Returns false when the session has ended.
    fn receive(&mut self, bytes: &[u8]) -> bool {
        bytes
            .iter()
            .all(|&byte| self.receive_byte(byte) && self.interrupt() && self.report_pending())
    }

    fn receive_byte(&mut self, byte: u8) -> bool {
        self.step(|session, target| match session {
            Machine::Idle(idle) => idle.incoming_data(target, byte),
            Machine::Running(running) => running.incoming_data(target, byte),
            other => Ok(other),
        })
    }

    /// Stops the guest if the debugger has requested an interrupt. Returns false when the session
    /// has ended.
    fn interrupt(&mut self) -> bool {
        self.step(|session, target| match session {
            Machine::CtrlCInterrupt(interrupt) => {
                target.stop();
                let reason = MultiThreadStopReason::Signal(Signal::SIGINT);
                interrupt.interrupt_handled(target, Some(reason))
            }
            other => Ok(other),
        })
    }

    /// Reports a stop that occurred while the debugger was handling a different one, if it has
    /// resumed the guest meanwhile. Returns false when the session has ended.
    fn report_pending(&mut self) -> bool {
        let is_running = matches!(self.session, Some(Machine::Running(_)));
        let next = match is_running {
            true => self.target.pending.pop_front(),
            false => None,
        };
        next.is_none_or(|(index, hit)| self.stopped(index, hit))
    }

    /// Reports to the debugger that the guest has stopped. Returns false when the session has
    /// ended.
    fn stopped(&mut self, index: u8, hit: Hit) -> bool {
        self.step(|session, target| {
            let Machine::Running(running) = session else {
                target.postpone(index, hit);
                return Ok(session);
            };
            let was_step_off = target.is_step_off(index);
            target.stop();
            match target.reason(index, hit, was_step_off) {
                Ok(Some(reason)) => running.report_stop(target, reason),
                Ok(None) => Ok(running.into()),
                // gdb's protocol has no error for this.
                Err(failure) => {
                    eprintln!("crucible: cannot resume the debugged guest: {failure}");
                    running.report_stop(target, MultiThreadStopReason::Signal(Signal::SIGABRT))
                }
            }
        })
    }

    /// Performs one step of the session. Returns false when the session has ended, for whatever
    /// reason.
    fn step(
        &mut self,
        act: impl FnOnce(Session, &mut Target) -> Result<Session, SessionError>,
    ) -> bool {
        let Some(session) = self.session.take() else {
            return false;
        };
        let result = act(session, &mut self.target);
        self.take(result)
    }

    fn take(&mut self, result: Result<Session, SessionError>) -> bool {
        self.session = match result {
            Ok(Machine::Disconnected(_)) => None,
            Ok(session) => Some(session),
            Err(error) => {
                // Report it in the monitor's log: gdb only notices that the connection was closed.
                eprintln!("crucible: the debugger is disconnected: {error}");
                None
            }
        };
        self.session.is_some()
    }
}
