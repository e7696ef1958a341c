// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kernel image that the user has built.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Identity, Kernel};
use crate::hash::sha256_file;
use crate::{Error, Result};

/// Offset and value of the magic number of the x86 boot protocol
/// (`Documentation/arch/x86/boot.rst`).
const BOOT_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");

/// Returns the user's own image, unchanged: an ELF `vmlinux` or a bzImage.
pub fn foreign(image: &Path) -> Result<Kernel> {
    let mut head = Vec::new();
    File::open(image)
        .and_then(|file| file.take(4096).read_to_end(&mut head))
        .map_err(Error::file("read", image))?;
    if !is_kernel(&head) {
        return Err(Error::Malformed {
            path: image.to_owned(),
            problem: "this is not a kernel image: neither an ELF file, such as `vmlinux`, nor \
                      a bzImage"
                .into(),
        });
    }
    Ok(Kernel {
        image: image.canonicalize().map_err(Error::file("find", image))?,
        identity: Identity {
            version: String::new(),
            flavour: String::new(),
            hash: sha256_file(image)?,
            inputs: None,
        },
    })
}

fn is_kernel(head: &[u8]) -> bool {
    let (offset, magic) = BOOT_MAGIC;
    head.starts_with(b"\x7fELF")
        || head
            .get(offset..)
            .is_some_and(|there| there.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_recognised_by_their_magic_numbers() {
        let mut bzimage = vec![0; 0x202];
        bzimage.extend(b"HdrS");
        assert!(is_kernel(b"\x7fELF\x02"));
        assert!(is_kernel(&bzimage));
        assert!(!is_kernel(&bzimage[..0x204]));
        assert!(!is_kernel(b"#!/bin/sh"));
        assert!(!is_kernel(b""));
    }
}
