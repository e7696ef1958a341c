// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Measures how fast guests start, with criterion, which keeps the figures of the last run and
//! reports the change since.
//!
//! It starts the contenders of `crucible speed`. That command runs its contenders in turn, but
//! criterion measures one contender completely before the next. So this file measures rounds of all
//! contenders, and hands the durations out to criterion. Criterion's estimate of its own running
//! time is therefore wrong: the first call for the first contender takes a whole round, and the
//! first calls for the others take no time. The reported durations of the starts are correct.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use serde_json::Value;

/// Criterion's least number of samples, and one start to warm up.
const ROUNDS: &str = "11";

/// Starts that were measured, by contender.
#[derive(Default)]
struct Pool(BTreeMap<String, VecDeque<Duration>>);

impl Pool {
    /// Returns the next start of `contender`; measures another round of all contenders if none is
    /// left.
    fn next(&mut self, contender: &str) -> Duration {
        loop {
            if let Some(start) = self.0.get_mut(contender).and_then(VecDeque::pop_front) {
                return start;
            }
            self.measure();
        }
    }

    fn measure(&mut self) {
        let output = Command::new(env!("CARGO_BIN_EXE_crucible"))
            .args(["speed", "--groups", "1", "--pairs", "0", "--json"])
            .args(["--rounds", ROUNDS])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(std::process::Stdio::inherit())
            .output()
            .expect("the binary that cargo has just built");
        assert!(output.status.success(), "crucible speed failed");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a JSON object");
        let samples = report["groups"][0]["samples"]
            .as_array()
            .expect("a list of samples");
        assert!(!samples.is_empty(), "crucible speed has measured nothing");
        for sample in samples {
            let contender = sample["contender"].as_str().expect("a contender");
            let micros = sample["micros"].as_u64().expect("a number");
            self.0
                .entry(contender.to_owned())
                .or_default()
                .push_back(Duration::from_micros(micros));
        }
    }
}

fn starts(criterion: &mut Criterion) {
    let pool = RefCell::new(Pool::default());
    let mut group = criterion.benchmark_group("start");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_nanos(1))
        .measurement_time(Duration::from_nanos(1));
    for contender in ["qemu-plain", "qemu", "crucible", "warm"] {
        group.bench_function(contender, |bencher| {
            bencher.iter_custom(|count| {
                let mut pool = pool.borrow_mut();
                (0..count).map(|_| pool.next(contender)).sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, starts);
criterion_main!(benches);
