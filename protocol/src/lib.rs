//! The typed messages between host and guest, and the reader of checkpoint images.
