// SPDX-License-Identifier: Apache-2.0 OR MIT
/// An input that is read from the front. At its end, reads return `None` or zeros.
pub(super) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a length of one byte, followed by this number of bytes, or as many as are left.
    pub fn bytes(&mut self) -> &'a [u8] {
        let wanted = usize::from(self.u8().unwrap_or(0));
        let (first, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        first
    }
}
