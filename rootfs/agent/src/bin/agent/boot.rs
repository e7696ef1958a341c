// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sets up the guest, in two steps.
//!
//! After the first step the guest is like all others of its kind and has not touched the
//! scratch disk: a snapshot may be taken. The second step gives it its identity.
//!
//! At boot the agent's disk is the root; it has the empty directories `dev`, `mnt`, `proc` and
//! `sys`. An overlay combines Debian (`/dev/vdb`, read-only) and the scratch disk (`/dev/vdc`)
//! and becomes the root; the agent's disk is then mounted at `/opt/crucible`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::fd::AsRawFd,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use crucible_agent::cgroup;
use crucible_protocol::{Begin, Identity, KEEP_DIR, Mac, TOOLS_DIR};
use nix::{
    mount::{MsFlags, mount},
    sched::sched_yield,
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
    unistd::{chdir, pivot_root, sethostname},
};

use crate::network;

const NONE: Option<&str> = None;

/// Number of random bytes in the identity of a guest.
const RANDOM: usize = 32;

/// `_IO('R', 0x07)` of `include/uapi/linux/random.h`.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// Limit for a device to appear.
const DEVICE_LIMIT: Duration = Duration::from_secs(10);

fn mount_fs(kind: &str, source: &str, target: &str, flags: MsFlags, data: &str) -> Result<()> {
    mount(Some(source), target, Some(kind), flags, Some(data))
        .with_context(|| format!("cannot mount {source} ({kind}) on {target}"))
}

fn make_dir(path: &str, mode: u32) -> Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, PermissionsExt::from_mode(mode)))
        .with_context(|| format!("cannot make {path}"))
}

fn bind(from: &str, to: &str) -> Result<()> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE)
        .with_context(|| format!("cannot bind {from} to {to}"))
}

const QUIET: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// Mounts the file systems that are the same in every guest.
pub fn mount_common() -> Result<()> {
    mount_fs("tmpfs", "mnt", "/mnt", MsFlags::empty(), "mode=0755")?;
    if !Path::new("/dev/vdb").exists() {
        mount_fs("devtmpfs", "dev", "/dev", MsFlags::MS_NOSUID, "mode=0755")?;
    }
    mount_fs("proc", "proc", "/proc", QUIET, "")?;
    mount_fs("sysfs", "sys", "/sys", QUIET, "")?;
    for dir in ["/mnt/lower", "/mnt/scratch", "/mnt/root"] {
        make_dir(dir, 0o755)?;
    }
    mount_fs("erofs", "/dev/vdb", "/mnt/lower", MsFlags::MS_RDONLY, "")
}

