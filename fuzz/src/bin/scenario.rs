// SPDX-License-Identifier: Apache-2.0 OR MIT
#![no_main]

use crucible_fuzz::targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::scenario(data));
