// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The readers of the formats that results are written in.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The readers.
const PACKAGES: [&str; 3] = ["jsonschema==4.26.0", "junitparser==5.0.3", "kcidb-io==141"];

/// Returns a Python with the readers of our formats, in a virtual environment below `target/`.
pub fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/formats");
    let python = venv.join("bin/python");
    // Tests of one program run at the same time, and several programs may.
    fs::create_dir_all(venv.parent().expect("a parent")).expect("a directory");
    let lock = File::create(venv.with_extension("lock")).expect("a lock file");
    lock.lock().expect("the lock");
    let ready = venv.join("ready");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&ready).unwrap_or_default() != wanted {
        output(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
        output(pip.arg("install").args(PACKAGES));
        fs::write(ready, wanted).expect("a mark");
    }
    python
}

/// Runs a program that must succeed. Returns its output.
pub fn output(command: &mut Command) -> String {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Returns the output of the kernel's own parser for a file.
pub fn kunit(file: &Path) -> String {
    let fixture = super::fixture();
    let source = fixture.cache.root().join("kernel-source");
    let parser = fs::read_dir(&source)
        .expect("a kernel's source")
        .flatten()
        .map(|entry| entry.path().join("linux/tools/testing/kunit/kunit.py"))
        .find(|path| path.is_file())
        .expect("the kernel's parser");
    let parsed = Command::new("python3")
        .arg(parser)
        .arg("parse")
        .arg(file)
        .output()
        .expect("Python");
    assert!(parsed.stderr.is_empty(), "{parsed:?}");
    String::from_utf8_lossy(&parsed.stdout).into_owned()
}
