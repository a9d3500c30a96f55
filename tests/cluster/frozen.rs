//! Pool members are frozen until they are claimed, and nobody else's claim wakes them: by the kernel's own word.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::Tier;
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{Claimed, members, pod_uid, ready};
use kube::ResourceExt as _;

/// How many claims, one after the other.
const CLAIMS: usize = 100;
/// Members of the pool.
const MEMBERS: usize = 8;
/// How many claims are held at a time.
const HELD: usize = 5;

#[test]
fn a_hundred_claims_in_a_row_each_wake_their_own_sandbox_and_no_other() {
    scene::run(Duration::from_secs(240), async |scene| {
        scene.stocked_pool("pool", MEMBERS).await?;
        let mut held: VecDeque<Claimed> = VecDeque::new();
        // Their adoption trails: for a moment they still look like members.
        let mut given = BTreeSet::new();
        for number in 0..CLAIMS {
            let before = frozen_members(scene, &given).await?;
            check_frozen(scene, &before, None)
                .await
                .with_context(|| format!("before claim {number}"))?;

            let claimed = scene
                .claim(&format!("claim-{number}"), "pool", COLD)
                .await?;
            ensure!(
                before.contains_key(&claimed.sandbox),
                "{} was not a frozen member before",
                claimed.sandbox
            );
            check_frozen(scene, &before, Some(&claimed.sandbox))
                .await
                .with_context(|| format!("after claim {number}"))?;
            scene.check_answers(&claimed).await?;

            given.insert(claimed.sandbox.clone());
            held.push_back(claimed);
            if held.len() > HELD
                && let Some(oldest) = held.pop_front()
            {
                // Still the same one, after others have come and gone.
                scene.check_answers(&oldest).await?;
                scene.release(&oldest).await?;
            }
        }
        for claimed in held {
            scene.check_answers(&claimed).await?;
        }
        Ok(())
    });
}

#[test]
pub(crate) fn a_frozen_member_does_not_answer_until_it_is_claimed() {
    scene::run(crate::LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let members = scene.until_stocked("pool", 1).await?;
        let member = members.first().context("the pool is empty")?;
        let status = member.status.clone().unwrap_or_default();
        let ip = status
            .pod_ips
            .first()
            .context("the member has no address")?;
        let early = hearth_tests::http::get(
            ip,
            hearth_tests::fixtures::PORT,
            "/",
            Duration::from_millis(500),
        )
        .await;
        ensure!(early.is_err(), "a frozen member answers {early:?}");
        let claimed = scene.claim("mine", "pool", AWAY).await?;
        ensure!(
            claimed.sandbox == member.name_any(),
            "another sandbox was claimed"
        );
        scene.check_answers(&claimed).await
    });
}

/// The pods of the members that say they are frozen, without those that were `given` to a claim, by name of the Sandbox;
/// waits until most of the pool is.
async fn frozen_members(
    scene: &Scene,
    given: &BTreeSet<String>,
) -> Result<BTreeMap<String, String>> {
    scene
        .sandboxes
        .until("members are frozen", COLD, |all| {
            let mut frozen = BTreeMap::new();
            for member in members(all, "pool") {
                if given.contains(&member.name_any()) {
                    continue;
                }
                let tier = member
                    .status
                    .as_ref()
                    .and_then(|status| status.node.as_ref()?.tier);
                if tier == Some(Tier::Frozen) && ready(&member).is_ok() {
                    frozen.insert(
                        member.name_any(),
                        pod_uid(&member).map_err(|error| error.to_string())?,
                    );
                }
            }
            if frozen.len() * 2 > MEMBERS {
                Ok(frozen)
            } else {
                Err(format!("only {} are", frozen.len()))
            }
        })
        .await
}

/// The kernel says `frozen 1` for all of `pods` except `awake`, and `frozen 0` for that one.
async fn check_frozen(
    scene: &Scene,
    pods: &BTreeMap<String, String>,
    awake: Option<&str>,
) -> Result<()> {
    for (name, uid) in pods {
        let frozen = scene.is_frozen(uid).await?;
        let expect = awake != Some(name.as_str());
        ensure!(
            frozen == expect,
            "the kernel says frozen={frozen} of {name}, expected {expect}"
        );
    }
    Ok(())
}
