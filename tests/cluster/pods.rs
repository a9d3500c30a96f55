//! What a PodSpec may ask for and gets.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::Sandbox;
use hearth_api::constants::{condition, message, reason};
use hearth_tests::cgroups::Limits;
use hearth_tests::fixtures::{self, IMAGE, PORT};
use hearth_tests::http;
use hearth_tests::process::comm;
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{self, pod_uid};
use hearth_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::LIMIT;

#[test]
pub(crate) fn limits_of_the_containers_are_written_on_the_pods_cgroup() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        pod["containers"][0]["resources"] = json!({
            "requests": {"cpu": "100m", "memory": "32Mi"},
            "limits": {"cpu": "500m", "memory": "64Mi"},
        });
        scene.create(&fixtures::sandbox("limited", &pod)).await?;
        let sandbox = scene.until_ready("limited", COLD).await?;
        let limits = scene.cgroups.limits(&pod_uid(&sandbox)?)?;
        let Limits {
            memory_bytes,
            milli_cpu,
            pids,
        } = limits;
        ensure!(
            (memory_bytes, milli_cpu) == (Some(64 << 20), Some(500)),
            "{limits:?}"
        );
        ensure!(
            pids.is_some(),
            "the number of processes has no limit: {limits:?}"
        );
        Ok(())
    });
}

#[test]
fn processes_are_limited_also_when_nothing_is_asked_for() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::sandbox("plain", &fixtures::web_server()))
            .await?;
        let sandbox = scene.until_ready("plain", COLD).await?;
        let limits = scene.cgroups.limits(&pod_uid(&sandbox)?)?;
        ensure!(
            limits.pids.is_some(),
            "the number of processes has no limit: {limits:?}"
        );
        Ok(())
    });
}

#[test]
pub(crate) fn containers_of_a_pod_share_volumes_and_network_and_have_their_own_environment() {
    scene::run(LIMIT, async |scene| {
        let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
        let writer = "echo $GREETING > /shared/index.html && exec sleep 1000000";
        let pod = json!({
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "containers": [
                {
                    "name": "writer", "image": IMAGE, "command": ["/bin/sh", "-c", writer],
                    "env": [{"name": "GREETING", "value": "hello from next door"}],
                    "volumeMounts": mount,
                },
                {
                    "name": "server", "image": IMAGE,
                    "command": ["httpd"], "args": ["-f", "-p", "8888", "-h", "/shared"],
                    "volumeMounts": mount,
                    "readinessProbe": {
                        "exec": {"command": ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8888/"]},
                        "periodSeconds": 1,
                    },
                },
            ],
        });
        scene.create(&fixtures::sandbox("pair", &pod)).await?;
        let sandbox = scene.until_ready("pair", COLD).await?;
        let ip = sandbox
            .status
            .as_ref()
            .and_then(|status| status.pod_ips.first())
            .context("no address")?;
        let answer =
            hearth_tests::http::get(ip, fixtures::PORT, "/", Duration::from_secs(5)).await?;
        ensure!(answer.trim() == "hello from next door", "{answer}");
        Ok(())
    });
}

#[test]
pub(crate) fn a_sandbox_is_not_ready_before_its_http_probe_says_so() {
    scene::run(LIMIT, async |scene| {
        let script = "mkdir /www; httpd -p 8888 -h /www; \
                      while [ ! -e /tmp/open ]; do sleep 0.1; done; echo yes > /www/ready; exec sleep 1000000";
        let mut pod = fixtures::script("Always", script);
        pod["containers"][0]["readinessProbe"] =
            json!({"httpGet": {"path": "/ready", "port": 8888}, "periodSeconds": 1});
        scene.create(&fixtures::sandbox("probed", &pod)).await?;
        let reason = reason::DEPENDENCIES_NOT_READY;
        scene
            .sandboxes
            .until_one("probed", "runs without being ready", COLD, |sandbox| {
                let conditions = sandbox
                    .status
                    .as_ref()
                    .map_or(&[][..], |status| &status.conditions);
                match status::find_condition(conditions, condition::READY) {
                    Some(ready) if ready.status == "True" => Ok(false),
                    Some(ready)
                        if ready.reason == reason && ready.message == message::POD_NOT_READY =>
                    {
                        Ok(true)
                    }
                    other => Err(format!("Ready is {other:?}")),
                }
            })
            .await
            .and_then(|before| {
                ensure!(before, "it was ready before its probe could succeed");
                Ok(())
            })?;
        let sandbox = scene
            .sandboxes
            .now()
            .get("probed")
            .cloned()
            .context("it is not there")?;
        scene
            .containerd
            .shell(
                &pod_uid(&sandbox)?,
                "touch /tmp/open",
                Duration::from_secs(5),
            )
            .await?;
        scene.until_ready("probed", COLD).await.map(drop)
    });
}

#[test]
pub(crate) fn a_variable_comes_from_a_file_that_an_init_container_has_written() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        let write =
            "mkdir /shared/below && echo \"WORDS='two words' # of a file\" > /shared/below/vars";
        pod["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
        pod["initContainers"] = json!([{
            "name": "writer", "image": IMAGE, "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", write],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        }]);
        let from = |key: &str, optional: bool| {
            let place = json!({"volumeName": "shared", "path": "below/vars", "key": key, "optional": optional});
            json!({"name": key, "valueFrom": {"fileKeyRef": place}})
        };
        let serve = format!(
            "mkdir -p /www && echo \"$WORDS ${{NONE-is unset}}\" > /www/said && exec httpd -f -p {PORT} -h /www"
        );
        let main = &mut pod["containers"][0];
        main["command"] = json!(["/bin/sh", "-c", serve]);
        main["env"] = json!([from("WORDS", false), from("NONE", true)]);
        scene.create(&fixtures::sandbox("reader", &pod)).await?;
        let sandbox = scene.until_ready("reader", COLD).await?;
        let ip = status::address(&sandbox)?;
        let said = http::get(&ip, PORT, "/said", COLD).await?;
        ensure!(said.trim() == "two words is unset", "it says {said}");
        Ok(())
    });
}

