//! Sandboxes with volumes, from their creation to the end of what they stored.

mod cluster;
mod late;

use cluster::{Cluster, Kind};
use hearth_api::constants::TEARDOWN_FINALIZER;
use serde_json::{Value, json};

use super::{Backing, CLAIM_FINALIZER, HostPathKind, Location, SELECTED_NODE};
use crate::effects::Place;
use crate::index::Phase;

fn template(class: &str) -> Value {
    json!({"metadata": {"name": "data", "labels": {"l": "v"}, "annotations": {"note": "x"}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": class,
    }})
}

fn at(volume: &str, backing: Backing) -> Place {
    Place::At(Location {
        volume: volume.to_owned(),
        backing,
    })
}

#[test]
fn a_sandbox_goes_to_its_node_once_its_volumes_are_there() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class("hearth-local", "hearth.dev/local", true);
    let uid = cluster.sandbox("box", json!([template("hearth-local")]), json!([]));
    cluster.settle();
    let pvc = cluster.get(Kind::Pvc, "data-box");
    let meta = &pvc["metadata"];
    assert_eq!(
        meta["labels"],
        json!({"agents.x-k8s.io/sandbox-name-hash": crate::names::name_hash("box"), "l": "v"})
    );
    assert_eq!(
        meta["annotations"],
        json!({"note": "x", SELECTED_NODE: "n1"})
    );
    assert_eq!(
        meta["ownerReferences"],
        json!([{"apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "name": "box", "uid": uid,
                "controller": true, "blockOwnerDeletion": true}])
    );
    let volume = format!("pvc-{}", meta["uid"].as_str().unwrap());
    assert_eq!(pvc["spec"]["volumeName"], volume.as_str());
    let pv = cluster.get(Kind::Pv, &volume);
    assert_eq!(pv["spec"]["capacity"]["storage"], "1Mi");
    assert_eq!(pv["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(pv["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    assert_eq!(pv["spec"]["claimRef"]["uid"], meta["uid"]);
    assert_eq!(
        pv["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"],
        json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}])
    );
    assert_eq!(pv["spec"]["local"]["path"], format!("/volumes/{volume}"));
    let sandbox = cluster.get(Kind::Sandbox, "box");
    assert_eq!(sandbox["metadata"]["labels"]["hearth.dev/node"], "n1");
    assert_eq!(
        sandbox["metadata"]["finalizers"],
        json!([TEARDOWN_FINALIZER])
    );
    assert_eq!(sandbox["status"], Value::Null, "nothing was wrong with it");
    assert_eq!(cluster.told("n1", "data-box"), at(&volume, Backing::Ours));
}

#[test]
fn a_volume_of_an_administrator_is_kept_for_the_claim_it_suits_best() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.class("manual", super::NO_PROVISIONER, true);
    cluster.local_pv("large", "manual", "9Gi", "n2");
    cluster.local_pv("small", "manual", "1Ki", "n1");
    cluster.local_pv("fits", "manual", "2Mi", "n2");
    cluster.local_pv("other", "else", "1Mi", "n1");
    cluster.sandbox("a", json!([template("manual")]), json!([]));
    cluster.settle();
    let volume = |cluster: &Cluster, name: &str| {
        cluster.get(Kind::Pvc, &format!("data-{name}"))["spec"]["volumeName"].clone()
    };
    assert_eq!(
        (cluster.node_of("a"), volume(&cluster, "a")),
        (json!("n2"), json!("fits"))
    );
    assert_eq!(
        cluster.told("n2", "data-a"),
        at("fits", Backing::Local("/disks/fits".into()))
    );
    // The next one gets the other, and a third one none.
    cluster.sandbox("b", json!([template("manual")]), json!([]));
    cluster.sandbox("c", json!([template("manual")]), json!([]));
    cluster.settle();
    assert_eq!(
        (volume(&cluster, "b"), volume(&cluster, "c")),
        (json!("large"), Value::Null)
    );
    assert_eq!(
        cluster.unschedulable("c"),
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
    );
    cluster.local_pv("late", "manual", "1Mi", "n1");
    cluster.settle();
    assert_eq!(cluster.node_of("c"), "n1");
}

