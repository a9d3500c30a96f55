//! What our own programs log. A line of level ERROR is a bug unless it is listed here with the reason why it is not.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::tail::{self, Mark};

/// An ERROR that may be logged.
struct Allowed {
    /// What the line holds.
    text: &'static str,
    /// Why that is no bug.
    #[expect(dead_code, reason = "the reason is for the reader")]
    because: &'static str,
}

/// Everything that may be logged as an ERROR in any test.
const ALLOWED: &[Allowed] = &[Allowed {
    text: "leadership was lost",
    because: "a test takes the leader Lease away, and a controller that may not lead says so and ends",
}];

/// The logs of hearthd and the controller.
#[derive(Clone, Debug)]
pub struct DaemonLogs {
    files: Vec<PathBuf>,
}

impl DaemonLogs {
    pub(crate) fn new(dir: &Path) -> Self {
        let files =
            ["hearthd", "agent-sandbox-controller"].map(|name| dir.join(format!("{name}.log")));
        Self {
            files: files.into(),
        }
    }

    /// This moment in the logs.
    ///
    /// # Errors
    /// When a log cannot be looked at.
    pub fn mark(&self) -> Result<Vec<Mark>> {
        self.files.iter().map(|file| tail::mark(file)).collect()
    }

    /// The lines of level ERROR since `marks` that nobody allowed.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn unlisted_errors(&self, marks: &[Mark]) -> Result<Vec<String>> {
        self.lines(marks, |level, line| {
            level == "ERROR" && !ALLOWED.iter().any(|allowed| line.contains(allowed.text))
        })
    }

    /// The lines of level WARN and ERROR since `marks`.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn complaints(&self, marks: &[Mark]) -> Result<Vec<String>> {
        self.lines(marks, |level, _| matches!(level, "WARN" | "ERROR"))
    }

    fn lines(&self, marks: &[Mark], wanted: impl Fn(&str, &str) -> bool) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (file, mark) in self.files.iter().zip(marks) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            for line in tail::lines_since(file, *mark)? {
                // A panic is not a log line, but no less an error.
                let level = if line.contains("panicked at") {
                    Some("ERROR".to_owned())
                } else {
                    level(&line)
                };
                if level.is_some_and(|level| wanted(&level, &line)) {
                    found.push(format!("{name}: {line}"));
                }
            }
        }
        Ok(found)
    }
}

/// The level of a line in either of the two log formats; `None` for other lines.
fn level(line: &str) -> Option<String> {
    if line.starts_with('{') {
        let line: Value = serde_json::from_str(line).ok()?;
        return line.get("level")?.as_str().map(str::to_owned);
    }
    let level = line.split_whitespace().nth(1)?;
    matches!(level, "TRACE" | "DEBUG" | "INFO" | "WARN" | "ERROR").then(|| level.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_found_in_both_formats() {
        for (line, expect) in [
            (
                "2026-11-22T13:16:15.1Z ERROR hearth_node::pod: no",
                Some("ERROR"),
            ),
            (
                "2026-11-22T13:16:15.1Z  INFO hearthd: ERROR is only a word",
                Some("INFO"),
            ),
            (
                r#"{"timestamp":"x","level":"WARN","message":"ERROR"}"#,
                Some("WARN"),
            ),
            ("[supervisor of hearthd] ended by signal 9", None),
            ("", None),
        ] {
            assert_eq!(level(line).as_deref(), expect, "{line}");
        }
    }

    #[test]
    fn a_panic_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let logs = DaemonLogs::new(dir.path());
        let marks = logs.mark().unwrap();
        std::fs::write(
            dir.path().join("hearthd.log"),
            "thread 'main' panicked at src/main.rs:1:1:\n",
        )
        .unwrap();
        std::fs::write(
            dir.path().join("agent-sandbox-controller.log"),
            "x WARN y\n",
        )
        .unwrap();
        assert_eq!(logs.unlisted_errors(&marks).unwrap().len(), 1);
        assert_eq!(logs.complaints(&marks).unwrap().len(), 2);
    }
}
