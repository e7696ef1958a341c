// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replays a recorded guest, and saves snapshots on the way, from which gdb goes back.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::record::{CHANNEL, COMPLETION, PLACE, Recording, failed, value};
use super::{Qemu, QemuMachine, command, qcow2};
use crate::bridge;
use crate::child;
use crate::confine::{self, Confinement, Role};
use crate::{Error, Machine, MachineSpec, Result};

/// The name of the file with the snapshots of a replay.
const STORE: &str = "snapshots";

/// The name of the file that records when the replay went back: see `back.py`.
const LOADS: &str = "loads";

/// The script by which gdb goes back, and the name of its file.
const BACK: (&str, &str) = ("back.py", include_str!("back.py"));

/// The suffix of a disk's overlay.
const OVERLAY: &str = ".qcow2";

/// Time without one instruction after which a replay has stalled. A replay does not idle: its clock
/// is the count.
const STALL: Duration = Duration::from_secs(30);

/// Maximum size of the snapshots that a replay makes on its way, in bytes.
const MOST: u64 = 1 << 30;

/// Number of instructions to the first snapshot: those of the firmware, and the first of the
/// kernel. When the firmware is executed again, it does not always find the boot device.
const FIRST: u64 = 10_000;

/// Numbers of instructions before gdb's place at which to save snapshots, so that gdb goes back
/// fast.
const NEAR: [u64; 2] = [16_000_000, 1_000_000];

/// Number of snapshots on the way to that place.
const SNAPSHOTS: u64 = 20;

/// Number of instructions by which an impossible snapshot is postponed, and maximum number of
/// postponements.
const PUT_OFF: (u64, u64) = (1000, 20);

/// Interval of reading the count. Each reading also wakes QEMU's main thread, which otherwise
/// sleeps while the guest is idle, until a timeout: with gdb a replay took twenty times as long.
const PERIOD: Duration = Duration::from_millis(10);

/// The position at which a replay stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// At the requested instruction.
    There,
    /// At the end of the recording.
    End,
    /// It executes no further instruction.
    Stalled,
}

/// A recorded guest that is replayed.
pub struct Replay {
    machine: QemuMachine,
    place: PathBuf,
    last: u64,
    goes_back: bool,
}

impl Replay {
    /// Starts the replay of `recording`, which stops before its first instruction. Its files are
    /// in `place`, an empty directory. `spec` has the path of the console's log and the address at
    /// which a debugger may connect.
    ///
    /// # Errors
    /// Those of [`Recording::check`], and of the start of a machine.
    pub fn start(recording: &Recording, place: &Path, spec: &MachineSpec) -> Result<Self> {
        recording.check()?;
        let place = child::absolute(place)?;
        let mut own = recording.unpack(&place)?;
        let mut arguments: Vec<_> = recording
            .arguments
            .iter()
            .map(|argument| fill(argument, &place))
            .collect();
        arguments.push("-S".into());
        let goes_back = recording.goes_back && spec.debugger.is_some();
        if goes_back {
            own.extend(make_store(recording, &place, &mut arguments)?);
        }
        if spec.debugger.is_some() {
            arguments.extend(command::debugger());
        }
        let mut files = confine::of_emulator(&recording.qemu.path);
        files
            .read
            .extend(recording.files.iter().map(|it| it.path.clone()));
        files.write.extend(own);
        let confinement = Confinement::prepare(Role::Emulator, &files)?;
        let mut command = Command::new(&recording.qemu.path);
        command.args(arguments);
        let spec = MachineSpec {
            record: Some(place.clone()),
            ..spec.clone()
        };
        fs::create_dir_all(&spec.run_dir).map_err(failed(&spec.run_dir))?;
        let machine = QemuMachine::launch(&spec, command, Vec::new(), confinement, |sockets| {
            Qemu::connect(sockets.control, &spec)
        })?;
        for stream in [machine.channel()?, machine.terminal()?] {
            // The answers to the guest's messages are in the recording.
            thread::spawn(move || io::copy(&mut &stream, &mut io::sink()));
        }
        Ok(Self {
            machine,
            place,
            last: 0,
            goes_back,
        })
    }

    /// Returns gdb's commands to go back, if this replay can.
    pub fn back(&self) -> Option<PathBuf> {
        self.goes_back.then(|| self.place.join(BACK.0))
    }

