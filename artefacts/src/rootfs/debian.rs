// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::erofs;
use super::lock::DebianPackages;
use crate::cache::{Lock, remove_tree};
use crate::hash::Fingerprint;
use crate::progress::Step;
use crate::run::{run, with_plain_umask};
use crate::{Cache, Error, Progress, Result, Sources, host};

/// Increase this when the build procedure of the image changes.
const RECIPE: &str = "debian 3";

/// Debian release. It decides the versions of the guest's compiler and of CRIU.
const SUITE: &str = "bookworm";

/// Paths that are left out, because no workload reads them.
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

/// Name of the image.
const IMAGE: &str = "debian.erofs";

/// Name of the list of the image's packages, in the same directory.
const LIST: &str = "userland-packages.txt";

/// Files of the host that made the image, or of mmdebstrap.
const LEFTOVERS: &[&str] = &[
    "etc/apt/sources.list",
    "etc/apt/preferences.d/crucible",
    "etc/apt/apt.conf.d/00mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/resolv.conf",
    "etc/machine-id",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/lib/apt",
    "var/log",
];

/// Returns the image of the Debian userland; makes it if it is not cached.
///
/// Its packages are those of `rootfs/userland.lock`. Where the archive has replaced a version, the
/// newer one is taken with a notice, and the image is stored under a key of its own.
pub fn debian(cache: &Cache, sources: &Sources, progress: &dyn Progress) -> Result<PathBuf> {
    let lock = DebianPackages::load(&lock_path(sources))?;
    let names = packages(sources)?;
    pinned(cache, &names, &lock, progress, |directory, held| {
        build(&names, Some(&lock), directory, held, progress)
    })
}

/// Returns the image of the pinned userland. `build` makes one in a directory and returns its
/// packages.
fn pinned(
    cache: &Cache,
    names: &[String],
    lock: &DebianPackages,
    progress: &dyn Progress,
    build: impl FnOnce(&Path, &Lock) -> Result<DebianPackages>,
) -> Result<PathBuf> {
    let key_of = |packages: &DebianPackages| key(names, packages);
    let directory =
        cache.get_or_substitute("debian", &key_of(lock), progress, |directory, held| {
            let found = build(directory, held)?;
            lock.check(&found)?;
            Ok::<_, Error>(key_of(&found))
        })?;
    let image = directory.join(IMAGE);
    let found = DebianPackages::load(&package_list(&image))?;
    if let Some(difference) = lock.difference(&found) {
        progress.note(&format!(
            "the userland is not that of rootfs/userland.lock: {difference}; `crucible rootfs lock` \
             pins what the archive has"
        ));
    }
    Ok(image)
}

/// Returns the image of the Debian userland if it is cached.
pub fn debian_cached(cache: &Cache, sources: &Sources) -> Result<Option<PathBuf>> {
    let lock = DebianPackages::load(&lock_path(sources))?;
    let directory = cache.get("debian", &key(&packages(sources)?, &lock));
    Ok(directory.map(|directory| directory.join(IMAGE)))
}

/// Returns the path of the list of the packages in a userland's image.
pub fn package_list(image: &Path) -> PathBuf {
    image.with_file_name(LIST)
}

/// Makes the userland from the newest packages of the archive, and writes their versions to
/// `rootfs/userland.lock`. Returns the differences from the previous versions; `None` if there are
/// none.
pub fn lock_debian(
    cache: &Cache,
    sources: &Sources,
    progress: &dyn Progress,
) -> Result<Option<String>> {
    let path = lock_path(sources);
    let before = DebianPackages::load(&path);
    let names = packages(sources)?;
    let mut newest = None;
    cache.replace("debian", "newest", progress, |directory, held| {
        let found = build(&names, None, directory, held, progress)?;
        let key = key(&names, &found);
        newest = Some(found);
        Ok::<_, Error>(key)
    })?;
    let newest = newest.unwrap_or_default();
    let difference = match before {
        Ok(before) => before.difference(&newest),
        Err(error) => Some(error.to_string()),
    };
    if difference.is_some() {
        fs::write(&path, newest.lock_file()).map_err(Error::file("write", &path))?;
    }
    Ok(difference)
}

fn lock_path(sources: &Sources) -> PathBuf {
    sources.rootfs().join("userland.lock")
}

