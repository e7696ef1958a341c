// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fields of a record with their names, as comparisons call them.

use super::table::{Tail, is_reference, shape};
use super::value::{Value, number};
use crate::image::layout::Field;
use crate::image::record::{Kind, Record};

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// Returns all fields of a record. The value of content without fields, such as memory, has only
/// the first bytes.
#[must_use]
pub fn fields(record: &Record) -> Vec<FieldValue> {
    let mut all = Vec::new();
    let shape = shape(record.kind);
    let (head, rest) = match record.payload.split_at_checked(shape.size) {
        Some(parts) => parts,
        None => (&[][..], &record.payload[..]),
    };
    if !head.is_empty() {
        add(record.kind, &shape.head, "", head, &mut all);
    }
    match &shape.tail {
        Tail::Bytes(_) if rest.is_empty() => {}
        Tail::Bytes(name) => all.push(FieldValue {
            name: if name.is_empty() { "payload" } else { name }.to_owned(),
            value: Value::bytes(rest),
        }),
        Tail::Elements {
            name,
            size,
            fields,
            key,
        } => {
            for (n, element) in rest.chunks(*size).enumerate() {
                let label = key.and_then(|key| value_of(fields, key, element));
                let prefix = element_name(name, label.unwrap_or(n as u64), 0);
                add(record.kind, fields, &prefix, element, &mut all);
            }
        }
    }
    all
}

fn add(kind: Kind, fields: &[Field], prefix: &str, bytes: &[u8], to: &mut Vec<FieldValue>) {
    for field in fields {
        let Some(own) = bytes.get(field.at..field.at + field.size) else {
            continue;
        };
        let value = match is_reference(kind, &field.name) {
            true => Value::Object(number(own) as u32),
            false => Value::of(field, own),
        };
        let name = joined(prefix, &field.name);
        to.push(FieldValue { name, value });
    }
}

/// Returns the value of a field of an element as a number.
pub fn value_of(fields: &[Field], name: &str, element: &[u8]) -> Option<u64> {
    let field = fields.iter().find(|field| field.name == name)?;
    let bytes = element.get(field.at..field.at + field.size)?;
    Some(number(bytes))
}

/// Returns the name of an element, with a number if it is not the first with its key.
pub fn element_name(name: &str, key: u64, earlier: usize) -> String {
    match earlier {
        0 => format!("{name}[{key}]"),
        earlier => format!("{name}[{key}#{}]", earlier + 1),
    }
}

/// Returns the name of a field of an element.
pub fn joined(prefix: &str, name: &str) -> String {
    match (prefix, name) {
        ("", name) => name.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, name) => format!("{prefix}.{name}"),
    }
}

/// Returns the name of the part of an XSAVE area that has this offset.
pub fn xsave(offset: usize) -> &'static str {
    const PARTS: [(usize, &str); 12] = [
        (0, "x87 control"),
        (24, "mxcsr"),
        (32, "st"),
        (160, "xmm"),
        (416, "reserved"),
        (464, "software"),
        (512, "xstate_bv"),
        (520, "xcomp_bv"),
        (528, "header"),
        (576, "ymm"),
        (832, "bndregs"),
        (960, "further states"),
    ];
    let part = PARTS.iter().rev().find(|(at, _)| *at <= offset);
    part.map_or("xsave", |(_, name)| name)
}
