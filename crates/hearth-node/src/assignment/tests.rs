use std::collections::BTreeMap;

use hearth_core::ids::{Fence, OwnerKey};
use hearth_test::api::{Call, ScriptedApi};
use kube::api::ObjectMeta;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::task::TaskTracker;

use super::*;
use crate::binder::testing::{FakePods, view};
use crate::binder::{BindOrder, BinderMetrics};
use crate::journal::testing::Disk;
use crate::pod::{ClaimActivity, PodPhase};

const NODE: &str = "node-1";

fn uid(name: &str) -> SandboxUid {
    SandboxUid::from(name)
}

fn object(name: &str, uid: &str) -> Sandbox {
    Sandbox {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("ns".to_owned()),
            uid: Some(uid.to_owned()),
            resource_version: Some("1".to_owned()),
            generation: Some(1),
            labels: Some(BTreeMap::from([(label::NODE.to_owned(), NODE.to_owned())])),
            ..ObjectMeta::default()
        },
        ..Sandbox::default()
    }
}

fn good(name: &str, uid: &str) -> Guarded<Sandbox> {
    Guarded(Ok(object(name, uid)))
}

fn path(name: &str) -> String {
    format!("/apis/agents.x-k8s.io/v1beta1/namespaces/ns/sandboxes/{name}")
}

/// The metadata of an object, as the API server answers when asked for only that.
fn metadata(object: &Sandbox) -> serde_json::Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object.metadata })
}

struct Node {
    pods: FakePods,
    binder: Binder<FakePods>,
    board: Board,
    status: AssignmentStatus,
    events: mpsc::UnboundedSender<watcher::Result<Event<Guarded<Sandbox>>>>,
    task: JoinHandle<()>,
    _confirmations: watch::Sender<u64>,
    _dir: TempDir,
}

