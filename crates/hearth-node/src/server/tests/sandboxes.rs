//! The calls of `hearthd ctl`, by the leading controller.

use std::path::PathBuf;

use hearth_core::ids::OwnerKey;
use hearth_cri::{Input, Output};
use hearth_proto::sandboxes::v1 as calls;
use hearth_proto::sandboxes::v1::sandboxes_client::SandboxesClient;
use tonic::transport::Channel;

use super::*;
use crate::pod::testing::{Node as Pods, member};
use crate::sandboxes::Owners;

#[derive(Debug)]
struct Nobody;

impl Owners for Nobody {
    fn owner(&self, _: &SandboxUid) -> Option<OwnerKey> {
        None
    }
}

impl Node {
    async fn calls(&self, caller: &Identity) -> SandboxesClient<Channel> {
        let (address, pin) = (self.address.to_string(), self.identity.fingerprint());
        let channel = hearth_tls::connect(&address, caller, pin, ConnectOptions::default());
        SandboxesClient::new(channel.await.unwrap())
    }

    /// Gives the calls something to be about.
    fn with_pods(&self) -> Pods {
        let pods = Pods::with(|config| config.logs_dir = PathBuf::from("/nonexistent/logs"));
        self.sandboxes.serve_all(crate::sandboxes::Node {
            pods: pods.pods.clone(),
            owners: Box::new(Nobody),
            streams: Arc::new(pods.runtime.clone()),
        });
        pods
    }
}

#[tokio::test]
async fn the_leader_has_the_calls_beside_its_session() {
    let node = Node::start().await;
    let pods = node.with_pods();
    pods.want(&member("a"));
    pods.ready("a", hearth_api::Tier::Frozen).await;
    let leader = Identity::generate("leader").unwrap();
    let (_session, _) = node.lead(&leader, 5).await;
    let mut calls = node.calls(&leader).await;
    let list = calls.list(calls::ListRequest {}).await.unwrap();
    assert_eq!(list.into_inner().sandboxes[0].tier, "Frozen");

    let start = calls::ExecStart {
        sandbox: "ns/a".to_owned(),
        command: vec!["cat".to_owned()],
        stdin: true,
        ..Default::default()
    };
    let (requests, outgoing) = mpsc::channel(4);
    let say = async |part| {
        let part = Some(part);
        requests.send(calls::ExecRequest { part }).await.unwrap();
    };
    say(calls::exec_request::Part::Start(start)).await;
    let begun = calls.exec(ReceiverStream::new(outgoing)).await;
    let mut answers = begun.unwrap().into_inner();
    let mut session = pods.runtime.session().await;
    say(calls::exec_request::Part::Stdin("hi".into())).await;
    assert_eq!(session.input().await, Some(Input::Data("hi".into())));
    session.output(Output::Exited(4)).await;
    let told = answers.message().await.unwrap().unwrap();
    assert_eq!(told.part, Some(calls::exec_response::Part::ExitCode(4)));
    pods.ready("a", hearth_api::Tier::Frozen).await;
    node.shut_down().await;
}

#[tokio::test]
async fn who_led_before_has_no_calls_on_a_connection_of_then() {
    let node = Node::start().await;
    let before = Identity::generate("before").unwrap();
    let (_old_session, _) = node.lead(&before, 5).await;
    let mut calls = node.calls(&before).await;
    calls.list(calls::ListRequest {}).await.unwrap();
    let (_session, _) = node.lead(&Identity::generate("now").unwrap(), 6).await;
    let status = calls.list(calls::ListRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    node.shut_down().await;
}

#[tokio::test]
async fn a_stranger_has_no_calls() {
    let node = Node::start().await;
    let (_session, _) = node.lead(&Identity::generate("leader").unwrap(), 5).await;
    let stranger = Identity::generate("stranger").unwrap();
    let (address, pin) = (node.address.to_string(), node.identity.fingerprint());
    let channel = hearth_tls::connect(&address, &stranger, pin, ConnectOptions::default()).await;
    // Told in the handshake, or by the first call.
    if let Ok(channel) = channel {
        let mut strange = SandboxesClient::new(channel);
        assert!(strange.list(calls::ListRequest {}).await.is_err());
    }
    node.shut_down().await;
}
