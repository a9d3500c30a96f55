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

    /// What was tried takes the place of what is recorded; rows that are not there any more, or have no steps for the
    /// implementation any more, are dropped.
    pub fn update(&mut self, table: &Table, implementation: &str, tried: &[Tried]) {
        for tried in tried {
            self.rows
                .insert(tried.id.clone(), State::of(&tried.outcome));
        }
        for id in self.without_steps(table, implementation) {
            self.rows.remove(&id);
        }
    }

    /// What is recorded of rows that a run on the implementation does not come to: they are not in the table, or have no
    /// steps for it.
    #[must_use]
    pub fn without_steps(&self, table: &Table, implementation: &str) -> Vec<String> {
        let has_steps: BTreeSet<_> = table
            .rows()
            .filter(|row| !row.steps_for(implementation).is_empty())
            .map(|row| row.id.as_str())
            .collect();
        let ids = self.rows.keys();
        ids.filter(|id| !has_steps.contains(id.as_str()))
            .cloned()
            .collect()
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

    /// What is recorded of rows that a run of all rows did not come to.
    #[must_use]
    pub fn untouched(&self, tried: &[Tried]) -> Vec<String> {
        let tried: BTreeSet<_> = tried.iter().map(|tried| tried.id.as_str()).collect();
        let deviation = |(id, before): (&String, &State)| {
            let words = before.words();
            (!tried.contains(id.as_str()))
                .then(|| format!("{id} was not come to and is recorded as one that {words}"))
        };
        self.rows.iter().filter_map(deviation).collect()
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

    use serde_json::{Value, json};

    use super::*;
    use crate::table::{Row, Section};

    fn tried(id: &str, outcome: Outcome) -> Tried {
        Tried {
            id: id.to_owned(),
            outcome,
            took: Duration::ZERO,
        }
    }

    fn record(rows: &[(&str, State)]) -> Record {
        Record {
            rows: rows
                .iter()
                .map(|(id, state)| ((*id).to_owned(), *state))
                .collect(),
        }
    }

    #[test]
    fn a_run_is_compared_in_both_directions() {
        let record = record(&[
            ("a", State::Holds),
            ("b", State::Fails),
            ("c", State::Holds),
        ]);
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

    #[test]
    fn what_is_recorded_of_a_row_that_no_run_comes_to_is_told() {
        let record = record(&[
            ("a", State::Holds),
            ("b", State::Fails),
            ("c", State::NotTried),
        ]);
        let run = [
            tried("a", Outcome::Holds),
            tried("c", Outcome::NotTried("needs node".to_owned())),
        ];
        assert_eq!(
            record.untouched(&run),
            ["b was not come to and is recorded as one that fails"]
        );
    }

    #[test]
    fn only_rows_with_steps_stay_recorded() {
        let row = |more: Value| -> Row {
            let mut row = json!({"id": "", "text": "t"});
            for (key, value) in more.as_object().into_iter().flatten() {
                row[key] = value.clone();
            }
            serde_json::from_value(row).unwrap()
        };
        let steps = json!([{"run": {"args": [], "is": {}}}]);
        let rows = vec![
            row(json!({"id": "kept", "steps": steps})),
            row(json!({"id": "new", "steps": steps})),
            row(json!({"id": "unlike", "not_applicable": "w"})),
            row(json!({"id": "chosen", "steps": steps, "choice": {"reason": "r"}})),
        ];
        let table = Table {
            sections: vec![Section {
                title: "s".to_owned(),
                rows,
            }],
        };
        let recorded = record(&[
            ("chosen", State::Holds),
            ("gone", State::Holds),
            ("kept", State::Fails),
            ("unlike", State::Fails),
        ]);
        for (implementation, kept) in [
            (HEARTH, &["kept", "new"][..]),
            ("upstream", &["chosen", "kept", "new"][..]),
        ] {
            let mut updated = recorded.clone();
            updated.update(&table, implementation, &[tried("new", Outcome::Holds)]);
            let ids: Vec<_> = updated.rows.keys().map(String::as_str).collect();
            assert_eq!(ids, kept, "{implementation}");
        }
    }
}
