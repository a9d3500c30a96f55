//! Where the time on the node went, as the nodes themselves report it in `Sandbox.status.node.phases`.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use hearth_api::constants::{SANDBOX_API_VERSION, label};
use serde::Deserialize;

use crate::api::{Connections, Object, fetch};
use crate::stats::Summary;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    node: Option<Node>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    phases: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
struct List {
    items: Vec<Object<Status>>,
}

/// Phases of `sandboxes`. Other implementations report none; then, and when they cannot be read, the map is empty.
pub(crate) async fn collect(
    connections: &Connections,
    namespace: &str,
    sandboxes: &HashSet<&str>,
) -> BTreeMap<String, Summary> {
    let selector = label::CLAIM_UID.replace('/', "%2F");
    let path = format!(
        "/apis/{SANDBOX_API_VERSION}/namespaces/{namespace}/sandboxes?labelSelector={selector}"
    );
    match fetch::<List>(connections.next(), &path, LIMIT).await {
        Ok(list) => summarise(&list.items, sandboxes),
        Err(_) => BTreeMap::new(),
    }
}

fn summarise(items: &[Object<Status>], sandboxes: &HashSet<&str>) -> BTreeMap<String, Summary> {
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let ours = items
        .iter()
        .filter(|item| sandboxes.contains(item.metadata.name.as_str()));
    for node in ours.filter_map(|item| item.status.as_ref()?.node.as_ref()) {
        for (phase, millis) in &node.phases {
            times.entry(phase.clone()).or_default().push(*millis);
        }
    }
    times
        .into_iter()
        .filter_map(|(phase, times)| Some((phase, Summary::of(times)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sandboxes_of_the_run_count() {
        let list: List = serde_json::from_str(
            r#"{"items":[
                {"metadata":{"name":"a"},"status":{"node":{"tier":"Running","phases":{"bind":1.0,"thaw":3.0}}}},
                {"metadata":{"name":"b"},"status":{"node":{"phases":{"bind":2.0}}}},
                {"metadata":{"name":"other"},"status":{"node":{"phases":{"bind":9.0}}}},
                {"metadata":{"name":"c"},"status":{}}]}"#,
        )
        .unwrap();
        let phases = summarise(&list.items, &HashSet::from(["a", "b", "c"]));
        assert_eq!(phases.len(), 2);
        assert_eq!((phases["bind"].count, phases["bind"].max), (2, 2.0));
        assert_eq!((phases["thaw"].count, phases["thaw"].p50), (1, 3.0));
    }
}
