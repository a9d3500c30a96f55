//! Claims that bring variables: a member of the pool has them by the time it is ready.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::label;
use hearth_api::{InjectionPolicy, OperatingMode, Sandbox, SandboxClaim};
use hearth_tests::fixtures::{self, IMAGE, PORT};
use hearth_tests::http;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::{Claimed, pod_uid};
use hearth_tests::wait::wait_for;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::LIMIT;

/// Serves its environment as `/env`, and as `/starts` how often it was started: a volume keeps count. Ends at once when it
/// is told to break.
fn pod() -> Value {
    let script = format!(
        "test -z \"$BREAK\" || exit 3; mkdir -p /www && env > /www/env && echo start >> /count/starts && \
         ln -s /count/starts /www/starts && exec httpd -f -p {PORT} -h /www"
    );
    json!({
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "count", "emptyDir": {}}],
        "containers": [{
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", script],
            "env": [{"name": "COLOUR", "value": "grey"}],
            "volumeMounts": [{"name": "count", "mountPath": "/count"}],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        }, {
            "name": "side",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["sleep", "1000000"],
        }],
    })
}

async fn stocked_pool(scene: &Scene, replicas: usize) -> Result<()> {
    let mut template = fixtures::template("pool", &pod());
    template.spec.env_vars_injection_policy = InjectionPolicy::Overrides;
    scene.create(&template).await?;
    scene
        .create(&fixtures::pool("pool", "pool", replicas))
        .await?;
    scene.until_stocked("pool", replicas).await.map(drop)
}

fn claim(name: &str, variable: (&str, &str)) -> Result<SandboxClaim> {
    let mut claim = fixtures::claim(name, "pool");
    let env = json!([{"name": variable.0, "value": variable.1}]);
    claim.spec.env = serde_json::from_value(env)?;
    Ok(claim)
}

/// What a path has, line by line. Whoever is ready answers at once.
async fn served(ip: &str, path: &str) -> Result<Vec<String>> {
    let text = http::get(ip, PORT, path, Duration::from_secs(5)).await?;
    Ok(text.lines().map(str::to_owned).collect())
}

async fn check_has(ip: &str, variable: &str) -> Result<()> {
    let env = served(ip, "/env").await?;
    ensure!(env.iter().any(|line| line == variable), "it has {env:?}");
    Ok(())
}

fn sandbox(scene: &Scene, name: &str) -> Result<std::sync::Arc<Sandbox>> {
    let found = scene.sandboxes.now().get(name).cloned();
    found.with_context(|| format!("there is no Sandbox {name}"))
}

/// The pods of the pool's members, by name.
async fn member_pods(scene: &Scene, replicas: usize) -> Result<Vec<(String, String)>> {
    let members = scene.until_stocked("pool", replicas).await?;
    members
        .iter()
        .map(|member| Ok((member.name_any(), pod_uid(member)?)))
        .collect()
}

#[test]
fn a_member_has_a_claims_variables_when_it_is_ready_and_keeps_its_pod_and_volumes() {
    scene::run(LIMIT, async |scene| {
        stocked_pool(scene, 1).await?;
        let members = member_pods(scene, 1).await?;
        scene.create(&claim("mine", ("COLOUR", "red"))?).await?;
        let claimed = scene.until_answered("mine", COLD).await?;
        check_has(&claimed.ip, "COLOUR=red").await?;
        let starts = served(&claimed.ip, "/starts").await?;
        ensure!(starts.len() == 2, "it was started {} times", starts.len());
        let of = sandbox(scene, &claimed.sandbox)?;
        let pod = (claimed.sandbox.clone(), pod_uid(&of)?);
        ensure!(members.contains(&pod), "{pod:?} is none of {members:?}");
        check_containers(scene, &pod.1).await?;
        check_adopted(scene, &claimed).await?;
        check_has(&claimed.ip, "COLOUR=red").await?;
        scene.release(&claimed).await
    });
}

/// The container that the variable is for was made twice, the other one once. What was replaced goes after the answer.
async fn check_containers(scene: &Scene, pod: &str) -> Result<()> {
    let expect = [("main".to_owned(), 1), ("side".to_owned(), 0)];
    wait_for("what was replaced is gone", AWAY, async || {
        let attempts = scene.containerd.attempts(pod).await;
        let attempts = attempts.map_err(|error| format!("{error:#}"))?;
        if attempts == expect {
            Ok(())
        } else {
            Err(format!("containers are {attempts:?}"))
        }
    })
    .await
}

