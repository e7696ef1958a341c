// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state of vCPUs and of KVM's own devices, as a snapshot contains it.
//!
//! KVM's structures are stored unchanged. They are set in the order that KVM requires
//! (`Documentation/virt/kvm/api.rst`): CPUID before all that depends on it, the local APIC before
//! the MSR of its timer.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use crate::kvm::failure::{During, Failure};

/// `IA32_TSC_DEADLINE`: it arms a timer, so it must be set after the TSC.
const TSC_DEADLINE: u32 = 0x6e0;

/// The state of a vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: kvm_xsave,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    tsc_khz: u32,
}

impl VcpuState {
    /// Reads the state of a vCPU that does not run. `msrs` are the MSRs that KVM saves.
    pub fn save(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, Failure> {
        const WHAT: &str = "read a vCPU's state";
        // Read this first: it makes KVM process pending start-up interrupts.
        let mp_state = vcpu.get_mp_state().during(WHAT)?;
        Ok(Self {
            mp_state,
            regs: vcpu.get_regs().during(WHAT)?,
            sregs: vcpu.get_sregs().during(WHAT)?,
            xcrs: vcpu.get_xcrs().during(WHAT)?,
            xsave: vcpu.get_xsave().during(WHAT)?,
            debugregs: vcpu.get_debug_regs().during(WHAT)?,
            lapic: vcpu.get_lapic().during(WHAT)?,
            msrs: read_msrs(vcpu, msrs)?,
            events: vcpu.get_vcpu_events().during(WHAT)?,
            tsc_khz: vcpu.get_tsc_khz().during(WHAT)?,
        })
    }

    /// Sets this state in a vCPU whose CPUID is set.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), Failure> {
        const WHAT: &str = "set a vCPU's state";
        if vcpu.get_tsc_khz().during(WHAT)? != self.tsc_khz {
            vcpu.set_tsc_khz(self.tsc_khz)
                .during("set the TSC rate of the snapshot")?;
        }
        vcpu.set_mp_state(self.mp_state).during(WHAT)?;
        vcpu.set_regs(&self.regs).during(WHAT)?;
        vcpu.set_sregs(&self.sregs).during(WHAT)?;
        vcpu.set_xcrs(&self.xcrs).during(WHAT)?;
        // SAFETY: KVM reads no more than the structure, as long as no feature that is enabled by
        // `arch_prctl` makes the state longer; none is enabled.
        unsafe { vcpu.set_xsave(&self.xsave) }.during(WHAT)?;
        vcpu.set_debug_regs(&self.debugregs).during(WHAT)?;
        vcpu.set_lapic(&self.lapic).during(WHAT)?;
        let (timer, others): (Vec<_>, Vec<_>) = self
            .msrs
            .iter()
            .partition(|entry| entry.index == TSC_DEADLINE);
        for entries in [others, timer] {
            let entries = Msrs::from_entries(&entries).during(WHAT)?;
            let wanted = entries.as_slice().len();
            let set = vcpu.set_msrs(&entries).during(WHAT)?;
            if let Some(refused) = entries.as_slice().get(set) {
                return Err(Failure::new(format!(
                    "set MSR {:#x}, number {set} of {wanted}",
                    refused.index
                )));
            }
        }
        vcpu.set_vcpu_events(&self.events).during(WHAT)?;
        // Without this notice, a watchdog in the guest would count the time in which the guest was
        // not running. A guest that does not use kvmclock does not need this (EINVAL).
        match vcpu.kvmclock_ctrl() {
            Err(error) if error.errno() != libc::EINVAL => Err(error).during(WHAT),
            _ => Ok(()),
        }
    }
}

/// Returns the MSRs that KVM saves for a guest.
pub(super) fn msr_indices(kvm: &Kvm) -> Result<Vec<u32>, Failure> {
    let list = kvm.get_msr_index_list().during("read KVM's list of MSRs")?;
    Ok(list.as_slice().to_vec())
}

/// Reads the MSRs that this vCPU has. KVM stops at the first one that the vCPU lacks, so continue
/// after that.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, Failure> {
    let mut entries = Vec::new();
    let mut rest = indices;
    while !rest.is_empty() {
        let wanted: Vec<_> = rest
            .iter()
            .map(|&index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        let mut msrs = Msrs::from_entries(&wanted).during("list MSRs")?;
        let read = vcpu.get_msrs(&mut msrs).during("read a vCPU's MSRs")?;
        entries.extend_from_slice(&msrs.as_slice()[..read]);
        rest = rest.get(read + 1..).unwrap_or_default();
    }
    Ok(entries)
}

/// The state of KVM's own devices.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct VmState {
    irqchips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
}

impl VmState {
    /// Reads the state. No vCPU may run.
    pub fn save(vm: &VmFd) -> Result<Self, Failure> {
        let mut irqchips = Vec::new();
        for chip_id in [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ] {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .during("read the interrupt controllers")?;
            irqchips.push(chip);
        }
        Ok(Self {
            irqchips,
            pit: vm.get_pit2().during("read the timer")?,
            clock: vm.get_clock().during("read the clock")?,
        })
    }

    /// Sets this state. The guest's clock continues from the time of the save: the time in between
    /// is not visible to the guest.
    pub fn restore(&self, vm: &VmFd) -> Result<(), Failure> {
        for chip in &self.irqchips {
            vm.set_irqchip(chip)
                .during("set the interrupt controllers")?;
        }
        vm.set_pit2(&self.pit).during("set the timer")?;
        // The flags belong to the reading of the clock; if they were set here, KVM would also
        // adjust the clock.
        let clock = kvm_clock_data {
            clock: self.clock.clock,
            ..Default::default()
        };
        vm.set_clock(&clock).during("set the clock")
    }
}
