// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records a guest, so that it can be replayed instruction by instruction, by QEMU's
//! `docs/devel/replay`.
//!
//! All of these are needed, or a replay waits forever at the guest's first idle: one thread that
//! executes one CPU, a clock that counts instructions, a random number generator of QEMU's own,
//! disks behind `blkreplay`, and a channel that is a serial port and never full.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crucible_protocol::line;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Accel, Options, command, unsupported};
use crate::bridge;
use crate::{Disk, Error, MachineSpec, Result, Start};

/// Version of the recording's description.
const SCHEMA: u32 = 1;

/// The name of the recording's description.
const DESCRIPTION: &str = "recording.json";

/// The name of QEMU's log of everything that comes from outside of the guest's CPU.
const LOG: &str = "replay.bin";

/// The name of the files of the guest's channel.
pub(crate) const CHANNEL: &str = "channel";

/// The name of the files of its console.
pub(crate) const CONSOLE: &str = "console";

/// The placeholder for the directory of a replay in the arguments of a recording.
pub(super) const PLACE: &str = "@REPLAY@";

/// Binary logarithm of the nanoseconds that an instruction takes in the guest's time. A lower
/// value makes the log larger, and a replay much slower.
const SHIFT: u32 = 7;

/// Leaves out a device that only old Windows guests use. The load of a snapshot resets it: then
/// QEMU's main thread waits for the CPU's thread, and holds a lock for which that thread may wait.
pub(super) const NO_VAPIC: &str = "apic-common.vapic=off";

/// The random number generator. Its limit on bytes, although unlimited, has a timer that no
/// snapshot holds: at its default period, of a minute, a replay that has gone back would meet
/// the timer at a different time. This is the longest period, in milliseconds: seven weeks.
pub(super) const RNG: &str = "virtio-rng-device,rng=rng,period=4294967295";

/// Maximum time for a QEMU to complete its log.
pub(super) const COMPLETION: Duration = Duration::from_secs(20);

/// A recorded guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// Version of this description.
    pub schema: u32,
    /// The emulator.
    pub qemu: Program,
    /// The files that the guest only reads, which stay where they are: kernel and disks.
    pub files: Vec<Program>,
    /// Names of the copies of its other disks, as they were at the start.
    pub disks: Vec<String>,
    /// QEMU's arguments for a replay, with `@REPLAY@` for its directory.
    pub arguments: Vec<String>,
    /// True when no device has state that a snapshot does not hold.
    #[serde(default)]
    pub goes_back: bool,
    /// Path of this directory.
    #[serde(skip)]
    directory: PathBuf,
}

/// A file that a replay needs unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// Its sha256.
    pub sha256: String,
}

impl Program {
    fn of(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            sha256: sha256(path)?,
        })
    }
}

/// Returns the option that records in `directory`.
pub(super) fn icount(directory: &Path) -> String {
    format!(
        "shift={SHIFT},rr=record,rrfile={}",
        value(&directory.join(LOG))
    )
}

/// Returns the option of a character device that writes to a file in `directory`, and reads a FIFO.
pub(super) fn pipe(directory: &Path, id: &str) -> String {
    format!("pipe,id={id},path={}", value(&directory.join(id)))
}

