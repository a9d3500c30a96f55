//! The gate by itself.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hearth_api::Tier;
use hearth_core::ids::{Key, SandboxUid};
use hearth_core::sandbox::Residency;
use hearth_sys::fake::FakeFreezer;
use hearth_sys::{FreezeError, Freezer, Method};
use parking_lot::Mutex;

use super::activity::ClaimActivity;
use super::cell::Cell;
use super::changes::Hub;
use super::config::PodConfig;
use super::gate::{Offer, PodInside};
use super::metrics::{FreezeReason, ResidencyCounts, ThawReason};
use super::show;
use super::slots::Slots;
use super::view::PodPhase;

const WITHIN: Duration = Duration::from_secs(5);

/// A freezer whose freeze takes until it is let go.
#[derive(Debug)]
struct SlowFreezer {
    inner: FakeFreezer,
    begun: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl SlowFreezer {
    /// With it what says that a freeze has begun, and what lets it go on.
    fn of(inner: &FakeFreezer) -> (Arc<Self>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((begun, has_begun), (go, wait)) = (mpsc::channel(), mpsc::channel());
        let freezer = Self {
            inner: inner.clone(),
            begun,
            go: Mutex::new(wait),
        };
        (Arc::new(freezer), has_begun, go)
    }
}

impl Freezer for SlowFreezer {
    fn freeze(&self, within: Duration) -> Result<(), FreezeError> {
        self.begun.send(()).unwrap();
        self.go.lock().recv_timeout(WITHIN).unwrap();
        self.inner.freeze(within)
    }

    fn thaw(&self, within: Duration) -> Result<(), FreezeError> {
        self.inner.thaw(within)
    }

    fn is_frozen(&self) -> Result<bool, FreezeError> {
        self.inner.is_frozen()
    }

    fn method(&self) -> Method {
        self.inner.method()
    }
}

/// A member that is ready and runs.
fn ready_member() -> Arc<Cell> {
    let slots = Slots::new(
        ClaimActivity::default(),
        &PodConfig::new("t", "n", PathBuf::new()),
    );
    let uid = SandboxUid::from("a");
    let mut view = show::nothing(&uid, &Key::new("n", "a"), true);
    let cell = Cell::new(
        uid,
        view.clone(),
        Hub::default(),
        slots,
        ResidencyCounts::default(),
    );
    view.phase = PodPhase::Ready;
    view.tier = Some(Tier::Running);
    view.member = true;
    cell.publish(view, Offer::Ready, PodInside::default());
    cell
}

#[tokio::test]
async fn a_freeze_that_was_decided_before_a_bind_does_not_happen() {
    let cell = ready_member();
    let freezer = FakeFreezer::new();
    let decided = cell.gate_state().asked;
    cell.thaw_for_bind(WITHIN, None).await.unwrap().commit();
    assert!(
        !cell
            .freeze(
                Arc::new(freezer.clone()),
                WITHIN,
                decided,
                FreezeReason::Pool
            )
            .await
            .unwrap()
    );
    assert_eq!(freezer.freezes(), 0);
    assert_eq!(cell.view().tier, Some(Tier::Running));
}

#[test]
fn a_bind_does_not_wait_for_a_freeze_that_waits_for_a_thread() {
    let one_thread = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    one_thread.block_on(async {
        let (go, wait) = mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv());
        let cell = ready_member();
        let freezer = FakeFreezer::new();
        let decided = cell.gate_state().asked;
        let freeze = tokio::spawn({
            let (cell, freezer) = (Arc::clone(&cell), Arc::new(freezer.clone()));
            async move {
                cell.freeze(freezer, WITHIN, decided, FreezeReason::Pool)
                    .await
            }
        });
        tokio::task::yield_now().await;
        let bind = tokio::time::timeout(WITHIN, cell.thaw_for_bind(WITHIN, None)).await;
        bind.expect("bound at once").unwrap().commit();
        go.send(()).unwrap();
        busy.await.unwrap().unwrap();
        assert!(!freeze.await.unwrap().unwrap(), "it was void");
        assert_eq!(freezer.freezes(), 0);
    });
}