fn key(names: &[String], packages: &DebianPackages) -> String {
    let mut fingerprint = Fingerprint::new(RECIPE).add("suite", SUITE);
    for path in EXCLUDED {
        fingerprint = fingerprint.add("without", path);
    }
    for (link, target) in LINKS {
        fingerprint = fingerprint.add(link, target);
    }
    for name in names {
        fingerprint = fingerprint.add("package", name);
    }
    fingerprint.add("versions", packages.to_string()).finish()
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

/// Makes the image in `directory`, from the pinned packages as far as possible, else from the
/// newest. Returns the packages in it. `lock` is the lock of the directory.
fn build(
    names: &[String],
    pinned: Option<&DebianPackages>,
    directory: &Path,
    lock: &Lock,
    progress: &dyn Progress,
) -> Result<DebianPackages> {
    let _step = Step::begin(progress, "making the guest's Debian userland");
    let archive = directory.join("debian.tar");
    let list = directory.join(LIST);
    let preferences = directory.join("preferences");
    let text = pinned.map_or_else(String::new, DebianPackages::preferences);
    fs::write(&preferences, text).map_err(Error::file("write", &preferences))?;
    bootstrap(names, &preferences, &list, &archive, lock)?;
    let found = DebianPackages::load(&list)?;
    fs::write(&list, found.to_string()).map_err(Error::file("write", &list))?;

    let tree = directory.join("tree");
    fs::create_dir(&tree).map_err(Error::file("make the directory", &tree))?;
    // The guest has its own devices (devtmpfs), and making them here needs root.
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--preserve-permissions"])
        .args(["--exclude=./dev/*", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&tree);
    lock.share_with(&mut tar)?;
    run("unpacking the userland", with_plain_umask(&mut tar), |_| {})?;
    finish(&tree)?;
    erofs::image(&tree, &directory.join(IMAGE))?;
    run(
        "removing the unpacked userland",
        Command::new("chmod").args(["-R", "u+rwX"]).arg(&tree),
        |_| {},
    )?;
    fs::remove_dir_all(&tree).map_err(Error::file("remove", &tree))?;
    for path in [&archive, &preferences] {
        fs::remove_file(path).map_err(Error::file("remove", path))?;
    }
    Ok(found)
}

/// Creates the links from `/bin` and similar directories into `/usr`, before packages are unpacked.
const MERGE_USR: &str = r#"for d in bin sbin lib lib32 lib64 libx32; do
    mkdir -p "$1/usr/$d" && ln -s "usr/$d" "$1/$d"
done"#;

/// Prefers the pinned versions.
const PREFER: &str = r#"cp "$CRUCIBLE_PREFERENCES" "$1/etc/apt/preferences.d/crucible""#;

/// Lists the packages that were downloaded, and were verified by apt.
const LIST_PACKAGES: &str = r#"for deb in "$1"/var/cache/apt/archives/*.deb; do
    set -- "$1" "$(sha256sum <"$deb")"
    dpkg-deb --show --showformat="\${Package} \${Version} \${Architecture} ${2%% *}\n" "$deb"
done >"$CRUCIBLE_LIST""#;

/// Runs mmdebstrap. It unpacks packages without running maintainer scripts, which needs neither
/// chroot nor privileges, and takes a third of the time.
fn bootstrap(
    names: &[String],
    preferences: &Path,
    list: &Path,
    archive: &Path,
    lock: &Lock,
) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=extract", "--format=tar"])
        .arg("--mode=chrootless")
        .arg(format!("--setup-hook={MERGE_USR}"))
        .arg(format!("--setup-hook={PREFER}"))
        .arg(format!("--extract-hook={LIST_PACKAGES}"))
        .arg(format!("--include={}", names.join(",")))
        .env("CRUCIBLE_PREFERENCES", preferences)
        .env("CRUCIBLE_LIST", list)
        .env("LC_ALL", "C")
        .env("SOURCE_DATE_EPOCH", erofs::TIME);
    for path in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(SUITE).arg(archive);
    lock.share_with(&mut command)?;
    run("mmdebstrap", with_plain_umask(&mut command), |_| {}).map_err(|error| match error {
        // A mistake in packages.txt.
        Error::Failed { ref words, .. } if words.contains("Unable to locate package") => error,
        Error::Failed { ref words, .. } if words.contains("No space left on device") => {
            error.on_host("Free some space in the cache's file system and in /tmp")
        }
        error => error.on_host(host::NETWORK),
    })
}

/// Does the work of the maintainer scripts, as far as workloads can observe it.
fn finish(tree: &Path) -> Result<()> {
    for (link, target) in LINKS {
        let path = tree.join(link);
        match symlink(target, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::file("make the link", &path)(error)),
        }
    }
    for name in LEFTOVERS {
        let path = tree.join(name);
        let gone = match path.symlink_metadata() {
            Ok(it) if it.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &path)(error));
            }
            _ => {}
        }
    }
    // Use the guest's own tool: the host's may write a different format.
    let ldconfig = tree.join("usr/sbin/ldconfig");
    run(
        "indexing the userland's libraries",
        with_plain_umask(Command::new(ldconfig).arg("-r").arg(tree)),
        |_| {},
    )?;
    let cache = tree.join("var/cache/ldconfig");
    remove_tree(&cache)?;

    let master = |name: &str| {
        let path = tree.join(format!("usr/share/base-passwd/{name}.master"));
        fs::read(&path).map_err(Error::file("read", &path))
    };
    let (passwd, group) = (master("passwd")?, master("group")?);
    let files: [(&str, &[u8]); 6] = [
        ("etc/passwd", &passwd),
        ("etc/group", &group),
        ("etc/hostname", b"crucible\n"),
        ("etc/resolv.conf", b""),
        (
            "etc/hosts",
            b"127.0.0.1 localhost crucible\n::1 localhost\n",
        ),
        (
            "etc/profile.d/crucible.sh",
            b"export PS1='crucible:\\w\\$ '\n",
        ),
    ];
    for (name, content) in files {
        erofs::file(&tree.join(name), content, 0o644)?;
    }
    erofs::directory(&tree.join("var/log"))
}

