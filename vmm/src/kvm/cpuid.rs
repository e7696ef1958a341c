// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The CPUID that KVM supports on this host, and the CPUID of each vCPU.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

use super::failure::{During, Failure};

/// CPUID leaf 1, ECX: the local APIC's timer supports TSC deadlines; a hypervisor is present.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;

/// Returns the CPUID with every feature that KVM can offer a guest on this host.
pub(super) fn supported(kvm: &Kvm) -> Result<CpuId, Failure> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .during("ask KVM for its supported CPUID")
}

/// Returns the CPUID of vCPU `index` of `vcpus`: the supported features, with the vCPU's own APIC
/// ID and topology.
pub(super) fn of_vcpu(kvm: &Kvm, supported: &CpuId, index: u8, vcpus: u8) -> CpuId {
    let mut cpuid = supported.clone();
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    for entry in cpuid.as_mut_slice() {
        let id = u32::from(index);
        match entry.function {
            1 => {
                entry.ecx |= HYPERVISOR;
                if deadline {
                    // Without this bit Linux calibrates the APIC timer, which delays the boot.
                    entry.ecx |= TSC_DEADLINE;
                }
                entry.ebx = (entry.ebx & 0xffff) | u32::from(vcpus) << 16 | id << 24;
            }
            // Each vCPU is a core; all cores are in a single package.
            0xb | 0x1f => {
                let (shift, count, kind) = match entry.index {
                    0 => (0, 1, 1),
                    1 => (u8::BITS - (vcpus - 1).leading_zeros(), vcpus, 2),
                    _ => (0, 0, 0),
                };
                entry.eax = shift;
                entry.ebx = u32::from(count);
                entry.ecx = entry.index | kind << 8;
                entry.edx = id;
            }
            // AMD: the number of cores in the package, and the extended APIC ID.
            0x8000_0008 => {
                let bits = u8::BITS - (vcpus - 1).leading_zeros();
                entry.ecx = (entry.ecx & !0xffff) | bits << 12 | u32::from(vcpus - 1);
            }
            0x8000_001e => {
                entry.eax = id;
                entry.ebx = id;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    cpuid
}
