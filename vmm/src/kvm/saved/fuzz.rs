// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the fuzz target `saved` does with an input.

use super::format::{self, Manifest};
use super::pages_of;
use super::stream::{PIECE, Piece, Receiver};

/// How many pages the guest has whose monitor says the input.
const PAGES: u64 = 64;

/// Takes the input for a file `state`, for a manifest in one that is right otherwise, and for
/// what a monitor says while it saves.
pub fn play(data: &[u8]) {
    // A right checksum is not guessed; so the other parts are tried by themselves, too.
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
