// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Empty disk images that can hold snapshots, by QEMU's `docs/interop/qcow2.txt`.

use std::fs;
use std::io;
use std::path::Path;

/// Binary logarithm of the size of a cluster, in bytes.
const CLUSTER_BITS: u32 = 16;

const CLUSTER: u64 = 1 << CLUSTER_BITS;

/// Number of bytes of a disk that one entry of the first table covers.
const PER_ENTRY: u64 = (CLUSTER / 8) << CLUSTER_BITS;

/// Length of the header, in bytes.
const HEADER: u32 = 104;

/// The type of the header's extension with the format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// Number of clusters: the header, the table and a block of reference counts, the first table.
const CLUSTERS: u64 = 4;

/// Creates an image of `size` bytes that reads as the raw file `backing` in the same directory, or
/// as zeros if that is `None`.
pub(super) fn create(path: &Path, size: u64, backing: Option<&str>) -> io::Result<()> {
    let entries = size.div_ceil(PER_ENTRY).max(1);
    if entries > CLUSTER / 8 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut extensions = Vec::new();
    if backing.is_some() {
        extensions.extend(BACKING_FORMAT.to_be_bytes());
        extensions.extend(3_u32.to_be_bytes());
        extensions.extend(b"raw\0\0\0\0\0");
    }
    // The end of them.
    extensions.extend([0; 8]);
    let name = backing.unwrap_or_default();
    let at = match backing {
        Some(_) => u64::from(HEADER) + extensions.len() as u64,
        None => 0,
    };
    let mut image = Vec::new();
    let mut long = |value: u64| image.extend(value.to_be_bytes());
    let pair = |a: u32, b: u32| u64::from(a) << 32 | u64::from(b);
    long(pair(u32::from_be_bytes(*b"QFI\xfb"), 3));
    long(at);
    long(pair(name.len() as u32, CLUSTER_BITS));
    long(size);
    // No encryption; the first table.
    long(pair(0, entries as u32));
    long(3 * CLUSTER);
    // The table of reference counts, of one cluster; no snapshots, and no features.
    long(CLUSTER);
    long(pair(1, 0));
    for _ in 0..4 {
        long(0);
    }
    // Reference counts of 16 bits.
    long(pair(4, HEADER));
    image.extend(extensions);
    image.extend(name.as_bytes());
    image.resize(CLUSTER as usize, 0);
    image.extend((2 * CLUSTER).to_be_bytes());
    image.resize(2 * CLUSTER as usize, 0);
    for _ in 0..CLUSTERS {
        image.extend(1_u16.to_be_bytes());
    }
    image.resize((CLUSTERS * CLUSTER) as usize, 0);
    fs::write(path, image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_no_table_holds_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        assert!(create(&path, u64::MAX, None).is_err());
        create(&path, 4 << 30, Some("raw")).unwrap();
        let image = fs::read(&path).unwrap();
        assert_eq!(image.len() as u64, CLUSTERS * CLUSTER);
        // The header has the offset of the backing file's name.
        assert_eq!(image[8..16], 128_u64.to_be_bytes());
        assert_eq!(image[128..131], *b"raw");
    }
}
