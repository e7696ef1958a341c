//! A thread that runs a vCPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::bus::{Bus, Effect};
use super::confine;
use super::state::VcpuState;
use crate::kvm::failure::{During, Failure};
use crate::kvm::wire::Ended;

/// What a vCPU's thread is told.
pub(super) enum Command {
    /// Stop running the guest, answer, and wait for the next command.
    Pause(Sender<()>),
    /// Run the guest.
    Resume,
    /// Tell the state; only while paused.
    Save(Sender<Result<VcpuState, Failure>>),
    /// Tell the registers; only while paused.
    Registers(Sender<Vec<String>>),
    /// End the thread.
    Stop,
}

/// A vCPU's thread, from outside.
pub(super) struct Handle {
    commands: Sender<Command>,
    leave: Leave,
    /// Gives the vCPU back, so that it exists for as long as this handle does.
    thread: JoinHandle<Runner>,
}

impl Handle {
    /// Starts the thread. The vCPU waits for [`Command::Resume`]. `msrs` are those that
    /// KVM keeps.
    pub fn start(
        index: u8,
        mut vcpu: VcpuFd,
        bus: Arc<Bus>,
        msrs: Arc<[u32]>,
        outcomes: Sender<Ended>,
        wake: EventFd,
    ) -> Result<Self, Failure> {
        let (commands, inbox) = mpsc::channel();
        let leave = Leave::of(&mut vcpu);
        let mut runner = Runner {
            vcpu,
            bus,
            inbox,
            leave: leave.clone(),
            msrs,
        };
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || {
                let ended = match confine::thread(confine::Role::Vcpu) {
                    Ok(()) => runner.run(),
                    Err(failure) => Some(Ended::Monitor {
                        detail: failure.to_string(),
                    }),
                };
                if let Some(ended) = ended {
                    // The other end is gone only when the process is about to be.
                    let _ = outcomes.send(ended);
                    let _ = wake.write(1);
                    runner.serve_stopped();
                }
                runner
            })
            .during("start a vCPU's thread")?;
        Ok(Self {
            commands,
            leave,
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

    /// The registers; the vCPU must be paused.
    pub fn registers(&self) -> Vec<String> {
        let (answer, registers) = mpsc::channel();
        self.tell(Command::Registers(answer));
        registers.recv().unwrap_or_default()
    }

    /// The state; the vCPU must be paused.
    pub fn save(&self) -> Result<VcpuState, Failure> {
        let (answer, state) = mpsc::channel();
        self.tell(Command::Save(answer));
        state
            .recv()
            .unwrap_or_else(|_| Err(Failure::new("save a vCPU whose thread has ended")))
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
    msrs: Arc<[u32]>,
}

impl Runner {
    /// Runs until the guest ends, or until told to stop: `None`.
    fn run(&mut self) -> Option<Ended> {
        let mut paused = true;
        loop {
            if !self.obey(&mut paused) {
                return None;
            }
            match self.vcpu.run() {
                Ok(exit) => {
                    if let Some(ended) = handle(&self.bus, exit) {
                        return Some(self.with_registers(ended));
                    }
                }
                Err(error) if error.errno() == libc::EINTR => {
                    self.leave.0.store(0, Ordering::SeqCst);
                }
                // A vCPU that waits for its start-up interrupt says so now and then.
                Err(error) if error.errno() == libc::EAGAIN => {}
                Err(error) => {
                    return Some(self.with_registers(Ended::Kvm {
                        detail: format!("KVM_RUN: {error}"),
                        registers: Vec::new(),
                    }));
                }
            }
        }
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
                Command::Resume => *paused = false,
                Command::Registers(answer) => {
                    let _ = answer.send(registers(&self.vcpu));
                }
                Command::Save(answer) => {
                    let _ = answer.send(VcpuState::save(&self.vcpu, &self.msrs));
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
