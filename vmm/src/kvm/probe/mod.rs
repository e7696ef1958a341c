// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checks whether this host's KVM can run a kernel.
//!
//! Being able to open `/dev/kvm` is not enough: some hosts have a KVM that emulates the guest's
//! kernel code and supports too few instructions, or is a hundred times too slow. The probe
//! therefore runs and times a guest of a few instructions.

mod guest;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_segment, kvm_xcr, kvm_xcrs};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use self::guest::{COUNTS, STEPS, layout};
use super::cpuid;
use super::failure::{During, Failure};
use super::memory::{self, Memory};

/// The path of KVM's device.
const DEVICE: &str = "/dev/kvm";

/// The version of KVM's API since Linux 2.6.22.
const API: i32 = 12;

/// Bounds of the measurement: at most `ROUNDS` rounds, and no further round after `LIMIT`; but at
/// least `LEAST_ROUNDS`, or a host that is briefly busy would be taken for a slow one.
const ROUNDS: u32 = 64;
const LEAST_ROUNDS: u32 = 4;
const LIMIT: Duration = Duration::from_millis(40);

/// Minimum rate, in instructions per second, at which a kernel boots in reasonable time. QEMU's
/// emulation reaches ten times this; a KVM that emulates does not reach it.
const LEAST: f64 = 10e6;

/// Time after which the probing thread is abandoned.
const PATIENCE: Duration = Duration::from_secs(1);

/// The capabilities of KVM that the monitor needs.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::Irqchip, "in-kernel interrupt controllers"),
    (Cap::Irqfd, "interrupts by eventfd"),
    (Cap::Pit2, "the in-kernel timer"),
    (Cap::UserMemory, "guest memory in user space"),
    (Cap::ImmediateExit, "immediate exit of a vCPU"),
    (Cap::ExtCpuid, "configurable CPUID"),
];

/// The result of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// True when a kernel is expected to run.
    pub usable: bool,
    /// The reason, in one line.
    pub detail: String,
    /// The host's boot for which the result is valid (`/proc/sys/kernel/random/boot_id`).
    boot: String,
}

/// Returns the result of an earlier probe since the host's boot from the file `cache`, or probes
/// KVM and writes the result there.
///
/// # Errors
/// Fails if `cache` cannot be written. If it cannot be read, KVM is probed again.
pub fn cached(cache: &Path) -> io::Result<Finding> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let known = fs::read(cache)
        .ok()
        .and_then(|text| serde_json::from_slice::<Finding>(&text).ok());
    // The device may appear or disappear, and so may the permission to use it.
    if let Some(known) = known
        && known.boot == boot
        && known.usable == access().is_ok()
    {
        return Ok(known);
    }
    let finding = Finding { boot, ..probe() };
    if let Some(parent) = cache.parent() {
        fs::create_dir_all(parent)?;
    }
    // Rename, so that a concurrent reader finds either the old or the new result.
    let new = cache.with_extension(std::process::id().to_string());
    fs::write(&new, serde_json::to_vec(&finding)?)?;
    fs::rename(&new, cache)?;
    Ok(finding)
}

/// Probes KVM. Takes less than 100 ms, unless the vCPU hangs.
pub fn probe() -> Finding {
    let (usable, detail) = match run_apart() {
        Ok(detail) => (true, detail),
        Err(failure) => (false, failure.to_string()),
    };
    Finding {
        usable,
        detail,
        boot: String::new(),
    }
}

fn access() -> Result<(), Failure> {
    match fs::OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::new(format!("find {DEVICE}: this host has no KVM")))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error).during(
            format!("open {DEVICE}; members of its group may (usermod -aG kvm)"),
        ),
        Err(error) => Err(error).during(format!("open {DEVICE}")),
    }
}

/// Probes in a separate thread, because a vCPU may hang inside KVM and must not block the caller.
fn run_apart() -> Result<String, Failure> {
    access()?;
    let (sender, result) = mpsc::channel();
    thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || sender.send(run()))
        .during("start a thread")?;
    result
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Err(Failure::new("probe KVM: its vCPU hangs")))
}