/// The Sandbox is the claim's, and its PodSpec has the variable.
async fn check_adopted(scene: &Scene, claimed: &Claimed) -> Result<()> {
    scene
        .sandboxes
        .until_one(
            &claimed.sandbox,
            "is adopted with the variable",
            WARM,
            |sandbox| {
                let spec: Value = sandbox.spec.pod_template.spec.parse().unwrap_or_default();
                let env = &spec["containers"][0]["env"];
                let owner = sandbox.labels().get(label::CLAIM_UID);
                if owner == Some(&claimed.uid)
                    && *env == json!([{"name": "COLOUR", "value": "red"}])
                {
                    Ok(())
                } else {
                    Err(format!("its owner is {owner:?} and its env {env}"))
                }
            },
        )
        .await
}

#[test]
fn a_sandbox_that_is_resumed_has_the_variables_of_its_claim() {
    scene::run(LIMIT, async |scene| {
        stocked_pool(scene, 1).await?;
        scene.create(&claim("mine", ("COLOUR", "red"))?).await?;
        let claimed = scene.until_answered("mine", COLD).await?;
        check_adopted(scene, &claimed).await?;
        for mode in [OperatingMode::Suspended, OperatingMode::Running] {
            let patch = json!({"spec": {"operatingMode": mode}});
            scene.patch::<Sandbox>(&claimed.sandbox, patch).await?;
            let (status, limit) = match mode {
                OperatingMode::Running => ("True", COLD),
                _ => ("False", AWAY),
            };
            scene
                .sandboxes
                .until_one(
                    &claimed.sandbox,
                    &format!("is {mode:?}"),
                    limit,
                    |sandbox| {
                        let status_now = sandbox.status.clone().unwrap_or_default();
                        let ready =
                            hearth_tests::status::find_condition(&status_now.conditions, "Ready");
                        let pods = status_now.pod_ips.len();
                        let done = ready.is_some_and(|ready| ready.status == status)
                            && (pods == 1) == (mode == OperatingMode::Running);
                        if done {
                            Ok(())
                        } else {
                            Err(format!("{ready:?}, {pods} addresses"))
                        }
                    },
                )
                .await?;
        }
        let resumed = sandbox(scene, &claimed.sandbox)?;
        let status = resumed.status.clone().unwrap_or_default();
        let ip = status.pod_ips.first().context("it has no address")?;
        check_has(ip, "COLOUR=red").await?;
        let starts = served(ip, "/starts").await?;
        ensure!(
            starts.len() == 1,
            "a new pod was started {} times",
            starts.len()
        );
        Ok(())
    });
}

#[test]
fn one_that_does_not_come_up_with_its_variables_says_so_and_leaves_nothing() {
    scene::run(LIMIT, async |scene| {
        stocked_pool(scene, 1).await?;
        scene.create(&claim("broken", ("BREAK", "1"))?).await?;
        let name = scene
            .claims
            .until_one("broken", "is not ready and says so", COLD, |claim| {
                let status = claim.status.clone().unwrap_or_default();
                let ready = hearth_tests::status::find_condition(&status.conditions, "Ready");
                let name = status.sandbox.clone().unwrap_or_default().name;
                match ready {
                    Some(ready) if ready.reason == "DependenciesNotReady" && !name.is_empty() => {
                        Ok(name)
                    }
                    other => Err(format!("{other:?} of {name:?}")),
                }
            })
            .await?;
        scene
            .sandboxes
            .until_one(&name, "says what its container does", COLD, |sandbox| {
                let status = sandbox.status.clone().unwrap_or_default();
                let said = status.node.clone().unwrap_or_default().message;
                if said.contains("container main ended with code 3") {
                    Ok(())
                } else {
                    Err(said)
                }
            })
            .await?;
        scene.delete::<SandboxClaim>("broken").await?;
        scene.sandboxes.until_gone(&name, AWAY).await
    });
}

#[test]
fn a_daemon_that_is_killed_on_the_way_makes_the_container_once() {
    scene::run(LIMIT * 2, async |scene| {
        const CLAIMS: usize = 3;
        stocked_pool(scene, CLAIMS).await?;
        let members = member_pods(scene, CLAIMS).await?;
        for number in 0..CLAIMS {
            let name = format!("c{number}");
            scene.create(&claim(&name, ("COLOUR", &name))?).await?;
        }
        scene.cluster.hearthd().kill().await?;
        for number in 0..CLAIMS {
            let name = format!("c{number}");
            let claimed = scene.until_answered(&name, COLD * 2).await?;
            check_has(&claimed.ip, &format!("COLOUR={name}")).await?;
            if members.iter().any(|(member, _)| *member == claimed.sandbox) {
                let starts = served(&claimed.ip, "/starts").await?;
                ensure!(
                    starts.len() == 2,
                    "{name} was started {} times",
                    starts.len()
                );
            }
        }
        Ok(())
    });
}
