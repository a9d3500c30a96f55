//! The ladder on a node without a kernel.

mod doubt;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hearth_api::{IdlePolicy, OperatingMode, Sandbox, Tier};
use hearth_core::idle::reclaim::Machine;
use hearth_core::ids::SandboxUid;
use hearth_sys::nft::CommandError;
use hearth_sys::traffic::{Change, Counts, Heard, Mended};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::pod::testing::{Node, bare, member};
use crate::pod::{GateRefused, Need, PodView};

const MIB: u64 = 1 << 20;

/// The kernel's side, which outlives a daemon.
#[derive(Debug, Default)]
struct FakeTraffic {
    state: Mutex<TrafficState>,
    news: Notify,
}

#[derive(Debug, Default)]
struct TrafficState {
    counts: Counts,
    notices: VecDeque<Heard>,
    /// Calls so far, and before or after which of them a packet comes to whom.
    calls: u32,
    packet_at: Option<(u32, Ipv4Addr)>,
    /// Notices that do not come through.
    deaf: bool,
    /// Somebody has flushed the packet filter: who asks it next makes it anew.
    flushed: bool,
}

impl FakeTraffic {
    fn packet(&self, to: Ipv4Addr) {
        self.state.lock().packet(to);
        self.news.notify_one();
    }

    fn armed(&self) -> BTreeSet<Ipv4Addr> {
        self.state.lock().counts.armed.keys().copied().collect()
    }

    /// One call of the daemon, around which a packet may come.
    fn call<T>(&self, call: impl FnOnce(&mut Counts) -> T) -> Mended<T> {
        let mut state = self.state.lock();
        state.tick();
        let anew = std::mem::take(&mut state.flushed);
        let done = call(&mut state.counts);
        state.tick();
        self.news.notify_one();
        Mended { done, anew }
    }

    fn flush(&self) {
        let mut state = self.state.lock();
        (state.counts, state.flushed) = (Counts::default(), true);
    }
}

impl TrafficState {
    fn packet(&mut self, to: Ipv4Addr) {
        if let Some(count) = self.counts.counted.get_mut(&to) {
            *count += 1;
        }
        if let Some(count) = self.counts.armed.get_mut(&to) {
            *count += 1;
            let heard = if self.deaf {
                Heard::Lost
            } else {
                Heard::Packets(vec![to])
            };
            self.notices.push_back(heard);
        }
    }

    fn tick(&mut self) {
        self.calls += 1;
        if let Some((at, to)) = self.packet_at
            && at == self.calls
        {
            self.packet(to);
        }
    }
}

#[async_trait]
impl Traffic for FakeTraffic {
    fn change(&self, change: &Change) -> Result<Mended<()>, CommandError> {
        let changed = self.call(|counts| {
            for (set, out, into) in [
                (&mut counts.counted, &change.forget, &change.count),
                (&mut counts.armed, &change.disarm, &change.arm),
            ] {
                set.retain(|ip, _| !out.contains(ip));
                set.extend(into.iter().map(|ip| (*ip, 0)));
            }
        });
        Ok(changed)
    }

    fn counts(&self) -> Result<Mended<Counts>, CommandError> {
        Ok(self.call(|counts| counts.clone()))
    }

    async fn heard(&self) -> io::Result<Heard> {
        loop {
            if let Some(heard) = self.state.lock().notices.pop_front() {
                return Ok(heard);
            }
            self.news.notified().await;
        }
    }
}

