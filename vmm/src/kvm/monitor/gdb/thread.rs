// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handles debug exits of KVM in a vCPU's thread.
//!
//! A debug exception that the debugger did not cause is injected into the guest: the guest may
//! trace processes, and patches its own code by means of `int3`.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_SINGLESTEP, kvm_debug_exit_arch,
    kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;

use super::points;
use super::traps::Traps;
use crate::kvm::failure::{During, Failure};

/// The vector of `int3`. All other debug exits report a debug exception.
const BREAKPOINT: u32 = 3;

/// A reason to stop a vCPU for the debugger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kvm::monitor) enum Hit {
    /// A software breakpoint. The vCPU's program counter is its address.
    Trap,
    /// The end of a single step, or a hardware breakpoint: debug register 6.
    Debug(u64),
}

/// The debugger's part of a vCPU's thread.
#[derive(Debug)]
pub(in crate::kvm::monitor) struct Watcher {
    traps: Arc<Mutex<Traps>>,
    /// The settings that KVM was given last.
    settings: kvm_guest_debug,
}

impl Watcher {
    /// Returns a watcher for these breakpoints.
    pub(super) fn new(traps: &Arc<Mutex<Traps>>) -> Self {
        Self {
            traps: Arc::clone(traps),
            settings: kvm_guest_debug::default(),
        }
    }

    /// Sets the conditions on which KVM stops the vCPU.
    pub fn set(&mut self, vcpu: &VcpuFd, settings: kvm_guest_debug) -> Result<(), Failure> {
        self.settings = settings;
        set(vcpu, &settings)
    }

    /// Handles a debug exit. Returns `None` if the vCPU must continue.
    pub fn debug_exit(
        &self,
        vcpu: &VcpuFd,
        exit: &kvm_debug_exit_arch,
    ) -> Result<Option<Hit>, Failure> {
        let (control, dr7) = (self.settings.control, self.settings.arch.debugreg[7]);
        let (ours, inject) = match exit.exception {
            BREAKPOINT => (
                self.trap_at(exit.pc).map(|_| Hit::Trap),
                KVM_GUESTDBG_INJECT_BP,
            ),
            _ => {
                // While the vCPU single-steps, every debug exception is reported, so that no step
                // is missed.
                let ours = control & KVM_GUESTDBG_SINGLESTEP != 0 || points::is_met(exit.dr6, dr7);
                (ours.then_some(Hit::Debug(exit.dr6)), KVM_GUESTDBG_INJECT_DB)
            }
        };
        if ours.is_none() {
            if inject == KVM_GUESTDBG_INJECT_DB {
                // The guest's handler reads the cause there.
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

    /// Handles a write to the port that implements a breakpoint; the program counter is after it.
    /// Returns `None` if the vCPU must continue.
    pub fn port_exit(&self, vcpu: &VcpuFd) -> Result<Option<Hit>, Failure> {
        let mut regs = vcpu.get_regs().during("read a vCPU's registers")?;
        let Some(address) = self.trap_at(regs.rip) else {
            return Ok(None);
        };
        regs.rip = address;
        vcpu.set_regs(&regs).during("set a vCPU's registers")?;
        Ok(Some(Hit::Trap))
    }

    fn trap_at(&self, pc: u64) -> Option<u64> {
        let traps = self.traps.lock().unwrap_or_else(PoisonError::into_inner);
        traps.hit(pc)
    }
}

fn set(vcpu: &VcpuFd, settings: &kvm_guest_debug) -> Result<(), Failure> {
    vcpu.set_guest_debug(settings)
        .during("set a vCPU's debug settings")
}
