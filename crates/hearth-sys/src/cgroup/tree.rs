//! The cgroups of one instance.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{CgroupError, Layout, Limits, Usage};
use crate::freezer::{FreezeError, Freezer};

/// The cgroups `/hearth-<instance>/…`.
#[derive(Debug, Clone)]
pub struct CgroupTree {
    layout: Arc<Layout>,
    base: String,
}

impl CgroupTree {
    /// The tree of an instance; makes nothing yet.
    ///
    /// # Errors
    /// [`CgroupError::BadName`] unless the id is 1 to 8 lower-case letters and digits.
    pub fn new(layout: Layout, instance: &str) -> Result<Self, CgroupError> {
        let _ = (layout, instance);
        todo!()
    }

    /// Makes the tree in every hierarchy and passes the controllers that limits need down to the pods. Harmless when
    /// it exists.
    pub fn create(&self) -> Result<(), CgroupError> {
        let _ = (&self.layout, &self.base);
        todo!()
    }

    /// The cgroup of containerd and the shims.
    #[must_use]
    pub fn supervisor(&self) -> Cgroup {
        todo!()
    }

    /// The cgroup of a pod; makes nothing yet.
    ///
    /// # Errors
    /// [`CgroupError::BadName`] when the uid has other characters than letters, digits and `-`.
    pub fn pod(&self, uid: &str) -> Result<Cgroup, CgroupError> {
        let _ = uid;
        todo!()
    }

    /// Uids of all pods that have a cgroup in any hierarchy.
    pub fn pods(&self) -> Result<BTreeSet<String>, CgroupError> {
        todo!()
    }

    /// Removes the whole tree. It must have no tasks: a task that is left is [`CgroupError::Busy`] after `within`.
    pub fn remove(&self, within: Duration) -> Result<(), CgroupError> {
        let _ = within;
        todo!()
    }
}

/// One cgroup: the directory of one path in every hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: Arc<Layout>,
    path: String,
}

impl Cgroup {
    /// The path below the hierarchies' roots with a leading slash: what CRI calls `cgroup_parent`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes the cgroup in every hierarchy. Harmless when it exists.
    pub fn create(&self) -> Result<(), CgroupError> {
        let _ = &self.layout;
        todo!()
    }

    /// Writes the limits; a limit of `None` is lifted.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        let _ = limits;
        todo!()
    }

    /// Reads what the cgroup and all below it use.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        todo!()
    }

    /// Process ids of all tasks in the cgroup and below, in any hierarchy. Empty when it does not exist.
    pub fn processes(&self) -> Result<BTreeSet<i32>, CgroupError> {
        todo!()
    }

    /// Kills all tasks in the cgroup and below, frozen ones included, and waits until they are gone.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when tasks are left after `within`.
    pub fn kill(&self, within: Duration) -> Result<(), CgroupError> {
        let _ = within;
        todo!()
    }

    /// Removes the cgroup and all below it in every hierarchy. Success when it does not exist.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when tasks are left after `within`; nothing is killed.
    pub fn remove(&self, within: Duration) -> Result<(), CgroupError> {
        let _ = within;
        todo!()
    }

    /// The freezer for the tasks that are in the cgroup now: the v2 one wherever they are in the v2 hierarchy, the v1
    /// one only where they are not.
    pub fn freezer(&self) -> Result<Box<dyn Freezer>, FreezeError> {
        todo!()
    }
}
