// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The setting in which a failure is most frequent: the choice, its factor, and the time for it.

mod common;

use std::collections::HashMap;

use common::{row, runs, signature};
use crucible_bisect::{
    Answer, Built, Journal, Observation, Offer, Options, Report, Seen, Setting, Stop, Subject,
    Visit, bisect,
};
use crucible_engine::Condition;

/// The number of the bad end; the nodes from 2 on fail.
const BAD: usize = 3;

/// Seconds of the start of a guest.
const ENTER: f64 = 2.0;

/// The result of a run, by its node, its setting, and its number among their runs.
type Show = Box<dyn Fn(usize, &Setting, u64) -> Seen>;

/// A bug that shows at different rates in different settings.
struct Bug {
    show: Show,
    /// Duration of a run in seconds.
    takes: fn(&Setting) -> f64,
    counts: HashMap<(usize, Setting), u64>,
    /// Seconds of all visits in other settings than the usual one, and of the offers.
    spent: f64,
    offers: u64,
    /// Number of runs after which the search is killed.
    fuse: Option<u64>,
    /// Number of offers that lack the events, since the guest fails that lists them.
    unlucky: u64,
    /// Settings in which nothing boots.
    unbootable: fn(&Setting) -> bool,
}

fn usual() -> Setting {
    Setting {
        case: "pipeline/main".into(),
        ..Setting::default()
    }
}

/// Returns true for `fail` of each ten runs.
fn of_ten(count: u64, fail: u64) -> bool {
    (count * 7) % 10 < fail
}

/// Returns a bug with these numbers of failures in ten runs of a setting.
fn bug(fail: impl Fn(&Setting) -> u64 + 'static) -> Bug {
    Bug {
        show: Box::new(move |node, setting, count| {
            match node >= 2 && of_ten(count, fail(setting)) {
                true => Seen::Failed(signature("stdout")),
                false => Seen::Pass,
            }
        }),
        takes: |_| 1.0,
        counts: HashMap::new(),
        spent: 0.0,
        offers: 0,
        fuse: None,
        unlucky: 0,
        unbootable: |_| false,
    }
}

impl Subject for Bug {
    fn inputs(&mut self, node: usize) -> Result<Option<String>, Stop> {
        Ok(Some(node.to_string()))
    }

    fn build(&mut self, node: usize) -> Result<Built, Stop> {
        Ok(Built::Image {
            image: node.to_string(),
            seconds: 9.0,
        })
    }

    fn run(
        &mut self,
        node: usize,
        setting: &Setting,
        see: &mut dyn FnMut(Observation) -> bool,
    ) -> Result<Visit, Stop> {
        let mut visit = Visit {
            enter: ENTER,
            ..Visit::default()
        };
        if *setting != usual() {
            self.spent += ENTER;
        }
        if (self.unbootable)(setting) {
            visit.unbootable = Some("no second CPU".into());
            return Ok(visit);
        }
        runs(see, || {
            if let Some(left) = &mut self.fuse {
                if *left == 0 {
                    return Err(Stop::new(Condition::HostKilled, "killed"));
                }
                *left -= 1;
            }
            let count = self.counts.entry((node, setting.clone())).or_default();
            *count += 1;
            let seconds = (self.takes)(setting);
            if *setting != usual() {
                self.spent += seconds;
            }
            Ok(Observation {
                seen: (self.show)(node, setting, *count),
                seconds,
                lines: Vec::new(),
            })
        })?;
        Ok(visit)
    }

    fn usual(&self) -> Vec<Setting> {
        vec![usual()]
    }

    fn amplifies(&self) -> bool {
        true
    }

    /// Returns the settings that differ from this one in one property, which has its usual value
    /// here.
    fn others(&mut self, node: usize, setting: &Setting) -> Result<Offer, Stop> {
        assert_eq!(node, BAD);
        self.offers += 1;
        self.spent += 3.0;
        let mut settings = Vec::new();
        let mut offer = |is_usual: bool, change: &dyn Fn(&mut Setting)| {
            let mut other = setting.clone();
            change(&mut other);
            settings.extend(is_usual.then_some(other));
        };
        offer(setting.vcpus == 1, &|it| it.vcpus = 2);
        offer(setting.load == 0, &|it| it.load = 2);
        offer(setting.chain == 1, &|it| it.chain = 4);
        let is_partial = self.unlucky > 0;
        self.unlucky -= u64::from(is_partial);
        for event in ["all:@2:3", "all:@2:9"] {
            let is_offered = setting.at.is_none() && !is_partial;
            offer(is_offered, &|it| it.at = Some(event.into()));
        }
        Ok(Offer {
            settings,
            seconds: 3.0,
            is_partial,
        })
    }
}

