// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;
use crucible_protocol::TaskFacts;

fn with(facts: &[(&str, &str)]) -> Observation {
    let facts = facts
        .iter()
        .map(|(k, v)| (k.to_string(), (*v).into()))
        .collect();
    Observation {
        tasks: vec![TaskFacts {
            facts,
            ..TaskFacts::default()
        }],
    }
}

#[test]
fn pipes_keep_who_shares_with_whom() {
    let mut uses = Uses::new();
    let mut one = with(&[
        ("fd/3.link", "pipe:[77]"),
        ("fd/4.link", "pipe:[77]"),
        ("fd/5.link", "pipe:[80]"),
    ]);
    let mut two = with(&[
        ("fd/3.link", "pipe:[5]"),
        ("fd/4.link", "pipe:[5]"),
        ("fd/5.link", "pipe:[6]"),
    ]);
    let mut three = with(&[
        ("fd/3.link", "pipe:[5]"),
        ("fd/4.link", "pipe:[6]"),
        ("fd/5.link", "pipe:[6]"),
    ]);
    for o in [&mut one, &mut two, &mut three] {
        observation(o, &mut uses);
    }
    assert_eq!(one, two);
    assert_ne!(one, three);
    assert_eq!(uses[&Rule::PipeNumbers], 9);
    let links: Vec<_> = three.tasks[0].facts.values().collect();
    assert_eq!(links, ["pipe:<1>", "pipe:<2>", "pipe:<2>"]);
}

#[test]
fn namespaces_keep_which_tasks_share_one() {
    let task = |tid, mount: &str, users: &str| TaskFacts {
        tid,
        facts: BTreeMap::from([
            ("ns/mnt".to_owned(), mount.into()),
            ("ns/pid".to_owned(), "pid:[9]".into()),
            ("ns/user".to_owned(), users.into()),
        ]),
        ..TaskFacts::default()
    };
    let mut uses = Uses::new();
    let mut o = Observation {
        tasks: vec![
            task(1, "mnt:[5]", "user:[1]"),
            task(2, "mnt:[6]", "user:[1]"),
            task(3, "mnt:[5]", "EACCES"),
        ],
    };
    namespaces(&mut o, &mut uses);
    let of = |name: &str| -> Vec<_> {
        let facts = o.tasks.iter().map(|task| &task.facts[name]);
        facts.map(Fact::shown).collect()
    };
    assert_eq!(of("ns/mnt"), ["that of 1", "that of 2", "that of 1"]);
    assert_eq!(of("ns/pid"), ["that of 1"; 3]);
    assert_eq!(of("ns/user"), ["user:[1]", "user:[1]", "EACCES"]);
    assert_eq!(uses, Uses::from([(Rule::NamespaceNumbers, 6)]));
}

#[test]
fn a_counter_may_grow_by_what_a_restart_costs() {
    let (name, other) = ("stat.minflt", "stat.flags");
    let after = |was: &str, is: &str| {
        let mut uses = Uses::new();
        let mut after = with(&[(name, is), (other, is)]);
        counters(&with(&[(name, was), (other, was)]), &mut after, &mut uses);
        let facts = &after.tasks[0].facts;
        assert_eq!(facts[other].shown(), is, "a fact that is no counter");
        let used = uses.get(&Rule::Counters).copied().unwrap_or_default();
        (facts[name].shown().to_string(), used)
    };
    let found = |value: &str, uses| (value.to_owned(), uses);
    assert_eq!(after("900", "950"), found("900", 1));
    assert_eq!(after("10", "1010"), found("10", 1));
    assert_eq!(after("10", "1011"), found("1011", 0));
    assert_eq!(after("10", "10"), found("10", 0));
    assert_eq!(after("10", "9"), found("9", 0));
    assert_eq!(after("none", "9"), found("9", 0));
}

#[test]
fn a_counter_is_compared_with_that_of_the_same_task() {
    let task = |tid, faults: &str| TaskFacts {
        tid,
        facts: BTreeMap::from([("stat.minflt".to_owned(), faults.into())]),
        ..TaskFacts::default()
    };
    let of = |tasks| Observation { tasks };
    let mut after = of(vec![task(1, "105"), task(2, "9"), task(3, "9")]);
    let before = of(vec![task(2, "8"), task(1, "100")]);
    counters(&before, &mut after, &mut Uses::new());
    let expected = vec![task(1, "100"), task(2, "8"), task(3, "9")];
    assert_eq!(after, of(expected));
}

#[test]
fn only_links_to_pipes_and_sockets_are_renumbered() {
    let facts = [
        ("fd/3.link", "/work/pipe:[77]"),
        ("fd/4.note", "pipe:[77]"),
        ("fd/5.link", "socket:[8]"),
    ];
    let mut uses = Uses::new();
    let mut o = with(&facts);
    observation(&mut o, &mut uses);
    let found: Vec<_> = o.tasks[0].facts.values().collect();
    assert_eq!(found, ["/work/pipe:[77]", "pipe:[77]", "socket:<1>"]);
    assert_eq!(uses, Uses::from([(Rule::PipeNumbers, 1)]));
}

