//! What our parts may do, held against what they did. This comes after all that is run on a cluster: its audit log has every
//! request of theirs since it was started.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use hearth_tests::audit::Request;
use hearth_tests::cluster::Cluster;
use hearth_tests::rights::{Right, granted};
use k8s_openapi::jiff::Timestamp;

/// Rights that the suites do not use: how the resource ends, the verb, and why it is granted all the same. Each is so
/// marked in docs/security.md.
const NOT_IN_THE_SUITES: [(&str, &str, &str); 2] = [
    (
        "/finalizers",
        "update",
        "the admission plugin OwnerReferencesPermissionEnforcement asks for it, and is off by default",
    ),
    (
        "sandboxnodes",
        "get",
        "a node reads its own when containerd does not come up, and when its Sandboxes have vanished",
    ),
];

fn excused(right: &Right) -> bool {
    NOT_IN_THE_SUITES
        .iter()
        .any(|(resource, verb, _)| right.resource.ends_with(resource) && right.verb == *verb)
}

#[tokio::test]
async fn rights_are_those_that_are_used() -> Result<()> {
    let cluster = Cluster::of_environment()?;
    // The log outlives a cluster, so there may be requests of an earlier one in it.
    let made = fs::metadata(cluster.dir().join("instance.json"))?.modified()?;
    let made = Timestamp::try_from(made).context("an odd time of instance.json")?;
    let requests: Vec<Request> = cluster.audit_log().all()?;
    let requests: Vec<_> = requests
        .into_iter()
        .filter(|request| request.is_ours() && request.request_received_timestamp > made)
        .collect();
    ensure!(
        requests.len() > 1000,
        "only {} requests: run this after the suites",
        requests.len()
    );
    let rights = granted(&cluster.client().await?).await?;
    // An API server that was started just now refuses what is granted until it has read the roles.
    let granted = |request: &Request| rights.iter().any(|right| right.covers(request));
    let refused: BTreeSet<String> = requests
        .iter()
        .filter(|request| request.was_forbidden() && !granted(request))
        .map(Request::title)
        .collect();
    let mut unused = Vec::new();
    println!("used by the suites, of {} requests:", requests.len());
    for right in &rights {
        let count = requests
            .iter()
            .filter(|request| right.covers(request))
            .count();
        println!("{count:>8}  {right}");
        if count == 0 && !excused(right) {
            unused.push(right.to_string());
        }
    }
    ensure!(
        refused.is_empty(),
        "the API server has refused what our parts wanted:\n  {}",
        refused.into_iter().collect::<Vec<_>>().join("\n  ")
    );
    ensure!(
        unused.is_empty(),
        "granted, and used by nobody:\n  {}",
        unused.join("\n  ")
    );
    Ok(())
}
