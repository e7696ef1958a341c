// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible bisect`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use crucible_bisect::{Options, Setting};
use crucible_engine::EventSpec;
use crucible_engine::trial;

use crate::bisection::{self, Question, Ran, Range};
use crate::boot_artefacts::{self, GuestArgs};
use crate::command_line::CommandLine;
use crate::commands::scenario;
use crate::context::{self, Context};
use crate::exit::Usage;

/// Probability of an answer, if none is given.
const CONFIDENCE: f64 = 0.99;

/// Seconds to look for another setting, if none are given.
const AMPLIFY: u32 = 120;

/// The bad end, if none is given.
const HEAD: &str = "HEAD";

/// Number of runs after which a search ends, if none is given.
const RUNS: u64 = 2000;

/// The options of `crucible bisect`.
#[derive(Debug, Args)]
pub struct BisectArgs {
    /// Scenarios that fail: names that `crucible list` prints, or directories
    #[arg(required = true, value_name = "SCENARIO")]
    names: Vec<String>,
    /// A commit that does not fail; with --axis series also a directory with a series, such as an
    /// older checkout
    #[arg(long, help_heading = "Commits", value_name = "REV")]
    good: Option<String>,
    /// A commit that fails, or a directory with a series; default: HEAD, or the current files of
    /// the series
    #[arg(long, help_heading = "Commits", value_name = "REV")]
    bad: Option<String>,
    /// What to search: commits; the lines of the fragment of --config, added one by one; the events
    /// up to the one of --at; or the patches and files of our series that have changed since --good
    #[arg(
        long,
        help_heading = "Commits",
        value_enum,
        default_value_t,
        value_name = "AXIS"
    )]
    axis: Axis,
    /// Repository with the commits: a kernel tree, with or without checkpoint/restart, or a checkout
    /// of crucible; this checkout otherwise
    #[arg(long, help_heading = "Commits", value_name = "DIR")]
    src: Option<PathBuf>,
    /// Stop at this event instead of the scenario's
    #[arg(long, help_heading = "What to run", value_name = "EVENT")]
    at: Option<EventSpec>,
    /// Run only this case of the scenario; may be given several times
    #[arg(long, help_heading = "What to run", value_name = "CASE")]
    case: Vec<String>,
    /// Checkpoint, kill and restart each run N times: at the event, and then at the next ones
    #[arg(long, help_heading = "What to run", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    chain: u32,
    /// Keep the vCPUs of each guest busy with N processes
    #[arg(long, help_heading = "What to run", value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=64))]
    load: u32,
    /// Limit for each wait, in seconds, instead of the scenario's
    #[arg(long, help_heading = "What to run", value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Look for the failure whose name contains this, instead of the most frequent one of the bad
    /// commit; the screen of an earlier search names all failures
    #[arg(long, help_heading = "Search", value_name = "TEXT")]
    signature: Option<String>,
    /// Continue until the answer has this probability
    #[arg(long, help_heading = "Search", value_name = "P", default_value_t = CONFIDENCE, value_parser = confidence)]
    confidence: f64,
    /// Look for a setting in which the failure is more frequent, for at most this time: two vCPUs,
    /// busy vCPUs, several restarts in a run, another event; 0 looks for none
    #[arg(
        long,
        help_heading = "Search",
        value_name = "SECONDS",
        default_value_t = AMPLIFY
    )]
    amplify: u32,
    /// Give up after this many runs
    #[arg(long, help_heading = "Search", value_name = "N", default_value_t = RUNS, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Print the record as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Never prune this results directory
    #[arg(long, help_heading = "Output")]
    keep: bool,
    #[command(flatten)]
    guest: GuestArgs,
}

/// What differs between the kernels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Axis {
    #[default]
    Commits,
    Config,
    Event,
    Series,
}

