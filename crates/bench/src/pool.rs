//! Waiting for a pool to be whole: its status says so, and so do its members. The status alone may be that of before
//! the run, for a controller is free to write it late.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::time::timeout;

use crate::api::{Change, Condition, Connections, Object, Watch};

/// A pool that is whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    pub(crate) replicas: usize,
    /// How long it took.
    pub(crate) waited: Duration,
}

#[derive(Debug, Deserialize)]
struct PoolSpec {
    replicas: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PoolStatus {
    replicas: usize,
    ready_replicas: usize,
    selector: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MemberStatus {
    conditions: Vec<Condition>,
}

type Pool = Object<PoolStatus, PoolSpec>;
type Member = Object<MemberStatus>;

/// Waits until pool `name` has as many ready members as it should.
///
/// # Errors
/// When it does not exist, or is not whole within `limit`.
pub(crate) async fn wait_whole(
    connections: &Connections,
    namespace: &str,
    name: &str,
    limit: Duration,
) -> Result<Whole> {
    let started = Instant::now();
    let wait = async {
        let (replicas, selector) = wait_status(connections, namespace, name).await?;
        wait_members(connections, namespace, &selector, replicas).await?;
        Ok(replicas)
    };
    let replicas = timeout(limit, wait)
        .await
        .map_err(|_| anyhow::anyhow!("pool {namespace}/{name} is not whole after {limit:?}"))
        .flatten()?;
    Ok(Whole {
        replicas,
        waited: started.elapsed(),
    })
}

/// Waits until the status of pool `name` counts exactly so many members, all of them ready. Cheaper than
/// [`wait_whole`] for pools of thousands, and as good for one whose size was just changed: no earlier status says so.
///
/// # Errors
/// When it does not exist, or that does not happen within `limit`.
pub(crate) async fn wait_counted(
    connections: &Connections,
    namespace: &str,
    name: &str,
    members: usize,
    limit: Duration,
) -> Result<()> {
    let counts = |pool: &Pool| {
        let status = pool.status.as_ref()?;
        let counted = (status.replicas, status.ready_replicas);
        (counted == (members, members)).then_some(())
    };
    let wait = wait_pool(connections, namespace, name, counts);
    timeout(limit, wait)
        .await
        .map_err(|_| {
            anyhow::anyhow!(
                "pool {namespace}/{name} has not {members} ready members after {limit:?}"
            )
        })
        .flatten()
}

async fn wait_status(
    connections: &Connections,
    namespace: &str,
    name: &str,
) -> Result<(usize, String)> {
    wait_pool(connections, namespace, name, whole_by_status).await
}

/// Waits until `is` gives a value for the pool.
async fn wait_pool<T>(
    connections: &Connections,
    namespace: &str,
    name: &str,
    is: impl Fn(&Pool) -> Option<T>,
) -> Result<T> {
    let path = format!(
        "/apis/{}/namespaces/{namespace}/sandboxwarmpools",
        hearth_api::constants::EXTENSIONS_API_VERSION
    );
    let query = format!("fieldSelector=metadata.name%3D{name}");
    let (pools, mut watch) =
        Watch::<PoolStatus, PoolSpec>::start(connections.separate().await?, &path, &query).await?;
    let mut pool: Pool = pools
        .into_iter()
        .next()
        .with_context(|| format!("there is no pool {namespace}/{name}"))?;
    loop {
        if let Some(value) = is(&pool) {
            return Ok(value);
        }
        let event = watch.next().await?;
        if event.change == Change::Deleted {
            bail!("pool {namespace}/{name} was deleted");
        }
        pool = event.object;
    }
}

/// Members wanted and their selector, when the status says that all of them are ready.
fn whole_by_status(pool: &Pool) -> Option<(usize, String)> {
    let replicas = pool.spec.as_ref()?.replicas.unwrap_or(1);
    let status = pool.status.as_ref()?;
    (status.ready_replicas >= replicas && !status.selector.is_empty())
        .then(|| (replicas, status.selector.clone()))
}

async fn wait_members(
    connections: &Connections,
    namespace: &str,
    selector: &str,
    replicas: usize,
) -> Result<()> {
    let path = format!(
        "/apis/{}/namespaces/{namespace}/sandboxes",
        hearth_api::constants::SANDBOX_API_VERSION
    );
    let query = format!(
        "labelSelector={}",
        selector.replace('=', "%3D").replace('/', "%2F")
    );
    let (members, mut watch) =
        Watch::<MemberStatus>::start(connections.separate().await?, &path, &query).await?;
    let mut ready: HashSet<String> = members
        .into_iter()
        .filter(can_be_claimed)
        .map(|member| member.metadata.name)
        .collect();
    while ready.len() < replicas {
        // A member that is claimed loses the label and so comes as deleted.
        let event = watch.next().await?;
        if event.change != Change::Deleted && can_be_claimed(&event.object) {
            ready.insert(event.object.metadata.name);
        } else {
            ready.remove(&event.object.metadata.name);
        }
    }
    Ok(())
}

fn can_be_claimed(member: &Member) -> bool {
    let conditions = member
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    member.metadata.deletion_timestamp.is_none()
        && Condition::ready(conditions).is_some_and(Condition::holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_whole_when_its_status_covers_its_spec() {
        let check = |text: &str, expect: Option<usize>| {
            let pool: Pool = serde_json::from_str(text).unwrap();
            assert_eq!(
                whole_by_status(&pool).map(|(replicas, _)| replicas),
                expect,
                "{text}"
            );
        };
        check(
            r#"{"spec":{"replicas":2},"status":{"readyReplicas":2,"selector":"a=b"}}"#,
            Some(2),
        );
        check(
            r#"{"spec":{"replicas":2},"status":{"readyReplicas":3,"selector":"a=b"}}"#,
            Some(2),
        );
        check(
            r#"{"spec":{"replicas":2},"status":{"readyReplicas":1,"selector":"a=b"}}"#,
            None,
        );
        check(
            r#"{"spec":{},"status":{"readyReplicas":1,"selector":"a=b"}}"#,
            Some(1),
        );
        check(
            r#"{"spec":{"replicas":0},"status":{"readyReplicas":0}}"#,
            None,
        );
        check(r#"{"spec":{"replicas":0}}"#, None);
    }

    #[test]
    fn only_a_ready_member_that_stays_can_be_claimed() {
        let check = |text: &str, expect: bool| {
            assert_eq!(
                can_be_claimed(&serde_json::from_str(text).unwrap()),
                expect,
                "{text}"
            );
        };
        check(
            r#"{"metadata":{"name":"m"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#,
            true,
        );
        check(
            r#"{"metadata":{"name":"m"},"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#,
            false,
        );
        check(r#"{"metadata":{"name":"m"}}"#, false);
        check(
            r#"{"metadata":{"name":"m","deletionTimestamp":"2026-01-01T00:00:00Z"},
                "status":{"conditions":[{"type":"Ready","status":"True"}]}}"#,
            false,
        );
    }
}
