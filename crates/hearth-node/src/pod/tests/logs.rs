//! How much is kept of what containers log.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::testing::{Node, bare};
use super::super::*;
use super::uid;
use hearth_api::{OperatingMode, Tier};
use hearth_cri::fake::Program;
use hearth_cri::{ErrorKind, Operation};
use tokio::time::sleep;

const LIMITS: LogLimits = LogLimits {
    max_bytes: 100,
    max_files: 3,
};

fn node(root: &Path) -> Node {
    let root = root.to_owned();
    Node::with(|config| {
        config.logs_dir = root;
        config.logs = LIMITS;
    })
}

/// The directory of the only container's logs, made in the runtime's place.
fn logs(node: &Node) -> PathBuf {
    let view = node.pods.view(&uid("a")).unwrap();
    let directory = node.pods.log_directory(&view).join("main");
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn names(directory: &Path) -> Vec<String> {
    let mut names = crate::log_files::entries(directory).unwrap();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn a_log_that_grew_too_large_is_set_aside_and_the_oldest_goes() {
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path());
    node.want(&bare("a"));
    node.ready("a", Tier::Running).await;
    let logs = logs(&node);
    fs::write(logs.join("0.log"), [b'x'; 99]).unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(names(&logs), ["0.log"]);
    for round in 1..=4_u64 {
        fs::write(logs.join("0.log"), [b'x'; 100]).unwrap();
        node.runtime
            .called(Operation::ReopenContainerLog, round)
            .await;
    }
    fs::write(logs.join("0.log"), "new").unwrap();
    assert_eq!(names(&logs), ["0.log", "0.log.3", "0.log.4"]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_begun_anew_stays_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path());
    node.want(&bare("a"));
    node.ready("a", Tier::Running).await;
    let logs = logs(&node);
    fs::write(logs.join("0.log"), [b'x'; 100]).unwrap();
    node.runtime
        .fail_next(Operation::ReopenContainerLog, ErrorKind::Other);
    node.runtime.called(Operation::ReopenContainerLog, 1).await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(names(&logs), ["0.log"]);
    // The next time it can. And one that a daemon left between the two steps is begun anew.
    node.runtime.called(Operation::ReopenContainerLog, 2).await;
    assert_eq!(names(&logs), ["0.log.1"]);
    node.runtime.called(Operation::ReopenContainerLog, 3).await;
    assert_eq!(names(&logs), ["0.log.1"]);
}

#[tokio::test(start_paused = true)]
async fn what_stands_frozen_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path());
    let mut sandbox = bare("a");
    sandbox.spec.operating_mode = OperatingMode::Frozen;
    node.want(&sandbox);
    node.view_when("a", "frozen", |view| view.tier == Some(Tier::Frozen))
        .await;
    let logs = logs(&node);
    fs::write(logs.join("0.log"), [b'x'; 100]).unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(names(&logs), ["0.log"]);
}

#[tokio::test(start_paused = true)]
async fn each_start_has_a_log_of_its_own_and_the_last_but_one_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path());
    let mut sandbox = bare("a");
    node.want(&sandbox);
    node.ready("a", Tier::Running).await;
    let logs = logs(&node);
    let logged_to = async |node: &Node| {
        let pod = node.pods.view(&uid("a")).unwrap().pod_uid.clone().unwrap();
        let containers = node.pods.containers(&pod).await.unwrap();
        PathBuf::from(&containers.last().unwrap().log_path)
    };
    assert_eq!(logged_to(&node).await, logs.join("0.log"));
    fs::write(logs.join("0.log"), "first").unwrap();
    // Another start in the same pod.
    let before = node.runtime.running_containers();
    assert!(node.runtime.exit_container(&before[0], 1));
    let again = |_: &PodView| super::is_another(&node, &before);
    node.view_when("a", "running again", again).await;
    assert_eq!(logged_to(&node).await, logs.join("1.log"));
    fs::write(logs.join("1.log"), "second").unwrap();
    // Another pod.
    sandbox.spec.operating_mode = OperatingMode::Suspended;
    node.want(&sandbox);
    node.view_when("a", "suspended", |view| view.phase == PodPhase::Stopped)
        .await;
    assert_eq!(names(&logs), ["0.log", "1.log"]);
    sandbox.spec.operating_mode = OperatingMode::Running;
    node.want(&sandbox);
    node.ready("a", Tier::Running).await;
    assert_eq!(logged_to(&node).await, logs.join("2.log"));
    assert_eq!(names(&logs), ["1.log"]);
}

#[tokio::test(start_paused = true)]
async fn logs_that_nobody_knows_are_removed_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(root.path());
    node.want(&bare("a"));
    node.ready("a", Tier::Running).await;
    let known = logs(&node);
    for name in ["ns_gone_1/main/0.log", "containerd.log"] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    node.restart(&[]).await;
    assert!(known.exists());
    assert_eq!(names(root.path()), ["containerd.log", "ns_a_a"]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_log_is_that_of_the_start_that_failed() {
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path());
    node.runtime.set_program(|_| Program::Runs);
    let container = serde_json::json!([{
        "name": "main", "image": super::super::testing::IMAGE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }]);
    let fields = serde_json::json!({"containers": container, "restartPolicy": "Never"});
    node.want(&super::super::testing::sandbox("a", &fields));
    node.ready("a", Tier::Running).await;
    let logs = logs(&node);
    fs::write(logs.join("0.log"), "T stderr F no such luck\n").unwrap();
    let running = node.runtime.running_containers();
    node.runtime.exit_container(&running[0], 3);
    let view = node
        .view_when("a", "finished", |view| view.phase == PodPhase::Finished)
        .await;
    assert_eq!(
        view.message,
        "container main ended with code 3: no such luck"
    );
}
