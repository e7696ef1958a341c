// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The functions behind the fuzz targets of `fuzz/`. A panic, a long run time or a large use of
//! memory is a finding.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use crucible_engine::scenario::Scenario;
use crucible_protocol::image::damage::{Forged, put_together, take_apart};
use crucible_protocol::image::{Summary, samples};
use crucible_protocol::{Envelope, Reply, Request, frame, shown_json};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A target: its name, and the function that runs an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 3] = [("image", image), ("frame", frame), ("scenario", scenario)];

/// Reads a checkpoint image: the input itself, or records with valid checksums, which a fuzzer does
/// not find. In the second form each record is a byte with its type, one with its object's number,
/// two with the length of its payload, and the payload; a header and a trailer are added.
pub fn image(data: &[u8]) {
    let (size, summary) = match data.split_first() {
        Some((b'R', script)) => {
            let image = forged(script);
            (image.len(), Summary::read(image.as_slice()))
        }
        _ => (data.len(), Summary::read(data)),
    };
    let Ok(summary) = summary else { return };
    // The output is linear in the image's size: at most a path of the maximum length, spelled out,
    // for each mapping.
    let json = serde_json::to_string(&summary).expect("a summary as JSON");
    let json = shown_json(&json);
    assert!(json.len() <= 1000 * (size + 1000), "{}", json.len());
    assert!(!json.chars().any(char::is_control));
}

fn forged(mut script: &[u8]) -> Vec<u8> {
    let mut records = take_apart(samples::overflow().as_slice()).expect("a sample");
    records.truncate(1);
    while let Some((&[kind, objref, low, high], rest)) = script.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        records.push(Forged {
            kind: kind.into(),
            objref: objref.into(),
            payload: payload.to_vec(),
        });
        script = rest;
    }
    let count = records.len() as u64 + 1;
    records.push(Forged {
        kind: 4,
        objref: 0,
        payload: [count.to_le_bytes(), [0; 8]].concat(),
    });
    put_together(&records)
}

/// Returns the input of [`image`] for the records of this image.
pub fn script(image: &[u8]) -> Vec<u8> {
    let mut script = vec![b'R'];
    let records = take_apart(image).expect("an image");
    for record in &records[1..records.len() - 1] {
        let length = u16::try_from(record.payload.len()).expect("a short record");
        script.extend([record.kind as u8, record.objref as u8]);
        script.extend(length.to_le_bytes());
        script.extend(&record.payload);
    }
    script
}

/// Reads frames as the host and the agent do: from the input itself, and with the input as the
/// text of one frame.
pub fn frame(data: &[u8]) {
    frames::<Reply>(data);
    frames::<Request>(data);
}

fn frames<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let whole = [&(data.len() as u32).to_le_bytes(), data].concat();
    for mut from in [data, &whole] {
        while let Ok(message) = frame::read::<Envelope<T>>(&mut from) {
            // A message that was read can be sent, and is read again.
            let mut sent = Vec::new();
            frame::write(&mut sent, &message).expect("a frame");
            let again: Envelope<T> = frame::read(&mut sent.as_slice()).expect("the same frame");
            let text = |message| serde_json::to_string(message).expect("JSON");
            assert_eq!(text(&message), text(&again));
        }
    }
}

/// Reads the input as `scenario.toml`.
pub fn scenario(data: &[u8]) {
    // Use a file system in memory, because each input becomes a file.
    static DIRECTORY: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let directory = directory.expect("a directory");
        let file = directory.path().join("scenario.toml");
        (directory, file)
    });
    let (directory, file) = &*DIRECTORY;
    fs::write(file, data).expect("a file");
    match Scenario::load(directory.path()) {
        Ok(scenario) => assert!(!scenario.cases.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
