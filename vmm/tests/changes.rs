// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of incremental snapshots, which save only the differences from a base snapshot.

mod fixture;
mod guests;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crucible_vmm::kvm::saved;
use crucible_vmm::qemu::{self, QemuMachine};
use crucible_vmm::{Changes, Error, Machine, MachineSpec, Result, Start};
use tempfile::TempDir;

use fixture::{Fixture, MEMORY_MIB, PATIENCE, monitor, register};
use guests::{Guest, RANDOM, STEP_PAGES};

const PAGE: usize = 4096;

/// Directories for snapshots.
struct Saved(TempDir);

impl Saved {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn directory(&self, name: &str) -> PathBuf {
        let directory = self.0.path().join(name);
        fs::create_dir_all(&directory).unwrap();
        directory
    }
}

fn start(start: Start, track: bool) -> Option<Result<Fixture>> {
    let files = tempfile::tempdir().unwrap();
    Fixture::try_at(Guest::Steps, 1, files, |_| start, track)
}

/// Starts a guest that tracks its changes and has not taken a step.
fn begin() -> Option<Fixture> {
    let mut fixture = start(Start::Boot, true)?.unwrap();
    fixture.wait_for("ready");
    Some(fixture)
}

fn changed(base: &Path, changes: &Path) -> Start {
    Start::Changed {
        base: base.into(),
        changes: changes.into(),
    }
}

/// Returns the number of steps that the guest has taken.
fn steps(fixture: &mut Fixture) -> u32 {
    let states = fixture.machine.task_states(Duration::ZERO).unwrap();
    u32::from_str_radix(register(&states.registers, "RBX"), 16).unwrap()
}

/// Makes the guest take one step. Each request for the task states presses a key for which the
/// guest takes a step, so the request is made once, and then the console is polled.
fn step(fixture: &mut Fixture) {
    let printed = |fixture: &Fixture| fixture.console().matches("step").count();
    let before = printed(fixture);
    fixture
        .machine
        .task_states(Duration::from_millis(1))
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while printed(fixture) == before {
        assert!(Instant::now() < deadline, "the guest takes no step");
        assert_eq!(
            fixture.machine.wait(Duration::from_millis(5)).unwrap(),
            None
        );
    }
}

fn memory(directory: &Path) -> Vec<u8> {
    let verified = saved::verify(directory, &monitor()).unwrap();
    assert_eq!(verified.base, None);
    assert!(verified.leftovers.is_empty());
    fs::read(verified.pages).unwrap()
}

/// Returns the number of pages that differ.
fn differing(one: &[u8], other: &[u8]) -> usize {
    assert_eq!(one.len(), other.len());
    let pages = one.chunks(PAGE).zip(other.chunks(PAGE));
    pages.filter(|(one, other)| one != other).count()
}

/// Starts a guest, and returns its memory as saved before it runs.
fn memory_of(saved: &Saved, begin: Start) -> Vec<u8> {
    let mut fixture = start(begin, false).unwrap().unwrap();
    let directory = saved.directory("again");
    fixture.machine.save_in(&directory).unwrap();
    memory(&directory)
}

#[test]
fn exactly_the_changed_pages_are_saved() {
    let Some(mut fixture) = begin() else {
        return;
    };
    let saved = Saved::new();
    let [base, changes, later, whole] =
        ["base", "changes", "later", "whole"].map(|name| saved.directory(name));
    fixture.machine.save_in(&base).unwrap();
    let before = memory(&base);
    let nothing = fixture.machine.save_changes(&changes).unwrap();
    assert_eq!((nothing.pages, nothing.of), (0, u64::from(MEMORY_MIB) << 8));

    let mut sizes = Vec::new();
    for directory in [&changes, &later] {
        fixture.machine.resume().unwrap();
        step(&mut fixture);
        let Changes { pages, .. } = fixture.machine.save_changes(directory).unwrap();
        let verified = saved::verify(directory, &monitor()).unwrap();
        let length = fs::metadata(verified.pages).unwrap().len();
        assert_eq!(length, pages * PAGE as u64);
        sizes.push(pages as usize);
    }
    fixture.machine.save_in(&whole).unwrap();
    let after = memory(&whole);
    drop(fixture);
    // The pages of the step, the page that becomes zeros, the device's page and three rings, and
    // the stack.
    assert!(
        (STEP_PAGES + 5..=STEP_PAGES + 6).contains(&sizes[0]),
        "{sizes:?}"
    );
    assert_eq!(sizes[1], sizes[0] + STEP_PAGES + 1);
    assert!(differing(&before, &after) > 2 * STEP_PAGES);
    assert_ne!(before[RANDOM..RANDOM + PAGE], after[RANDOM..RANDOM + PAGE]);

    assert_eq!(memory_of(&saved, Start::Saved(base.clone())), before);
    assert!(memory_of(&saved, changed(&base, &later)) == after);
    let first = memory_of(&saved, changed(&base, &changes));
    assert!(differing(&first, &after) > STEP_PAGES);
    assert!(differing(&first, &before) > STEP_PAGES);

    // A guest that starts from changes is compared with the same base, so it has more changes.
    let mut fixture = start(changed(&base, &later), true).unwrap().unwrap();
    step(&mut fixture);
    let third = saved.directory("third");
    let Changes { pages, .. } = fixture.machine.save_changes(&third).unwrap();
    assert_eq!(pages as usize, sizes[1] + STEP_PAGES + 1);
    fixture.machine.save_in(&whole).unwrap();
    assert!(memory_of(&saved, changed(&base, &third)) == memory(&whole));
    // From now on the guest is compared with that snapshot.
    assert_eq!(fixture.machine.save_changes(&third).unwrap().pages, 0);
}

