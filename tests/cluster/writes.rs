//! What a claim costs the API server, counted from its audit log.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_tests::audit::Request;
use hearth_tests::scene::{self, COLD, Scene, WARM};
use hearth_tests::tail::Mark;
use hearth_tests::wait::wait_for;

use crate::LIMIT;

/// Writes of our own service accounts before a claim is answered, the answer included.
const BEFORE_THE_ANSWER: usize = 2;
/// Writes of our own service accounts from the claim to its end, its replacement in the pool included.
const IN_ITS_LIFE: usize = 8;

#[test]
fn a_claim_costs_at_most_two_writes_before_its_answer_and_eight_in_its_life() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 2).await?;
        for number in 0..5 {
            until_quiet(scene).await?;
            let mark = scene.cluster.audit_log().mark()?;
            let name = format!("mine-{number}");
            let claimed = scene.claim(&name, "pool", WARM).await?;
            let answer = until_answer_is_logged(scene, mark, &name).await?;
            let before: Vec<_> = writes(scene, mark)?
                .into_iter()
                .filter(|write| {
                    write.request_received_timestamp <= answer.request_received_timestamp
                })
                .collect();
            ensure!(
                before.len() <= BEFORE_THE_ANSWER,
                "before the answer: {}",
                table(&before)
            );

            scene.release(&claimed).await?;
            scene.until_stocked("pool", 2).await?;
            until_quiet(scene).await?;
            let life = writes(scene, mark)?;
            println!(
                "before the answer: {}; in its life: {}",
                table(&before),
                table(&life)
            );
            ensure!(life.len() <= IN_ITS_LIFE, "in its life: {}", table(&life));
        }
        Ok(())
    });
}

#[test]
fn a_pool_at_rest_costs_no_writes() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 4).await?;
        scene.claim("mine", "pool", WARM).await?;
        scene.until_stocked("pool", 4).await?;
        until_quiet(scene).await?;
        let mark = scene.cluster.audit_log().mark()?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let writes = writes(scene, mark)?;
        ensure!(writes.is_empty(), "{}", table(&writes));
        Ok(())
    });
}

/// The writes of our own service accounts in the test's namespace.
fn writes(scene: &Scene, mark: Mark) -> Result<Vec<Request>> {
    let mut requests = scene.cluster.audit_log().since(mark)?;
    requests.retain(|request| {
        request.is_ours() && request.is_write() && request.namespace() == scene.namespace
    });
    Ok(requests)
}

/// The first write of the claim's status that was done.
async fn until_answer_is_logged(scene: &Scene, mark: Mark, claim: &str) -> Result<Request> {
    wait_for("the answer is in the audit log", WARM, async || {
        let writes = writes(scene, mark).map_err(|error| format!("{error:#}"))?;
        let answer = writes.iter().find(|write| {
            write.resource() == "sandboxclaims/status" && write.name() == claim && write.succeeded()
        });
        answer
            .cloned()
            .ok_or_else(|| format!("there is {}", table(&writes)))
    })
    .await
}

/// Waits until what trails has been written: nothing for a second.
async fn until_quiet(scene: &Scene) -> Result<()> {
    let quiet = async {
        loop {
            let mark = scene.cluster.audit_log().mark()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writes(scene, mark)?.is_empty() {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(COLD, quiet)
        .await
        .context("writes do not end")?
}

/// How many writes of each kind by each user.
fn table(writes: &[Request]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for write in writes {
        let user = write.user().rsplit(':').next().unwrap_or_default();
        let code = if write.succeeded() { "" } else { " (refused)" };
        *counts
            .entry(format!("{user} {} {}{code}", write.verb, write.resource()))
            .or_default() += 1;
    }
    let lines: Vec<_> = counts
        .iter()
        .map(|(what, count)| format!("{count} × {what}"))
        .collect();
    format!("{} writes: {}", writes.len(), lines.join(", "))
}
