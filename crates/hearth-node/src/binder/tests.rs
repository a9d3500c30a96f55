use std::io;

use tempfile::TempDir;

use super::testing::{FakePods, view};
use super::*;
use crate::journal::testing::Disk;
use crate::pod::PodPhase;

const FENCE: Fence = Fence(1);

fn owner(name: &str) -> OwnerKey {
    OwnerKey::from(name)
}

fn sandbox(name: &str) -> SandboxUid {
    SandboxUid::from(name)
}

struct Node {
    binder: Binder<FakePods>,
    pods: FakePods,
    disk: Disk,
    tasks: TaskTracker,
    dir: TempDir,
}

impl Node {
    /// A node with the ready members `a` and `b`, led by `FENCE`.
    async fn start() -> Self {
        let pods = FakePods::default();
        for uid in ["a", "b"] {
            pods.show(view(uid, PodPhase::Ready));
        }
        let node = Self::on(
            Disk::holding(Vec::new()),
            pods,
            tempfile::tempdir().unwrap(),
        );
        assert_eq!(node.binder.hello(FENCE).await.unwrap(), Greeting::Accepted);
        node
    }

    fn on(disk: Disk, pods: FakePods, dir: TempDir) -> Self {
        let opened = disk.journal(dir.path());
        let tasks = TaskTracker::new();
        let binder = Binder::new(
            opened.contents.bindings,
            opened.journal,
            pods.clone(),
            ClaimActivity::default(),
            BinderMetrics::default(),
            tasks.clone(),
        );
        Self {
            binder,
            pods,
            disk,
            tasks,
            dir,
        }
    }

    /// The power goes and comes back.
    async fn restart(self) -> Self {
        let disk = self.disk.after_power_cut();
        self.tasks.close();
        self.tasks.wait().await;
        Self::on(disk, self.pods, self.dir)
    }

    async fn bind(&self, key: &str, uid: &str) -> BindAnswer {
        self.bind_with(key, uid, &[]).await
    }

    /// Binds with these variables, of container `main`.
    async fn bind_with(&self, key: &str, uid: &str, variables: &[(&str, &str)]) -> BindAnswer {
        let order = order(key, uid, variables);
        self.binder.bind(FENCE, order).await
    }
}

fn order(key: &str, uid: &str, variables: &[(&str, &str)]) -> BindOrder {
    let variables = variables.iter().map(|(name, value)| Variable {
        container: "main".to_owned(),
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    });
    BindOrder {
        owner: owner(key),
        sandbox: sandbox(uid),
        variables: variables.collect(),
    }
}

fn bound_to(answer: &BindAnswer) -> &str {
    match answer {
        BindAnswer::Bound { sandbox, .. } => sandbox.as_str(),
        other => panic!("not bound: {other:?}"),
    }
}

#[tokio::test]
async fn a_bind_is_answered_when_it_is_durable_and_the_pod_runs() {
    let node = Node::start().await;
    let before = node.disk.syncs();
    let answer = node.bind("k", "a").await;
    assert_eq!(bound_to(&answer), "a");
    assert!(node.disk.syncs() > before, "nothing was synced");
    assert_eq!(*node.pods.0.kept.lock(), [sandbox("a")]);
    assert_eq!(node.binder.owner(&sandbox("a")), Some(owner("k")));

    let node = node.restart().await;
    assert_eq!(node.binder.owner(&sandbox("a")), Some(owner("k")));
    assert_eq!(
        bound_to(&node.bind("k", "b").await),
        "a",
        "the key keeps its sandbox"
    );
}

#[tokio::test]
async fn a_failed_thaw_leaves_the_member_free() {
    let node = Node::start().await;
    node.pods
        .0
        .thaws
        .lock()
        .push_back(ThawRefused::Failed(io::Error::other("stuck")));
    let BindAnswer::Failed(detail) = node.bind("k", "a").await else {
        panic!("did not fail")
    };
    assert!(detail.contains("stuck"), "{detail}");
    assert!(node.pods.0.kept.lock().is_empty());

    let node = node.restart().await;
    assert_eq!(
        node.binder.owner(&sandbox("a")),
        None,
        "the journal took it back"
    );
    assert_eq!(bound_to(&node.bind("other", "a").await), "a");
}