#[test]
fn every_rule_is_found_by_its_name_and_its_former_one() {
    for &rule in Rule::ALL {
        assert_eq!(Rule::by_name(rule.name()), Some(rule));
        let json = serde_json::to_string(&rule).unwrap();
        assert_eq!(json, format!("\"{}\"", rule.name()));
    }
    for (name, rule) in [
        ("nameless-inodes", Rule::UnlinkedInodes),
        ("zombie-remains", Rule::ZombieState),
        ("timers-run-out", Rule::ExpiredTimers),
    ] {
        assert_eq!(Rule::by_name(name), Some(rule));
    }
    assert_eq!(Rule::by_name("no-such-rule"), None);
}

#[test]
fn each_rule_says_what_it_ignores() {
    let all: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|r| r.ignores()).collect();
    assert_eq!(all.len(), Rule::ALL.len());
}

#[test]
fn rules_for_logs_are_those_that_a_scenario_names() {
    let (logs, others): (Vec<Rule>, Vec<Rule>) = Rule::ALL.iter().partition(|r| r.is_for_logs());
    assert_eq!(others.last(), Some(&Rule::StartTimes));
    assert_eq!(logs.first(), Some(&Rule::StracePids));
    assert_eq!(others, Rule::ALL[..others.len()]);
}

#[test]
fn only_long_hexadecimal_numbers_are_addresses() {
    let text = "at 0x7ffd1234567, flags 0x80, 12345678\n";
    assert_eq!(addresses(text), "at <address>, flags 0x80, 12345678\n");
}

#[test]
fn what_criu_changes_by_design_is_left_out() {
    let mut uses = Uses::new();
    let mut o = with(&[
        ("syscall", "0"),
        ("ns/time", "1"),
        ("smaps", "3"),
        ("ns/pid", "2"),
    ]);
    let second = o.tasks[0].clone();
    o.tasks.push(second);
    criu(&mut o, &mut uses);
    for task in &o.tasks {
        assert_eq!(task.facts.keys().collect::<Vec<_>>(), ["ns/pid"]);
    }
    let all = [
        (Rule::CriuSystemCall, 2),
        (Rule::CriuTimeNamespace, 2),
        (Rule::CriuTraces, 2),
    ];
    assert_eq!(uses, Uses::from(all));
    criu(&mut o, &mut uses);
    assert_eq!(uses, Uses::from(all));
}

#[test]
fn only_nameless_mappings_lose_their_inode() {
    let mut uses = Uses::new();
    let maps = "1000-2000 rw-s 00000000 00:01 1031   /dev/zero (deleted)\n\
                3000-4000 r--p 00000000 00:12 7  /bin/sh\n\
                5000-6000 rw-s 00000000 00:01 1032   /dev/zero (deleted)\n\
                7000-8000 rw-s 00000000 00:01 1031   /dev/zero (deleted)";
    let mut o = with(&[("maps", maps)]);
    observation(&mut o, &mut uses);
    let lines: Vec<_> = o.tasks[0].facts["maps"]
        .shown()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(
        lines,
        [
            "1000-2000 rw-s 00000000 <1> /dev/zero (deleted)",
            "3000-4000 r--p 00000000 00:12 7  /bin/sh",
            "5000-6000 rw-s 00000000 <2> /dev/zero (deleted)",
            "7000-8000 rw-s 00000000 <1> /dev/zero (deleted)",
        ]
    );
    assert_eq!(uses[&Rule::UnlinkedInodes], 3);
}

#[test]
fn a_zombie_keeps_its_exit_code_only() {
    let mut uses = Uses::new();
    let facts = [
        ("stat.exit_code", "7"),
        ("status.SigBlk", "ff"),
        ("status.SigPnd", "ff"),
    ];
    let mut o = with(&facts);
    o.tasks[0].state = 'Z';
    o.tasks.push(with(&facts).tasks.remove(0));
    observation(&mut o, &mut uses);
    let kept: Vec<_> = o.tasks[0].facts.keys().collect();
    assert_eq!(kept, ["stat.exit_code"]);
    assert_eq!(o.tasks[1].facts.len(), 3, "it is alive");
    assert_eq!(uses[&Rule::ZombieState], 2);
}

#[test]
fn when_a_task_began_is_a_fact_unless_the_rule_is_used() {
    let (one, two) = (
        with(&[("stat.starttime", "70"), ("stat.nice", "0")]),
        with(&[("stat.starttime", "90"), ("stat.nice", "0")]),
    );
    let mut uses = Uses::new();
    let (mut before, mut after) = (one.clone(), two.clone());
    observation(&mut before, &mut uses);
    observation(&mut after, &mut uses);
    assert_ne!(before, after);
    start_times(&mut before, &mut uses);
    start_times(&mut after, &mut uses);
    assert_eq!(before, after);
    assert_eq!(before.tasks[0].facts.len(), 1);
    assert_eq!(uses[&Rule::StartTimes], 2);
}