#[tokio::test]
async fn a_bind_during_a_freeze_waits_for_it_and_thaws() {
    let cell = ready_member();
    let inner = FakeFreezer::new();
    let (freezer, has_begun, go) = SlowFreezer::of(&inner);
    let decided = cell.gate_state().asked;
    let freeze = tokio::spawn({
        let cell = Arc::clone(&cell);
        async move {
            cell.freeze(freezer, WITHIN, decided, FreezeReason::Pool)
                .await
        }
    });
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(WITHIN).unwrap())
        .await
        .unwrap();
    assert_eq!(
        cell.view().tier,
        Some(Tier::Running),
        "not frozen before it is confirmed"
    );
    let bind = tokio::spawn({
        let cell = Arc::clone(&cell);
        async move { cell.thaw_for_bind(WITHIN, None).await }
    });
    go.send(()).unwrap();
    assert!(freeze.await.unwrap().unwrap());
    bind.await.unwrap().unwrap().commit();
    assert!(!inner.is_frozen().unwrap());
    assert_eq!(cell.gate_state().residency, Residency::Running);
    assert_eq!(cell.view().tier, Some(Tier::Running));
}

#[tokio::test]
async fn what_is_held_is_not_frozen_and_what_is_frozen_is_thawed_by_a_hold() {
    let cell = ready_member();
    let freezer = FakeFreezer::new();
    let freeze = async || {
        let asked = cell.gate_state().asked;
        let freezer = Arc::new(freezer.clone());
        cell.freeze(freezer, WITHIN, asked, FreezeReason::Mode)
            .await
            .unwrap()
    };
    let (first, second) = (
        cell.hold(WITHIN).await.unwrap(),
        cell.hold(WITHIN).await.unwrap(),
    );
    assert!(!freeze().await);
    drop(first);
    assert!(!freeze().await, "one holder is left");
    drop(second);
    assert!(freeze().await);
    assert_eq!(cell.view().tier, Some(Tier::Frozen));
    let _hold = cell.hold(WITHIN).await.unwrap();
    assert!(!freezer.is_frozen().unwrap());
    assert_eq!(cell.view().tier, Some(Tier::Running));
}

#[tokio::test]
async fn a_thaw_that_the_kernel_confirms_late_goes_on_elsewhere() {
    let cell = ready_member();
    let freezer = FakeFreezer::new();
    let asked = cell.gate_state().asked;
    assert!(
        cell.freeze(Arc::new(freezer.clone()), WITHIN, asked, FreezeReason::Pool)
            .await
            .unwrap()
    );
    freezer.fail_next_thaw();
    let bound = cell.thaw_for_bind(WITHIN, None).await.unwrap();
    assert!(!freezer.is_frozen().unwrap());
    drop(bound);
    assert!(!cell.gate_state().bound);
}

#[tokio::test]
async fn one_that_rests_is_roused_and_one_that_is_about_to_is_not_frozen() {
    let cell = ready_member();
    let freezer = FakeFreezer::new();
    let packet = || cell.rouse(WITHIN, ThawReason::Packet);
    let asked = cell.gate_state().asked;
    assert!(!packet().await.unwrap(), "it did not rest");
    assert!(!cell.rest(asked), "somebody came since");
    let asked = cell.gate_state().asked;
    assert!(cell.rest(asked) && cell.gate_state().resting);
    assert!(packet().await.unwrap(), "before it was frozen");
    let freeze = async |asked| {
        let freezer = Arc::new(freezer.clone());
        cell.freeze(freezer, WITHIN, asked, FreezeReason::Idle)
            .await
            .unwrap()
    };
    assert!(!freeze(asked).await, "that was decided before");
    let asked = cell.gate_state().asked;
    assert!(cell.rest(asked));
    assert!(freeze(asked).await);
    cell.ask_suspension(asked, true);
    cell.reclaimed(asked);
    assert_eq!(cell.view().tier, Some(Tier::Reclaimed));
    assert!(cell.view().asks_suspension);
    assert!(packet().await.unwrap());
    assert!(!freezer.is_frozen().unwrap());
    assert_eq!(cell.view().tier, Some(Tier::Running));
    assert!(!cell.view().asks_suspension && !cell.gate_state().resting);
    cell.ask_suspension(asked, true);
    cell.reclaimed(asked);
    assert_eq!(
        cell.view().tier,
        Some(Tier::Running),
        "what is said of before is void"
    );
    assert!(!cell.view().asks_suspension);
}

#[tokio::test]
async fn a_packet_during_a_freeze_waits_for_it_and_thaws() {
    let cell = ready_member();
    let inner = FakeFreezer::new();
    let (freezer, has_begun, go) = SlowFreezer::of(&inner);
    let decided = cell.gate_state().asked;
    assert!(cell.rest(decided));
    let freeze = tokio::spawn({
        let cell = Arc::clone(&cell);
        async move {
            cell.freeze(freezer, WITHIN, decided, FreezeReason::Idle)
                .await
        }
    });
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(WITHIN).unwrap())
        .await
        .unwrap();
    let packet = tokio::spawn({
        let cell = Arc::clone(&cell);
        async move { cell.rouse(WITHIN, ThawReason::Packet).await }
    });
    go.send(()).unwrap();
    assert!(freeze.await.unwrap().unwrap());
    assert!(packet.await.unwrap().unwrap());
    assert!(!inner.is_frozen().unwrap());
    assert_eq!(cell.view().tier, Some(Tier::Running));
}