/// Bisects, and reports the first bad commit.
pub fn run(args: &BisectArgs, context: &Context) -> Result<ExitCode> {
    let kernel = &args.guest.kernel;
    if kernel.kernel.is_some() || kernel.kernel_src.is_some() {
        let why = "`bisect` builds the kernels of its range: name the tree with --src";
        return Err(Usage(why.into()).into());
    }
    let (range, mut guest) = args.range(context)?;
    guest.machine.load = args.load;
    let mut scenarios = scenario::load(&args.names, false, &context.root()?).map_err(Usage)?;
    match &mut scenarios[..] {
        [one] => scenario::choose_cases(one, &args.case).map_err(Usage)?,
        _ if args.case.is_empty() => {}
        _ => return Err(Usage("--case is for one scenario".into()).into()),
    }
    let question = Question {
        scenarios,
        trial: trial::Options {
            repeat: 1,
            at: args.at.clone().filter(|_| args.axis != Axis::Event),
            chain: args.chain,
            timeout: args.timeout,
            ..trial::Options::default()
        },
        options: Options {
            confidence: args.confidence,
            signature: args.signature.clone(),
            amplify_seconds: args.amplify.into(),
            runs: args.runs,
            ..Options::default()
        },
        range,
        guest,
        json: args.json,
        keep: args.keep,
        reproduce: &|setting| args.reproduce(setting),
        scenario: &|setting, has_others, kernel| args.scenario(setting, has_others, kernel),
    };
    bisection::run(&question, context)
}

impl BisectArgs {
    /// Returns the subject of the search, and the guest's options without it.
    fn range(&self, context: &Context) -> Result<(Range, GuestArgs)> {
        let mut guest = self.guest.clone();
        let usage = |why: &str| Usage(why.into());
        let range = match self.axis {
            Axis::Commits => Range::Commits {
                source: match &self.src {
                    Some(source) => source.clone(),
                    None => context.sources()?.root().to_owned(),
                },
                good: match &self.good {
                    Some(good) => good.clone(),
                    None => {
                        return Err(usage("--good REV names a commit that does not fail").into());
                    }
                },
                bad: self.bad.clone().unwrap_or_else(|| HEAD.to_owned()),
            },
            Axis::Series if self.src.is_some() => {
                let why = "--axis series is for the series of this checkout: leave --src out";
                return Err(usage(why).into());
            }
            Axis::Series => {
                let good = self.good.clone();
                let why = "--axis series needs --good: a revision, or a directory with a series, that \
                           does not fail";
                Range::Series {
                    good: good.ok_or_else(|| usage(why))?,
                    bad: self.bad.clone(),
                }
            }
            Axis::Config => {
                let fragment = guest.kernel.config.take();
                Range::Config(fragment.ok_or_else(|| usage("--axis config needs --config"))?)
            }
            Axis::Event if self.chain > 1 => {
                let why =
                    "a chain restarts at later events as well: leave --chain or --axis event out";
                return Err(usage(why).into());
            }
            Axis::Event => {
                let last = self.at.clone();
                Range::Events(last.ok_or_else(|| usage("--axis event needs --at"))?)
            }
        };
        Ok((range, guest))
    }

    /// Returns the command that repeats the search. With a setting, it has that setting's options
    /// and does not look for another one.
    fn reproduce(&self, setting: Option<&Setting>) -> String {
        let mut line = CommandLine::new("bisect");
        let (scenario, case) = setting
            .and_then(|setting| setting.case.split_once('/'))
            .unzip();
        let is_it = |name: &&String| scenario.is_none_or(|it| named(name) == it);
        for name in self.names.iter().filter(is_it) {
            line = line.word(name);
        }
        let cases = case.map_or_else(|| self.case.clone(), |case| vec![case.to_owned()]);
        for case in cases {
            line = line.option("--case", Some(case));
        }
        let axis = match self.axis {
            Axis::Commits => None,
            Axis::Config => Some("config"),
            Axis::Event => Some("event"),
            Axis::Series => Some("series"),
        };
        let head = axis.is_none().then(|| HEAD.to_owned());
        let is_range = matches!(self.axis, Axis::Commits | Axis::Series);
        let bad = self.bad.clone().or(head).filter(|_| is_range);
        let usual = Setting {
            at: self.at.as_ref().map(ToString::to_string),
            timeout: self.timeout,
            chain: self.chain,
            load: self.load,
            ..Setting::default()
        };
        let chosen = setting.unwrap_or(&usual);
        let amplify = match setting {
            Some(_) => Some(0),
            None => (self.amplify != AMPLIFY).then_some(self.amplify),
        };
        let mut guest = self.guest.clone();
        if let Some(Ok(vcpus)) = setting.map(|setting| u8::try_from(setting.vcpus)) {
            guest.machine.vcpus = vcpus;
        }
        let of_axis = self.at.as_ref().filter(|_| self.axis == Axis::Event);
        line.option("--axis", axis)
            .option("--good", self.good.as_ref())
            .option("--bad", bad)
            .option("--src", self.src.as_ref().map(|path| path.display()))
            .option(
                "--at",
                of_axis.map(ToString::to_string).or(chosen.at.clone()),
            )
            .option("--timeout", chosen.timeout)
            .option("--chain", (chosen.chain > 1).then_some(chosen.chain))
            .option("--load", (chosen.load > 0).then_some(chosen.load))
            .option("--signature", self.signature.as_ref())
            .option(
                "--confidence",
                (self.confidence != CONFIDENCE).then_some(self.confidence),
            )
            .option("--amplify", amplify)
            .option("--runs", (self.runs != RUNS).then_some(self.runs))
            .guest(&guest)
            .text()
    }
}

