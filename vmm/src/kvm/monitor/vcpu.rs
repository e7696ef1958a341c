// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The thread that runs a vCPU.

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
use super::gdb::{self, Hit, Watcher};
use super::state::VcpuState;
use crate::HostFault;
use crate::kvm::failure::{During, Failure};
use crate::kvm::wire::{Ended, Registers};

/// A command to a vCPU's thread.
pub(super) enum Command {
    /// Stop running the guest, reply, and wait for the next command.
    Pause(Sender<()>),
    /// Run the guest.
    Resume,
    /// Call this function with the vCPU; only while paused.
    Do(Box<dyn FnOnce(&VcpuFd) + Send>),
    /// Set the conditions on which the guest stops for the debugger, and reply; only while paused,
    /// and only if a debugger may connect.
    Debug(Box<kvm_guest_debug>, Sender<Result<(), Failure>>),
    /// End the thread.
    Stop,
}

/// A message to the event loop, mostly from a vCPU's thread.
pub(super) enum Notice {
    /// The guest has ended; the vCPU does not run again.
    Ended(Ended),
    /// The host failed to read or write a disk.
    Fault(HostFault),
    /// The vCPU has stopped for the debugger, and is paused.
    Debug {
        /// The index of the vCPU.
        index: u8,
        /// The reason of the stop.
        hit: Hit,
    },
}

/// The handle with which other threads control a vCPU's thread.
pub(super) struct Handle {
    commands: Sender<Command>,
    leave: Leave,
    msrs: Arc<[u32]>,
    /// The thread returns the vCPU, so that the vCPU exists for as long as this handle does.
    thread: JoinHandle<Runner>,
}

impl Handle {
    /// Starts the thread. The vCPU waits for [`Command::Resume`]. `msrs` are the MSRs that KVM
    /// saves; `watcher` is `Some` if a debugger may connect.
    pub fn start(
        index: u8,
        mut vcpu: VcpuFd,
        bus: Arc<Bus>,
        msrs: Arc<[u32]>,
        notices: Sender<Notice>,
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
            notices,
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
                    runner.report(Notice::Ended(ended));
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

    /// Sends a command to the thread, and makes the vCPU leave the guest to receive it.
    pub fn send(&self, command: Command) {
        // A thread that has ended needs no command.
        if self.commands.send(command).is_ok() {
            self.leave.0.store(1, Ordering::SeqCst);
            let _ = self.thread.kill(SIGRTMIN());
        }
    }

    /// Stops the guest on this vCPU; the receiver gets a message when it has stopped.
    pub fn pause(&self) -> Receiver<()> {
        let (done, paused) = mpsc::channel();
        self.send(Command::Pause(done));
        paused
    }

    /// Calls `act` with the vCPU, which must be paused, in its thread: KVM caches a vCPU's state
    /// for the thread that runs it.
    pub fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&VcpuFd) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, result) = mpsc::channel();
        self.send(Command::Do(Box::new(move |vcpu| {
            // The receiver exists until this is sent.
            let _ = answer.send(act(vcpu));
        })));
        result.recv().during("access a vCPU: its thread has ended")
    }

    /// Sets the conditions on which the vCPU, which must be paused, stops for the debugger.
    pub fn debug(&self, settings: kvm_guest_debug) -> Result<(), Failure> {
        let (done, result) = mpsc::channel();
        self.send(Command::Debug(Box::new(settings), done));
        result
            .recv()
            .during("access a vCPU: its thread has ended")?
    }

    /// Returns the registers as lines of text. The vCPU must be paused.
    pub fn registers(&self) -> Vec<String> {
        self.with(registers).unwrap_or_default()
    }

    /// Returns the registers for a dump. The vCPU must be paused.
    pub fn all_registers(&self) -> Result<Registers, Failure> {
        const WHAT: &str = "read a vCPU's registers";
        self.with(|vcpu| {
            Ok(Registers {
                general: vcpu.get_regs().during(WHAT)?,
                special: vcpu.get_sregs().during(WHAT)?,
            })
        })?
    }

    /// Returns the vCPU's state. The vCPU must be paused.
    pub fn save(&self) -> Result<VcpuState, Failure> {
        let msrs = Arc::clone(&self.msrs);
        self.with(move |vcpu| VcpuState::save(vcpu, &msrs))?
    }

    /// Ends the thread and waits for it.
    pub fn stop(self) {
        self.send(Command::Stop);
        let _ = self.thread.join();
    }
}

