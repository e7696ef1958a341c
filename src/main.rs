//! The crucible command line.
fn main() {}
