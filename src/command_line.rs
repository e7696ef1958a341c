// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command that repeats a run, with every option that matters, quoted for a shell.

use clap::ValueEnum;
use crucible_artefacts::kernel::Flavour;

use crate::boot_artefacts::{FlavourArg, GuestArgs};
use crate::context;

/// A command line that is being put together.
#[derive(Clone, Debug)]
pub struct CommandLine(String);

impl CommandLine {
    /// Begins with the name of this program and a command.
    pub fn new(command: &str) -> Self {
        Self(format!("{} {command}", context::program()))
    }

    /// Adds a word.
    pub fn word(mut self, word: &str) -> Self {
        self.0.push(' ');
        self.0.push_str(&quoted(word));
        self
    }

    /// Adds an option that has a value.
    pub fn option(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.word(name).word(&value.to_string()),
            None => self,
        }
    }

    /// Adds an option without a value, if it is set.
    pub fn flag(self, name: &str, set: bool) -> Self {
        match set {
            true => self.word(name),
            false => self,
        }
    }

    /// Adds the options of the guest that are not the default.
    pub fn guest(self, args: &GuestArgs) -> Self {
        let kernel = &args.kernel;
        let flavour = (kernel.flavour != FlavourArg::Base)
            .then(|| Flavour::from(kernel.flavour).name().to_owned());
        let path =
            |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string());
        let machine = args.machine.machine.to_possible_value();
        let machine = machine.filter(|value| value.get_name() != "auto");
        let vcpus = args.machine.vcpus;
        // The default of `MachineArgs`.
        let usual = if kernel.flavour == FlavourArg::Kcsan {
            2
        } else {
            1
        };
        self.option("--flavour", flavour)
            .option("--kernel", path(&kernel.kernel))
            .option("--kernel-src", path(&kernel.kernel_src))
            .option("--config", path(&kernel.config))
            .option("--cc", kernel.cc.as_ref())
            .option(
                "--machine",
                machine.map(|value| value.get_name().to_owned()),
            )
            .option("--vcpus", (vcpus != usual).then_some(vcpus))
            .option("--memory", args.machine.memory)
            .flag("--cold", args.machine.cold)
    }

    /// Returns the command line.
    pub fn text(self) -> String {
        self.0
    }
}

/// Returns a word quoted for a shell, without NULs, which no argument can contain.
pub fn quoted(word: &str) -> String {
    let word = word.replace('\0', "");
    shlex::try_quote(&word).map_or_else(|_| word.clone(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_words_back() {
        let line = CommandLine::new("scenario")
            .word("a dir/it's")
            .option("--at", Some("syscall:*:1"))
            .flag("--cold", false)
            .text();
        let words = shlex::split(&line).unwrap();
        let ours = &words[words.len() - 4..];
        assert_eq!(ours, ["scenario", "a dir/it's", "--at", "syscall:*:1"]);
    }
}
