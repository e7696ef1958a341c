// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent's connection to the host: a virtio port, or a serial line where the machine has none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};

use anyhow::{Context, Result};
use crucible_protocol::line::{self, ASKS, TELLS};
use nix::sys::termios::{self, ControlFlags, SetArg};

use crate::boot;

/// A stream of bytes to and from the host.
pub enum Channel {
    /// A virtio port.
    Port(File),
    /// A serial line.
    Line(Line),
}

/// A serial line, which passes bytes as [`mod@line`] describes.
pub struct Line {
    device: File,
    /// Number of bytes that the host sends without another request.
    announced: u8,
    /// The bytes written since the last flush.
    written: Vec<u8>,
}

impl Channel {
    /// Opens the serial line that the kernel's command line names, else the virtio port `port`.
    pub fn open(port: &str) -> Result<Self> {
        let parameters = fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
        match line::name(&parameters) {
            Some(name) => {
                let path = format!("/dev/{name}");
                let line = Line::open(&path).with_context(|| format!("cannot open {path}"))?;
                Ok(Self::Line(line))
            }
            None => Ok(Self::Port(boot::open_port(port)?)),
        }
    }
}

impl Line {
    /// Opens a serial line without echo, translation or special characters.
    fn open(path: &str) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(path)?;
        let mut settings = termios::tcgetattr(&device)?;
        termios::cfmakeraw(&mut settings);
        // Set the fields directly: a static program lacks the version of `cfsetspeed` that the
        // crate libc needs.
        settings.control_flags.remove(ControlFlags::CBAUD);
        settings.control_flags |=
            ControlFlags::CLOCAL | ControlFlags::from_bits_retain(libc::B115200);
        termios::tcsetattr(&device, SetArg::TCSAFLUSH, &settings)?;
        Ok(Self {
            device,
            announced: 0,
            written: Vec::new(),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.announced == 0 {
            self.device.write_all(&[ASKS])?;
            let mut number = [0];
            self.device.read_exact(&mut number)?;
            [self.announced] = number;
        }
        let most = buffer.len().min(usize::from(self.announced));
        let count = self.device.read(&mut buffer[..most])?;
        // Read at most as many bytes as were announced.
        self.announced -= count as u8;
        Ok(count)
    }

    /// Sends the written bytes, and waits until the host has them.
    fn flush(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.written.len()).map_err(io::Error::other)?;
        self.device.write_all(&[TELLS])?;
        self.device.write_all(&length.to_le_bytes())?;
        self.device.write_all(&self.written)?;
        self.written.clear();
        Ok(termios::tcdrain(&self.device)?)
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Port(device) => device.read(buffer),
            Self::Line(line) => line.read(buffer),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Port(device) => device.write(buffer),
            Self::Line(line) => line.written.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Port(device) => device.flush(),
            Self::Line(line) => line.flush(),
        }
    }
}