#[test]
fn another_provisioner_is_told_the_node_and_waited_for() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class("local-path", "rancher.io/local-path", true);
    cluster.sandbox("box", json!([template("local-path")]), json!([]));
    cluster.settle();
    let pvc = cluster.get(Kind::Pvc, "data-box").clone();
    assert_eq!(pvc["metadata"]["annotations"][SELECTED_NODE], "n1");
    assert_eq!(cluster.node_of("box"), Value::Null);
    cluster.pass(2_000);
    assert_eq!(
        cluster.unschedulable("box"),
        "waiting for persistentvolumeclaim \"data-box\" to be bound on node \"n1\" by rancher.io/local-path"
    );
    cluster.pv("pv-1", json!({
        "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
        "claimRef": {"namespace": "n", "name": "data-box", "uid": pvc["metadata"]["uid"]},
        "hostPath": {"path": "/opt/pv-1", "type": "DirectoryOrCreate"},
    }));
    cluster.settle();
    assert_eq!(cluster.node_of("box"), "n1");
    let backing = Backing::HostPath("/opt/pv-1".into(), HostPathKind::DirectoryOrCreate);
    assert_eq!(cluster.told("n1", "data-box"), at("pv-1", backing));
}

#[test]
fn a_claim_that_cannot_be_used_says_why() {
    let claim = |change: Value| {
        let mut claim = json!({
            "metadata": {"namespace": "n", "name": "c"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
        });
        claim["spec"]
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        claim
    };
    let check = |claim: Option<Value>, expect: &str| {
        let mut cluster = Cluster::new(&["n1"]);
        cluster.class("now", "example.com/disk", false);
        cluster.class("hearth-local", "hearth.dev/local", true);
        cluster.pv("csi", json!({"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "v"}, "capacity": {"storage": "1Mi"}}));
        cluster.pv("tuned", json!({"local": {"path": "/d"}, "mountOptions": ["noatime"], "capacity": {"storage": "1Mi"}}));
        if let Some(claim) = claim {
            cluster.create(Kind::Pvc, claim);
        }
        let volume = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        cluster.sandbox("box", json!([]), volume);
        cluster.settle();
        cluster.pass(2_000);
        assert_eq!(cluster.unschedulable("box"), expect);
        assert_eq!(cluster.node_of("box"), Value::Null);
    };
    let none = "0/1 nodes are available: ";
    check(
        None,
        &format!("{none}persistentvolumeclaim \"c\" not found."),
    );
    let immediate = format!(
        "{none}pod has unbound immediate PersistentVolumeClaims. persistentvolumeclaim \"c\""
    );
    check(
        Some(claim(json!({"storageClassName": "now"}))),
        &format!("{immediate} of storageclass \"now\" is not bound."),
    );
    check(
        Some(claim(json!({"storageClassName": "manual"}))),
        &format!("{immediate}: storageclass.storage.k8s.io \"manual\" not found."),
    );
    check(
        Some(claim(json!({}))),
        &format!("{immediate} has no storageclass, and no volume was bound to it."),
    );
    check(
        Some(claim(
            json!({"volumeMode": "Block", "storageClassName": "hearth-local"}),
        )),
        &format!(
            "{none}persistentvolumeclaim \"c\" has volumeMode Block; sandboxes mount only file systems."
        ),
    );
    check(
        Some(claim(
            json!({"accessModes": ["ReadWriteMany"], "storageClassName": "hearth-local"}),
        )),
        "persistentvolumeclaim \"c\": accessModes may only be ReadWriteOnce and ReadWriteOncePod: a directory is on one node",
    );
    let bound = |volume: &str| {
        let mut claim = claim(json!({"volumeName": volume}));
        claim["status"] = json!({"phase": "Bound"});
        Some(claim)
    };
    check(
        bound("csi"),
        &format!(
            "{none}persistentvolume \"csi\" is served by the CSI driver ebs.csi.aws.com; sandboxes mount only local and \
             hostPath volumes."
        ),
    );
    check(
        bound("tuned"),
        &format!(
            "{none}persistentvolume \"tuned\" has mountOptions, which a bind mount does not take."
        ),
    );
    check(
        bound("gone"),
        &format!(
            "{none}persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"gone\"."
        ),
    );
}

#[test]
fn a_claim_of_somebody_else_is_not_taken() {
    let owner = |kind: &str| json!([{"apiVersion": "v1", "kind": kind, "name": "other", "uid": "u-x", "controller": true}]);
    let check = |metadata: Value, expect: Result<(), &str>| {
        let mut cluster = Cluster::new(&["n1"]);
        cluster.class("hearth-local", "hearth.dev/local", true);
        let mut claim = json!({"metadata": metadata, "spec": template("hearth-local")["spec"]});
        claim["metadata"]["namespace"] = "n".into();
        claim["metadata"]["name"] = "data-box".into();
        cluster.create(Kind::Pvc, claim);
        let uid = cluster.sandbox("box", json!([template("hearth-local")]), json!([]));
        cluster.settle();
        let claim = cluster.get(Kind::Pvc, "data-box");
        match expect {
            Ok(()) => {
                assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], uid.as_str());
                assert_eq!(cluster.node_of("box"), "n1");
            }
            Err(text) => {
                let ready = cluster.condition("box", "Ready");
                assert_eq!(
                    ready,
                    (
                        "False".into(),
                        "ReconcilerError".into(),
                        format!("Error seen: {text}")
                    )
                );
                assert_eq!(cluster.node_of("box"), Value::Null);
                // It has no pod, whatever becomes of its claim.
                cluster.set_mode("box", "Suspended");
                cluster.settle();
                let (status, reason, _) = cluster.condition("box", "Suspended");
                assert_eq!(
                    (status.as_str(), reason.as_str()),
                    ("True", "PodTerminated")
                );
                assert_eq!(cluster.condition("box", "Ready"), ready);
            }
        }
    };
    check(
        json!({"ownerReferences": owner("StatefulSet")}),
        Err("PVC \"data-box\" is owned by StatefulSet/other (UID: u-x), not by sandbox \"box\""),
    );
    check(
        json!({}),
        Err(
            "cannot adopt unowned PVC \"data-box\": missing required pool authorization label \
             (\"agents.x-k8s.io/adoptable\") or sandbox tracking label (\"agents.x-k8s.io/sandbox-name-hash\")",
        ),
    );
    check(
        json!({"labels": {"agents.x-k8s.io/adoptable": "true"}}),
        Ok(()),
    );
    let hash = crate::names::name_hash("box");
    check(
        json!({"labels": {"agents.x-k8s.io/sandbox-name-hash": hash}}),
        Ok(()),
    );
}

#[test]
fn a_claim_for_one_pod_is_used_by_one_sandbox_at_a_time() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class("hearth-local", "hearth.dev/local", true);
    cluster.create(Kind::Pvc, json!({"metadata": {"namespace": "n", "name": "c"}, "spec": {
        "accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "hearth-local",
    }}));
    let volume = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    cluster.sandbox("a", json!([]), volume.clone());
    cluster.settle();
    cluster.report("a", Phase::Running);
    cluster.sandbox("b", json!([]), volume);
    cluster.settle();
    assert_eq!(cluster.node_of("a"), "n1");
    assert_eq!(
        cluster.unschedulable("b"),
        "0/1 nodes are available: persistentvolumeclaim \"c\" has access mode ReadWriteOncePod and is in use by another \
         sandbox."
    );
    cluster.set_mode("a", "Suspended");
    cluster.settle();
    assert_eq!(cluster.node_of("b"), Value::Null, "its pod is still there");
    cluster.report("a", Phase::Suspended);
    cluster.settle();
    assert_eq!(cluster.node_of("b"), "n1");
}

#[test]
fn what_a_sandbox_stored_goes_after_its_pod() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class("hearth-local", "hearth.dev/local", true);
    cluster.sandbox("box", json!([template("hearth-local")]), json!([]));
    cluster.settle();
    cluster.report("box", Phase::Running);
    let volume = cluster.get(Kind::Pvc, "data-box")["spec"]["volumeName"]
        .as_str()
        .unwrap()
        .to_owned();
    // A claim that is deleted under its sandbox stays, and so does the sandbox that is deleted.
    cluster.delete(Kind::Pvc, "data-box");
    cluster.delete(Kind::Sandbox, "box");
    cluster.settle();
    assert!(cluster.exists(Kind::Sandbox, "box") && cluster.exists(Kind::Pvc, "data-box"));
    assert!(cluster.directories().contains(&volume));
    cluster.gone("box");
    cluster.settle();
    assert!(!cluster.exists(Kind::Sandbox, "box") && !cluster.exists(Kind::Pvc, "data-box"));
    assert!(
        !cluster.exists(Kind::Pv, &volume),
        "its reclaim policy is Delete"
    );
    assert!(
        cluster.directories().is_empty(),
        "and its directory was wiped before"
    );
    assert_eq!(cluster.told("n1", "data-box"), Place::NotWanted);
}

