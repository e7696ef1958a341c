// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The protocol of the second port while [`Request::Attach`](crate::Request::Attach) runs a
//! program: its standard streams, in pieces.
//!
//! A piece is a byte that names its kind, a little-endian `u32` length, and that many bytes. Once
//! the guest has opened the port it reports that it has [taken](Piece::Taken) [`WINDOW`] bytes; the
//! host never sends more than the guest has taken in all, so that a program that does not read its
//! input blocks nothing else. The guest's last piece is [`Piece::Last`], which the host answers by
//! [`Piece::Bye`]: then the port is empty again.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::message::Ended;

/// Maximum number of bytes of input in flight.
pub const WINDOW: usize = 64 << 10;

/// Maximum number of bytes in a piece: with its head it fits one write to a virtio port.
pub const MAX_PIECE: usize = (32 << 10) - HEAD;

const HEAD: usize = 5;

/// A standard stream that a program writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Output,
    /// Standard error.
    Error,
}

/// The end of a program, or the reason why it was not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Last {
    /// It has ended.
    Ended(Ended),
    /// It could not be run.
    NotRun {
        /// The status that a shell reports: 127 if there is no such program, 126 otherwise.
        status: i32,
        /// The reason.
        message: String,
    },
}

/// A piece of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// From the host: standard input, at most [`MAX_PIECE`] bytes; empty at its end.
    Input(Vec<u8>),
    /// From the host: this stream is no longer read.
    Closed(Stream),
    /// From the host: size of the user's terminal.
    Size {
        /// Number of lines.
        rows: u16,
        /// Number of columns.
        columns: u16,
    },
    /// From the host: the answer to [`Piece::Last`].
    Bye,
    /// From the guest: output of the program, at most [`MAX_PIECE`] bytes.
    Written(Stream, Vec<u8>),
    /// From the guest: the program has read, or will never read, this many more bytes of input.
    Taken(u32),
    /// From the guest: the end.
    Last(Last),
}

/// The bytes are not a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the received bytes are not a piece of a stream (kind {kind}, {length} bytes)")]
pub struct Malformed {
    /// Its first byte.
    pub kind: u8,
    /// The length that it states.
    pub length: u32,
}

impl Piece {
    /// Writes the piece.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, content): (u8, &[u8]) = match self {
            Self::Input(data) => (b'i', data),
            Self::Closed(Stream::Output) => (b'c', b"o"),
            Self::Closed(Stream::Error) => (b'c', b"e"),
            Self::Size { rows, columns } => {
                let size = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
                return whole(to, b's', &size);
            }
            Self::Bye => (b'b', b""),
            Self::Written(Stream::Output, data) => (b'o', data),
            Self::Written(Stream::Error, data) => (b'e', data),
            Self::Taken(count) => return whole(to, b't', &count.to_le_bytes()),
            Self::Last(last) => return whole(to, b'l', &serde_json::to_vec(last)?),
        };
        whole(to, kind, content)
    }

    fn parse(kind: u8, content: &[u8]) -> Option<Self> {
        Some(match kind {
            b'i' => Self::Input(content.to_vec()),
            b'c' if content == b"o" => Self::Closed(Stream::Output),
            b'c' if content == b"e" => Self::Closed(Stream::Error),
            b's' => {
                let &[a, b, c, d] = content else { return None };
                Self::Size {
                    rows: u16::from_le_bytes([a, b]),
                    columns: u16::from_le_bytes([c, d]),
                }
            }
            b'b' => Self::Bye,
            b'o' => Self::Written(Stream::Output, content.to_vec()),
            b'e' => Self::Written(Stream::Error, content.to_vec()),
            b't' => Self::Taken(u32::from_le_bytes(content.try_into().ok()?)),
            b'l' => Self::Last(serde_json::from_slice(content).ok()?),
            _ => return None,
        })
    }
}

/// Writes a piece in one call, so that a write to a virtio port carries all of it.
fn whole(to: &mut impl Write, kind: u8, content: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEAD + content.len());
    bytes.push(kind);
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(content);
    to.write_all(&bytes)
}

/// Assembles pieces from the received bytes.
#[derive(Debug, Default)]
pub struct Pieces(Vec<u8>);

impl Pieces {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Returns the next complete piece.
    pub fn take(&mut self) -> Result<Option<Piece>, Malformed> {
        let Some((&[kind, a, b, c, d], rest)) = self.0.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        let malformed = Malformed { kind, length };
        if length as usize > MAX_PIECE {
            return Err(malformed);
        }
        let Some(content) = rest.get(..length as usize) else {
            return Ok(None);
        };
        let piece = Piece::parse(kind, content).ok_or(malformed)?;
        self.0.drain(..HEAD + length as usize);
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_back_however_they_arrive() {
        let sent = [
            Piece::Input(vec![1, 2, 3]),
            Piece::Input(Vec::new()),
            Piece::Closed(Stream::Error),
            Piece::Size {
                rows: 24,
                columns: 300,
            },
            Piece::Bye,
            Piece::Written(Stream::Output, vec![0; MAX_PIECE]),
            Piece::Taken(70_000),
            Piece::Last(Last::Ended(Ended::Signaled { signal: 9 })),
        ];
        let mut bytes = Vec::new();
        for piece in &sent {
            piece.write(&mut bytes).unwrap();
        }
        let mut pieces = Pieces::default();
        let mut read = Vec::new();
        for part in bytes.chunks(7) {
            pieces.add(part);
            while let Some(piece) = pieces.take().unwrap() {
                read.push(piece);
            }
        }
        assert_eq!(read, sent);
    }

    #[test]
    fn a_guest_cannot_announce_an_endless_piece() {
        for bytes in [[b'o', 0, 0, 0, 1], [b'?', 0, 0, 0, 0], [b't', 0, 0, 0, 0]] {
            let mut pieces = Pieces::default();
            pieces.add(&bytes);
            assert!(pieces.take().is_err(), "{bytes:?}");
        }
    }
}
