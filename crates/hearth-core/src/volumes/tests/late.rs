//! Answers to writes that come when the watches have shown more already.

use serde_json::{Value, json};

use crate::effects::{Intent, Object, Outcome, Subject};
use crate::ids::Key;
use crate::index::testing::{at, leader, settle, writes};
use crate::volumes::{CLAIM_FINALIZER, Pv, Pvc, VOLUME_FINALIZER};

fn pvc(version: u64, finalizers: &[&str]) -> Pvc {
    let object = json!({
        "metadata": {
            "namespace": "n", "name": "data-c", "uid": "u", "resourceVersion": version.to_string(),
            "deletionTimestamp": "2027-01-15T09:00:00Z", "finalizers": finalizers,
        },
        "spec": {},
    });
    Pvc::of(serde_json::from_value(object).unwrap())
}

fn pv(version: u64, finalizers: &[&str]) -> Pv {
    released(version, finalizers, json!("2027-01-15T09:00:00Z"))
}

/// A volume whose claim is gone, and which is deleted since then or, by null, is not.
fn released(version: u64, finalizers: &[&str], deleted: Value) -> Pv {
    let metadata = json!({
        "name": "v", "uid": "u", "resourceVersion": version.to_string(),
        "deletionTimestamp": deleted, "finalizers": finalizers,
        "annotations": {"pv.kubernetes.io/provisioned-by": "hearth.dev/local", "hearth.dev/node-name": "gone"},
    });
    let spec = json!({"persistentVolumeReclaimPolicy": "Delete", "local": {"path": "/v"}});
    let object = json!({"metadata": metadata, "spec": spec, "status": {"phase": "Released"}});
    Pv::of(serde_json::from_value(object).unwrap())
}

#[test]
fn what_has_gone_before_the_answer_to_its_last_write_stays_gone() {
    let mut index = leader();
    let key = Key::new("n", "data-c");
    index.apply_pvc(key.clone(), pvc(1, &[CLAIM_FINALIZER]), at(0));
    index.apply_pv(pv(1, &[VOLUME_FINALIZER]), at(0));
    let all = writes(settle(&mut index, at(0)));
    assert_eq!(all.len(), 2, "both are let go: {all:?}");
    index.delete_pvc(&key, "u", at(10));
    index.delete_pv("v", "u", at(10));
    for write in &all {
        let object = match &write.receipt.subject {
            Subject::VolumeClaim(key) => Object::VolumeClaim(key.clone(), pvc(2, &[])),
            _ => Object::Volume(pv(2, &[])),
        };
        let done = Outcome::Done(Some(Box::new(object)));
        index.on_outcome(&write.receipt, done, at(20));
    }
    assert!(index.volumes.pvcs.is_empty(), "{:?}", index.volumes.pvcs);
    assert!(index.volumes.pvs.is_empty(), "{:?}", index.volumes.pvs);
}

#[test]
fn a_volume_whose_deletion_is_confirmed_is_not_deleted_again_before_the_watch_shows_it() {
    for outcome in [Outcome::Done(None), Outcome::NotFound] {
        let mut index = leader();
        let volume = |version| released(version, &[VOLUME_FINALIZER], Value::Null);
        index.apply_pv(volume(1), at(0));
        let all = writes(settle(&mut index, at(0)));
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].receipt.intent, Intent::VolumeDelete);
        index.on_outcome(&all[0].receipt, outcome, at(10));
        assert_eq!(writes(settle(&mut index, at(10))), []);
        // It is there all the same: what was deleted was another state of it.
        index.apply_pv(volume(2), at(20));
        assert_eq!(writes(settle(&mut index, at(20))).len(), 1);
    }
}
