// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache and the host as users meet them: damaged artefacts, directories that cannot be
//! trusted, package managers that fail.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::cli;
use crucible_artefacts::content_hash;

/// A lock for tests that use the artefacts in the shared cache, some of which damage them.
static ARTEFACTS: Mutex<()> = Mutex::new(());

/// Makes missing artefacts in the shared cache.
fn artefacts() -> MutexGuard<'static, ()> {
    let guard = ARTEFACTS.lock().unwrap_or_else(PoisonError::into_inner);
    common::fixture();
    guard
}

fn output(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("a program that starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let code = status.code().expect("an exit status");
    (code, text(stdout), text(stderr))
}

/// Replaces a file by a damaged copy with the same time. Guests that have the old file open do
/// not notice.
fn damage(path: &Path, how: impl FnOnce(&mut File)) {
    let copy = path.with_extension("damaged");
    fs::copy(path, &copy).expect("a copy");
    let modified = path
        .metadata()
        .and_then(|it| it.modified())
        .expect("a time");
    let mut file = File::options().write(true).open(&copy).expect("a copy");
    how(&mut file);
    file.set_modified(modified).expect("a time");
    fs::rename(copy, path).expect("a renamed file");
}

fn flip(file: &mut File) {
    let middle = file.metadata().expect("a size").len() / 2;
    file.seek(SeekFrom::Start(middle)).expect("a middle");
    // No artefact has this text.
    file.write_all(b"one flipped page").expect("a write");
}

fn shorten(file: &mut File) {
    let size = file.metadata().expect("a size").len();
    file.set_len(size - 4096).expect("a shorter file");
}

/// Damages an artefact by a flipped bit, and then by a missing end. Each time, the command `args`
/// must report the damage, make the artefact again with the same content, and print its path.
fn is_made_anew(path: &Path, args: &[&str]) {
    let before = content_hash(path).expect("a hash");
    for how in [flip, shorten] {
        damage(path, how);
        let (code, stdout, stderr) = output(&mut cli::program(args));
        assert_eq!(code, 0, "{stderr}");
        let kind = path.ancestors().nth(2).and_then(Path::file_name);
        let kind = kind.expect("a kind").to_string_lossy();
        let named = stderr
            .lines()
            .any(|line| line.contains(&format!("/{kind}/")) && line.contains("is damaged: "));
        assert!(named && stderr.contains("rebuilding it"), "{stderr}");
        assert!(stdout.contains(path.to_str().expect("UTF-8")), "{stdout}");
        let after = content_hash(path).expect("a hash");
        assert_eq!(before, after, "{} is not reproducible", path.display());
        let (_, _, stderr) = output(&mut cli::program(args));
        assert!(!stderr.contains("damaged"), "{stderr}");
    }
}

/// Returns the path that the line of this number names.
fn path(args: &[&str], line: usize) -> PathBuf {
    let (code, stdout, stderr) = output(&mut cli::program(args));
    assert_eq!(code, 0, "{stderr}");
    stdout.lines().nth(line).expect("a path").into()
}

#[test]
fn a_damaged_kernel_and_a_damaged_agent_are_made_anew_and_work() {
    let _alone = artefacts();
    is_made_anew(&path(&["kernel", "build"], 0), &["kernel", "build"]);
    is_made_anew(&path(&["rootfs", "build"], 0), &["rootfs", "build"]);
    damage(&path(&["kernel", "build"], 0), flip);
    let results = tempfile::tempdir().expect("a directory");
    let mut hello = cli::program(&["scenario", "hello", "--cold"]);
    let (code, _, stderr) = output(hello.env("CRUCIBLE_RESULTS", results.path()));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("vmlinux has changed"), "{stderr}");
}

/// Makes the userland twice, from the network, and expects the same bytes each time.
#[test]
#[ignore = "downloads the userland twice"]
fn a_damaged_userland_is_made_anew_with_the_same_content() {
    let _alone = artefacts();
    is_made_anew(&path(&["rootfs", "build"], 1), &["rootfs", "build"]);
}

