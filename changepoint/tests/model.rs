// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Properties of the model, over generated histories.

mod common;

use common::Dice;
use crucible_changepoint::{Beta, ChangePoint, Cost, Evidence, JEFFREYS, Set, onset};

/// Returns a history in which a node has one or two earlier parents.
fn history(dice: &mut Dice, len: usize) -> Vec<Vec<usize>> {
    (0..len)
        .map(|node| {
            let mut parents: Vec<_> = node.checked_sub(1).into_iter().collect();
            if node > 2 && dice.chance(0.3) {
                parents = vec![node - 2];
            }
            if node > 2 && dice.chance(0.3) {
                parents.push(dice.below(node - 1));
            }
            parents
        })
        .collect()
}

fn evidence(dice: &mut Dice, model: &mut ChangePoint) {
    for node in 0..model.len() {
        if dice.chance(0.4) {
            let runs = dice.below(6) as u64;
            model.observe(node, Evidence::new(runs, dice.below(4) as u64));
        }
    }
}

#[test]
fn the_posterior_is_a_distribution_and_a_run_is_never_expected_to_hide_anything() {
    let mut dice = Dice::new(1);
    for len in 1..60 {
        let mut model = ChangePoint::of_parents(&history(&mut dice, len));
        evidence(&mut dice, &mut model);
        if dice.chance(0.5) {
            model.hide(dice.below(len));
        }
        let posterior = model.posterior();
        let sum: f64 = posterior.nodes.iter().sum::<f64>() + posterior.none;
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        let now = posterior.entropy();
        for (node, bits) in model.bits().into_iter().enumerate() {
            assert!((-1e-9..=1.0 + 1e-9).contains(&bits), "{bits} bits");
            assert!(bits <= now + 1e-9);
            assert!(!model.is_hidden(node) || bits == 0.0);
        }
    }
}

/// The closed form of the expected entropy equals the entropy that is computed by adding the run.
#[test]
fn the_bits_of_a_run_are_those_that_its_two_ends_leave() {
    let mut dice = Dice::new(2);
    for len in 1..25 {
        let mut model = ChangePoint::of_parents(&history(&mut dice, len));
        evidence(&mut dice, &mut model);
        let now = model.posterior();
        for (node, bits) in model.bits().into_iter().enumerate() {
            let mut left = 0.0;
            let mut fails = 0.0;
            let after = |failures| {
                let mut then = model.clone();
                then.observe(node, Evidence::new(1, failures));
                then.posterior()
            };
            // The probability of a failure, computed from the change of the posterior.
            let (failed, passed) = (after(1), after(0));
            let moves = |posterior: &crucible_changepoint::Posterior| {
                let best = (0..len).max_by(|&a, &b| {
                    let d = |i: usize| (failed.nodes[i] - passed.nodes[i]).abs();
                    d(a).total_cmp(&d(b))
                });
                best.map_or(0.0, |best| posterior.nodes[best])
            };
            let span = moves(&failed) - moves(&passed);
            if span.abs() > 1e-6 {
                fails += (moves(&now) - moves(&passed)) / span;
                left += fails * failed.entropy() + (1.0 - fails) * passed.entropy();
                assert!((now.entropy() - left - bits).abs() < 1e-6, "{bits}");
            }
        }
    }
}

#[test]
fn the_order_of_the_runs_does_not_matter() {
    let mut dice = Dice::new(3);
    let parents = history(&mut dice, 20);
    let (mut one, mut other) = (
        ChangePoint::of_parents(&parents),
        ChangePoint::of_parents(&parents),
    );
    let runs: Vec<_> = (0..50)
        .map(|_| (dice.below(20), u64::from(dice.chance(0.3))))
        .collect();
    for &(node, failed) in &runs {
        one.observe(node, Evidence::new(1, failed));
    }
    for &(node, failed) in runs.iter().rev() {
        other.observe(node, Evidence::new(1, failed));
    }
    assert_eq!(one.posterior(), other.posterior());
}

#[test]
fn a_node_that_always_fails_after_ones_that_never_do_is_the_first() {
    let mut model = ChangePoint::linear(5);
    for node in 0..5 {
        model.observe(node, Evidence::new(8, if node >= 3 { 8 } else { 0 }));
    }
    let posterior = model.posterior();
    assert_eq!(posterior.best().map(|(node, _)| node), Some(3));
    assert!(posterior.nodes[3] > 0.99, "{posterior:?}");
    assert_eq!(posterior.credible(0.95), [3]);
    let (before, after) = model.rates();
    assert!(before < 0.05 && after > 0.95, "{before} {after}");
}

#[test]
fn nothing_changes_where_all_fail_alike() {
    let mut model = ChangePoint::linear(4);
    model.exclude(0);
    for node in 0..4 {
        model.observe(node, Evidence::new(40, 20));
    }
    assert!(model.posterior().none > 0.5, "{:?}", model.posterior());
}

