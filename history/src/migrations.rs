// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tables, and the steps by which older files get them.

use std::sync::LazyLock;

use rusqlite_migration::{M, Migrations};

/// The first version.
const TABLES: &str = "
CREATE TABLE night (
    id TEXT PRIMARY KEY,
    plan TEXT NOT NULL,
    shards INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE shard (
    night TEXT NOT NULL,
    number INTEGER NOT NULL,
    process TEXT NOT NULL,
    started TEXT NOT NULL,
    finished TEXT,
    provenance TEXT NOT NULL,
    PRIMARY KEY (night, number, process)
) STRICT, WITHOUT ROWID;

CREATE TABLE planned (
    night TEXT NOT NULL,
    name TEXT NOT NULL,
    variant TEXT NOT NULL,
    shard INTEGER NOT NULL,
    PRIMARY KEY (night, name, variant)
) STRICT, WITHOUT ROWID;

CREATE TABLE skipped (
    night TEXT NOT NULL,
    name TEXT NOT NULL,
    variant TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (night, name, variant, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE result (
    id TEXT PRIMARY KEY,
    night TEXT NOT NULL,
    name TEXT NOT NULL,
    variant TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    time TEXT NOT NULL,
    ms INTEGER NOT NULL,
    condition TEXT NOT NULL,
    verdict TEXT NOT NULL,
    blame TEXT NOT NULL,
    signature TEXT NOT NULL,
    why TEXT NOT NULL,
    kernel TEXT NOT NULL,
    harness TEXT NOT NULL,
    directory TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX result_of_test ON result (name, variant, night);
CREATE INDEX result_of_night ON result (night);

CREATE TABLE bisection (
    night TEXT NOT NULL,
    signature TEXT NOT NULL,
    name TEXT NOT NULL,
    variant TEXT NOT NULL,
    good TEXT NOT NULL,
    bad TEXT NOT NULL,
    answer TEXT NOT NULL,
    directory TEXT NOT NULL,
    PRIMARY KEY (night, signature, name, variant, good, bad, answer)
) STRICT, WITHOUT ROWID;

CREATE TABLE metric (
    result TEXT NOT NULL,
    name TEXT NOT NULL,
    value REAL NOT NULL,
    unit TEXT NOT NULL,
    PRIMARY KEY (result, name)
) STRICT, WITHOUT ROWID;
";

/// All steps, the oldest first. A released one never changes.
pub(crate) static MIGRATIONS: LazyLock<Migrations<'static>> =
    LazyLock::new(|| Migrations::new(vec![M::up(TABLES)]));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_valid() {
        MIGRATIONS.validate().unwrap();
    }
}
