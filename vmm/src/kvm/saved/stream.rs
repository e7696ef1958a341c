// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The stream that a monitor sends on the socket [`SNAPSHOT`](crate::child::fd) while it saves its
//! guest.
//!
//! The parent writes the files, because a monitor may not open any. The stream has the machine's
//! state, followed by the pages in the order of their numbers and the end marker. At any point, a
//! failure may follow instead. Numbers are little-endian.
//!
//! | tag | payload |
//! |---|---|
//! | `S` | u64: length; the state |
//! | `P` | u64: number of the first page, u64: number of pages; the pages |
//! | `E` | none: end marker |
//! | `F` | u64: length; the reason why the guest cannot be saved |

use std::io::{self, Read, Write};

use super::PAGE;
use super::format::LIMIT;

/// Maximum number of pages in one piece.
pub const PIECE: usize = 256;

/// A piece of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The machine's state.
    State(Vec<u8>),
    /// Consecutive pages, with the number of the first one.
    Pages(u64, &'a [u8]),
    /// The end marker.
    End,
    /// The reason why the guest cannot be saved.
    Failed(String),
}

/// Sends a piece.
pub fn send(mut to: impl Write, piece: &Piece<'_>) -> io::Result<()> {
    let long = |tag: &[u8], bytes: &[u8]| {
        let length = (bytes.len() as u64).to_le_bytes();
        [tag, length.as_slice(), bytes].concat()
    };
    match piece {
        Piece::State(state) => to.write_all(&long(b"S", state)),
        Piece::Pages(first, pages) => {
            let count = (pages.len() / PAGE) as u64;
            let head = [first.to_le_bytes(), count.to_le_bytes()].concat();
            to.write_all(b"P")?;
            to.write_all(&head)?;
            to.write_all(pages)
        }
        Piece::End => to.write_all(b"E"),
        Piece::Failed(reason) => to.write_all(&long(b"F", reason.as_bytes())),
    }
}

/// The receiving end. A guest may have compromised its monitor, so nothing that the monitor sends
/// makes this end allocate more memory than a piece or a state needs, or receive endlessly.
pub struct Receiver<R> {
    from: R,
    buffer: Vec<u8>,
    /// The smallest page number that may follow.
    next: u64,
    /// The number of pages of the guest.
    pages: u64,
    /// True once the state was received; a stream has only one.
    has_state: bool,
    ended: bool,
}

impl<R: Read> Receiver<R> {
    /// Returns a receiver for a guest of `pages` pages.
    pub fn new(from: R, pages: u64) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            next: 0,
            pages,
            has_state: false,
            ended: false,
        }
    }

    /// Returns true after the last piece or a protocol error.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Receives the next piece.
    pub fn receive(&mut self) -> io::Result<Piece<'_>> {
        // Reset below, if the piece is valid and not the last one.
        self.ended = true;
        let mut tag = [0];
        self.from.read_exact(&mut tag)?;
        match tag {
            [b'S'] => {
                if std::mem::replace(&mut self.has_state, true) {
                    return Err(invalid("a second state"));
                }
                let state = self.long()?;
                self.ended = false;
                Ok(Piece::State(state))
            }
            [b'P'] => {
                let (first, count) = (self.number()?, self.number()?);
                let end = first.checked_add(count).filter(|end| {
                    first >= self.next && (1..=PIECE as u64).contains(&count) && *end <= self.pages
                });
                self.next = end.ok_or_else(|| invalid("pages out of order or out of range"))?;
                self.buffer.resize(count as usize * PAGE, 0);
                self.from.read_exact(&mut self.buffer)?;
                self.ended = false;
                Ok(Piece::Pages(first, &self.buffer))
            }
            [b'E'] => Ok(Piece::End),
            [b'F'] => {
                let reason = self.long()?;
                Ok(Piece::Failed(String::from_utf8_lossy(&reason).into_owned()))
            }
            _ => Err(invalid("an unknown tag")),
        }
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.from.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn long(&mut self) -> io::Result<Vec<u8>> {
        let length = self.number()?;
        if length > LIMIT {
            return Err(invalid("a length above the limit"));
        }
        let mut bytes = vec![0; length as usize];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the monitor sent {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_pieces_are_received() {
        let pages = vec![7; 2 * PAGE];
        let pieces = [
            Piece::State(b"state".to_vec()),
            Piece::Pages(1, &pages),
            Piece::Pages(3, &pages),
            Piece::Failed("why".into()),
            Piece::End,
        ];
        let mut bytes = Vec::new();
        for piece in &pieces {
            send(&mut bytes, piece).unwrap();
        }
        let mut receiver = Receiver::new(bytes.as_slice(), 5);
        for piece in &pieces {
            assert_eq!(receiver.receive().unwrap(), *piece);
        }
        let end = receiver.receive().unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn invalid_pieces_are_refused() {
        let pages = |first: u64, count: u64| {
            let mut bytes = b"P".to_vec();
            bytes.extend(first.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.resize(1 << 20, 0);
            bytes
        };
        let long = [b"S".as_slice(), &u64::MAX.to_le_bytes()].concat();
        let twice = [&pages(0, 1)[..17 + PAGE], &pages(0, 1)].concat();
        let mut states = Vec::new();
        for _ in 0..2 {
            send(&mut states, &Piece::State(b"state".to_vec())).unwrap();
        }
        let cases = [
            b"?".to_vec(),
            long,
            pages(0, 0),
            pages(0, 257),
            pages(999, 2),
            pages(u64::MAX, 1),
            pages(0, u64::MAX),
            twice,
            states,
        ];
        for case in cases {
            let mut receiver = Receiver::new(case.as_slice(), 1000);
            let error = loop {
                match receiver.receive() {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