fn run() -> Result<String, Failure> {
    let kvm = Kvm::new().during("open /dev/kvm")?;
    let api = kvm.get_api_version();
    if api != API {
        return Err(Failure::new(format!("use version {api} of KVM's API")));
    }
    for (cap, what) in NEEDED {
        if !kvm.check_extension(cap) {
            return Err(Failure::new(format!("use this KVM: it lacks {what}")));
        }
    }
    let vm = kvm.create_vm().during("create a virtual machine")?;
    vm.create_irq_chip()
        .during("create interrupt controllers")?;
    let memory = memory::map(layout::MIB, None, false)?;
    // SAFETY: the memory is dropped after the vCPU has run for the last time.
    unsafe { memory::register(&vm, &memory, false)? };
    let mut vcpu = prepare(&kvm, &vm, &memory)?;
    let began = Instant::now();
    // The fastest round counts: a busy host delays some of them.
    let mut best = Duration::MAX;
    for done in 1..=ROUNDS {
        let round = Instant::now();
        let exit = vcpu.run();
        match exit {
            Ok(VcpuExit::IoOut(guest::PORT, _)) => {}
            other => {
                let why = match other {
                    Ok(VcpuExit::InternalError) => "KVM_EXIT_INTERNAL_ERROR".to_owned(),
                    Ok(exit) => format!("{exit:?}"),
                    Err(error) => error.to_string(),
                };
                let step: u8 = memory
                    .read_obj(GuestAddress(layout::STEP))
                    .during("read a guest's memory")?;
                let step = STEPS.get(usize::from(step)).unwrap_or(&"?");
                return Err(Failure::new(format!(
                    "run a kernel on this KVM: it stops at {step}: {why}"
                )));
            }
        }
        best = best.min(round.elapsed());
        if done >= LEAST_ROUNDS && began.elapsed() > LIMIT {
            break;
        }
    }
    let rate = (2 * COUNTS) as f64 / best.as_secs_f64();
    if rate < LEAST {
        return Err(Failure::new(format!(
            "run a kernel on this KVM in reasonable time: it executes {:.1} million \
             instructions a second",
            rate / 1e6
        )));
    }
    Ok(format!(
        "runs ring 0 code at {:.0} million instructions a second",
        rate / 1e6
    ))
}

/// Returns a vCPU in long mode, about to run the guest's code.
fn prepare(kvm: &Kvm, vm: &VmFd, memory: &Memory) -> Result<VcpuFd, Failure> {
    let (code, handler) = guest::code();
    let put = |at: u64, value: u64| {
        memory
            .write_obj(value, GuestAddress(at))
            .during("write a guest's memory")
    };
    memory
        .write_slice(code, GuestAddress(layout::CODE))
        .during("write a guest's memory")?;
    // One page of 2 MiB, at address 0.
    let tables = layout::PAGE_TABLES;
    put(tables, (tables + 0x1000) | 0b11)?;
    put(tables + 0x1000, (tables + 0x2000) | 0b11)?;
    put(tables + 0x2000, 0b1000_0011)?;
    put(layout::GDT + 0x10, 0x00af_9b00_0000_ffff)?;
    put(layout::GDT + 0x18, 0x00cf_9300_0000_ffff)?;
    // An interrupt gate (Intel SDM 3A, 6.14.1).
    let handler = layout::CODE + handler;
    let gate = (handler & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
    put(layout::IDT + guest::BREAKPOINT * 16, gate)?;

    let vcpu = vm.create_vcpu(0).during("create a vCPU")?;
    let cpuid = cpuid::supported(kvm)?;
    vcpu.set_cpuid2(&cpuid).during("set a vCPU's CPUID")?;
    let mut sregs = vcpu.get_sregs().during("read a vCPU's registers")?;
    sregs.cr0 = 0x8000_0033;
    sregs.cr3 = tables;
    // PAE, OSFXSR, OSXSAVE.
    sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 18;
    sregs.efer = 1 << 8 | 1 << 10;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 0x1f;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 0xfff;
    let data = kvm_segment {
        limit: 0xffff_ffff,
        selector: 0x18,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x10,
        type_: 0xb,
        db: 0,
        l: 1,
        ..data
    };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    vcpu.set_sregs(&sregs).during("enter long mode")?;
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    // Enable the FPU and SSE.
    xcrs.xcrs[0] = kvm_xcr {
        xcr: 0,
        value: 0b11,
        ..Default::default()
    };
    vcpu.set_xcrs(&xcrs).during("enable xsave")?;
    let mut regs = vcpu.get_regs().during("read a vCPU's registers")?;
    regs.rip = layout::CODE;
    regs.rsp = layout::STACK;
    regs.rflags = 2;
    vcpu.set_regs(&regs).during("set a vCPU's registers")?;
    Ok(vcpu)
}
