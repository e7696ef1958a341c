// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Struct members from the debug information of a relocatable object.

use std::borrow::Cow;
use std::collections::BTreeSet;

use gimli::{
    AttributeValue, DebuggingInformationEntry, DwarfSections, EndianSlice, LittleEndian, Reader,
    ReaderOffset, Relocate, RelocateReader, SectionId, Unit, UnitOffset,
};
use object::{Object, ObjectSection};

/// A member of a struct. An embedded struct is represented by its own members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The path of the member: names joined by dots, with `[]` for the elements of an array.
    /// Unnamed structs and unions add nothing to it.
    pub path: String,
    /// The name of the type (for an array, of the elements). Of several names (typedefs), the one
    /// in the list of structs that are not entered, if there is one. Empty for an unnamed type.
    pub kind: String,
}

/// Returns the members of `name` in the object, in the order of their offsets. Embedded structs
/// are entered, except for empty ones and those whose names are in `whole`.
pub(in crate::kernel) fn leaves(
    object: &[u8],
    name: &str,
    whole: &BTreeSet<&str>,
) -> Result<Vec<Member>, String> {
    let file = object::File::parse(object).map_err(|e| e.to_string())?;
    let sections = DwarfSections::load(|id| section(&file, id)).map_err(|e| e.to_string())?;
    let dwarf = sections.borrow(|section| {
        RelocateReader::new(
            EndianSlice::new(&section.data, LittleEndian),
            &section.relocations,
        )
    });
    let mut headers = dwarf.units();
    while let Some(header) = headers.next().map_err(|e| e.to_string())? {
        let unit = dwarf.unit(header).map_err(|e| e.to_string())?;
        let walk = Walk {
            dwarf: &dwarf,
            unit: &unit,
            whole,
        };
        let found = walk.find(name).map_err(|e| e.to_string())?;
        if let Some(offset) = found {
            let mut members = Vec::new();
            walk.enter(offset, "", &mut members)
                .map_err(|e| e.to_string())?;
            return Ok(members);
        }
    }
    Err(format!("no struct {name} in its debug information"))
}

/// A section, and the relocations of its words.
#[derive(Default)]
struct Section<'a> {
    data: Cow<'a, [u8]>,
    relocations: Relocations,
}

#[derive(Debug, Default)]
struct Relocations(object::read::RelocationMap);

impl Relocate for &Relocations {
    fn relocate_address(&self, offset: usize, value: u64) -> gimli::Result<u64> {
        Ok(self.0.relocate(offset as u64, value))
    }

    fn relocate_offset(&self, offset: usize, value: usize) -> gimli::Result<usize> {
        <usize as ReaderOffset>::from_u64(self.0.relocate(offset as u64, value as u64))
    }
}

fn section<'a>(file: &object::File<'a>, id: SectionId) -> object::Result<Section<'a>> {
    let Some(section) = file.section_by_name(id.name()) else {
        return Ok(Section::default());
    };
    Ok(Section {
        data: section.uncompressed_data()?,
        relocations: Relocations(section.relocation_map()?),
    })
}

/// A compilation unit whose types are followed.
struct Walk<'a, R: Reader> {
    dwarf: &'a gimli::Dwarf<R>,
    unit: &'a Unit<R>,
    whole: &'a BTreeSet<&'a str>,
}

/// A type without its qualifiers, typedefs and array dimensions.
struct Resolved<O> {
    offset: Option<UnitOffset<O>>,
    /// The names of the typedefs that were resolved; the type's own name is last.
    names: Vec<String>,
    array: usize,
    compound: bool,
}

