// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the thread of a debugged vCPU does when KVM stops that for the debugger's sake.
//!
//! What the debugger has not asked for is the guest's own, and is given back to it: it
//! may trace processes, and patches itself by `int3`.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_SINGLESTEP, kvm_debug_exit_arch,
    kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;

use super::points;
use super::traps::Traps;
use crate::kvm::failure::{During, Failure};

/// The vector of `int3`. All else that KVM tells of is a debug exception.
const BREAKPOINT: u32 = 3;

/// What a vCPU has met that the debugger waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kvm::monitor) enum Met {
    /// A breakpoint in memory. The vCPU stands at it.
    Trap,
    /// The end of a step, or a breakpoint of its own: debug register 6.
    Debug(u64),
}

/// The debugger's part of a vCPU's thread.
#[derive(Debug)]
pub(in crate::kvm::monitor) struct Watcher {
    traps: Arc<Mutex<Traps>>,
    /// What KVM was told last.
    settings: kvm_guest_debug,
}

impl Watcher {
    /// Knows of these breakpoints.
    pub(super) fn new(traps: &Arc<Mutex<Traps>>) -> Self {
        Self {
            traps: Arc::clone(traps),
            settings: kvm_guest_debug::default(),
        }
    }

    /// Tells KVM what to stop the vCPU for.
    pub fn set(&mut self, vcpu: &VcpuFd, settings: kvm_guest_debug) -> Result<(), Failure> {
        self.settings = settings;
        set(vcpu, &settings)
    }

    /// KVM has stopped the vCPU. `None`: it shall go on.
    pub fn debug_exit(
        &self,
        vcpu: &VcpuFd,
        exit: &kvm_debug_exit_arch,
    ) -> Result<Option<Met>, Failure> {
        let (control, dr7) = (self.settings.control, self.settings.arch.debugreg[7]);
        let (ours, inject) = match exit.exception {
            BREAKPOINT => (
                self.trap_at(exit.pc).map(|_| Met::Trap),
                KVM_GUESTDBG_INJECT_BP,
            ),
            _ => {
                // Who steps is told of everything: a step must not be missed.
                let ours = control & KVM_GUESTDBG_SINGLESTEP != 0 || points::is_met(exit.dr6, dr7);
                (ours.then_some(Met::Debug(exit.dr6)), KVM_GUESTDBG_INJECT_DB)
            }
        };
        if ours.is_none() {
            if inject == KVM_GUESTDBG_INJECT_DB {
                // The guest's handler looks there for what it was.
                let mut registers = vcpu.get_debug_regs().during("read debug registers")?;
                registers.dr6 = exit.dr6;
                vcpu.set_debug_regs(&registers)
                    .during("set debug registers")?;
            }
            let settings = kvm_guest_debug {
                control: control | inject,
                ..self.settings
            };
            set(vcpu, &settings)?;
        }
        Ok(ours)
    }

    /// The vCPU has written to the port that stands for a breakpoint, and is behind that.
    /// `None`: it shall go on.
    pub fn port_exit(&self, vcpu: &VcpuFd) -> Result<Option<Met>, Failure> {
        let mut regs = vcpu.get_regs().during("read a vCPU's registers")?;
        let Some(address) = self.trap_at(regs.rip) else {
            return Ok(None);
        };
        regs.rip = address;
        vcpu.set_regs(&regs).during("set a vCPU's registers")?;
        Ok(Some(Met::Trap))
    }

    fn trap_at(&self, pc: u64) -> Option<u64> {
        let traps = self.traps.lock().unwrap_or_else(PoisonError::into_inner);
        traps.met(pc)
    }
}

fn set(vcpu: &VcpuFd, settings: &kvm_guest_debug) -> Result<(), Failure> {
    vcpu.set_guest_debug(settings)
        .during("set what a vCPU is stopped for")
}
