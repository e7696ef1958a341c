// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a monitor says on the socket [`SAVED`](crate::child::fd) while it saves its guest.
//!
//! Its parent writes the files: a monitor may open none. First comes the machine's state,
//! then pages in the order of their numbers, then the end; or, at any time, why not.
//! Numbers are little-endian.
//!
//! | tag | then |
//! |---|---|
//! | `S` | u64: length; the state |
//! | `P` | u64: number of the first page, u64: how many; the pages |
//! | `E` | the end |
//! | `F` | u64: length; why it cannot be saved |

use std::io::{self, Read, Write};

use super::PAGE;
use super::format::LIMIT;

/// The most pages in one piece.
pub const PIECE: usize = 256;

/// A piece of what is said.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The machine's state.
    State(Vec<u8>),
    /// Pages, the first of which has this number.
    Pages(u64, &'a [u8]),
    /// The end.
    End,
    /// Why the guest is not saved.
    Failed(String),
}

/// Says a piece.
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
        Piece::Failed(words) => to.write_all(&long(b"F", words.as_bytes())),
    }
}

/// The other end. A monitor may have been taken over by its guest, so nothing that it says
/// makes this end take more memory than a piece or a state needs, or listen without end.
pub struct Receiver<R> {
    from: R,
    buffer: Vec<u8>,
    /// The first page that may come.
    next: u64,
    /// How many pages there are.
    pages: u64,
    /// The state has come, of which there is one.
    stated: bool,
    ended: bool,
}

impl<R: Read> Receiver<R> {
    /// For a guest of `pages` pages.
    pub fn new(from: R, pages: u64) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            next: 0,
            pages,
            stated: false,
            ended: false,
        }
    }

    /// Whether nothing more is to come, or can be understood.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The next piece.
    pub fn receive(&mut self) -> io::Result<Piece<'_>> {
        // Unless it turns out that there is more.
        self.ended = true;
        let mut tag = [0];
        self.from.read_exact(&mut tag)?;
        match tag {
            [b'S'] => {
                if std::mem::replace(&mut self.stated, true) {
                    return Err(nonsense("two states"));
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
                self.next = end.ok_or_else(|| nonsense("pages that cannot be"))?;
                self.buffer.resize(count as usize * PAGE, 0);
                self.from.read_exact(&mut self.buffer)?;
                self.ended = false;
                Ok(Piece::Pages(first, &self.buffer))
            }
            [b'E'] => Ok(Piece::End),
            [b'F'] => {
                let words = self.long()?;
                Ok(Piece::Failed(String::from_utf8_lossy(&words).into_owned()))
            }
            _ => Err(nonsense("something that is no piece of a saved guest")),
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
            return Err(nonsense("a state that is too long"));
        }
        let mut bytes = vec![0; length as usize];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it says {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives() {
        let pages = vec![7; 2 * PAGE];
        let said = [
            Piece::State(b"state".to_vec()),
            Piece::Pages(1, &pages),
            Piece::Pages(3, &pages),
            Piece::Failed("why".into()),
            Piece::End,
        ];
        let mut bytes = Vec::new();
        for piece in &said {
            send(&mut bytes, piece).unwrap();
        }
        let mut receiver = Receiver::new(bytes.as_slice(), 5);
        for piece in &said {
            assert_eq!(receiver.receive().unwrap(), *piece);
        }
        let end = receiver.receive().unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nonsense_is_refused() {
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
