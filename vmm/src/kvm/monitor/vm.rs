// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtual machine: KVM's VM, memory, devices and vCPUs.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::GuestAddress;
use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::eventfd::EventFd;

use super::bus::{Bus, WINDOW, WINDOW_SIZE};
use super::gdb::Watcher;
use super::snapshot::Snapshot;
use super::state::{self, VmState};
use super::vcpu::{Command, Handle, Notice};
use super::{boot, cpu, mptable};
use crate::HostFault;
use crate::kvm::cpuid;
use crate::kvm::devices::block::Block;
use crate::kvm::devices::console::Console;
use crate::kvm::devices::mmio::Transport;
use crate::kvm::devices::rng::Rng;
use crate::kvm::devices::serial::{Output, Serial};
use crate::kvm::devices::{Events, Interrupt, TOKENS, VirtioDevice};
use crate::kvm::failure::{During, Failure};
use crate::kvm::memory::{self, Memory};
use crate::kvm::phases::Phases;
use crate::kvm::wire::Config;

/// Pages that VMX needs to run real-mode code, in the hole below 4 GiB.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TASK_STATE: usize = 0xfffb_d000;

/// Interrupt numbers of the serial port, as on PCs, and of the first transport.
const SERIAL_GSI: u32 = 4;
const FIRST_GSI: u32 = 5;

/// The host's ends of the guest's console and byte channels.
pub(super) struct Ends {
    pub console: UnixStream,
    pub channel: UnixStream,
    pub terminal: UnixStream,
}

/// The snapshot from which a guest starts.
pub(super) struct Saved {
    pub state: Snapshot,
    /// Guest memory of the base snapshot.
    pub pages: File,
    /// Pages that replace those of the base, for an incremental snapshot.
    pub changes: Option<File>,
}

/// A virtual machine with all its parts.
pub(super) struct Vm {
    pub fd: VmFd,
    pub memory: Arc<Memory>,
    memory_mib: u32,
    pub bus: Arc<Bus>,
    pub vcpus: Vec<Handle>,
    holds: Mutex<Holds>,
}

/// The reasons that keep vCPUs from running.
#[derive(Debug)]
struct Holds {
    /// The parent has paused all of them.
    parent: bool,
    /// The debugger has stopped this vCPU.
    debugger: Vec<bool>,
}

/// An edge-triggered interrupt of the guest.
struct Irq(EventFd);

impl Irq {
    fn new(vm: &VmFd, gsi: u32) -> Result<Self, Failure> {
        let fd = EventFd::new(libc::EFD_NONBLOCK).during("make an eventfd")?;
        vm.register_irqfd(&fd, gsi).during("connect an interrupt")?;
        Ok(Self(fd))
    }
}

impl Interrupt for Irq {
    fn raise(&self) {
        // It fails only if the counter is full; then the interrupt is already pending.
        let _ = self.0.write(1);
    }
}

/// Sends faults of the host's disk to the event loop.
struct Faults<'a> {
    notices: &'a Sender<Notice>,
    wake: &'a EventFd,
}

impl Faults<'_> {
    /// Returns the function that reports the faults of the disk at `path`.
    fn reporter(&self, path: &Path) -> Result<impl Fn(HostFault) + Send + 'static, Failure> {
        let notices = self.notices.clone();
        let wake = self.wake.try_clone().during("duplicate an eventfd")?;
        let path = path.display().to_string();
        Ok(move |mut fault: HostFault| {
            fault.detail = format!("{path}: {}", fault.detail);
            // Both fail only if the event loop has ended.
            let _ = notices.send(Notice::Fault(fault));
            let _ = wake.write(1);
        })
    }
}

