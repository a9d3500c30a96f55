//! What the controller says for the status of sandboxes, as it stands there.

use std::collections::HashSet;

use hearth_api::{Sandbox, SandboxStatus, Tier, Time};
use hearth_core::attachments::Attachment;
use hearth_core::conditions::find_condition;
use hearth_core::status::ServiceFact;
use serde_json::json;

use super::super::testing::{Node, sandbox};
use super::super::*;
use super::uid;

fn that_asks(service: Option<bool>) -> Sandbox {
    let mut sandbox = sandbox("a", &json!({"restartPolicy": "Always"}));
    sandbox.spec.service = service;
    sandbox
}

fn status(view: &PodView, previous: &SandboxStatus) -> SandboxStatus {
    let at = Time(jiff::Timestamp::from_second(1).unwrap());
    view.status(previous, "vm", &at)
}

/// `Ready` and the name of the Service.
fn says(status: &SandboxStatus) -> String {
    let ready = find_condition(&status.conditions, "Ready").unwrap();
    let (name, text) = (&status.service, &ready.message);
    format!("{} {} {text} [{name}]", ready.status, ready.reason)
}

fn there() -> Option<Attachment> {
    Some(Attachment {
        service: ServiceFact::There {
            name: "a".to_owned(),
            fqdn: "a.ns.svc.cluster.local".to_owned(),
        },
        fault: None,
    })
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_asks_for_a_service_is_ready_once_the_controller_says_that_it_is_there() {
    let mut node = Node::new();
    node.want(&that_asks(Some(true)));
    let view = node.ready("a", Tier::Running).await;
    let first = status(&view, &SandboxStatus::default());
    let missing = "False DependenciesNotReady Pod is Ready; Service does not exist []";
    assert_eq!(says(&first), missing);

    node.pods.set_attachment(uid("a"), there());
    let ready = "True DependenciesReady Pod is Ready; Service Exists [a]";
    let shows = |expect: &'static str| {
        let first = first.clone();
        move |view: &PodView| says(&status(view, &first)) == expect
    };
    let view = node.view_when("a", "its Service", shows(ready)).await;
    let second = status(&view, &first);
    assert_eq!(second.service_fqdn, "a.ns.svc.cluster.local");

    // The daemon starts anew, and the controller has not spoken yet.
    node.restart(&[]).await;
    node.want(&that_asks(Some(true)));
    let view = node.ready("a", Tier::Running).await;
    assert_eq!(says(&status(&view, &second)), ready);
    // It is gone, and the controller is about to say so.
    node.pods.keep_attachments(HashSet::from([uid("a")]));
    let gone = Attachment {
        service: ServiceFact::Missing,
        fault: None,
    };
    node.pods.set_attachment(uid("a"), Some(gone));
    node.view_when("a", "no Service", shows(missing)).await;
}

#[tokio::test(start_paused = true)]
async fn of_what_the_controller_does_not_name_there_is_no_service() {
    let node = Node::new();
    node.want(&that_asks(None));
    let view = node.ready("a", Tier::Running).await;
    let previous = SandboxStatus {
        service: "a".to_owned(),
        service_fqdn: "a.ns.svc.cluster.local".to_owned(),
        ..SandboxStatus::default()
    };
    let there = "True DependenciesReady Pod is Ready; Service Exists [a]";
    assert_eq!(says(&status(&view, &previous)), there);
    node.pods.keep_attachments(HashSet::new());
    let none = "True DependenciesReady Pod is Ready []";
    node.view_when("a", "no Service", |view| {
        says(&status(view, &previous)) == none
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_controller_cannot_do_stands_in_the_status() {
    let node = Node::new();
    node.want(&that_asks(None));
    node.ready("a", Tier::Running).await;
    let fault = Attachment {
        service: ServiceFact::Absent,
        fault: Some("no".to_owned()),
    };
    node.pods.set_attachment(uid("a"), Some(fault));
    node.view_when("a", "the fault", |view| {
        says(&status(view, &SandboxStatus::default())) == "False ReconcilerError Error seen: no []"
    })
    .await;
    node.pods.set_attachment(uid("a"), None);
    node.view_when("a", "no fault", |view| {
        says(&status(view, &SandboxStatus::default())) == "True DependenciesReady Pod is Ready []"
    })
    .await;
}
