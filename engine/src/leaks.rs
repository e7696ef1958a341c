// SPDX-License-Identifier: Apache-2.0 OR MIT
//! kmemleak: memory that the guest's kernel has lost.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    guest::Guest,
};

/// Scans, and prints the leaks after a line that confirms the scan. kmemleak reports an
/// object once it is older than 5 s, counted by the kernel's own clock. The second scan clears
/// objects that the first one missed because a register or a stack still referred to them. If
/// kmemleak is off, the write fails, and with it the script.
const SCRIPT: &str = "set -e
cd /sys/kernel/debug
echo scan > kmemleak
sleep 6
echo scan > kmemleak
echo scanned
cat kmemleak";

/// Time limit of the scan with a kernel without slow checkers.
const LIMIT: Duration = Duration::from_secs(60);

/// The first line of a scan that worked.
const SCANNED: &str = "scanned";

/// Looks for leaks in a guest that runs nothing else.
///
/// # Errors
/// [`Condition::Leak`] with kmemleak's report; [`Condition::LeakScanFailed`] if kmemleak is off or
/// does not answer.
pub fn scan(guest: &mut Guest, slowness: u32) -> Result<(), Abort> {
    let argv = ["/bin/sh", "-c", SCRIPT].map(String::from);
    let run = guest
        .exec(&argv, &BTreeMap::new(), "/", LIMIT * slowness)
        .map_err(|error| Abort::guest(Phase::After, error))?;
    let mut lines = run.stdout.lines();
    if !run.success() || lines.next() != Some(SCANNED) {
        let why = format!("cannot scan for leaks: {}", run.stderr.trim());
        return Err(Abort::new(Condition::LeakScanFailed, why));
    }
    let found: Vec<_> = lines.map(str::to_owned).collect();
    if found.is_empty() {
        return Ok(());
    }
    let objects = found.iter().filter(|line| line.starts_with("unreferenced"));
    let why = format!("kmemleak found {} unreachable objects", objects.count());
    Err(Abort::new(Condition::Leak, why).with(found))
}
