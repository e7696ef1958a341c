// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The attackers of `crucible torture --adversary`, and the draws from a seed.
//!
//! The guest's program has a function for each name (`rootfs/adversary/attacks.c`).

use crucible_protocol::dice::Dice;

/// The system call that is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// restart(2), while its image stalls.
    Restart,
    /// checkpoint(2), while its image is not read.
    Checkpoint,
}

impl Side {
    /// Returns the name, as the guest's program has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// The moment at which an attacker acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the call: a property of its caller, or a forged image.
    Before,
    /// At the stall.
    Stall,
    /// It ends the run.
    End,
    /// It is a separate run.
    Alone,
}

/// An attacker.
#[derive(Debug)]
pub struct Attacker {
    /// Its name.
    pub name: &'static str,
    /// The moment at which it acts.
    pub when: When,
    /// The calls that it attacks.
    pub sides: &'static [Side],
    /// The findings of the kernel's audit that it stands for.
    pub findings: &'static [&'static str],
    /// True when it has the right to make the call fail, or to change the tree's environment.
    pub harms: bool,
    /// The result that would be a gain for the attacker.
    pub gain: &'static str,
}

const R: &[Side] = &[Side::Restart];
const C: &[Side] = &[Side::Checkpoint];
const BOTH: &[Side] = &[Side::Restart, Side::Checkpoint];

macro_rules! attackers {
    ($($name:literal $when:ident $sides:ident $findings:expr, $harms:literal, $gain:literal;)*) => {
        /// All attackers.
        pub static ATTACKERS: &[Attacker] = &[$(Attacker {
            name: $name,
            when: When::$when,
            sides: $sides,
            findings: &$findings,
            harms: $harms,
            gain: $gain,
        }),*];
    };
}

attackers! {
    "reap" Before R ["C3", "M11"], false, "wait4(__WALL) of another thread finds a task";
    "cage" Before R ["C2", "M12"], false, "the caller's seccomp filter is not in force";
    "limits" Before R ["M8"], true, "a task has a higher limit than the caller";
    "full-log" Before BOTH ["H2"], true, "a task waits for a reader of the log";
    "scheduling" Before R ["M6"], false, "a task has the caller's policy or CPUs";
    "unlinked" Before C ["C1"], true, "the image has a file that the caller may not read";
    "shared-memory" Before C ["H8"], true, "sharing with a task outside is cut";
    "namespace" Before C ["H6"], true, "a tree of another user namespace is saved";
    "dumpable" Before R ["M1"], true, "core dumps of root";
    "executable" Before R ["M3"], true, "a file of root cannot be written";
    "securebits" Before R ["M2"], true, "locked securebits change";
    "identity" Before R ["H6", "M2"], true, "a task has another user";
    "capabilities" Before R ["M2"], true, "a task has a right that its user does not have";
    "realtime" Before R ["M6"], true, "a task has a real-time policy";
    "nice" Before R ["M6"], true, "a task has a negative nice value";
    "alarm" Before R [], true, "a sleep that wakes the machine";
    "privileges" Before R ["C2"], true, "a task has no no_new_privs under a filter";
    "raise-limits" Before R ["M8"], true, "a task has a higher limit than the caller";
    "unsealed" Before R ["H1"], true, "sealed memory can be written";
    "proc-file" Before R ["M5", "C4"], true, "a file in /proc shows the caller's memory";
    "seccomp-stop" Before R ["M12"], true, "a warning: a seccomp stop without a filter";
    "seize" Stall R ["C3", "C4"], false, "a tracer of an unfinished task";
    "seize" Stall C ["H4"], true, "an image with a tracer that is not in it";
    "take-files" Stall R ["C4", "M14"], false, "a descriptor of an unfinished task";
    "take-files" Stall C ["C4"], true, "the tree is harmed";
    "open-proc" Stall BOTH ["C4"], false, "an open file in /proc of an unfinished task";
    "terminals" Stall R ["C5"], false, "an open terminal of an unfinished task";
    "terminals" Stall C ["C5"], true, "a report about a terminal that is being read";
    "signal-tasks" Stall R ["C3"], false, "a signal for an unfinished task";
    "signal-tasks" Stall C ["M10"], true, "an image that does not restart";
    "kill-tasks" Stall R ["C3"], false, "a signal for an unfinished task";
    "kill-tasks" Stall C ["M13"], true, "a task that exits before it has been read";
    "signal-many" Stall R ["C3"], false, "a signal for an unfinished task";
    "lower" Stall R ["M6"], false, "a changed priority or limit of an unfinished task";
    "move" Stall R ["M4"], false, "an unfinished task in another cgroup";
    "move" Stall C ["M4"], true, "a task that stays frozen";
    "child-cgroup" Stall BOTH ["M4"], false, "a cgroup that stays frozen";
    "thaw" Stall BOTH ["M4"], true, "a task that runs before its release";
    "thaw-and-freeze" Stall BOTH ["M4"], true, "a task that stays frozen";
    "checkpoint-too" Stall BOTH ["H4"], false, "an image of an unfinished tree";
    "strangers" Stall C ["H7"], false, "a walk through a tree that the caller may not trace";
    "names" Stall R ["C5"], false, "a datagram to an unfinished socket";
    "signal-caller" Stall BOTH ["H5", "M11"], true, "half an image, or a task that is left over";
    "stop-caller" Stall BOTH ["H5", "M11"], false, "an image that is written twice";
    "kill-caller" End BOTH ["H2", "M13"], true, "a task that is left";
    "kill-cgroup" End BOTH ["H2", "M13"], true, "a task that is left";
    "kill-namespace" End R ["H2"], true, "a pid namespace that never ends";
    "cut" End BOTH ["M11", "C3"], true, "a task that is left";
    "setuid-program" Alone C ["H3"], false, "the memory of a program of root";
}