/// Mounts the scratch disk and the overlay, and makes Debian the root.
pub fn mount_own() -> Result<()> {
    mount_fs("ext4", "/dev/vdc", "/mnt/scratch", MsFlags::empty(), "")?;
    make_dir("/mnt/scratch/upper", 0o755)?;
    make_dir("/mnt/scratch/overlay-work", 0o755)?;
    make_dir("/mnt/scratch/keep", 0o755)?;
    make_dir("/mnt/scratch/work", 0o777)?;
    make_dir("/mnt/scratch/tmp", 0o1777)?;
    // uuid=null, because the default depends on the history of the upper directory:
    // on the first mount it becomes "on", on a copied directory "null", and a
    // restart in a different machine needs equal mounts.
    mount_fs(
        "overlay",
        "root",
        "/mnt/root",
        MsFlags::empty(),
        "lowerdir=/mnt/lower,upperdir=/mnt/scratch/upper,workdir=/mnt/scratch/overlay-work,uuid=null",
    )?;
    for dir in [
        "proc",
        "sys",
        "dev",
        "work",
        "tmp",
        "scratch",
        "opt/crucible",
    ] {
        fs::create_dir_all(Path::new("/mnt/root").join(dir))
            .with_context(|| format!("cannot make /{dir} in the guest's root"))?;
    }
    bind("/mnt/scratch", "/mnt/root/scratch")?;
    bind("/mnt/scratch/work", "/mnt/root/work")?;
    bind("/mnt/scratch/tmp", "/mnt/root/tmp")?;

    for dir in ["/dev", "/proc", "/sys"] {
        let to = format!("/mnt/root{dir}");
        mount(Some(dir), to.as_str(), NONE, MsFlags::MS_MOVE, NONE)
            .with_context(|| format!("cannot move {dir} to {to}"))?;
    }
    chdir("/mnt/root")?;
    pivot_root(".", "opt/crucible").context("cannot make Debian the root")?;
    chdir("/")?;
    for dir in ["/dev/pts", "/dev/shm"] {
        make_dir(dir, 0o755)?;
    }
    mount_fs(
        "devpts",
        "devpts",
        "/dev/pts",
        MsFlags::MS_NOSUID,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    // Runtime files; CRIU caches kernel features here.
    mount_fs(
        "tmpfs",
        "run",
        "/run",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=0755",
    )?;
    mount_fs("tmpfs", "shm", "/dev/shm", MsFlags::MS_NOSUID, "mode=1777")?;
    mount_fs("cgroup2", "cgroup", cgroup::ROOT, QUIET, "")?;
    optional("debugfs", "/sys/kernel/debug")?;
    optional("tracefs", "/sys/kernel/tracing")
}

/// Sets the clock. Call this first: any delay makes the clock late.
pub fn set_clock(now_ns: u64) -> Result<()> {
    let now = TimeSpec::from_duration(Duration::from_nanos(now_ns));
    clock_settime(ClockId::CLOCK_REALTIME, now).context("cannot set the clock")
}

/// Makes the random numbers this guest's own. Call this before any code draws random
/// numbers: file systems do when they are mounted.
pub fn reseed(seed: &[u8]) -> Result<()> {
    let random = File::options()
        .write(true)
        .open("/dev/urandom")
        .context("cannot open /dev/urandom")?;
    (&random)
        .write_all(seed)
        .context("cannot stir the random numbers")?;
    // Written bytes alone take effect with the next reseeding, minutes later.
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    nix::errno::Errno::result(result).context("cannot reseed the random numbers")?;
    Ok(())
}

/// Gives the guest its name and its network; returns its identity.
pub fn identify(begin: &Begin) -> Result<Identity> {
    make_dir("/run/crucible", 0o755)?;
    fs::write("/run/crucible/instance", format!("{}\n", begin.instance))
        .context("cannot note the guest's name")?;
    let mut random = vec![0; RANDOM];
    // SAFETY: `getrandom` writes at most as many bytes as there are.
    let got = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
    let got = nix::errno::Errno::result(got).context("cannot get random numbers")?;
    random.truncate(got as usize);
    Ok(Identity {
        instance: begin.instance.clone(),
        mac: network::interface(Mac::of(&begin.instance))?,
        random,
    })
}

/// Mounts file systems that the kernel may lack.
fn optional(kind: &str, target: &str) -> Result<()> {
    let known = fs::read_to_string("/proc/filesystems")?
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some(kind));
    if known && Path::new(target).is_dir() {
        mount_fs(kind, kind, target, MsFlags::empty(), "")?;
    }
    Ok(())
}

/// Does the rest of the set-up, apart from mounts.
pub fn prepare() -> Result<()> {
    sethostname("crucible")?;
    network::loopback_up().context("cannot bring lo up")?;
    fs::create_dir_all("/usr/local/bin")?;
    for tool in ["checkpoint", "restart", "torture", "matrix"] {
        let link = format!("/usr/local/bin/{tool}");
        match symlink(format!("{TOOLS_DIR}/{tool}"), &link) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(e).with_context(|| format!("cannot make {link}"));
            }
            _ => {}
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        match symlink(target, link) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(e).with_context(|| format!("cannot make {link}"));
            }
            _ => {}
        }
    }
    let controllers = Path::new(cgroup::ROOT).join("cgroup.subtree_control");
    let have = fs::read_to_string(Path::new(cgroup::ROOT).join("cgroup.controllers"))?;
    for name in have
        .split_whitespace()
        .filter(|name| ["pids", "memory"].contains(name))
    {
        fs::write(&controllers, format!("+{name}"))
            .with_context(|| format!("cannot enable the cgroup controller {name}"))?;
    }
    fs::create_dir_all(crate::container::parent_dir())?;
    fs::create_dir_all(KEEP_DIR)?;
    // SAFETY: no other thread reads or writes the environment.
    unsafe {
        std::env::set_var(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        std::env::set_var("HOME", "/root");
        std::env::set_var("LANG", "C.UTF-8");
    }
    Ok(())
}

/// Opens a virtio port by its name.
pub fn open_port(name: &str) -> Result<File> {
    let path = port_path(name)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {path}"))
}

/// Finds the device of a virtio port by its name; without udev no path contains the name.
pub fn port_path(name: &str) -> Result<String> {
    let deadline = Instant::now() + DEVICE_LIMIT;
    loop {
        if let Some(path) = find_port(name)? {
            return Ok(path);
        }
        if Instant::now() > deadline {
            bail!("this machine has no virtio port named {name}");
        }
        // The kernel creates ports asynchronously, from a work queue.
        sched_yield()?;
    }
}

fn find_port(name: &str) -> io::Result<Option<String>> {
    let ports = match fs::read_dir("/sys/class/virtio-ports") {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        ports => ports?,
    };
    for port in ports {
        let port = port?;
        let label = fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if label.trim() == name {
            return Ok(Some(format!("/dev/{}", port.file_name().to_string_lossy())));
        }
    }
    Ok(None)
}
