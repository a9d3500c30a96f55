//! What the node daemon needs of its host, checked before it starts.

use std::path::PathBuf;

/// What to check.
#[derive(Debug, Clone)]
pub struct Needs {
    /// Where cgroups are mounted.
    pub cgroup_root: PathBuf,
    /// Tools and binaries that must be there and executable: names are looked up in `PATH`, paths taken as they are.
    pub programs: Vec<PathBuf>,
}

/// Something the host lacks: one sentence with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The sentence.
    pub sentence: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Everything the host lacks; empty when the node can run.
#[must_use]
pub fn host(needs: &Needs) -> Vec<Problem> {
    let _ = needs;
    todo!()
}
