// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The blocks of a kernel at which KCOV counts: the calls of `__sanitizer_cov_trace_pc()` that the
//! compiler has put into each basic block of the instrumented code.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use walkdir::WalkDir;

use crate::{Error, Result};

/// The function that is called.
const COUNTER: &str = "__sanitizer_cov_trace_pc";

/// The file name for functions whose source is not known.
const UNKNOWN: &str = "elsewhere";

/// Each block by the low half of its address, as KCOV reports it, with the name of its source file.
pub type Blocks = BTreeMap<u32, String>;

/// Returns the blocks of the kernel `image`. The instrumented sources are in `sources`: the symbol
/// table names the files of static functions only.
///
/// # Errors
/// The image or a source cannot be read.
pub fn blocks(image: &Path, sources: &Path) -> Result<Blocks> {
    let data = fs::read(image).map_err(Error::file("read", image))?;
    let wrong = |error: object::Error| Error::Malformed {
        path: image.to_owned(),
        problem: error.to_string(),
    };
    let elf = ElfFile64::<Endianness>::parse(&*data).map_err(wrong)?;
    let Some(counter) = elf.symbols().find(|symbol| symbol.name() == Ok(COUNTER)) else {
        return Ok(Blocks::new());
    };
    let functions = functions(&elf);
    let defined = defined(sources)?;
    let mut blocks = Blocks::new();
    for section in elf.sections().filter(|s| s.kind() == SectionKind::Text) {
        let code = section.data().map_err(wrong)?;
        for address in calls(code, section.address(), counter.address()) {
            let function = functions.range(..address).next_back();
            let file = match function {
                Some((_, (_, Some(file)))) => Some(file.clone()),
                Some((_, (name, None))) => defined.get(name).cloned(),
                None => None,
            };
            blocks.insert(address as u32, file.unwrap_or_else(|| UNKNOWN.to_owned()));
        }
    }
    Ok(blocks)
}

/// Returns the return addresses of the calls of `target` in the code at `start`.
fn calls(code: &[u8], start: u64, target: u64) -> impl Iterator<Item = u64> + '_ {
    // e8, and the distance of the target from the next instruction
    let windows = code.windows(5).enumerate();
    windows.filter_map(move |(at, bytes)| {
        let [0xe8, distance @ ..] = bytes else {
            return None;
        };
        let distance = i32::from_le_bytes(distance.try_into().ok()?);
        let next = start + at as u64 + 5;
        (next.wrapping_add_signed(distance.into()) == target).then_some(next)
    })
}

/// Returns the functions by address, each with its name and, if it is static, its file.
fn functions(elf: &ElfFile64<'_, Endianness>) -> BTreeMap<u64, (String, Option<String>)> {
    let mut functions = BTreeMap::new();
    let mut file = None;
    // The symbols of a file follow its name.
    for symbol in elf.symbols() {
        let name = symbol.name().unwrap_or_default();
        match symbol.kind() {
            SymbolKind::File => file = Some(name.to_owned()),
            SymbolKind::Text => {
                let file = file.clone().filter(|_| symbol.is_local());
                let known = functions.entry(symbol.address());
                // If an address has two names, keep the one with a file.
                let known = known.or_insert_with(|| (name.to_owned(), None));
                if known.1.is_none() {
                    known.1 = file;
                }
            }
            _ => {}
        }
    }
    functions
}

/// Returns the file that defines each function which is not static. A definition begins in the
/// first column, as kernel style requires.
fn defined(sources: &Path) -> Result<HashMap<String, String>> {
    let mut defined = HashMap::new();
    for entry in WalkDir::new(sources).into_iter().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        let file = entry.file_name().to_string_lossy();
        for name in text.lines().filter_map(definition) {
            defined.insert(name.to_owned(), file.clone().into_owned());
        }
    }
    Ok(defined)
}

/// Returns the name of the function to whose definition this line belongs.
fn definition(line: &str) -> Option<&str> {
    if line.starts_with([' ', '\t', '#', '/', '*', '}']) || line.ends_with(';') {
        return None;
    }
    let (head, _) = line.split_once('(')?;
    let name = head.rsplit([' ', '*', '\t']).next()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_counter_are_found_by_where_they_return_to() {
        // nop; call 0x2000; call 0x2001; a call whose distance has an e8 in it
        let code = [
            &[0x90, 0xe8][..],
            &0xffa_i32.to_le_bytes(),
            &[0xe8],
            &0xff6_i32.to_le_bytes(),
            &[0xe8],
            &0xff0_i32.to_le_bytes(),
        ]
        .concat();
        let found: Vec<_> = calls(&code, 0x1000, 0x2000).collect();
        assert_eq!(found, [0x1006, 0x1010]);
    }

    #[test]
    fn definitions_are_told_from_declarations_and_calls() {
        let name = "ckpt_dump";
        assert_eq!(
            definition("int ckpt_dump(struct ckpt_ctx *ctx)"),
            Some(name)
        );
        assert_eq!(
            definition("struct file *ckpt_dump(struct ckpt_ctx *ctx,"),
            Some(name)
        );
        assert_eq!(definition("int ckpt_dump(struct ckpt_ctx *ctx);"), None);
        assert_eq!(definition("\tret = ckpt_dump(ctx);"), None);
        assert_eq!(definition("#define ckpt_dump(x) x"), None);
    }

    #[test]
    fn an_image_without_counters_has_no_points() {
        let image = std::env::current_exe().unwrap();
        let sources = tempfile::tempdir().unwrap();
        assert!(blocks(&image, sources.path()).unwrap().is_empty());
    }
}
