// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::error::Error as StdError;
use std::fmt;

/// An error of the monitor. Its display form includes all causes, because the monitor sends it to
/// its parent as text.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// Returns a failure without a cause; `what` completes "cannot".
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            source: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.what)?;
        let mut next: Option<&dyn StdError> = self.source.as_deref().map(|e| e as _);
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

impl StdError for Failure {}

/// Adds the operation that failed to an error.
pub(crate) trait During<T> {
    /// Converts the error into a [`Failure`]; `what` completes "cannot".
    fn during(self, what: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E> During<T> for Result<T, E>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    fn during(self, what: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            what: what.into(),
            source: Some(error.into()),
        })
    }
}
