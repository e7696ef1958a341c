// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Probes which debugging features this host's KVM supports.

use kvm_bindings::{
    KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_SW_BP,
    kvm_guest_debug, kvm_regs,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress};

use super::traps::Trap;
use crate::kvm::failure::{During, Failure};
use crate::kvm::memory;

/// Page that VMX needs to run real-mode code.
const TASK_STATE: usize = 0xfffb_d000;

/// Addresses of the guest's code, and of its handler of `int3`.
const CODE: u64 = 0x1000;
const HANDLER: u16 = 0x2000;

/// The guest's code (`int3; hlt`), and the handler (`hlt`).
const HIT: [u8; 2] = [0xcc, 0xf4];
const MISSED: u8 = 0xf4;

/// The vector of `int3`; an entry of the real-mode vector table has four bytes.
const VECTOR: u64 = 3;

/// The debugging features of KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kvm::monitor) struct Abilities {
    /// The instruction that stops a vCPU.
    pub(super) trap: Trap,
    /// True when KVM can block interrupts while a vCPU single-steps.
    pub(super) block_irq: bool,
}

impl Abilities {
    /// Probes KVM. Call it while files can still be opened.
    pub fn find() -> Result<Self, Failure> {
        let kvm = Kvm::new().during("open /dev/kvm")?;
        if !kvm.check_extension(Cap::SetGuestDebug) {
            return Err(Failure::new(
                "debug the guest: this KVM lacks KVM_CAP_SET_GUEST_DEBUG",
            ));
        }
        let controls = kvm.check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into());
        Ok(Self {
            trap: match reports_int3(&kvm)? {
                true => Trap::Int3,
                false => Trap::Port,
            },
            block_irq: u32::try_from(controls).is_ok_and(|it| it & KVM_GUESTDBG_BLOCKIRQ != 0),
        })
    }
}

/// Returns true when KVM reports an `int3` as a debug exit instead of delivering it to the guest.
/// Runs a guest with one such instruction, in real mode.
fn reports_int3(kvm: &Kvm) -> Result<bool, Failure> {
    let vm = kvm.create_vm().during("create a virtual machine")?;
    vm.set_tss_address(TASK_STATE)
        .during("place the task state")?;
    let memory = memory::map(1, None, false)?;
    // SAFETY: the memory is dropped after the virtual machine has run for the last time.
    unsafe { memory::register(&vm, &memory, false)? };
    memory
        .write_obj(HIT, GuestAddress(CODE))
        .and_then(|()| memory.write_obj(MISSED, GuestAddress(HANDLER.into())))
        .and_then(|()| memory.write_obj(HANDLER, GuestAddress(4 * VECTOR)))
        .during("write a guest's memory")?;
    let mut vcpu = vm.create_vcpu(0).during("create a vCPU")?;
    let mut sregs = vcpu.get_sregs().during("read a vCPU's registers")?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).during("set a vCPU's registers")?;
    let regs = kvm_regs {
        rip: CODE,
        rsp: CODE,
        // Bit 1 is always set.
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).during("set a vCPU's registers")?;
    let debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP,
        ..Default::default()
    };
    vcpu.set_guest_debug(&debug).during("debug a vCPU")?;
    match vcpu.run() {
        Ok(VcpuExit::Debug(_)) => Ok(true),
        // The guest's own handler received it, or this KVM cannot emulate `int3` at all.
        Ok(_) => Ok(false),
        Err(error) => Err(error).during("run a vCPU"),
    }
}
