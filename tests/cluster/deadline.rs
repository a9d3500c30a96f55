//! `activeDeadlineSeconds` on a real node. What counts for it is tested on a clock that tests move: `hearth-core::sandbox`.

use anyhow::ensure;
use hearth_api::constants::{condition, reason};
use hearth_tests::fixtures;
use hearth_tests::process::comm;
use hearth_tests::scene::{self, AWAY, COLD, WARM};
use hearth_tests::status::pod_uid;
use serde_json::json;

use crate::LIMIT;
use crate::refusals::until_node_says;

#[test]
fn a_sandbox_that_was_active_for_too_long_is_stopped_and_says_so() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        pod["activeDeadlineSeconds"] = json!(3);
        scene.create(&fixtures::sandbox("bounded", &pod)).await?;
        let (finished, failed) = (condition::FINISHED, reason::POD_FAILED);
        scene
            .until_condition("bounded", finished, "True", failed, COLD)
            .await?;
        scene
            .until_condition("bounded", condition::READY, "False", failed, WARM)
            .await?;
        until_node_says(scene, "bounded", "DeadlineExceeded").await?;
        let sandbox = scene.sandboxes.now()["bounded"].clone();
        // What holds the pod's namespaces goes with the pod.
        let left = scene.cgroups.main_processes(&pod_uid(&sandbox)?);
        let left = left.unwrap_or_default().into_iter();
        let left: Vec<_> = left.map(|process| comm(process.pid)).collect();
        ensure!(
            left.iter().all(|comm| comm == "pause"),
            "something runs on: {left:?}"
        );
        Ok(())
    });
}

#[test]
fn a_member_of_a_pool_begins_to_age_when_it_is_claimed() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        pod["activeDeadlineSeconds"] = json!(2);
        scene.create(&fixtures::template("bounded", &pod)).await?;
        scene
            .create(&fixtures::pool("bounded", "bounded", 2))
            .await?;
        // The second is stocked while the first has been standing for a while.
        scene.until_stocked("bounded", 2).await?;
        let claimed = scene.claim("mine", "bounded", WARM).await?;
        let name = &claimed.sandbox;
        scene
            .until_condition(name, condition::FINISHED, "True", reason::POD_FAILED, AWAY)
            .await?;
        until_node_says(scene, name, "DeadlineExceeded")
            .await
            .map(drop)
    });
}