/// Does nothing: the signal's only purpose is to interrupt `KVM_RUN`.
extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the signal handler with which [`Handle::send`] interrupts vCPUs. Call it once per
/// process, before the first vCPU is created.
pub(super) fn prepare() -> Result<(), Failure> {
    register_signal_handler(SIGRTMIN(), interrupt).during("handle the vCPUs' signal")
}

/// `kvm_run.immediate_exit` of a vCPU: a nonzero value makes `KVM_RUN` return immediately. A signal
/// alone would be lost if it arrived just before the system call (`Documentation/virt/kvm/api.rst`,
/// "5. The kvm_run structure").
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
        // SAFETY: the page is mapped for as long as the vCPU exists. Its thread owns the vCPU and
        // returns it at its end to the `Handle`, which is the only user in a different thread.
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
    notices: Sender<Notice>,
    wake: EventFd,
    watcher: Option<Watcher>,
}

impl Runner {
    /// Runs until the guest ends. Returns `None` if a command stops the thread.
    fn run(&mut self) -> Option<Ended> {
        let mut paused = true;
        loop {
            if !self.handle_commands(&mut paused) {
                return None;
            }
            let hit = match self.vcpu.run() {
                Ok(VcpuExit::Debug(debug)) => {
                    self.report_to_debugger(|watcher, vcpu| watcher.debug_exit(vcpu, &debug))
                }
                Ok(VcpuExit::IoOut(gdb::PORT, _)) if self.watcher.is_some() => {
                    self.complete();
                    self.report_to_debugger(Watcher::port_exit)
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
                // KVM_RUN returns EAGAIN now and then while the vCPU waits for its start-up
                // interrupt.
                Err(error) if error.errno() == libc::EAGAIN => continue,
                Err(error) => {
                    return Some(self.with_registers(Ended::Kvm {
                        detail: format!("KVM_RUN: {error}"),
                        registers: Vec::new(),
                    }));
                }
            };
            match hit {
                Ok(hit) => paused = hit,
                Err(failure) => {
                    return Some(Ended::Monitor {
                        detail: failure.to_string(),
                    });
                }
            }
        }
    }

    /// Makes KVM complete the instruction at which it has just left the guest.
    fn complete(&mut self) {
        self.leave.0.store(1, Ordering::SeqCst);
        // KVM_RUN fails with EINTR, or reports a single step that ends with this instruction.
        let _ = self.vcpu.run();
        // A request to leave is not lost by this reset: its command is already in the queue, see
        // `Handle::send`.
        self.leave.0.store(0, Ordering::SeqCst);
    }

    /// Reports a stop to the debugger, if `look` finds that the debugger requested it. Returns true
    /// if it did.
    fn report_to_debugger(
        &self,
        look: impl FnOnce(&Watcher, &VcpuFd) -> Result<Option<Hit>, Failure>,
    ) -> Result<bool, Failure> {
        let Some(watcher) = &self.watcher else {
            return Ok(false);
        };
        let hit = look(watcher, &self.vcpu)?;
        if let Some(hit) = hit {
            let index = self.index;
            self.report(Notice::Debug { index, hit });
        }
        Ok(hit.is_some())
    }

    fn report(&self, notice: Notice) {
        // The receiver is dropped only when the process is about to exit.
        let _ = self.notices.send(notice);
        let _ = self.wake.write(1);
    }

    /// Handles queued commands, and waits for further ones while paused. Returns false to stop.
    fn handle_commands(&mut self, paused: &mut bool) -> bool {
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
                        // Without this notice, the guest's watchdogs would report the time of the
                        // pause as a lockup. A guest that does not use kvmclock needs no notice.
                        let _ = self.vcpu.kvmclock_ctrl();
                    }
                }
                Command::Do(act) => act(&self.vcpu),
                Command::Debug(settings, done) => {
                    let result = match &mut self.watcher {
                        Some(watcher) => watcher.set(&self.vcpu, *settings),
                        None => Err(Failure::new(
                            "debug a guest that was started without a debugger",
                        )),
                    };
                    let _ = done.send(result);
                }
                Command::Stop => return false,
            }
        }
    }

    /// Handles commands to a vCPU that does not run again, until a command ends the thread.
    fn serve_stopped(&mut self) {
        let mut paused = true;
        while self.handle_commands(&mut paused) {
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

/// Handles an exit. Returns the reason if the guest has ended.
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
        other => return kvm(format!("unexpected KVM exit: {other:?}")),
    }
    None
}

/// Returns the registers as lines of text, in QEMU's format.
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