impl<R: Reader> Walk<'_, R> {
    /// Returns the struct of this name that the unit defines.
    fn find(&self, name: &str) -> gimli::Result<Option<UnitOffset<R::Offset>>> {
        let mut entries = self.unit.entries();
        while let Some(entry) = entries.next_dfs()? {
            if entry.tag() == gimli::DW_TAG_structure_type
                && !entry.has_attr(gimli::DW_AT_declaration)
                && self.name(entry)?.as_deref() == Some(name)
            {
                return Ok(Some(entry.offset()));
            }
        }
        Ok(None)
    }

    /// Adds the members of the struct or union at `offset`, and returns their number.
    fn enter(
        &self,
        offset: UnitOffset<R::Offset>,
        prefix: &str,
        members: &mut Vec<Member>,
    ) -> gimli::Result<usize> {
        let mut tree = self.unit.entries_tree(Some(offset))?;
        let mut children = tree.root()?.children();
        let mut count = 0;
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != gimli::DW_TAG_member {
                continue;
            }
            count += 1;
            let name = self.name(entry)?;
            let kind = self.resolve(entry)?;
            let mut path = match (prefix, &name) {
                ("", Some(name)) => name.clone(),
                (prefix, Some(name)) => format!("{prefix}.{name}"),
                (prefix, None) => prefix.to_owned(),
            };
            path.push_str(&"[]".repeat(kind.array));
            let names = || kind.names.iter();
            let whole = names().find(|kind| name.is_some() && self.whole.contains(kind.as_str()));
            let inside = match kind.offset {
                Some(offset) if kind.compound && whole.is_none() => {
                    self.enter(offset, &path, members)?
                }
                _ => 0,
            };
            if inside == 0 && name.is_some() {
                let kind = whole.or(names().next()).cloned().unwrap_or_default();
                members.push(Member { path, kind });
            }
        }
        Ok(count)
    }

    fn resolve(&self, entry: &DebuggingInformationEntry<R>) -> gimli::Result<Resolved<R::Offset>> {
        let mut resolved = Resolved {
            offset: None,
            names: Vec::new(),
            array: 0,
            compound: false,
        };
        let mut next = entry.attr_value(gimli::DW_AT_type);
        while let Some(AttributeValue::UnitRef(offset)) = next {
            let entry = self.unit.entry(offset)?;
            resolved.names.extend(self.name(&entry)?);
            resolved.offset = Some(offset);
            match entry.tag() {
                gimli::DW_TAG_typedef
                | gimli::DW_TAG_const_type
                | gimli::DW_TAG_volatile_type
                | gimli::DW_TAG_atomic_type => {}
                gimli::DW_TAG_array_type => resolved.array += 1,
                tag => {
                    resolved.compound =
                        tag == gimli::DW_TAG_structure_type || tag == gimli::DW_TAG_union_type;
                    break;
                }
            }
            next = entry.attr_value(gimli::DW_AT_type);
        }
        Ok(resolved)
    }

    fn name(&self, entry: &DebuggingInformationEntry<R>) -> gimli::Result<Option<String>> {
        let Some(value) = entry.attr_value(gimli::DW_AT_name) else {
            return Ok(None);
        };
        let name = self.dwarf.attr_string(self.unit, value)?;
        Ok(Some(name.to_string_lossy()?.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn compile(text: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("one.c");
        let object = directory.path().join("one.o");
        fs::write(&source, text).unwrap();
        let done = Command::new("gcc")
            .args(["-g", "-c", "-o"])
            .args([&object, &source])
            .status()
            .unwrap();
        assert!(done.success());
        fs::read(object).unwrap()
    }

    fn paths(object: &[u8], whole: &[&str]) -> Vec<String> {
        leaves(object, "outer", &whole.iter().copied().collect())
            .unwrap()
            .into_iter()
            .map(|member| member.path)
            .collect()
    }

    const TEXT: &str = "
        struct list_head { struct list_head *next, *prev; };
        typedef struct { int counter; } atomic_t;
        struct empty { };
        struct inner { int a; union { long b; char c[3]; }; };
        struct outer {
            struct list_head list;
            volatile atomic_t count;
            const struct inner one, many[2][3];
            struct { unsigned int bit : 1, other : 2; };
            struct inner *far;
            struct empty nothing;
            PLANTED
        };
        struct outer outer;
        ";

    #[test]
    fn embedded_structs_are_entered() {
        let object = compile(&TEXT.replace("PLANTED", ""));
        assert_eq!(
            paths(&object, &["list_head", "atomic_t"]),
            [
                "list",
                "count",
                "one.a",
                "one.b",
                "one.c[]",
                "many[].a",
                "many[].b",
                "many[].c[]",
                "bit",
                "other",
                "far",
                "nothing",
            ]
        );
        assert_eq!(
            paths(&object, &["inner"])[..4],
            ["list.next", "list.prev", "count.counter", "one"]
        );
    }

    #[test]
    fn an_added_member_is_found_at_any_depth() {
        let before = paths(&compile(&TEXT.replace("PLANTED", "")), &[]);
        let inside = TEXT.replace("char c[3];", "char c[3]; int planted;");
        let mut after = paths(&compile(&inside.replace("PLANTED", "")), &[]);
        after.retain(|path| !before.contains(path));
        assert_eq!(after, ["one.planted", "many[].planted"]);
        let mut after = paths(
            &compile(&TEXT.replace("PLANTED", "struct { union { void (*planted)(void); }; };")),
            &[],
        );
        after.retain(|path| !before.contains(path));
        assert_eq!(after, ["planted"]);
    }

    #[test]
    fn a_missing_struct_is_an_error() {
        let object = compile("struct outer; struct outer *outer;");
        assert!(leaves(&object, "outer", &BTreeSet::new()).is_err());
    }
}
