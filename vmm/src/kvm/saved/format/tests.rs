// SPDX-License-Identifier: Apache-2.0 OR MIT
use super::*;

fn manifest() -> Manifest {
    Manifest {
        id: "00112233445566778899aabbccddeeff".into(),
        memory_mib: 1,
        pages: Pages {
            length: 1 << 20,
            modified: (7, 8),
            hash: 9,
        },
        changes: None,
    }
}

fn differing(runs: &[Run], pages: u64) -> Manifest {
    Manifest {
        pages: Pages {
            length: pages * 4096,
            ..manifest().pages
        },
        changes: Some(Changes {
            base: "f".repeat(32),
            base_hash: 1,
            runs: runs.to_vec(),
        }),
        ..manifest()
    }
}

fn sealed(build: &str, manifest: &Manifest) -> Vec<u8> {
    seal(build, manifest, b"{}").unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes, "b1").expect_err("a refusal")
}

#[test]
fn a_sealed_state_is_opened() {
    for manifest in [manifest(), differing(&[(0, 1), (1, 2), (255, 1)], 4)] {
        let bytes = sealed("b1", &manifest);
        let parts = open(&bytes, "b1").unwrap();
        assert_eq!(parts.manifest, manifest);
        assert_eq!(parts.state, b"{}");
    }
}

#[test]
fn foreign_files_are_refused_with_their_reason() {
    assert!(refusal(b"\x7fELF").contains("not the state of a guest"));
    assert!(refusal(&sealed("b2", &manifest())).contains("a different build (b2)"));
    let mut bytes = sealed("b1", &manifest());
    bytes[8] += 1;
    assert!(refusal(&bytes).contains("version 3"));
}

#[test]
fn each_cut_and_each_flip_is_refused() {
    let good = sealed("b1", &manifest());
    for length in 0..good.len() {
        refusal(&good[..length]);
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        refusal(&bad);
    }
}

#[test]
fn lengths_that_overflow_are_refused() {
    for at in [16, 24] {
        let mut bytes = sealed("b1", &manifest());
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(refusal(&bytes).contains("truncated"));
    }
}

#[test]
fn an_inconsistent_manifest_is_refused() {
    let short = Manifest {
        pages: Pages {
            length: 4096,
            ..manifest().pages
        },
        ..manifest()
    };
    let elsewhere = Manifest {
        id: "../../../../../../../../etc/pass".into(),
        ..manifest()
    };
    let bad = [
        short,
        elsewhere,
        differing(&[(0, 2)], 1),
        differing(&[(0, 0)], 0),
        differing(&[(1, 2), (2, 1)], 3),
        differing(&[(256, 1)], 1),
        differing(&[(u64::MAX, 2)], 2),
        differing(&[(0, u64::MAX)], 1),
        differing(&[(0, u64::MAX); 8192], 1),
    ];
    for manifest in bad {
        let why = refusal(&sealed("b1", &manifest));
        assert!(why.contains("inconsistent"), "{manifest:?}: {why}");
    }
}
