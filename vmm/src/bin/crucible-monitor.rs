// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The monitor as a program of its own, for this crate's tests. Crucible has it as a
//! hidden command instead.

use std::process::ExitCode;

fn main() -> ExitCode {
    crucible_vmm::kvm::monitor::main()
}
