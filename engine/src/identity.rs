// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The identity of a guest, which distinguishes it from others started from the same
//! snapshot.

use std::{
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use crucible_protocol::Begin;

/// Number of random bytes: the size of the kernel's entropy pool.
const SEED: usize = 32;

/// Draws a new identity, with the current time.
pub fn new() -> io::Result<Begin> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let name = random(16)?;
    Ok(Begin {
        // 64 bits of nanoseconds last until the year 2554.
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