#[tokio::test]
async fn a_thaw_that_is_refused_is_answered_with_its_reason() {
    let check = |refused: ThawRefused, expected: Refusal| async move {
        let node = Node::start().await;
        node.pods.0.thaws.lock().push_back(refused);
        let answer = node.bind("k", "a").await;
        assert!(
            matches!(answer, BindAnswer::Refused(refusal) if refusal == expected),
            "{answer:?}"
        );
        assert!(!node.binder.is_held(&sandbox("a")));
    };
    check(ThawRefused::NotFound, Refusal::NotFound).await;
    check(ThawRefused::Ending, Refusal::Ending).await;
    check(ThawRefused::NotReady, Refusal::NotReady).await;
    check(ThawRefused::Held, Refusal::Taken).await;
}

#[tokio::test]
async fn a_failed_commit_gives_the_member_back_and_the_next_commit_mends_the_journal() {
    let node = Node::start().await;
    node.disk.break_down(true);
    assert!(matches!(node.bind("k", "a").await, BindAnswer::Failed(_)));
    assert!(node.pods.0.held.lock().is_empty(), "the member is refrozen");
    assert!(
        node.binder.release(&owner("gone"), None).await.is_err(),
        "not durable, not answered"
    );
    node.disk.break_down(false);
    assert_eq!(bound_to(&node.bind("other", "a").await), "a");

    let node = node.restart().await;
    assert_eq!(node.binder.owner(&sandbox("a")), Some(owner("other")));
    let answer = node.bind("gone", "b").await;
    assert!(
        matches!(answer, BindAnswer::Refused(Refusal::Released)),
        "the release was not forgotten: {answer:?}"
    );
}

