// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Converts a vCPU's registers between KVM's and gdb's formats.

use gdbstub_arch::x86::reg::X86_64CoreRegs;
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::kvm::failure::{During, Failure};

/// KVM's register sets that gdb displays.
pub(super) struct Registers {
    general: kvm_regs,
    special: kvm_sregs,
    fpu: kvm_fpu,
}

impl Registers {
    /// Reads the registers of a vCPU.
    pub fn read(vcpu: &VcpuFd) -> Result<Self, Failure> {
        const WHAT: &str = "read a vCPU's registers";
        Ok(Self {
            general: vcpu.get_regs().during(WHAT)?,
            special: vcpu.get_sregs().during(WHAT)?,
            fpu: vcpu.get_fpu().during(WHAT)?,
        })
    }

    /// Fills in gdb's registers.
    pub fn copy_to(&self, to: &mut X86_64CoreRegs) {
        let (regs, sregs, fpu) = (&self.general, &self.special, &self.fpu);
        to.regs = [
            regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.rsp,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ];
        to.rip = regs.rip;
        to.eflags = regs.rflags as u32;
        to.segments.cs = sregs.cs.selector.into();
        to.segments.ss = sregs.ss.selector.into();
        to.segments.ds = sregs.ds.selector.into();
        to.segments.es = sregs.es.selector.into();
        to.segments.fs = sregs.fs.selector.into();
        to.segments.gs = sregs.gs.selector.into();
        for (to, from) in to.st.iter_mut().zip(&fpu.fpr) {
            to.copy_from_slice(&from[..10]);
        }
        for (to, from) in to.xmm.iter_mut().zip(&fpu.xmm) {
            *to = u128::from_le_bytes(*from);
        }
        to.mxcsr = fpu.mxcsr;
        to.fpu.fctrl = fpu.fcw.into();
        to.fpu.fstat = fpu.fsw.into();
        to.fpu.ftag = fpu.ftwx.into();
    }
}

/// Returns the general registers from gdb's.
pub(super) fn general(from: &X86_64CoreRegs) -> kvm_regs {
    let regs = &from.regs;
    kvm_regs {
        rax: regs[0],
        rbx: regs[1],
        rcx: regs[2],
        rdx: regs[3],
        rsi: regs[4],
        rdi: regs[5],
        rbp: regs[6],
        rsp: regs[7],
        r8: regs[8],
        r9: regs[9],
        r10: regs[10],
        r11: regs[11],
        r12: regs[12],
        r13: regs[13],
        r14: regs[14],
        r15: regs[15],
        rip: from.rip,
        rflags: from.eflags.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_registers_survive_a_round_trip() {
        let registers = Registers {
            general: kvm_regs {
                rax: 1,
                rsp: 2,
                r15: 3,
                rip: 4,
                rflags: 0x246,
                ..Default::default()
            },
            special: kvm_sregs::default(),
            fpu: kvm_fpu::default(),
        };
        let mut sent = X86_64CoreRegs::default();
        registers.copy_to(&mut sent);
        assert_eq!(general(&sent), registers.general);
    }
}
