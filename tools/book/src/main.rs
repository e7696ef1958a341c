// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo run --manifest-path tools/book/Cargo.toml` builds the pages of `docs/` as HTML in
//! `target/book`.

use std::path::Path;

use anyhow::{Context as _, Result};
use mdbook_driver::MDBook;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let book = MDBook::load(&root).context("cannot read docs/SUMMARY.md and its pages")?;
    book.build().context("cannot build the book")?;
    println!("{}", book.build_dir_for("html").display());
    Ok(())
}
