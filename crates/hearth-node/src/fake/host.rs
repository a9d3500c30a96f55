//! A host without a kernel: it remembers which pods were made on it, and does nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_core::ids::PodUid;
use hearth_core::podspec::PodPlan;
use hearth_cri::fake::FakeRuntime;
use hearth_sys::fake::FakeFreezer;
use hearth_sys::reclaim::ReclaimError;
use hearth_sys::{Freezer, HeldMemory, Limits, Usage};
use parking_lot::Mutex;

use super::{FakePodFreezer, FreezerDelays};
use crate::freezers::FreezeTarget;
use crate::pod::{DiskUsage, HostError, Part, PodHost, Reclaim, VolumeFiles};
use crate::volumes::Locations;

/// The host of a fake node.
#[derive(Debug)]
pub(super) struct FakeNodeHost {
    runtime: FakeRuntime,
    delays: FreezerDelays,
    made: Mutex<Made>,
}

/// What was made and not removed.
#[derive(Debug, Default)]
struct Made {
    volumes: HashSet<PodUid>,
    cgroups: HashMap<PodUid, FakeFreezer>,
}

/// Nothing can be given back.
#[derive(Debug)]
struct NothingToReclaim;

impl Reclaim for NothingToReclaim {
    fn reclaim(&mut self, _bytes: u64) -> Result<bool, ReclaimError> {
        Ok(false)
    }
}

impl FakeNodeHost {
    pub(super) fn new(runtime: FakeRuntime, delays: FreezerDelays) -> Self {
        Self {
            runtime,
            delays,
            made: Mutex::default(),
        }
    }
}

fn cgroup_of(pod: &PodUid) -> String {
    format!("/fake/pod{pod}")
}

fn directory_of(pod: &PodUid) -> PathBuf {
    PathBuf::from(format!("/fake/{pod}"))
}

impl PodHost for FakeNodeHost {
    fn make_volumes(
        &self,
        pod: &PodUid,
        _plan: &PodPlan,
        _files: &VolumeFiles,
        _locations: &Locations,
    ) -> Result<(), HostError> {
        self.made.lock().volumes.insert(pod.clone());
        Ok(())
    }

    fn mount_part(&self, pod: &PodUid, part: &Part) -> Result<PathBuf, HostError> {
        Ok(directory_of(pod).join("parts").join(&part.place))
    }

    fn remove_volumes(&self, pod: &PodUid) -> Result<(), HostError> {
        self.made.lock().volumes.remove(pod);
        Ok(())
    }

    fn volumes(&self, pod: &PodUid) -> PathBuf {
        directory_of(pod).join("volumes")
    }

    fn write_hosts(&self, pod: &PodUid, _content: &str) -> Result<PathBuf, HostError> {
        Ok(directory_of(pod).join("etc-hosts"))
    }

    fn make_last_words(&self, pod: &PodUid, place: &str) -> Result<PathBuf, HostError> {
        Ok(directory_of(pod).join("last-words").join(place))
    }

    fn last_words(&self, _pod: &PodUid, _place: &str) -> String {
        String::new()
    }

    fn make_cgroup(&self, pod: &PodUid, _limits: &Limits) -> Result<(), HostError> {
        self.made.lock().cgroups.entry(pod.clone()).or_default();
        Ok(())
    }

    fn remove_cgroup(&self, pod: &PodUid) -> Result<(), HostError> {
        if self.made.lock().cgroups.remove(pod).is_some() {
            self.runtime.set_frozen(&cgroup_of(pod), false);
        }
        Ok(())
    }

    fn kill_container(&self, _pod: &PodUid, container: &str) -> Result<bool, HostError> {
        Ok(self.runtime.exit_container(container, 137))
    }

    fn cgroup_parent(&self, pod: &PodUid) -> Result<String, HostError> {
        Ok(cgroup_of(pod))
    }

    fn freezer(&self, target: &FreezeTarget) -> Result<Arc<dyn Freezer>, HostError> {
        let cgroup = cgroup_of(&target.pod);
        let inner = self.made.lock().cgroups.get(&target.pod).cloned();
        let inner = inner.unwrap_or_else(|| {
            // As on a real node after a reboot: what is not there stands still no more, and cannot be frozen.
            let gone = FakeFreezer::new();
            gone.vanish();
            gone
        });
        let runtime = self.runtime.clone();
        Ok(Arc::new(FakePodFreezer::new(
            inner,
            runtime,
            cgroup,
            self.delays,
        )))
    }

    fn cpu_time(&self, pod: &PodUid) -> Result<Option<Duration>, HostError> {
        let is_there = self.made.lock().cgroups.contains_key(pod);
        Ok(is_there.then_some(Duration::ZERO))
    }

    fn held_memory(&self, pod: &PodUid) -> Result<Option<HeldMemory>, HostError> {
        let is_there = self.made.lock().cgroups.contains_key(pod);
        Ok(is_there.then(HeldMemory::default))
    }

    fn reclaim(&self, _pod: &PodUid) -> Result<Box<dyn Reclaim>, HostError> {
        Ok(Box::new(NothingToReclaim))
    }

    fn usage(&self, pod: &PodUid) -> Result<Option<Usage>, HostError> {
        let is_there = self.made.lock().cgroups.contains_key(pod);
        Ok(is_there.then(Usage::default))
    }

    fn layers(&self) -> Result<HashMap<String, PathBuf>, HostError> {
        Ok(HashMap::new())
    }

    fn measure(&self, _directory: &Path) -> Result<DiskUsage, HostError> {
        Ok(DiskUsage::default())
    }

    fn pods(&self) -> Result<BTreeSet<PodUid>, HostError> {
        let made = self.made.lock();
        Ok(made
            .volumes
            .iter()
            .chain(made.cgroups.keys())
            .cloned()
            .collect())
    }
}
