// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file of the history.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Row, TransactionBehavior, params};

use crate::migrations::MIGRATIONS;
use crate::row::{Bisection, Metric, Night, Planned, ResultRow, Shard, Skipped, TestId};

/// Limit for the wait for another writer of the same file.
const BUSY: Duration = Duration::from_secs(60);

/// Time between two attempts to bring the tables up to date.
const RETRY: Duration = Duration::from_millis(20);

/// The reason why a file of the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened, read or written.
    #[error("cannot use the history {path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// It has tables that this program does not know, or its tables cannot be brought up to date.
    #[error("cannot use the history {path}: {source}; a newer crucible may have written it")]
    Version {
        /// The file.
        path: PathBuf,
        /// The error of the migration.
        source: rusqlite_migration::Error,
    },
    /// Two files have different plans for one night.
    #[error(
        "{path} has a different plan for the night {night} ({theirs}, not {ours}): its shards did not \
         run with the same list of tests and durations"
    )]
    OtherPlan {
        /// The file.
        path: PathBuf,
        /// The night.
        night: String,
        /// Hash of the plan in this store.
        ours: String,
        /// Hash of the plan in the file.
        theirs: String,
    },
}

/// The result of [`Store::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Number of results that the store did not have.
    pub added: u64,
    /// Number of results that it had.
    pub known: u64,
}