#[cfg(test)]
mod tests {
    use super::super::lock::DebianPackage;
    use super::*;
    use crate::Silent;
    use crate::progress::Notes;

    fn packages(version: &str, digit: char) -> DebianPackages {
        let package = DebianPackage {
            version: version.into(),
            architecture: "amd64".into(),
            sha256: digit.to_string().repeat(64),
        };
        DebianPackages([("bash".to_owned(), package)].into())
    }

    #[test]
    fn the_key_is_of_the_versions() {
        let names = parse_packages("bash\n");
        let packages = |version| packages(version, 'a');
        assert_eq!(key(&names, &packages("1")), key(&names, &packages("1")));
        assert_ne!(key(&names, &packages("1")), key(&names, &packages("2")));
    }

    #[test]
    fn newer_packages_stand_in_under_their_own_key() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::at(place.path().join("cache")).unwrap();
        let names = parse_packages("bash\n");
        let (lock, newer) = (packages("1", 'a'), packages("2", 'b'));
        let fill = |directory: &Path, packages: &DebianPackages| {
            fs::write(directory.join(IMAGE), packages.to_string()).unwrap();
            fs::write(directory.join(LIST), packages.to_string()).unwrap();
            Ok(packages.clone())
        };
        for built in [true, false] {
            let progress = Notes::default();
            let image = pinned(&cache, &names, &lock, &progress, |directory, _| {
                assert!(built, "it is cached");
                fill(directory, &newer)
            });
            let image = image.unwrap();
            let directory = image.parent().and_then(Path::file_name).unwrap();
            assert_eq!(directory, key(&names, &newer).as_str());
            let notes = progress.text();
            assert!(notes.contains("bash 2 instead of 1"), "{notes}");
        }
        // No notice if the lock file has these versions.
        let progress = Notes::default();
        pinned(&cache, &names, &newer, &progress, |_, _| {
            panic!("it is cached")
        })
        .unwrap();
        assert_eq!(progress.text(), "");
    }

    #[test]
    fn another_file_of_the_pinned_version_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::at(place.path().join("cache")).unwrap();
        let names = parse_packages("bash\n");
        let forged = packages("1", 'b');
        let lock = packages("1", 'a');
        let result = pinned(&cache, &names, &lock, &Silent, |_, _| Ok(forged));
        assert!(matches!(result, Err(Error::Checksum { .. })));
    }

    #[test]
    fn the_key_is_of_the_packages_not_of_the_comments() {
        let none = DebianPackages::default();
        let a = parse_packages("# base\nbash\ncoreutils # yes\n\n");
        let b = parse_packages("coreutils\nbash\nbash\n");
        assert_eq!(a, ["bash", "coreutils"]);
        assert_eq!(key(&a, &none), key(&b, &none));
        assert_ne!(key(&a, &none), key(&a[..1], &none));
    }
}
