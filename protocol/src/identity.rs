// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The properties that distinguish a guest from others that started from the same snapshot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bytes;

/// Values that a guest cannot know, or must not share with others that started from the same
/// snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The time, in nanoseconds since 1970 (UTC).
    pub now_ns: u64,
    /// Random bytes, unique to this guest.
    #[serde(with = "bytes")]
    pub seed: Vec<u8>,
    /// The guest's name, unique among all guests.
    pub instance: String,
}

/// The identity that the guest has taken, as the guest observes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The guest's name, unique among all guests.
    pub instance: String,
    /// The address of its network interface, which is not connected to anything; `None` if its
    /// kernel does not support such an interface.
    pub mac: Option<Mac>,
    /// The first random bytes that it read, with `getrandom(2)`, as any process can read them.
    #[serde(with = "bytes")]
    pub random: Vec<u8>,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Returns the address of the guest with this name: a unicast address, locally administered.
    pub fn of(instance: &str) -> Self {
        // 64-bit FNV-1a.
        let hash = instance
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
        Self([a & 0xfc | 0x02, b, c, d, e ^ g, f ^ h])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(to, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// The error for a text that is not an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMac;

impl fmt::Display for NoMac {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("this is not an Ethernet address")
    }
}

impl std::error::Error for NoMac {}

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let mut address = [0; 6];
        let mut words = text.split(':');
        for byte in &mut address {
            let word = words.next().filter(|word| word.len() == 2).ok_or(NoMac)?;
            *byte = u8::from_str_radix(word, 16).map_err(|_| NoMac)?;
        }
        words.next().map_or(Ok(Self(address)), |_| Err(NoMac))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = NoMac;

    fn try_from(text: String) -> Result<Self, NoMac> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unicast_and_locally_administered() {
        for name in ["", "0", "a guest", "ffffffffffffffffffffffffffffffff"] {
            let mac = Mac::of(name);
            assert_eq!(mac.0[0] & 3, 2, "{mac}");
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
        assert_ne!(Mac::of("1"), Mac::of("2"));
    }

    #[test]
    fn an_invalid_address_is_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "zz:00:00:00:00:00",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(NoMac), "{text}");
        }
    }
}
