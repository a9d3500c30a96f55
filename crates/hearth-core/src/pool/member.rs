//! Making members.

use std::sync::Arc;

use hearth_api::Warmth;
use hearth_api::constants::{EXTENSIONS_API_VERSION, SANDBOX_API_VERSION, annotation, label};
use serde_json::{Map, Value, json};

use super::Template;
use crate::claim::blueprint::{assign, guard_volumes, has_volumes};
use crate::claim::metadata::{EVICTION_ANNOTATION, sandbox_annotations};
use crate::controller_ref::reference;
use crate::effects::{Body, Intent, Lane, Subject};
use crate::ids::{Key, NodeName};
use crate::index::{Index, PoolRecord, SandboxOp, WATCH_LAG};
use crate::names::name_hash;

/// Makes a member of the pool on `node`.
pub(super) fn create(
    index: &mut Index,
    pool: &Key,
    template: &Arc<Template>,
    node: Option<&NodeName>,
) {
    let name = index.suffixes.name(&pool.name);
    create_named(index, pool, template, node, &name);
}

/// Sends the creation of a member again whose outcome is unknown, under the same name.
pub(crate) fn create_again(index: &mut Index, id: u64) {
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    let pool = record.pool_uid().and_then(|uid| index.pool_by_uid(uid));
    let wanted = pool.is_some_and(|pool| {
        index
            .members_of(&pool.uid)
            .is_some_and(|m| m.active() <= pool.replicas)
    });
    let found = pool.and_then(|pool| Some((pool.key.clone(), index.template_of(pool)?)));
    let (key, node, retry) = (record.key.clone(), record.node.clone(), record.retry);
    let Some((pool, template)) = found.filter(|_| wanted) else {
        // Not wanted any more, but it may be there: it counts until the watch has had time to show it.
        let at = index.now.mono + WATCH_LAG;
        index.change_sandbox(id, |record| record.given_up_at = Some(at));
        index.wake(Subject::Sandbox(key), at);
        return;
    };
    index.drop_placeholder(&key);
    create_named(index, &pool, &template, node.as_ref(), &key.name);
    if let Some(id) = index.sandbox_id(&key) {
        index.change_sandbox(id, |record| record.retry = retry);
    }
}

fn create_named(
    index: &mut Index,
    pool: &Key,
    template: &Template,
    node: Option<&NodeName>,
    name: &str,
) {
    let Some(record) = index.pools.get(pool) else {
        return;
    };
    let uid = record.uid.clone();
    let mut object = object(record, template, name, index.settings.warm_pool_eviction);
    guard_volumes(&mut object);
    // Volumes are bound for a node before a Sandbox goes there.
    if let Some(node) = node.filter(|_| !has_volumes(&object)) {
        assign(&mut object, node);
    }
    let sandbox = Key::new(pool.namespace.clone(), name);
    index.expect_sandbox(&sandbox, &object);
    debug_assert!(
        index
            .sandbox(&sandbox)
            .is_some_and(|record| record.op == Some(SandboxOp::Creating))
    );
    index.write(
        Subject::Sandbox(sandbox),
        &uid,
        Intent::MemberCreate,
        Lane::Refill,
        Body::Create(object),
    );
}

fn object(pool: &PoolRecord, template: &Template, name: &str, evictable: bool) -> Value {
    let hashes = [
        (label::WARM_POOL, name_hash(&pool.key.name)),
        (label::TEMPLATE_REF_HASH, template.ref_hash.clone()),
        (label::TEMPLATE_HASH, template.blueprint_hash.clone()),
        (label::POD_TEMPLATE_HASH, template.pod_template_hash.clone()),
    ];
    let mut labels: Map<String, Value> = [
        (label::LAUNCH_TYPE.to_owned(), "warm".into()),
        (label::CREATED_BY.to_owned(), "controller".into()),
    ]
    .into_iter()
    .collect();
    let mut pod_metadata = template.pod_metadata.clone();
    for (key, hash) in hashes {
        labels.insert(key.to_owned(), hash.clone().into());
        pod_metadata.labels.insert(key.to_owned(), hash);
    }
    if evictable {
        pod_metadata
            .annotations
            .entry(EVICTION_ANNOTATION.to_owned())
            .or_insert_with(|| "true".to_owned());
    }
    let mut annotations = sandbox_annotations(template, name);
    annotations.insert(annotation::WARMTH.to_owned(), warmth(pool.warmth).into());
    json!({
        "apiVersion": SANDBOX_API_VERSION,
        "kind": "Sandbox",
        "metadata": {
            "name": name,
            "generateName": format!("{}-", pool.key.name),
            "namespace": pool.key.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner_reference(pool)],
        },
        "spec": template.sandbox_spec(&pod_metadata, &template.pod_spec, &template.volumes),
    })
}

/// The pool as the controller of its members.
pub(super) fn owner_reference(pool: &PoolRecord) -> Value {
    reference(
        EXTENSIONS_API_VERSION,
        "SandboxWarmPool",
        &pool.key.name,
        &pool.uid,
    )
}

pub(super) fn warmth(warmth: Warmth) -> &'static str {
    match warmth {
        Warmth::Frozen => "Frozen",
        Warmth::Running => "Running",
        Warmth::Sandbox => "Sandbox",
    }
}
