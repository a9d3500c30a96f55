//! A container runtime in memory, for tests of its users and for nodes that only pretend.
//!
//! [`FakeRuntime`] keeps the state of sandboxes, containers and images as a runtime would, and words its failures like
//! containerd. It is used directly, through [`PodRuntime`](crate::PodRuntime) and [`ImageStore`](crate::ImageStore), or
//! behind a real CRI socket ([`FakeServer`]). Calls can be failed, held or slowed down ([`FakeRuntime::fail_next`] and
//! its siblings), and the processes in the containers do what a [`Program`] says.

mod images;
mod network;
mod runtime;
mod script;
mod server;
mod services;
mod sessions;
mod state;

use std::collections::VecDeque;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use server::FakeServer;
pub use sessions::{Begun, FakeSession};

use self::script::{Fault, Moment, Script};
use self::state::State;
use crate::{Deadlines, ErrorKind, Operation};

/// How a [`FakeRuntime`] is set up.
#[derive(Debug, Clone)]
pub struct FakeOptions {
    /// Runtime handlers it knows besides the default one.
    pub handlers: Vec<String>,
    /// Images in its store.
    pub images: Vec<String>,
    /// Whether every other image is in its store as well, once it is asked for.
    pub every_image: bool,
    /// Network of the pods: address and prefix length.
    pub pod_network: (Ipv4Addr, u8),
    /// Deadlines of calls that come through the traits (a served fake leaves them to its client).
    pub deadlines: Deadlines,
}

impl Default for FakeOptions {
    fn default() -> Self {
        Self {
            handlers: ["runc", "runsc", "kata"].map(str::to_owned).into(),
            images: vec![
                "localhost/hearth-pause:dev".to_owned(),
                "localhost/hearth-busybox:dev".to_owned(),
            ],
            every_image: false,
            pod_network: (Ipv4Addr::new(10, 88, 0, 0), 16),
            deadlines: Deadlines::default(),
        }
    }
}

/// What the main process of a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Runs until it is told to stop, then ends with code 143.
    Runs,
    /// Runs and does not care about being told to stop: it is killed after the grace period, with code 137.
    IgnoresStop,
    /// Ends with this code as soon as it has started.
    Exits(i32),
    /// Cannot be started: the start fails, and the container has exited with code 128.
    FailsToStart,
}

type ProgramOf = dyn Fn(&v1::ContainerConfig) -> Program + Send + Sync;
type ExecOf = dyn Fn(&str, &[String]) -> v1::ExecSyncResponse + Send + Sync;

/// The fake runtime. Clones share their state.
#[derive(Clone)]
pub struct FakeRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    deadlines: Deadlines,
    state: Mutex<State>,
    script: Mutex<Script>,
    program: Mutex<Box<ProgramOf>>,
    exec: Mutex<Arc<ExecOf>>,
    /// Sessions that were begun, until a test takes their other end.
    sessions: Mutex<VecDeque<FakeSession>>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
    /// Counts restarts: a call or a stream of an earlier life is lost.
    life: watch::Sender<u64>,
}

impl fmt::Debug for FakeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeRuntime").finish_non_exhaustive()
    }
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::new(FakeOptions::default())
    }
}

impl FakeRuntime {
    /// A runtime without sandboxes.
    #[must_use]
    pub fn new(options: FakeOptions) -> Self {
        let deadlines = options.deadlines.clone();
        Self {
            inner: Arc::new(Inner {
                deadlines,
                state: Mutex::new(State::new(options)),
                script: Mutex::default(),
                program: Mutex::new(Box::new(|_| Program::Runs)),
                exec: Mutex::new(Arc::new(|_, _| v1::ExecSyncResponse::default())),
                sessions: Mutex::default(),
                changes: watch::Sender::new(0),
                life: watch::Sender::new(0),
            }),
        }
    }

    /// The next call of `op` fails with `kind` and without effect. Several such orders are obeyed in turn.
    pub fn fail_next(&self, op: Operation, kind: ErrorKind) {
        self.inner
            .script
            .lock()
            .add(op, Fault::Fail(kind, Moment::Before));
    }

    /// The next call of `op` has its effect and fails with `kind` all the same.
    pub fn fail_next_after_effect(&self, op: Operation, kind: ErrorKind) {
        self.inner
            .script
            .lock()
            .add(op, Fault::Fail(kind, Moment::After));
    }

