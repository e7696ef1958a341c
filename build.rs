// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packs the sources that guests are built from, so that an installed program works without
//! this checkout, and records the commit that it is built from.
//!
//! Only the release profile packs them: `cargo install` uses it, and a debug build after a change
//! to the kernel's code stays a matter of seconds.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};
use walkdir::WalkDir;

/// Packed as they are.
const WHOLE: [&str; 7] = [
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "guest-kernel",
    "protocol",
    "rootfs",
    "scenarios",
];

/// Files that the manifest of the package names, and that guests do not need. Cargo requires them.
const TARGETS: [&str; 2] = ["src/main.rs", "benches/start.rs"];

/// Returns the members of the workspace that are not packed completely. Cargo requires
/// their manifests, and a target of each.
fn manifests() -> io::Result<Vec<String>> {
    let manifest = std::fs::read_to_string("Cargo.toml")?;
    let members = manifest.split_once("\nmembers = [").map(|(_, rest)| rest);
    let members = members.and_then(|rest| rest.split_once(']'));
    let (members, _) = members.ok_or_else(|| io::Error::other("Cargo.toml has no members"))?;
    let members = members.split('"').skip(1).step_by(2);
    let packed = |member: &&str| WHOLE.iter().any(|top| Path::new(member).starts_with(top));
    Ok(members
        .filter(|it| !packed(it))
        .map(str::to_owned)
        .collect())
}

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // OUT_DIR is PROFILE/build/PACKAGE/out; the program is built in PROFILE.
    let profile = out.ancestors().nth(3).expect("three levels up");
    println!("cargo::rustc-env=CRUCIBLE_BUILD_DIR={}", profile.display());
    let archive = out.join("sources.tar.gz");
    let mut file = File::create(&archive)?;
    let mut commit = None;
    if env::var("PROFILE").as_deref() == Ok("release") {
        pack(&mut file)?;
        commit = git(&["rev-parse", "HEAD"]);
        watch_checkout();
    }
    let state = match &commit {
        None => "",
        Some(_) if git(&["status", "--porcelain"]).is_some_and(|text| text.is_empty()) => "clean",
        Some(_) => "dirty",
    };
    println!(
        "cargo::rustc-env=CRUCIBLE_COMMIT={}",
        commit.as_deref().unwrap_or("")
    );
    println!("cargo::rustc-env=CRUCIBLE_TREE={state}");
    let compiler =
        output(Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC")).arg("--version"));
    println!(
        "cargo::rustc-env=CRUCIBLE_RUSTC={}",
        compiler.as_deref().unwrap_or("")
    );
    Ok(())
}

/// Lets cargo run this again when the commit or a file of the program changes. Debug builds do not
/// record the commit: they would be linked again after each one, and run in the checkout that they
/// were built from.
fn watch_checkout() {
    for path in ["src", "engine/src", "vmm/src", "artefacts/src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["HEAD", "logs/HEAD", "index"] {
        let path = git(&["rev-parse", "--git-path", name]);
        // A path that does not exist would make cargo run this each time.
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// Asks git about the checkout, unless this is a copy inside a different repository.
fn git(args: &[&str]) -> Option<String> {
    let here = env::current_dir().ok()?;
    if !here.join(".git").exists() {
        return None;
    }
    output(Command::new("git").args(args))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn pack(file: &mut File) -> io::Result<()> {
    let mut tar = Builder::new(GzEncoder::new(file, Compression::best()));
    for top in WHOLE {
        println!("cargo::rerun-if-changed={top}");
        for entry in WalkDir::new(top).sort_by_file_name() {
            let entry = entry?;
            let build = entry
                .path()
                .components()
                .any(|part| part.as_os_str() == "target");
            if entry.file_type().is_file() && !build {
                let executable = is_executable(entry.path())?;
                add(
                    &mut tar,
                    entry.path(),
                    &std::fs::read(entry.path())?,
                    executable,
                )?;
            }
        }
    }
    for member in manifests()? {
        let manifest = Path::new(&member).join("Cargo.toml");
        println!("cargo::rerun-if-changed={}", manifest.display());
        add(&mut tar, &manifest, &std::fs::read(&manifest)?, false)?;
        add(&mut tar, &Path::new(&member).join("src/lib.rs"), b"", false)?;
    }
    for target in TARGETS {
        add(&mut tar, Path::new(target), b"", false)?;
    }
    tar.into_inner()?.finish()?.flush()
}

fn is_executable(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(path.metadata()?.permissions().mode() & 0o100 != 0)
}

/// Adds a file without its times and owner, so that the archive depends only on contents.
fn add(
    tar: &mut Builder<impl Write>,
    path: &Path,
    content: &[u8],
    executable: bool,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_mtime(1);
    tar.append_data(&mut header, path, content)
}
