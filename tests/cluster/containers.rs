//! Containers that do more than run: init containers, sidecars, hooks, and probes that end what they find dead.

use std::time::Duration;

use anyhow::ensure;
use hearth_api::Sandbox;
use hearth_tests::fixtures::{self, IMAGE, PORT};
use hearth_tests::scene::{self, AWAY, COLD};
use hearth_tests::status::{address, pod_uid};
use hearth_tests::wait::wait_for;
use serde_json::json;

use crate::LIMIT;

#[test]
pub(crate) fn init_containers_run_in_order_with_a_sidecar_beside_them() {
    scene::run(LIMIT, async |scene| {
        let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
        let run = |name: &str, script: &str| json!({"name": name, "image": IMAGE, "command": ["/bin/sh", "-c", script], "volumeMounts": mount});
        let mut server = run("server", &format!("exec httpd -f -p {PORT} -h /shared"));
        server["restartPolicy"] = json!("Always");
        server["startupProbe"] =
            json!({"httpGet": {"path": "/first", "port": PORT}, "failureThreshold": 30});
        // Only a sidecar that is up can give the second what the first has written.
        let fetch = format!("wget -q -O /shared/second http://127.0.0.1:{PORT}/first");
        let pod = json!({
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "initContainers": [
                run("first", "echo one > /shared/first"),
                server,
                run("second", &fetch),
            ],
            "containers": [
                run("main", "cat /shared/second /shared/second > /shared/third && exec sleep 1000000"),
            ],
        });
        scene.create(&fixtures::sandbox("ordered", &pod)).await?;
        let sandbox = scene.until_ready("ordered", COLD).await?;
        let ip = address(&sandbox)?;
        wait_for(
            "the container used what the init containers left",
            AWAY,
            async || {
                let answer = hearth_tests::http::get(&ip, PORT, "/third", Duration::from_secs(5))
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                if answer == "one\none\n" {
                    Ok(())
                } else {
                    Err(answer)
                }
            },
        )
        .await?;
        scene.delete::<Sandbox>("ordered").await?;
        scene.until_no_pods(Duration::from_secs(20)).await
    });
}

#[test]
pub(crate) fn an_init_container_that_fails_for_good_fails_the_pod() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::script("Never", "exec sleep 1000000");
        pod["initContainers"] =
            json!([{"name": "init", "image": IMAGE, "command": ["/bin/sh", "-c", "exit 3"]}]);
        scene.create(&fixtures::sandbox("hopeless", &pod)).await?;
        scene
            .until_condition(
                "hopeless",
                hearth_api::constants::condition::FINISHED,
                "True",
                hearth_api::constants::reason::POD_FAILED,
                COLD,
            )
            .await
            .map(drop)
    });
}

#[test]
pub(crate) fn hooks_run_after_the_start_and_before_the_stop() {
    scene::run(LIMIT, async |scene| {
        // Deaf to SIGTERM: only what the hook leaves ends it before the grace period does.
        let script = format!(
            "trap '' TERM; mkdir -p /www; httpd -p {PORT} -h /www; while [ ! -e /tmp/stop ]; do sleep 0.1; done"
        );
        let mut pod = fixtures::script("Always", &script);
        pod["terminationGracePeriodSeconds"] = json!(60);
        let shell = |script: &str| json!({"exec": {"command": ["/bin/sh", "-c", script]}});
        pod["containers"][0]["lifecycle"] = json!({
            "postStart": shell("mkdir -p /www && echo begun > /www/begun"),
            "preStop": shell("touch /tmp/stop"),
        });
        scene.create(&fixtures::sandbox("hooked", &pod)).await?;
        let sandbox = scene.until_ready("hooked", COLD).await?;
        let ip = address(&sandbox)?;
        wait_for("the hook after the start left its mark", AWAY, async || {
            hearth_tests::http::get(&ip, PORT, "/begun", Duration::from_secs(5))
                .await
                .map(drop)
                .map_err(|error| format!("{error:#}"))
        })
        .await?;
        scene.delete::<Sandbox>("hooked").await?;
        scene.until_no_pods(Duration::from_secs(30)).await
    });
}

#[test]
fn a_container_that_is_alive_no_more_is_started_anew() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        pod["restartPolicy"] = json!("Always");
        pod["terminationGracePeriodSeconds"] = json!(1);
        // What is written into the container is gone with it.
        pod["containers"][0]["livenessProbe"] = json!({
            "exec": {"command": ["/bin/sh", "-c", "test ! -e /tmp/dead"]},
            "periodSeconds": 1, "failureThreshold": 2,
        });
        scene.create(&fixtures::sandbox("mortal", &pod)).await?;
        let sandbox = scene.until_ready("mortal", COLD).await?;
        let uid = pod_uid(&sandbox)?;
        let before = scene.cgroups.main_processes(&uid)?;
        scene
            .containerd
            .shell(
                &uid,
                "mkdir -p /tmp && touch /tmp/dead",
                Duration::from_secs(5),
            )
            .await?;
        scene.until_other_processes(&uid, &before, COLD).await?;
        let after = scene.until_ready("mortal", COLD).await?;
        ensure!(pod_uid(&after)? == uid, "another pod was made");
        Ok(())
    });
}
