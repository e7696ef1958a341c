// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sets the initial state of a vCPU: its CPUID, MSRs, FPU and local APIC.

use kvm_bindings::{CpuId, Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_xcr, kvm_xcrs};
use kvm_ioctls::VcpuFd;

use crate::kvm::failure::{During, Failure};

/// `IA32_MISC_ENABLE` and its bit for fast `rep movs` (Intel SDM 4, table 2-2).
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRING: u64 = 1;

/// Offsets of the local APIC's LINT registers, and their delivery modes.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVER_EXT_INT: u32 = 7 << 8;
const DELIVER_NMI: u32 = 4 << 8;

/// Sets the initial state of a vCPU, except its registers.
pub(super) fn configure(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), Failure> {
    vcpu.set_cpuid2(cpuid).during("set a vCPU's CPUID")?;
    set_xcr0(vcpu, cpuid)?;
    let msrs = Msrs::from_entries(&[kvm_msr_entry {
        index: MISC_ENABLE,
        data: FAST_STRING,
        ..Default::default()
    }])
    .during("list MSRs")?;
    // Ignore a failure: some versions of KVM lack this MSR, which only improves speed.
    let _ = vcpu.set_msrs(&msrs);
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).during("set a vCPU's FPU")?;
    let mut lapic = vcpu.get_lapic().during("read a vCPU's local APIC")?;
    set_register(&mut lapic, LVT_LINT0, DELIVER_EXT_INT);
    set_register(&mut lapic, LVT_LINT1, DELIVER_NMI);
    vcpu.set_lapic(&lapic).during("set a vCPU's local APIC")
}

/// Enables all extended states from the start, as the kernel will do. On a CPU whose virtualisation
/// does not intercept `xsetbv` (such as QEMU's emulation of AMD's), KVM does not see what the guest
/// sets later, so CPUID would contradict it.
fn set_xcr0(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), Failure> {
    let states = cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0xd && entry.index == 0)
        .map(|entry| u64::from(entry.eax) | u64::from(entry.edx) << 32);
    // A CPU without xsave has no XCR0.
    let Some(value) = states.filter(|&states| states != 0) else {
        return Ok(());
    };
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0] = kvm_xcr {
        value,
        ..Default::default()
    };
    vcpu.set_xcrs(&xcrs)
        .during("enable a vCPU's extended states")
}

fn set_register(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (register, byte) in lapic.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
        *register = byte as _;
    }
}
