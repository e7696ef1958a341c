//! The file that a guest is saved in: all but its memory, which is a file of its own.
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 8 | `CRUCIVM\n` |
//! | 8 | 4 | version of the format, little-endian |
//! | 12 | 4 | length of the build's name |
//! | 16 | 8 | length of the state |
//! | 24 | 8 | xxh64 of all that follows |
//! | 32 | | the build's name, then the state as JSON |
//!
//! A state is of one build: what is in it follows the code's structures.

use std::fs::File;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use super::state::{VcpuState, VmState};
use crate::kvm::devices::mmio::TransportState;
use crate::kvm::devices::serial::SerialState;
use crate::kvm::failure::{During, Failure};

const MAGIC: &[u8; 8] = b"CRUCIVM\n";

/// Change this with the table above; what is in the state goes by the build.
const VERSION: u32 = 1;

const HEADER: usize = 32;

/// A guest with eight vCPUs and full buffers takes less.
const LIMIT: u64 = 64 << 20;

/// All of a guest but its memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The disks' sizes are the guest's to know; so are their number and what may be
    /// written, which the transports' features tell.
    pub transports: Vec<TransportState>,
    /// The serial line.
    pub serial: SerialState,
    /// The vCPUs.
    pub vcpus: Vec<VcpuState>,
    /// KVM's own devices.
    pub vm: VmState,
}

impl Snapshot {
    /// Writes it to a file that is empty.
    pub fn write(&self, file: &mut File, build: &str) -> Result<(), Failure> {
        const WHAT: &str = "write the guest's state";
        let state = serde_json::to_vec(self).during(WHAT)?;
        let mut body = build.as_bytes().to_vec();
        body.extend(&state);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((build.len() as u32).to_le_bytes());
        bytes.extend((state.len() as u64).to_le_bytes());
        bytes.extend(xxh64(&body, 0).to_le_bytes());
        bytes.extend(body);
        file.write_all(&bytes).during(WHAT)?;
        file.sync_all().during(WHAT)
    }

    /// Reads it; only what this build wrote.
    pub fn read(file: &mut File, build: &str) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        file.take(LIMIT)
            .read_to_end(&mut bytes)
            .during("read the guest's state")?;
        parse(&bytes, build)
    }
}

fn parse(bytes: &[u8], build: &str) -> Result<Snapshot, Failure> {
    let refused = |why: &str| Failure::new(format!("start the guest that was saved: {why}"));
    let field = |at: usize, length: usize| {
        let mut value = [0; 8];
        value[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(value)
    };
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err(refused("this is no state of a guest"));
    }
    let version = field(8, 4);
    if version != u64::from(VERSION) {
        return Err(refused(&format!(
            "its format has version {version}, this crucible reads {VERSION}"
        )));
    }
    let body = &bytes[HEADER..];
    let (name, state) = (field(12, 4), field(16, 8));
    if name.checked_add(state) != Some(body.len() as u64) {
        return Err(refused("it is truncated, or has too much"));
    }
    if xxh64(body, 0) != field(24, 8) {
        return Err(refused("it is damaged"));
    }
    let (name, state) = body.split_at(name as usize);
    if name != build.as_bytes() {
        return Err(refused(&format!(
            "it is of another build ({})",
            String::from_utf8_lossy(name)
        )));
    }
    serde_json::from_slice(state).during("understand the state of the guest that was saved")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u32, build: &str, state: &[u8]) -> Vec<u8> {
        let mut body = build.as_bytes().to_vec();
        body.extend(state);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend((build.len() as u32).to_le_bytes());
        bytes.extend((state.len() as u64).to_le_bytes());
        bytes.extend(xxh64(&body, 0).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn refusal(bytes: &[u8]) -> String {
        parse(bytes, "b1").expect_err("a refusal").to_string()
    }

    #[test]
    fn what_is_of_another_make_is_refused_for_what_it_is() {
        assert!(refusal(b"\x7fELF").contains("no state of a guest"));
        assert!(refusal(&file(VERSION + 1, "b1", b"{}")).contains("version 2"));
        assert!(refusal(&file(VERSION, "b2", b"{}")).contains("another build (b2)"));
        // Whole, of this build, and yet no state.
        assert!(refusal(&file(VERSION, "b1", b"{}")).contains("missing field"));
    }

    #[test]
    fn each_cut_and_each_flip_is_refused() {
        let good = file(VERSION, "b1", b"{\"memory_mib\":1}");
        for length in 0..good.len() {
            let why = refusal(&good[..length]);
            assert!(!why.contains("missing field"), "{length}: {why}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let why = refusal(&bad);
            assert!(!why.contains("missing field"), "{bit}: {why}");
        }
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let mut bytes = file(VERSION, "b1", b"{}");
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(refusal(&bytes).contains("truncated"));
    }
}