fn search(bug: &mut Bug, journal: &mut Journal, seconds: f64) -> Result<Report, Stop> {
    let options = Options {
        amplify_seconds: seconds,
        ..Options::default()
    };
    bisect(bug, &row(BAD + 1), &options, journal, &mut |_| ())
}

fn found(bug: &mut Bug, seconds: f64) -> Report {
    let report = search(bug, &mut Journal::in_memory(), seconds).unwrap();
    assert_eq!(report.answer, Answer::Culprit { node: 2 }, "{report:?}");
    report
}

/// Returns the usual setting with these options.
fn with(change: impl Fn(&mut Setting)) -> Setting {
    let mut setting = usual();
    change(&mut setting);
    setting
}

#[test]
fn each_kind_of_setting_is_chosen_where_the_bug_shows_most() {
    for best in [
        with(|it| it.at = Some("all:@2:9".into())),
        with(|it| it.vcpus = 2),
        with(|it| it.chain = 4),
        with(|it| it.load = 2),
    ] {
        let wanted = best.clone();
        let mut bug = bug(move |setting| if *setting == wanted { 9 } else { 1 });
        let report = found(&mut bug, 300.0);
        assert_eq!(report.setting, best);
        let factor = report.amplified;
        assert!((5.0..12.0).contains(&factor), "{best}: {factor}");
        // The runs in other settings do not count.
        assert!(report.rates.1 > 0.7, "{best}: {:?}", report.rates);
    }
}

#[test]
fn the_factor_is_that_of_the_rates() {
    let mut bug = bug(|setting| if setting.chain > 1 { 6 } else { 2 });
    let report = found(&mut bug, 300.0);
    assert_eq!(report.setting.chain, 4);
    assert!((2.0..4.5).contains(&report.amplified), "{report:?}");
}

#[test]
fn settings_that_help_are_combined() {
    let mut bug = bug(|setting| {
        let more = u64::from(setting.vcpus > 1) + u64::from(setting.load > 0);
        1 + 4 * more
    });
    let report = found(&mut bug, 600.0);
    assert_eq!((report.setting.vcpus, report.setting.load), (2, 2));
    assert_eq!((report.setting.chain, &report.setting.at), (1, &None));
}

#[test]
fn what_takes_longer_than_it_helps_is_not_chosen() {
    let mut bug = bug(|setting| if setting.chain > 1 { 4 } else { 2 });
    bug.takes = |setting| f64::from(setting.chain);
    let report = found(&mut bug, 300.0);
    assert_eq!((&report.setting, report.amplified), (&usual(), 1.0));
}

#[test]
fn another_failure_is_not_the_same_bug_shown_more_often() {
    let mut bug = bug(|_| 2);
    let usual_show = std::mem::replace(&mut bug.show, Box::new(|_, _, _| Seen::Pass));
    bug.show = Box::new(
        move |node, setting, count| match setting.load > 0 && node == BAD {
            true => Seen::Failed(signature("another")),
            false => usual_show(node, setting, count),
        },
    );
    let report = found(&mut bug, 300.0);
    assert_eq!(report.setting, usual());
    assert_eq!(report.sought, Some(signature("stdout")));
}

#[test]
fn a_setting_in_which_the_good_end_fails_alike_is_not_chosen() {
    let mut bug = bug(|_| 2);
    let usual_show = std::mem::replace(&mut bug.show, Box::new(|_, _, _| Seen::Pass));
    bug.show = Box::new(move |node, setting, count| match setting.load > 0 {
        true => Seen::Failed(signature("stdout")),
        false => usual_show(node, setting, count),
    });
    let report = found(&mut bug, 300.0);
    assert_eq!(report.setting, usual());
}