#[test]
fn a_volume_that_is_retained_is_never_wiped() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class_with("keep", "hearth.dev/local", true, "Retain");
    cluster.sandbox("box", json!([template("keep")]), json!([]));
    cluster.settle();
    let volume = cluster.get(Kind::Pvc, "data-box")["spec"]["volumeName"]
        .as_str()
        .unwrap()
        .to_owned();
    cluster.report("box", Phase::Running);
    cluster.delete(Kind::Sandbox, "box");
    cluster.gone("box");
    cluster.settle();
    assert!(!cluster.exists(Kind::Pvc, "data-box"));
    assert_eq!(
        cluster.get(Kind::Pv, &volume)["status"]["phase"],
        "Released"
    );
    cluster.delete(Kind::Pv, &volume);
    cluster.settle();
    assert!(!cluster.exists(Kind::Pv, &volume));
    assert!(
        cluster.directories().contains(&volume),
        "the data are an administrator's"
    );
}

#[test]
fn a_sandbox_that_is_deleted_waits_for_its_node_unless_that_is_gone_for_good() {
    let with_volume = |nodes: &[&str]| {
        let mut cluster = Cluster::new(nodes);
        cluster.class("hearth-local", "hearth.dev/local", true);
        cluster.sandbox("box", json!([template("hearth-local")]), json!([]));
        cluster
    };
    // Its node has not said a word of it: it may be about to.
    let mut cluster = with_volume(&["n1"]);
    cluster.settle();
    cluster.delete(Kind::Sandbox, "box");
    cluster.settle();
    assert!(cluster.exists(Kind::Sandbox, "box"));
    cluster.pass(31_000);
    assert!(!cluster.exists(Kind::Sandbox, "box"));
    // A node that does not answer may still run it.
    let mut cluster = with_volume(&["n1"]);
    cluster.settle();
    cluster.report("box", Phase::Running);
    cluster.disconnect("n1");
    cluster.delete(Kind::Sandbox, "box");
    cluster.pass(600_000);
    assert!(cluster.exists(Kind::Sandbox, "box"));
    cluster.lose_node("n1");
    cluster.settle();
    assert!(!cluster.exists(Kind::Sandbox, "box") && !cluster.exists(Kind::Pvc, "data-box"));
    // Without a node there is no pod.
    let mut cluster = with_volume(&[]);
    cluster.settle();
    cluster.delete(Kind::Sandbox, "box");
    cluster.settle();
    assert!(!cluster.exists(Kind::Sandbox, "box") && !cluster.exists(Kind::Pvc, "data-box"));
}

