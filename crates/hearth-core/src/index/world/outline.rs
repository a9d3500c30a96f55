//! What there is, to be compared with what there is after another run.

use serde_json::Value;

use super::World;
use super::api::{FOREIGN, TOUCHED, is_member, owners, uid_of};
use super::kinds::{Kind, key_of};
use crate::ids::Key;
use crate::names::name_hash;

/// What all UIDs begin with, and how long they are.
const UID: (&str, usize) = ("00000000-0000-4000-8000-", 36);

impl World {
    /// All objects and pods in full, but for names, UIDs, versions, times and nodes.
    pub(in crate::index) fn picture(&self) -> Vec<String> {
        let stand_ins = self.stand_ins();
        let mut lines = Vec::new();
        for (kind, object) in self.api.all() {
            let mut object = object.clone();
            let generation = object["metadata"]["generation"].clone();
            strip(&mut object, &generation);
            lines.push(format!("{kind:?} {object}"));
        }
        for node in self.nodes.values() {
            let pods = node.outline().into_iter();
            lines.extend(pods.map(|pod| format!("pod {pod}")));
            let directories = node.directories().iter();
            lines.extend(directories.map(|directory| format!("directory {directory}")));
        }
        for line in &mut lines {
            for (what, stand_in) in &stand_ins {
                if line.contains(what.as_str()) {
                    *line = line.replace(what.as_str(), stand_in);
                }
            }
            *line = without_uids(line);
        }
        lines.sort();
        lines
    }

    /// What stands for the names that another run would choose otherwise; the longest first, for some are parts of others.
    fn stand_ins(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (kind, object) in self.api.all() {
            let name = key_of(object).name;
            let known_as = match kind {
                // They end with a hash of the Sandbox's UID.
                Kind::Slice => "a slice",
                Kind::Pv => "a volume",
                Kind::Sandbox if name.starts_with("pool-") => "a member",
                _ => &name,
            };
            let known_as = known_as.to_owned();
            all.push((uid_of(object), format!("<{kind:?} {known_as}>")));
            if kind == Kind::Sandbox {
                let hash = format!("<hash of {known_as}>");
                all.push((name_hash(&name), hash));
            }
            if known_as != name {
                all.push((name, format!("<{known_as}>")));
            }
        }
        all.sort_by_key(|(what, _)| std::cmp::Reverse(what.len()));
        all
    }

    /// What users see, whichever way it came about.
    pub(in crate::index) fn gist(&self) -> Vec<String> {
        let ready = |object: &Value| {
            let conditions = object["status"]["conditions"].as_array();
            let ready = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
            let ready = ready.cloned().unwrap_or_default();
            format!("{} {}", ready["status"], ready["reason"])
        };
        let mut lines = Vec::new();
        for claim in self.api.of_kind(Kind::Claim) {
            lines.push(format!("claim {} {}", key_of(claim).name, ready(claim)));
        }
        for sandbox in self.api.of_kind(Kind::Sandbox) {
            let name = key_of(sandbox).name;
            let image = &sandbox["spec"]["podTemplate"]["spec"]["containers"][0]["image"];
            if is_member(sandbox) {
                lines.push(format!("member {image} {}", ready(sandbox)));
            } else if sandbox["metadata"]["annotations"][FOREIGN].is_string() {
                let service = self.api.get(Kind::Service, &Key::new("n", name.as_str()));
                let owner = service.and_then(|service| owners(service).next());
                let is_own = owner.is_some_and(|owner| owner["name"] == name.as_str());
                lines.push(format!("box {name} {} {is_own}", ready(sandbox)));
            }
        }
        for policy in self.api.of_kind(Kind::Policy) {
            lines.push(format!("policy {}", policy["spec"]));
        }
        for pool in self.api.of_kind(Kind::Pool) {
            let status = &pool["status"];
            let (replicas, ready) = (&status["replicas"], &status["readyReplicas"]);
            lines.push(format!("pool {replicas} {ready}"));
        }
        lines.sort();
        lines
    }
}

/// Takes away what is another in each run, and of generations leaves whether they are the newest.
fn strip(value: &mut Value, generation: &Value) {
    match value {
        Value::Object(fields) => {
            for gone in [
                "resourceVersion",
                "creationTimestamp",
                "lastTransitionTime",
                "generation",
                TOUCHED,
            ] {
                fields.remove(gone);
            }
            // Only what was touched may have annotations for that alone.
            if fields.get("annotations").is_some_and(is_only_touched) {
                fields.remove("annotations");
            }
            if let Some(observed) = fields.get_mut("observedGeneration") {
                *observed = (*observed == *generation).into();
            }
            fields
                .values_mut()
                .for_each(|value| strip(value, generation));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, generation)),
        Value::String(text) if matches!(text.as_str(), "n0" | "n1") => "a node".clone_into(text),
        _ => {}
    }
}

fn is_only_touched(annotations: &Value) -> bool {
    let all = annotations.as_object();
    all.is_some_and(|all| all.keys().all(|key| key == TOUCHED))
}

/// What is left of UIDs is of what is gone.
fn without_uids(line: &str) -> String {
    let (begin, length) = UID;
    let mut parts = line.split(begin);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        whole.push_str("<gone>");
        whole.push_str(&part[length - begin.len()..]);
    }
    whole
}
