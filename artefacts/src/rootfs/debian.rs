// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::erofs;
use crate::hash::Fingerprint;
use crate::progress::Step;
use crate::run::run;
use crate::{Cache, Error, Progress, Result, Sources};

/// Increase this when the way in which the image is made changes.
const RECIPE: &str = "debian 2";

/// Debian release. It decides the versions of the guest's compiler and of CRIU.
const SUITE: &str = "bookworm";

/// Paths that are left out, since no workload reads them.
const EXCLUDED: &[&str] = &[
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
    "/usr/share/gdb/auto-load/*",
    "/usr/bin/x86_64-linux-gnu-lto-dump-12",
    "/usr/share/i18n/*",
];

/// Links that maintainer scripts would make, mostly alternatives.
const LINKS: &[(&str, &str)] = &[
    ("usr/bin/awk", "mawk"),
    ("usr/bin/cc", "gcc"),
    ("usr/bin/c99", "gcc"),
    ("usr/bin/which", "which.debianutils"),
    ("usr/sbin/iptables", "iptables-nft"),
    ("usr/sbin/ip6tables", "ip6tables-nft"),
    ("usr/sbin/iptables-restore", "iptables-nft-restore"),
    ("usr/sbin/ip6tables-restore", "ip6tables-nft-restore"),
    ("etc/mtab", "../proc/self/mounts"),
];

/// Returns the image of the Debian userland; makes it if it is not cached.
pub fn debian(cache: &Cache, sources: &Sources, progress: &dyn Progress) -> Result<PathBuf> {
    let packages = packages(sources)?;
    let directory = cache.get_or_build("debian", &key(&packages), progress, |directory| {
        build(&packages, directory, progress)
    })?;
    Ok(directory.join("debian.erofs"))
}

/// Returns the image of the Debian userland if it is cached.
pub fn debian_cached(cache: &Cache, sources: &Sources) -> Result<Option<PathBuf>> {
    let directory = cache.get("debian", &key(&packages(sources)?));
    Ok(directory.map(|directory| directory.join("debian.erofs")))
}

fn key(packages: &[String]) -> String {
    let mut fingerprint = Fingerprint::new(RECIPE).add("suite", SUITE);
    for path in EXCLUDED {
        fingerprint = fingerprint.add("without", path);
    }
    for (link, target) in LINKS {
        fingerprint = fingerprint.add(link, target);
    }
    for package in packages {
        fingerprint = fingerprint.add("package", package);
    }
    fingerprint.finish()
}

fn packages(sources: &Sources) -> Result<Vec<String>> {
    let path = sources.rootfs().join("packages.txt");
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    Ok(parse_packages(&text))
}

/// Parses the list: one package per line; `#` starts a comment. Order and repeats do not
/// matter.
fn parse_packages(text: &str) -> Vec<String> {
    let mut packages: Vec<_> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    packages.sort();
    packages.dedup();
    packages
}

fn build(packages: &[String], directory: &Path, progress: &dyn Progress) -> Result<()> {
    let _step = Step::begin(progress, "making the guest's Debian userland");
    let archive = directory.join("debian.tar");
    bootstrap(packages, &archive)?;

    let tree = directory.join("tree");
    fs::create_dir(&tree).map_err(Error::file("make the directory", &tree))?;
    // The guest has its own devices (devtmpfs), and making them here needs root.
    run(
        "unpacking the userland",
        Command::new("tar")
            .args(["--extract", "--no-same-owner", "--preserve-permissions"])
            .args(["--exclude=./dev/*", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&tree),
        |_| {},
    )?;
    finish(&tree)?;
    erofs::image(&tree, &directory.join("debian.erofs"))?;
    run(
        "removing the unpacked userland",
        Command::new("chmod").args(["-R", "u+rwX"]).arg(&tree),
        |_| {},
    )?;
    fs::remove_dir_all(&tree).map_err(Error::file("remove", &tree))?;
    fs::remove_file(&archive).map_err(Error::file("remove", &archive))
}

/// Makes `/bin` and the like links into `/usr`, before packages are unpacked.
const MERGE_USR: &str = r#"for d in bin sbin lib lib32 lib64 libx32; do
    mkdir -p "$1/usr/$d" && ln -s "usr/$d" "$1/$d"
done"#;

/// Runs mmdebstrap. It unpacks packages without running maintainer scripts, which needs neither
/// chroot nor privileges, and a third of the time.
fn bootstrap(packages: &[String], archive: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=extract", "--format=tar"])
        .arg("--mode=chrootless")
        .arg(format!("--setup-hook={MERGE_USR}"))
        .arg(format!("--include={}", packages.join(",")))
        .env("SOURCE_DATE_EPOCH", erofs::TIME);
    for path in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(SUITE).arg(archive);
    run("mmdebstrap", &mut command, |_| {})
}

/// Does what maintainer scripts would do, as far as workloads can observe it.
fn finish(tree: &Path) -> Result<()> {
    for (link, target) in LINKS {
        let path = tree.join(link);
        match symlink(target, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::file("make the link", &path)(error)),
        }
    }
    for name in ["passwd", "group"] {
        let from = tree.join(format!("usr/share/base-passwd/{name}.master"));
        let to = tree.join("etc").join(name);
        fs::copy(&from, &to).map_err(Error::file("copy", &from))?;
    }
    let write = |name: &str, text: &str| {
        let path = tree.join(name);
        fs::write(&path, text).map_err(Error::file("write", &path))
    };
    write("etc/hostname", "crucible\n")?;
    write("etc/hosts", "127.0.0.1 localhost crucible\n::1 localhost\n")?;
    write(
        "etc/profile.d/crucible.sh",
        "export PS1='crucible:\\w\\$ '\n",
    )?;
    run(
        "indexing the userland's libraries",
        Command::new("/sbin/ldconfig").arg("-r").arg(tree),
        |_| {},
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_of_the_packages_not_of_the_comments() {
        let a = parse_packages("# base\nbash\ncoreutils # yes\n\n");
        let b = parse_packages("coreutils\nbash\nbash\n");
        assert_eq!(a, ["bash", "coreutils"]);
        assert_eq!(key(&a), key(&b));
        assert_ne!(key(&a), key(&a[..1]));
    }
}