/// Findings of the audit that no attacker can use, with the reason.
pub const WITHOUT: &[(&str, &str)] = &[
    (
        "M7",
        "CPU time that decreases: a loss, which the second image and the facts show",
    ),
    (
        "M9",
        "the registers of a fault: a loss, which the second image shows",
    ),
    (
        "M15",
        "a restart that can only fail: the checks of checkpoint(2), in tests/refused.rs",
    ),
    (
        "M16",
        "a file that can no longer be linked: a loss, which the second image shows",
    ),
];

/// An attack, as drawn from a seed.
#[derive(Clone, Debug)]
pub struct Attack {
    /// The call.
    pub side: Side,
    /// Number of the record or page after which the image stalls. The guest takes it modulo
    /// their number, so that consecutive seeds use each in turn.
    pub place: u64,
    /// The attackers.
    pub attackers: Vec<&'static Attacker>,
}

impl Attack {
    /// Draws an attack.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        // Drawn in one run of a hundred, because it takes as long as fifty others.
        if seed % 100 == 50 {
            return Self::of(
                Side::Checkpoint,
                seed,
                |one| one.when == When::Alone,
                1,
                &mut dice,
            );
        }
        let side = match dice.below(3) {
            0 => Side::Checkpoint,
            _ => Side::Restart,
        };
        let stall = 1 + dice.below(4) as usize;
        let mut attack = Self::of(side, seed, |one| one.when == When::Stall, stall, &mut dice);
        for (when, odds) in [(When::Before, 2), (When::End, 3)] {
            if dice.below(odds) == 0 {
                let more = Self::of(side, seed, |one| one.when == when, 1, &mut dice);
                attack.attackers.extend(more.attackers);
            }
        }
        attack.attackers.sort_by_key(|one| one.when as u8);
        attack
    }

    fn of(
        side: Side,
        place: u64,
        fits: impl Fn(&Attacker) -> bool,
        count: usize,
        dice: &mut Dice,
    ) -> Self {
        let all = ATTACKERS.iter();
        let mut attackers: Vec<_> = all.filter(|a| a.sides.contains(&side) && fits(a)).collect();
        while attackers.len() > count {
            attackers.swap_remove(dice.below(attackers.len() as u64) as usize);
        }
        Self {
            side,
            place,
            attackers,
        }
    }

    /// Returns the guest's command.
    pub fn command(&self, patience: u32) -> String {
        let names: Vec<_> = self.attackers.iter().map(|one| one.name).collect();
        let may = match self.attackers.iter().any(|one| one.harms) {
            true => "MAY_CHANGE=1 ",
            false => "",
        };
        format!(
            "PATIENCE={patience} {may}./adversary {} {} {}",
            self.side.name(),
            self.place,
            names.join(" ")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The audit has five critical, eight high and sixteen medium findings.
    #[test]
    fn each_finding_has_an_attacker_or_a_reason() {
        let numbers = [("C", 5), ("H", 8), ("M", 16)];
        let all: BTreeSet<_> = numbers
            .iter()
            .flat_map(|(kind, count)| (1..=*count).map(move |number| format!("{kind}{number}")))
            .collect();
        let attacked = ATTACKERS.iter().flat_map(|one| one.findings);
        let attacked: BTreeSet<_> = attacked.map(ToString::to_string).collect();
        let without: BTreeSet<_> = WITHOUT.iter().map(|(name, _)| name.to_string()).collect();
        assert!(attacked.is_disjoint(&without));
        assert_eq!(
            attacked.union(&without).cloned().collect::<BTreeSet<_>>(),
            all
        );
    }

    #[test]
    fn the_guests_program_has_the_same_attackers() {
        let source = include_str!("../../rootfs/adversary/attacks.c");
        let lines = source
            .lines()
            .filter_map(|line| line.strip_prefix("\t{ \""));
        let theirs: BTreeSet<_> = lines.filter_map(|line| line.split('"').next()).collect();
        let ours: BTreeSet<_> = ATTACKERS.iter().map(|one| one.name).collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn few_seeds_draw_every_attacker() {
        let attacks: Vec<_> = (1..=400).map(Attack::draw).collect();
        for attacker in ATTACKERS {
            let drawn = |attack: &&Attack| {
                attack
                    .attackers
                    .iter()
                    .any(|one| std::ptr::eq(*one, attacker))
            };
            assert!(attacks.iter().any(|a| drawn(&a)), "{}", attacker.name);
        }
        assert_eq!(Attack::draw(7).command(1), Attack::draw(7).command(1));
    }
}