#[test]
fn cleaning_a_directory_that_is_no_cache_removes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let precious = directory.path().join("precious");
    fs::create_dir(&precious).expect("a directory");
    fs::write(precious.join("thesis.tex"), "x").expect("a file");
    let mut clean = cli::program(&["clean", "--all", "--yes"]);
    let (code, _, stderr) = output(clean.env("CRUCIBLE_CACHE", &precious));
    assert_eq!(code, 129, "{stderr}");
    assert!(stderr.contains("thesis.tex"), "{stderr}");
    assert!(precious.join("thesis.tex").exists());
    assert_eq!(fs::read_dir(&precious).expect("a list").count(), 1);
}

#[test]
fn cleaning_all_has_to_be_confirmed() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = directory.path().join("cache");
    fs::create_dir_all(cache.join("kernel/k")).expect("a directory");
    let run = |args: &[&str]| output(cli::program(args).env("CRUCIBLE_CACHE", &cache));
    let (code, _, stderr) = run(&["clean", "--all"]);
    assert_eq!(code, 128, "{stderr}");
    assert!(stderr.contains("--yes"), "{stderr}");
    assert!(cache.join("kernel/k").exists());
    assert!(cache.join("CACHEDIR.TAG").exists());
    fs::write(cache.join("mine"), "x").expect("a file");
    let (code, ..) = run(&["clean", "--all", "--yes"]);
    assert_eq!(code, 0);
    let left: Vec<_> = fs::read_dir(&cache)
        .expect("a list")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["mine"]);
}

#[test]
fn directories_that_crucible_cannot_use_are_refused_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["with space", "with:colon"] {
        let cache = directory.path().join(name);
        for args in [&["clean"][..], &["kernel", "path"], &["doctor"]] {
            let mut command = cli::program(args);
            let (code, stdout, stderr) = output(command.env("CRUCIBLE_CACHE", &cache));
            assert_eq!(code, 129, "{args:?}: {stderr}");
            let text = stdout + &stderr;
            assert!(text.contains("set CRUCIBLE_CACHE"), "{text}");
        }
        assert!(!cache.exists());
    }
    let open = directory.path().join("open");
    fs::create_dir(&open).expect("a directory");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("a mode");
    for (variable, args) in [
        ("CRUCIBLE_CACHE", &["clean"][..]),
        ("CRUCIBLE_CACHE", &["doctor"]),
        ("CRUCIBLE_RESULTS", &["doctor"]),
    ] {
        let (code, stdout, stderr) = output(cli::program(args).env(variable, &open));
        assert_eq!(code, 129, "{variable} {args:?}: {stderr}");
        let text = stdout + &stderr;
        assert!(
            text.contains(&format!("chmod go-w {}", open.display())),
            "{text}"
        );
    }
}

/// Returns a directory for the PATH with these scripts, and, unless one is given, a `dpkg-query`
/// that knows no package.
fn programs(scripts: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, script) in [&("dpkg-query", "exit 1")].into_iter().chain(scripts) {
        let path = directory.path().join(name);
        let log = directory.path().join("log");
        let text = format!(
            "#!/bin/sh\necho {name} \"$@\" >>{}\n{script}\n",
            log.display()
        );
        fs::write(&path, text).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(directory.path(), everybody).expect("a mode");
    directory
}

#[test]
fn apt_that_fails_is_the_hosts_fault() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: sudo stands before apt-get");
        return;
    }
    let path = programs(&[("apt-get", "echo 'E: Could not resolve host' >&2; exit 100")]);
    let mut build = cli::program(&["rootfs", "build"]);
    let (code, _, stderr) = output(build.env("PATH", path.path()));
    assert_eq!(code, 129, "{stderr}");
    assert!(stderr.contains("Could not resolve host"), "{stderr}");
    assert!(stderr.contains("crucible doctor"), "{stderr}");
}

#[test]
fn an_update_waits_for_the_lock_of_another_apt() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: sudo stands before apt-get");
        return;
    }
    // The second update finds the lists unlocked; no package can be installed.
    let script = r#"PATH=/usr/bin:/bin