/// A daemon's ladder.
struct Scene {
    node: Node,
    traffic: Arc<FakeTraffic>,
    machine: Arc<Mutex<Machine>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Scene {
    fn new() -> Self {
        let roomy = Machine {
            swap_total: 1024 * MIB,
            swap_free: 1024 * MIB,
            stall: Some(0.0),
        };
        let mut scene = Self {
            node: Node::with(|_| {}),
            traffic: Arc::default(),
            machine: Arc::new(Mutex::new(roomy)),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        scene.start();
        scene
    }

    fn start(&mut self) {
        let (bells, metrics) = (Bells::default(), LadderMetrics::default());
        let (pods, traffic) = (
            self.node.pods.clone(),
            Arc::clone(&self.traffic) as Arc<dyn Traffic>,
        );
        let doorman = Doorman::new(
            pods.clone(),
            Arc::clone(&traffic),
            bells.clone(),
            metrics.clone(),
        );
        let machine = Arc::clone(&self.machine);
        let settings = ReclaimSettings {
            rate: 64 * MIB,
            machine: Arc::new(move || Ok(*machine.lock())),
        };
        let ladder = Ladder::new(pods, Some(traffic), bells, settings, metrics);
        let stop = self.stop.clone();
        self.tasks
            .spawn(async move { doorman.run(stop).await.unwrap() });
        self.tasks.spawn(ladder.run(self.stop.clone()));
    }

    /// The daemon ends.
    async fn stop(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        // What nobody has read is lost with the socket.
        self.traffic.state.lock().notices.clear();
        self.stop = CancellationToken::new();
        self.node.stop_daemon().await;
    }

    /// Another one starts, and hears the API.
    async fn start_again(&mut self, wants: &[&Sandbox]) {
        self.node.restart_after_stop(&[]).await;
        self.start();
        for sandbox in wants {
            self.node.want(sandbox);
        }
    }

    fn address(&self, uid: &str) -> Ipv4Addr {
        let view = self.node.pods.view(&SandboxUid::from(uid)).unwrap();
        view.pod_ips[0].parse().unwrap()
    }

    fn view(&self, uid: &str) -> Arc<PodView> {
        self.node.pods.view(&SandboxUid::from(uid)).unwrap()
    }

    fn tier(&self, uid: &str) -> Option<Tier> {
        self.view(uid).tier
    }

    async fn exec(&self, uid: &str, takes: Duration) -> Result<(), GateRefused> {
        let limit = takes + Duration::from_secs(60);
        let work = |_| sleep(takes);
        self.node
            .pods
            .with(&SandboxUid::from(uid), Need::Live, limit, work)
            .await
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn with_idle(mut sandbox: Sandbox, freeze: &str, reclaim: &str, suspend: &str) -> Sandbox {
    let field = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    sandbox.spec.idle = Some(IdlePolicy {
        freeze_after: field(freeze),
        reclaim_after: field(reclaim),
        suspend_after: field(suspend),
    });
    sandbox
}

fn idle(uid: &str) -> Sandbox {
    with_idle(bare(uid), "10s", "", "")
}

#[tokio::test(start_paused = true)]
async fn an_idle_sandbox_is_frozen_in_its_tier_only_and_a_packet_wakes_it() {
    let scene = Scene::new();
    scene.node.want(&idle("a"));
    scene.node.want(&bare("b"));
    scene.node.ready("a", Tier::Running).await;
    let start = Instant::now();
    let view = scene.node.ready("a", Tier::Frozen).await;
    let took = start.elapsed();
    assert!((secs(10)..secs(16)).contains(&took), "{took:?}");
    assert_eq!(
        scene.node.conditions(&view)[2],
        "Ready True DependenciesReady: Pod is Ready"
    );
    let address = scene.address("a");
    assert_eq!(scene.traffic.armed(), [address].into());
    sleep(secs(600)).await;
    assert_eq!(scene.tier("a"), Some(Tier::Frozen));
    assert_eq!(scene.tier("b"), Some(Tier::Running), "it has no rules");
    let start = Instant::now();
    scene.traffic.packet(address);
    scene.node.ready("a", Tier::Running).await;
    assert!(start.elapsed() < secs(1), "by the notice, not by a look");
    sleep(secs(5)).await;
    assert_eq!(scene.traffic.armed(), BTreeSet::new());
    scene.node.ready("a", Tier::Frozen).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_used_is_not_frozen() {
    let scene = Scene::new();
    scene.node.want(&idle("a"));
    let view = scene.node.ready("a", Tier::Running).await;
    let (pod, address) = (view.pod_uid.clone().unwrap(), scene.address("a"));
    for round in 0..20 {
        match round % 3 {
            0 => scene.node.host.burn(&pod, secs(1)),
            1 => scene.traffic.packet(address),
            _ => scene.exec("a", Duration::ZERO).await.unwrap(),
        }
        sleep(secs(7)).await;
        assert_eq!(scene.tier("a"), Some(Tier::Running), "{round}");
    }
    scene.exec("a", secs(100)).await.unwrap();
    sleep(secs(7)).await;
    assert_eq!(
        scene.tier("a"),
        Some(Tier::Running),
        "the time begins with the end of an exec"
    );
    scene.node.ready("a", Tier::Frozen).await;
    scene.exec("a", Duration::ZERO).await.unwrap();
    sleep(secs(7)).await;
    assert_eq!(
        scene.tier("a"),
        Some(Tier::Running),
        "nor is it frozen again at once"
    );
}

/// A packet may come before, between or after any two calls of the daemon.
#[tokio::test(start_paused = true)]
async fn a_packet_at_any_moment_around_the_freeze_finds_the_sandbox_running() {
    for moment in 1..40 {
        let scene = Scene::new();
        scene.node.want(&idle("a"));
        scene.node.ready("a", Tier::Running).await;
        let address = scene.address("a");
        scene.traffic.state.lock().packet_at = Some((moment, address));
        while scene.traffic.state.lock().calls < moment {
            sleep(Duration::from_millis(500)).await;
        }
        sleep(secs(2)).await;
        assert_eq!(scene.tier("a"), Some(Tier::Running), "call {moment}");
        scene.node.ready("a", Tier::Frozen).await;
    }
}

#[tokio::test(start_paused = true)]
async fn notices_that_were_lost_are_in_the_counters() {
    let scene = Scene::new();
    scene.node.want(&idle("a"));
    scene.node.want(&idle("b"));
    scene.node.ready("a", Tier::Frozen).await;
    scene.node.ready("b", Tier::Frozen).await;
    scene.traffic.state.lock().deaf = true;
    scene.traffic.packet(scene.address("a"));
    scene.node.ready("a", Tier::Running).await;
    assert_eq!(scene.tier("b"), Some(Tier::Frozen));
}

#[tokio::test(start_paused = true)]
async fn packets_that_came_while_no_daemon_ran_wake_after_the_restart() {
    let mut scene = Scene::new();
    let (a, b, c) = (idle("a"), idle("b"), idle("c"));
    for sandbox in [&a, &b, &c] {
        scene.node.want(sandbox);
    }
    for uid in ["a", "b", "c"] {
        scene.node.ready(uid, Tier::Frozen).await;
    }
    scene.stop().await;
    let [at_a, at_c] = ["a", "c"].map(|uid| scene.address(uid));
    scene.traffic.packet(at_a);
    // Somebody has emptied the table for c.
    scene.traffic.state.lock().counts.armed.remove(&at_c);
    scene.start_again(&[&a, &b, &c]).await;
    scene.node.ready("a", Tier::Running).await;
    scene.node.ready("c", Tier::Running).await;
    assert_eq!(scene.tier("b"), Some(Tier::Frozen), "nothing came for it");
    scene.traffic.packet(scene.address("b"));
    scene.node.ready("b", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn before_the_api_is_heard_what_rests_stays_so_and_wakes() {
    let mut scene = Scene::new();
    for uid in ["a", "b"] {
        scene.node.want(&idle(uid));
        scene.node.ready(uid, Tier::Frozen).await;
    }
    scene.stop().await;
    scene.start_again(&[]).await;
    sleep(secs(30)).await;
    assert_eq!(scene.tier("a"), Some(Tier::Frozen));
    scene.traffic.packet(scene.address("a"));
    scene
        .node
        .view_when("a", "running", |view| view.tier == Some(Tier::Running))
        .await;
    // Its rules have gone meanwhile.
    scene.node.want(&bare("b"));
    scene.node.ready("b", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn neither_members_nor_what_is_kept_frozen_is_armed() {
    let scene = Scene::new();
    scene.node.want(&with_idle(member("m"), "10s", "", "20s"));
    let mut kept = idle("k");
    kept.spec.operating_mode = OperatingMode::Frozen;
    scene.node.want(&kept);
    scene.node.ready("m", Tier::Frozen).await;
    let frozen = |view: &PodView| view.tier == Some(Tier::Frozen);
    scene.node.view_when("k", "frozen", frozen).await;
    sleep(secs(100)).await;
    assert_eq!(scene.traffic.armed(), BTreeSet::new());
    assert!(!scene.view("m").asks_suspension);
    // From here on it counts.
    kept.spec.operating_mode = OperatingMode::Running;
    scene.node.want(&kept);
    scene.node.ready("k", Tier::Running).await;
    scene.node.ready("k", Tier::Frozen).await;
    assert_eq!(scene.traffic.armed(), [scene.address("k")].into());
    // And no more: a packet to it is nothing to wake for.
    kept.spec.operating_mode = OperatingMode::Frozen;
    scene.node.want(&kept);
    sleep(secs(5)).await;
    assert_eq!(scene.traffic.armed(), BTreeSet::new());
    assert_eq!(scene.tier("k"), Some(Tier::Frozen));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_claimed_begins_its_idle_time_then() {
    let scene = Scene::new();
    scene.node.want(&with_idle(member("m"), "10s", "", ""));
    scene.node.ready("m", Tier::Frozen).await;
    sleep(secs(100)).await;
    scene
        .node
        .pods
        .thaw_for_bind(&SandboxUid::from("m"), None)
        .await
        .unwrap()
        .commit();
    sleep(secs(7)).await;
    assert_eq!(scene.tier("m"), Some(Tier::Running));
    scene.node.want(&with_idle(bare("m"), "10s", "", ""));
    scene.node.ready("m", Tier::Frozen).await;
    assert_eq!(scene.traffic.armed(), [scene.address("m")].into());
}

#[tokio::test(start_paused = true)]
async fn suspension_is_asked_for_frozen_or_not_until_somebody_comes() {
    let scene = Scene::new();
    scene.node.want(&with_idle(bare("a"), "10s", "", "60s"));
    scene.node.want(&with_idle(bare("b"), "", "", "60s"));
    let asks = |view: &PodView| view.asks_suspension;
    let start = Instant::now();
    let view = scene.node.view_when("a", "unused", asks).await;
    assert_eq!(view.tier, Some(Tier::Frozen));
    let view = scene.node.view_when("b", "unused", asks).await;
    assert_eq!(view.tier, Some(Tier::Running), "it has no rule for that");
    assert!(start.elapsed() >= secs(60));
    scene.traffic.packet(scene.address("a"));
    scene
        .node
        .view_when("a", "used", |view| !view.asks_suspension)
        .await;
    scene.exec("b", Duration::ZERO).await.unwrap();
    scene
        .node
        .view_when("b", "used", |view| !view.asks_suspension)
        .await;
    // It is suspended as its node asks.
    let view = scene.node.view_when("b", "unused", asks).await;
    let mut suspended = with_idle(bare("b"), "", "", "60s");
    suspended.spec.operating_mode = OperatingMode::Suspended;
    scene.node.want(&suspended);
    let gone = |view: &PodView| view.pod_uid.is_none();
    scene.node.view_when("b", "suspended", gone).await;
    assert!(view.pod_uid.is_some());
    assert!(scene.exec("b", Duration::ZERO).await.is_err());
    assert!(
        !scene.view("b").asks_suspension,
        "that was of the pod before"
    );
    // A controller that saw it ask now would undo the resume.
    scene.node.want(&with_idle(bare("b"), "", "", "60s"));
    let resumed = |view: &PodView| view.tier == Some(Tier::Running) || asks(view);
    let view = scene.node.view_when("b", "resumed", resumed).await;
    assert!(!asks(&view));
}

#[tokio::test(start_paused = true)]
async fn memory_of_the_frozen_is_given_back_and_a_thaw_is_as_before() {
    let scene = Scene::new();
    scene.node.want(&with_idle(bare("a"), "10s", "30s", ""));
    scene.node.want(&with_idle(member("m"), "", "30s", ""));
    for uid in ["a", "m"] {
        let view = scene.node.ready(uid, Tier::Frozen).await;
        scene
            .node
            .host
            .fill(view.pod_uid.as_ref().unwrap(), 100 * MIB);
    }
    let start = Instant::now();
    let view = scene.node.ready("a", Tier::Reclaimed).await;
    assert!(start.elapsed() >= secs(29), "{:?}", start.elapsed());
    scene.node.ready("m", Tier::Reclaimed).await;
    let held = scene
        .node
        .pods
        .held_memory(view.pod_uid.as_ref().unwrap())
        .unwrap();
    assert_eq!((held.resident, held.swapped), (25 * MIB, 75 * MIB));
    assert_eq!(
        scene.node.conditions(&view)[2],
        "Ready True DependenciesReady: Pod is Ready"
    );
    scene.traffic.packet(scene.address("a"));
    scene.node.ready("a", Tier::Running).await;
    scene
        .node
        .pods
        .thaw_for_bind(&SandboxUid::from("m"), None)
        .await
        .unwrap()
        .commit();
    scene.node.ready("m", Tier::Running).await;
}

#[tokio::test(start_paused = true)]
async fn without_swap_or_under_pressure_there_is_no_such_tier() {
    let scene = Scene::new();
    let roomy = *scene.machine.lock();
    *scene.machine.lock() = Machine::default();
    scene.node.want(&with_idle(bare("a"), "10s", "30s", ""));
    let view = scene.node.ready("a", Tier::Frozen).await;
    scene
        .node
        .host
        .fill(view.pod_uid.as_ref().unwrap(), 100 * MIB);
    sleep(secs(300)).await;
    assert_eq!(scene.tier("a"), Some(Tier::Frozen));
    scene.machine.lock().clone_from(&Machine {
        stall: Some(90.0),
        ..roomy
    });
    sleep(secs(300)).await;
    assert_eq!(scene.tier("a"), Some(Tier::Frozen));
    *scene.machine.lock() = roomy;
    scene.node.ready("a", Tier::Reclaimed).await;
}

#[tokio::test(start_paused = true)]
async fn one_whose_memory_does_not_go_stays_frozen() {
    let scene = Scene::new();
    scene.node.want(&with_idle(bare("a"), "10s", "30s", ""));
    // It holds nothing that could go.
    scene.node.ready("a", Tier::Frozen).await;
    sleep(secs(600)).await;
    assert_eq!(scene.tier("a"), Some(Tier::Frozen));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_frozen_stays_running_and_says_so() {
    let scene = Scene::new();
    let mut sandbox = idle("a");
    let pod = serde_json::json!({
        "runtimeClassName": "gvisor",
        "containers": [{"name": "main", "image": crate::pod::testing::IMAGE}],
    });
    sandbox.spec.pod_template.spec = hearth_api::PodSpecJson::from_value(&pod).unwrap();
    scene.node.want(&sandbox);
    let view = scene.node.ready("a", Tier::Running).await;
    assert_eq!(
        view.message,
        "spec.idle.freezeAfter is set: this node cannot freeze pods of handler runsc (not probed), so that the sandbox stays running; use suspendAfter alone"
    );
    sleep(secs(100)).await;
    assert_eq!(scene.tier("a"), Some(Tier::Running));
}

#[tokio::test(start_paused = true)]
async fn where_packets_cannot_be_seen_nothing_is_frozen_and_it_says_so() {
    let node = Node::with(|config| config.no_packets = Some("no bridges here".into()));
    let stop = CancellationToken::new();
    let ladder = Ladder::new(
        node.pods.clone(),
        None,
        Bells::default(),
        ReclaimSettings::new(0),
        LadderMetrics::default(),
    );
    let task = tokio::spawn(ladder.run(stop.clone()));
    node.want(&idle("a"));
    let view = node.ready("a", Tier::Running).await;
    assert_eq!(
        view.message,
        "spec.idle is set: this node cannot see packets to pods (no bridges here), so that the sandbox stays running; remove it"
    );
    sleep(secs(100)).await;
    node.ready("a", Tier::Running).await;
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_frozen_pod_that_dies_is_made_anew_and_one_that_is_deleted_goes() {
    let scene = Scene::new();
    scene.node.want(&idle("a"));
    scene.node.want(&idle("b"));
    scene.node.ready("a", Tier::Frozen).await;
    scene.node.ready("b", Tier::Frozen).await;
    let before = scene.node.runtime.running_containers();
    assert!(scene.node.runtime.oom_kill_container(&before[0]));
    scene
        .node
        .view_when("a", "running again", |_| {
            let running = scene.node.runtime.running_containers();
            running.len() == 2 && running != before
        })
        .await;
    for uid in ["a", "b"] {
        scene
            .node
            .pods
            .remove(&SandboxUid::from(uid), crate::pod::RemoveReason::Deleted);
        scene.node.gone(uid).await;
    }
    sleep(secs(5)).await;
    assert_eq!(scene.traffic.armed(), BTreeSet::new());
    assert_eq!(scene.traffic.state.lock().counts, Counts::default());
}