impl Node {
    async fn start(api: &ScriptedApi) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let opened = Disk::holding(Vec::new()).journal(dir.path());
        let (pods, board) = (FakePods::default(), Board::default());
        let binder = Binder::new(
            opened.contents.bindings,
            opened.journal,
            pods.clone(),
            ClaimActivity::default(),
            BinderMetrics::default(),
            TaskTracker::new(),
        );
        binder.hello(Fence(1)).await.unwrap();
        let confirmations = watch::Sender::new(0);
        let assignment = Assignment::new(
            api.client(),
            NODE,
            pods.clone(),
            binder.clone(),
            board.clone(),
            confirmations.subscribe(),
            AssignmentMetrics::default(),
        );
        let status = assignment.status();
        let (events, stream) = mpsc::unbounded_channel();
        let task = tokio::spawn(assignment.follow(UnboundedReceiverStream::new(stream)));
        Self {
            pods,
            binder,
            board,
            status,
            events,
            task,
            _confirmations: confirmations,
            _dir: dir,
        }
    }

    fn send(&self, event: Event<Guarded<Sandbox>>) {
        self.events.send(Ok(event)).unwrap();
    }

    fn list(&self, objects: impl IntoIterator<Item = Guarded<Sandbox>>) {
        self.send(Event::Init);
        objects
            .into_iter()
            .for_each(|object| self.send(Event::InitApply(object)));
        self.send(Event::InitDone);
    }

    /// Ends the stream, so that all events were handled when this returns.
    async fn finish(self) -> (FakePods, Board) {
        drop(self.events);
        self.task.await.unwrap();
        (self.pods, self.board)
    }

    fn removed(&self) -> Vec<SandboxUid> {
        self.pods
            .0
            .removed
            .lock()
            .iter()
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let wait = async {
            while !done(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap_or_else(|_| panic!("not yet: {what}"));
    }
}

#[tokio::test]
async fn objects_become_wishes_and_odd_ones_stall_nothing() {
    let api = ScriptedApi::new([]);
    let node = Node::start(&api).await;
    let metadata = object("odd", "u-odd").metadata;
    let odd = Guarded(Err(InvalidObject {
        metadata,
        error: "invalid type: integer".to_owned(),
    }));
    node.list([good("a", "u-a"), odd, good("b", "u-b")]);
    node.send(Event::Apply(good("c", "u-c")));
    let mut leaving = object("d", "u-d");
    leaving.metadata.deletion_timestamp = Some(hearth_api::Time(jiff::Timestamp::UNIX_EPOCH));
    node.send(Event::Apply(Guarded(Ok(leaving))));
    assert!(
        *node
            .status
            .synced
            .clone()
            .wait_for(|synced| *synced)
            .await
            .unwrap()
    );
    let (pods, board) = node.finish().await;
    assert_eq!(*pods.0.wishes.lock(), [uid("u-a"), uid("u-b"), uid("u-c")]);
    assert_eq!(
        *pods.0.removed.lock(),
        [(uid("u-d"), RemoveReason::Deleted)]
    );
    assert_eq!(
        board.get(&uid("u-odd")).unwrap().invalid.as_deref(),
        Some("invalid type: integer")
    );
}

#[tokio::test]
async fn a_released_or_retired_sandbox_is_never_wished_for_again() {
    let api = ScriptedApi::new([]);
    let node = Node::start(&api).await;
    node.binder.retire(&uid("u-a")).await.unwrap();
    node.list([good("a", "u-a")]);
    let (pods, _) = node.finish().await;
    assert!(pods.0.wishes.lock().is_empty());
    assert_eq!(
        *pods.0.removed.lock(),
        [(uid("u-a"), RemoveReason::Deleted)]
    );
}

#[tokio::test(start_paused = true)]
async fn absence_is_what_a_live_answer_says() {
    let check = |name: &'static str, call: Call, torn_down: bool| async move {
        let api = ScriptedApi::new([call]);
        let node = Node::start(&api).await;
        node.pods.show(view("u-a", PodPhase::Ready));
        node.list([]);
        api.finish().await;
        if torn_down {
            node.until(name, |node| node.removed() == [uid("u-a")])
                .await;
        } else {
            // The answer clears the suspicion: later rounds ask nothing more, which the script would not forgive.
            tokio::time::sleep(JUDGE_EVERY * 4).await;
            assert!(node.removed().is_empty(), "{name}");
        }
    };
    let get = || Call::get(path("u-a"));
    let elsewhere = {
        let mut object = object("u-a", "u-a");
        object.metadata.labels = Some(BTreeMap::from([(
            label::NODE.to_owned(),
            "node-2".to_owned(),
        )]));
        object
    };
    check("not found", get().fail(404, "NotFound"), true).await;
    check(
        "another object",
        get().reply(&metadata(&object("u-a", "another"))),
        true,
    )
    .await;
    check("another node", get().reply(&metadata(&elsewhere)), true).await;
    check(
        "still there",
        get().reply(&metadata(&object("u-a", "u-a"))),
        false,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_error_is_no_answer() {
    let get = || Call::get(path("u-a"));
    let api = ScriptedApi::new([get().fail(403, "Forbidden"), get().fail(404, "NotFound")]);
    let node = Node::start(&api).await;
    node.pods.show(view("u-a", PodPhase::Ready));
    node.list([good("u-a", "u-a")]);
    node.send(Event::Delete(good("u-a", "u-a")));
    api.finish().await;
    node.until("torn down after the second answer", |node| {
        node.removed() == [uid("u-a")]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_owned_sandbox_outlives_its_object_and_serves_the_one_made_anew() {
    let api = ScriptedApi::new([]);
    let node = Node::start(&api).await;
    node.pods.show(view("u-old", PodPhase::Ready));
    node.list([good("u-old", "u-old")]);
    node.binder
        .bind(
            Fence(1),
            BindOrder {
                owner: OwnerKey::from("k"),
                sandbox: uid("u-old"),
                variables: Vec::new(),
            },
        )
        .await;
    node.send(Event::Delete(good("u-old", "u-old")));
    tokio::time::sleep(JUDGE_EVERY * 4).await;
    assert!(node.removed().is_empty());

    let mut anew = object("u-old", "u-new");
    anew.metadata.annotations = Some(BTreeMap::from([(
        annotation::ADOPTS.to_owned(),
        "u-old".to_owned(),
    )]));
    node.send(Event::Apply(Guarded(Ok(anew))));
    let (pods, board) = node.finish().await;
    assert_eq!(*pods.0.wishes.lock(), [uid("u-old"), uid("u-old")]);
    assert_eq!(board.get(&uid("u-old")).unwrap().object_uid, "u-new");
    assert!(pods.0.removed.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mass_disappearance_stops_and_is_told() {
    let names: Vec<String> = (0..30).map(|n| format!("u-{n:02}")).collect();
    let calls = names
        .iter()
        .map(|name| Call::get(path(name)).fail(404, "NotFound"));
    let api = ScriptedApi::new(calls.collect::<Vec<_>>());
    let node = Node::start(&api).await;
    names
        .iter()
        .for_each(|name| node.pods.show(view(name, PodPhase::Ready)));
    node.list([]);
    let mut mass = node.status.mass.clone();
    let told = mass.wait_for(Option::is_some).await.unwrap().unwrap();
    assert_eq!((told.missing, told.of), (30, 30));
    api.finish().await;
    assert!(node.removed().is_empty(), "asked for, but not torn down");
    node.list(names.iter().map(|name| good(name, name)));
    mass.wait_for(Option::is_none).await.unwrap();
    assert!(node.removed().is_empty());
}