case "$*" in *update*) ;; *) echo 'E: no such package' >&2; exit 100 ;; esac
[ "$(grep -c update "${0%/*}/log")" -gt 1 ] && exit 0
echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)' >&2
exit 100"#;
    let path = programs(&[("apt-get", script)]);
    let mut build = cli::program(&["rootfs", "build"]);
    let (code, _, stderr) = output(build.env("PATH", path.path()));
    assert_eq!(code, 129, "{stderr}");
    assert!(stderr.contains("waiting for it"), "{stderr}");
    assert!(stderr.contains("no such package"), "{stderr}");
    let log = fs::read_to_string(path.path().join("log")).expect("a log");
    let updates = log.lines().filter(|line| line.contains("update")).count();
    assert_eq!(updates, 2, "{log}");
}

#[test]
fn sudo_that_cannot_ask_is_the_hosts_fault() {
    let path = programs(&[
        ("sudo", "echo 'sudo: a password is required' >&2; exit 1"),
        ("apt-get", "exit 0"),
    ]);
    let mut build = cli::program(&["rootfs", "build"]);
    if rustix::process::geteuid().is_root() {
        // A user that is not mapped is not root.
        build = Command::new("unshare");
        build
            .args(["--user", cli::PROGRAM, "rootfs", "build"])
            .stdin(Stdio::null());
        build.env("PATH", format!("{}:/usr/bin:/bin", path.path().display()));
    } else {
        build.env("PATH", path.path());
    }
    let (code, _, stderr) = output(&mut build);
    assert_eq!(code, 129, "{stderr}");
    assert!(stderr.contains("no terminal to ask for it"), "{stderr}");
    assert!(stderr.contains("as root"), "{stderr}");
}

/// Waits for a line of a fifo, or writes one.
fn fifo(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("a fifo")
}

#[test]
fn what_a_killed_crucible_has_started_is_not_raced() {
    // The child receives SIGTERM when its parent ends, and ends late.
    let path = programs(&[
        ("dpkg-query", "exec /usr/bin/dpkg-query \"$@\""),
        (
            "mmdebstrap",
            "trap '' TERM; cd \"${0%/*}\"; echo >started; read -r line <go; exit 1",
        ),
    ]);
    let [started, go] = ["started", "go"].map(|name| path.path().join(name));
    let made = Command::new("mkfifo").args([&started, &go]).status();
    assert!(made.expect("mkfifo").success());
    let (mut started, mut go) = (BufReader::new(fifo(&started)), fifo(&go));
    let mut begun = || {
        let mut line = String::new();
        started.read_line(&mut line).expect("a line");
    };
    let lock = || {
        let mut command = cli::program(&["rootfs", "lock"]);
        command
            .env("CRUCIBLE_CACHE", path.path().join("cache"))
            .env("PATH", format!("{}:/usr/bin:/bin", path.path().display()))
            .stderr(Stdio::piped());
        command.spawn().expect("a program that starts")
    };
    let mut first = lock();
    begun();
    first.kill().expect("a kill");
    first.wait().expect("an end");
    let mut second = lock();
    let lines = BufReader::new(second.stderr.take().expect("a pipe")).lines();
    let mut lines = lines.map(|line| line.expect("text"));
    let waits = lines.any(|line| line.contains("another crucible is making debian-newest"));
    assert!(
        waits,
        "it does not wait for the processes that the killed one has started"
    );
    writeln!(go).expect("a line");
    begun();
    writeln!(go).expect("a line");
    let rest: Vec<_> = lines.collect();
    assert_eq!(
        second.wait().expect("an end").code(),
        Some(129),
        "{rest:#?}"
    );
    assert!(rest.join(" ").contains("mmdebstrap failed"), "{rest:#?}");
}

#[test]
fn a_newer_kernel_source_is_stored_under_its_own_hash() {
    let text = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/guest-kernel/kernel.lock"
    ));
    let lock: toml::Table = text.expect("kernel.lock").parse().expect("kernel.lock");
    let of = |key: &str| lock[key].as_str().expect(key);
    let newer = format!("{}.999-1", of("series"));
    let script = format!(
        r#"PATH=/usr/bin:/bin
case "$*" in *download*={newer}) cp "${{0%/*}}/source.deb" . ;; *) echo E: none >&2; exit 100 ;; esac"#
    );
    let madison = format!("echo '{} | {newer} | a mirror'", of("package"));
    let path = programs(&[
        ("apt-get", &script),
        ("apt-cache", &madison),
        ("sudo", "exit 1"),
        ("dpkg-query", "exec /usr/bin/dpkg-query \"$@\""),
    ]);
    // A package in Debian's format that contains an almost empty tree.
    let pack = format!(
        "cd {}; mkdir -p pkg/DEBIAN pkg/usr/src linux; echo VERSION = 6 >linux/Makefile
         tar -cJf pkg/usr/src/{package}.tar.xz linux
         printf 'Package: {package}\nVersion: {newer}\nArchitecture: all\nMaintainer: a\nDescription: a\n' \
             >pkg/DEBIAN/control
         dpkg-deb --build pkg source.deb",
        path.path().display(),
        package = of("package")
    );
    let packed = Command::new("sh").args(["-euc", &pack]).output();
    assert!(packed.expect("sh").status.success());
    let cache = path.path().join("cache");
    let hash = content_hash(&path.path().join("source.deb")).expect("a hash");
    for downloads in [1, 1] {
        let mut build = cli::program(&["kernel", "build"]);
        build.env("CRUCIBLE_CACHE", &cache);
        build.env("PATH", format!("{}:/usr/bin:/bin", path.path().display()));
        // The series does not apply to this tree.
        let (code, _, stderr) = output(&mut build);
        assert_eq!(code, 125, "{stderr}");
        assert!(
            stderr.contains(&format!("{} {newer}", of("package"))),
            "{stderr}"
        );
        assert!(stderr.contains("does not apply"), "{stderr}");
        let source = cache.join("kernel-source").join(&hash[..32]);
        assert!(source.join("linux/Makefile").is_file());
        assert!(
            !cache
                .join("kernel-source")
                .join(&of("sha256")[..32])
                .exists()
        );
        let log = fs::read_to_string(path.path().join("log")).expect("a log");
        let fetched = format!("download {}={newer}", of("package"));
        assert_eq!(log.matches(&fetched).count(), downloads, "{log}");
    }
}

#[test]
fn provenance_names_what_is_booted() {
    let _alone = artefacts();
    let (code, stdout, stderr) = output(&mut cli::program(&["provenance", "--machine", "qemu"]));
    assert_eq!(code, 0, "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    let hash = |path: &Path| content_hash(path).expect("a hash");
    assert_eq!(found["agent"], hash(&path(&["rootfs", "build"], 0)));
    let userland = path(&["rootfs", "build"], 1);
    assert_eq!(found["userland"]["image"], hash(&userland));
    let list = userland.with_file_name("userland-packages.txt");
    assert_eq!(found["userland"]["list"], hash(&list));
    assert_eq!(
        found["kernel"]["image"],
        hash(&path(&["kernel", "path"], 0))
    );
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    assert!(text(&found["qemu"]).contains("QEMU"), "{found:#}");
    let compiler = &found["kernel"]["inputs"]["compiler"];
    assert!(text(compiler).contains("gcc"), "{found:#}");
    for part in ["source", "series", "config"] {
        assert!(
            text(&found["kernel"]["inputs"][part]).len() >= 32,
            "{found:#}"
        );
    }
    let (_, packages, _) = output(&mut cli::program(&["provenance", "--packages"]));
    let gcc = packages.lines().find(|line| line.starts_with("gcc-12 "));
    assert_eq!(gcc.expect("gcc").split(' ').count(), 4);
    let count = found["userland"]["packages"].as_u64().expect("a number");
    assert_eq!(packages.lines().count() as u64, count);
}
