// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A thread that runs a vCPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};

use kvm_bindings::kvm_guest_debug;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::bus::{Bus, Effect};
use super::confine;
use super::gdb::{self, Met, Watcher};
use super::state::VcpuState;
use crate::kvm::failure::{During, Failure};
use crate::kvm::wire::Ended;

/// What a vCPU's thread is told.
pub(super) enum Command {
    /// Stop running the guest, answer, and wait for the next command.
    Pause(Sender<()>),
    /// Run the guest.
    Resume,
    /// Do this with the vCPU; only while paused.
    Do(Box<dyn FnOnce(&VcpuFd) + Send>),
    /// Stop the guest for these things, and answer; only while paused, and only where a
    /// debugger may come.
    Debug(Box<kvm_guest_debug>, Sender<Result<(), Failure>>),
    /// End the thread.
    Stop,
}

/// What a vCPU's thread tells.
pub(super) enum Outcome {
    /// The guest has ended; the vCPU runs no more.
    Ended(Ended),
    /// It met what a debugger waits for, and is paused.
    Debug {
        /// Which vCPU.
        index: u8,
        /// What it met.
        met: Met,
    },
}

/// A vCPU's thread, from outside.
pub(super) struct Handle {
    commands: Sender<Command>,
    leave: Leave,
    msrs: Arc<[u32]>,
    /// Gives the vCPU back, so that it exists for as long as this handle does.
    thread: JoinHandle<Runner>,
}

impl Handle {
    /// Starts the thread. The vCPU waits for [`Command::Resume`]. `msrs` are those that
    /// KVM keeps; there is a `watcher` where a debugger may come.
    pub fn start(
        index: u8,
        mut vcpu: VcpuFd,
        bus: Arc<Bus>,
        msrs: Arc<[u32]>,
        outcomes: Sender<Outcome>,
        wake: EventFd,
        watcher: Option<Watcher>,
    ) -> Result<Self, Failure> {
        let (commands, inbox) = mpsc::channel();
        let leave = Leave::of(&mut vcpu);
        let mut runner = Runner {
            vcpu,
            bus,
            inbox,
            leave: leave.clone(),
            index,
            outcomes,
            wake,
            watcher,
        };
        let debugged = runner.watcher.is_some();
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || {
                let ended = match confine::thread(confine::Role::Vcpu, debugged) {
                    Ok(()) => runner.run(),
                    Err(failure) => Some(Ended::Monitor {
                        detail: failure.to_string(),
                    }),
                };
                if let Some(ended) = ended {
                    runner.report(Outcome::Ended(ended));
                    runner.serve_stopped();
                }
                runner
            })
            .during("start a vCPU's thread")?;
        Ok(Self {
            commands,
            leave,
            msrs,
            thread,
        })
    }

    /// Tells the thread something, and has it leave the guest to hear it.
    pub fn tell(&self, command: Command) {
        // A thread that has ended needs telling nothing.
        if self.commands.send(command).is_ok() {
            self.leave.0.store(1, Ordering::SeqCst);
            let _ = self.thread.kill(SIGRTMIN());
        }
    }

    /// Stops the guest on this vCPU; the receiver hears when it has.
    pub fn pause(&self) -> Receiver<()> {
        let (done, paused) = mpsc::channel();
        self.tell(Command::Pause(done));
        paused
    }

    /// Does something with the vCPU, which must be paused, in its thread: KVM keeps a
    /// vCPU's state at hand for the thread that runs it.
    pub fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&VcpuFd) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, result) = mpsc::channel();
        self.tell(Command::Do(Box::new(move |vcpu| {
            // Whoever asked waits.
            let _ = answer.send(act(vcpu));
        })));
        result.recv().during("reach a vCPU, whose thread has ended")
    }

    /// Sets what the vCPU is stopped for, which must be paused.
    pub fn debug(&self, settings: kvm_guest_debug) -> Result<(), Failure> {
        let (done, result) = mpsc::channel();
        self.tell(Command::Debug(Box::new(settings), done));
        result
            .recv()
            .during("reach a vCPU, whose thread has ended")?
    }

    /// The registers; the vCPU must be paused.
    pub fn registers(&self) -> Vec<String> {
        self.with(registers).unwrap_or_default()
    }

    /// The state; the vCPU must be paused.
    pub fn save(&self) -> Result<VcpuState, Failure> {
        let msrs = Arc::clone(&self.msrs);
        self.with(move |vcpu| VcpuState::save(vcpu, &msrs))?
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.tell(Command::Stop);
        let _ = self.thread.join();
    }
}

