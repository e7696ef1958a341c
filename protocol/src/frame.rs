// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames: a little-endian `u32` length, followed by this number of bytes of JSON.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Maximum length in bytes of a frame's JSON text.
pub const MAX_FRAME: usize = 16 << 20;

/// Maximum number of bytes of a file in one message, so that their base64 text fits a frame.
pub const MAX_CHUNK: usize = 4 << 20;

/// Errors of reading or writing a frame.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The other side closed the channel between frames.
    #[error("the other side closed the channel")]
    Closed,
    /// Reading or writing failed, or the channel was closed inside a frame.
    #[error("the channel failed")]
    Io(#[source] io::Error),
    /// The frame's length exceeds the limit.
    #[error("a frame of {0} bytes exceeds the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// The frame is not the expected JSON.
    #[error("a frame is not a message of this protocol")]
    Malformed(#[source] serde_json::Error),
}

/// Writes one message as a frame and flushes.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Malformed)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    to.write_all(&frame)
        .and_then(|()| to.flush())
        .map_err(FrameError::Io)
}

/// Reads one frame. It checks the length before it allocates memory.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    let mut length = [0; 4];
    fill(from, &mut length, true)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let mut json = vec![0; length];
    fill(from, &mut json, false)?;
    serde_json::from_slice(&json).map_err(FrameError::Malformed)
}

fn fill(from: &mut impl Read, mut buffer: &mut [u8], may_close: bool) -> Result<(), FrameError> {
    let mut begun = !may_close;
    while !buffer.is_empty() {
        match from.read(buffer) {
            Ok(0) if !begun => return Err(FrameError::Closed),
            Ok(0) => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                begun = true;
                buffer = &mut buffer[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(FrameError::Io(e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_frames_are_read_back() {
        let mut wire = Vec::new();
        write(&mut wire, &("one", 1)).unwrap();
        write(&mut wire, &("two", 2)).unwrap();
        let mut from = wire.as_slice();
        assert_eq!(read::<(String, i32)>(&mut from).unwrap(), ("one".into(), 1));
        assert_eq!(read::<(String, i32)>(&mut from).unwrap(), ("two".into(), 2));
        assert!(matches!(read::<i32>(&mut from), Err(FrameError::Closed)));
    }

    #[test]
    fn an_end_inside_a_frame_is_an_error() {
        let mut wire = Vec::new();
        write(&mut wire, &"text").unwrap();
        for cut in 1..wire.len() {
            let result = read::<String>(&mut &wire[..cut]);
            assert!(matches!(result, Err(FrameError::Io(_))), "cut at {cut}");
        }
    }

    #[test]
    fn an_excessive_length_is_refused_before_it_is_allocated() {
        let wire = u32::MAX.to_le_bytes();
        assert!(matches!(
            read::<String>(&mut wire.as_slice()),
            Err(FrameError::TooLong(_))
        ));
    }

    #[test]
    fn unexpected_json_is_reported_as_malformed() {
        let mut wire = Vec::new();
        write(&mut wire, &"text").unwrap();
        assert!(matches!(
            read::<u32>(&mut wire.as_slice()),
            Err(FrameError::Malformed(_))
        ));
    }
}
