//! What the ladder takes back: a decision is only as good as the last look.

use hearth_cri::Operation;
use hearth_sys::fake::FakeFreezer;
use serde_json::json;

use super::*;
use crate::pod::testing::{IMAGE, sandbox};

/// One with these rules that runs, and its freezer, which fails so many times.
async fn with_failing_freezer(scene: &Scene, sandbox: &Sandbox, times: u32) -> FakeFreezer {
    scene.node.want(sandbox);
    let view = scene.node.ready("a", Tier::Running).await;
    let pod = view.pod_uid.as_ref().unwrap();
    let freezer = scene.node.host.fake_freezer(pod);
    (0..times).for_each(|_| freezer.fail_next_freeze());
    freezer
}

impl Scene {
    /// Waits until what stands in the way of `a` is told.
    async fn told(&self) -> Arc<PodView> {
        self.node
            .view_when("a", "told", |view| !view.message.is_empty())
            .await
    }

    fn burn(&self, time: Duration) {
        let pod = self.view("a").pod_uid.clone().unwrap();
        self.node.host.burn(&pod, time);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_for_suspension_is_withdrawn_by_whatever_makes_it_wrong() {
    let scene = Scene::new();
    let rules = |freeze, suspend| with_idle(bare("a"), freeze, "", suspend);
    let asks = |view: &PodView| view.asks_suspension;
    scene.node.want(&rules("", "60s"));
    scene.node.view_when("a", "unused", asks).await;
    scene.burn(secs(1));
    scene
        .node
        .view_when("a", "busy", |view| !view.asks_suspension)
        .await;
    let start = Instant::now();
    scene.node.view_when("a", "unused", asks).await;
    let took = start.elapsed();
    assert!(
        (secs(60)..secs(77)).contains(&took),
        "from then on: {took:?}"
    );

    // An exec that has only begun.
    let mut exec = Box::pin(scene.exec("a", secs(100)));
    assert!(exec.as_mut().now_or_never().is_none());
    assert!(!scene.view("a").asks_suspension);
    exec.await.unwrap();
    scene.node.view_when("a", "unused", asks).await;

    // Other rules, or none.
    scene.node.want(&rules("", "1h"));
    scene
        .node
        .view_when("a", "not yet idle for an hour", |view| {
            !view.asks_suspension
        })
        .await;
    scene.node.want(&rules("", "60s"));
    scene.node.view_when("a", "unused", asks).await;
    scene.node.want(&bare("a"));
    scene
        .node
        .view_when("a", "without rules", |view| !view.asks_suspension)
        .await;

    // It may be frozen all the while.
    scene.node.want(&rules("10s", "60s"));
    let view = scene.node.view_when("a", "unused", asks).await;
    assert_eq!(view.tier, Some(Tier::Frozen));
    scene.node.want(&rules("10s", "1h"));
    let view = scene
        .node
        .view_when("a", "to stay frozen", |view| !view.asks_suspension)
        .await;
    assert_eq!(view.tier, Some(Tier::Frozen));
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_failed_is_tried_again_only_on_what_is_idle_still() {
    let scene = Scene::new();
    let freezer = with_failing_freezer(&scene, &idle("a"), 1).await;
    let told = scene.told().await;
    assert_eq!(
        (told.phase, told.tier),
        (PodPhase::Ready, Some(Tier::Running))
    );
    scene.burn(secs(5));
    let start = Instant::now();
    scene
        .node
        .view_when("a", "frozen, and that it was not is forgotten", |view| {
            view.tier == Some(Tier::Frozen) && view.message.is_empty()
        })
        .await;
    let took = start.elapsed();
    assert!(took >= secs(10), "it was at work {took:?} before");
    assert_eq!((freezer.tries(), freezer.freezes()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_failed_is_not_tried_again_without_rules() {
    let scene = Scene::new();
    let freezer = with_failing_freezer(&scene, &idle("a"), 1).await;
    scene.told().await;
    scene.node.want(&bare("a"));
    scene
        .node
        .view_when("a", "told nothing", |view| view.message.is_empty())
        .await;
    sleep(secs(600)).await;
    assert_eq!(scene.tier("a"), Some(Tier::Running));
    assert_eq!(freezer.tries(), 1);
    assert_eq!(scene.traffic.armed(), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_frozen_is_tried_ever_less_often_and_suspended_in_its_time() {
    let scene = Scene::new();
    let rules = with_idle(bare("a"), "10s", "", "600s");
    let freezer = with_failing_freezer(&scene, &rules, 1_000).await;
    let view = scene
        .node
        .view_when("a", "unused", |view| view.asks_suspension)
        .await;
    assert_eq!(view.tier, Some(Tier::Running));
    assert!(view.message.contains("kernel"), "{}", view.message);
    let tries = freezer.tries();
    assert!((10..=20).contains(&tries), "{tries}");
    // A use is a fresh start.
    scene.exec("a", Duration::ZERO).await.unwrap();
    let used = |view: &PodView| !view.asks_suspension && view.message.is_empty();
    scene.node.view_when("a", "used", used).await;
    sleep(secs(30)).await;
    assert!(freezer.tries() >= tries + 3, "{} {tries}", freezer.tries());
}

fn probed() -> Sandbox {
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 8, "timeoutSeconds": 100});
    let containers = json!([{"name": "main", "image": IMAGE, "readinessProbe": probe}]);
    sandbox("a", &json!({ "containers": containers }))
}

/// A freeze waits for probes, which may take long: it may be decided on what was true a minute ago.
async fn with_a_freeze_that_waits(scene: &Scene) {
    scene.node.want(&with_idle(probed(), "10s", "", ""));
    scene.node.ready("a", Tier::Running).await;
    // The second one, which begins before it is idle for long enough.
    let runtime = &scene.node.runtime;
    runtime.delay(Operation::ExecSync, secs(60));
    scene
        .node
        .view_when("a", "about to be frozen", PodView::shall_be_frozen)
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_begins_to_work_while_its_freeze_waits_is_not_frozen() {
    let scene = Scene::new();
    with_a_freeze_that_waits(&scene).await;
    for second in 0..100 {
        scene.burn(Duration::from_millis(500));
        sleep(secs(1)).await;
        assert_eq!(scene.tier("a"), Some(Tier::Running), "{second}");
    }
    let runtime = &scene.node.runtime;
    runtime.delay(Operation::ExecSync, Duration::ZERO);
    scene.node.ready("a", Tier::Frozen).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_to_be_frozen_any_more_while_its_freeze_waits_is_not() {
    for suspend in ["", "1h"] {
        let scene = Scene::new();
        with_a_freeze_that_waits(&scene).await;
        let pod = scene.view("a").pod_uid.clone().unwrap();
        scene.node.want(&with_idle(probed(), "", "", suspend));
        sleep(secs(200)).await;
        assert_eq!(scene.tier("a"), Some(Tier::Running), "{suspend}");
        assert_eq!(scene.node.host.fake_freezer(&pod).tries(), 0);
        assert_eq!(scene.traffic.armed(), BTreeSet::new());
    }
}

#[tokio::test(start_paused = true)]
async fn what_rests_and_is_armed_no_more_is_woken_by_the_resync() {
    let scene = Scene::new();
    scene.node.want(&idle("a"));
    scene.node.ready("a", Tier::Frozen).await;
    // Somebody has flushed the packet filter, and who read it has made it anew.
    scene.traffic.state.lock().counts = Counts::default();
    let start = Instant::now();
    scene.node.ready("a", Tier::Running).await;
    assert!(start.elapsed() <= RESYNC + secs(1));
    scene.node.ready("a", Tier::Frozen).await;
    assert_eq!(scene.traffic.armed(), [scene.address("a")].into());
}

#[tokio::test(start_paused = true)]
async fn what_rests_is_woken_as_soon_as_it_shows_that_the_packet_filter_was_flushed() {
    let scene = Scene::new();
    scene.node.want(&idle("a"));
    scene.node.ready("a", Tier::Frozen).await;
    scene.traffic.flush();
    // Another one is to be counted, by which it shows.
    let start = Instant::now();
    scene.node.want(&idle("b"));
    scene.node.ready("a", Tier::Running).await;
    let took = start.elapsed();
    assert!(
        took <= secs(5),
        "the next resync was not waited for: {took:?}"
    );
    for name in ["a", "b"] {
        scene.node.ready(name, Tier::Frozen).await;
    }
    let both = ["a", "b"].map(|name| scene.address(name));
    assert_eq!(scene.traffic.armed(), both.into());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_armed_is_compared_once_until_the_api_is_heard() {
    let mut scene = Scene::new();
    let names = ["a", "b"];
    for name in names {
        scene.node.want(&idle(name));
        scene.node.ready(name, Tier::Frozen).await;
    }
    scene.stop().await;
    scene.traffic.flush();
    scene.start_again(&[]).await;
    sleep(secs(5)).await;
    let calls = || scene.traffic.state.lock().calls;
    let before = calls();
    // A change of another sandbox is a turn of the ladder.
    scene.node.want(&bare("c"));
    scene.node.ready("c", Tier::Running).await;
    sleep(secs(5)).await;
    assert_eq!(calls(), before, "the kernel was asked in vain");
    for name in names {
        assert_eq!(scene.tier(name), Some(Tier::Frozen));
        scene.node.want(&idle(name));
    }
    for name in names {
        scene.node.ready(name, Tier::Running).await;
    }
}

#[tokio::test(start_paused = true)]
async fn notices_that_were_lost_with_the_packet_filter_wake_all_that_rest() {
    let scene = Scene::new();
    scene.node.want(&idle("a"));
    scene.node.ready("a", Tier::Frozen).await;
    scene.traffic.flush();
    scene.traffic.state.lock().notices.push_back(Heard::Lost);
    scene.traffic.news.notify_one();
    let start = Instant::now();
    scene.node.ready("a", Tier::Running).await;
    assert!(start.elapsed() <= secs(5));
}
