// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's books: its own counts of its objects. Objects that each run of a case adds, and
//! that are never freed, are lost.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    abort::{Abort, Phase},
    guest::Guest,
};

/// Makes the kernel free the objects that it keeps for reuse, without printing a message, and
/// prints the kernel's counts. The caches of a CPU hide free objects from `slabinfo`.
const SCRIPT: &str = "set -e
echo 4 > /proc/sys/vm/drop_caches
echo 3 > /proc/sys/vm/drop_caches
for shrink in /sys/kernel/slab/*/shrink; do echo 1 > $shrink; done
echo 1 > /proc/sys/vm/stat_refresh
cat /proc/slabinfo /proc/vmstat /sys/fs/cgroup/cgroup.stat
echo exact $(cat /sys/kernel/slab/kmalloc-64/sanity_checks)
echo cpus $(nproc)
echo open files $(cut -f 1 /proc/sys/fs/file-nr)
echo mounts $(wc -l < /proc/self/mountinfo)
echo vmalloc areas $(wc -l < /proc/vmallocinfo)";

/// Time limit of a reading with a kernel without slow checkers.
const LIMIT: Duration = Duration::from_secs(20);

/// Maximum number of readings until two agree: the kernel frees some objects only after a grace
/// period, or in a work queue.
const READINGS: u32 = 12;

/// Counts of the kernel's objects, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    counts: BTreeMap<String, i64>,
    /// Number by which a count may be too large: the free objects of the slab that a CPU allocates
    /// from count as used, unless the cache is checked (`slab_debug=F`).
    slack: BTreeMap<String, i64>,
}

impl Books {
    /// Reads the counts in a guest that runs nothing else, until two readings agree.
    ///
    /// # Errors
    /// Fails if the guest does not answer, or if its kernel does not count.
    pub fn read(guest: &mut Guest, slowness: u32) -> Result<Self, Abort> {
        let mut last = Self::once(guest, slowness)?;
        for _ in 0..READINGS {
            let next = Self::once(guest, slowness)?;
            if next == last {
                break;
            }
            last = next;
        }
        Ok(last)
    }

    fn once(guest: &mut Guest, slowness: u32) -> Result<Self, Abort> {
        let argv = ["/bin/sh", "-c", SCRIPT].map(String::from);
        let run = guest
            .exec(&argv, &BTreeMap::new(), "/", LIMIT * slowness)
            .map_err(|error| Abort::guest(Phase::After, error))?;
        match run.success() {
            true => Ok(Self::parse(&run.stdout)),
            false => Err(Abort::failed(format!(
                "cannot read the kernel's books: {}",
                run.stderr.trim()
            ))),
        }
    }

    fn parse(text: &str) -> Self {
        let mut counts = BTreeMap::new();
        let mut slack = BTreeMap::new();
        let (mut exact, mut cpus) = (false, 1);
        let mut slab_pages = 0;
        let mut vmstat = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok());
            match words[..] {
                // The fields: name, objects in use, objects, size, objects and pages of a slab,
                // ...; slabs
                [
                    name,
                    _,
                    _,
                    _,
                    _,
                    _,
                    ":",
                    "tunables",
                    _,
                    _,
                    _,
                    ":",
                    "slabdata",
                    _,
                    slabs,
                    _,
                ] => {
                    let pages = number(5).unwrap_or_default();
                    slab_pages += pages * slabs.parse::<i64>().unwrap_or_default();
                    let name = format!("objects of {name}");
                    slack.insert(name.clone(), number(4).unwrap_or_default());
                    counts.insert(name, number(1).unwrap_or_default());
                }
                ["exact", flag] => exact = flag == "1",
                ["cpus", number] => cpus = number.parse().unwrap_or(1),
                ["nr_dying_descendants", _] => {
                    counts.insert("dying cgroups".to_owned(), number(1).unwrap_or_default());
                }
                [name, _] if number(1).is_some() && name.starts_with("nr_") => {
                    vmstat.insert(name, number(1).unwrap_or_default());
                }
                _ => {
                    if let [name @ .., count] = &words[..]
                        && let ["open", "files"] | ["mounts"] | ["vmalloc", "areas"] = name
                    {
                        counts.insert(name.join(" "), count.parse().unwrap_or_default());
                    }
                }
            }
        }
        let sum =
            |names: &[&str]| -> i64 { names.iter().filter_map(|name| vmstat.get(name)).sum() };
        // Allocations that are too large for every cache are pages.
        let in_slabs = sum(&["nr_slab_reclaimable", "nr_slab_unreclaimable"]);
        counts.insert("pages of large objects".to_owned(), in_slabs - slab_pages);
        let pinned = sum(&["nr_foll_pin_acquired"]) - sum(&["nr_foll_pin_released"]);
        counts.insert("pinned pages".to_owned(), pinned);
        // A page whose last reference is not dropped stays in its list after the last task has
        // unmapped it.
        let listed = sum(&["nr_inactive_anon", "nr_active_anon"]);
        let used = sum(&["nr_anon_pages", "nr_shmem"]);
        counts.insert("anonymous pages of nobody".to_owned(), listed - used);
        for objects in slack.values_mut() {
            *objects *= if exact { 0 } else { cpus };
        }
        Self { counts, slack }
    }

    /// Returns the growth of each count that has grown.
    #[must_use]
    pub fn growth(&self, before: &Self) -> Self {
        let grown = self.counts.iter().map(|(name, count)| {
            let before = before.counts.get(name).copied().unwrap_or_default();
            (name.clone(), count - before)
        });
        Self {
            counts: grown.collect(),
            slack: self.slack.clone(),
        }
    }

    /// Returns the kinds of objects of which each run has lost at least one, in addition to the
    /// objects that the same number of good runs adds. `self` is the growth by all `runs` runs.
    #[must_use]
    pub fn lost(&self, good: &Self, runs: u32) -> Vec<String> {
        let runs = i64::from(runs);
        let lost = self.counts.iter().filter(|(name, count)| {
            let of =
                |counts: &BTreeMap<String, i64>| counts.get(*name).copied().unwrap_or_default();
            let usual = of(&good.counts).max(0);
            // With slack, a sufficient number of runs separates losses of each run from noise.
            let slack = of(&self.slack);
            **count - usual >= runs - slack && (slack == 0 || runs > 2 * slack)
        });
        lost.map(|(name, count)| format!("{name}: {count} more after {runs} runs"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> \
        <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
cred_jar              40     42    192   21    1 : tunables    0    0    0 : slabdata      2      2      0
filp                  90     96    256   16    2 : tunables    0    0    0 : slabdata      6      6      0
nr_free_pages 1000
nr_inactive_anon 5
nr_active_anon 30
nr_anon_pages 20
nr_shmem 15
nr_slab_reclaimable 4
nr_slab_unreclaimable 13
nr_foll_pin_acquired 9
nr_foll_pin_released 8
nr_descendants 3
nr_dying_descendants 1
open files 88
mounts 12
vmalloc areas 50
";

    #[test]
    fn all_counts_are_read() {
        let Books { counts, slack } = Books::parse(&format!("{TEXT}exact 0\ncpus 2\n"));
        assert_eq!(slack["objects of cred_jar"], 42);
        let exact = Books::parse(&format!("{TEXT}exact 1\ncpus 2\n"));
        assert_eq!(exact.slack["objects of cred_jar"], 0);
        let expected = [
            ("anonymous pages of nobody", 0),
            ("dying cgroups", 1),
            ("mounts", 12),
            ("objects of cred_jar", 40),
            ("objects of filp", 90),
            ("open files", 88),
            ("pages of large objects", 3),
            ("pinned pages", 1),
            ("vmalloc areas", 50),
        ];
        assert_eq!(
            counts,
            expected
                .map(|(name, count)| (name.to_owned(), count))
                .into()
        );
    }

    #[test]
    fn what_every_run_adds_is_lost() {
        let books = |creds, files| {
            let counts = [("objects of cred_jar", creds), ("open files", files)];
            Books {
                counts: counts.map(|(name, count)| (name.to_owned(), count)).into(),
                slack: BTreeMap::new(),
            }
        };
        let growth = books(46, 92).growth(&books(40, 88));
        assert_eq!(growth, books(6, 4));
        assert_eq!(
            growth.lost(&books(0, 0), 5),
            ["objects of cred_jar: 6 more after 5 runs"]
        );
        // Good runs add as much.
        assert_eq!(growth.lost(&books(2, 0), 5), [""; 0]);
        // The free objects of a CPU's slab count as used.
        let slack = BTreeMap::from([("objects of cred_jar".to_owned(), 2)]);
        let rough = Books {
            slack,
            ..growth.clone()
        };
        // Six objects in four runs may be noise; six in six runs are a loss, and so are four in
        // four.
        assert_eq!(
            rough.lost(&books(0, 0), 4),
            ["open files: 4 more after 4 runs"]
        );
        assert_eq!(rough.lost(&books(0, 0), 6).len(), 1);
        assert_eq!(rough.lost(&books(2, 0), 6).len(), 1);
        assert_eq!(rough.lost(&books(3, 0), 6), [""; 0]);
        // Objects that good runs free do not count.
        assert_eq!(growth.lost(&books(-9, -9), 6).len(), 1);
    }
}
