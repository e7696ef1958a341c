// SPDX-License-Identifier: Apache-2.0 OR MIT
use super::*;

/// A small generator of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn chance(&mut self, probability: f64) -> bool {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (number as f64) < probability * (1_u64 << 53) as f64
    }
}

fn id() -> TestId {
    TestId {
        name: "scenario vfork/main".into(),
        variant: "crucible/base/qemu".into(),
    }
}

fn night(number: usize) -> String {
    format!("n{number:03}")
}

fn row(number: usize, attempt: u32, failed: bool) -> ResultRow {
    let text = |bad: &str, good: &str| if failed { bad } else { good }.to_owned();
    ResultRow {
        night: night(number),
        test: id(),
        attempt,
        time: String::new(),
        ms: 1,
        condition: text("diverged", "passed"),
        verdict: text("diverged", "pass"),
        blame: text("kernel", ""),
        signature: text("diverged at stdout", ""),
        why: String::new(),
        kernel: String::new(),
        harness: String::new(),
        directory: text("20260101-vfork", ""),
        metrics: Vec::new(),
    }
}

/// Nights with these numbers of runs and failures each.
fn rows(nights: &[(u32, u32)]) -> Vec<ResultRow> {
    let nights = nights.iter().enumerate();
    nights
        .flat_map(|(number, &(runs, failures))| {
            (0..runs).map(move |run| row(number, run + 1, run < failures))
        })
        .collect()
}

fn planned() -> [Planned; 1] {
    [Planned {
        test: id(),
        shard: 1,
    }]
}

/// Returns the judgement of the last of these nights.
fn last(nights: &[(u32, u32)]) -> Judgement {
    let results = rows(nights);
    let judged = judge(&night(nights.len() - 1), &planned(), &[], &results);
    assert_eq!(judged.len(), 1);
    judged[0].clone()
}

#[test]
fn a_full_break_is_a_regression_in_its_first_night() {
    let mut nights = vec![(1, 0); 10];
    nights.push((5, 5));
    let judged = last(&nights);
    assert_eq!(
        (judged.change, judged.status),
        (Change::Regressed, Status::Failing)
    );
    assert_eq!(judged.since, Some((night(10), night(10))));
    assert_eq!(judged.last_good, Some(night(9)));
    assert_eq!(judged.why, "diverged at stdout");
    assert_eq!(judged.directory, "20260101-vfork");
    // It is new once only.
    nights.push((5, 5));
    let judged = last(&nights);
    assert_eq!(judged.change, Change::StillFailing);
    assert_eq!(judged.since, Some((night(10), night(10))));
    assert_eq!(judged.last_good, Some(night(9)));
    // The regression is closed when the test passes again.
    nights.push((1, 0));
    nights.push((1, 0));
    nights.push((1, 0));
    nights.push((1, 0));
    let closed: Vec<_> = (12..nights.len())
        .map(|end| last(&nights[..=end]).change)
        .collect();
    let fixed = closed
        .iter()
        .filter(|change| **change == Change::Fixed)
        .count();
    assert_eq!(fixed, 1, "{closed:?}");
    assert_eq!(closed.last(), Some(&Change::StillPassing));
}

#[test]
fn a_test_that_fails_from_the_start_has_no_beginning() {
    let judged = last(&[(1, 1)]);
    assert_eq!((judged.change, judged.since), (Change::Regressed, None));
    let judged = last(&[(1, 1), (1, 1)]);
    assert_eq!((judged.change, judged.since), (Change::StillFailing, None));
    assert_eq!(judged.last_good, None);
}

#[test]
fn retries_tell_a_flake_from_a_break() {
    let mut nights = vec![(1, 0); 10];
    nights.push((5, 1));
    let judged = last(&nights);
    assert_eq!(
        (judged.change, judged.status),
        (Change::TurnedFlaky, Status::Flaky)
    );
    nights.push((1, 0));
    assert_eq!(last(&nights).change, Change::StillFlaky);
}

