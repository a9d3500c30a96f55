//! What the status of a Sandbox without a live node says of its Service.

use super::*;

/// Writes of the status of a Sandbox.
fn status_writes(effects: &[Effect]) -> Vec<Write> {
    let writes = effects.iter().filter_map(|effect| match effect {
        Effect::Write(write) if matches!(write.body, Body::MergeStatus(_)) => {
            Some((**write).clone())
        }
        _ => None,
    });
    writes.collect()
}

/// A suspended Sandbox without a node that asks for a Service, with the conditions that it is to have.
fn suspended() -> Value {
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
               "lastTransitionTime": "2027-01-15T08:00:00Z"})
    };
    let mut object = sandbox(Some(true), 2);
    object["metadata"]["labels"].take();
    object["spec"]["operatingMode"] = "Suspended".into();
    object["status"] = json!({"conditions": [
        condition("Suspended", "True", "PodTerminated", message::POD_TERMINATED),
        condition("Ready", "False", "SandboxSuspended", message::SANDBOX_SUSPENDED),
    ]});
    object
}

#[test]
fn that_a_service_can_never_be_is_said_once_though_there_is_one() {
    let mut object = suspended();
    object["status"]["service"] = "svc".into();
    object["status"]["serviceFQDN"] = "svc.n.svc.cluster.local".into();
    let (mut index, effects) = begin(Some(drifted()), object.clone());
    assert_eq!(status_writes(&effects), []);
    let invalid = "Service \"svc\" is invalid: spec.ports[0].port: Invalid value";
    let receipt = service_writes(&effects)[0].receipt.clone();
    index.on_outcome(&receipt, Outcome::Rejected(invalid.to_owned()), at(1));
    let said = status_writes(&settle(&mut index, at(1)));
    let [write] = &said[..] else {
        panic!("{said:?}");
    };
    let Body::MergeStatus(patch) = &write.body else {
        panic!("{write:?}");
    };
    assert_eq!(patch["status"]["service"], Value::Null);
    let conditions = patch["status"]["conditions"].clone();
    let ready = conditions
        .as_array()
        .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
    assert_eq!(ready.unwrap()["reason"], "InvalidConfiguration");

    let status = object["status"].as_object_mut().unwrap();
    status.insert("conditions".to_owned(), conditions);
    status.remove("service");
    status.remove("serviceFQDN");
    object["metadata"]["resourceVersion"] = "4".into();
    let written = Object::Sandbox(serde_json::from_value(object).unwrap());
    let outcome = Outcome::Done(Some(Box::new(written)));
    index.on_outcome(&write.receipt, outcome, at(2));
    assert_eq!(status_writes(&settle(&mut index, at(2))), []);
    assert_eq!(status_writes(&settle(&mut index, at(60_000))), []);
}

#[test]
fn of_a_sandbox_whose_node_is_not_there_it_is_said_that_its_service_came() {
    let mut object = sandbox(None, 2);
    object["metadata"]["labels"]["hearth.dev/node"] = "n2".into();
    let (mut index, effects) = begin(None, object.clone());
    let said = status_writes(&effects);
    let [write] = &said[..] else {
        panic!("{said:?}");
    };
    let Body::MergeStatus(patch) = &write.body else {
        panic!("{write:?}");
    };
    object["status"]["conditions"] = patch["status"]["conditions"].clone();
    object["metadata"]["resourceVersion"] = "4".into();
    let written = Object::Sandbox(serde_json::from_value(object).unwrap());
    let outcome = Outcome::Done(Some(Box::new(written)));
    index.on_outcome(&write.receipt, outcome, at(1));
    assert_eq!(status_writes(&settle(&mut index, at(1))), []);

    index.apply_kept(&key("svc"), service(golden(), 5), at(2));
    let status = status_of(&settle(&mut index, at(2)));
    assert_eq!(status["service"], "svc");
}

#[test]
fn a_name_in_dns_that_is_not_the_services_is_put_right() {
    let mut object = suspended();
    object["status"]["service"] = "svc".into();
    for (said, right) in [
        ("svc.n.svc.cluster.local", true),
        ("svc.n.svc.other.local", false),
    ] {
        object["status"]["serviceFQDN"] = said.into();
        let (_, effects) = begin(Some(golden()), object.clone());
        assert_eq!(status_writes(&effects).is_empty(), right, "{said}");
    }
}
