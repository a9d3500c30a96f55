//! Sandboxes that were a pool's and have lost their controller.

use super::*;

/// What is done about a Sandbox when there is a pool of one: writes but for the pool's status and what its template gets,
/// and requests to nodes.
fn done_about(sandbox: &Value) -> (Vec<Write>, Vec<NodeRequest>) {
    let mut index = with_node();
    index.apply_sandbox(created(sandbox, 100), at(0));
    index.member_event(&n1(), reported("pool-a", Phase::Frozen, None), false, at(0));
    index.apply_pool(pool("pool", 1, 2), at(0));
    let effects = settle(&mut index, at(0));
    let asked = asks(&effects);
    let mut written = writes(effects);
    written.retain(|write| {
        !matches!(
            write.receipt.intent,
            Intent::PoolStatus | Intent::TemplateLabel | Intent::NetworkPolicy
        )
    });
    (written, asked)
}

fn orphan() -> Value {
    let mut object = a_member();
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("ownerReferences");
    object
}

fn the_pool() -> Value {
    json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxWarmPool", "name": "pool",
        "uid": "uid-pool", "controller": true, "blockOwnerDeletion": true,
    })
}

#[test]
fn one_that_is_as_the_template_says_is_taken_back_and_counts_before_it_is() {
    let mut object = orphan();
    let labels = object["metadata"]["labels"].as_object_mut().unwrap();
    labels.remove("agents.x-k8s.io/launch-type");
    // Its content has not changed, whatever the labels say.
    labels.insert("agents.x-k8s.io/sandbox-template-hash".into(), "x".into());
    let (written, asked) = done_about(&object);
    assert_eq!(asked, []);
    let bodies: Vec<_> = written.iter().map(|write| &write.body).collect();
    let expect = Body::Operations(json!([
        {"op": "test", "path": "/metadata/uid", "value": "uid-pool-a"},
        {"op": "test", "path": "/metadata/ownerReferences", "value": null},
        {"op": "add", "path": "/metadata/ownerReferences", "value": [the_pool()]},
        {"op": "add", "path": "/metadata/labels/agents.x-k8s.io~1launch-type", "value": "warm"},
    ]));
    assert_eq!(bodies, [&expect], "and no other one is made");
}

#[test]
fn owners_that_do_not_control_it_stay_behind_the_pool() {
    let mut object = orphan();
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u"});
    object["metadata"]["ownerReferences"] = json!([other]);
    let (written, _) = done_about(&object);
    let Body::Operations(operations) = &written[0].body else {
        panic!("{written:?}")
    };
    // A claim that adopts it tests that the first owner is the pool.
    let expect = json!({"op": "add", "path": "/metadata/ownerReferences/0", "value": the_pool()});
    assert_eq!(operations[1], expect);
}

#[test]
fn one_that_is_not_as_the_template_says_goes() {
    let mut other_spec = orphan();
    other_spec["spec"]["podTemplate"]["spec"]["containers"][0]["image"] = "j".into();
    let mut other_template = orphan();
    let label = "agents.x-k8s.io/sandbox-template-ref-hash";
    other_template["metadata"]["labels"][label] = "00000000".into();
    for object in [other_spec, other_template] {
        let (written, asked) = done_about(&object);
        assert!(
            matches!(&asked[..], [NodeRequest::Retire { .. }]),
            "{asked:?}"
        );
        assert_eq!(written, [], "it counts until it is gone");
    }
}

#[test]
fn what_is_not_the_pools_is_left_alone() {
    let changed = |change: fn(&mut Value)| {
        let mut object = orphan();
        change(&mut object["metadata"]);
        object
    };
    for (what, object) in [
        (
            "controlled by another",
            changed(|metadata| {
                let other = json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u", "controller": true});
                metadata["ownerReferences"] = json!([other]);
            }),
        ),
        (
            "a claim's once",
            changed(|metadata| metadata["labels"]["agents.x-k8s.io/claim-uid"] = "u".into()),
        ),
        (
            "of a pool that is not there",
            changed(|metadata| {
                metadata["labels"]["agents.x-k8s.io/warm-pool-sandbox"] = "x".into()
            }),
        ),
        (
            "of another name",
            changed(|metadata| metadata["name"] = "other-a".into()),
        ),
        (
            "of another namespace",
            changed(|metadata| metadata["namespace"] = "other".into()),
        ),
    ] {
        let (written, asked) = done_about(&object);
        let intents: Vec<_> = written.iter().map(|write| write.receipt.intent).collect();
        assert_eq!(intents, [Intent::MemberCreate], "{what}: the pool's own");
        assert_eq!(asked, [], "{what}");
    }
}

#[test]
fn a_member_gets_back_the_label_that_it_was_launched_warm() {
    let mut object = a_member();
    let labels = object["metadata"]["labels"].as_object_mut().unwrap();
    labels.remove("agents.x-k8s.io/launch-type");
    let (written, asked) = done_about(&object);
    assert_eq!(asked, []);
    let bodies: Vec<_> = written.iter().map(|write| &write.body).collect();
    let expect = Body::Operations(json!([
        {"op": "test", "path": "/metadata/uid", "value": "uid-pool-a"},
        {"op": "test", "path": "/metadata/ownerReferences/0/uid", "value": "uid-pool"},
        {"op": "add", "path": "/metadata/labels/agents.x-k8s.io~1launch-type", "value": "warm"},
    ]));
    assert_eq!(bodies, [&expect]);
}
