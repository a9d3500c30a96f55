use std::collections::HashMap;

use hearth_core::ids::Key;
use hearth_test::api::{Call, ScriptedApi};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;

const PATH: &str = "/apis/agents.x-k8s.io/v1beta1/namespaces/ns/sandboxes/a/status";

/// What each sandbox should say: its addresses, and whether it is ready.
#[derive(Clone, Debug, Default)]
struct FakeSource(Arc<FakeState>);

#[derive(Debug, Default)]
struct FakeState {
    ready: Mutex<HashMap<SandboxUid, bool>>,
    changes: Mutex<Vec<mpsc::UnboundedSender<SandboxUid>>>,
}

impl FakeSource {
    fn set(&self, uid: &SandboxUid, ready: bool) {
        self.0.ready.lock().insert(uid.clone(), ready);
        self.0
            .changes
            .lock()
            .retain(|changes| changes.send(uid.clone()).is_ok());
    }
}

impl StatusSource for FakeSource {
    type Changes = mpsc::UnboundedReceiver<SandboxUid>;

    fn status(
        &self,
        uid: &SandboxUid,
        previous: &SandboxStatus,
        _now: &Time,
    ) -> Option<(SandboxStatus, bool)> {
        let ready = *self.0.ready.lock().get(uid)?;
        let mut status = previous.clone();
        let epoch = Time(jiff::Timestamp::UNIX_EPOCH);
        set_condition(
            &mut status.conditions,
            condition::READY,
            ready.into(),
            "R",
            "",
            Some(1),
            &epoch,
        );
        status.pod_ips = if ready {
            vec!["10.0.0.1".to_owned()]
        } else {
            Vec::new()
        };
        Some((status, false))
    }

    fn changes(&self) -> Self::Changes {
        let (changes, receiver) = mpsc::unbounded_channel();
        self.0.changes.lock().push(changes);
        receiver
    }
}

fn uid() -> SandboxUid {
    SandboxUid::from("u")
}

fn posted(version: u64) -> Posted {
    Posted {
        key: Key::new("ns", "a"),
        object_uid: "u".to_owned(),
        resource_version: version.to_string(),
        generation: 1,
        status: SandboxStatus {
            service: "kept".to_owned(),
            ..SandboxStatus::default()
        },
        invalid: None,
    }
}

fn ready_condition(ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!([{
        "lastTransitionTime": "1970-01-01T00:00:00Z", "message": "", "observedGeneration": 1, "reason": "R",
        "status": status, "type": "Ready",
    }])
}

/// The object as the API server has it afterwards.
fn object(version: u64, ready: bool) -> Value {
    let ips = if ready {
        json!(["10.0.0.1"])
    } else {
        json!([])
    };
    json!({
        "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox",
        "metadata": { "name": "a", "namespace": "ns", "uid": "u", "resourceVersion": version.to_string(), "generation": 1 },
        "spec": { "podTemplate": { "spec": {} } },
        "status": { "service": "kept", "conditions": ready_condition(ready), "podIPs": ips },
    })
}

fn becomes_ready(version: u64) -> Call {
    let patch = json!({
        "metadata": { "resourceVersion": version.to_string() },
        "status": { "conditions": ready_condition(true), "podIPs": ["10.0.0.1"] },
    });
    Call::merge_patch(PATH, patch)
}

struct Running {
    source: FakeSource,
    board: Board,
    metrics: ReporterMetrics,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(api: &ScriptedApi) -> Running {
    let (source, board) = (FakeSource::default(), Board::default());
    let metrics = ReporterMetrics::default();
    let reporter = Reporter::new(
        api.client(),
        source.clone(),
        board.clone(),
        ClaimActivity::default(),
        metrics.clone(),
    );
    let stop = CancellationToken::new();
    let task = tokio::spawn(reporter.run(stop.clone()));
    Running {
        source,
        board,
        metrics,
        stop,
        task,
    }
}

impl Running {
    async fn finish(self, api: ScriptedApi) {
        api.finish().await;
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_flip_is_written_with_what_changed_and_the_version_it_was_seen_at() {
    let api = ScriptedApi::new([becomes_ready(7).reply(&object(8, true))]);
    let running = start(&api);
    running.board.post(uid(), posted(7));
    running.source.set(&uid(), true);
    running.finish(api).await;
}

#[tokio::test]
async fn the_next_write_builds_on_the_answer_of_the_last() {
    let api = ScriptedApi::new([
        becomes_ready(7).reply(&object(8, true)),
        Call::merge_patch(
            PATH,
            json!({ "metadata": { "resourceVersion": "8" }, "status": { "conditions": ready_condition(false), "podIPs": null } }),
        )
        .reply(&object(9, false)),
    ]);
    let running = start(&api);
    running.source.set(&uid(), true);
    running.board.post(uid(), posted(7));
    while running
        .board
        .get(&uid())
        .is_none_or(|posted| posted.resource_version != "8")
    {
        tokio::task::yield_now().await;
    }
    running.source.set(&uid(), false);
    running.finish(api).await;
}

#[tokio::test]
async fn a_conflict_is_tried_again_with_the_version_that_the_watch_brings() {
    let api = ScriptedApi::new([
        becomes_ready(7).fail(409, "Conflict"),
        becomes_ready(8).reply(&object(9, true)),
    ]);
    let running = start(&api);
    running.source.set(&uid(), true);
    running.board.post(uid(), posted(7));
    while running.metrics.counted("conflict") == 0 {
        tokio::task::yield_now().await;
    }
    running.board.post(uid(), posted(8));
    running.finish(api).await;
}

#[tokio::test]
async fn an_object_that_is_gone_is_let_go() {
    let api = ScriptedApi::new([becomes_ready(7).fail(404, "NotFound")]);
    let running = start(&api);
    running.source.set(&uid(), true);
    running.board.post(uid(), posted(7));
    running.finish(api).await;
}

#[tokio::test]
async fn a_refusal_of_the_daemon_itself_is_waited_out_like_an_outage() {
    for (code, reason) in [
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (503, "ServiceUnavailable"),
    ] {
        let api = ScriptedApi::new([
            becomes_ready(7).fail(code, reason),
            becomes_ready(7).reply(&object(8, true)),
        ]);
        let running = start(&api);
        running.source.set(&uid(), true);
        running.board.post(uid(), posted(7));
        while running.metrics.counted("written") == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(running.metrics.counted("unavailable"), 1, "{code}");
        assert_eq!(running.metrics.counted("refused"), 0, "{code}");
        running.finish(api).await;
    }
}