/// The signal interrupts `KVM_RUN`, and has nothing else to do.
extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Lets [`Handle::tell`] interrupt vCPUs. Once per process, before the first of them.
pub(super) fn prepare() -> Result<(), Failure> {
    register_signal_handler(SIGRTMIN(), interrupt).during("handle the vCPUs' signal")
}

/// `kvm_run.immediate_exit` of a vCPU: not 0 makes `KVM_RUN` return at once. A signal
/// alone would be lost where it arrives just before the system call
/// (`Documentation/virt/kvm/api.rst`, "5. The kvm_run structure").
#[derive(Clone)]
struct Leave(Arc<AtomicPtrByte>);

/// A byte in a vCPU's shared page.
struct AtomicPtrByte(*const AtomicU8);

// SAFETY: the byte is only accessed atomically, and stays mapped (see `Leave::of`).
unsafe impl Send for AtomicPtrByte {}
// SAFETY: as above.
unsafe impl Sync for AtomicPtrByte {}

impl std::ops::Deref for AtomicPtrByte {
    type Target = AtomicU8;

    fn deref(&self) -> &AtomicU8 {
        // SAFETY: the page is mapped for as long as the vCPU exists. Its thread owns that
        // and gives it back at its end to the `Handle`, the only one that comes here
        // from another thread.
        unsafe { &*self.0 }
    }
}

impl Leave {
    fn of(vcpu: &mut VcpuFd) -> Self {
        let byte = &raw mut vcpu.get_kvm_run().immediate_exit;
        Self(Arc::new(AtomicPtrByte(byte.cast::<AtomicU8>())))
    }
}

struct Runner {
    vcpu: VcpuFd,
    bus: Arc<Bus>,
    inbox: Receiver<Command>,
    leave: Leave,
    index: u8,
    outcomes: Sender<Outcome>,
    wake: EventFd,
    watcher: Option<Watcher>,
}

impl Runner {
    /// Runs until the guest ends, or until told to stop: `None`.
    fn run(&mut self) -> Option<Ended> {
        let mut paused = true;
        loop {
            if !self.obey(&mut paused) {
                return None;
            }
            let met = match self.vcpu.run() {
                Ok(VcpuExit::Debug(debug)) => {
                    self.tell_debugger(|watcher, vcpu| watcher.debug_exit(vcpu, &debug))
                }
                Ok(VcpuExit::IoOut(gdb::PORT, _)) if self.watcher.is_some() => {
                    self.complete();
                    self.tell_debugger(Watcher::port_exit)
                }
                Ok(exit) => {
                    if let Some(ended) = handle(&self.bus, exit) {
                        return Some(self.with_registers(ended));
                    }
                    continue;
                }
                Err(error) if error.errno() == libc::EINTR => {
                    self.leave.0.store(0, Ordering::SeqCst);
                    continue;
                }
                // A vCPU that waits for its start-up interrupt says so now and then.
                Err(error) if error.errno() == libc::EAGAIN => continue,
                Err(error) => {
                    return Some(self.with_registers(Ended::Kvm {
                        detail: format!("KVM_RUN: {error}"),
                        registers: Vec::new(),
                    }));
                }
            };
            match met {
                Ok(met) => paused = met,
                Err(failure) => {
                    return Some(Ended::Monitor {
                        detail: failure.to_string(),
                    });
                }
            }
        }
    }

    /// Has KVM complete the instruction that it has just left the guest in.
    fn complete(&mut self) {
        self.leave.0.store(1, Ordering::SeqCst);
        // It fails, being interrupted; or it tells of a step that ends with this.
        let _ = self.vcpu.run();
        // Whoever wanted the vCPU to leave has said why before: see `Handle::tell`.
        self.leave.0.store(0, Ordering::SeqCst);
    }

    /// Tells the debugger what its vCPU has met, if that is its business. True: it is.
    fn tell_debugger(
        &self,
        look: impl FnOnce(&Watcher, &VcpuFd) -> Result<Option<Met>, Failure>,
    ) -> Result<bool, Failure> {
        let Some(watcher) = &self.watcher else {
            return Ok(false);
        };
        let met = look(watcher, &self.vcpu)?;
        if let Some(met) = met {
            let index = self.index;
            self.report(Outcome::Debug { index, met });
        }
        Ok(met.is_some())
    }

