//! What a pod as a whole may use, and what becomes of one that wants more.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::Sandbox;
use hearth_tests::fixtures;
use hearth_tests::scene::{self, COLD, Scene, WARM};
use hearth_tests::status::pod_uid;
use hearth_tests::wait::wait_for;
use serde_json::json;

use crate::LIMIT;

const IDLE: &str = "exec sleep 1000000";

#[test]
fn limits_of_the_pod_as_a_whole_hold_for_its_containers_together() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::script("Always", IDLE);
        pod["resources"] = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
        pod["overhead"] = json!({"cpu": "100m", "memory": "16Mi"});
        scene.create(&fixtures::sandbox("whole", &pod)).await?;
        let sandbox = scene.until_ready("whole", COLD).await?;
        let limits = scene.cgroups.limits(&pod_uid(&sandbox)?)?;
        ensure!(limits.memory_bytes == Some(80 << 20), "{limits:?}");
        ensure!(limits.milli_cpu == Some(600), "{limits:?}");
        Ok(())
    });
}

/// `oom_score_adj` of the one container of a sandbox.
async fn oom_score(scene: &Scene, sandbox: &Sandbox) -> Result<i64> {
    let script = "cat /proc/1/oom_score_adj";
    Ok(crate::policy::says(scene, sandbox, script).await?.parse()?)
}

#[test]
fn who_asked_for_memory_is_killed_later_than_who_did_not() {
    scene::run(LIMIT, async |scene| {
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let total = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
        let total: i64 = total.context("no MemTotal")?.trim().parse()?;
        // Less than the daemon's own only a privileged one may have; see restrict_oom_score_adj in the configuration.
        let own: i64 = fs::read_to_string("/proc/self/oom_score_adj")?
            .trim()
            .parse()?;
        let request_mib = 1024;
        let share = 1000 * request_mib * 1024 / total;
        for (name, resources, expect) in [
            ("best-effort", json!({}), 1000),
            (
                "burstable",
                json!({"requests": {"memory": "1024Mi"}}),
                1000 - share,
            ),
            (
                "guaranteed",
                json!({"limits": {"memory": "64Mi", "cpu": "1"}}),
                -997,
            ),
        ] {
            let mut pod = fixtures::script("Always", IDLE);
            pod["containers"][0]["resources"] = resources;
            scene.create(&fixtures::sandbox(name, &pod)).await?;
            let sandbox = scene.until_ready(name, COLD).await?;
            let got = oom_score(scene, &sandbox).await?;
            ensure!(
                got == expect || (expect < own && got == own),
                "{name}: {got} and not {expect}"
            );
            scene.delete::<Sandbox>(name).await?;
        }
        Ok(())
    });
}

#[test]
fn a_container_that_forks_without_end_hurts_only_itself() {
    scene::run(LIMIT, async |scene| {
        // A shell that cannot fork ends; that it does so in another one leaves its brood to the container.
        let bomb = "(while true; do sleep 1000000 & done); exec sleep 1000000";
        scene
            .create(&fixtures::sandbox(
                "bomb",
                &fixtures::script("Always", bomb),
            ))
            .await?;
        scene.until_ready("bomb", COLD).await?;
        let sandbox = scene.sandboxes.now()["bomb"].clone();
        let uid = pod_uid(&sandbox)?;
        let limit = scene
            .cgroups
            .limits(&uid)?
            .pids
            .context("no limit of processes")?;
        wait_for("it has run into its limit", COLD, async || {
            let stopped = scene
                .cgroups
                .forks_refused(&uid)
                .map_err(|error| format!("{error:#}"))?;
            if stopped > 0 {
                Ok(())
            } else {
                Err(format!("of {limit} processes none was refused yet"))
            }
        })
        .await?;
        scene
            .create(&fixtures::sandbox("neighbour", &fixtures::web_server()))
            .await?;
        scene.until_ready("neighbour", COLD).await?;
        scene.delete::<Sandbox>("bomb").await?;
        wait_for("the bomb is gone", COLD, async || {
            match scene
                .cgroups
                .pods()
                .map_err(|error| format!("{error:#}"))?
                .contains(&uid)
            {
                true => Err("its cgroup is there".to_owned()),
                false => Ok(()),
            }
        })
        .await
    });
}

#[test]
fn a_process_that_ignores_its_stop_signal_is_killed_after_the_grace_period() {
    scene::run(LIMIT, async |scene| {
        let deaf = "trap '' TERM; echo up > /tmp/up; while true; do sleep 1000000; done";
        let mut pod = fixtures::script("Always", deaf);
        pod["terminationGracePeriodSeconds"] = json!(1);
        pod["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1});
        scene.create(&fixtures::sandbox("deaf", &pod)).await?;
        scene.until_ready("deaf", COLD).await?;
        scene.delete::<Sandbox>("deaf").await?;
        scene.until_no_pods(WARM + Duration::from_secs(1)).await
    });
}
