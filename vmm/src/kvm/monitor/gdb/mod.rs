// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A debugger for the guest's kernel, by gdb's remote protocol.
//!
//! The guest waits for the first one before it runs. Then a debugger may come and go:
//! while it is there the guest is stopped or runs as it says, and when it goes, in
//! whatever way, its breakpoints go too and the guest goes on.
//!
//! | module | what |
//! |---|---|
//! | `connection` | the socket |
//! | `target` | vCPUs, memory and breakpoints, as `gdbstub` asks for them |
//! | `resume` | how the guest goes on, and why it stops |
//! | `registers`, `paging` | the guest's registers, and its page tables |
//! | `traps` | breakpoints in memory (`break`) |
//! | `points` | the CPU's own (`hbreak`, `watch`) |
//! | `thread` | what vCPUs' threads do |
//! | `probe` | what this host's KVM can do |

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
pub(super) use self::thread::{Met, Watcher};
pub(super) use self::traps::PORT;
use self::traps::Traps;
use super::vm::Vm;
use crate::kvm::failure::{During, Failure};

/// So much is taken from gdb at once.
const CHUNK: usize = 4096;

type Broken = GdbStubError<Failure, std::io::Error>;
type Session = Machine<'static, Target, Line>;

/// What is known before there is a machine.
pub(super) struct Means {
    abilities: Abilities,
    traps: Arc<Mutex<Traps>>,
}

impl Means {
    /// Finds out how this host's KVM lets a debugger in.
    pub fn find() -> Result<Self, Failure> {
        let abilities = Abilities::find()?;
        Ok(Self {
            abilities,
            traps: Arc::new(Mutex::new(Traps::new(abilities.trap))),
        })
    }

    /// The debugger's part of a vCPU's thread.
    pub fn watcher(&self) -> Watcher {
        Watcher::new(&self.traps)
    }
}

/// Waits for a debugger, and serves it.
pub(super) struct Debugger {
    listener: OwnedFd,
    means: Means,
    epoll: Arc<Epoll>,
    /// The token of the connection.
    token: u64,
    vm: Arc<Vm>,
    connected: Option<Connected>,
}

struct Connected {
    reader: Reader,
    target: Target,
    /// `None` only while it is at work, and when it is over.
    session: Option<Session>,
}

impl Debugger {
    /// Waits at `listener`, with the first of two event tokens; the second is for the
    /// connection. The guest waits too.
    pub fn new(
        listener: OwnedFd,
        means: Means,
        epoll: &Arc<Epoll>,
        tokens: [u64; 2],
        vm: &Arc<Vm>,
    ) -> Result<Self, Failure> {
        let event = EpollEvent::new(EventSet::IN, tokens[0]);
        epoll
            .ctl(ControlOperation::Add, listener.as_raw_fd(), event)
            .during("wait for a debugger")?;
        vm.debugger_holds(|_| true);
        Ok(Self {
            listener,
            means,
            epoll: Arc::clone(epoll),
            token: tokens[1],
            vm: Arc::clone(vm),
            connected: None,
        })
    }

    /// Somebody connects. The guest stops, as gdb expects. A second one is sent away.
    pub fn accept(&mut self) -> Result<(), Failure> {
        // A connection that is gone already is nobody's loss.
        let Ok(socket) = rustix::net::accept(&self.listener) else {
            return Ok(());
        };
        if let Some(connected) = &self.connected {
            if !connected.reader.is_at_end() {
                return Ok(());
            }
            // That the one before has left is about to be told.
            self.leave();
        }
        let line = Line::new(socket);
        let reader = line.reader();
        let event = EpollEvent::new(EventSet::IN, self.token);
        self.epoll
            .ctl(ControlOperation::Add, reader.as_raw_fd(), event)
            .during("listen to the debugger")?;
        let mut target = Target::new(&self.vm, self.means.abilities, &self.means.traps);
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

    /// The debugger says something, or leaves.
    pub fn input(&mut self) {
        let mut bytes = [0; CHUNK];
        let Some(connected) = &mut self.connected else {
            return;
        };
        let heard = match connected.reader.read(&mut bytes) {
            Ok(count) if count > 0 => connected.hear(&bytes[..count]),
            _ => false,
        };
        if !heard {
            self.leave();
        }
    }

    /// A vCPU has met what the debugger waits for, and is paused.
    pub fn stopped(&mut self, index: u8, met: Met) {
        // One that has just left has let all vCPUs go on.
        if let Some(connected) = &mut self.connected
            && !connected.stopped(index, met)
        {
            self.leave();
        }
    }

    /// The guest has ended.
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

    /// Lets the guest go on without a debugger.
    fn leave(&mut self) {
        let Some(mut connected) = self.connected.take() else {
            return;
        };
        let nothing = EpollEvent::new(EventSet::empty(), 0);
        // Closed, it would leave the loop by itself but for its other handle.
        let fd = connected.reader.as_raw_fd();
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, nothing);
        connected.target.forget();
    }
}

impl Connected {
    /// Takes what the debugger says. False: it is the end.
    fn hear(&mut self, bytes: &[u8]) -> bool {
        bytes
            .iter()
            .all(|&byte| self.hear_byte(byte) && self.interrupt() && self.tell_pending())
    }

    fn hear_byte(&mut self, byte: u8) -> bool {
        self.step(|session, target| match session {
            Machine::Idle(idle) => idle.incoming_data(target, byte),
            Machine::Running(running) => running.incoming_data(target, byte),
            other => Ok(other),
        })
    }

    /// Stops the guest if the debugger has asked for that.
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

    /// Tells what was met while the debugger was busy with something else, if it wants
    /// the guest to run.
    fn tell_pending(&mut self) -> bool {
        let is_running = matches!(self.session, Some(Machine::Running(_)));
        let next = match is_running {
            true => self.target.pending.pop_front(),
            false => None,
        };
        next.is_none_or(|(index, met)| self.stopped(index, met))
    }

    /// Tells it that the guest has stopped. False: it is the end.
    fn stopped(&mut self, index: u8, met: Met) -> bool {
        self.step(|session, target| {
            let Machine::Running(running) = session else {
                target.postpone(index, met);
                return Ok(session);
            };
            let was_step_off = target.is_step_off(index);
            target.stop();
            match target.reason(index, met, was_step_off) {
                Ok(Some(reason)) => running.report_stop(target, reason),
                Ok(None) => Ok(running.into()),
                // gdb has no words for it.
                Err(failure) => {
                    eprintln!("crucible: the debugged guest does not go on: {failure}");
                    running.report_stop(target, MultiThreadStopReason::Signal(Signal::SIGABRT))
                }
            }
        })
    }

    /// One step of the session. False: it is over, in whatever way.
    fn step(&mut self, act: impl FnOnce(Session, &mut Target) -> Result<Session, Broken>) -> bool {
        let Some(session) = self.session.take() else {
            return false;
        };
        let result = act(session, &mut self.target);
        self.take(result)
    }

    fn take(&mut self, result: Result<Session, Broken>) -> bool {
        self.session = match result {
            Ok(Machine::Disconnected(_)) => None,
            Ok(session) => Some(session),
            Err(error) => {
                // To the monitor's log: gdb only learns that nobody is there.
                eprintln!("crucible: the debugger is let go: {error}");
                None
            }
        };
        self.session.is_some()
    }
}