    fn report(&self, outcome: Outcome) {
        // The other end is gone only when the process is about to be.
        let _ = self.outcomes.send(outcome);
        let _ = self.wake.write(1);
    }

    /// Does what was told meanwhile; waits for more while paused. False: stop.
    fn obey(&mut self, paused: &mut bool) -> bool {
        loop {
            let command = if *paused {
                self.inbox.recv().unwrap_or(Command::Stop)
            } else {
                match self.inbox.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => Command::Stop,
                }
            };
            match command {
                Command::Pause(done) => {
                    *paused = true;
                    let _ = done.send(());
                }
                Command::Resume => {
                    *paused = false;
                    if self.watcher.is_some() {
                        // The guest's watchdogs must not bark; where it has none, there
                        // is nothing to tell.
                        let _ = self.vcpu.kvmclock_ctrl();
                    }
                }
                Command::Do(act) => act(&self.vcpu),
                Command::Debug(settings, done) => {
                    let result = match &mut self.watcher {
                        Some(watcher) => watcher.set(&self.vcpu, *settings),
                        None => Err(Failure::new("debug a guest that is not debugged")),
                    };
                    let _ = done.send(result);
                }
                Command::Stop => return false,
            }
        }
    }

    /// Answers for a vCPU that runs no more, until told to end.
    fn serve_stopped(&mut self) {
        let mut paused = true;
        while self.obey(&mut paused) {
            paused = true;
        }
    }

    fn with_registers(&self, ended: Ended) -> Ended {
        let registers = registers(&self.vcpu);
        match ended {
            Ended::TripleFault { .. } => Ended::TripleFault { registers },
            Ended::Kvm { detail, .. } => Ended::Kvm { detail, registers },
            other => other,
        }
    }
}

/// What an exit asks for. `Some`: the guest has ended.
fn handle(bus: &Bus, exit: VcpuExit<'_>) -> Option<Ended> {
    let kvm = |detail: String| {
        Some(Ended::Kvm {
            detail,
            registers: Vec::new(),
        })
    };
    match exit {
        VcpuExit::IoIn(port, data) => bus.port_read(port, data),
        VcpuExit::IoOut(port, data) => {
            if bus.port_write(port, data) == Effect::Reset {
                return Some(Ended::Reset);
            }
        }
        VcpuExit::MmioRead(address, data) => bus.read(address, data),
        VcpuExit::MmioWrite(address, data) => bus.write(address, data),
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
        VcpuExit::Shutdown => {
            return Some(Ended::TripleFault {
                registers: Vec::new(),
            });
        }
        VcpuExit::InternalError => return kvm("KVM_EXIT_INTERNAL_ERROR".into()),
        VcpuExit::FailEntry(reason, cpu) => {
            return kvm(format!(
                "KVM_EXIT_FAIL_ENTRY: reason {reason:#x} on CPU {cpu}"
            ));
        }
        other => return kvm(format!("an exit that nobody asked for: {other:?}")),
    }
    None
}

/// The registers as text, in QEMU's manner.
fn registers(vcpu: &VcpuFd) -> Vec<String> {
    let mut lines = Vec::new();
    if let Ok(r) = vcpu.get_regs() {
        lines.push(format!(
            "RAX={:016x} RBX={:016x} RCX={:016x} RDX={:016x}",
            r.rax, r.rbx, r.rcx, r.rdx
        ));
        lines.push(format!(
            "RSI={:016x} RDI={:016x} RBP={:016x} RSP={:016x}",
            r.rsi, r.rdi, r.rbp, r.rsp
        ));
        lines.push(format!(
            "R8 ={:016x} R9 ={:016x} R10={:016x} R11={:016x}",
            r.r8, r.r9, r.r10, r.r11
        ));
        lines.push(format!(
            "R12={:016x} R13={:016x} R14={:016x} R15={:016x}",
            r.r12, r.r13, r.r14, r.r15
        ));
        lines.push(format!("RIP={:016x} RFL={:08x}", r.rip, r.rflags));
    }
    if let Ok(s) = vcpu.get_sregs() {
        lines.push(format!(
            "CS={:04x} SS={:04x} CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x} EFER={:x}",
            s.cs.selector, s.ss.selector, s.cr0, s.cr2, s.cr3, s.cr4, s.efer
        ));
    }
    lines
}