#[test]
pub(crate) fn processes_get_a_chance_to_end_by_themselves() {
    scene::run(LIMIT, async |scene| {
        // Ends at SIGTERM, long before the grace period does.
        let mut pod = fixtures::script("Always", "trap 'exit 0' TERM; while :; do sleep 0.1; done");
        pod["terminationGracePeriodSeconds"] = json!(60);
        scene.create(&fixtures::sandbox("polite", &pod)).await?;
        scene.until_ready("polite", COLD).await?;
        scene.delete::<Sandbox>("polite").await?;
        scene.until_no_pods(Duration::from_secs(20)).await
    });
}

#[test]
pub(crate) fn what_a_pod_ended_with_is_its_last_word() {
    scene::run(LIMIT, async |scene| {
        for (name, script, reason) in [
            ("well", "exit 0", reason::POD_SUCCEEDED),
            ("badly", "exit 3", reason::POD_FAILED),
        ] {
            scene
                .create(&fixtures::sandbox(name, &fixtures::script("Never", script)))
                .await?;
            let text = scene
                .until_condition(name, condition::FINISHED, "True", reason, COLD)
                .await?;
            let ready = scene
                .until_condition(name, condition::READY, "False", reason, COLD)
                .await?;
            ensure!(text == ready, "Finished says {text}, Ready says {ready}");
        }
        Ok(())
    });
}

#[test]
fn a_container_that_ends_is_started_again_in_the_same_pod() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        pod["restartPolicy"] = json!("Always");
        scene.create(&fixtures::sandbox("again", &pod)).await?;
        let before = scene.until_ready("again", COLD).await?;
        let uid = pod_uid(&before)?;
        let processes = scene.cgroups.main_processes(&uid)?;
        let server = processes
            .iter()
            .find(|process| comm(process.pid) == "httpd");
        server.context("no httpd runs in the pod")?.kill().await?;
        scene.until_other_processes(&uid, &processes, AWAY).await?;
        scene
            .sandboxes
            .until_one("again", "answers again", COLD, status::ready)
            .await?;
        wait_for("the new server answers", COLD, async || {
            let sandbox = scene
                .sandboxes
                .now()
                .get("again")
                .cloned()
                .ok_or("it is gone")?;
            crate::lifecycle::check_answers(&sandbox)
                .await
                .map_err(|error| format!("{error:#}"))
        })
        .await
    });
}

