//! What becomes of sandboxes that nobody uses: frozen, their memory given back, suspended; and what wakes them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::annotation;
use hearth_api::{IdlePolicy, OperatingMode, Sandbox, Tier};
use hearth_sys::zram::Zram;
use hearth_tests::fixtures::{self, PORT};
use hearth_tests::http;
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{address, pod_uid, ready};
use kube::ResourceExt as _;
use serde_json::json;

use crate::LIMIT;

/// How long a sandbox may take to go down a rung beyond the time of its rule.
const LATE: Duration = Duration::from_secs(30);
/// How long a sandbox may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Answers whose times are compared.
const ROUNDS: usize = 20;

fn with_idle(mut sandbox: Sandbox, freeze: &str, reclaim: &str, suspend: &str) -> Sandbox {
    let field = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    sandbox.spec.idle = Some(IdlePolicy {
        freeze_after: field(freeze),
        reclaim_after: field(reclaim),
        suspend_after: field(suspend),
    });
    sandbox
}

/// Waits until a sandbox is Ready and in this tier, and the kernel agrees.
async fn until_tier(scene: &Scene, name: &str, tier: Tier) -> Result<std::sync::Arc<Sandbox>> {
    // Also by the kernel: what the status says may be from before.
    let what = format!("is Ready and {tier:?}");
    scene
        .sandboxes
        .until_one(name, &what, COLD + LATE, |sandbox| {
            let sandbox = ready(sandbox)?;
            let node = sandbox
                .status
                .as_ref()
                .and_then(|status| status.node.as_ref());
            match node.and_then(|node| node.tier) {
                Some(is) if is == tier => {}
                is => return Err(format!("its tier is {is:?}")),
            }
            let frozen = pod_uid(&sandbox).and_then(|uid| scene.cgroups.is_frozen(&uid));
            match frozen {
                Ok(frozen) if frozen == (tier != Tier::Running) => Ok(sandbox),
                other => Err(format!("the kernel says frozen={other:?}")),
            }
        })
        .await
}

#[test]
fn an_idle_sandbox_is_frozen_and_a_request_wakes_it() {
    scene::run(LIMIT, async |scene| {
        let sandbox = with_idle(
            fixtures::sandbox("a", &fixtures::web_server()),
            "2s",
            "",
            "",
        );
        scene.create(&sandbox).await?;
        let frozen = until_tier(scene, "a", Tier::Frozen).await?;
        ensure!(
            frozen.spec.operating_mode == OperatingMode::Running,
            "its mode has changed"
        );
        // Its readiness probe, once a second, neither wakes it nor counts.
        let ip = address(&frozen)?;
        let started = Instant::now();
        let said = http::get(&ip, PORT, "/", ANSWER).await?;
        let woken = started.elapsed();
        ensure!(said.trim() == "a", "{said:?}");
        println!("woken and answered after {woken:?}");
        until_tier(scene, "a", Tier::Running).await?;
        until_tier(scene, "a", Tier::Frozen).await?;
        let metrics = scene.cluster.node_metrics().await?;
        for wanted in [
            r#"hearth_node_pod_freezes_total{reason="idle"}"#,
            r#"hearth_node_pod_thaws_total{reason="packet"}"#,
            r#"hearth_node_sandbox_memory_bytes{tier="frozen",place="memory"}"#,
            "hearth_node_idle_wake_seconds_count",
        ] {
            ensure!(metrics.contains(wanted), "no {wanted} in {metrics}");
        }
        Ok(())
    });
}

/// The packet of one pod of the node wakes another: it never leaves the bridge.
#[test]
fn a_request_from_another_sandbox_wakes_too() {
    scene::run(LIMIT, async |scene| {
        let sandbox = with_idle(
            fixtures::sandbox("a", &fixtures::web_server()),
            "2s",
            "",
            "",
        );
        scene.create(&sandbox).await?;
        let ip = address(&*until_tier(scene, "a", Tier::Frozen).await?)?;
        let asks = format!("wget -q -O - http://{ip}:{PORT}/ && exec sleep 1000000");
        scene
            .create(&fixtures::sandbox("b", &fixtures::script("Never", &asks)))
            .await?;
        until_tier(scene, "a", Tier::Running).await.map(drop)
    });
}

#[test]
fn what_came_while_no_daemon_ran_wakes_after_the_restart() {
    scene::run(LIMIT, async |scene| {
        for name in ["a", "b"] {
            let web = fixtures::sandbox(name, &fixtures::web_server());
            scene.create(&with_idle(web, "3s", "", "")).await?;
        }
        let a = until_tier(scene, "a", Tier::Frozen).await?;
        let b = until_tier(scene, "b", Tier::Frozen).await?;
        let down = scene.cluster.hearthd().hold_down().await?;
        // The kernel takes the connection; nobody answers.
        let asked = http::get(&address(&a)?, PORT, "/", Duration::from_secs(1)).await;
        ensure!(
            asked.is_err(),
            "a frozen sandbox answered without a daemon: {asked:?}"
        );
        drop(down);
        scene.cluster.hearthd().wait_well().await?;
        until_tier(scene, "a", Tier::Running).await?;
        ensure!(
            scene.cgroups.is_frozen(&pod_uid(&b)?)?,
            "nothing came for b, and it was thawed"
        );
        let said = http::get(&address(&b)?, PORT, "/", ANSWER).await?;
        ensure!(said.trim() == "b", "{said:?}");
        Ok(())
    });
}