#[tokio::test]
async fn the_same_key_twice_at_once_is_one_bind() {
    let node = Node::start().await;
    *node.pods.0.slow.lock() = true;
    let first = node.bind("k", "a");
    let second = node.bind("k", "a");
    let go = async {
        node.pods.0.waiting.notified().await;
        node.pods.0.go.notify_one();
    };
    let (first, second, ()) = futures::join!(first, second, go);
    assert_eq!((bound_to(&first), bound_to(&second)), ("a", "a"));
    assert_eq!(node.pods.0.kept.lock().len(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_bind() {
    let node = Node::start().await;
    *node.pods.0.slow.lock() = true;
    {
        let bind = node.bind("k", "a");
        tokio::select! {
            answer = bind => panic!("answered before the thaw: {answer:?}"),
            () = node.pods.0.waiting.notified() => {}
        }
    }
    node.pods.0.go.notify_one();
    *node.pods.0.slow.lock() = false;
    assert_eq!(bound_to(&node.bind("k", "a").await), "a");
    assert_eq!(*node.pods.0.kept.lock(), [sandbox("a")]);
}

#[tokio::test]
async fn a_release_during_the_bind_ends_it() {
    let node = Node::start().await;
    *node.pods.0.slow.lock() = true;
    let release = async {
        node.pods.0.waiting.notified().await;
        let released = node.binder.release(&owner("k"), None).await.unwrap();
        node.pods.0.go.notify_one();
        released
    };
    let (answer, released) = futures::join!(node.bind("k", "a"), release);
    assert!(
        matches!(answer, BindAnswer::Refused(Refusal::Released)),
        "{answer:?}"
    );
    assert_eq!(released, Released::Done(Some(sandbox("a"))));
    assert!(node.pods.0.kept.lock().is_empty());

    let node = node.restart().await;
    assert_eq!(node.binder.owner(&sandbox("a")), None);
    assert!(node.binder.is_disposed(&sandbox("a")));
}

#[tokio::test]
async fn released_and_retired_sandboxes_are_removed_once_it_is_durable() {
    let node = Node::start().await;
    node.bind("k", "a").await;
    assert_eq!(
        node.binder.retire(&sandbox("a")).await.unwrap(),
        Retired::Bound
    );
    assert_eq!(
        node.binder
            .release(&owner("k"), Some(&sandbox("b")))
            .await
            .unwrap(),
        Released::HoldsAnother(sandbox("a"))
    );
    assert!(node.pods.0.removed.lock().is_empty());
    assert_eq!(
        node.binder.release(&owner("k"), None).await.unwrap(),
        Released::Done(Some(sandbox("a")))
    );
    assert_eq!(
        node.binder.retire(&sandbox("b")).await.unwrap(),
        Retired::Done
    );
    assert_eq!(
        node.binder.retire(&sandbox("unknown")).await.unwrap(),
        Retired::NotFound
    );
    let expected = [
        (sandbox("a"), RemoveReason::Released),
        (sandbox("b"), RemoveReason::Retired),
    ];
    assert_eq!(*node.pods.0.removed.lock(), expected);

    let node = node.restart().await;
    node.pods.show(view("unknown", PodPhase::Ready));
    for uid in ["a", "b", "unknown"] {
        let answer = node.bind("late", uid).await;
        assert!(
            matches!(answer, BindAnswer::Refused(Refusal::Ending)),
            "{uid}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn an_older_leader_binds_nothing_and_a_new_one_waits_for_what_is_under_way() {
    let node = Node::start().await;
    *node.pods.0.slow.lock() = true;
    let takeover = async {
        node.pods.0.waiting.notified().await;
        let hello = node.binder.hello(Fence(2));
        let mut hello = std::pin::pin!(hello);
        assert!(futures::poll!(hello.as_mut()).is_pending());
        let late = node.bind("late", "b").await;
        assert!(matches!(late, BindAnswer::Superseded), "{late:?}");
        assert!(
            futures::poll!(hello.as_mut()).is_pending(),
            "a bind is still under way"
        );
        node.pods.0.go.notify_one();
        assert_eq!(hello.await.unwrap(), Greeting::Accepted);
        node.binder.owner(&sandbox("a"))
    };
    let (answer, owner_seen) = futures::join!(node.bind("k", "a"), takeover);
    assert_eq!(bound_to(&answer), "a");
    assert_eq!(
        owner_seen,
        Some(owner("k")),
        "the new leader sees what the old one bound"
    );

    let node = node.restart().await;
    assert_eq!(
        node.binder.hello(FENCE).await.unwrap(),
        Greeting::Stale(Fence(2))
    );
    node.binder.reset_fence(FENCE).await.unwrap();
    *node.pods.0.slow.lock() = false;
    assert_eq!(bound_to(&node.bind("other", "b").await), "b");
}

#[tokio::test]
async fn a_sandbox_that_is_no_ready_member_is_not_bound() {
    let node = Node::start().await;
    let bare = PodView {
        member: false,
        ..view("bare", PodPhase::Ready)
    };
    node.pods.show(bare);
    node.pods.show(view("young", PodPhase::Pending));
    let check = |uid: &'static str, expected: Refusal| {
        let bind = node.bind("k", uid);
        async move {
            let answer = bind.await;
            assert!(
                matches!(answer, BindAnswer::Refused(refusal) if refusal == expected),
                "{uid}: {answer:?}"
            );
        }
    };
    check("bare", Refusal::NotMember).await;
    check("young", Refusal::NotReady).await;
    check("nowhere", Refusal::NotFound).await;
}

#[tokio::test]
async fn a_bind_is_the_same_again_only_with_the_same_variables() {
    let node = Node::start().await;
    assert_eq!(
        bound_to(&node.bind_with("k", "a", &[("X", "1")]).await),
        "a"
    );
    let thawed_with = node.pods.0.envs.lock().clone();
    let [Some(env)] = &thawed_with[..] else {
        panic!("{thawed_with:?}");
    };
    assert_eq!(env.variables[0].value, "1");
    let node = node.restart().await;
    assert_eq!(
        bound_to(&node.bind_with("k", "a", &[("X", "1")]).await),
        "a"
    );
    for other in [&[("X", "2")][..], &[]] {
        let answer = node.bind_with("k", "a", other).await;
        assert!(
            matches!(answer, BindAnswer::Refused(Refusal::OtherEnv)),
            "{other:?}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_bind_for_a_container_that_there_is_not_fails_and_gives_the_member_back() {
    let node = Node::start().await;
    let refused = ThawRefused::NoContainer("main".to_owned());
    node.pods.0.thaws.lock().push_back(refused);
    let BindAnswer::Failed(detail) = node.bind_with("k", "a", &[("X", "1")]).await else {
        panic!("bound");
    };
    assert_eq!(detail, "the sandbox has no container main");
    assert_eq!(bound_to(&node.bind("other", "a").await), "a");
}
