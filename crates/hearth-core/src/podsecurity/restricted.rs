//! Level restricted: all but what hardened pods do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Violation;
use super::baseline::{forbidden_seccomp, must_not_add, seccomp_setters, unmasked_proc};
use super::pod::{Pod, Setters, items, name, named, plural, quoted, text, uses, violation};

/// Volumes that a pod may have.
pub(super) const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Volumes that have a name of their own in the message.
const OTHER_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub(super) fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let bad = pod.containers_that(|container| {
        container["securityContext"]["allowPrivilegeEscalation"] != false
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must set securityContext.allowPrivilegeEscalation=false",
        named(&bad)
    );
    violation("allowPrivilegeEscalation != false", detail)
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let of = |container: &Value, list: &str| {
        let names = items(&container["securityContext"]["capabilities"][list]).map(text);
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let added = |container: &Value| {
        let mut added = of(container, "add");
        added.retain(|name| name != "NET_BIND_SERVICE");
        added
    };
    let keeping =
        pod.containers_that(|container| of(container, "drop").iter().all(|name| name != "ALL"));
    let keeping = (!keeping.is_empty()).then(|| {
        format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeping)
        )
    });
    let adding = pod.containers_that(|container| !added(container).is_empty());
    let which: BTreeSet<_> = pod.containers().flat_map(added).collect();
    let adding = must_not_add(&adding, &which);
    let details: Vec<_> = keeping.into_iter().chain(adding).collect();
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

/// Other than at level baseline, users of its own do not help a pod here.
pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    unmasked_proc(pod)
}

pub(super) fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let (mut bad, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in pod.volumes() {
        let has = |kind: &&&str| !volume[**kind].is_null();
        let mut sources = volume.as_object().into_iter().flatten();
        // Without a source it is an emptyDir.
        let has_source = sources.any(|(field, value)| field != "name" && !value.is_null());
        if !has_source || VOLUMES.iter().any(|kind| has(&kind)) {
            continue;
        }
        bad.push(name(volume));
        kinds.insert(OTHER_VOLUMES.iter().find(has).copied().unwrap_or("unknown"));
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", bad.len()),
        quoted(&bad),
        uses(bad.len()),
        plural("restricted volume type", kinds.len()),
        quoted(kinds)
    );
    violation("restricted volume types", detail)
}

pub(super) fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_own_users() {
        return None;
    }
    let said = |owner: &Value| owner["securityContext"]["runAsNonRoot"].as_bool();
    let setters = Setters {
        pod: said(pod.spec) == Some(false),
        containers: pod.containers_that(|container| said(container) == Some(false)),
        ..Setters::default()
    };
    if let Some(who) = setters.named() {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return violation(REASON, detail);
    }
    if said(pod.spec) == Some(true) {
        return None;
    }
    let silent = pod.containers_that(|container| said(container).is_none());
    if silent.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.runAsNonRoot=true",
        named(&silent)
    );
    violation(REASON, detail)
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let setters = pod.setters("runAsUser", |user| {
        let root = user.as_i64() == Some(0);
        root.then(String::new).into_iter().collect()
    });
    let detail = format!("{} must not set runAsUser=0", setters.named()?);
    violation("runAsUser=0", detail)
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let setters = seccomp_setters(pod);
    if let Some(forbidden) = forbidden_seccomp(&setters) {
        return Some(forbidden);
    }
    let says = |owner: &Value| !owner["securityContext"]["seccompProfile"].is_null();
    if says(pod.spec) {
        return None;
    }
    let silent = pod.containers_that(|container| !says(container));
    if silent.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        named(&silent)
    );
    violation("seccompProfile", detail)
}
