// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's command line.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use serde_json::json;

use super::{Options, record, snapshot};
use crate::child::fd;
use crate::cmdline;
use crate::{CHANNEL_PORT, Disk, MachineSpec, Start, TERMINAL_PORT};

/// The ID of the console's character device, to which breaks are sent.
pub(super) const CONSOLE_CHARDEV: &str = "console";

/// Returns QEMU's arguments for this guest. `timing` are kernel parameters that describe its
/// clocks.
pub(super) fn arguments(spec: &MachineSpec, options: &Options, timing: &[String]) -> Vec<String> {
    let mut args = Args::default();
    args.flag("-nodefaults").flag("-no-user-config");
    args.flag("-no-reboot").option("-display", "none");
    if spec.dump.is_some() {
        // QEMU exits on request.
        args.flag("-no-shutdown");
    }
    if waits(spec) {
        // Do not start the CPUs.
        args.flag("-S");
    }
    args.option("-name", "crucible");
    args.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    // QEMU enters an ELF kernel directly; the loader of a bzImage is in an option ROM.
    let roms = if is_elf(&spec.kernel) { "off" } else { "on" };
    let mut machine =
        format!("microvm,acpi=off,pit=on,pic=on,rtc=on,x-option-roms={roms},isa-serial=on");
    if let Some((file, share)) = snapshot::memory(spec) {
        machine.push_str(",memory-backend=ram");
        let object = json!({
            "qom-type": "memory-backend-file",
            "id": "ram",
            "size": u64::from(spec.memory_mib) << 20,
            "mem-path": path_argument(&file),
            "share": share,
        });
        args.option("-object", &object.to_string());
    }
    if let Start::Saved(_) = spec.start {
        // The control socket later specifies the snapshot to load.
        args.option("-incoming", "defer");
    }
    args.option("-machine", &machine);
    let accel = match spec.record {
        // One thread executes all CPUs, so that all events have one order.
        Some(_) => "tcg",
        None => options.accel.argument(),
    };
    args.option("-accel", accel);
    let mut cpu = options.accel.cpu().to_owned();
    if options.nested {
        cpu.push_str(",+svm");
    }
    for feature in &options.without {
        cpu.push_str(",-");
        cpu.push_str(feature);
    }
    args.option("-cpu", &cpu);
    args.option("-smp", &spec.vcpus.to_string());
    args.option("-m", &format!("{}M", spec.memory_mib));
    match &spec.record {
        None => args.option("-rtc", "base=utc,clock=host"),
        Some(directory) => {
            args.option("-icount", &record::icount(directory));
            args.option("-global", record::NO_VAPIC);
            args.option("-rtc", "base=2026-01-01T00:00:00,clock=vm")
        }
    };

    args.socket("qmp", fd::CONTROL);
    args.option("-mon", "chardev=qmp,mode=control");
    match &spec.record {
        None => args.socket(CONSOLE_CHARDEV, fd::CONSOLE),
        Some(directory) => {
            args.option("-chardev", &record::pipe(directory, record::CONSOLE));
        }
    }
    args.option("-serial", &format!("chardev:{CONSOLE_CHARDEV}"));

    if spec.debugger.is_some() {
        args.list.extend(debugger());
    }

    for (index, disk) in spec.disks.iter().enumerate() {
        args.disk(index, disk, spec.record.is_some());
    }
    // A recording has the bytes of QEMU's own generator, but not those of a file.
    let (rng, device) = match spec.record {
        Some(_) => ("rng-builtin,id=rng", record::RNG),
        None => (
            "rng-random,id=rng,filename=/dev/urandom",
            "virtio-rng-device,rng=rng",
        ),
    };
    args.option("-object", rng);
    args.device(device);
    match &spec.record {
        None => {
            args.device("virtio-serial-device,id=serial");
            args.socket("channel", fd::CHANNEL);
            args.port("channel", CHANNEL_PORT);
            args.socket("terminal", fd::TERMINAL);
            args.port("terminal", TERMINAL_PORT);
        }
        Some(directory) => {
            // A snapshot of a virtio port cannot be loaded into a replay: the load sets a timer
            // which is not in the log.
            args.option("-chardev", &record::pipe(directory, record::CHANNEL));
            args.option("-device", &record::channel());
            // Only the stream of a serial port is recorded, and this machine makes one by itself.
            args.option("-serial", &format!("chardev:{}", record::CHANNEL));
        }
    }

    args.option("-kernel", &path_argument(&spec.kernel));
    args.option("-append", &append(spec, options, timing));
    args.list
}

/// Returns the arguments for a debugger.
pub(super) fn debugger() -> Vec<String> {
    let mut args = Args::default();
    let socket = format!("socket,id=gdb,fd={},server=on,wait=off", fd::DEBUGGER);
    args.option("-chardev", &socket);
    args.option("-gdb", "chardev:gdb");
    args.list
}

