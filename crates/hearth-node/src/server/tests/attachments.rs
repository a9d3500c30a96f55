//! What the leader says for the status of sandboxes.

use hearth_core::attachments::Attachment;
use hearth_core::status::ServiceFact;

use super::*;

impl Node {
    /// Waits until what was said is this, by sandbox.
    async fn until_said(&self, wanted: &[(&str, Option<Attachment>)]) {
        loop {
            let mut said: Vec<_> = {
                let attachments = self.pods.0.attachments.lock();
                let said = attachments.iter();
                said.map(|(uid, what)| (uid.0.clone(), what.clone()))
                    .collect()
            };
            said.sort_by(|(a, _), (b, _)| a.cmp(b));
            let same = said.len() == wanted.len()
                && said
                    .iter()
                    .zip(wanted)
                    .all(|((uid, what), (expect, to_be))| uid == expect && what == to_be);
            if same {
                return;
            }
            let waited = timeout(PATIENCE, self.pods.0.supplied.notified()).await;
            assert!(waited.is_ok(), "said was {said:?}, not {wanted:?}");
        }
    }
}

fn list(uids: &[&str]) -> Request {
    Request::Attachments(proto::AttachmentList {
        sandbox_uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
    })
}

fn told(uid: &str, state: Option<proto::service_state::State>, fault: &str) -> Request {
    let known = proto::attachment::Known {
        service: Some(proto::ServiceState { state }),
        fault: fault.to_owned(),
    };
    Request::Attachment(proto::Attachment {
        sandbox_uid: uid.to_owned(),
        known: Some(known),
    })
}

fn with(service: ServiceFact, fault: Option<&str>) -> Option<Attachment> {
    Some(Attachment {
        service,
        fault: fault.map(str::to_owned),
    })
}

#[tokio::test]
async fn what_the_leader_says_for_the_status_of_sandboxes_is_taken_in() {
    use proto::service_state::State;
    let node = Node::start().await;
    let leader = Identity::generate("leader").unwrap();
    let (client, _) = node.lead(&leader, 5).await;
    client.tell(list(&["a", "b", "c", "d", "e"])).await;
    let name = proto::ServiceName {
        name: "a".to_owned(),
        fqdn: "a.ns.svc".to_owned(),
    };
    client.tell(told("a", Some(State::There(name)), "")).await;
    let missing = State::Missing(proto::NoService {});
    client.tell(told("b", Some(missing), "no")).await;
    let impossible = State::Impossible("never".to_owned());
    client.tell(told("c", Some(impossible), "")).await;
    // Of a later version of the API.
    client.tell(told("d", None, "")).await;
    let there = ServiceFact::There {
        name: "a".to_owned(),
        fqdn: "a.ns.svc".to_owned(),
    };
    node.until_said(&[
        ("a", with(there, None)),
        ("b", with(ServiceFact::Missing, Some("no"))),
        ("c", with(ServiceFact::Impossible("never".to_owned()), None)),
        ("d", with(ServiceFact::NotAsked, None)),
        ("e", None),
    ])
    .await;

    client.tell(list(&["b"])).await;
    client
        .tell(Request::Attachment(proto::Attachment {
            sandbox_uid: "b".to_owned(),
            known: None,
        }))
        .await;
    node.until_said(&[("b", None)]).await;
    node.shut_down().await;
}
