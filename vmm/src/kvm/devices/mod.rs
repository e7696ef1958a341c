//! What the guest finds on its buses.
