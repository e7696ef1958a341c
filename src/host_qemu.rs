// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Copies this host's QEMU for an outer Linux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use crucible_vmm::qemu;

use crate::host_program::succeed;

/// Shell commands, run in the bundle's directory, that put QEMU into the PATH. QEMU finds its
/// firmware relative to its own path.
pub const ENVIRONMENT: &str =
    "export PATH=\"$PWD/qemu/bin:$PATH\" LD_LIBRARY_PATH=\"$PWD/qemu/lib\"";

/// Directory of the firmware of Debian's QEMU.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// Libraries that are not copied: the outer Linux has them, and they must match its dynamic
/// loader. Both must be of the same Debian release.
const LIBC: [&str; 3] = ["libc.so", "libm.so", "ld-linux"];

/// Copies QEMU, its libraries and its firmware to `qemu` below `root`.
pub fn bring(root: &Path) -> Result<()> {
    let program = qemu::find(&qemu::Options::default().binary)?;
    let to = root.join("qemu");
    let [bin, lib, share] = ["bin", "lib", "share"].map(|name| to.join(name));
    for directory in [&bin, &lib, &share] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    copy(&program, &bin)?;
    for library in libraries(&program)? {
        copy(&library, &lib)?;
    }
    for directory in FIRMWARE {
        succeed(
            Command::new("cp")
                .args(["--recursive", "--dereference", directory])
                .arg(&share),
        )?;
    }
    Ok(())
}

fn copy(file: &Path, to: &Path) -> Result<()> {
    succeed(Command::new("cp").arg("--dereference").arg(file).arg(to))
}

/// Lists the shared libraries of a program, except those of the C library.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    if !output.status.success() {
        bail!("ldd reports no libraries of {}", program.display());
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(resolved)
        .filter(|path| !LIBC.iter().any(|name| path.contains(name)))
        .map(PathBuf::from)
        .collect())
}

/// Returns the path in a line of ldd: `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)`.
fn resolved(line: &str) -> Option<&str> {
    let (_, after) = line.split_once("=> ")?;
    let path = after.split(" (").next()?.trim();
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_where_ldd_says() {
        let line = "\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)";
        assert_eq!(resolved(line), Some("/lib/x86_64-linux-gnu/libz.so.1"));
        assert_eq!(resolved("\tlinux-vdso.so.1 (0x00007fff)"), None);
        assert_eq!(resolved("\tlibx.so => not found"), None);
    }
}
