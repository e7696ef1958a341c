// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible fuzz`: a unit is a program whose image is forged for a while, guided
//! by the blocks of the kernel that the forged images reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crucible_protocol::image::damage::Recipe;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Done, Experiment, Finding, Group, Identity, Summary,
    adversary::exec,
    torture::{AT, build_programs, program_sources},
};
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    corpus::Corpus,
    outcome::Outcome,
    random,
    scenario::Scenario,
    session::Session,
};

/// Time limit of a unit, in addition to the duration of its search.
const LIMIT: Duration = Duration::from_secs(240);

/// Duration of a unit's search, in seconds.
pub const ROUND: u64 = 60;

/// The programs of rounds, in turn: `many` has an object of each kind, and `random` is a tree that
/// no other round has.
const ORDER: [&str; 12] = [
    "many", "tree", "many", "random", "many", "threads", "many", "random", "many", "chain", "many",
    "random",
];

/// The exit code of the guest's program when a restart has gone wrong.
const FOUND: i32 = 3;

/// Number of listed changes that a round tries. A round with fewer than about 130 restarts does not
/// reach all of them.
const LISTED: usize = 100;

/// Time limit of a restart on average.
const PER_RESTART: Duration = Duration::from_secs(2);

/// The text on the console before each restart (`rootfs/agent/src/bin/torture/fuzz.rs`).
const MARK: &str = "fuzz: ";

/// Directory in which the program of random trees is built.
const TREES: &str = "/work/random-tree";

/// The task of the experiment: a search, or a single recipe.
#[derive(Clone, Debug)]
pub enum Search {
    /// Search for this number of rounds.
    Rounds(u64),
    /// Run this recipe of this program once.
    One(String, Recipe),
}

/// Forged images, guided by coverage.
pub struct FuzzExperiment {
    root: PathBuf,
    trees: Scenario,
    search: Search,
    seed: u64,
    /// The file of each block, by address.
    blocks: BTreeMap<u32, String>,
    state: Mutex<State>,
}

struct State {
    corpus: Corpus,
    /// The blocks that were reached.
    known: BTreeSet<u32>,
}

/// A unit.
#[derive(Clone, Debug)]
pub struct Round {
    /// Its number; 0 for the recipes of an earlier run.
    number: u64,
    /// A program of torture, or `random/SEED`.
    program: String,
    /// True when the program's recipes are run once, instead of being changed.
    only: bool,
    /// Number of listed changes that earlier rounds of the program try.
    listed: usize,
}

/// The results of a unit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Fuzzed {
    /// Number of restarts.
    pub restarts: u64,
    /// Number of those that succeeded.
    pub restored: u64,
    /// Number of refusals by errno.
    pub errnos: BTreeMap<String, u64>,
    /// Number of restarts whose coverage did not fit into KCOV's area, so that some is unknown.
    #[serde(default)]
    pub full: u64,
    /// Duration in milliseconds, of the restarts alone.
    pub ms: u64,
    /// Each recipe that has reached new blocks, with their addresses' low halves.
    pub found: Vec<(String, Vec<u32>)>,
}

/// The blocks of a file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileBlocks {
    /// Name of the source file.
    pub file: String,
    /// Number of blocks that were reached.
    pub reached: usize,
    /// Number of blocks.
    pub blocks: usize,
}

/// The results of all units.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FuzzSummary {
    /// Number of restarts.
    pub restarts: u64,
    /// Number of those that succeeded.
    pub restored: u64,
    /// Number of restarts whose coverage did not fit into KCOV's area, so that some is unknown.
    pub full: u64,
    /// Number of refusals by errno.
    pub errnos: BTreeMap<String, u64>,
    /// Restarts in a second, in one guest.
    pub per_second: f64,
    /// Number of recipes in the corpus.
    pub corpus: usize,
    /// Number of blocks that were reached.
    pub reached: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// The blocks by file.
    pub files: Vec<FileBlocks>,
}

impl Summary for FuzzSummary {}

impl FuzzExperiment {
    /// The programs whose images are forged, in addition to random trees.
    pub const PROGRAMS: [&str; 4] = ["chain", "many", "threads", "tree"];

