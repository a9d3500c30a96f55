//! Cgroups of the machine's own, and processes to put into them. Everything is named after the test and goes with it.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hearth_sys::{Cgroup, CgroupTree, Layout};

/// Long enough for any of this on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// These tests are about the kernel: without root they could only pretend.
pub(crate) fn assert_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "the tests of this crate need root: run them as root"
    );
}

/// An instance id that no other test uses now.
pub(crate) fn instance() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // A pid has at most 22 bits, and seven hex digits hold 28.
    format!(
        "t{:07x}",
        ((std::process::id() << 6) | (count % 64)) & 0x0fff_ffff
    )
}

/// The cgroups of one test.
pub(crate) struct Trial {
    pub(crate) tree: CgroupTree,
    pub(crate) layout: Layout,
    pub(crate) instance: String,
}

impl Trial {
    pub(crate) fn new() -> Self {
        assert_root();
        let instance = instance();
        let layout = Layout::discover(Path::new(Layout::ROOT)).unwrap();
        let tree = CgroupTree::new(layout.clone(), &instance).unwrap();
        let trial = Self {
            tree,
            layout,
            instance,
        };
        trial.tree.create().unwrap();
        trial
    }

    /// A pod's cgroup with a container's below it, as a runtime makes them.
    pub(crate) fn pod(&self, uid: &str) -> Pod {
        let pod = self.tree.pod(uid).unwrap();
        pod.create().unwrap();
        Pod {
            cgroup: pod,
            children: Vec::new(),
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        for uid in self.tree.pods().unwrap() {
            self.tree.pod(&uid).unwrap().kill(LONG).unwrap();
        }
        self.tree.supervisor().kill(LONG).unwrap();
        self.tree.remove(LONG).unwrap();
    }
}

/// A pod with processes. They are killed with the cgroup by [`Trial`], and reaped here.
pub(crate) struct Pod {
    pub(crate) cgroup: Cgroup,
    children: Vec<Child>,
}

impl Pod {
    /// Starts processes that sleep and puts them into the pod.
    pub(crate) fn fill(&mut self, count: usize) {
        for _ in 0..count {
            let child = sleeper();
            self.cgroup.add(i32::try_from(child.id()).unwrap()).unwrap();
            self.children.push(child);
        }
    }

    pub(crate) fn adopt(&mut self, child: Child) {
        self.children.push(child);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.cgroup.kill(LONG).unwrap();
        for child in &mut self.children {
            child.wait().unwrap();
        }
    }
}

pub(crate) fn sleeper() -> Child {
    Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn spinner() -> Child {
    Command::new("sh")
        .args(["-c", "while :; do :; done"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// A process that answers, which shows that it runs.
pub(crate) struct Echo(Child);

impl Echo {
    pub(crate) fn start() -> Self {
        Self(
            Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn round_trip(&mut self) {
        let mut answer = [0];
        self.0.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        self.0
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut answer)
            .unwrap();
        assert_eq!(&answer, b"x");
    }

    pub(crate) fn into_child(self) -> Child {
        self.0
    }
}

/// Where a runtime may have put a pod's processes: in all hierarchies, and, on a host that has a v1 freezer, in the v1 ones
/// only.
pub(crate) fn v1_only_or_not(trial: &Trial) -> &'static [bool] {
    match trial.layout.controller("freezer") {
        Some(_) => &[false, true],
        None => &[false],
    }
}

/// Puts a process into the pod: into all hierarchies, or into the v1 ones only, as some runtimes do.
pub(crate) fn put(trial: &Trial, cgroup: &Cgroup, pid: i32, v1_only: bool) {
    if !v1_only {
        return cgroup.add(pid).unwrap();
    }
    let freezer = trial
        .layout
        .controller("freezer")
        .expect("this host has a v1 freezer");
    let directory = freezer.path.join(cgroup.path().trim_start_matches('/'));
    fs::write(directory.join("cgroup.procs"), pid.to_string()).unwrap();
}

pub(crate) fn fill_for(trial: &Trial, pod: &mut Pod, v1: bool) {
    for _ in 0..10 {
        let child = sleeper();
        put(trial, &pod.cgroup, i32::try_from(child.id()).unwrap(), v1);
        pod.adopt(child);
    }
}