/// A file of the history.
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens a file, or creates it.
    ///
    /// # Errors
    /// Fails if it is not a history of crucible, or is of a later version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Sqlite {
            path: path.to_owned(),
            source,
        };
        let mut connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        // A row is on the disk when its insertion returns. No WAL: it needs shared memory, which
        // network file systems do not have.
        connection
            .execute_batch("PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL;")
            .map_err(failed)?;
        migrate(&mut connection).map_err(|source| Error::Version {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Sqlite {
            path: path.clone(),
            source,
        }
    }

    /// Adds a night and its plan. Does nothing if the file has it already.
    ///
    /// # Errors
    /// Fails if the file has a different plan for the night.
    pub fn plan(&mut self, night: &Night, tests: &[Planned]) -> Result<(), Error> {
        let failed = self.failed();
        let path = self.path.clone();
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&failed)?;
        transaction
            .execute(
                "INSERT OR IGNORE INTO night VALUES (?1, ?2, ?3)",
                params![night.id, night.plan, night.shards],
            )
            .map_err(&failed)?;
        let ours: String = transaction
            .query_row("SELECT plan FROM night WHERE id = ?1", [&night.id], |row| {
                row.get(0)
            })
            .map_err(&failed)?;
        if ours != night.plan {
            return Err(Error::OtherPlan {
                path,
                night: night.id.clone(),
                ours,
                theirs: night.plan.clone(),
            });
        }
        for test in tests {
            transaction
                .execute(
                    "INSERT OR IGNORE INTO planned VALUES (?1, ?2, ?3, ?4)",
                    params![night.id, test.test.name, test.test.variant, test.shard],
                )
                .map_err(&failed)?;
        }
        transaction.commit().map_err(&failed)
    }

    /// Adds the process of a shard, or records that it has finished.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn shard(&self, shard: &Shard) -> Result<(), Error> {
        self.connection
            .execute(
                "INSERT INTO shard VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET finished = excluded.finished
                 WHERE excluded.finished IS NOT NULL",
                params![
                    shard.night,
                    shard.number,
                    shard.process,
                    shard.started,
                    shard.finished,
                    shard.provenance
                ],
            )
            .map_err(self.failed())?;
        Ok(())
    }

    /// Adds a result. It is on the disk when this returns.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn add(&mut self, result: &ResultRow) -> Result<(), Error> {
        self.add_all(std::slice::from_ref(result))
    }

    /// Adds results in one transaction.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn add_all(&mut self, results: &[ResultRow]) -> Result<(), Error> {
        let failed = self.failed();
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&failed)?;
        for result in results {
            insert(&transaction, result).map_err(&failed)?;
        }
        transaction.commit().map_err(&failed)
    }

    /// Records that a test is left out, with the reason.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn skip(&self, night: &str, skipped: &Skipped) -> Result<(), Error> {
        self.connection
            .execute(
                "INSERT OR IGNORE INTO skipped VALUES (?1, ?2, ?3, ?4)",
                params![
                    night,
                    skipped.test.name,
                    skipped.test.variant,
                    skipped.reason
                ],
            )
            .map_err(self.failed())?;
        Ok(())
    }

    /// Stores the result of a bisection.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn bisected(&self, bisection: &Bisection) -> Result<(), Error> {
        self.connection
            .execute(
                "INSERT OR IGNORE INTO bisection VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    bisection.night,
                    bisection.signature,
                    bisection.test.name,
                    bisection.test.variant,
                    bisection.good,
                    bisection.bad,
                    bisection.answer,
                    bisection.directory
                ],
            )
            .map_err(self.failed())?;
        Ok(())
    }

    /// Returns all bisections, in the order of their nights.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn bisections(&self) -> Result<Vec<Bisection>, Error> {
        let query = "SELECT name, variant, night, signature, good, bad, answer, directory
                     FROM bisection ORDER BY night, signature, name, variant, answer";
        self.rows(query, [], |row| {
            Ok(Bisection {
                test: test(row)?,
                night: row.get(2)?,
                signature: row.get(3)?,
                good: row.get(4)?,
                bad: row.get(5)?,
                answer: row.get(6)?,
                directory: row.get(7)?,
            })
        })
    }

    /// Adds all rows of a second file. Files can be merged in any order and more than once.
    ///
    /// # Errors
    /// Fails if one of the files cannot be used, or if they have different plans for one night. The
    /// store is unchanged then.
    pub fn merge(&mut self, other: &Path) -> Result<Merged, Error> {
        // The second file's tables may be older, so they are brought up to date in place; a copy
        // is not needed.
        let theirs = Self::open(other)?;
        drop(theirs);
        let failed = |source| Error::Sqlite {
            path: other.to_owned(),
            source,
        };
        let name = other.to_string_lossy().into_owned();
        self.connection
            .execute("ATTACH ?1 AS other", [name])
            .map_err(failed)?;
        let merged = self.merge_attached(other);
        let detached = self.connection.execute("DETACH other", []);
        let merged = merged?;
        detached.map_err(failed)?;
        Ok(merged)
    }

    fn merge_attached(&mut self, path: &Path) -> Result<Merged, Error> {
        let failed = |source| Error::Sqlite {
            path: path.to_owned(),
            source,
        };
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let mut differing = transaction
            .prepare(
                "SELECT id, ours.plan, theirs.plan FROM main.night AS ours
                 JOIN other.night AS theirs USING (id) WHERE ours.plan <> theirs.plan",
            )
            .map_err(failed)?;
        let differs = differing
            .query_map([], |row| {
                Ok(Error::OtherPlan {
                    path: path.to_owned(),
                    night: row.get(0)?,
                    ours: row.get(1)?,
                    theirs: row.get(2)?,
                })
            })
            .and_then(|mut rows| rows.next().transpose())
            .map_err(failed)?;
        drop(differing);
        if let Some(differs) = differs {
            return Err(differs);
        }
        let count = |table: &str| -> Result<u64, Error> {
            let query = format!("SELECT count(*) FROM {table}.result");
            let count: i64 = transaction
                .query_row(&query, [], |row| row.get(0))
                .map_err(failed)?;
            Ok(count.unsigned_abs())
        };
        let (before, theirs) = (count("main")?, count("other")?);
        transaction
            .execute_batch(
                "INSERT OR IGNORE INTO main.night SELECT * FROM other.night;
                 INSERT OR IGNORE INTO main.planned SELECT * FROM other.planned;
                 INSERT OR IGNORE INTO main.skipped SELECT * FROM other.skipped;
                 INSERT OR IGNORE INTO main.result SELECT * FROM other.result;
                 INSERT OR IGNORE INTO main.bisection SELECT * FROM other.bisection;
                 INSERT OR IGNORE INTO main.metric SELECT * FROM other.metric;
                 INSERT INTO main.shard SELECT * FROM other.shard WHERE true
                 ON CONFLICT DO UPDATE SET finished = excluded.finished
                 WHERE excluded.finished IS NOT NULL;",
            )
            .map_err(failed)?;
        let added = count("main")? - before;
        transaction.commit().map_err(failed)?;
        Ok(Merged {
            added,
            known: theirs - added,
        })
    }

    /// Removes all but the last nights. Returns the number of removed nights.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn retain(&mut self, nights: usize) -> Result<usize, Error> {
        let failed = self.failed();
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&failed)?;
        let gone = transaction
            .execute(
                "DELETE FROM night WHERE id NOT IN
                 (SELECT id FROM night ORDER BY id DESC LIMIT ?1)",
                [i64::try_from(nights).unwrap_or(i64::MAX)],
            )
            .map_err(&failed)?;
        for table in ["shard", "planned", "skipped", "bisection", "result"] {
            let text = format!("DELETE FROM {table} WHERE night NOT IN (SELECT id FROM night)");
            transaction.execute(&text, []).map_err(&failed)?;
        }
        let metrics = "DELETE FROM metric WHERE result NOT IN (SELECT id FROM result)";
        transaction.execute(metrics, []).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        if gone > 0 {
            self.connection.execute("VACUUM", []).map_err(&failed)?;
        }
        Ok(gone)
    }

    /// Returns the nights, the oldest first.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn nights(&self) -> Result<Vec<Night>, Error> {
        self.rows(
            "SELECT id, plan, shards FROM night ORDER BY id",
            [],
            |row| {
                Ok(Night {
                    id: row.get(0)?,
                    plan: row.get(1)?,
                    shards: row.get(2)?,
                })
            },
        )
    }

    /// Returns the processes of a night's shards, in the order of shard and start.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn shards(&self, night: &str) -> Result<Vec<Shard>, Error> {
        let query = "SELECT night, number, process, started, finished, provenance FROM shard
                     WHERE night = ?1 ORDER BY number, started, process";
        self.rows(query, [night], |row| {
            Ok(Shard {
                night: row.get(0)?,
                number: row.get(1)?,
                process: row.get(2)?,
                started: row.get(3)?,
                finished: row.get(4)?,
                provenance: row.get(5)?,
            })
        })
    }

    /// Returns the planned tests of a night, in their order.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn planned(&self, night: &str) -> Result<Vec<Planned>, Error> {
        let query = "SELECT name, variant, shard FROM planned WHERE night = ?1
                     ORDER BY name, variant";
        self.rows(query, [night], |row| {
            Ok(Planned {
                test: test(row)?,
                shard: row.get(2)?,
            })
        })
    }

    /// Returns the tests that a night has left out, in their order.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn skipped(&self, night: &str) -> Result<Vec<Skipped>, Error> {
        let query = "SELECT name, variant, reason FROM skipped WHERE night = ?1
                     ORDER BY name, variant, reason";
        self.rows(query, [night], |row| {
            Ok(Skipped {
                test: test(row)?,
                reason: row.get(2)?,
            })
        })
    }

    /// Returns the results of a night, or of all nights, in the order of night, test and run.
    ///
    /// Two merged files may each have a result for one run, if a shard was restarted on a host
    /// without its first results. Both are returned, the earlier first.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn results(&self, night: Option<&str>) -> Result<Vec<ResultRow>, Error> {
        let query = "SELECT name, variant, night, attempt, time, ms, condition, verdict, blame,
                     signature, why, kernel, harness, directory, id FROM result
                     WHERE ?1 IS NULL OR night = ?1
                     ORDER BY night, name, variant, attempt, time, id";
        let mut named = self.rows(query, [night], |row| {
            let result = ResultRow {
                test: test(row)?,
                night: row.get(2)?,
                attempt: row.get(3)?,
                time: row.get(4)?,
                ms: row.get::<_, i64>(5)?.unsigned_abs(),
                condition: row.get(6)?,
                verdict: row.get(7)?,
                blame: row.get(8)?,
                signature: row.get(9)?,
                why: row.get(10)?,
                kernel: row.get(11)?,
                harness: row.get(12)?,
                directory: row.get(13)?,
                metrics: Vec::new(),
            };
            Ok((row.get::<_, String>(14)?, result))
        })?;
        let mut metrics = std::collections::HashMap::<String, Vec<Metric>>::new();
        let query = "SELECT result, name, value, unit FROM metric
                     WHERE ?1 IS NULL OR result IN (SELECT id FROM result WHERE night = ?1)
                     ORDER BY name";
        let all = self.rows(query, [night], |row| {
            let metric = Metric {
                name: row.get(1)?,
                value: row.get(2)?,
                unit: row.get(3)?,
            };
            Ok((row.get::<_, String>(0)?, metric))
        })?;
        for (result, metric) in all {
            metrics.entry(result).or_default().push(metric);
        }
        for (id, result) in &mut named {
            result.metrics = metrics.remove(id).unwrap_or_default();
        }
        Ok(named.into_iter().map(|(_, result)| result).collect())
    }

    fn rows<T, P: rusqlite::Params>(
        &self,
        query: &str,
        params: P,
        each: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        let read = move || {
            let mut statement = self.connection.prepare_cached(query)?;
            statement.query_map(params, each)?.collect::<Result<_, _>>()
        };
        read().map_err(self.failed())
    }
}

