// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the functions of an object that call any of a set of functions, from its relocations and
//! its machine code.

use std::collections::{BTreeMap, BTreeSet};

use crucible_protocol::census::{Calls, Function};
use object::{
    Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SectionKind, SymbolKind,
};

/// The calls of each function, of all objects.
pub type Census = BTreeMap<Function, Calls>;

/// The machine code of a function.
struct Code {
    name: String,
    section: SectionIndex,
    start: u64,
    end: u64,
}

/// Returns the functions of an object that call one of `wanted`, with the number of calls.
///
/// # Errors
/// The reason why the object cannot be read.
pub fn object_calls(
    data: &[u8],
    wanted: &BTreeSet<String>,
) -> Result<BTreeMap<String, Calls>, String> {
    let object = object::File::parse(data).map_err(|error| error.to_string())?;
    let functions = functions(&object)?;
    let mut found = BTreeMap::new();
    for section in object.sections() {
        if section.kind() != SectionKind::Text {
            continue;
        }
        let here: Vec<_> = functions
            .iter()
            .filter(|code| code.section == section.index())
            .collect();
        let mut add = |at: u64, callee: &str| {
            if !wanted.contains(callee) {
                return;
            }
            let caller = here
                .iter()
                .find(|code| (code.start..code.end).contains(&at));
            // Code outside of any function is padding or an alternatives section; the function
            // that an alternative belongs to contains the call as well.
            if let Some(caller) = caller.filter(|c| c.name != callee) {
                let calls: &mut Calls = found.entry(caller.name.clone()).or_default();
                *calls.entry(callee.to_owned()).or_default() += 1;
            }
        };
        let mut relocated = BTreeSet::new();
        for (at, relocation) in section.relocations() {
            relocated.insert(at);
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = object.symbol_by_index(index).map_err(|e| e.to_string())?;
            if symbol.kind() == SymbolKind::Section {
                // A static function in a different section: its address is relative to the end of
                // the operand.
                let target = relocation.addend().wrapping_add(4) as u64;
                let to = functions.iter().find(|code| {
                    Some(code.section) == symbol.section_index() && code.start == target
                });
                if let Some(to) = to {
                    add(at, &to.name);
                }
            } else if let Ok(name) = symbol.name() {
                add(at, plain(name));
            }
        }
        let code = section.data().map_err(|error| error.to_string())?;
        for (at, target) in direct_calls(code) {
            if relocated.contains(&at) {
                continue;
            }
            if let Some(to) = here.iter().find(|code| code.start == target) {
                add(at, &to.name);
            }
        }
    }
    Ok(found)
}

fn functions(object: &object::File<'_>) -> Result<Vec<Code>, String> {
    let mut functions = Vec::new();
    for symbol in object.symbols() {
        let Some(section) = symbol.section_index() else {
            continue;
        };
        if symbol.kind() == SymbolKind::Text && symbol.size() > 0 {
            let name = symbol.name().map_err(|error| error.to_string())?;
            functions.push(Code {
                name: plain(name).to_owned(),
                section,
                start: symbol.address(),
                end: symbol.address() + symbol.size(),
            });
        }
    }
    Ok(functions)
}

/// Returns a function's name without the suffixes that the compiler adds: `.part.0`,
/// `.constprop.0`, `.cold`.
fn plain(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Returns the offset and the target of every `call`, `jmp` and conditional jump with a 32-bit
/// displacement. The bytes are matched at every offset instead of being decoded in order, so some
/// matches are not instructions; such a match counts only in the unlikely case that it leads to
/// the first byte of a function.
fn direct_calls(code: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    (1..code.len().saturating_sub(3)).filter_map(|at| {
        let near = matches!(code[at - 1], 0xe8 | 0xe9);
        let conditional = at > 1 && code[at - 2] == 0x0f && matches!(code[at - 1], 0x80..=0x8f);
        if !near && !conditional {
            return None;
        }
        let displacement = i32::from_le_bytes(code[at..at + 4].try_into().ok()?);
        let target = (at as u64 + 4).wrapping_add_signed(displacement.into());
        Some((at as u64, target))
    })
}