#[tokio::test]
async fn one_that_is_found_frozen_rests_unless_somebody_came_before_that_was_known() {
    let cell = ready_member();
    cell.attach(None, Residency::Frozen);
    assert!(cell.gate_state().resting);
    let cell = ready_member();
    cell.bound_again();
    cell.attach(None, Residency::Frozen);
    let gate = cell.gate_state();
    assert_eq!((gate.residency, gate.resting), (Residency::Frozen, false));
}

#[tokio::test]
async fn what_is_used_is_not_to_be_suspended_from_that_moment_on() {
    let cell = ready_member();
    let asks = || cell.view().asks_suspension;
    let asked = cell.gate_state().asked;
    cell.ask_suspension(asked, true);
    assert!(asks());
    cell.ask_suspension(asked, false);
    assert!(!asks(), "it is used, though not through the gate");
    cell.ask_suspension(asked, true);
    assert!(asks());
    let hold = cell.hold(WITHIN).await.unwrap();
    assert!(!asks(), "no runner has looked yet");
    cell.ask_suspension(cell.gate_state().asked, true);
    assert!(!asks(), "it is held");
    drop(hold);
    cell.ask_suspension(asked, true);
    assert!(!asks(), "that was before");
}

#[tokio::test]
async fn a_freeze_for_being_idle_that_fails_is_decided_anew() {
    let cell = ready_member();
    let asked = cell.gate_state().asked;
    let failures = || cell.gate_state().failed_rests;
    for times in 1..3 {
        assert!(cell.rest(asked));
        cell.rest_failed(asked);
        assert!(!cell.gate_state().resting);
        assert_eq!(failures(), times);
    }
    drop(cell.hold(WITHIN).await.unwrap());
    assert_eq!(failures(), 0, "another time, another chance");
    let now = cell.gate_state().asked;
    assert!(cell.rest(now));
    cell.rest_failed(asked);
    assert!(cell.gate_state().resting, "that was decided before");
    cell.rest_failed(now);
    let freezer = Arc::new(FakeFreezer::new());
    assert!(
        cell.freeze(freezer, WITHIN, now, FreezeReason::Idle)
            .await
            .unwrap()
    );
    assert_eq!(failures(), 0);
}

/// A freezer that is worth keeping for the sandbox `s1`.
#[derive(Debug)]
struct Remembering(FakeFreezer);

impl Freezer for Remembering {
    fn freeze(&self, within: Duration) -> Result<(), FreezeError> {
        self.0.freeze(within)
    }

    fn thaw(&self, within: Duration) -> Result<(), FreezeError> {
        self.0.thaw(within)
    }

    fn is_frozen(&self) -> Result<bool, FreezeError> {
        self.0.is_frozen()
    }

    fn method(&self) -> Method {
        Method::Sentry
    }

    fn remembers(&self, sandbox: &str) -> bool {
        sandbox == "s1"
    }
}

#[tokio::test]
async fn a_freezer_that_remembers_is_kept_for_its_sandbox() {
    let cell = ready_member();
    assert!(cell.kept_freezer("s1").is_none());
    let freeze = async |freezer: Arc<dyn Freezer>| {
        let asked = cell.gate_state().asked;
        cell.freeze(freezer, WITHIN, asked, FreezeReason::Mode)
            .await
    };
    let inner = FakeFreezer::new();
    inner.fail_next_freeze();
    let remembering: Arc<dyn Freezer> = Arc::new(Remembering(inner));
    freeze(remembering).await.unwrap_err();
    assert!(
        cell.kept_freezer("s1").is_some(),
        "also after a freeze that failed"
    );
    assert!(cell.kept_freezer("s2").is_none(), "another sandbox");
    cell.attach(None, Residency::Running);
    assert!(cell.kept_freezer("s1").is_none(), "a new incarnation");
    let forgetful: Arc<dyn Freezer> = Arc::new(FakeFreezer::new());
    assert!(freeze(forgetful).await.unwrap());
    assert!(cell.kept_freezer("s1").is_none(), "it remembers nothing");
}
