//! Before the runtime has answered for the first time.

use std::fs;

use hearth_core::ids::{Key, PodUid};
use hearth_core::podspec::PodPlan;

use super::*;
use crate::log_files;
use crate::pod::{PodIncarnation, Stage};

fn record() -> PodRecord {
    PodRecord {
        uid: SandboxUid::from("kept"),
        key: Key {
            namespace: "ns".to_owned(),
            name: "kept".to_owned(),
        },
        stage: Stage::Ready,
        member: true,
        pod: Some(PodIncarnation {
            first_id: None,
            active_ms: 0,
            uid: PodUid("pod-1".to_owned()),
            attempt: 0,
            handler: "runc".to_owned(),
            plan: Arc::new(PodPlan::default()),
            evicted: None,
        }),
    }
}

#[tokio::test]
async fn what_the_journal_and_the_logs_say_is_there_at_once_and_the_rest_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, path) = (dir.path().join("logs"), dir.path().join("hearthd.sock"));
    let record = record();
    let log = log_files::directory(&logs, &record.key, &record.uid).join("main/0.log");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    fs::write(&log, "2026-01-02T03:04:05Z stdout F said before\n").unwrap();
    let stop = CancellationToken::new();
    let api = SandboxesApi::new(
        &[record],
        logs,
        TaskTracker::new(),
        stop.clone(),
        SessionMetrics::default(),
    );
    let socket = LocalSocket::bind(&path).unwrap();
    let served = tokio::spawn(api.clone().serve(socket));
    let mut client = client_of(&path).await;

    let list = client.list(proto::ListRequest {}).await.unwrap();
    let [row] = &list.into_inner().sandboxes[..] else {
        panic!("not one row");
    };
    assert_eq!((row.name.as_str(), row.phase.as_str()), ("kept", "Unknown"));
    assert_eq!(row.pod_uid, "pod-1");
    assert!(row.member && row.message.contains("containerd has not answered yet"));
    let sandbox = "ns/kept".to_owned();
    let request = proto::InspectRequest {
        sandbox: sandbox.clone(),
    };
    let inspected = client.inspect(request).await.unwrap().into_inner();
    assert!(inspected.runtime_error.contains("has not answered yet"));
    let request = proto::LogsRequest {
        sandbox: sandbox.clone(),
        ..Default::default()
    };
    let mut stream = client.logs(request.clone()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.data, b"said before\n");

    let follow = proto::LogsRequest {
        follow: true,
        ..request
    };
    let freeze = proto::FreezeRequest {
        sandbox: sandbox.clone(),
    };
    let start = proto::ExecStart {
        sandbox,
        ..Default::default()
    };
    let part = Some(proto::exec_request::Part::Start(start));
    let exec = futures::stream::iter([proto::ExecRequest { part }]);
    let stats = proto::StatsRequest::default();
    for status in [
        client.logs(follow).await.map(drop).unwrap_err(),
        client.freeze(freeze).await.map(drop).unwrap_err(),
        client.exec(exec).await.map(drop).unwrap_err(),
        client.stats(stats).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("has not answered yet"));
    }
    stop.cancel();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_name_like_another_is_told() {
    let served = Served::start().await;
    served.node.want(&bare("agent-1"));
    served.node.ready("agent-1", Tier::Running).await;
    let sandbox = "agnet-1".to_owned();
    let status = served
        .client
        .clone()
        .inspect(proto::InspectRequest { sandbox })
        .await
        .unwrap_err();
    assert_eq!(
        status.message(),
        "sandbox is \"agnet-1\": this node has none of that name or UID; nearest to it: ns/agent-1"
    );
}
