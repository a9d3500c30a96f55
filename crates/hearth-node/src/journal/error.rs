use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

/// Why the journal could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A newer hearthd wrote it.
    #[error(
        "the journal has schema version {found}, this hearthd knows versions up to {known}; \
         run the newer hearthd that wrote it"
    )]
    Newer {
        /// The version found.
        found: u64,
        /// The newest version that is understood.
        known: u64,
    },
    /// Another process has it open.
    #[error("the journal {} is in use by another hearthd", path.display())]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// It cannot be read as a journal.
    #[error("the journal is damaged: {reason}")]
    Damaged {
        /// What was found.
        reason: String,
    },
    /// The database refuses.
    #[error("cannot open the journal")]
    Database(#[source] redb::Error),
    /// The file system refuses.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start the journal's writer")]
    Thread(#[source] io::Error),
}

/// Why a commit failed. All that were committed together share the error.
#[derive(Clone, Debug, Error)]
pub enum CommitError {
    /// The database refuses.
    #[error("the journal cannot be written")]
    Database(#[source] Arc<redb::Error>),
    /// It could not be opened again after an earlier failure.
    #[error("the journal cannot be opened again")]
    Reopen(#[source] Arc<OpenError>),
    /// The bind file could not be written.
    #[error("the bind file {} cannot be written", path.display())]
    BindFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// Too many batches wait already; nothing was written.
    #[error("too many changes wait for the journal")]
    Busy,
    /// The writer is gone, the process is about to end.
    #[error("the journal has stopped")]
    Stopped,
}