    /// The next call of `op` is never answered and has no effect. A name it asks for stays reserved until
    /// [`restart`](Self::restart).
    pub fn hang_next(&self, op: Operation) {
        self.inner
            .script
            .lock()
            .add(op, Fault::Hang(Moment::Before));
    }

    /// The next call of `op` has its effect and is never answered.
    pub fn hang_next_after_effect(&self, op: Operation) {
        self.inner.script.lock().add(op, Fault::Hang(Moment::After));
    }

    /// From now on each call of `op` takes at least this long, by Tokio's clock, before it has its effect.
    pub fn delay(&self, op: Operation, duration: Duration) {
        self.inner.script.lock().set_delay(op, duration);
    }

    /// How many calls of `op` have begun.
    #[must_use]
    pub fn calls(&self, op: Operation) -> u64 {
        self.inner.script.lock().calls(op)
    }

    /// Waits until at least `count` calls of `op` have begun.
    pub async fn called(&self, op: Operation, count: u64) {
        self.until(|| (self.calls(op) >= count).then_some(())).await;
    }

    /// Decides what the processes of containers created from now on do. Without it they run.
    pub fn set_program(
        &self,
        program: impl Fn(&v1::ContainerConfig) -> Program + Send + Sync + 'static,
    ) {
        *self.inner.program.lock() = Box::new(program);
    }

    /// Answers commands run in containers, given the container's id and the command. Without it they succeed silently.
    pub fn set_exec(
        &self,
        exec: impl Fn(&str, &[String]) -> v1::ExecSyncResponse + Send + Sync + 'static,
    ) {
        *self.inner.exec.lock() = Arc::new(exec);
    }

    /// Ends the main process of a running container with `code`; `false` when there is none.
    pub fn exit_container(&self, container_id: &str, code: i32) -> bool {
        let exited = self
            .inner
            .state
            .lock()
            .exit_container(container_id, code, "");
        self.changed();
        exited
    }

    /// Ends the main process of a running container for want of memory; `false` when there is none.
    pub fn oom_kill_container(&self, container_id: &str) -> bool {
        let exited = self
            .inner
            .state
            .lock()
            .exit_container(container_id, 137, "OOMKilled");
        self.changed();
        exited
    }

    /// Tells the fake that the processes of the sandboxes with this `cgroup_parent` are frozen or not: commands in
    /// them and requests to stop wait for a thaw, as they would on a kernel.
    pub fn set_frozen(&self, cgroup_parent: &str, frozen: bool) {
        self.inner.state.lock().set_frozen(cgroup_parent, frozen);
        self.changed();
    }

    /// Puts an image into the store.
    pub fn add_image(&self, name: &str) {
        self.inner.state.lock().images.add(name);
    }

    /// Lets this image be pulled; all others are unknown to the registry.
    pub fn publish_image(&self, name: &str) {
        self.inner.state.lock().images.publish(name, None);
    }

    /// Lets this image be pulled by this user, with this password.
    pub fn publish_private_image(&self, name: &str, user: &str, password: &str) {
        let mut state = self.inner.state.lock();
        state.images.publish(name, Some((user, password)));
    }

    /// Takes an image from the store, as somebody would behind the back of its users.
    pub fn lose_image(&self, name: &str) {
        self.inner.state.lock().images.remove(name);
    }

    /// Ends all event streams and calls in flight, as when the runtime is killed and started again. Sandboxes and
    /// containers run on; names reserved by unfinished calls are free again.
    pub fn restart(&self) {
        self.inner.state.lock().forget_unfinished();
        self.inner.life.send_modify(|life| *life += 1);
        self.changed();
    }

    /// Takes the runtime away, or brings it back: while it is down, streams end and calls fail with
    /// [`Unavailable`](ErrorKind::Unavailable).
    pub fn set_down(&self, down: bool) {
        self.inner.script.lock().down = down;
        if down {
            self.restart();
        }
    }

    /// Ids of all containers that run now.
    #[must_use]
    pub fn running_containers(&self) -> Vec<String> {
        self.inner.state.lock().running_containers()
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
    }

    /// Waits until `condition` gives a value; it is looked at after every change.
    async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        let mut changes = self.inner.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(value) = condition() {
                return value;
            }
            if changes.changed().await.is_err() {
                // The sender lives in `self`, so this cannot be; waiting for ever is what is left.
                std::future::pending::<()>().await;
            }
        }
    }
}
