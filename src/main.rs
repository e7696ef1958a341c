// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    crucible::main()
}
