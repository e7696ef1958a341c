//! QEMU's command line.

use std::path::Path;

use serde_json::json;

use super::{Options, snapshot};
use crate::child::fd;
use crate::{CHANNEL_PORT, Disk, MachineSpec, Start, TERMINAL_PORT};

/// The name of the console's character device, to send breaks to.
pub(super) const CONSOLE_CHARDEV: &str = "console";

/// The kernel's command line.
///
/// `loglevel=5` prints warnings and worse, which all reports of the kernel's
/// checkers are; ordinary boot messages would cost a tenth of a second of
/// emulated serial line.
pub(super) fn kernel_cmdline(spec: &MachineSpec, timing: &[String]) -> String {
    let mut words = [
        "console=ttyS0",
        "loglevel=5",
        "panic=-1",
        "reboot=t",
        "8250.nr_uarts=1",
        "random.trust_cpu=on",
        "cryptomgr.notests",
    ]
    .map(String::from)
    .to_vec();
    words.extend(timing.iter().cloned());
    words.extend(spec.cmdline.iter().cloned());
    words.join(" ")
}

/// QEMU's arguments for this guest, whose kernel is told `timing` of its clocks.
pub(super) fn arguments(spec: &MachineSpec, options: &Options, timing: &[String]) -> Vec<String> {
    let mut args = Args::default();
    args.flag("-nodefaults").flag("-no-user-config");
    args.flag("-no-reboot").option("-display", "none");
    args.option("-name", "crucible");
    args.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    let mut machine =
        "microvm,acpi=off,pit=on,pic=on,rtc=on,x-option-roms=off,isa-serial=on".to_owned();
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
        // What to load, the control socket tells.
        args.option("-incoming", "defer");
    }
    args.option("-machine", &machine);
    args.option("-accel", options.accel.argument());
    let cpu = options.accel.cpu();
    args.option(
        "-cpu",
        &format!("{cpu}{}", if options.nested { ",+svm" } else { "" }),
    );
    args.option("-smp", &spec.vcpus.to_string());
    args.option("-m", &format!("{}M", spec.memory_mib));
    args.option("-rtc", "base=utc,clock=host");

    args.socket("qmp", fd::CONTROL);
    args.option("-mon", "chardev=qmp,mode=control");
    args.socket(CONSOLE_CHARDEV, fd::CONSOLE);
    args.option("-serial", &format!("chardev:{CONSOLE_CHARDEV}"));

    if spec.debugger.is_some() {
        let socket = format!("socket,id=gdb,fd={},server=on,wait=off", fd::DEBUGGER);
        args.option("-chardev", &socket);
        args.option("-gdb", "chardev:gdb");
        // The guest waits for it.
        args.flag("-S");
    }

    for (index, disk) in spec.disks.iter().enumerate() {
        args.disk(index, disk);
    }
    args.option("-object", "rng-random,id=rng,filename=/dev/urandom");
    args.device("virtio-rng-device,rng=rng");
    args.device("virtio-serial-device,id=serial");
    args.port("channel", fd::CHANNEL, CHANNEL_PORT);
    args.port("terminal", fd::TERMINAL, TERMINAL_PORT);

    args.option("-kernel", &path_argument(&spec.kernel));
    args.option("-append", &kernel_cmdline(spec, timing));
    args.words
}

fn path_argument(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `microvm`'s eight virtio-mmio transports have the interrupts 5 to 12. The
/// fourth one's is the real-time clock's, and the guest's clock is worth more
/// than an eighth device.
///
/// The command line announces them from the last to the first, so that is the
/// order in which the guest numbers its devices.
const TRANSPORTS: [usize; 7] = [7, 6, 5, 4, 2, 1, 0];

#[derive(Default)]
struct Args {
    words: Vec<String>,
    devices: usize,
}

impl Args {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.words.push(flag.into());
        self
    }

    fn option(&mut self, option: &str, value: &str) -> &mut Self {
        self.words.extend([option.into(), value.into()]);
        self
    }

    fn socket(&mut self, id: &str, fd: i32) {
        self.option("-chardev", &format!("socket,id={id},fd={fd}"));
    }

    /// A device on the next virtio-mmio transport; the guest finds them in
    /// this order.
    fn device(&mut self, device: &str) {
        // One too many is refused by QEMU, which has no such bus.
        let bus = TRANSPORTS.get(self.devices).copied().unwrap_or(usize::MAX);
        self.devices += 1;
        self.option("-device", &format!("{device},bus=virtio-mmio-bus.{bus}"));
    }

    fn port(&mut self, id: &str, fd: i32, name: &str) {
        self.socket(id, fd);
        self.option(
            "-device",
            &format!("virtserialport,bus=serial.0,chardev={id},name={name}"),
        );
    }

    /// A disk, as JSON: a path may hold whatever it likes. Flushes are not
    /// passed on: a scratch disk need not outlive its host.
    fn disk(&mut self, index: usize, disk: &Disk) {
        let node = format!("disk{index}");
        let blockdev = json!({
            "driver": "raw",
            "node-name": node,
            "read-only": disk.readonly,
            "discard": "unmap",
            "cache": { "no-flush": true },
            "file": {
                "driver": "file",
                "filename": path_argument(&disk.path),
                "discard": "unmap",
            },
        });
        self.option("-blockdev", &blockdev.to_string());
        self.device(&format!("virtio-blk-device,drive={node}"));
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
                "virtio-blk-device,drive=disk0,bus=virtio-mmio-bus.7",
                "virtio-blk-device,drive=disk1,bus=virtio-mmio-bus.6"
            ]
        );
        let blockdev = args.iter().find(|a| a.contains("disk0\"")).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(blockdev).unwrap();
        assert_eq!(parsed["file"]["filename"], "/a,b/\"c\".erofs");
        assert_eq!(parsed["read-only"], true);
    }

    #[test]
    fn extra_words_come_last() {
        let mut spec = MachineSpec::new("/k", "/run");
        spec.cmdline = vec!["loglevel=7".into()];
        assert!(kernel_cmdline(&spec, &["tsc=reliable".into()]).ends_with(" loglevel=7"));
    }
}