    /// Returns the number of instructions that the guest has executed.
    pub fn instructions(&mut self) -> u64 {
        // QEMU exits at the end of the recording.
        if let Ok(count) = self.machine.backend().replay_count() {
            self.last = count;
        }
        self.last
    }

    /// Runs to the end, or until the guest has executed this number of instructions.
    pub fn run(&mut self, until: Option<u64>, mut watch: impl FnMut(u64)) -> Result<Stop> {
        let qmp = &self.machine.backend().qmp;
        if let Some(count) = until {
            qmp.execute("replay-break", json!({ "icount": count }))?;
        }
        qmp.execute("cont", json!({}))?;
        let mut moved = Instant::now();
        loop {
            if self.machine.backend().qmp.wait_closed(PERIOD) {
                return self.end();
            }
            let before = self.last;
            let now = self.instructions();
            watch(now);
            if until == Some(now) && !self.is_running() {
                return Ok(Stop::There);
            }
            if now != before {
                moved = Instant::now();
            } else if moved.elapsed() >= STALL {
                return Ok(Stop::Stalled);
            }
        }
    }

    /// Runs like [`run`](Self::run), and saves snapshots on the way if this replay is to go back.
    /// If it is, and `until` is `None`, stops at the start of the kernel.
    pub fn run_saving(&mut self, until: Option<u64>, mut watch: impl FnMut(u64)) -> Result<Stop> {
        if !self.goes_back {
            return self.run(until, watch);
        }
        let end = until.unwrap_or(FIRST);
        let mut saved = Vec::new();
        let mut step = (end / SNAPSHOTS).max(1);
        let mut next = FIRST;
        while next < end {
            let stop = self.run(Some(next), &mut watch)?;
            if stop != Stop::There {
                return Ok(stop);
            }
            for _ in 0..PUT_OFF.1 {
                if self.save(&mut saved)? || self.last + PUT_OFF.0 >= end {
                    break;
                }
                let stop = self.run(Some(self.last + PUT_OFF.0), &mut watch)?;
                if stop != Stop::There {
                    return Ok(stop);
                }
            }
            let store = self.place.join(STORE);
            let length = store.metadata().map_err(failed(&store))?.blocks() * 512;
            if length > MOST && self.is_idle()? {
                step *= 2;
                self.thin(&mut saved)?;
            }
            let near = NEAR.iter().map(|near| end.saturating_sub(*near));
            let near = near.filter(|near| *near > self.last).min();
            next = (self.last + step).min(near.unwrap_or(end));
        }
        let stop = self.run(Some(end), &mut watch)?;
        if stop == Stop::There && end >= FIRST {
            self.save(&mut saved)?;
        }
        Ok(stop)
    }

    /// Saves a snapshot, and adds its name. Returns false if QEMU cannot save one at this
    /// instruction.
    fn save(&mut self, saved: &mut Vec<String>) -> Result<bool> {
        if !self.is_idle()? {
            return Ok(false);
        }
        let count = self.instructions();
        let name = format!("{count}-{}", self.channel()?.len());
        let answer = self.monitor(&format!("savevm {name}"))?;
        match answer.trim() {
            "" => saved.push(name),
            // An event of the log is due before the next instruction.
            later if later.contains("Try once more later") => return Ok(false),
            reason => {
                return Err(Error::Refused {
                    command: "savevm".into(),
                    reason: reason.into(),
                });
            }
        }
        Ok(true)
    }

