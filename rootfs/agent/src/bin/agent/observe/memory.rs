// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Observes the mappings of a process: their flags, locked memory, and a hash of the private pages.

use std::{collections::HashSet, fs::File, io, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result};
use crucible_protocol::facts::table::{self, Use};
use xxhash_rust::xxh64::Xxh64;

const PAGE: u64 = 4096;

/// Number of entries of `pagemap` that are read at once.
const ENTRIES: u64 = 4096;

/// Bits of an entry of `pagemap`.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Returns the lines of `smaps` that are facts: one for each mapping.
///
/// # Errors
/// Fails if the kernel shows a line that the table does not have.
pub fn smaps(text: &str) -> Result<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        // The first line of a mapping begins with its addresses.
        if name.contains('-') {
            let addresses = line.split(' ').next().unwrap_or_default();
            lines.push(addresses.to_owned());
            continue;
        }
        let known = table::find(table::SMAPS, name).with_context(|| unknown("smaps", name))?;
        if let (Use::Compared, Some(mapping)) = (known, lines.last_mut()) {
            // Soft-dirty: written to since the bits were last cleared.
            let words = value.split_whitespace().filter(|word| *word != "sd");
            let words: Vec<_> = words.collect();
            mapping.push_str(&format!(" {name}:{}", words.join(" ")));
        }
    }
    Ok(lines)
}

/// Returns the message for a field that no table has.
pub fn unknown(file: &str, name: &str) -> String {
    format!(
        "the kernel shows `{name}` in {file}, which protocol/src/facts/table.rs has neither as a fact \
         nor as none"
    )
}

/// Returns the addresses of the mappings whose content the kernel may drop at any time
/// (MAP_DROPPABLE). An image does not have that content.
fn droppable(smaps: &str) -> HashSet<&str> {
    let mut found = HashSet::new();
    let mut addresses = "";
    for line in smaps.lines() {
        match line.strip_prefix("VmFlags:") {
            Some(flags) if flags.split_whitespace().any(|flag| flag == "dp") => {
                found.insert(addresses);
            }
            Some(_) => {}
            None if line.split(':').next().unwrap_or("").contains('-') => {
                addresses = line.split(' ').next().unwrap_or("");
            }
            None => {}
        }
    }
    found
}

/// Returns a hash of the private pages of each mapping of a process that are not zero, as a line
/// for each mapping that has some. Pages that the kernel may drop are left out.
///
/// # Errors
/// Fails if the memory cannot be read.
pub fn hashes(dir: &Path, maps: &str, smaps: &str) -> Result<Vec<String>> {
    let droppable = droppable(smaps);
    let open =
        |name: &str| File::open(dir.join(name)).with_context(|| format!("cannot open {name}"));
    let (memory, pagemap) = (open("mem")?, open("pagemap")?);
    let mut lines = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (addresses, access) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let Some((start, end)) = range(addresses).filter(|_| access.ends_with('p')) else {
            continue;
        };
        if droppable.contains(addresses) || line.ends_with("[vvar]") || line.ends_with("[vsyscall]")
        {
            continue;
        }
        let (count, hash) = hash(&memory, &pagemap, start, end)
            .with_context(|| format!("cannot read the memory at {addresses}"))?;
        if count > 0 {
            lines.push(format!("{addresses} {count} pages {hash:016x}"));
        }
    }
    Ok(lines)
}

fn range(addresses: &str) -> Option<(u64, u64)> {
    let (start, end) = addresses.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

/// Returns the number of private pages that are not zero, and a hash of them and their addresses.
fn hash(memory: &File, pagemap: &File, start: u64, end: u64) -> io::Result<(u64, u64)> {
    let (mut count, mut hash) = (0, Xxh64::new(0));
    let mut entries = vec![0; (ENTRIES * 8) as usize];
    let mut page = [0; PAGE as usize];
    let (mut number, last) = (start / PAGE, end / PAGE);
    while number < last {
        let part = ENTRIES.min(last - number);
        let bytes = &mut entries[..(part * 8) as usize];
        pagemap.read_exact_at(bytes, number * 8)?;
        for (n, entry) in (number..).zip(bytes.chunks_exact(8)) {
            let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
            if entry & (PRESENT | SWAPPED) == 0 || entry & OF_FILE != 0 {
                continue;
            }
            memory.read_exact_at(&mut page, n * PAGE)?;
            if page.iter().any(|&byte| byte != 0) {
                count += 1;
                hash.update(&n.to_le_bytes());
                hash.update(&page);
            }
        }
        number += part;
    }
    Ok((count, hash.digest()))
}
