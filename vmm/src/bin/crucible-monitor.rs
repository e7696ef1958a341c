// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The monitor as a separate program, for this crate's tests. In crucible it is a hidden command
//! instead.

use std::process::ExitCode;

fn main() -> ExitCode {
    crucible_vmm::kvm::monitor::main()
}