impl Vm {
    /// Builds the machine and starts its vCPUs' threads, which wait to be resumed. With `saved` the
    /// guest continues from that snapshot, otherwise from its first instruction.
    ///
    /// `epoll` watches the sockets, with the tokens from `tokens` on. Each vCPU's thread gets a
    /// result of `watcher`.
    pub fn new(
        config: &Config,
        ends: Ends,
        saved: Option<Saved>,
        (epoll, tokens): (&Arc<Epoll>, u64),
        (notices, wake): (&Sender<Notice>, &EventFd),
        watcher: impl Fn() -> Option<Watcher>,
        phases: &mut Phases,
    ) -> Result<Self, Failure> {
        let kvm = Kvm::new().during("open /dev/kvm")?;
        let fd = create(&kvm)?;
        phases.kvm("machine");
        let pages = saved.as_ref().map(|saved| &saved.pages);
        let memory = Arc::new(memory::map(config.memory_mib, pages, config.track)?);
        if let (
            Some(runs),
            Some(Saved {
                changes: Some(changes),
                ..
            }),
        ) = (&config.changes, &saved)
        {
            memory::overlay(&memory, changes, runs)?;
        }
        phases.own("memory");
        // SAFETY: `Vm` owns both; its vCPUs' threads end before it drops them.
        unsafe { memory::register(&fd, &memory, config.track)? };
        phases.kvm("memory's slots");
        let faults = Faults { notices, wake };
        let bus = Arc::new(bus(&fd, &memory, config, ends, (epoll, tokens), faults)?);
        phases.own("devices");
        let vcpus = vcpus(&kvm, &fd, config)?;
        let msrs: Arc<[u32]> = state::msr_indices(&kvm)?.into();
        phases.kvm("vCPUs");
        match &saved {
            Some(saved) => restore(config, &saved.state, &fd, &bus, &vcpus, phases)?,
            None => boot(config, &memory, &bus, &vcpus[0], phases)?,
        }
        let mut handles = Vec::new();
        for (index, vcpu) in (0..).zip(vcpus) {
            handles.push(Handle::start(
                index,
                vcpu,
                Arc::clone(&bus),
                Arc::clone(&msrs),
                notices.clone(),
                wake.try_clone().during("duplicate an eventfd")?,
                watcher(),
            )?);
        }
        Ok(Self {
            fd,
            memory,
            memory_mib: config.memory_mib,
            bus,
            holds: Mutex::new(Holds {
                parent: false,
                debugger: vec![false; handles.len()],
            }),
            vcpus: handles,
        })
    }

    /// Returns the guest's state without its memory. Its vCPUs must be paused.
    pub fn save(&self) -> Result<Snapshot, Failure> {
        let vcpus = self
            .vcpus
            .iter()
            .map(Handle::save)
            .collect::<Result<_, _>>()?;
        let transports = self
            .bus
            .transports
            .iter()
            .map(|transport| {
                transport
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .save()
            })
            .collect();
        let mut serial = self.bus.serial();
        serial.flush();
        Ok(Snapshot {
            memory_mib: self.memory_mib,
            transports,
            serial: serial.save(),
            vcpus,
            vm: VmState::save(&self.fd)?,
        })
    }

    /// Returns the guest's memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// With `true`, the parent keeps the guest paused from now on. This takes effect at the next
    /// [`Self::resume`].
    pub fn parent_holds(&self, hold: bool) {
        self.holds().parent = hold;
    }

    /// Sets the vCPUs that the debugger keeps paused. This takes effect at the next
    /// [`Self::resume`].
    pub fn debugger_holds(&self, hold: impl Fn(usize) -> bool) {
        let mut holds = self.holds();
        for (index, held) in holds.debugger.iter_mut().enumerate() {
            *held = hold(index);
        }
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses all vCPUs, and waits until they have stopped.
    pub fn pause(&self) {
        let paused: Vec<_> = self.vcpus.iter().map(Handle::pause).collect();
        for vcpu in paused {
            // A vCPU whose thread has ended is not running.
            let _ = vcpu.recv();
        }
    }

    /// Resumes all vCPUs that neither the parent nor the debugger keeps paused.
    pub fn resume(&self) {
        let holds = self.holds();
        for (vcpu, &held) in self.vcpus.iter().zip(&holds.debugger) {
            if !held && !holds.parent {
                vcpu.send(Command::Resume);
            }
        }
    }

    /// Ends all threads of vCPUs.
    pub fn stop(self) {
        for vcpu in self.vcpus {
            vcpu.stop();
        }
    }
}

/// Creates KVM's VM with its in-kernel devices.
fn create(kvm: &Kvm) -> Result<VmFd, Failure> {
    let fd = kvm.create_vm().during("create a virtual machine")?;
    fd.set_identity_map_address(IDENTITY_MAP)
        .during("place the identity map")?;
    fd.set_tss_address(TASK_STATE)
        .during("place the task state")?;
    fd.create_irq_chip()
        .during("create the interrupt controllers")?;
    fd.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })
    .during("create the timer")?;
    Ok(fd)
}

