// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The value of a field.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::layout::{Field, Form};

/// Number of bytes of a value that are shown.
const SHOWN: usize = 16;

/// Maximum length of a text in bytes: no path is longer.
const LONGEST: usize = 4096;

/// The value of a field in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// The image lacks the record or element.
    #[default]
    Absent,
    /// The image has the record, which the other one lacks.
    Present,
    /// A number that is not negative.
    Unsigned(u64),
    /// A number that may be negative.
    Signed(i64),
    /// The number of an object of this image, 0 for none.
    Object(u32),
    /// A text.
    Text(String),
    /// Bytes, the first of which differs, in hexadecimal: at most 16 of them.
    Bytes(String),
}

impl Value {
    /// Returns the value of a field with these bytes.
    #[must_use]
    pub fn of(field: &Field, bytes: &[u8]) -> Self {
        match field.form {
            Form::Unsigned => Self::Unsigned(number(bytes)),
            Form::Signed => Self::Signed(signed(bytes)),
            Form::Bytes => Self::bytes(bytes),
        }
    }

    /// Returns bytes as a text if they are UTF-8, else the first of them.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        let end = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1);
        match std::str::from_utf8(&bytes[..end]) {
            Ok(text) if is_text(text) => Self::Text(text.to_owned()),
            _ => Self::raw(bytes),
        }
    }

    /// Returns the first bytes.
    #[must_use]
    pub fn raw(bytes: &[u8]) -> Self {
        let shown = bytes.iter().take(SHOWN);
        Self::Bytes(shown.map(|byte| format!("{byte:02x}")).collect())
    }
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && text.chars().all(|c| !c.is_control() || c == '\n')
}

/// Returns at most the first 8 bytes as a number.
pub fn number(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    for (to, from) in wide.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(wide)
}

/// Returns the number that the bytes represent in two's complement.
pub fn signed(bytes: &[u8]) -> i64 {
    let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
    (number(bytes) << unused) as i64 >> unused
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "nothing"),
            Self::Present => write!(f, "something"),
            Self::Unsigned(n) if *n > 0xffff_ffff => write!(f, "{n} ({n:#x})"),
            Self::Unsigned(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Object(0) => write!(f, "no object"),
            Self::Object(n) => write!(f, "<{n}>"),
            Self::Text(text) => write!(f, "`{text}`"),
            Self::Bytes(hex) => write!(f, "{hex}"),
        }
    }
}
