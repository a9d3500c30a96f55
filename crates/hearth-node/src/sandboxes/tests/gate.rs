//! Freeze, thaw and exec, through the gate of a pod.

use hearth_api::OperatingMode;
use hearth_cri::v1::ExecSyncResponse;
use tokio::time::timeout;

use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

impl Served {
    async fn freeze(&mut self, sandbox: &str) -> Result<(), Status> {
        let sandbox = sandbox.to_owned();
        let frozen = self.client.freeze(proto::FreezeRequest { sandbox });
        timeout(PATIENCE, frozen).await.unwrap().map(drop)
    }

    async fn exec(
        &mut self,
        request: proto::ExecSyncRequest,
    ) -> Result<proto::ExecSyncResponse, Status> {
        let done = timeout(PATIENCE, self.client.exec_sync(request))
            .await
            .unwrap();
        done.map(Response::into_inner)
    }
}

fn command(sandbox: &str) -> proto::ExecSyncRequest {
    proto::ExecSyncRequest {
        sandbox: sandbox.to_owned(),
        container: String::new(),
        command: vec!["whoami".to_owned(), "-x".to_owned()],
        timeout_seconds: 5,
    }
}

#[tokio::test]
async fn a_command_runs_in_a_frozen_sandbox_which_is_frozen_again_after() {
    let mut served = Served::start().await;
    served.node.runtime.set_exec(|_, command| ExecSyncResponse {
        stdout: command.join(" ").into_bytes(),
        stderr: b"err".to_vec(),
        exit_code: 7,
    });
    served.node.want(&member("a"));
    served.node.ready("a", Tier::Frozen).await;
    let done = served.exec(command("ns/a")).await.unwrap();
    let expect = proto::ExecSyncResponse {
        stdout: b"whoami -x".to_vec(),
        stderr: b"err".to_vec(),
        exit_code: 7,
    };
    assert_eq!(done, expect);
    served.node.ready("a", Tier::Frozen).await;
}

#[tokio::test]
async fn a_command_needs_a_container_that_runs() {
    let mut served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    let other = proto::ExecSyncRequest {
        container: "other".to_owned(),
        ..command("ns/a")
    };
    assert_eq!(
        served.exec(other).await.unwrap_err().message(),
        "container is \"other\": sandbox ns/a has none of that name, but main; choose one with -c"
    );
    let nothing = proto::ExecSyncRequest {
        command: Vec::new(),
        ..command("ns/a")
    };
    assert_eq!(
        served.exec(nothing).await.unwrap_err().message(),
        "command is empty: give the program to run, and its arguments"
    );
    let endless = proto::ExecSyncRequest {
        timeout_seconds: 0,
        ..command("ns/a")
    };
    assert_eq!(
        served.exec(endless).await.unwrap_err().message(),
        "timeout_seconds is 0: it must be 1 to 86400"
    );
}

#[tokio::test]
async fn a_sandbox_is_held_thawed_until_the_caller_hangs_up() {
    let mut served = Served::start().await;
    served.node.want(&member("a"));
    served.node.ready("a", Tier::Frozen).await;
    let request = proto::ThawRequest {
        sandbox: "ns/a".to_owned(),
        hold_seconds: 3600,
    };
    let mut held = served.client.thaw(request).await.unwrap().into_inner();
    held.message().await.unwrap().unwrap();
    let running = |view: &PodView| view.tier == Some(Tier::Running);
    served.node.view_when("a", "thawed", running).await;
    // It is to be frozen, and is as soon as nobody holds it.
    let mut other = served.client.clone();
    let sandbox = "ns/a".to_owned();
    let frozen = tokio::spawn(async move { other.freeze(proto::FreezeRequest { sandbox }).await });
    tokio::task::yield_now().await;
    assert!(!frozen.is_finished());
    drop(held);
    timeout(PATIENCE, frozen).await.unwrap().unwrap().unwrap();
    let view = served.node.pods.view(&SandboxUid::from("a")).unwrap();
    assert_eq!(view.tier, Some(Tier::Frozen));
}

#[tokio::test]
async fn a_sandbox_that_is_held_thawed_is_let_go_when_the_time_is_over() {
    let mut served = Served::start().await;
    served.node.want(&member("a"));
    served.node.ready("a", Tier::Frozen).await;
    let request = proto::ThawRequest {
        sandbox: "ns/a".to_owned(),
        hold_seconds: 1,
    };
    let mut held = served.client.thaw(request).await.unwrap().into_inner();
    held.message().await.unwrap().unwrap();
    let end = timeout(PATIENCE, held.message()).await.unwrap();
    assert_eq!(end.unwrap(), None);
    served.node.ready("a", Tier::Frozen).await;
}

#[tokio::test]
async fn a_sandbox_that_is_to_run_is_not_frozen() {
    let mut served = Served::start().await;
    let mut sandbox = bare("a");
    served.node.want(&sandbox);
    served.node.ready("a", Tier::Running).await;
    let status = served.freeze("ns/a").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        "sandbox ns/a is to run, and a freeze that it does not know of would not last: set its spec.operatingMode to \
         Frozen, as with `kubectl patch sandbox a -n ns --type merge -p '{\"spec\":{\"operatingMode\":\"Frozen\"}}'`"
    );
    sandbox.spec.operating_mode = OperatingMode::Frozen;
    served.node.want(&sandbox);
    served.node.ready("a", Tier::Frozen).await;
    served.freeze("ns/a").await.unwrap();
    sandbox.spec.operating_mode = OperatingMode::Suspended;
    served.node.want(&sandbox);
    let stopped = |view: &PodView| view.phase == PodPhase::Stopped;
    served.node.view_when("a", "suspended", stopped).await;
    assert_eq!(
        served.freeze("ns/a").await.unwrap_err().message(),
        "sandbox ns/a is suspended and has no pod; to resume it: `kubectl patch sandbox a -n ns --type merge -p \
         '{\"spec\":{\"operatingMode\":\"Running\"}}'`"
    );
}