impl BisectArgs {
    /// Returns the command that runs the case of a setting on a kernel. The case is named if its
    /// scenario has others.
    fn scenario(&self, setting: &Setting, has_others: bool, kernel: Ran<'_>) -> String {
        let (scenario, case) = setting.case.split_once('/').unzip();
        let is_it = |given: &&String| scenario.is_none_or(|name| named(given) == name);
        let mut line = CommandLine::new("scenario");
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if let Some(name) = self.names.iter().find(is_it) {
            // A command that runs in a kernel's tree finds no relative path.
            let is_directory = name.contains('/') || named(name) != *name;
            line = match kernel {
                Ran::Tree if is_directory => line.word(&absolute(name.as_ref()).to_string_lossy()),
                _ => line.word(name),
            };
        }
        // `has_others` does not count the cases that --case has left out.
        let is_one_of_many = has_others || !self.case.is_empty();
        line = line.option("--case", case.filter(|_| is_one_of_many));
        let mut guest = self.guest.clone();
        for (option, value) in setting.options() {
            // The number of vCPUs is an option of the guest, whose default depends on the flavour.
            if option != "--vcpus" {
                line = line.option(option, Some(value));
            }
        }
        guest.machine.vcpus = u8::try_from(setting.vcpus).unwrap_or(guest.machine.vcpus);
        let build = &mut guest.kernel;
        match kernel {
            Ran::Checkout => {}
            Ran::Tree => {
                build.config = build.config.take().map(|path| absolute(&path));
                build.cc = build.cc.take().map(|cc| boot_artefacts::absolute(&cc));
                build.kernel_src = Some(".".into());
            }
            Ran::Image(image) => {
                // The image was built with both.
                (build.config, build.cc) = (None, None);
                build.kernel = Some(context::shown(image).into());
            }
        }
        line.guest(&guest).text()
    }
}