#[test]
fn a_pod_has_the_kernel_parameters_and_the_resolver_that_it_asks_for() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        let script = format!(
            "mkdir -p /www && cp /etc/resolv.conf /www/ && cat /proc/sys/net/ipv4/tcp_fin_timeout > /www/timeout; exec httpd -f -p {PORT} -h /www"
        );
        pod["containers"][0]["command"] = json!(["/bin/sh", "-c", script]);
        pod["securityContext"] =
            json!({"sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "17"}]});
        pod["dnsPolicy"] = json!("Default");
        pod["dnsConfig"] =
            json!({"searches": ["boxes.example"], "options": [{"name": "ndots", "value": "3"}]});
        scene.create(&fixtures::sandbox("tuned", &pod)).await?;
        let ip = status::address(&*scene.until_ready("tuned", COLD).await?)?;
        let get = async |path: &str| http::get(&ip, PORT, path, Duration::from_secs(5)).await;
        let timeout = get("/timeout").await?;
        ensure!(timeout.trim() == "17", "tcp_fin_timeout is {timeout:?}");
        let resolver = get("/resolv.conf").await?;
        let has = |keyword: &str, word: &str| {
            let mut lines = resolver.lines().filter(|line| line.starts_with(keyword));
            lines.any(|line| line.split_whitespace().any(|found| found == word))
        };
        ensure!(
            has("search", "boxes.example") && has("options", "ndots:3"),
            "resolv.conf is {resolver:?}"
        );
        // What the node has is there as well.
        let node = std::fs::read_to_string("/etc/resolv.conf").context("resolv.conf")?;
        for server in node
            .lines()
            .filter(|line| line.starts_with("nameserver"))
            .take(3)
        {
            ensure!(resolver.contains(server), "{server} is not in {resolver:?}");
        }
        Ok(())
    });
}

#[test]
fn a_container_that_ends_says_why() {
    scene::run(LIMIT, async |scene| {
        let failing = |script: &str| fixtures::script("Never", script);
        let mut own_file = failing("echo no licence > /tmp/why; exit 3");
        own_file["containers"][0]["terminationMessagePath"] = json!("/tmp/why");
        // On one stream: two have no order.
        let mut from_log = failing("echo begun >&2; echo the disk is full >&2; exit 4");
        from_log["containers"][0]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        for (name, pod, words) in [
            (
                "plain",
                failing("echo no luck > /dev/termination-log; exit 2"),
                "code 2: no luck",
            ),
            ("own-file", own_file, "code 3: no licence"),
            ("from-log", from_log, "code 4: begun\nthe disk is full"),
            (
                "silent",
                failing("echo said nothing; exit 5"),
                "ended with code 5",
            ),
        ] {
            says_when_it_ends(scene, name, &pod, words).await?;
        }
        Ok(())
    });
}

#[test]
fn a_container_that_runs_out_of_memory_says_so() {
    scene::run(LIMIT, async |scene| {
        // Keeps all that it reads.
        let mut greedy = fixtures::script("Never", "exec tail -c 1000000000 /dev/zero");
        greedy["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
        says_when_it_ends(scene, "greedy", &greedy, "code 137: OOMKilled").await
    });
}

/// Creates a Sandbox and waits until its message ends with these words.
async fn says_when_it_ends(scene: &Scene, name: &str, pod: &Value, words: &str) -> Result<()> {
    scene.create(&fixtures::sandbox(name, pod)).await?;
    let wanted = format!("says {words:?}");
    scene
        .sandboxes
        .until_one(name, &wanted, COLD, |sandbox| {
            let status = sandbox.status.clone().unwrap_or_default();
            let said = status.node.clone().unwrap_or_default().message;
            if said.ends_with(words) {
                Ok(())
            } else {
                Err(format!("its status is {}", status::to_json(&status)))
            }
        })
        .await
}
