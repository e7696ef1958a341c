// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page of a night: its size, its time, and its handling of hostile text.

use std::fs;
use std::path::Path;

use crucible_history::{Metric, Night, Planned, ResultRow, Shard, Store, TestId};
use crucible_report::Page;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tempfile::TempDir;

const VARIANTS: [&str; 4] = [
    "crucible/base/kvm",
    "crucible/base/qemu",
    "crucible/debug/qemu",
    "criu/base/qemu",
];

/// Text that a guest may print.
const HOSTILE: &str = "</pre><script>alert(1)</script>\u{1b}[2J\u{7}\"'&\u{202e}\u{0}";

struct History {
    directory: TempDir,
    store: Store,
}

fn test(name: &str, variant: &str) -> TestId {
    TestId {
        name: name.into(),
        variant: variant.into(),
    }
}

/// Returns a result; `failed` has a signature.
fn row(night: &str, test: &TestId, attempt: u32, failed: Option<&str>) -> ResultRow {
    let condition = if failed.is_some() {
        "diverged"
    } else {
        "passed"
    };
    let text = |text: &str| failed.map_or(String::new(), |_| text.to_owned());
    ResultRow {
        night: night.into(),
        test: test.clone(),
        attempt,
        time: "2026-01-01T00:00:00Z".into(),
        ms: 1_234,
        condition: condition.into(),
        verdict: if failed.is_some() { "diverged" } else { "pass" }.into(),
        blame: text("kernel"),
        signature: failed.unwrap_or_default().into(),
        why: text("stdout"),
        kernel: "k".into(),
        harness: "h".into(),
        directory: failed.map_or(String::new(), |_| format!("nights/{night}/runs/x")),
        metrics: vec![Metric {
            name: "restart".into(),
            value: 1e8 + f64::from(attempt),
            unit: "instructions".into(),
        }],
    }
}

impl History {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("history.sqlite")).unwrap();
        Self { directory, store }
    }

    fn night(&mut self, id: &str, tests: &[TestId], rows: &[ResultRow]) {
        let night = Night {
            id: id.into(),
            plan: "p".into(),
            shards: 1,
        };
        let planned = tests.iter().map(|test| Planned {
            test: test.clone(),
            shard: 1,
        });
        self.store
            .plan(&night, &planned.collect::<Vec<_>>())
            .unwrap();
        let shard = Shard {
            night: id.into(),
            number: 1,
            process: "p".into(),
            started: "2026-01-01T00:00:00Z".into(),
            finished: Some("2026-01-01T01:00:00Z".into()),
            provenance: "{}".into(),
        };
        self.store.shard(&shard).unwrap();
        self.store.add_all(rows).unwrap();
    }

    fn page(&self, night: &str) -> String {
        let root = self.directory.path();
        let beside = root.join("nights").join(night);
        Page::of(&self.store, night, root, &beside).unwrap().html()
    }

    /// Writes the record of a failing run.
    fn record(&self, night: &str, key: &str, lines: &[&str]) {
        let run = self
            .directory
            .path()
            .join(format!("nights/{night}/runs/x/run-1"));
        fs::create_dir_all(run.join("machine-1")).unwrap();
        fs::create_dir_all(run.join("cases/vfork/main")).unwrap();
        fs::write(run.join("machine-1/console.log"), "").unwrap();
        fs::write(run.join("cases/vfork/main/image"), "").unwrap();
        let record = json!({
            "reproduce": "crucible scenario vfork",
            "units": [{
                "key": key,
                "verdict": "diverged",
                "why": "restarted = control: stdout",
                "lines": lines,
                "frozen": { "tid": 5, "count": 1, "tasks": [
                    { "pid": 5, "tid": 5, "comm": if lines[0] == HOSTILE { HOSTILE } else { "vfork" }, "state": "S", "site": "vfork" },
                ] },
                "console": "machine-1/console.log",
                "files": ["cases/vfork/main/image", "../../../../secret", "/etc/passwd"],
            }],
        });
        fs::write(run.join("record.json"), record.to_string()).unwrap();
    }
}

/// Returns the CPU time of this thread in seconds: other processes use the host, too.
fn seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

#[test]
fn five_hundred_tests_of_ninety_nights_are_a_small_page_soon() {
    let mut history = History::new();
    let names = (0..125).map(|it| format!("scenario a-scenario-{it}/a-case-with-a-name"));
    let tests: Vec<_> = names
        .flat_map(|name| VARIANTS.map(|variant| test(&name, variant)))
        .collect();
    assert_eq!(tests.len(), 500);
    for number in 0..90_usize {
        let night = format!("2026-{:02}-{:02}", number / 28 + 1, number % 28 + 1);
        // Every tenth test changes in each night.
        let failed = |at: usize| {
            (at.is_multiple_of(10) && (number + at / 10).is_multiple_of(2)).then_some("diverged")
        };
        let rows = tests.iter().enumerate();
        let rows: Vec<_> = rows
            .map(|(at, test)| row(&night, test, 1, failed(at)))
            .collect();
        history.night(&night, &tests, &rows);
    }
    let began = seconds();
    let page = history.page("2026-04-06");
    let took = seconds() - began;
    println!("{} bytes in {took:.2} s", page.len());
    assert!(page.len() <= 1_000_000, "{} bytes", page.len());
    assert!(took < 2.0, "{took} s");
    assert!(page.matches("<svg class=\"n\"").count() >= 500);
}