#[test]
fn clones_start_from_changes() {
    let Some(mut fixture) = begin() else {
        return;
    };
    let saved = Saved::new();
    let [base, changes] = ["base", "changes"].map(|name| saved.directory(name));
    fixture.machine.save_in(&base).unwrap();
    fixture.machine.resume().unwrap();
    step(&mut fixture);
    fixture.machine.save_changes(&changes).unwrap();
    drop(fixture);
    let mut clones: Vec<_> = (0..3)
        .map(|_| start(changed(&base, &changes), false).unwrap().unwrap())
        .collect();
    let mut random = Vec::new();
    for (index, clone) in clones.iter_mut().enumerate() {
        step(clone);
        let directory = saved.directory(&format!("clone{index}"));
        clone.machine.save_in(&directory).unwrap();
        random.push(memory(&directory)[RANDOM..RANDOM + PAGE].to_vec());
        assert_eq!(steps(clone), 2);
    }
    random.sort();
    random.dedup();
    assert_eq!(
        random.len(),
        3,
        "clones have the same random numbers of a device"
    );
}

#[test]
fn mismatched_or_damaged_snapshots_are_refused() {
    let Some(mut fixture) = begin() else {
        return;
    };
    let saved = Saved::new();
    let [base, changes, other] = ["base", "changes", "other"].map(|name| saved.directory(name));
    fixture.machine.save_in(&base).unwrap();
    fixture.machine.resume().unwrap();
    step(&mut fixture);
    fixture.machine.save_changes(&changes).unwrap();
    let error = fixture.machine.save_changes(&base).unwrap_err();
    assert!(matches!(error, Error::OverBase { .. }), "{error}");
    fixture.machine.save_in(&other).unwrap();
    drop(fixture);

    let refusal = |begin: Start| start(begin, false).unwrap().err().expect("a refusal");
    let why = |begin: Start| match refusal(begin) {
        Error::NoSnapshot { why, .. } => why,
        error => panic!("{error}"),
    };
    assert!(why(Start::Saved(changes.clone())).contains("incremental snapshot and needs its base"));
    assert!(why(changed(&changes, &changes)).contains("incremental snapshot and needs its base"));
    assert!(why(changed(&other, &changes)).contains("base is not the snapshot in"));
    assert!(why(changed(&base, &other)).contains("complete snapshot"));
    let missing = refusal(changed(&saved.directory("empty"), &changes));
    assert!(matches!(missing, Error::File { .. }), "{missing}");

    // Flip one bit of each file, and truncate each by one byte.
    let pages = |directory: &Path| saved::verify(directory, &monitor()).unwrap().pages;
    let files = [
        base.join("state"),
        pages(&base),
        changes.join("state"),
        pages(&changes),
    ];
    for path in files {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().size();
        let mut byte = [0];
        file.read_exact_at(&mut byte, length / 2).unwrap();
        file.write_all_at(&[byte[0] ^ 4], length / 2).unwrap();
        assert!(
            why(changed(&base, &changes)).contains("damaged"),
            "{path:?}"
        );
        // After the original byte is written, the content is valid again, although the file's
        // modification time differs.
        file.write_all_at(&byte, length / 2).unwrap();
        drop(start(changed(&base, &changes), false).unwrap().unwrap());
        let mut last = [0];
        file.read_exact_at(&mut last, length - 1).unwrap();
        file.set_len(length - 1).unwrap();
        why(changed(&base, &changes));
        file.write_all_at(&last, length - 1).unwrap();
    }
    drop(start(changed(&base, &changes), false).unwrap().unwrap());
    fs::remove_file(pages(&base)).unwrap();
    let missing = refusal(changed(&base, &changes));
    assert!(matches!(missing, Error::File { .. }), "{missing}");
}

#[test]
fn changes_need_tracking_and_a_base() {
    let Some(untracked) = start(Start::Boot, false) else {
        return;
    };
    let saved = Saved::new();
    let directory = saved.directory("changes");
    let mut fixture = untracked.unwrap();
    fixture.wait_for("ready");
    let error = fixture.machine.save_changes(&directory).unwrap_err();
    assert!(matches!(error, Error::NotTracked), "{error}");
    let mut fixture = begin().unwrap();
    let error = fixture.machine.save_changes(&directory).unwrap_err();
    assert!(matches!(error, Error::NoBase), "{error}");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn qemu_does_not_support_changes() {
    let directory = tempfile::tempdir().unwrap();
    let spec = MachineSpec::new("/no/kernel", directory.path());
    let tracked = MachineSpec {
        track_changes: true,
        ..spec.clone()
    };
    let begun = MachineSpec {
        start: changed(directory.path(), directory.path()),
        ..spec
    };
    for spec in [tracked, begun] {
        let error = QemuMachine::start(&spec, &qemu::Options::default()).err();
        let error = error.expect("a refusal");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}