#[test]
fn a_sandbox_resumes_where_its_volume_is_or_not_at_all() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class("hearth-local", "hearth.dev/local", true);
    cluster.sandbox("box", json!([template("hearth-local")]), json!([]));
    cluster.settle();
    cluster.report("box", Phase::Running);
    cluster.set_mode("box", "Suspended");
    cluster.report("box", Phase::Suspended);
    cluster.say_suspended("box");
    cluster.settle();
    cluster.add_node("n2");
    cluster.set_mode("box", "Running");
    cluster.settle();
    assert_eq!(cluster.node_of("box"), "n1");
    cluster.set_mode("box", "Suspended");
    cluster.say_suspended("box");
    cluster.lose_node("n1");
    cluster.set_mode("box", "Running");
    cluster.settle();
    assert_eq!(
        cluster.unschedulable("box"),
        "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity."
    );
}

#[test]
fn a_volume_that_cannot_be_made_is_said_and_tried_again() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class("hearth-local", "hearth.dev/local", true);
    cluster.refuse_volumes("the disk has 5 bytes to spare, and 1048576 were asked for");
    cluster.sandbox("box", json!([template("hearth-local")]), json!([]));
    cluster.settle();
    assert_eq!(
        cluster.unschedulable("box"),
        "persistentvolumeclaim \"data-box\": the disk has 5 bytes to spare, and 1048576 were asked for"
    );
    assert_eq!(cluster.events(), ["ProvisioningFailed"], "once");
    cluster.pass(5_000);
    assert_eq!(cluster.events(), ["ProvisioningFailed"]);
    cluster.accept_volumes();
    cluster.pass(60_000);
    assert_eq!(cluster.node_of("box"), "n1");
}

