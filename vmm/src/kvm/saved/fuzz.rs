// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs one input of the fuzz target `saved`.

use super::format::{self, Manifest};
use super::pages_of;
use super::stream::{PIECE, Piece, Receiver};

/// Number of pages of the guest whose monitor sends the input.
const PAGES: u64 = 64;

/// Uses the input as a file `state`, as a manifest in an otherwise valid state, and as the stream
/// of a monitor that saves its guest.
pub fn play(data: &[u8]) {
    // A fuzzer does not find a valid checksum; so the other parts are also tried separately.
    let _ = format::open_any(data);
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
        let bytes = format::seal("build", &manifest, b"{}").expect("a state");
        if let Ok(parts) = format::open(&bytes, "build") {
            let name = parts.manifest.file_name();
            assert!(!name.contains('/') && name.len() < 64, "{name}");
            let runs = parts.manifest.changes.map(|changes| changes.runs);
            for (first, count) in runs.unwrap_or_default() {
                assert!(first + count <= pages_of(manifest.memory_mib));
            }
        }
    }
    let mut receiver = Receiver::new(data, PAGES);
    let mut next = 0;
    while !receiver.ended() {
        if let Ok(Piece::Pages(first, pages)) = receiver.receive() {
            let count = (pages.len() / super::PAGE) as u64;
            assert!(first >= next && count <= PIECE as u64 && first + count <= PAGES);
            next = first + count;
        }
    }
}
