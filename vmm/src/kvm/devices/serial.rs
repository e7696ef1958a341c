// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A 16550 UART: the guest's console, and the way to its "magic SysRq".
//!
//! The registers are vm-superio's. What it does not know are breaks on the line,
//! by which the guest's kernel tells a SysRq key from typed text. So this keeps what
//! is to be received in a queue of its own, in which a break is an element
//! like a byte, and gives vm-superio's FIFO no more than what comes before
//! the next break; or the break, alone, as the zero byte that a UART receives
//! then. While that byte is in the FIFO the line status says "break" (BI)
//! beside "data ready".

mod output;
#[cfg(test)]
mod tests;

pub use output::Output;

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;

use super::{Error, Interrupt, Result};

/// The ports that it has.
pub const PORTS: u64 = 8;

/// Interrupt enable register. Linux masks interrupts while its console
/// prints, so it is written when all has been printed.
const IER: u8 = 1;
/// Line status register, with the bits for data and a break.
const LSR: u8 = 5;
const LSR_DATA_READY: u8 = 1 << 0;
const LSR_BREAK: u8 = 1 << 4;
/// The interrupt identification's bit for "none".
const IIR_NONE: u8 = 1 << 0;

/// The bytes that vm-superio's FIFO holds.
const FIFO: usize = 64;

/// The most that can wait to be received.
const PENDING_MAX: usize = 4096;

type Registers = vm_superio::Serial<Line, Reads, Vec<u8>>;

/// The UART.
pub struct Serial {
    registers: Registers,
    interrupt: Arc<dyn Interrupt>,
    output: Output,
    /// What comes after all that is in the FIFO.
    pending: VecDeque<Input>,
    /// The FIFO's only byte is a break.
    at_break: bool,
}

/// What can be on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Input {
    Byte(u8),
    Break,
}

/// The UART's part of a snapshot. What it has sent is not in it: that has left the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    #[serde(flatten, with = "RegistersState")]
    registers: vm_superio::SerialState,
    at_break: bool,
    pending: Vec<Input>,
}

/// How vm-superio's part of it is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "vm_superio::SerialState")]
struct RegistersState {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    #[serde(rename = "fifo")]
    in_buffer: Vec<u8>,
}

/// vm-superio's idea of an interrupt line.
struct Line(Arc<dyn Interrupt>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise();
        Ok(())
    }
}

/// Notes that the guest has read from the FIFO: the same register has another
/// meaning at times, and vm-superio knows when.
#[derive(Default)]
struct Reads(Cell<bool>);

impl SerialEvents for Reads {
    fn buffer_read(&self) {
        self.0.set(true);
    }

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {}
}

impl Serial {
    /// A UART after power-on.
    pub fn new(interrupt: Arc<dyn Interrupt>, output: Output) -> Self {
        let line = Line(interrupt.clone());
        Self {
            registers: Registers::with_events(line, Reads::default(), Vec::new()),
            interrupt,
            output,
            pending: VecDeque::new(),
            at_break: false,
        }
    }

    /// The guest reads one of the ports, `offset` from the first, as often as
    /// `data` is long.
    pub fn read(&mut self, offset: u8, data: &mut [u8]) {
        for byte in data {
            *byte = self.registers.read(offset);
            if offset == LSR && self.at_break {
                *byte |= LSR_BREAK;
            }
            if self.registers.events().0.take() {
                self.at_break = false;
                self.refill();
            }
        }
    }

    /// The guest writes one of the ports, `offset` from the first, as often
    /// as `data` is long (a string instruction's bytes come all at once).
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        for &byte in data {
            // Neither the interrupt line nor a vector can fail.
            let _ = self.registers.write(offset, byte);
        }
        let sent = self.registers.writer_mut();
        if !sent.is_empty() {
            self.output.push(sent);
            sent.clear();
        }
        if offset == IER {
            self.output.flush();
        }
        // The modem control's loop, which takes no input, may have ended.
        self.refill();
    }

    /// Sends bytes to the guest, as many as it has room for; returns how many
    /// that was.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(PENDING_MAX - self.pending.len());
        let bytes = bytes[..count].iter();
        self.pending.extend(bytes.map(|&byte| Input::Byte(byte)));
        self.refill();
        count
    }

    /// Sends a break. The kernel takes the byte that follows it for a SysRq
    /// key, if that comes within five seconds. Returns whether there was room
    /// for it.
    pub fn send_break(&mut self) -> bool {
        let room = self.pending.len() < PENDING_MAX;
        if room {
            self.pending.push_back(Input::Break);
            self.refill();
        }
        room
    }

    /// Passes on what the guest has printed, down to the last character. To
    /// be called when the machine stops, whether for good or for a snapshot.
    pub fn flush(&mut self) {
        self.output.flush();
    }

    /// The event loop got an event with this token, one of the output's.
    pub fn ready(&mut self, token: u64) {
        self.output.ready(token);
    }

    /// Moves what is pending to the FIFO, up to the next break.
    fn refill(&mut self) {
        while !self.at_break {
            let room = self.registers.fifo_capacity();
            let mut bytes: Vec<u8> = self
                .pending
                .iter()
                .map_while(|input| match *input {
                    Input::Byte(byte) => Some(byte),
                    Input::Break => None,
                })
                .take(room)
                .collect();
            let a_break = bytes.is_empty() && room == FIFO && !self.pending.is_empty();
            if a_break {
                bytes.push(0);
            }
            // Nothing is taken in loop mode, or where there is nothing.
            let taken = match bytes.is_empty() {
                true => 0,
                false => self.registers.enqueue_raw_bytes(&bytes).unwrap_or(0),
            };
            if taken == 0 {
                return;
            }
            self.pending.drain(..taken);
            self.at_break = a_break;
        }
    }

    /// Its state. Flush it before.
    pub fn save(&self) -> SerialState {
        SerialState {
            registers: self.registers.state(),
            at_break: self.at_break,
            pending: self.pending.iter().copied().collect(),
        }
    }

    /// Takes on a saved state. On an error it stays as it is. An interrupt
    /// that is pending in the state may be raised at once.
    pub fn restore(&mut self, state: &SerialState) -> Result<()> {
        let registers = &state.registers;
        let fifo = &registers.in_buffer;
        if state.pending.len() > PENDING_MAX || fifo.len() > FIFO {
            return Err(Error::State("more is received than a UART holds"));
        }
        // In loop mode the guest's own bytes come behind it.
        if state.at_break && fifo.first() != Some(&0) {
            return Err(Error::State("a break is not a zero byte"));
        }
        let ready = registers.line_status & LSR_DATA_READY != 0;
        if ready == fifo.is_empty() {
            return Err(Error::State("a UART's line status and FIFO disagree"));
        }
        let line = Line(self.interrupt.clone());
        self.registers = Registers::from_state(registers, line, Reads::default(), Vec::new())
            .map_err(|_| Error::State("a UART's registers"))?;
        self.at_break = state.at_break;
        self.pending = state.pending.iter().copied().collect();
        Ok(())
    }

    /// To be called right before the machine runs (again), like a transport's
    /// [`resume`](super::mmio::Transport::resume): an interrupt that the guest
    /// has not looked at is sent once more, since the edge may not be in the
    /// interrupt controller's state.
    pub fn resume(&mut self) {
        if self.registers.state().interrupt_identification & IIR_NONE == 0 {
            self.interrupt.raise();
        }
    }
}
