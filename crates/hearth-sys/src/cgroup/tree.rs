//! The cgroups of one instance.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{
    CgroupError, HeldMemory, Hierarchy, Layout, Limits, Usage, Version, file, limits, remove, usage,
};
use crate::freezer::{self, FreezeError, Freezer};
use crate::wait::Deadline;

/// Controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

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
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if instance.is_empty() || instance.len() > 8 || !instance.chars().all(fits) {
            return Err(CgroupError::BadName {
                name: instance.to_owned(),
            });
        }
        Ok(Self {
            layout: Arc::new(layout),
            base: format!("/hearth-{instance}"),
        })
    }

    /// Makes the tree in every hierarchy and passes the controllers that limits need down to the pods. Harmless when
    /// it exists.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] when a controller is in no hierarchy, or when the root of the v2 hierarchy does
    /// not pass it on: that is for whoever set up the host to change.
    pub fn create(&self) -> Result<(), CgroupError> {
        let (base, pods) = (self.at(""), self.at("/pods"));
        for controller in CONTROLLERS {
            let missing = || CgroupError::NoController {
                controller,
                path: PathBuf::from(&self.base),
            };
            self.layout.controller(controller).ok_or_else(missing)?;
        }
        base.create()?;
        base.pass_controllers_on()?;
        pods.create()?;
        pods.pass_controllers_on()?;
        self.supervisor().create()
    }

    /// The cgroup of containerd and the shims.
    #[must_use]
    pub fn supervisor(&self) -> Cgroup {
        self.at("/supervisor")
    }

    /// The cgroup of a pod; makes nothing yet.
    ///
    /// # Errors
    /// [`CgroupError::BadName`] when the uid has other characters than letters, digits and `-`.
    pub fn pod(&self, uid: &str) -> Result<Cgroup, CgroupError> {
        if uid.is_empty() || !uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(CgroupError::BadName {
                name: uid.to_owned(),
            });
        }
        Ok(self.at(&format!("/pods/pod{uid}")))
    }

    /// Uids of all pods that have a cgroup in any hierarchy.
    pub fn pods(&self) -> Result<BTreeSet<String>, CgroupError> {
        let mut uids = BTreeSet::new();
        for directory in self.at("/pods").directories() {
            for child in file::children(&directory)? {
                let name = child.file_name().unwrap_or_default().to_string_lossy();
                uids.extend(name.strip_prefix("pod").map(str::to_owned));
            }
        }
        Ok(uids)
    }

    /// Kills all tasks of the instance, the supervisor's and frozen ones included, and waits until they are gone.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when tasks are left after `within`.
    pub fn kill(&self, within: Duration) -> Result<(), CgroupError> {
        self.at("").kill(within)
    }

    /// Removes the whole tree. It must have no tasks: a task that is left is [`CgroupError::Busy`] after `within`.
    pub fn remove(&self, within: Duration) -> Result<(), CgroupError> {
        self.at("").remove(within)
    }

    /// All processes of the instance, the supervisor's included.
    pub fn processes(&self) -> Result<BTreeSet<i32>, CgroupError> {
        self.at("").processes()
    }

    fn at(&self, below: &str) -> Cgroup {
        Cgroup {
            layout: Arc::clone(&self.layout),
            path: format!("{}{below}", self.base),
        }
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

    /// The cgroup of a container in this pod: a runtime that is given the pod's cgroup as parent, and manages cgroups by
    /// their files, names it by the container's id.
    ///
    /// # Errors
    /// [`CgroupError::BadName`] when the id has other characters than letters and digits.
    pub fn container(&self, id: &str) -> Result<Self, CgroupError> {
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(CgroupError::BadName {
                name: id.to_owned(),
            });
        }
        Ok(Self {
            layout: Arc::clone(&self.layout),
            path: format!("{}/{id}", self.path),
        })
    }

    /// Whether it exists in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories().any(|directory| directory.exists())
    }

    /// Makes the cgroup in every hierarchy, with those above it. Harmless when it exists.
    pub fn create(&self) -> Result<(), CgroupError> {
        for hierarchy in self.layout.hierarchies() {
            let mut directory = hierarchy.path.clone();
            for name in self.path.split('/').filter(|name| !name.is_empty()) {
                let parent = directory.clone();
                directory.push(name);
                match fs::create_dir(&directory) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(CgroupError::io("create", &directory, error)),
                }
                if hierarchy.version == Version::V1
                    && hierarchy.controllers.iter().any(|c| c == "cpuset")
                {
                    inherit_cpuset(&parent, &directory)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the limits; a limit of `None` is lifted.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        limits::write(self, limits)
    }

    /// Reads what the cgroup and all below it use.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        usage::read(self)
    }

    /// Reads what the cgroup and all below it hold in memory and in swap.
    pub fn held_memory(&self) -> Result<HeldMemory, CgroupError> {
        usage::held(self)
    }

    /// Reads the CPU time that the cgroup and all below it have used since it was made.
    pub fn cpu_time(&self) -> Result<Duration, CgroupError> {
        usage::cpu_micros(self).map(Duration::from_micros)
    }

    /// Moves a process into the cgroup in every hierarchy.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        for directory in self.directories() {
            file::write(&directory.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Opens what a process writes `0` to in order to move itself into the cgroup, once for each hierarchy.
    pub(crate) fn entrances(&self) -> Result<Vec<File>, CgroupError> {
        let open = |directory: PathBuf| {
            let path = directory.join("cgroup.procs");
            OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(|source| CgroupError::io("open", &path, source))
        };
        self.directories().map(open).collect()
    }

    /// Process ids of all tasks in the cgroup and below, in any hierarchy. Empty when it does not exist.
    pub fn processes(&self) -> Result<BTreeSet<i32>, CgroupError> {
        let mut pids = BTreeSet::new();
        for directory in self.directories() {
            pids.extend(remove::processes(&directory)?);
        }
        Ok(pids)
    }

    /// Kills all tasks in the cgroup and below, frozen ones included, and waits until they are gone.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when tasks are left after `within`.
    pub fn kill(&self, within: Duration) -> Result<(), CgroupError> {
        remove::kill(self, Deadline::after(within))
    }

    /// Removes the cgroup and all below it in every hierarchy. Success when it does not exist.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when tasks are left after `within`; nothing is killed.
    pub fn remove(&self, within: Duration) -> Result<(), CgroupError> {
        let deadline = Deadline::after(within);
        for hierarchy in self.layout.hierarchies() {
            remove::subtree(hierarchy.version, &self.directory(hierarchy), deadline)?;
        }
        Ok(())
    }

    /// The freezer for the tasks that are in the cgroup now: the v2 one wherever they are in the v2 hierarchy, the v1
    /// one only where they are not.
    pub fn freezer(&self) -> Result<Box<dyn Freezer>, FreezeError> {
        freezer::of(self)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The cgroup's directory in one hierarchy.
    pub(crate) fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.path.join(self.path.trim_start_matches('/'))
    }

    /// The cgroup's directories in all hierarchies.
    pub(crate) fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.layout
            .hierarchies()
            .iter()
            .map(|hierarchy| self.directory(hierarchy))
    }

    /// Lets the cgroups below have the controllers that limits need and that work in the v2 hierarchy.
    fn pass_controllers_on(&self) -> Result<(), CgroupError> {
        for hierarchy in self
            .layout
            .hierarchies()
            .iter()
            .filter(|h| h.version == Version::V2)
        {
            let directory = self.directory(hierarchy);
            let works_here =
                |name: &&str| self.layout.controller(name).is_some_and(|h| h == hierarchy);
            let wanted: Vec<&str> = CONTROLLERS.into_iter().filter(works_here).collect();
            if wanted.is_empty() {
                continue;
            }
            let offered = file::read(&directory.join("cgroup.controllers"))?;
            if let Some(controller) = wanted
                .iter()
                .find(|name| !offered.split_whitespace().any(|o| o == **name))
            {
                return Err(CgroupError::NoController {
                    controller,
                    path: directory,
                });
            }
            let enable: Vec<String> = wanted.iter().map(|name| format!("+{name}")).collect();
            file::write(&directory.join("cgroup.subtree_control"), &enable.join(" "))?;
        }
        Ok(())
    }
}

