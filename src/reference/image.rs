// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page of an image's records, from the kernel's header file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use crucible_protocol::image::Kind;

use super::{code, table};

/// A member of a structure: name, type and description.
type Member = [String; 3];

/// Returns the page's text.
pub fn text(guest_kernel: &Path) -> Result<String> {
    let path = guest_kernel.join("src/include/uapi/linux/checkpoint.h");
    let header =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let listed = listed(&header);
    if listed.len() != Kind::ALL.len() {
        bail!("{} lists {} types of records", path.display(), listed.len());
    }
    let mut text = "[The checkpoint image](image-format.md) describes the frame and the order of \
                    records. An object can be shared: other records refer to it by \
                    its objref.\n\n"
        .to_owned();
    let rows = Kind::ALL
        .iter()
        .zip(&listed)
        .map(|((kind, meaning), entry)| {
            let object = if entry.is_object { "yes" } else { "" };
            let name = format!("[{}](#{})", entry.name, anchor(&entry.name));
            let cell = [kind.number().to_string(), name, object.to_owned()];
            let [number, name, object] = cell;
            [number, name, object, meaning.trim().to_owned()]
        });
    text += &table(["type", "name", "object", "describes"], rows);
    for ((_, meaning), entry) in Kind::ALL.iter().zip(&listed) {
        let _ = write!(text, "\n## {}\n\n{}\n", entry.name, meaning.trim());
        if let Some(structure) = structure(&header, &entry.name) {
            let _ = write!(text, "\n{}\n", remarks(structure.comment));
            let members = table(["field", "type", "meaning"], structure.members());
            let _ = write!(text, "\n{members}");
        }
    }
    Ok(text)
}

fn anchor(name: &str) -> String {
    name.to_lowercase()
}

struct Entry {
    name: String,
    is_object: bool,
}

/// Returns the entries of `enum ckpt_rec_type`, in their order.
fn listed(header: &str) -> Vec<Entry> {
    header
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().strip_prefix("CKPT_REC_")?.split_once('=')?;
            Some(Entry {
                name: name.trim().to_owned(),
                is_object: rest.contains("object"),
            })
        })
        .collect()
}

/// A structure of the header file.
struct Structure<'a> {
    /// The comment before it.
    comment: &'a str,
    /// The text between its braces.
    body: &'a str,
}

/// Returns the structure at the beginning of a record's payload: the first structure whose comment
/// names this record before any other record.
fn structure<'a>(header: &'a str, record: &str) -> Option<Structure<'a>> {
    header.match_indices("\nstruct ").find_map(|(at, _)| {
        let (before, rest) = header.split_at(at);
        let body = rest.split_once('{')?.1.split_once("\n}")?.0;
        let comment = &before[before.rfind("\n/*")?..];
        let name = comment.split_once("CKPT_REC_")?.1;
        let end = name.find(|c: char| !c.is_ascii_uppercase() && c != '_');
        (&name[..end?] == record).then_some(Structure { comment, body })
    })
}

/// Returns the text of a comment, without descriptions of members.
fn remarks(comment: &str) -> String {
    let comment = comment
        .split_once("*/")
        .map_or(comment, |(inside, _)| inside);
    let mut words = Vec::new();
    let mut in_member = false;
    for line in comment.lines() {
        let line = line.trim().trim_start_matches(['/', '*']).trim();
        in_member = line.starts_with('@') || (in_member && !line.is_empty());
        if !in_member {
            words.extend(line.split_whitespace());
        }
    }
    words.join(" ").replace('<', "&lt;")
}

impl Structure<'_> {
    fn members(&self) -> Vec<Member> {
        let mut members = Vec::new();
        for line in self.body.lines() {
            let Some((declaration, rest)) = line.trim().split_once(';') else {
                continue;
            };
            let beside = rest
                .trim()
                .trim_start_matches("/*")
                .trim_end_matches("*/")
                .trim();
            let (kind, first) = match declaration.strip_prefix("struct ") {
                Some(inner) => inner.split_once(' ').unwrap_or((inner, "")),
                None => declaration.split_once(' ').unwrap_or((declaration, "")),
            };
            for name in first.split(',').map(str::trim) {
                let plain = name.split('[').next().unwrap_or(name);
                let array = &name[plain.len()..];
                let said = described(self.comment, plain);
                members.push([
                    code(plain),
                    format!("{}{array}", kind.trim_start_matches("__")),
                    if said.is_empty() {
                        beside.to_owned()
                    } else {
                        said
                    },
                ]);
            }
        }
        members
    }
}

/// Returns the description of a member in a kernel-doc comment.
fn described(comment: &str, member: &str) -> String {
    let comment = comment
        .split_once("*/")
        .map_or(comment, |(inside, _)| inside);
    let mut words: Vec<&str> = Vec::new();
    let mut inside = false;
    for line in comment.lines() {
        let line = line.trim().trim_start_matches('*').trim();
        if let Some(rest) = line.strip_prefix('@') {
            let (names, what) = rest.split_once(':').unwrap_or((rest, ""));
            inside = names
                .split([',', ' '])
                .any(|name| name.trim_start_matches('@') == member);
            if inside {
                words.push(what.trim());
            }
        } else if line.is_empty() {
            inside = false;
        } else if inside {
            words.push(line);
        }
    }
    words.join(" ").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "
enum ckpt_rec_type {
\tCKPT_REC_A\t= 1,\t/* object */
\tCKPT_REC_A_B\t= 2,
};
/**
 * struct ckpt_ab - CKPT_REC_A_B
 * @x: not this
 */
struct ckpt_ab {
\t__u32 x;
};
/**
 * struct ckpt_a - CKPT_REC_A
 * @first: a number,
 *\tin bytes
 * @name: its name
 *
 * More about it.
 */
struct ckpt_a {
\t__u64 first;
\t__u8 name[16];
\tstruct ckpt_ab x, y;\t/* beside */
};
";

    #[test]
    fn members_have_types_and_descriptions() {
        let rows = structure(HEADER, "A").expect("a structure").members();
        let text: Vec<_> = rows.iter().map(|row| row.join(" ")).collect();
        assert_eq!(
            text,
            [
                "`first` u64 a number, in bytes",
                "`name` u8[16] its name",
                "`x` ckpt_ab beside",
                "`y` ckpt_ab beside",
            ]
        );
    }

    #[test]
    fn objects_are_marked() {
        let entries = listed(HEADER);
        assert_eq!(entries.len(), 2);
        assert!(entries[0].is_object && !entries[1].is_object);
    }
}