#[test]
fn a_merge_is_told_from_its_branches() {
    // 0 — 1 — 3 — 4
    //   \ 2 /
    let parents = [vec![], vec![0], vec![0], vec![1, 2], vec![3]];
    let mut model = ChangePoint::of_parents(&parents);
    model.exclude(0);
    let bad = Evidence::new(10, 10);
    let good = Evidence::new(10, 0);
    for (node, seen) in [(0, good), (1, good), (4, bad)] {
        model.observe(node, seen);
    }
    let branch = model.clone();
    let posterior = branch.posterior();
    assert!(posterior.nodes[1] < 1e-3, "{posterior:?}");
    model.observe(2, good);
    model.observe(3, bad);
    let answer = model.answer().unwrap();
    assert_eq!(answer.0, [3]);
    assert!(answer.1 > 0.99);
    let mut other = branch;
    other.observe(2, bad);
    assert_eq!(other.answer().unwrap().0, [2]);
}

#[test]
fn what_cannot_be_built_is_not_told_from_what_follows_it() {
    let mut model = ChangePoint::linear(5);
    model.exclude(0);
    model.hide(2);
    for (node, failures) in [(0, 0), (1, 0), (3, 9), (4, 9)] {
        model.observe(node, Evidence::new(9, failures));
    }
    let (group, mass) = model.answer().unwrap();
    assert_eq!(group, [2, 3]);
    assert!(mass > 0.99, "{mass}");
    assert!(model.posterior().nodes[3] < 0.6);
    // No run of any node would give more information, except for a remaining uncertainty.
    assert!(model.bits().iter().all(|bits| *bits < 0.01));
}

#[test]
fn the_same_binary_is_the_same_node() {
    let mut model = ChangePoint::linear(4);
    model.exclude(0);
    model.join(1, 2);
    assert!(model.is_possible(1) && !model.is_possible(2) && model.is_possible(3));
    // The runs of one node count for the other.
    model.observe(0, Evidence::new(9, 0));
    model.observe(2, Evidence::new(9, 9));
    assert_eq!(model.answer().unwrap().0, [1]);
    model.join(0, 3);
    assert!(model.posterior().none > 0.999);
    assert_eq!(model.answer(), None);
}

#[test]
fn a_cheap_run_is_preferred_to_a_build_that_tells_little_more() {
    let mut model = ChangePoint::linear(40);
    model.exclude(0);
    model.observe(0, Evidence::new(5, 0));
    model.observe(39, Evidence::new(5, 5));
    let free = |_| {
        Some(Cost {
            once: 0.0,
            run: 1.0,
        })
    };
    let middle = model.next(free).unwrap();
    assert!((18..=21).contains(&middle), "{middle}");
    let built = 12;
    let cost = |node| {
        let once = if node == built { 0.0 } else { 1000.0 };
        Some(Cost { once, run: 1.0 })
    };
    assert_eq!(model.next(cost), Some(built));
    assert_eq!(model.next(|_| None), None);
}

/// With rates drawn from the prior, stated probabilities equal frequencies, however the runs are
/// chosen.
#[test]
fn stated_probabilities_are_kept() {
    let mut dice = Dice::new(4);
    let len = 24;
    // Sums for each tenth of the stated probability: simulations, stated probabilities, right
    // answers.
    let mut bins = [(0u32, 0.0, 0.0); 10];
    let (mut stated, mut right) = (0.0, 0.0);
    const ALL: u32 = 500;
    for _ in 0..ALL {
        let mut model = ChangePoint::linear(len);
        let truth = dice.below(len + 1);
        let rates = [dice.jeffreys(), dice.jeffreys()];
        let budget = 5 + dice.below(60);
        for _ in 0..budget {
            let posterior = model.posterior();
            if posterior.best().is_some_and(|(_, mass)| mass > 0.99) {
                break;
            }
            let cost = |node| {
                let seen = model.evidence(node).runs > 0;
                let once = if seen { 0.0 } else { 20.0 };
                Some(Cost { once, run: 1.0 })
            };
            // The first run gives information on one rate only.
            let node = model.next(cost).unwrap_or_else(|| dice.below(len));
            let failed = dice.chance(rates[usize::from(node >= truth)]);
            model.observe(node, Evidence::new(1, failed.into()));
        }
        let posterior = model.posterior();
        for (node, &mass) in posterior.nodes.iter().chain([&posterior.none]).enumerate() {
            let hit = f64::from(u8::from(node == truth));
            let bin = &mut bins[((mass * 10.0) as usize).min(9)];
            *bin = (bin.0 + 1, bin.1 + mass, bin.2 + hit);
        }
        let (best, mass) = posterior.best().unwrap();
        let (best, mass) = match posterior.none > mass {
            true => (len, posterior.none),
            false => (best, mass),
        };
        stated += mass;
        right += f64::from(u8::from(best == truth));
    }
    let all = f64::from(ALL);
    let (stated, right) = (stated / all, right / all);
    println!("stated {stated:.3}, right {right:.3}; {bins:?}");
    assert!((stated - right).abs() < 0.03, "{stated} {right}");
    // Each bin is within the tolerance of its size.
    for (count, stated, right) in bins {
        if count >= 40 {
            let (count, difference) = (f64::from(count), stated - right);
            let share = stated / count;
            let deviation = (count * share * (1.0 - share)).sqrt().max(1.0);
            assert!(difference.abs() < 3.5 * deviation, "{bins:?}");
        }
    }
}

