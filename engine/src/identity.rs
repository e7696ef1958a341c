// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What tells a guest from all others that are started from the same saved machine.

use std::{
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use crucible_protocol::Begin;

/// As many random bytes as the guest's kernel can make use of.
const SEED: usize = 32;

/// A new guest's identity, and the time.
pub fn new() -> io::Result<Begin> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let name = random(16)?;
    Ok(Begin {
        // Enough until the year 2554.
        now_ns: now.as_nanos() as u64,
        seed: random(SEED)?,
        instance: name.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

fn random(length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}