/// Further scenarios, whose results do not change.
const QUIET: [&str; 12] = [
    "clocks",
    "cow",
    "exceptions",
    "gdb",
    "hello",
    "inotify",
    "mappings",
    "pipeline",
    "session",
    "sockets",
    "strace",
    "threads",
];

/// Returns the page of a night with each kind of result. `said` is the output of a guest.
fn eventful(said: &str) -> (History, String) {
    let mut history = History::new();
    let of = |name: &str| test(&format!("scenario {name}/main"), "crucible/base/qemu");
    let [new, fixed, flaky, missing] = ["vfork", "signals", "terminal", "tree"].map(of);
    let names = QUIET.map(|name| format!("scenario {name}/main"));
    let quiet = names.iter();
    let quiet: Vec<_> = quiet
        .flat_map(|name| VARIANTS.map(|variant| test(name, variant)))
        .collect();
    let mut tests = vec![new.clone(), fixed.clone(), flaky.clone(), missing];
    tests.extend(quiet.clone());
    let signature = format!("diverged at {said}");
    for number in 1..=20 {
        let night = format!("n{number:02}");
        let last = number == 20;
        let mut rows = Vec::new();
        for attempt in 1..=5 {
            let new_fails = last.then_some(&*signature);
            let flakes = number > 15 && attempt == 2;
            let flake = flakes.then_some("refused at open");
            rows.push(row(&night, &new, attempt, new_fails));
            rows.push(row(&night, &fixed, attempt, (!last).then_some("hang")));
            rows.push(row(&night, &flaky, attempt, flake));
        }
        let ours = quiet
            .iter()
            .filter(|test| number > 8 || !test.is_comparison());
        rows.extend(ours.map(|test| row(&night, test, 1, None)));
        for point in 1..=6 {
            let name = format!("sweep vfork/main/{}:syscall-entry:{point}", number % 4 + 1);
            let hangs = (last && point == 2).then_some("hang");
            rows.push(row(&night, &test(&name, "crucible/base/qemu"), 1, hangs));
        }
        history.night(&night, &tests, &rows);
    }
    let lines = [
        said,
        "stdout differs",
        "  - wait returned 1234",
        "  + wait returned -1",
    ];
    history.record("n20", "vfork/main", &lines);
    let page = history.page("n20");
    (history, page)
}

/// Returns the part of the page between two anchors.
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page.find(&format!("<h2 id=\"{id}\"")).expect(id);
    let rest = &page[start..];
    &rest[..rest.find("</section>").expect("an end")]
}

#[test]
fn the_first_screen_tells_what_has_changed() {
    let (history, page) = eventful("restarted = control: stdout");
    // `tools/page-check` checks this file.
    fs::write(
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("night.html"),
        &page,
    )
    .unwrap();
    assert!(
        section(&page, "new").contains("scenario vfork/main"),
        "{page}"
    );
    assert!(section(&page, "new").contains("5 of 5 runs failed"));
    assert!(section(&page, "fixed").contains("scenario signals/main"));
    assert!(section(&page, "flaky").contains("scenario terminal/main"));
    assert!(section(&page, "flaky").contains("% since it began"));
    assert!(section(&page, "not-run").contains("scenario tree/main"));
    assert!(section(&page, "maps").contains("1:syscall-entry:2: hang"));
    assert!(section(&page, "trends").contains("instructions"));
    // The sections come before everything else, and the evidence is in the page's directory.
    assert!(page.find("id=\"new\"") < page.find("id=\"tests\""));
    for file in [
        "machine-1/console.log",
        "cases/vfork/main/image",
        "record.json",
    ] {
        let link = format!("href=\"runs/x/run-1/{file}\"");
        assert!(page.contains(&link), "{link}: {page}");
        let night = history.directory.path().join("nights/n20");
        assert!(Path::exists(&night.join("runs/x/run-1").join(file)));
    }
    for wrong in ["secret", "passwd"] {
        assert!(!page.contains(wrong), "{wrong}");
    }
}

#[test]
fn what_a_guest_printed_is_only_text() {
    let (_history, page) = eventful(HOSTILE);
    assert!(
        page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{page}"
    );
    for wrong in ["<script", "\u{1b}", "\u{7}", "\u{0}", "\u{202e}"] {
        assert!(!page.contains(wrong), "{wrong:?}");
    }
    // The page loads no file and runs no script.
    for wrong in ["http:", "https:", "src=", "javascript", " on"] {
        let tags = page.split('<').filter_map(|tag| tag.split_once('>'));
        let with = tags
            .map(|(tag, _)| tag)
            .find(|tag| tag.contains(wrong) && !tag.contains("title="));
        assert_eq!(with, None, "{wrong}");
    }
    assert!(page.contains("default-src 'none'"));
}