    /// Returns true when no disk has a pending request of the guest, which a snapshot would not
    /// contain.
    fn is_idle(&self) -> Result<bool> {
        for line in self.monitor("info virtio")?.lines() {
            let Some((path, "[virtio-blk]")) = line.trim().split_once(' ') else {
                continue;
            };
            let queue = self.monitor(&format!("info virtio-queue-status {path} 0"))?;
            let mut words = queue
                .split_whitespace()
                .skip_while(|word| *word != "inuse:");
            if words.nth(1) != Some("0") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes every other snapshot. The first one stays.
    fn thin(&self, saved: &mut Vec<String>) -> Result<()> {
        for name in saved.iter().skip(1).step_by(2) {
            self.monitor(&format!("delvm {name}"))?;
        }
        let mut index = 0..;
        saved.retain(|_| index.next().is_none_or(|index| index % 2 == 0));
        Ok(())
    }

    /// Runs a command of QEMU's human monitor (HMP). Returns its output.
    fn monitor(&self, line: &str) -> Result<String> {
        let line = json!({ "command-line": line });
        let answer = self
            .machine
            .backend()
            .qmp
            .execute("human-monitor-command", line)?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Waits for the end of the process, and checks that its guest ended before it.
    fn end(&mut self) -> Result<Stop> {
        let exit = self.machine.wait(COMPLETION)?;
        if self.machine.backend().qmp.reason().is_some() {
            return Ok(Stop::End);
        }
        Err(Error::Refused {
            command: "cont".into(),
            reason: format!("QEMU died: {exit:?}"),
        })
    }

    fn is_running(&self) -> bool {
        let status = self
            .machine
            .backend()
            .qmp
            .execute("query-status", json!({}));
        status.is_ok_and(|status| status["running"] == json!(true))
    }

    /// Waits until the process ends, because of a debugger, or at the end of the recording.
    /// Returns true for the latter.
    ///
    /// # Errors
    /// [`Error::ReplayQuit`] if the debugger has sent `quit` to QEMU's monitor.
    pub fn wait(&mut self) -> Result<bool> {
        while !self.machine.backend().qmp.wait_closed(PERIOD) {
            self.instructions();
        }
        self.machine.wait(COMPLETION)?;
        let qmp = &self.machine.backend().qmp;
        if qmp.was_quit_while_stopped() {
            return Err(Error::ReplayQuit);
        }
        Ok(qmp.reason().is_some())
    }

    /// Returns the CPU's registers, as lines of text.
    pub fn registers(&self) -> Result<Vec<String>> {
        let text = self.monitor("info registers")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Returns the bytes that the guest has written to its channel so far. Bytes that it has
    /// written again since it went back occur once.
    pub fn channel(&self) -> Result<Vec<u8>> {
        let path = bridge::output(&self.place.join(CHANNEL));
        let written = fs::read(&path).map_err(failed(&path))?;
        if !self.goes_back {
            return Ok(written);
        }
        let loads = self.place.join(LOADS);
        let text = fs::read_to_string(&loads).map_err(failed(&loads))?;
        Ok(once(&written, &text))
    }
}

/// Returns a guest's output up to its present position, once, though it went back and forth: each
/// line of `loads` has the length of the file and of the channel at a load of a snapshot.
fn once(written: &[u8], loads: &str) -> Vec<u8> {
    let mut all = Vec::new();
    let (mut from, mut at) = (0, 0);
    let mut put = |to: usize, at: usize| {
        let bytes = written.get(from..to).unwrap_or_default();
        all.resize(all.len().max(at + bytes.len()), 0);
        all[at..at + bytes.len()].copy_from_slice(bytes);
        from = to;
        at + bytes.len()
    };
    for line in loads.lines() {
        let numbers = line.split_once(' ');
        let numbers = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        if let Some((file, channel)) = numbers {
            put(file, at);
            at = channel;
        }
    }
    let end = put(written.len(), at);
    all.truncate(end);
    all
}

/// Makes the storage for the snapshots of a replay in `place`: a file with the state of the
/// machine, and overlays of the disks that the guest writes to. Changes `arguments` to use them.
/// Returns the files.
fn make_store(
    recording: &Recording,
    place: &Path,
    arguments: &mut Vec<String>,
) -> Result<Vec<PathBuf>> {
    for (name, text) in [BACK, (LOADS, "")] {
        let path = place.join(name);
        fs::write(&path, text).map_err(failed(&path))?;
    }
    let store = place.join(STORE);
    qcow2::create(&store, 0, None).map_err(failed(&store))?;
    // QEMU puts the state into the first drive, and this drive precedes the drives of devices. In a
    // disk behind `blkreplay` it would wait until the log reports its write.
    let drive = format!(
        "if=none,id={STORE},format=qcow2,discard=unmap,file={}",
        value(&store)
    );
    arguments.extend(["-drive".into(), drive]);
    let mut files = vec![store];
    for name in &recording.disks {
        let disk = place.join(Path::new(name).file_name().unwrap_or_default());
        let mut overlay = disk.clone().into_os_string();
        overlay.push(OVERLAY);
        let overlay = PathBuf::from(overlay);
        let size = disk.metadata().map_err(failed(&disk))?.len();
        let backing = Some(name.as_str());
        qcow2::create(&overlay, size, backing).map_err(failed(&overlay))?;
        for argument in arguments.iter_mut().filter(|it| it.starts_with('{')) {
            let parsed: std::result::Result<Value, _> = serde_json::from_str(argument);
            let Ok(mut node) = parsed else { continue };
            if node["file"]["filename"] == json!(disk.to_string_lossy()) {
                node["driver"] = "qcow2".into();
                node["file"]["filename"] = overlay.to_string_lossy().into();
                *argument = node.to_string();
            }
        }
        files.push(overlay);
    }
    Ok(files)
}

impl Qemu {
    /// Returns the number of instructions of a recorded or replayed guest.
    pub(super) fn replay_count(&self) -> Result<u64> {
        let answer = self.qmp.execute("query-replay", json!({}))?;
        let count = answer.get("icount").and_then(Value::as_u64);
        count.ok_or_else(|| Error::Refused {
            command: "query-replay".into(),
            reason: "it reported no count".into(),
        })
    }
}

/// Puts the directory of a replay into an argument.
fn fill(argument: &str, place: &Path) -> String {
    let text = match argument.starts_with('{') {
        true => {
            let quoted = json!(place.to_string_lossy()).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        }
        false => value(place),
    };
    argument.replace(PLACE, &text)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn a_replay_has_files_of_its_own_and_the_same_machine() {
        let directory = tempfile::tempdir().unwrap();
        let recording = record(directory.path());
        assert_eq!(recording.disks, ["disk1"]);
        let filled: Vec<_> = recording
            .arguments
            .iter()
            .map(|argument| fill(argument, Path::new("/a,\"b")))
            .collect();
        let all = filled.join("\n");
        assert!(
            all.contains("shift=7,rr=replay,rrfile=/a,,\"b/replay.bin"),
            "{all}"
        );
        assert!(all.contains(r#""filename":"/a,\"b/disk1""#), "{all}");
        assert!(
            all.contains("pipe,id=channel,path=/a,,\"b/channel"),
            "{all}"
        );
        assert!(!all.contains("scratch"), "{all}");
        assert!(!all.contains(PLACE), "{all}");
    }

    #[test]
    fn snapshots_need_no_change_of_a_recording() {
        let directory = tempfile::tempdir().unwrap();
        let recording = record(directory.path());
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("disk1"), "scratch").unwrap();
        let arguments = recording.arguments.iter();
        let mut arguments: Vec<_> = arguments.map(|it| fill(it, place.path())).collect();
        let before = arguments.clone();
        let files = make_store(&recording, place.path(), &mut arguments).unwrap();
        assert_eq!(files, [path("snapshots"), path("disk1.qcow2")]);
        // The state goes into the first drive, and the disk has an overlay.
        assert!(
            arguments
                .last()
                .unwrap()
                .starts_with("if=none,id=snapshots,")
        );
        let changed = before.iter().zip(&arguments).filter(|(a, b)| a != b);
        let changed: Vec<_> = changed.map(|(_, it)| it.as_str()).collect();
        let [node] = changed[..] else {
            panic!("{changed:?}");
        };
        let node: Value = serde_json::from_str(node).unwrap();
        assert_eq!(node["driver"], "qcow2");
        assert_eq!(node["file"]["filename"], json!(path("disk1.qcow2")));
        assert_eq!(node["node-name"], "disk1-image");
        assert!(path("back.py").exists() && path("loads").exists());
    }

    #[test]
    fn what_a_guest_writes_again_is_there_once() {
        assert_eq!(once(b"abc", ""), b"abc");
        // Back to the second byte, and to the first.
        assert_eq!(once(b"abcbcabcd", "3 1\n5 0\n"), b"abcd");
        // Back to the start, and forward again to the earlier place.
        assert_eq!(once(b"abcd", "3 0\n3 3\n"), b"abcd");
        // It is still back there.
        assert_eq!(once(b"abcdefb", "6 1\n"), b"ab");
        // Different bytes are kept.
        assert_eq!(once(b"abcx", "3 1\n"), b"ax");
    }
}