/// Returns a path as the value of one of QEMU's options, where a comma ends it.
pub(super) fn value(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Returns the kernel parameters of a recorded guest: its time-stamp counter counts nanoseconds,
/// and its channel is the second serial line.
pub(super) fn parameters() -> Vec<String> {
    let channel = format!("{}ttyS1", line::PARAMETER);
    [
        "tsc_early_khz=1000000",
        "tsc=reliable",
        "8250.nr_uarts=2",
        &channel,
    ]
    .map(String::from)
    .to_vec()
}

/// Returns the device of the channel. The guest's driver sets the highest rate, 115200 baud, which
/// is a thousand times as fast by this clock.
pub(super) fn channel() -> String {
    format!("isa-serial,chardev={CHANNEL},iobase=0x2f8,irq=3,baudbase=115200000")
}

/// Refuses a machine that cannot be recorded.
pub(super) fn check(spec: &MachineSpec, options: &Options) -> Result<()> {
    if options.accel != Accel::Tcg {
        return Err(unsupported("record a guest that KVM executes"));
    }
    if spec.vcpus != 1 {
        return Err(unsupported("record a guest with more than one CPU"));
    }
    if spec.start != Start::Boot {
        return Err(unsupported("record a guest that starts from a snapshot"));
    }
    if spec.debugger.is_some() {
        return Err(unsupported("record a guest that a debugger stops"));
    }
    Ok(())
}

/// Makes the recording of a guest that is about to start. Returns the files that QEMU writes.
pub(super) fn begin(
    directory: &Path,
    spec: &MachineSpec,
    options: &Options,
    timing: &[String],
    program: &Path,
) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let mut there = spec.clone();
    there.record = Some(PLACE.into());
    let mut files = vec![Program::of(&spec.kernel)?];
    let mut disks = Vec::new();
    for (index, disk) in there.disks.iter_mut().enumerate() {
        if disk.readonly {
            files.push(Program::of(&disk.path)?);
            continue;
        }
        let name = format!("disk{index}");
        copy(&disk.path, &directory.join(&name))?;
        *disk = Disk::writable(Path::new(PLACE).join(&name));
        disks.push(name);
    }
    let arguments = command::arguments(&there, options, timing);
    let recording = Recording {
        schema: SCHEMA,
        qemu: Program::of(program)?,
        files,
        disks,
        arguments: arguments
            .into_iter()
            .map(|argument| argument.replace(",rr=record,", ",rr=replay,"))
            .collect(),
        goes_back: true,
        directory: PathBuf::new(),
    };
    let path = directory.join(DESCRIPTION);
    let text = serde_json::to_vec_pretty(&recording).map_err(io::Error::from);
    text.and_then(|text| fs::write(&path, text))
        .map_err(failed(&path))?;
    // QEMU may not make files.
    let log = directory.join(LOG);
    File::create(&log).map_err(failed(&log))?;
    let mut written = make_pipes(directory)?;
    written.push(log);
    Ok(written)
}

/// Makes the files of the channel and of the console.
fn make_pipes(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for name in [CHANNEL, CONSOLE] {
        let base = directory.join(name);
        made.extend(bridge::make(&base).map_err(failed(&base))?);
    }
    Ok(made)
}

impl Recording {
    /// Reads the description of the recording in `directory`.
    ///
    /// # Errors
    /// [`Error::NoRecording`] has the reason.
    pub fn load(directory: &Path) -> Result<Self> {
        let none = |why: String| Error::NoRecording {
            directory: directory.to_owned(),
            why,
        };
        let path = directory.join(DESCRIPTION);
        let text = fs::read(&path).map_err(|e| none(format!("{DESCRIPTION}: {e}")))?;
        let mut recording: Self =
            serde_json::from_slice(&text).map_err(|e| none(format!("{DESCRIPTION}: {e}")))?;
        if recording.schema != SCHEMA {
            return Err(none(format!(
                "it has version {}, and this crucible replays version {SCHEMA}",
                recording.schema
            )));
        }
        recording.directory = directory.to_owned();
        Ok(recording)
    }

    /// Finds inputs of a replay that have changed since the recording: QEMU, the kernel, a disk.
    ///
    /// # Errors
    /// [`Error::NoRecording`] names the first such file.
    pub fn check(&self) -> Result<()> {
        let changed = |what: &str, file: &Program| Error::NoRecording {
            directory: self.directory.clone(),
            why: match file.path.exists() {
                true => format!(
                    "{what} {} has changed since the recording",
                    file.path.display()
                ),
                false => format!("{what} {} is gone", file.path.display()),
            },
        };
        let differs =
            |file: &Program| !sha256(&file.path).is_ok_and(|sha256| sha256 == file.sha256);
        if differs(&self.qemu) {
            return Err(changed("the emulator", &self.qemu));
        }
        match self.files.iter().find(|file| differs(file)) {
            Some(file) => Err(changed("the file", file)),
            None => Ok(()),
        }
    }

