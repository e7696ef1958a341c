// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible doctor`

mod first_run;
mod paths;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;
use crucible_artefacts::kernel::{self, Flavour};
use crucible_artefacts::{Cache, Sources, host, rootfs};
use crucible_vmm::HostConfinement;
use serde::Serialize;

use crate::context::Context;
use crate::exit;
use crate::machines;
use crate::stdout;

/// A finding that no run needs.
const DEBUG_KERNEL: &str = "debug kernel";

/// The options of `crucible doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// True when nothing is missing.
    ready: bool,
    findings: Vec<Finding>,
    /// The command that installs missing packages.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Debug, Serialize)]
struct Finding {
    state: State,
    what: &'static str,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Present.
    Ok,
    /// Built on first use.
    Later,
    /// Missing; crucible does not work without it.
    Missing,
    /// Missing or unusable, but not needed.
    Note,
}

impl Finding {
    fn new(state: State, what: &'static str, detail: String) -> Self {
        Self {
            state,
            what,
            detail,
        }
    }
}

/// Examines this host and prints the findings.
pub fn run(args: &DoctorArgs, context: &Context) -> Result<ExitCode> {
    let report = examine(context)?;
    if args.json {
        stdout::line(format_args!("{}", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&report)?;
    }
    let code = if report.ready { exit::PASS } else { exit::HOST };
    Ok(code.into())
}

fn examine(context: &Context) -> Result<Report> {
    let mut findings = vec![qemu(), confinement()];
    let cache = context.cache();
    if cache.is_ok() {
        findings.push(kvm(context)?);
    }
    let missing = host::missing()?;
    findings.push(packages(&missing));

    findings.push(paths::cache(cache.as_ref().map(Cache::root)));
    findings.push(paths::results(context.results()));
    let mut built = false;
    match (context.sources(), &cache) {
        (Ok(sources), Ok(cache)) => {
            findings.push(paths::readable("sources", sources.root()));
            let artefacts = artefacts(cache, &sources)?;
            // The debug kernel is built only for commands that use it.
            built = artefacts
                .iter()
                .all(|f| f.state == State::Ok || f.what == DEBUG_KERNEL);
            findings.extend(artefacts);
        }
        (Err(error), _) => {
            findings.push(Finding::new(State::Missing, "sources", error.to_string()));
        }
        (Ok(_), Err(_)) => {}
    }
    findings.push(first_run::memory()?);
    if let Ok(cache) = &cache {
        findings.push(first_run::disk(cache.root())?);
    }
    if !built {
        findings.push(first_run::network());
        findings.push(first_run::time());
    }
    let mend = (!missing.is_empty()).then(|| host::install_command(&missing));
    Ok(Report {
        ready: findings.iter().all(|f| f.state != State::Missing),
        findings,
        mend,
    })
}

fn qemu() -> Finding {
    let version = Command::new("qemu-system-x86_64").arg("--version").output();
    let (state, detail) = match version {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let first = text.lines().next().unwrap_or_default().to_owned();
            (State::Ok, first)
        }
        Err(error) => (State::Missing, error.to_string()),
    };
    Finding {
        state,
        what: "qemu",
        detail,
    }
}

/// Runs a probe, because being able to open `/dev/kvm` is not enough.
fn kvm(context: &Context) -> Result<Finding> {
    let finding = machines::probe(context)?;
    let there = Path::new("/dev/kvm").exists();
    Ok(Finding {
        state: if finding.usable {
            State::Ok
        } else {
            State::Note
        },
        what: "kvm",
        detail: match (finding.usable, there) {
            (true, _) => format!("/dev/kvm {}", finding.detail),
            (false, true) => format!(
                "/dev/kvm exists but is not used, guests run in QEMU: {}",
                finding.detail
            ),
            (false, false) => format!("guests run in QEMU: {}", finding.detail),
        },
    })
}

/// Examines how well guests can be isolated from this host.
fn confinement() -> Finding {
    let (state, detail) = match crucible_vmm::confinement() {
        Ok(HostConfinement {
            files: true,
            network: true,
        }) => (
            State::Ok,
            "a guest's process has no access to other files or to the network".into(),
        ),
        Ok(HostConfinement { files, network }) => {
            let mut missing = Vec::new();
            if !files {
                missing.push("has access to all files of its user (no Landlock in this kernel)");
            }
            if !network {
                missing.push(
                    "stays in the host's network namespace (this user may not make one), \
                     although it can make no sockets",
                );
            }
            let detail = format!("the process of a guest in QEMU {}", missing.join(" and "));
            (State::Note, detail)
        }
        Err(error) => (State::Note, format!("cannot be examined: {error}")),
    };
    Finding {
        state,
        what: "confinement",
        detail,
    }
}

fn packages(missing: &[host::Package]) -> Finding {
    let (state, detail) = if missing.is_empty() {
        let count = host::PACKAGES.len();
        (State::Ok, format!("all {count} are installed"))
    } else {
        let list: Vec<_> = missing
            .iter()
            .map(|package| format!("{} ({})", package.name, package.purpose))
            .collect();
        (State::Missing, list.join(", "))
    };
    Finding {
        state,
        what: "packages",
        detail,
    }
}

fn artefacts(cache: &Cache, sources: &Sources) -> Result<Vec<Finding>> {
    let finding = |what, path: Option<std::path::PathBuf>| match path {
        Some(path) => Finding {
            state: State::Ok,
            what,
            detail: path.display().to_string(),
        },
        None => Finding {
            state: State::Later,
            what,
            detail: "not built yet; built on first use".into(),
        },
    };
    // The compiler is part of the kernel's hash.
    let image = |flavour| {
        kernel::cached(cache, sources, flavour)
            .ok()
            .flatten()
            .map(|kernel| kernel.image)
    };
    Ok(vec![
        finding("base kernel", image(Flavour::Base)),
        finding(DEBUG_KERNEL, image(Flavour::Debug)),
        finding("userland", rootfs::debian_cached(cache, sources)?),
    ])
}

fn print(report: &Report) -> Result<()> {
    for finding in &report.findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Later => "later",
            State::Missing => "MISSING",
            State::Note => "note",
        };
        stdout::line(format_args!(
            "{state:8}{:14}{}",
            finding.what, finding.detail
        ))?;
    }
    match (&report.mend, report.ready) {
        (Some(command), _) => {
            stdout::line(format_args!("\nTo install missing packages:\n  {command}"))?;
        }
        (None, true) => stdout::line(format_args!("\nThis host is ready."))?,
        (None, false) => {}
    }
    Ok(())
}