/// A new v1 cpuset has no CPU and no memory node, and takes no task before it has both.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if file::read(&child.join(name))?.trim().is_empty() {
            file::write(&child.join(name), file::read(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fixture;

    fn tree(root: &Path) -> CgroupTree {
        CgroupTree::new(Layout::discover(root).unwrap(), "t1").unwrap()
    }

    #[test]
    fn names_that_do_not_fit_a_path_are_refused() {
        let root = fixture::pure_v2();
        let layout = Layout::discover(root.path()).unwrap();
        for instance in ["", "..", "a/b", "Abc", "123456789", "a-b"] {
            assert!(
                CgroupTree::new(layout.clone(), instance).is_err(),
                "{instance:?}"
            );
        }
        for uid in ["", "..", "a/b", "a b", "a\n"] {
            assert!(tree(root.path()).pod(uid).is_err(), "{uid:?}");
        }
        let pod = tree(root.path()).pod("0f-9A").unwrap();
        assert_eq!(pod.path(), "/hearth-t1/pods/pod0f-9A");
        for id in ["", "..", "a/b", "a.b", "a\n"] {
            assert!(pod.container(id).is_err(), "{id:?}");
        }
        let container = pod.container("0fe1").unwrap();
        assert_eq!(container.path(), "/hearth-t1/pods/pod0f-9A/0fe1");
    }

    #[test]
    fn pods_of_any_hierarchy_are_listed() {
        let root = fixture::hybrid();
        fs::create_dir_all(root.path().join("memory/hearth-t1/pods/poda")).unwrap();
        fs::create_dir_all(root.path().join("unified/hearth-t1/pods/podb")).unwrap();
        fs::create_dir_all(root.path().join("unified/hearth-t2/pods/podc")).unwrap();
        assert_eq!(
            tree(root.path()).pods().unwrap(),
            BTreeSet::from(["a".to_owned(), "b".to_owned()])
        );
    }

    #[test]
    fn processes_of_all_hierarchies_are_joined() {
        let root = fixture::hybrid();
        let put = |path: &str, pids: &str| {
            let directory = root.path().join(path);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("cgroup.procs"), pids).unwrap();
        };
        put("memory/hearth-t1/pods/poda", "");
        put("memory/hearth-t1/pods/poda/c1", "11\n12\n");
        put("unified/hearth-t1/pods/poda/c1", "12\n13\n0\n");
        put("unified/hearth-t1/pods/podb", "14\n");
        let pod = tree(root.path()).pod("a").unwrap();
        assert_eq!(pod.processes().unwrap(), BTreeSet::from([11, 12, 13]));
        assert_eq!(
            tree(root.path()).pod("none").unwrap().processes().unwrap(),
            BTreeSet::new()
        );
    }

    #[test]
    fn a_controller_that_the_root_does_not_pass_on_is_named() {
        let root = fixture::pure_v2();
        let base = root.path().join("hearth-t1");
        fixture::files(&base, &["cgroup.subtree_control"]);
        fs::write(base.join("cgroup.controllers"), "cpu pids\n").unwrap();
        let error = tree(root.path()).create().unwrap_err();
        assert!(
            matches!(
                &error,
                CgroupError::NoController {
                    controller: "memory",
                    ..
                }
            ),
            "{error:?}"
        );

        let offered = "cpu memory pids\n";
        fs::write(base.join("cgroup.controllers"), offered).unwrap();
        fixture::files(&base.join("pods"), &["cgroup.subtree_control"]);
        fs::write(base.join("pods/cgroup.controllers"), offered).unwrap();
        tree(root.path()).create().unwrap();
        for directory in [base.clone(), base.join("pods")] {
            let written = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap();
            assert_eq!(written, "+cpu +memory +pids");
        }
    }
}
