// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Resumes the guest, and determines the reasons for its stops.
//!
//! Either all vCPUs run or all are stopped, except when gdb makes one of them step over a
//! breakpoint, which gdb removes meanwhile: then the others wait.

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::multithread::{
    MultiThreadResume, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
    MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP,
    KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
};

use super::points::{Point, Wait};
use super::target::{Target, tid};
use super::thread::Hit;
use super::traps::Lifted;
use crate::kvm::failure::{During, Failure};

/// The action of a vCPU when the guest is resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The default for vCPUs for which gdb requested no action.
    Any,
    /// Run.
    Continue,
    /// Execute one instruction.
    Step,
}

/// A vCPU steps away from the middle of a breakpoint that was set around its program counter, and
/// which is removed during the step. gdb assumes breakpoints of one byte, but ours may have two.
#[derive(Debug)]
pub(super) struct StepOff {
    index: usize,
    lifted: Lifted,
}

impl Target {
    /// Stops all vCPUs and keeps them stopped.
    pub fn stop(&mut self) {
        self.vm.debugger_holds(|_| true);
        self.vm.pause();
        if let Some(StepOff { lifted, .. }) = self.step_off.take() {
            self.traps().put_back(self.vm.memory(), lifted);
        }
    }

    /// Removes all breakpoints, and resumes the guest.
    pub fn forget(&mut self) {
        self.stop();
        self.traps().clear(self.vm.memory());
        for vcpu in &self.vm.vcpus {
            // A vCPU that has ended has no settings to reset.
            let _ = vcpu.debug(kvm_guest_debug::default());
        }
        self.vm.debugger_holds(|_| false);
        self.vm.resume();
    }

    /// Returns the reason of a vCPU's stop; the guest is stopped. Returns `None` if gdb gets no
    /// report of it; the guest is then resumed.
    pub fn reason(
        &mut self,
        index: u8,
        hit: Hit,
        was_step_off: bool,
    ) -> Result<Option<MultiThreadStopReason<u64>>, Failure> {
        let tid = tid(index.into());
        if was_step_off && self.actions[usize::from(index)] != Action::Step {
            self.run()?;
            return Ok(None);
        }
        let point = match hit {
            Hit::Trap => return Ok(Some(MultiThreadStopReason::SwBreak(tid))),
            Hit::Debug(dr6) => self.points.hit(dr6),
        };
        Ok(Some(match point {
            Some(Point {
                address,
                wait: Wait::Access(kind, _),
            }) => MultiThreadStopReason::Watch {
                tid,
                kind,
                addr: address,
            },
            Some(_) => MultiThreadStopReason::HwBreak(tid),
            None => MultiThreadStopReason::SignalWithThread {
                tid,
                signal: Signal::SIGTRAP,
            },
        }))
    }

    /// Returns true when this vCPU performs a step that gdb has not requested.
    pub fn is_step_off(&self, index: u8) -> bool {
        let step = self.step_off.as_ref();
        step.is_some_and(|step| step.index == usize::from(index))
    }

    /// Queues a stop for a later report, unless the vCPU will stop again for the same reason when
    /// it is resumed.
    pub fn postpone(&mut self, index: u8, hit: Hit) {
        let again = match hit {
            Hit::Trap => true,
            Hit::Debug(dr6) => !matches!(
                self.points.hit(dr6),
                Some(Point {
                    wait: Wait::Access(..),
                    ..
                })
            ),
        };
        if !again {
            self.pending.push_back((index, hit));
        }
    }

    /// Resumes the guest as gdb requested.
    fn run(&mut self) -> Result<(), Failure> {
        let straddling = self.straddling()?;
        if let Some((index, address)) = straddling {
            let lifted = self.traps().lift(self.vm.memory(), address);
            self.step_off = lifted.map(|lifted| StepOff { index, lifted });
        }
        for (index, vcpu) in self.vm.vcpus.iter().enumerate() {
            let step = match straddling {
                Some((it, _)) => it == index,
                None => self.actions[index] == Action::Step,
            };
            vcpu.debug(self.settings(step))?;
        }
        self.vm.debugger_holds(|index| match straddling {
            Some((it, _)) => it != index,
            None => self.locked && self.actions[index] == Action::Any,
        });
        self.vm.resume();
        Ok(())
    }

    /// Returns a vCPU whose program counter is in the middle of a breakpoint, and the breakpoint's
    /// address.
    fn straddling(&self) -> Result<Option<(usize, u64)>, Failure> {
        for (index, vcpu) in self.vm.vcpus.iter().enumerate() {
            let regs = vcpu.with(kvm_ioctls::VcpuFd::get_regs)?;
            let pc = regs.during("read a vCPU's registers")?.rip;
            if let Some(address) = self.traps().around(pc) {
                return Ok(Some((index, address)));
            }
        }
        Ok(None)
    }

    /// Returns KVM's debug settings for a vCPU.
    fn settings(&self, step: bool) -> kvm_guest_debug {
        let mut control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
        if !self.points.is_empty() {
            control |= KVM_GUESTDBG_USE_HW_BP;
        }
        if step {
            control |= KVM_GUESTDBG_SINGLESTEP;
            if self.abilities.block_irq {
                // Block interrupts: otherwise a step might enter the handler of a timer interrupt.
                control |= KVM_GUESTDBG_BLOCKIRQ;
            }
        }
        kvm_guest_debug {
            control,
            pad: 0,
            arch: self.points.registers(),
        }
    }

    fn set_action(&mut self, tid: Tid, action: Action) {
        if let Some(it) = self.actions.get_mut(tid.get() - 1) {
            *it = action;
        }
    }
}

impl MultiThreadResume for Target {
    fn resume(&mut self) -> Result<(), Failure> {
        // With a pending stop the guest is not resumed; the stop is reported instead.
        match self.pending.is_empty() {
            true => self.run(),
            false => Ok(()),
        }
    }

    fn clear_resume_actions(&mut self) -> Result<(), Failure> {
        self.actions.fill(Action::Any);
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Failure> {
        self.set_action(tid, Action::Continue);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Target {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Failure> {
        self.set_action(tid, Action::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Target {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Failure> {
        self.locked = true;
        Ok(())
    }
}