#[test]
fn a_bug_that_does_not_show_usually_is_found_in_the_setting_that_shows_it() {
    let mut bug = bug(|setting| if setting.vcpus > 1 { 9 } else { 0 });
    let report = found(&mut bug, 300.0);
    assert_eq!(report.setting, with(|it| it.vcpus = 2));
    assert!(report.amplified > 20.0, "{}", report.amplified);
}

#[test]
fn the_search_for_a_setting_ends_in_time() {
    for seconds in [10.0, 20.0, 60.0, 120.0] {
        let mut bug = bug(|setting| 1 + u64::from(setting.vcpus));
        // No setting is chosen, so all the time went into the search for one.
        bug.takes = |setting| f64::from(setting.vcpus * 3);
        let report = found(&mut bug, seconds);
        assert_eq!(report.setting, usual());
        assert!(bug.spent > seconds / 4.0, "{seconds}: {}", bug.spent);
        let late = ENTER + 6.0;
        assert!(bug.spent <= seconds + late, "{seconds}: {}", bug.spent);
    }
    let mut bug = bug(|_| 1);
    found(&mut bug, 0.0);
    assert_eq!((bug.spent, bug.offers), (0.0, 0));
}

#[test]
fn a_setting_in_which_nothing_boots_hides_no_end() {
    let mut bug = bug(|setting| if setting.chain > 1 { 9 } else { 1 });
    bug.unbootable = |setting| setting.vcpus > 1;
    let report = found(&mut bug, 300.0);
    assert_eq!(report.setting, with(|it| it.chain = 4));
}

#[test]
fn a_search_that_is_killed_anywhere_goes_on() {
    let rates = |setting: &Setting| match (setting.chain, setting.load) {
        (1, 0) => 1,
        (_, 0) => 5,
        (1, _) => 2,
        _ => 9,
    };
    let mut whole = bug(rates);
    let wanted = found(&mut whole, 600.0);
    let best = with(|it| (it.chain, it.load) = (4, 2));
    assert_eq!(wanted.setting, best);
    let runs: u64 = whole.counts.values().sum();
    for kill in 0..runs {
        let mut journal = Journal::in_memory();
        let mut bug = bug(rates);
        bug.fuse = Some(kill);
        let stop = search(&mut bug, &mut journal, 600.0).unwrap_err();
        assert_eq!(stop.condition, Condition::HostKilled);
        assert_eq!(journal.runs() as u64, kill);
        bug.fuse = None;
        let report = search(&mut bug, &mut journal, 600.0).unwrap();
        assert_eq!((&report.setting, &report.answer), (&best, &wanted.answer));
        let ratio = report.amplified / wanted.amplified;
        assert!((0.7..1.4).contains(&ratio), "{kill}: {ratio}");
        // No observation is lost or made twice, and the same settings are offered again.
        assert_eq!(journal.runs() as u64, bug.counts.values().sum::<u64>());
        assert_eq!(bug.offers, whole.offers, "{kill}");
    }
}

#[test]
fn a_search_that_is_made_again_chooses_without_runs() {
    let mut bug = bug(|setting| if setting.load > 0 { 6 } else { 1 });
    let mut journal = Journal::in_memory();
    let first = search(&mut bug, &mut journal, 300.0).unwrap();
    let offers = bug.offers;
    let second = search(&mut bug, &mut journal, 300.0).unwrap();
    assert_eq!((second.runs, bug.offers), (0, offers));
    assert_eq!(second.setting, first.setting);
    assert_eq!(second.amplified, first.amplified);
}

#[test]
fn events_that_one_guest_could_not_list_are_asked_for_again() {
    let mut bug = bug(|setting| if setting.at.is_some() { 9 } else { 1 });
    bug.unlucky = 1;
    let mut journal = Journal::in_memory();
    let first = search(&mut bug, &mut journal, 300.0).unwrap();
    assert_eq!((&first.setting, bug.offers), (&usual(), 1));
    let second = search(&mut bug, &mut journal, 300.0).unwrap();
    assert!(second.setting.at.is_some(), "{second:?}");
    // The complete offer and the choice are kept.
    let offers = bug.offers;
    let third = search(&mut bug, &mut journal, 300.0).unwrap();
    assert_eq!((third.setting, bug.offers), (second.setting, offers));
}
