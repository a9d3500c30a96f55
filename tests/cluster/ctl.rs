//! `hearthd ctl`, asked as an administrator on the node asks it.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::Sandbox;
use hearth_tests::fixtures::{self, IMAGE};
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::pod_uid;
use hearth_tests::wait::wait_for;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::LIMIT;

/// How long a command may take.
const ANSWER: Duration = Duration::from_secs(20);

#[test]
pub(crate) fn a_frozen_member_is_listed_and_runs_a_command_and_is_frozen_again() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let members = scene.until_stocked("pool", 1).await?;
        let member = members.first().context("no member")?;
        let (name, uid) = (named(scene, member)?, pod_uid(member)?);
        let listed = row(scene, &name).await?;
        for (field, expect) in [
            ("phase", json!("Ready")),
            ("tier", json!("Frozen")),
            ("member", json!(true)),
            ("podUid", json!(uid)),
        ] {
            ensure!(listed[field] == expect, "{field} of {listed:#}");
        }
        let script = "echo out; echo err >&2; exit 7";
        let done = ctl(scene, &["exec", &name, "--", "/bin/sh", "-c", script]).await?;
        ensure!(
            (done.status.code(), &*done.stdout, &*done.stderr)
                == (Some(7), b"out\n".as_slice(), b"err\n".as_slice()),
            "{done:?}"
        );
        succeeded(ctl(scene, &["freeze", &name]).await?)?;
        ensure!(scene.is_frozen(&uid).await?, "it is not frozen");
        let text = succeeded(ctl(scene, &["stats", &name, "--json"]).await?)?;
        let stats: Value = serde_json::from_str(&text)?;
        let tasks = stats["sandboxes"][0]["tasks"].as_u64();
        ensure!(tasks.is_some_and(|tasks| tasks > 0), "{stats:#}");
        Ok(())
    });
}

#[test]
fn logs_are_those_of_each_start_of_a_container() {
    scene::run(LIMIT, async |scene| {
        // The first start ends, the second one stays.
        let script = "if [ -e /data/begun ]; then echo second; exec sleep 1000000; fi; touch /data/begun; echo first; exit 1";
        let pod = json!({
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Always",
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", script],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
        });
        scene.create(&fixtures::sandbox("speaks", &pod)).await?;
        let name = format!("{}/speaks", scene.namespace);
        wait_for("the container has begun again", COLD, async || {
            match ctl(scene, &["logs", &name]).await {
                Ok(output) if output.stdout == b"second\n" => Ok(()),
                Ok(output) => Err(format!("{output:?}")),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await?;
        let previous = succeeded(ctl(scene, &["logs", &name, "--previous"]).await?)?;
        ensure!(previous == "first\n", "{previous:?}");
        for (since, expect) in [
            (["--since", "1h"], "second\n"),
            (["--since-time", "1970-01-01T00:00:00Z"], "second\n"),
            (["--since-time", "2200-01-01T00:00:00Z"], ""),
        ] {
            let [flag, value] = since;
            let said = succeeded(ctl(scene, &["logs", &name, flag, value]).await?)?;
            ensure!(said == expect, "{since:?}: {said:?}");
        }
        let mut follower = command(scene, &["logs", &name, "--follow", "--tail", "1"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(follower.stdout.take().context("no output")?).lines();
        let line = timeout(ANSWER, lines.next_line()).await??;
        ensure!(line.as_deref() == Some("second"), "{line:?}");
        scene.delete::<Sandbox>("speaks").await?;
        let end = timeout(AWAY, follower.wait()).await??;
        ensure!(end.success(), "following ended with {end}");
        scene.until_no_pods(AWAY).await
    });
}

#[test]
fn a_sandbox_that_is_to_run_is_not_frozen_by_hand() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::sandbox("busy", &fixtures::web_server()))
            .await?;
        scene.until_ready("busy", COLD).await?;
        let name = format!("{}/busy", scene.namespace);
        let refused = ctl(scene, &["freeze", &name]).await?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            refused.status.code() == Some(1) && why.contains("spec.operatingMode"),
            "{refused:?}"
        );
        Ok(())
    });
}

pub(crate) fn command(scene: &Scene, args: &[&str]) -> Command {
    let mut command = Command::new(scene.cluster.program("hearthd"));
    command
        .args(["ctl", "--instance", scene.cluster.instance()])
        .args(args)
        .kill_on_drop(true);
    command
}

/// Runs `hearthd ctl` against the daemon of the cluster.
pub(crate) async fn ctl(scene: &Scene, args: &[&str]) -> Result<Output> {
    let mut command = command(scene, args);
    let output = command.output();
    let late = || format!("hearthd ctl {args:?} has not ended within {ANSWER:?}");
    let output = timeout(ANSWER, output).await.with_context(late)?;
    output.context("run hearthd ctl")
}

pub(crate) fn succeeded(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn named(scene: &Scene, sandbox: &Sandbox) -> Result<String> {
    let name = sandbox.metadata.name.as_deref().context("no name")?;
    Ok(format!("{}/{name}", scene.namespace))
}

/// What the list says of a sandbox.
async fn row(scene: &Scene, name: &str) -> Result<Value> {
    let text = succeeded(ctl(scene, &["list", "--json"]).await?)?;
    let list: Value = serde_json::from_str(&text)?;
    let rows = list["sandboxes"].as_array().context("no list")?;
    let is_it = |row: &&Value| {
        let part = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", part("namespace"), part("name")) == name
    };
    let found = rows.iter().find(is_it);
    found
        .cloned()
        .with_context(|| format!("no {name} in {list:#}"))
}
