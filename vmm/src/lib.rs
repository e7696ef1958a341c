//! Machines that run a guest: one interface, several implementations.