    /// Returns the experiment. The programs' sources are below `root`, `trees` is the scenario of
    /// random trees, and `blocks` has the file of each block of the kernel.
    pub fn new(
        root: &Path,
        trees: Scenario,
        search: Search,
        seed: u64,
        blocks: BTreeMap<u32, String>,
        corpus: Corpus,
    ) -> Self {
        let known = BTreeSet::new();
        Self {
            root: root.to_owned(),
            trees,
            search,
            seed,
            blocks,
            state: Mutex::new(State { corpus, known }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rounds(&self) -> Vec<Round> {
        let round = |number, program: &str, only| Round {
            number,
            program: program.to_owned(),
            only,
            listed: 0,
        };
        let rounds = match &self.search {
            Search::One(program, _) => return vec![round(0, program, true)],
            Search::Rounds(rounds) => *rounds,
        };
        let earlier = self.state().corpus.programs();
        let mut all: Vec<_> = earlier.iter().map(|name| round(0, name, true)).collect();
        for (number, name) in (1..=rounds).zip(ORDER.iter().cycle()) {
            let name = match *name {
                "random" => format!("random/{}", self.seed.wrapping_add(number)),
                name => name.to_owned(),
            };
            let listed = LISTED * all.iter().filter(|r| !r.only && r.program == name).count();
            all.push(Round {
                listed,
                ..round(number, &name, false)
            });
        }
        all
    }

    fn ready(&self, session: &mut Session<'_>) -> Result<(), Abort> {
        let patience = session.patience();
        let (guest, new) = session.guest().map_err(Abort::session)?;
        if !new {
            return Ok(());
        }
        let before = |error| Abort::guest(Phase::Before, error);
        guest.prepare(None).map_err(before)?;
        build_programs(guest, &self.root, patience)?;
        let sources = self
            .trees
            .sources()
            .map_err(|e| Abort::io("cannot read the sources of random trees", &e))?;
        for source in sources {
            guest
                .write_file(
                    &format!("{TREES}/{}", source.path),
                    source.mode,
                    &source.content,
                )
                .map_err(before)?;
        }
        let build = format!(
            "cd {TREES} && {} && chmod -R a+rX .",
            self.trees.build.join(" && ")
        );
        let (status, _, lines) = exec(guest, &build, LIMIT * patience).map_err(before)?;
        match status {
            Some(0) => Ok(()),
            _ => {
                let why = "the build of random trees failed";
                Err(Abort::new(Condition::BuildFailed, why).with(lines))
            }
        }
    }

    /// Returns the guest's command for a unit.
    fn command(&self, round: &Round, task: &str) -> String {
        let Round {
            number, program, ..
        } = round;
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(*number);
        let time = match round.only {
            true => String::new(),
            false => format!("--seconds {ROUND} "),
        };
        let argv = match program.strip_prefix("random/") {
            Some(seed) => {
                let tree = tree(seed.parse().unwrap_or(0)).to_string();
                format!("{TREES}/tree '{tree}'")
            }
            None => format!("/work/{program}"),
        };
        // The files of a tree must not exist yet.
        format!(
            "rm -rf /work/round && mkdir -m 777 /work/round && cd /work/round && \
             torture --fuzz {task} --name {program} {time}--seed {seed} --at '{AT}' -- {argv}"
        )
    }

    fn round(&self, session: &mut Session<'_>, round: &Round) -> Result<(Outcome, Fuzzed), Abort> {
        let patience = session.patience();
        let recipes = match &self.search {
            Search::One(_, recipe) => vec![recipe.clone()],
            Search::Rounds(_) => self.state().corpus.of(&round.program),
        };
        let known = match &self.search {
            Search::One(..) => BTreeSet::new(),
            Search::Rounds(_) => self.state().known.clone(),
        };
        let time = match round.only {
            true => PER_RESTART * recipes.len() as u32,
            false => Duration::from_secs(ROUND),
        };
        let limit = time + LIMIT * patience;
        let texts: Vec<_> = recipes.iter().map(Recipe::to_string).collect();
        let listed = (!round.only)
            .then(|| json!({ "seed": self.seed, "from": round.listed, "count": LISTED }));
        let task = json!({ "recipes": texts, "known": known, "listed": listed });
        let after = |error| Abort::guest(Phase::After, error);
        let guest = session.running();
        guest.mark_used();
        let path = "/work/fuzz.json";
        guest
            .write_file(path, 0o644, task.to_string().as_bytes())
            .map_err(after)?;
        let (status, stdout, mut lines) =
            exec(guest, &self.command(round, path), limit).map_err(after)?;
        if let Err(error) = guest.settle() {
            // The kernel's report, and the recipe that caused it.
            let mut stop = after(error);
            stop.lines.extend(lines);
            return Err(stop);
        }
        if status != Some(0) {
            let why = lines.first().cloned();
            lines.push(format!("in the guest: {}", self.command(round, path)));
            let why = why.unwrap_or_else(|| "the fuzzer failed without a message".into());
            let condition = match status {
                Some(FOUND) => Condition::Diverged,
                _ => Condition::RequestFailed,
            };
            let outcome = Outcome {
                lines,
                ..Outcome::new(condition, why)
            };
            return Ok((outcome, Fuzzed::default()));
        }
        let mut fuzzed: Fuzzed = serde_json::from_str(stdout.trim())
            .map_err(|_| Abort::failed(format!("the fuzzer printed no report: {stdout}")))?;
        // A coverage call in tail position returns to the caller, so its block counts for the
        // caller.
        for (_, blocks) in &mut fuzzed.found {
            blocks.retain(|block| self.blocks.contains_key(block));
        }
        fuzzed.found.retain(|(_, blocks)| !blocks.is_empty());
        self.learn(round, &fuzzed)
            .map_err(|e| Abort::io("cannot keep the corpus", &e))?;
        let Fuzzed {
            restarts, found, ..
        } = &fuzzed;
        let blocks: usize = found.iter().map(|(_, blocks)| blocks.len()).sum();
        let outcome = Outcome::passed(format!("{restarts} restarts, {blocks} new blocks"));
        Ok((outcome, fuzzed))
    }

    /// Keeps the recipes that a unit has found. Of the recipes of an earlier run, it keeps only
    /// those that reach a block that the recipes before them do not.
    fn learn(&self, round: &Round, fuzzed: &Fuzzed) -> io::Result<()> {
        let mut state = self.state();
        let State { corpus, known } = &mut *state;
        let mut new = BTreeSet::new();
        for (recipe, blocks) in &fuzzed.found {
            let before = known.len();
            known.extend(blocks);
            if known.len() > before {
                let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                new.insert(recipe.parse().map_err(wrong)?);
            }
        }
        match (&self.search, round.only) {
            (Search::One(..), _) => Ok(()),
            (_, true) => corpus.replace(&round.program, new),
            (_, false) => corpus.add(&round.program, new),
        }
    }
}

/// Returns the tree of a seed, with all kinds that can be saved.
fn tree(seed: u64) -> random::Tree {
    let mut tree = random::draw(seed);
    for process in &mut tree.processes {
        process
            .items
            .retain(|item| !random::REFUSED.contains(&item.kind));
    }
    tree
}

/// Returns the last recipe that a console names, with its program.
fn last_recipe(console: &str) -> Option<&str> {
    let line = console.lines().rev().find_map(|line| {
        let at = line.find(MARK)?;
        Some(&line[at + MARK.len()..])
    })?;
    Some(line.trim_end())
}

impl Experiment for FuzzExperiment {
    type Unit = Round;
    type Detail = Fuzzed;
    type Summary = FuzzSummary;

    fn key(&self, unit: &Round) -> String {
        format!("{:04}/{}", unit.number, unit.program)
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        for (name, content) in program_sources(&self.root)? {
            identity.add(&name, content);
        }
        super::scenarios::identify(&self.trees, identity)?;
        identity.add("search", format!("{:?} {}", self.search, self.seed));
        Ok(())
    }

    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        Ok(self.rounds().into_iter().map(|round| vec![round]).collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[Round],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        for unit in units {
            self.ready(session)?;
            match self.round(session, unit) {
                Ok((outcome, fuzzed)) => {
                    // The next round gets a new guest: it must not be blamed for leftovers.
                    if !outcome.is_pass() {
                        session.abandon();
                    }
                    done(unit, outcome, Some(fuzzed))?;
                }
                Err(mut stop) => {
                    // A crashed guest cannot report its recipe; its console has it.
                    let console = fs::read(session.console()).unwrap_or_default();
                    let console = String::from_utf8_lossy(&console);
                    let is_known = stop.lines.iter().any(|line| line.contains("restart of "));
                    if let Some(recipe) = last_recipe(&console).filter(|_| !is_known) {
                        stop.lines.push(format!("during the restart of {recipe}"));
                    }
                    return Err(stop);
                }
            }
        }
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<Fuzzed>]) -> FuzzSummary {
        let state = self.state();
        let mut summary = FuzzSummary {
            corpus: state.corpus.len(),
            ..FuzzSummary::default()
        };
        // Includes units whose results a resumed run has reused.
        let mut reached: BTreeSet<u32> = BTreeSet::new();
        let mut ms = 0;
        for detail in findings.iter().filter_map(|one| one.detail.as_ref()) {
            summary.restarts += detail.restarts;
            summary.restored += detail.restored;
            summary.full += detail.full;
            ms += detail.ms;
            for (errno, count) in &detail.errnos {
                *summary.errnos.entry(errno.clone()).or_default() += count;
            }
            let blocks = detail.found.iter().flat_map(|(_, blocks)| blocks);
            reached.extend(blocks.filter(|block| self.blocks.contains_key(block)));
        }
        if ms > 0 {
            summary.per_second = summary.restarts as f64 * 1000.0 / ms as f64;
        }
        let mut files: BTreeMap<&str, FileBlocks> = BTreeMap::new();
        for (block, file) in &self.blocks {
            let of_file = files.entry(file).or_default();
            of_file.file.clone_from(file);
            of_file.blocks += 1;
            of_file.reached += usize::from(reached.contains(block));
        }
        summary.reached = reached.len();
        summary.blocks = self.blocks.len();
        summary.files = files.into_values().collect();
        summary
    }

    fn unit_ms(&self, detail: &Fuzzed) -> Option<u64> {
        (detail.ms > 0).then_some(detail.ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(search: Search, directory: &Path) -> FuzzExperiment {
        let corpus = Corpus::load(&directory.join("corpus.json")).unwrap();
        let trees = Scenario {
            name: random::SCENARIO.into(),
            dir: directory.into(),
            summary: String::new(),
            shared: Vec::new(),
            build: Vec::new(),
            cases: Vec::new(),
        };
        let blocks = [(1, "a.c"), (2, "a.c"), (3, "b.c")].map(|(at, file)| (at, file.to_owned()));
        FuzzExperiment::new(directory, trees, search, 5, BTreeMap::from(blocks), corpus)
    }

    fn fuzzed(found: &[(&str, &[u32])]) -> Fuzzed {
        Fuzzed {
            restarts: 30,
            full: 1,
            ms: 2000,
            found: found
                .iter()
                .map(|(recipe, blocks)| ((*recipe).to_owned(), blocks.to_vec()))
                .collect(),
            ..Fuzzed::default()
        }
    }

    #[test]
    fn a_crashed_guest_names_its_recipe() {
        let console = "x\n<5>fuzz: many 1f\n[ 2.0] fuzz: tree 1f,a03\r\nBUG: it\n";
        assert_eq!(last_recipe(console), Some("tree 1f,a03"));
        assert_eq!(last_recipe("BUG: it\n"), None);
    }

    #[test]
    fn the_programs_of_rounds_are_known() {
        let known = |name: &&str| *name == "random" || FuzzExperiment::PROGRAMS.contains(name);
        assert!(ORDER.iter().all(known));
    }

    #[test]
    fn trees_have_nothing_that_is_refused() {
        for seed in 0..100 {
            let tree = tree(seed).to_string();
            let words: Vec<_> = tree.split_whitespace().collect();
            assert!(!random::REFUSED.iter().any(|kind| words.contains(kind)));
            assert!(!tree.contains('\''), "it is quoted for a shell");
        }
    }

    #[test]
    fn rounds_begin_with_the_recipes_of_earlier_runs() {
        let directory = tempfile::tempdir().unwrap();
        let first = experiment(Search::Rounds(4), directory.path());
        let keys: Vec<_> = first
            .rounds()
            .iter()
            .map(|round| first.key(round))
            .collect();
        assert_eq!(
            keys,
            ["0001/many", "0002/tree", "0003/many", "0004/random/9"]
        );
        let round = &first.rounds()[0];
        first
            .learn(round, &fuzzed(&[("1", &[1]), ("2", &[1])]))
            .unwrap();
        let second = experiment(Search::Rounds(1), directory.path());
        let rounds = second.rounds();
        assert_eq!(second.key(&rounds[0]), "0000/many");
        assert!(rounds[0].only && !rounds[1].only);
        // The first recipe no longer reaches a new block.
        second.learn(&rounds[0], &fuzzed(&[("3", &[2])])).unwrap();
        assert_eq!(
            Corpus::load(&directory.path().join("corpus.json"))
                .unwrap()
                .of("many"),
            ["3".parse().unwrap()]
        );
    }

    #[test]
    fn points_are_counted_by_file() {
        let directory = tempfile::tempdir().unwrap();
        let one = experiment(Search::Rounds(2), directory.path());
        let finding = |found| Finding {
            key: String::new(),
            outcome: Outcome::passed(""),
            ms: 0,
            detail: Some(fuzzed(found)),
        };
        // 9 is not a block: an address of a different kernel.
        let findings = [finding(&[("-", &[1, 9])]), finding(&[("1", &[1, 3])])];
        let summary = one.summarise(&findings);
        assert_eq!((summary.reached, summary.blocks), (2, 3));
        let files: Vec<_> = summary
            .files
            .iter()
            .map(|file| (&*file.file, file.reached, file.blocks))
            .collect();
        assert_eq!(files, [("a.c", 1, 2), ("b.c", 1, 1)]);
        assert_eq!((summary.restarts, summary.per_second), (60, 15.0));
        assert_eq!(summary.full, 2);
    }
}