/// The priors of the simulation that decided the design.
#[test]
fn other_priors_can_be_given() {
    let old = Beta {
        failures: 0.5,
        passes: 99.5,
    };
    let new = Beta {
        failures: 1.0,
        passes: 1.0,
    };
    let mut model = ChangePoint::linear(3).with_priors(old, new);
    model.observe(1, Evidence::new(1, 1));
    let sure = model.posterior();
    let mut jeffreys = ChangePoint::linear(3).with_priors(JEFFREYS, JEFFREYS);
    jeffreys.observe(1, Evidence::new(1, 1));
    assert!(sure.nodes[2] < 0.02 && jeffreys.posterior().nodes[2] > 0.2);
}

/// The simulation by which the rule was chosen, written independently with numpy, has the same
/// priors and costs: 18.5 runs and 5.5 builds if the failure is certain, 63 runs and 6.0 builds at
/// 30 %.
#[test]
fn an_independent_simulation_has_the_same_figures() {
    let (len, build, trials) = (40, 20.0, 300);
    let old = Beta {
        failures: 0.5,
        passes: 99.5,
    };
    let new = Beta {
        failures: 1.0,
        passes: 1.0,
    };
    for (rate, runs_there, builds_there) in [(1.0, 18.5, 5.5), (0.3, 63.4, 6.0)] {
        let mut dice = Dice::new(5);
        let (mut runs, mut builds, mut right) = (0.0, 0.0, 0.0);
        for _ in 0..trials {
            let culprit = dice.below(len);
            let mut model = ChangePoint::linear(len)
                .with_priors(old, new)
                .with_none(0.0);
            let mut built = vec![false; len];
            built[len - 1] = true;
            loop {
                let posterior = model.posterior();
                let (best, mass) = posterior.best().unwrap();
                if mass > 0.99 {
                    right += f64::from(u8::from(best == culprit));
                    break;
                }
                let once = |node: usize| if built[node] { 0.0 } else { build };
                let cost = |node| {
                    Some(Cost {
                        once: once(node),
                        run: 1.0,
                    })
                };
                let node = model.next(cost).unwrap();
                runs += 1.0;
                builds += f64::from(u8::from(!built[node]));
                built[node] = true;
                let failed = node >= culprit && dice.chance(rate);
                model.observe(node, Evidence::new(1, failed.into()));
            }
        }
        let all = f64::from(trials);
        let (runs, builds, right) = (runs / all, builds / all, right / all);
        println!("{rate}: {runs:.1} runs, {builds:.2} builds, {right:.3} right");
        assert!((runs / runs_there - 1.0).abs() < 0.1, "{runs} {runs_there}");
        assert!((builds - builds_there).abs() < 0.4, "{builds}");
        assert!(right >= 0.97, "{right}");
    }
}

#[test]
fn a_hypothesis_may_be_any_set_of_nodes() {
    let sets = vec![
        [0, 2].into_iter().collect::<Set>(),
        [1].into_iter().collect(),
    ];
    let mut model = ChangePoint::of_sets(sets);
    model.observe(0, Evidence::new(6, 6));
    model.observe(1, Evidence::new(6, 0));
    assert!(!model.is_empty());
    // Either set explains it: the rates may go up or down.
    let posterior = model.posterior();
    assert!((posterior.nodes[0] - posterior.nodes[1]).abs() < 1e-12);
}

#[test]
fn nights_have_an_onset_or_none() {
    let night = |failures| Evidence::new(20, failures);
    let quiet: Vec<_> = (0..30).map(|_| night(0)).collect();
    let found = onset(&quiet, 0.95);
    assert!(found.changed < 0.5 && found.range.is_none(), "{found:?}");
    let broken: Vec<_> = (0..12)
        .map(|n| night(if n >= 9 { 20 } else { 0 }))
        .collect();
    let found = onset(&broken, 0.95);
    assert!(found.changed > 0.999, "{found:?}");
    assert_eq!(found.range, Some((9, 9)));
    let flaky: Vec<_> = (0..20)
        .map(|n| night(u64::from(n >= 10 && n % 2 == 0) * 3))
        .collect();
    let found = onset(&flaky, 0.95);
    let (first, last) = found.range.unwrap();
    assert!(first <= 10 && (10..=12).contains(&last), "{found:?}");
    assert!(found.before < 0.02 && (0.04..0.12).contains(&found.after));
    assert!(onset(&[], 0.95).range.is_none());
}