#[test]
fn only_what_a_timer_can_have_sent_may_pend_since() {
    let timers_fact = "ID: 0\nsignal: 40/0000000000000007\nnotify: signal/pid.2\nClockID: 1\n";
    let pends = |mask: &str| with(&[("status.ShdPnd", mask), ("timers", timers_fact)]);
    let threads = |mask: &str| {
        let mut both = pends(mask);
        let mut thread = both.tasks[0].clone();
        thread.tid = 1;
        thread.facts.remove("timers");
        both.tasks.push(thread);
        both
    };
    let pends = threads;
    let before = pends("0000004c00000000");
    let mut uses = Uses::new();
    let mut after = pends("000000cc00000000");
    timers(&before, &mut after, &mut uses);
    assert_eq!(after, before);
    assert_eq!(uses[&Rule::ExpiredTimers], 2);
    // A signal that no timer sends, and a lost signal.
    for mask in ["0000005c00000000", "0000004800000000"] {
        let mut after = pends(mask);
        timers(&before, &mut after, &mut uses);
        assert_eq!(after, pends(mask));
    }
}

#[test]
fn the_timers_of_a_process_whose_leader_is_dead_are_a_fact_of_its_thread() {
    let of = |mask: &str| {
        let mut tree = with(&[]);
        tree.tasks[0].tid = 1;
        let thread = [
            ("status.SigPnd", mask),
            ("timers", "signal: 10/0000000000000007\n"),
        ];
        tree.tasks.extend(with(&thread).tasks);
        tree.tasks[1].tid = 2;
        tree.tasks.iter_mut().for_each(|task| task.pid = 1);
        tree
    };
    let (before, mut after, mut uses) =
        (of("0000000000000000"), of("0000000000000200"), Uses::new());
    timers(&before, &mut after, &mut uses);
    assert_eq!(after, before);
    assert_eq!(uses[&Rule::ExpiredTimers], 1);
}

#[test]
fn a_process_has_its_own_timers_and_sigalrm_without_any() {
    let task = |tid, mask: &str, timers: &str| {
        let mut task = with(&[("status.SigPnd", mask), ("timers", timers)])
            .tasks
            .remove(0);
        (task.pid, task.tid) = (tid, tid);
        task
    };
    let signal = |number| format!("signal: {number}/0000000000000007\n");
    let usr1 = signal(10);
    // SIGUSR1 is 0x200, SIGALRM 0x2000.
    let tree = |one: &str, two: &str| Observation {
        tasks: vec![task(1, one, &usr1), task(2, two, "")],
    };
    let before = tree("0000000000000000", "0000000000000000");
    let mut uses = Uses::new();
    let mut after = tree("0000000000002200", "0000000000002200");
    timers(&before, &mut after, &mut uses);
    assert_eq!(after, tree("0000000000000000", "0000000000000200"));
    assert_eq!(uses[&Rule::ExpiredTimers], 3);
    // A signal that was pending before stays pending, and an unused rule is not listed.
    let before = tree("0000000000000200", "0000000000000000");
    let mut uses = Uses::new();
    let mut after = before.clone();
    timers(&before, &mut after, &mut uses);
    assert_eq!(after, before);
    assert_eq!(uses, Uses::new());
    // A new task and a task without masks are left alone.
    let mut after = Observation {
        tasks: vec![task(3, "0000000000002000", "")],
    };
    let unknown = after.clone();
    timers(&before, &mut after, &mut uses);
    assert_eq!(after, unknown);
}

#[test]
fn signals_of_timers_make_a_mask() {
    let alarm = 1 << 13;
    assert_eq!(timer_signals(""), alarm);
    let twice = "signal: 1/0\nsignal: 64/0\nsignal: 64/7\nsignal: 14/0\n";
    assert_eq!(timer_signals(twice), alarm | 1 | 1 << 63);
    let none = "ID: 3\nsignal: 0/0\nsignal: 65/0\nsignal: x/0\n";
    assert_eq!(timer_signals(none), alarm);
}

#[test]
fn a_text_without_the_nonce_is_left_alone() {
    let mut uses = Uses::new();
    assert_eq!(nonce("a 77", "78", &mut uses), "a 77");
    assert_eq!(nonce("a 77", "", &mut uses), "a 77");
    assert_eq!(uses, Uses::new());
}

#[test]
fn a_nonce_is_replaced_wherever_it_stands() {
    let mut uses = Uses::new();
    assert_eq!(nonce("a 77\nb 77", "77", &mut uses), "a <nonce>\nb <nonce>");
    assert_eq!(uses[&Rule::Nonce], 2);
}