/// Brings the tables up to date. A second process may do so at the same time: its transaction
/// makes ours fail immediately, because SQLite does not wait if that could be a deadlock.
fn migrate(connection: &mut Connection) -> Result<(), rusqlite_migration::Error> {
    let began = Instant::now();
    loop {
        let Err(error) = MIGRATIONS.to_latest(connection) else {
            return Ok(());
        };
        let theirs = match &error {
            rusqlite_migration::Error::RusqliteError { err, .. } => matches!(
                err.sqlite_error_code(),
                // A second process has made the tables since the version was read.
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::Unknown)
            ),
            _ => false,
        };
        if !theirs || began.elapsed() >= BUSY {
            return Err(error);
        }
        thread::sleep(RETRY);
    }
}

/// Reads the test from the first two columns.
fn test(row: &Row<'_>) -> rusqlite::Result<TestId> {
    Ok(TestId {
        name: row.get(0)?,
        variant: row.get(1)?,
    })
}

fn insert(to: &Connection, result: &ResultRow) -> rusqlite::Result<()> {
    // Sort the metrics: the name of the row depends on their order.
    let mut result = result.clone();
    result.metrics.sort_by(|a, b| a.name.cmp(&b.name));
    let id = result.id();
    let ms = i64::try_from(result.ms).unwrap_or(i64::MAX);
    to.prepare_cached(
        "INSERT OR IGNORE INTO result VALUES
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?
    .execute(params![
        id,
        result.night,
        result.test.name,
        result.test.variant,
        result.attempt,
        result.time,
        ms,
        result.condition,
        result.verdict,
        result.blame,
        result.signature,
        result.why,
        result.kernel,
        result.harness,
        result.directory,
    ])?;
    for metric in &result.metrics {
        to.prepare_cached("INSERT OR IGNORE INTO metric VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![id, metric.name, metric.value, metric.unit])?;
    }
    Ok(())
}