/// Returns true when the guest does not run by itself: it waits for the debugger, or, because its
/// end must not be missed, until the control socket is ready.
pub(super) fn waits(spec: &MachineSpec) -> bool {
    spec.debugger.is_some() || spec.dump.is_some()
}

/// Returns the kernel's command line. `reboot=t`: `microvm` has no other way to reset.
fn append(spec: &MachineSpec, options: &Options, timing: &[String]) -> String {
    match &options.words {
        None => cmdline::kernel(spec, "t", timing),
        Some(parameters) => [parameters.as_slice(), &spec.cmdline].concat().join(" "),
    }
}

fn path_argument(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The transports in the order in which devices are assigned to them.
///
/// `microvm`'s eight virtio-mmio transports use the interrupts 5 to 12. Transport 3 shares its
/// interrupt with the real-time clock, so it is left out: the guest's clock is more important than
/// an eighth device.
///
/// The command line announces the transports from the last to the first, and the guest numbers its
/// devices in that order.
const TRANSPORTS: [usize; 7] = [7, 6, 5, 4, 2, 1, 0];

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    // QEMU itself reports a kernel that cannot be read.
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
        && magic == *b"\x7fELF"
}

/// Returns QEMU's driver for the file or device at `path`; each driver refuses the other kind.
fn file_driver(path: &Path) -> &'static str {
    let is_device = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    if is_device { "host_device" } else { "file" }
}

#[derive(Default)]
struct Args {
    list: Vec<String>,
    devices: usize,
}

impl Args {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.list.push(flag.into());
        self
    }

    fn option(&mut self, option: &str, value: &str) -> &mut Self {
        self.list.extend([option.into(), value.into()]);
        self
    }

    fn socket(&mut self, id: &str, fd: i32) {
        self.option("-chardev", &format!("socket,id={id},fd={fd}"));
    }

    /// Adds a device on the next virtio-mmio transport. The guest finds the devices in this order.
    fn device(&mut self, device: &str) {
        // QEMU has no bus of this number, so it refuses a device too many.
        let bus = TRANSPORTS.get(self.devices).copied().unwrap_or(usize::MAX);
        self.devices += 1;
        self.option("-device", &format!("{device},bus=virtio-mmio-bus.{bus}"));
    }

    fn port(&mut self, id: &str, name: &str) {
        self.option(
            "-device",
            &format!("virtserialport,bus=serial.0,chardev={id},name={name}"),
        );
    }

    /// Adds a disk, in JSON because a path may contain any character. Flushes are not passed on: a
    /// scratch disk need not survive a crash of the host.
    fn disk(&mut self, index: usize, disk: &Disk, recorded: bool) {
        let node = format!("disk{index}");
        let image = match recorded {
            true => format!("{node}-image"),
            false => node.clone(),
        };
        let blockdev = json!({
            "driver": "raw",
            "node-name": image,
            "read-only": disk.readonly,
            "discard": "unmap",
            "cache": { "no-flush": true },
            "file": {
                "driver": file_driver(&disk.path),
                "filename": path_argument(&disk.path),
                "discard": "unmap",
            },
        });
        self.option("-blockdev", &blockdev.to_string());
        if recorded {
            // Requests complete at the same instruction.
            let replay = json!({
                "driver": "blkreplay",
                "node-name": node,
                "read-only": disk.readonly,
                "image": image,
            });
            self.option("-blockdev", &replay.to_string());
        }
        // The guest gets an error of the host's disk as an I/O error, and QMP reports it. Without
        // these options a full disk stops the guest.
        self.device(&format!(
            "virtio-blk-device,drive={node},werror=report,rerror=report"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_keep_their_order_and_odd_paths() {
        let mut spec = MachineSpec::new("/k/vmlinux", "/run");
        spec.disks = vec![
            Disk::readonly("/a,b/\"c\".erofs"),
            Disk::writable("/scratch"),
        ];
        let args = arguments(&spec, &Options::default(), &[]);
        let drives: Vec<_> = args
            .iter()
            .filter(|a| a.starts_with("virtio-blk-device"))
            .collect();
        assert_eq!(
            drives,
            [
                "virtio-blk-device,drive=disk0,werror=report,rerror=report,bus=virtio-mmio-bus.7",
                "virtio-blk-device,drive=disk1,werror=report,rerror=report,bus=virtio-mmio-bus.6"
            ]
        );
        let blockdev = args.iter().find(|a| a.contains("disk0\"")).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(blockdev).unwrap();
        assert_eq!(parsed["file"]["filename"], "/a,b/\"c\".erofs");
        assert_eq!(parsed["read-only"], true);
    }
}