#[test]
fn a_claim_that_the_api_server_refuses_is_said_and_tried_again() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class("hearth-local", "hearth.dev/local", true);
    let quota = "persistentvolumeclaims \"data-box\" is forbidden: exceeded quota";
    cluster.reject_claims(Some(quota));
    cluster.sandbox("box", json!([template("hearth-local")]), json!([]));
    cluster.settle();
    let (status, reason, message) = cluster.condition("box", "Ready");
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "ReconcilerError")
    );
    assert_eq!(message, format!("Error seen: {quota}"));
    cluster.reject_claims(None);
    cluster.pass(60_000);
    assert_eq!(cluster.node_of("box"), "n1");
}

#[test]
fn a_claim_that_people_made_is_kept_while_a_sandbox_uses_it_and_no_longer() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.class("hearth-local", "hearth.dev/local", true);
    cluster.create(Kind::Pvc, json!({"metadata": {"namespace": "n", "name": "c", "finalizers": ["theirs"]}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "hearth-local",
    }}));
    cluster.sandbox(
        "box",
        json!([]),
        json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
    );
    cluster.settle();
    let finalizers =
        |cluster: &Cluster| cluster.get(Kind::Pvc, "c")["metadata"]["finalizers"].clone();
    assert_eq!(finalizers(&cluster), json!(["theirs", CLAIM_FINALIZER]));
    cluster.report("box", Phase::Running);
    cluster.delete(Kind::Pvc, "c");
    cluster.settle();
    assert_eq!(finalizers(&cluster), json!(["theirs", CLAIM_FINALIZER]));
    cluster.set_mode("box", "Suspended");
    cluster.report("box", Phase::Suspended);
    cluster.settle();
    assert_eq!(finalizers(&cluster), json!(["theirs"]));
}

#[test]
fn a_new_leader_tells_nodes_where_volumes_are_and_goes_on_where_the_last_one_was() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.class("hearth-local", "hearth.dev/local", true);
    cluster.sandbox("box", json!([template("hearth-local")]), json!([]));
    // After each write the controller is another one.
    for _ in 0..12 {
        cluster.step_once();
        cluster.restart();
    }
    cluster.settle();
    assert_ne!(cluster.node_of("box"), Value::Null);
    assert_eq!(cluster.count(Kind::Pvc), 1);
    assert_eq!(cluster.count(Kind::Pv), 1);
    cluster.restart();
    cluster.settle();
    let node = cluster.node_of("box").as_str().unwrap().to_owned();
    assert!(matches!(cluster.told(&node, "data-box"), Place::At(_)));
}
