// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The measurements as one table.

use std::fmt::Write;

use serde::Serialize;

use super::contender::Contender;
use super::samples::{Group, Sample, median};

/// The targets: a cold boot relative to QEMU's, with the usual and with our command line; a
/// restore relative to QEMU's cold boot; a restore with much memory relative to one with little;
/// the VMM's memory in KiB; the time in our own code as a fraction of a cold boot.
mod wanted {
    pub const COLD: f64 = 0.70;
    pub const COLD_SAME_CMDLINE: f64 = 1.0;
    pub const WARM: f64 = 0.06;
    pub const MEMORY: f64 = 1.2;
    pub const FOOTPRINT_KIB: f64 = 5.0 * 1024.0;
    pub const OWN_CODE: f64 = 0.02;
}

/// The measurements, and the claims derived from them.
#[derive(Debug, Serialize)]
pub struct Report {
    /// True when measured in an outer Linux on an emulated CPU, where only ratios are meaningful.
    nested: bool,
    claims: Vec<DirLock>,
    groups: Vec<Group>,
}

/// A measured value, and its permitted maximum.
#[derive(Debug, Serialize)]
struct DirLock {
    what: &'static str,
    value: f64,
    at_most: f64,
    holds: bool,
}

impl Report {
    /// Derives the report from groups of samples.
    pub fn of(nested: bool, groups: Vec<Group>) -> Self {
        let mut report = Self {
            nested,
            claims: Vec::new(),
            groups,
        };
        report.claims = report.claims();
        report
    }

    fn samples(&self, group: &str, contender: Contender) -> impl Iterator<Item = &Sample> {
        self.groups
            .iter()
            .filter(move |of| of.name == group)
            .flat_map(|of| &of.samples)
            .filter(move |sample| sample.contender == contender)
    }

    /// Returns the median start time in microseconds.
    fn start(&self, group: &str, contender: Contender) -> f64 {
        median(self.samples(group, contender).map(|sample| sample.micros)) as f64
    }

    fn claims(&self) -> Vec<DirLock> {
        use Contender::{Crucible, Qemu, QemuPlain, Warm, WarmLarge};

        let ratio = |group, one, other| self.start(group, one) / self.start(group, other);
        let footprint = median(
            self.samples("starts", Crucible)
                .map(|sample| sample.footprint_kib),
        );
        let own = median(self.samples("starts", Crucible).map(own_micros)) as f64;
        [
            (
                "cold boot, relative to QEMU's",
                ratio("starts", Crucible, QemuPlain),
                wanted::COLD,
            ),
            (
                "cold boot, relative to QEMU's, same command line",
                ratio("starts", Crucible, Qemu),
                wanted::COLD_SAME_CMDLINE,
            ),
            (
                "restore, relative to QEMU's cold boot",
                ratio("starts", Warm, QemuPlain),
                wanted::WARM,
            ),
            (
                "restore of 2048 MiB, relative to 256 MiB",
                ratio("memory", WarmLarge, Warm),
                wanted::MEMORY,
            ),
            (
                "VMM's memory without the guest's, KiB",
                footprint as f64,
                wanted::FOOTPRINT_KIB,
            ),
            (
                "own code before guest runs, relative to cold boot",
                own / self.start("starts", Crucible),
                wanted::OWN_CODE,
            ),
        ]
        .into_iter()
        .filter(|(_, value, _)| value.is_finite() && *value > 0.0)
        .map(|(what, value, at_most)| DirLock {
            what,
            value,
            at_most,
            holds: value <= at_most,
        })
        .collect()
    }

    /// Returns the report as text.
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let place = match self.nested {
            true => " on an emulated CPU, where only ratios are meaningful",
            false => "",
        };
        writeln!(
            out,
            "time from start to the agent's first answer{place}, ms"
        )?;
        let rows = Contender::STARTS.map(|contender| ("starts", contender));
        let more = Contender::MEMORY.map(|contender| ("memory", contender));
        for (group, contender) in rows.into_iter().chain(more) {
            let starts: Vec<_> = self
                .samples(group, contender)
                .map(|sample| sample.micros)
                .collect();
            let (Some(least), Some(most)) = (starts.iter().min(), starts.iter().max()) else {
                continue;
            };
            writeln!(
                out,
                "  {:<44} {:>7.0}  ({:.0}-{:.0}, {} starts)",
                name(contender, group),
                ms(median(starts.iter().copied())),
                ms(*least),
                ms(*most),
                starts.len()
            )?;
        }
        writeln!(out, "targets")?;
        for claim in &self.claims {
            let mark = if claim.holds { "" } else { "  MISSED" };
            let digits = if claim.value < 100.0 { 3 } else { 0 };
            writeln!(
                out,
                "  {:<50} {:>7.digits$}  at most {}{mark}",
                claim.what, claim.value, claim.at_most
            )?;
        }
        for contender in [Contender::Crucible, Contender::Warm] {
            self.breakdown(out, contender)?;
        }
        Ok(())
    }

    /// Writes the phases of a start with their durations.
    fn breakdown(&self, out: &mut String, contender: Contender) -> std::fmt::Result {
        let Some(first) = self.samples("starts", contender).next() else {
            return Ok(());
        };
        writeln!(out, "{}, phases of a start, ms", name(contender, "starts"))?;
        let mut before = 0;
        for (index, phase) in first.phases.iter().enumerate() {
            let micros = median(
                self.samples("starts", contender)
                    .filter_map(|sample| sample.phases.get(index))
                    .map(|phase| phase.micros),
            );
            before += micros;
            let owner = if phase.in_kvm { "KVM" } else { "VMM" };
            writeln!(out, "  {owner:<8} {:<35} {:>7.1}", phase.name, ms(micros))?;
        }
        let whole = self.start("starts", contender) as u64;
        writeln!(
            out,
            "  {:<8} {:<35} {:>7.1}",
            "guest",
            "to the agent's first answer",
            ms(whole.saturating_sub(before))
        )
    }
}

/// Returns the time that our own code took before the guest ran, in microseconds.
fn own_micros(sample: &Sample) -> u64 {
    sample
        .phases
        .iter()
        .filter(|phase| !phase.in_kvm)
        .map(|phase| phase.micros)
        .sum()
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

fn name(contender: Contender, group: &str) -> &'static str {
    match (contender, group) {
        (Contender::Crucible, _) => "crucible, cold",
        (Contender::QemuPlain, _) => "QEMU microvm, cold",
        (Contender::Qemu, _) => "QEMU microvm with our command line, cold",
        (Contender::Warm, "memory") => "crucible, warm, 256 MiB",
        (Contender::Warm, _) => "crucible, warm",
        (Contender::WarmLarge, _) => "crucible, warm, 2048 MiB",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(contender: Contender, micros: u64) -> Sample {
        Sample {
            contender,
            micros,
            uptime_ms: 0,
            footprint_kib: 0,
            phases: Vec::new(),
        }
    }

    #[test]
    fn claims_need_samples() {
        let samples = vec![
            sample(Contender::QemuPlain, 2_000_000),
            sample(Contender::Crucible, 1_500_000),
        ];
        let groups = vec![Group {
            name: "starts".into(),
            samples,
        }];
        let report = Report::of(true, groups);
        let [claim] = report.claims.as_slice() else {
            panic!("{:?}", report.claims);
        };
        assert_eq!(claim.value, 0.75);
        assert!(!claim.holds);
        assert!(report.table().contains("MISSED"));
    }
}
