//! When claims were last served, so that refills and teardown can yield to them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The moment of the last bind. The binder touches it, creations and teardown look at it.
#[derive(Clone, Debug, Default)]
pub struct ClaimActivity {
    last: Arc<Mutex<Option<Instant>>>,
}

impl ClaimActivity {
    /// A bind has just been asked for.
    pub fn touch(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    /// When the last bind was asked for.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        *self.last.lock()
    }
}
