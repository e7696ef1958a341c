// SPDX-License-Identifier: Apache-2.0 OR MIT
#![no_main]

use crucible_vmm::kvm::devices::fuzz;

libfuzzer_sys::fuzz_target!(
    init: crucible_fuzz::ignore_broken_pipes(),
    |data: &[u8]| fuzz::block(data)
);
