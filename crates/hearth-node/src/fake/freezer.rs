//! Freezing pods that have no processes.

use std::time::Duration;

use hearth_cri::fake::FakeRuntime;
use hearth_sys::fake::FakeFreezer;
use hearth_sys::{FreezeError, Freezer, Method};

use super::FreezerDelays;

/// The freezer of a pod of a fake runtime, which is told: what needs live processes there waits for a thaw.
#[derive(Debug)]
pub(crate) struct FakePodFreezer {
    inner: FakeFreezer,
    runtime: FakeRuntime,
    cgroup: String,
    delays: FreezerDelays,
}

impl FakePodFreezer {
    /// For the pods whose `cgroup_parent` is `cgroup`.
    pub(crate) fn new(
        inner: FakeFreezer,
        runtime: FakeRuntime,
        cgroup: String,
        delays: FreezerDelays,
    ) -> Self {
        Self {
            inner,
            runtime,
            cgroup,
            delays,
        }
    }

    fn tell(&self) -> Result<(), FreezeError> {
        self.runtime
            .set_frozen(&self.cgroup, self.inner.is_frozen()?);
        Ok(())
    }
}

impl Freezer for FakePodFreezer {
    fn freeze(&self, within: Duration) -> Result<(), FreezeError> {
        let takes = self.delays.freeze;
        pass(takes.min(within));
        if takes > within {
            return Err(FreezeError::NotFrozen {
                path: self.cgroup.clone().into(),
                within,
            });
        }
        let frozen = self.inner.freeze(within);
        self.tell()?;
        frozen
    }

    fn thaw(&self, within: Duration) -> Result<(), FreezeError> {
        let takes = self.delays.thaw;
        if takes > within {
            // Said at once: many nodes share the thread of whoever tries it with a short limit.
            return Err(FreezeError::NotThawed {
                path: self.cgroup.clone().into(),
                within,
            });
        }
        pass(takes);
        let thawed = self.inner.thaw(within);
        self.tell()?;
        thawed
    }

    fn is_frozen(&self) -> Result<bool, FreezeError> {
        self.inner.is_frozen()
    }

    fn method(&self) -> Method {
        self.inner.method()
    }
}

/// Takes up time, and the thread, as a kernel does that is waited for.
#[expect(
    clippy::disallowed_methods,
    reason = "there is nothing to wait for: the time itself is what was asked for"
)]
fn pass(time: Duration) {
    if !time.is_zero() {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_micros(50);

    fn freezer(freeze: Duration, thaw: Duration) -> FakePodFreezer {
        FakePodFreezer::new(
            FakeFreezer::new(),
            FakeRuntime::default(),
            "/pod".to_owned(),
            FreezerDelays { freeze, thaw },
        )
    }

    #[test]
    fn what_takes_longer_than_it_may_is_not_done() {
        let limit = Duration::from_secs(1);
        let freezer = freezer(3 * MOMENT, 3 * MOMENT);
        assert!(matches!(
            freezer.freeze(MOMENT),
            Err(FreezeError::NotFrozen { .. })
        ));
        assert!(!freezer.is_frozen().unwrap());
        freezer.freeze(limit).unwrap();
        assert!(matches!(
            freezer.thaw(MOMENT),
            Err(FreezeError::NotThawed { .. })
        ));
        assert!(freezer.is_frozen().unwrap());
        freezer.thaw(limit).unwrap();
        assert!(!freezer.is_frozen().unwrap());
    }
}