/// Returns the name of a scenario that is given by its name or its directory, such as `.`.
fn named(given: &str) -> String {
    let directory = Path::new(given).canonicalize();
    let path = directory.unwrap_or_else(|_| PathBuf::from(given));
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Parses a probability that a search can reach.
fn confidence(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.5..1.0).contains(&value) => Ok(value),
        _ => Err("a probability from 0.5 to below 1, such as 0.99".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: BisectArgs,
    }

    #[test]
    fn a_scenario_has_the_name_of_its_directory() {
        assert_eq!(named("hello"), "hello");
        assert_eq!(named("nowhere/pipe/"), "pipe");
        let here = std::env::current_dir().unwrap();
        assert_eq!(named("."), here.file_name().unwrap().to_str().unwrap());
    }

    #[test]
    fn a_chain_is_not_for_the_axis_of_events() {
        let words = "bisect hello --axis event --at vfork:8 --chain 3";
        let args = Cli::try_parse_from(words.split(' ')).unwrap().args;
        let context = Context::new(&crate::context::Global {
            no_install: true,
            quiet: true,
            verbose: false,
        });
        let error = args
            .range(&context)
            .err()
            .expect("a usage error")
            .to_string();
        assert!(
            error.contains("leave --chain or --axis event out"),
            "{error}"
        );
    }

    #[test]
    fn the_command_that_searches_again_has_the_options_that_matter() {
        let parse = |words: &[&str]| {
            let words = std::iter::once(&"bisect").chain(words);
            Cli::try_parse_from(words).map(|cli| cli.args)
        };
        let args = parse(&["hello", "--good", "v1"]).unwrap();
        assert_eq!(args.confidence, 0.99);
        let line = "cargo run -q -- bisect hello --good v1 --bad HEAD";
        assert_eq!(args.reproduce(None), line);
        let series = parse(&["hello", "--axis", "series", "--good", "v1"]).unwrap();
        assert!(
            series
                .reproduce(None)
                .ends_with("hello --axis series --good v1")
        );
        let event = parse(&["hello", "--axis", "event", "--at", "vfork:8"]).unwrap();
        assert!(event.reproduce(None).ends_with("--axis event --at vfork:8"));
        let sure = parse(&["hello", "--good", "v1", "--confidence", "0.9999"]).unwrap();
        assert!(sure.reproduce(None).ends_with("--confidence 0.9999"));
        // The command has the setting that was found.
        let words = ["hello", "dir/pipe/", "--good", "v1", "--amplify", "60"];
        let two = parse(&words).unwrap();
        let setting = Setting {
            case: "pipe/main".into(),
            at: Some("all:@2:7".into()),
            vcpus: 2,
            chain: 4,
            load: 2,
            timeout: None,
        };
        let line = two.reproduce(Some(&setting));
        let wanted = "bisect dir/pipe/ --case main --good v1 --bad HEAD --at all:@2:7 --chain 4 \
                      --load 2 --amplify 0 --vcpus 2";
        assert!(line.ends_with(wanted), "{line}");
        let again: Vec<_> = line
            .split_whitespace()
            .skip_while(|it| *it != "bisect")
            .collect();
        let again = parse(&again[1..]).unwrap();
        assert_eq!(again.reproduce(None), line);
        for wrong in ["1", "0.3", "x", "NaN"] {
            assert!(parse(&["hello", "--good", "v1", "--confidence", wrong]).is_err());
        }
    }

    #[test]
    fn the_command_that_runs_the_culprit_has_the_options_that_matter() {
        let parse = |words: &str| {
            let words = std::iter::once("bisect").chain(words.split(' '));
            Cli::try_parse_from(words).unwrap().args
        };
        let setting = Setting {
            case: "pipe/main".into(),
            at: Some("vfork:2".into()),
            vcpus: 2,
            chain: 4,
            load: 2,
            timeout: Some(9),
        };
        let guest = "--flavour debug --config x.config --cc clang --machine qemu --vcpus 2 \
                     --memory 2048 --cold";
        let args = parse(&format!("hello dir/pipe/ --good v1 {guest}"));
        let options = "--case main --at vfork:2 --timeout 9 --chain 4 --load 2 --flavour debug";
        let scenario = format!("scenario dir/pipe/ {options}");
        let machine = "--machine qemu --vcpus 2 --memory 2048 --cold";
        let checkout = args.scenario(&setting, true, Ran::Checkout);
        let wanted = format!("{scenario} --config x.config --cc clang {machine}");
        assert!(checkout.ends_with(&wanted), "{checkout}");
        // The image conflicts with options of its build.
        let image = args.scenario(&setting, true, Ran::Image(Path::new("vmlinux")));
        let wanted = format!("{scenario} --kernel vmlinux {machine}");
        assert!(image.ends_with(&wanted), "{image}");
        let tree = args.scenario(&setting, true, Ran::Tree);
        let config = std::path::absolute("x.config").unwrap();
        let config = config.display();
        let pipe = std::path::absolute("dir/pipe/").unwrap();
        let pipe = pipe.display();
        let wanted = format!(
            "scenario {pipe} {options} --kernel-src . --config {config} --cc clang {machine}"
        );
        assert!(tree.ends_with(&wanted), "{tree}");
        // The only case of a scenario is not named, and one that was chosen is.
        let usual = Setting {
            case: "hello/main".into(),
            ..Setting::default()
        };
        let one = parse("hello --good v1").scenario(&usual, false, Ran::Checkout);
        assert!(one.ends_with(" -- scenario hello"), "{one}");
        // The flavour kcsan has two vCPUs unless the command says otherwise.
        let races = parse("hello --good v1 --flavour kcsan --vcpus 1");
        let line = races.scenario(&usual, false, Ran::Checkout);
        assert!(line.ends_with("hello --flavour kcsan --vcpus 1"), "{line}");
        assert!(races.reproduce(None).ends_with("--flavour kcsan --vcpus 1"));
        let two = Setting {
            vcpus: 2,
            ..usual.clone()
        };
        let line = parse("hello --good v1 --flavour kcsan").scenario(&two, false, Ran::Checkout);
        assert!(line.ends_with("hello --flavour kcsan"), "{line}");
        let chosen = parse("hello --case main --good v1").scenario(&usual, false, Ran::Checkout);
        assert!(chosen.ends_with("scenario hello --case main"), "{chosen}");
    }
}