/// Over many seeds: a flake of 5 % is found within ten nights of 20 runs, and the night in which
/// it begins is in the stated range about as often as stated.
#[test]
fn a_flake_is_named_with_the_nights_in_which_it_began() {
    const SEEDS: u64 = 200;
    let begins = 15;
    let (mut named, mut within, mut in_range) = (0, 0, 0);
    for seed in 1..=SEEDS {
        let mut random = Random(seed * 7919);
        let mut nights = Vec::new();
        let mut first = None;
        for number in 0..begins + 10 {
            let rate = if number < begins { 0.0 } else { 0.05 };
            let failures = (0..20).filter(|_| random.chance(rate)).count() as u32;
            nights.push((20, failures));
            if first.is_none() && last(&nights).status == Status::Flaky {
                first = Some(number);
            }
        }
        let judged = last(&nights);
        let rate = judged.rate;
        assert!(rate < 0.2, "{rate}");
        within += u64::from(first.is_some_and(|night| (begins..begins + 10).contains(&night)));
        if let (Status::Flaky, Some((from, to))) = (judged.status, judged.since) {
            named += 1;
            in_range += u64::from(from <= night(begins) && night(begins) <= to);
        }
    }
    assert!(within >= SEEDS * 99 / 100, "{within}");
    assert!(named >= SEEDS * 9 / 10, "{named}");
    assert!(in_range * 100 >= named * 85, "{in_range} of {named}");
}

#[test]
fn trouble_of_the_host_is_nobodys_failure() {
    let mut results = rows(&[(1, 0), (1, 0)]);
    for number in 2..102 {
        let mut trouble = row(number, 1, false);
        trouble.condition = "host-killed".into();
        trouble.verdict = "unknown".into();
        trouble.blame = "host".into();
        trouble.why = "a signal from outside".into();
        results.push(trouble);
        let judged = judge(&night(number), &planned(), &[], &results);
        assert_eq!(judged[0].change, Change::NotRun);
        assert_eq!(judged[0].why, "host-killed: a signal from outside");
        assert!(!judged[0].change.is_bad());
    }
    // The next good night is not reported as new.
    results.push(row(102, 1, false));
    let judged = judge(&night(102), &planned(), &[], &results);
    assert_eq!(judged[0].change, Change::StillPassing);
}

#[test]
fn a_test_that_was_left_out_says_why() {
    let skipped = [Skipped {
        test: id(),
        reason: "the budget is used up".into(),
    }];
    let judged = judge("n9", &planned(), &skipped, &[]);
    assert_eq!(
        (judged[0].change, judged[0].status),
        (Change::NotRun, Status::Unknown)
    );
    assert_eq!(judged[0].why, "the budget is used up");
    let judged = judge("n9", &planned(), &[], &[]);
    assert_eq!(judged[0].why, "it has no result");
    // A later night does not change the judgement of an earlier one.
    let later = rows(&[(1, 0), (1, 1)]);
    let judged = judge(&night(0), &planned(), &[], &later);
    assert_eq!(judged[0].status, Status::Passing);
}

#[test]
fn the_most_important_comes_first() {
    let mut results = rows(&[(1, 0), (1, 1)]);
    let mut other = row(1, 1, false);
    other.test.name = "a".into();
    results.push(other);
    let judged = judge(&night(1), &planned(), &[], &results);
    let changes: Vec<_> = judged.iter().map(|it| it.change).collect();
    assert_eq!(changes, [Change::Regressed, Change::StillPassing]);
}

/// A test that was broken for a night and passes as often as it failed then is fixed; a flake that
/// was seen once, and not in the month after, is still one.
#[test]
fn what_is_mended_is_told_from_what_was_not_seen_for_a_while() {
    let mut nights = vec![(1, 0); 8];
    nights.extend([(5, 5), (5, 0)]);
    assert_eq!(last(&nights).change, Change::Fixed);
    let mut nights = vec![(1, 0); 8];
    nights.push((5, 1));
    nights.extend(vec![(1, 0); 30]);
    assert_eq!(last(&nights).change, Change::StillFlaky);
    nights.extend(vec![(20, 0); 30]);
    assert_eq!(last(&nights).status, Status::Passing);
}
