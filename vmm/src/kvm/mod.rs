//! Guests run by our own monitor on KVM.

pub mod devices;
pub mod memory;
