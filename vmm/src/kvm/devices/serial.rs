// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A 16550 UART: the guest's console, which also transmits "magic SysRq".
//!
//! The registers are vm-superio's. It does not support breaks on the line, by which the guest's
//! kernel distinguishes a SysRq key from typed text. So this module keeps received input in its own
//! queue, in which a break is an element like a byte, and passes to vm-superio's FIFO only the
//! bytes before the next break; or the break alone, as the zero byte that a UART receives for it.
//! While that byte is in the FIFO, the line status reports "break" (BI) together with "data ready".

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

/// Number of I/O ports.
pub const PORTS: u64 = 8;

/// Interrupt enable register. Linux masks interrupts while its console prints, and writes this
/// register when everything has been printed.
const IER: u8 = 1;
/// Line status register, with the bits for data and a break.
const LSR: u8 = 5;
const LSR_DATA_READY: u8 = 1 << 0;
const LSR_BREAK: u8 = 1 << 4;
/// Interrupt identification register, with the bit for no pending interrupt.
const IIR_NONE: u8 = 1 << 0;

/// Capacity of vm-superio's FIFO in bytes.
const FIFO: usize = 64;

/// Maximum number of inputs that wait to be received.
const PENDING_MAX: usize = 4096;

type Registers = vm_superio::Serial<Line, Reads, Vec<u8>>;

/// The UART.
pub struct Serial {
    registers: Registers,
    interrupt: Arc<dyn Interrupt>,
    output: Output,
    /// Inputs that follow those in the FIFO.
    pending: VecDeque<Input>,
    /// True when the only byte of the FIFO is a break.
    at_break: bool,
}

/// An input from the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Input {
    Byte(u8),
    Break,
}

/// The UART's part of a snapshot. It excludes sent bytes, which have left the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    #[serde(flatten, with = "RegistersState")]
    registers: vm_superio::SerialState,
    at_break: bool,
    pending: Vec<Input>,
}

/// The serialised form of vm-superio's state.
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

/// Adapter from an interrupt line to vm-superio's trait.
struct Line(Arc<dyn Interrupt>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise();
        Ok(())
    }
}

/// Records that the guest has read from the FIFO. The same register sometimes has a different
/// meaning, which only vm-superio knows.
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
    /// Returns a UART in its state after power-on.
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

    /// Handles a read of the port at `offset`, repeated for each byte of `data`.
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

    /// Handles a write of the port at `offset`, repeated for each byte of `data` (a string
    /// instruction's bytes arrive together).
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
        // The write may have ended the loopback mode, in which the UART accepts no input.
        self.refill();
    }

    /// Sends bytes to the guest, limited by the space in its queue; returns the number of bytes
    /// accepted.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(PENDING_MAX - self.pending.len());
        let bytes = bytes[..count].iter();
        self.pending.extend(bytes.map(|&byte| Input::Byte(byte)));
        self.refill();
        count
    }

    /// Sends a break. The kernel treats the byte that follows it as a SysRq key, if it arrives
    /// within five seconds. Returns false when the queue is full.
    pub fn send_break(&mut self) -> bool {
        let room = self.pending.len() < PENDING_MAX;
        if room {
            self.pending.push_back(Input::Break);
            self.refill();
        }
        room
    }

    /// Passes on everything that the guest has printed. Call this when the machine stops,
    /// permanently or for a snapshot.
    pub fn flush(&mut self) {
        self.output.flush();
    }

    /// Handles an event of the event loop with this token, one of the output's.
    pub fn ready(&mut self, token: u64) {
        self.output.ready(token);
    }

    /// Moves pending inputs to the FIFO, up to the next break.
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
            // The UART accepts nothing in loopback mode.
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

    /// Returns the state. Call [`flush`](Self::flush) before.
    pub fn save(&self) -> SerialState {
        SerialState {
            registers: self.registers.state(),
            at_break: self.at_break,
            pending: self.pending.iter().copied().collect(),
        }
    }

    /// Replaces the state by a saved one. On an error the state is unchanged. An interrupt that is
    /// pending in the new state may be raised immediately.
    pub fn restore(&mut self, state: &SerialState) -> Result<()> {
        let registers = &state.registers;
        let fifo = &registers.in_buffer;
        if state.pending.len() > PENDING_MAX || fifo.len() > FIFO {
            return Err(Error::State("more input than a UART holds"));
        }
        // In loopback mode the guest's own bytes may follow it.
        if state.at_break && fifo.first() != Some(&0) {
            return Err(Error::State("a break is not a zero byte"));
        }
        let ready = registers.line_status & LSR_DATA_READY != 0;
        if ready == fifo.is_empty() {
            return Err(Error::State("a UART's line status and FIFO disagree"));
        }
        let line = Line(self.interrupt.clone());
        self.registers = Registers::from_state(registers, line, Reads::default(), Vec::new())
            .map_err(|_| Error::State("a UART's registers are invalid"))?;
        self.at_break = state.at_break;
        self.pending = state.pending.iter().copied().collect();
        Ok(())
    }

    /// Resumes the UART. Call this right before the machine runs, like a transport's
    /// [`resume`](super::mmio::Transport::resume): an interrupt that the guest has not handled is
    /// raised again, because the edge may be missing from the interrupt controller's state.
    pub fn resume(&mut self) {
        if self.registers.state().interrupt_identification & IIR_NONE == 0 {
            self.interrupt.raise();
        }
    }
}
