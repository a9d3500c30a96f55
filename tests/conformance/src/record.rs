//! What came of the rows on an implementation, kept so that the next run can be compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::run::{Outcome, Tried};
use crate::table::Table;

/// The implementation whose choices the rows have.
pub const HEARTH: &str = "hearth";

/// What came of all rows on one implementation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record {
    /// By row.
    pub rows: BTreeMap<String, State>,
}

/// What came of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is so.
    Holds,
    /// It is not so.
    Fails,
    /// The cluster had not what it needs.
    NotTried,
}

/// Why a record cannot be used.
#[derive(Debug, Error)]
pub enum RecordError {
    /// It cannot be read or written.
    #[error("{}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is no record.
    #[error("{} is no record", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
}

impl Record {
    /// Reads a record; one that is not there is empty.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(path: &Path) -> Result<Self, RecordError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                let path = path.to_owned();
                return Err(RecordError::File { path, source });
            }
        };
        serde_json::from_slice(&text).map_err(|source| RecordError::Format {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes the record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), RecordError> {
        let text = serde_json::to_string_pretty(self).map_err(|source| RecordError::Format {
            path: path.to_owned(),
            source,
        })?;
        fs::write(path, text + "\n").map_err(|source| RecordError::File {
            path: path.to_owned(),
            source,
        })
    }

    /// What was tried takes the place of what is recorded; rows that are no more are dropped.
    pub fn update(&mut self, table: &Table, tried: &[Tried]) {
        for tried in tried {
            self.rows
                .insert(tried.id.clone(), State::of(&tried.outcome));
        }
        let ids: BTreeSet<_> = table.rows().map(|row| row.id.as_str()).collect();
        self.rows.retain(|id, _| ids.contains(id.as_str()));
    }

    /// How a run differs from what is recorded: rows that fail though they are said to hold, hold though they are said to
    /// fail, or of which nothing is said.
    #[must_use]
    pub fn deviations(&self, tried: &[Tried]) -> Vec<String> {
        let deviation = |tried: &Tried| {
            let now = State::of(&tried.outcome);
            let id = &tried.id;
            match self.rows.get(id) {
                Some(before) if *before == now => None,
                Some(before) => Some(format!(
                    "{id} {} and is recorded as one that {}",
                    now.words(),
                    before.words()
                )),
                None => Some(format!("{id} {} and is not recorded", now.words())),
            }
        };
        tried.iter().filter_map(deviation).collect()
    }
}

impl State {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Holds => Self::Holds,
            Outcome::Fails(_) => Self::Fails,
            Outcome::NotTried(_) => Self::NotTried,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::NotTried => "is not tried",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tried(id: &str, outcome: Outcome) -> Tried {
        Tried {
            id: id.to_owned(),
            outcome,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_run_is_compared_in_both_directions() {
        let state = |(id, state): (&str, State)| (id.to_owned(), state);
        let record = Record {
            rows: [
                ("a", State::Holds),
                ("b", State::Fails),
                ("c", State::Holds),
            ]
            .map(state)
            .into(),
        };
        let run = [
            tried("a", Outcome::Holds),
            tried("b", Outcome::Holds),
            tried("c", Outcome::Fails("x".to_owned())),
            tried("d", Outcome::Holds),
        ];
        assert_eq!(
            record.deviations(&run),
            [
                "b holds and is recorded as one that fails",
                "c fails and is recorded as one that holds",
                "d holds and is not recorded",
            ]
        );
    }
}
