// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest in gdb's view: a thread for each vCPU, and memory.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gdbstub::common::Tid;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::{Target as GdbTarget, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;

use super::paging::{PAGE, Paging};
use super::points::{Point, Points, Wait};
use super::probe::Abilities;
use super::registers::{self, Registers};
use super::resume::{Action, StepOff};
use super::thread::Hit;
use super::traps::Traps;
use crate::kvm::failure::{During, Failure};
use crate::kvm::monitor::vcpu::Handle;
use crate::kvm::monitor::vm::Vm;

/// The guest, and the actions that gdb has requested.
pub(super) struct Target {
    pub(super) vm: Arc<Vm>,
    pub(super) abilities: Abilities,
    pub(super) traps: Arc<Mutex<Traps>>,
    pub(super) points: Points,
    /// The action of each vCPU.
    pub(super) actions: Vec<Action>,
    /// True when vCPUs without a requested action stay stopped.
    pub(super) locked: bool,
    /// A step that gdb has not requested.
    pub(super) step_off: Option<StepOff>,
    /// Stops of vCPUs that occurred while an earlier one was reported to gdb.
    pub(super) pending: VecDeque<(u8, Hit)>,
}

impl Target {
    pub fn new(vm: &Arc<Vm>, abilities: Abilities, traps: &Arc<Mutex<Traps>>) -> Self {
        Self {
            abilities,
            traps: Arc::clone(traps),
            points: Points::default(),
            actions: vec![Action::Any; vm.vcpus.len()],
            locked: false,
            step_off: None,
            pending: VecDeque::new(),
            vm: Arc::clone(vm),
        }
    }

    pub(super) fn traps(&self) -> MutexGuard<'_, Traps> {
        self.traps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vcpu(&self, tid: Tid) -> Result<&Handle, TargetError<Failure>> {
        self.vm
            .vcpus
            .get(tid.get() - 1)
            .ok_or(TargetError::NonFatal)
    }

    fn paging(&self, tid: Tid) -> Result<Paging, TargetError<Failure>> {
        let sregs = self.vcpu(tid)?.with(kvm_ioctls::VcpuFd::get_sregs)?;
        Ok(Paging::of(&sregs.during("read a vCPU's registers")?))
    }

    /// Calls `act` for each page of a range of the guest's virtual memory, with the physical
    /// address and the part of the range that the page covers. Returns the number of bytes that
    /// were handled before `act` failed or an address was not mapped.
    fn pages(
        &self,
        start: u64,
        length: usize,
        tid: Tid,
        mut act: impl FnMut(&mut Traps, u64, Range<usize>) -> bool,
    ) -> Result<usize, TargetError<Failure>> {
        let paging = self.paging(tid)?;
        let mut traps = self.traps();
        let mut done = 0;
        while done < length {
            let address = start.checked_add(done as u64);
            let mapped = address.and_then(|it| paging.translate(self.vm.memory(), it));
            let Some(mapped) = mapped else {
                break;
            };
            let in_page = (PAGE - mapped.physical % PAGE) as usize;
            let part = done..length.min(done + in_page);
            if !act(&mut traps, mapped.physical, part.clone()) {
                break;
            }
            done = part.end;
        }
        Ok(done)
    }
}

/// Returns gdb's thread number of a vCPU.
pub(super) fn tid(index: usize) -> Tid {
    Tid::MIN.saturating_add(index)
}

impl From<Failure> for TargetError<Failure> {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

impl GdbTarget for Target {
    type Arch = X86_64_SSE;
    type Error = Failure;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Target {
    fn read_registers(&mut self, to: &mut X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        self.vcpu(tid)?.with(Registers::read)??.copy_to(to);
        Ok(())
    }

    /// Writes the general registers; segments and the FPU are not changed.
    fn write_registers(&mut self, from: &X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        let regs = registers::general(from);
        self.vcpu(tid)?
            .with(move |vcpu| vcpu.set_regs(&regs))?
            // gdb may have requested flags that KVM rejects.
            .map_err(|_| TargetError::NonFatal)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let vm = Arc::clone(&self.vm);
        let length = data.len();
        let done = self.pages(start, length, tid, |traps, physical, part| {
            traps.read(vm.memory(), physical, &mut data[part])
        })?;
        match done == 0 && length > 0 {
            true => Err(TargetError::NonFatal),
            false => Ok(done),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let vm = Arc::clone(&self.vm);
        let done = self.pages(start, data.len(), tid, |traps, physical, part| {
            traps.write(vm.memory(), physical, &data[part])
        })?;
        match done == data.len() {
            true => Ok(()),
            false => Err(TargetError::NonFatal),
        }
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), Failure> {
        (0..self.vm.vcpus.len()).for_each(|index| active(tid(index)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl Breakpoints for Target {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Target {
    /// Sets the breakpoint by the page tables of the first vCPU that maps the address: gdb does not
    /// specify a vCPU, and all of them map the kernel.
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        for index in 0..self.vm.vcpus.len() {
            let paging = self.paging(tid(index))?;
            let memory = self.vm.memory();
            let translate = |address| paging.translate(memory, address);
            if self.traps().insert(memory, address, translate) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.traps().remove(self.vm.memory(), address))
    }
}

impl HwBreakpoint for Target {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let wait = Wait::Execute;
        Ok(self.points.insert(Point { address, wait }))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let wait = Wait::Execute;
        Ok(self.points.remove(Point { address, wait }))
    }
}

impl HwWatchpoint for Target {
    fn add_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let wait = Wait::Access(kind, length);
        Ok(self.points.insert(Point { address, wait }))
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let wait = Wait::Access(kind, length);
        Ok(self.points.remove(Point { address, wait }))
    }
}
