//! A freezer in memory for tests of its users.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::freezer::{FreezeError, Freezer, Method};

/// A freezer that only remembers, and whose failures are scripted. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct FakeFreezer {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    frozen: bool,
    gone: bool,
    fail_freezes: u32,
    fail_thaws: u32,
    fail_looks: u32,
    tries: u32,
    freezes: u32,
    thaws: u32,
}

impl FakeFreezer {
    /// A thawed one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next freeze ends as if its deadline had passed, thawed.
    pub fn fail_next_freeze(&self) {
        self.state.lock().fail_freezes += 1;
    }

    /// The next thaw ends as if its deadline had passed, still frozen.
    pub fn fail_next_thaw(&self) {
        self.state.lock().fail_thaws += 1;
    }

    /// The next look is not answered.
    pub fn fail_next_look(&self) {
        self.state.lock().fail_looks += 1;
    }

    /// From now on the cgroup does not exist.
    pub fn vanish(&self) {
        self.state.lock().gone = true;
    }

    /// How many freezes were tried.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.state.lock().tries
    }

    /// How many freezes succeeded.
    #[must_use]
    pub fn freezes(&self) -> u32 {
        self.state.lock().freezes
    }

    /// How many thaws succeeded.
    #[must_use]
    pub fn thaws(&self) -> u32 {
        self.state.lock().thaws
    }
}

impl Freezer for FakeFreezer {
    fn method(&self) -> Method {
        Method::CgroupV2
    }

    fn freeze(&self, within: Duration) -> Result<(), FreezeError> {
        let mut state = self.state.lock();
        state.tries += 1;
        if state.gone {
            return Err(FreezeError::Gone {
                path: "/fake".into(),
            });
        }
        if state.fail_freezes > 0 {
            state.fail_freezes -= 1;
            state.frozen = false;
            return Err(FreezeError::NotFrozen {
                path: "/fake".into(),
                within,
            });
        }
        state.frozen = true;
        state.freezes += 1;
        Ok(())
    }

    fn thaw(&self, within: Duration) -> Result<(), FreezeError> {
        let mut state = self.state.lock();
        if state.fail_thaws > 0 {
            state.fail_thaws -= 1;
            return Err(FreezeError::NotThawed {
                path: "/fake".into(),
                within,
            });
        }
        state.frozen = false;
        state.thaws += 1;
        Ok(())
    }

    fn is_frozen(&self) -> Result<bool, FreezeError> {
        let mut state = self.state.lock();
        if state.fail_looks > 0 {
            state.fail_looks -= 1;
            return Err(FreezeError::Silent {
                path: "/fake".into(),
            });
        }
        Ok(state.frozen && !state.gone)
    }
}