    /// Returns the kernel's image.
    pub fn kernel(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |it| &it.path)
    }

    /// Compresses the files of a recording whose machine has ended.
    ///
    /// # Errors
    /// zstd cannot be run, or fails.
    pub fn compress(directory: &Path) -> Result<()> {
        for name in [CHANNEL, CONSOLE] {
            let base = directory.join(name);
            bridge::remove_input(&base).map_err(failed(&base))?;
        }
        // It is in the console's log.
        let console = bridge::output(&directory.join(CONSOLE));
        fs::remove_file(&console).map_err(failed(&console))?;
        for file in [
            directory.join(LOG),
            bridge::output(&directory.join(CHANNEL)),
        ] {
            let mut zstd = Command::new("zstd");
            run(zstd.args(["-q", "--rm", "-f"]).arg(&file), &file)?;
        }
        Ok(())
    }

    /// Returns the bytes that the guest has written to its channel.
    pub fn channel(&self) -> Result<Vec<u8>> {
        let plain = bridge::output(&self.directory.join(CHANNEL));
        if plain.exists() {
            return fs::read(&plain).map_err(failed(&plain));
        }
        let packed = packed(&plain);
        run(Command::new("zstd").args(["-dcq"]).arg(&packed), &packed)
    }

    /// Makes the files of a replay in `place`.
    pub(super) fn unpack(&self, place: &Path) -> Result<Vec<PathBuf>> {
        let plain = self.directory.join(LOG);
        let to = place.join(LOG);
        if plain.exists() {
            copy(&plain, &to)?;
        } else {
            let packed = packed(&plain);
            let mut zstd = Command::new("zstd");
            run(zstd.args(["-dqf"]).arg(&packed).arg("-o").arg(&to), &packed)?;
        }
        for name in &self.disks {
            // A name, and no path.
            let name = Path::new(name).file_name().unwrap_or_default();
            copy(&self.directory.join(name), &place.join(name))?;
        }
        let mut files = make_pipes(place)?;
        let own = self.disks.iter().map(String::as_str).chain([LOG]);
        files.extend(own.map(|name| place.join(name)));
        Ok(files)
    }
}

fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".zst");
    name.into()
}

/// Copies a file without its holes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["--sparse=always", "--reflink=auto"]);
    run(cp.arg(from).arg(to), from).map(|_| ())
}

/// Runs a program on a file. Returns its output.
fn run(command: &mut Command, file: &Path) -> Result<Vec<u8>> {
    let output = command.output().map_err(|source| Error::Spawn {
        binary: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(file)(io::Error::other(why)))
}

fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(failed(path))?;
    io::copy(&mut file, &mut Writer(&mut hasher)).map_err(failed(path))?;
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Hashes the bytes that are written to it.
struct Writer<'a>(&'a mut Sha256);

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn spec(directory: &Path) -> MachineSpec {
        for name in ["vmlinux", "readonly", "scratch"] {
            fs::write(directory.join(name), name).unwrap();
        }
        MachineSpec {
            disks: vec![
                Disk::readonly(directory.join("readonly")),
                Disk::writable(directory.join("scratch")),
            ],
            record: Some(directory.join("re,cording")),
            ..MachineSpec::new(directory.join("vmlinux"), directory)
        }
    }

    pub fn record(directory: &Path) -> Recording {
        let spec = spec(directory);
        let place = spec.record.clone().unwrap();
        let program = directory.join("vmlinux");
        begin(&place, &spec, &Options::default(), &parameters(), &program).unwrap();
        Recording::load(&place).unwrap()
    }

    #[test]
    fn what_has_changed_since_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let recording = record(directory.path());
        recording.check().unwrap();
        let disk = directory.path().join("readonly");
        fs::write(&disk, "other").unwrap();
        let error = recording.check().unwrap_err().to_string();
        assert!(
            error.contains("readonly has changed since the recording"),
            "{error}"
        );
        fs::remove_file(directory.path().join("vmlinux")).unwrap();
        let error = recording.check().unwrap_err().to_string();
        assert!(error.contains("the emulator"), "{error}");
        assert!(error.contains("is gone"), "{error}");
    }

    #[test]
    fn only_one_emulated_cpu_that_boots_is_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |change: fn(&mut MachineSpec, &mut Options)| {
            let mut spec = spec(directory.path());
            let mut options = Options::default();
            change(&mut spec, &mut options);
            check(&spec, &options).is_err()
        };
        assert!(!refused(|_, _| {}));
        assert!(refused(|_, options| options.accel = Accel::Kvm));
        assert!(refused(|spec, _| spec.vcpus = 2));
        assert!(refused(|spec, _| spec.start = Start::Saved("/".into())));
    }

    #[test]
    fn the_channel_is_kept_whole() {
        let directory = tempfile::tempdir().unwrap();
        let recording = record(directory.path());
        let place = directory.path().join("re,cording");
        fs::write(place.join("channel.out"), [7; 5000]).unwrap();
        fs::write(place.join(LOG), [8; 9000]).unwrap();
        Recording::compress(&place).unwrap();
        assert!(!place.join(LOG).exists());
        assert_eq!(recording.channel().unwrap(), [7; 5000]);
        let to = directory.path().join("to");
        fs::create_dir(&to).unwrap();
        recording.unpack(&to).unwrap();
        assert_eq!(fs::read(to.join(LOG)).unwrap(), [8; 9000]);
        assert_eq!(fs::read(to.join("disk1")).unwrap(), b"scratch");
    }
}