#[test]
fn a_claimed_member_follows_the_rules_of_its_template() {
    scene::run(LIMIT, async |scene| {
        let mut template = fixtures::template("web", &fixtures::web_server());
        template.spec.idle = with_idle(Sandbox::new("x", Default::default()), "3s", "", "")
            .spec
            .idle;
        scene.create(&template).await?;
        scene.create(&fixtures::pool("web", "web", 1)).await?;
        scene.until_stocked("web", 1).await?;
        let claimed = scene.claim("mine", "web", AWAY).await?;
        scene.check_answers(&claimed).await?;
        until_tier(scene, &claimed.sandbox, Tier::Frozen).await?;
        scene.check_answers(&claimed).await
    });
}

#[test]
fn an_unused_sandbox_is_suspended_with_a_note_and_resumes() {
    scene::run(LIMIT, async |scene| {
        let sandbox = with_idle(
            fixtures::sandbox("a", &fixtures::web_server()),
            "2s",
            "",
            "5s",
        );
        scene.create(&sandbox).await?;
        let noted =
            |sandbox: &Sandbox| sandbox.annotations().get(annotation::SUSPENDED_BY).cloned();
        scene
            .sandboxes
            .until_one("a", "is suspended for being idle", COLD + LATE, |sandbox| {
                let (mode, by) = (sandbox.spec.operating_mode, noted(sandbox));
                if mode == OperatingMode::Suspended && by.as_deref() == Some("idle") {
                    Ok(())
                } else {
                    Err(format!("its mode is {mode:?}, suspended by {by:?}"))
                }
            })
            .await?;
        scene.until_no_pods(AWAY).await?;
        let resume = json!({"spec": {"operatingMode": "Running", "idle": null}});
        scene.patch::<Sandbox>("a", resume).await?;
        let again = scene.until_ready("a", COLD).await?;
        let said = http::get(&address(&again)?, PORT, "/", ANSWER).await?;
        ensure!(said.trim() == "a", "{said:?}");
        scene
            .sandboxes
            .until_one(
                "a",
                "says nothing of it any more",
                AWAY,
                |sandbox| match noted(sandbox) {
                    None => Ok(()),
                    Some(by) => Err(format!("suspended by {by}")),
                },
            )
            .await?;
        // Suspended by hand: nobody else's doing.
        let suspend = json!({"spec": {"operatingMode": "Suspended"}});
        scene.patch::<Sandbox>("a", suspend).await?;
        scene.until_no_pods(AWAY).await?;
        let now = scene.sandboxes.now();
        ensure!(
            now.get("a").and_then(|a| noted(a)).is_none(),
            "it is noted as ours"
        );
        Ok(())
    });
}

#[test]
fn memory_of_a_frozen_sandbox_goes_to_zram_and_comes_back() {
    scene::run(LIMIT, async |scene| {
        let _zram = Zram::new(512 << 20).context("this test needs zram")?;
        let mut pod = fixtures::web_server();
        // Something of its own to hold, and the server beside it.
        let script = format!(
            "x=$(head -c 50000000 /dev/urandom | base64); mkdir -p /www; hostname > /www/index.html; \
             httpd -f -p {PORT} -h /www & while sleep 1000000; do echo $x > /dev/null; done"
        );
        pod["containers"][0]["command"] = json!(["/bin/sh", "-c", script]);
        let sandbox = with_idle(fixtures::sandbox("a", &pod), "2s", "1s", "");
        scene.create(&sandbox).await?;
        let reclaimed = until_tier(scene, "a", Tier::Reclaimed).await?;
        let metrics = scene.cluster.node_metrics().await?;
        let bytes = |place: &str| -> Result<f64> {
            let name =
                format!(r#"hearth_node_sandbox_memory_bytes{{tier="reclaimed",place="{place}"}} "#);
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
            Ok(line.with_context(|| format!("no {name}"))?.parse()?)
        };
        let (memory, swap) = (bytes("memory")?, bytes("swap")?);
        println!("reclaimed: {memory} bytes in memory, {swap} in swap");
        ensure!(
            swap > 3.0 * memory && swap > 40e6,
            "{memory} in memory, {swap} in swap"
        );
        let started = Instant::now();
        let said = http::get(&address(&reclaimed)?, PORT, "/", ANSWER).await?;
        println!("woken and answered after {:?}", started.elapsed());
        ensure!(said.trim() == "a", "{said:?}");
        until_tier(scene, "a", Tier::Running).await.map(drop)
    });
}

/// Prints how long an answer takes of a sandbox that runs, and of one that has to be woken first.
#[test]
#[ignore = "prints figures, and takes minutes"]
fn figures_of_waking() {
    scene::run(Duration::from_secs(240), async |scene| {
        let sandbox = with_idle(
            fixtures::sandbox("a", &fixtures::web_server()),
            "1s",
            "",
            "",
        );
        scene.create(&sandbox).await?;
        let (mut woken, mut awake) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let frozen = until_tier(scene, "a", Tier::Frozen).await?;
            let ip = address(&frozen)?;
            for times in [&mut woken, &mut awake] {
                let started = Instant::now();
                http::get(&ip, PORT, "/", ANSWER).await?;
                times.push(started.elapsed());
            }
            until_tier(scene, "a", Tier::Running).await?;
        }
        woken.sort_unstable();
        awake.sort_unstable();
        let middle = |times: &[Duration]| times[times.len() / 2];
        println!(
            "answered: p50 {:?} (max {:?}); woken and answered: p50 {:?} (max {:?})",
            middle(&awake),
            awake.last(),
            middle(&woken),
            woken.last()
        );
        Ok(())
    });
}