/// Creates the vCPUs in their state after power-on.
fn vcpus(kvm: &Kvm, fd: &VmFd, config: &Config) -> Result<Vec<VcpuFd>, Failure> {
    let supported = cpuid::supported(kvm)?;
    (0..config.vcpus)
        .map(|index| {
            let vcpu = fd.create_vcpu(index.into()).during("create a vCPU")?;
            let cpuid = cpuid::of_vcpu(kvm, &supported, index, config.vcpus);
            cpu::configure(&vcpu, &cpuid)?;
            Ok(vcpu)
        })
        .collect()
}

/// Loads the kernel and prepares the boot vCPU; the others wait for the guest's start-up
/// interrupts.
fn boot(
    config: &Config,
    memory: &Memory,
    bus: &Bus,
    vcpu: &VcpuFd,
    phases: &mut Phases,
) -> Result<(), Failure> {
    let mut cmdline = boot::cmdline(&config.cmdline)?;
    for index in 0..bus.transports.len() {
        let base = GuestAddress(WINDOW + index as u64 * WINDOW_SIZE);
        cmdline
            .add_virtio_mmio_device(WINDOW_SIZE, base, FIRST_GSI + index as u32, None)
            .during("announce a device")?;
    }
    let entry = boot::load(
        memory,
        &config.kernel,
        &cmdline,
        config.memory_mib,
        config.vcpus,
    )?;
    phases.own("kernel");
    let sregs = vcpu.get_sregs().during("read a vCPU's registers")?;
    let sregs = boot::special_registers(memory, entry, sregs)?;
    vcpu.set_sregs(&sregs).during("set a vCPU's registers")?;
    vcpu.set_regs(&boot::registers(entry))
        .during("set a vCPU's registers")?;
    phases.kvm("registers");
    Ok(())
}

/// Restores the state of a snapshot into the machine.
fn restore(
    config: &Config,
    saved: &Snapshot,
    fd: &VmFd,
    bus: &Bus,
    vcpus: &[VcpuFd],
    phases: &mut Phases,
) -> Result<(), Failure> {
    let same = saved.memory_mib == config.memory_mib
        && saved.vcpus.len() == vcpus.len()
        && saved.transports.len() == bus.transports.len();
    if !same {
        return Err(Failure::new(
            "start the snapshot: its memory size or its number of vCPUs or devices differs",
        ));
    }
    for (state, vcpu) in saved.vcpus.iter().zip(vcpus) {
        state.restore(vcpu)?;
    }
    saved.vm.restore(fd)?;
    phases.kvm("state");
    bus.serial()
        .restore(&saved.serial)
        .during("restore the serial line")?;
    for (state, transport) in saved.transports.iter().zip(&bus.transports) {
        let mut transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
        transport.restore(state).during("restore a device")?;
    }
    // Resume them only after everything is restored, because they may raise interrupts.
    bus.resume();
    phases.own("devices' state");
    Ok(())
}

fn bus(
    vm: &VmFd,
    memory: &Arc<Memory>,
    config: &Config,
    ends: Ends,
    (epoll, tokens): (&Arc<Epoll>, u64),
    faults: Faults<'_>,
) -> Result<Bus, Failure> {
    let events = |index: usize| Events::new(Arc::clone(epoll), tokens + index as u64 * TOKENS);
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let block = Block::open(&disk.path, disk.readonly, &format!("disk{index}"))
            .during(format!("use {}", disk.path.display()))?;
        devices.push(Box::new(block.on_fault(faults.reporter(&disk.path)?)));
    }
    devices.push(Box::new(Rng::new()));
    let console = Console::new(ends.channel, ends.terminal, &events(devices.len()))
        .during("create the channel's device")?;
    devices.push(Box::new(console));
    if FIRST_GSI + devices.len() as u32 > mptable::IO_APIC_PINS.into() {
        return Err(Failure::new(
            "create more devices than there are interrupts",
        ));
    }
    let mut transports = Vec::new();
    for (index, device) in devices.into_iter().enumerate() {
        let interrupt = Arc::new(Irq::new(vm, FIRST_GSI + index as u32)?);
        let transport = Transport::new(device, Arc::clone(memory), interrupt, events(index))
            .during("create a device's transport")?;
        transports.push(Mutex::new(transport));
    }
    let interrupt = Arc::new(Irq::new(vm, SERIAL_GSI)?);
    let console =
        Output::stream(ends.console, events(transports.len())).during("create the serial port")?;
    Ok(Bus {
        serial: Mutex::new(Serial::new(interrupt, console)),
        transports,
    })
}
