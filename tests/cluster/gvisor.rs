//! gVisor: what the suite asks of ordinary containers asked again of these, and what is different about them.
//!
//! What gVisor cannot do is listed in `runtimes/gvisor/README.md`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::reason;
use hearth_api::{OperatingMode, Sandbox, Tier};
use hearth_sys::{CgroupTree, Layout};
use hearth_tests::fixtures::{self, PORT};
use hearth_tests::gvisor::Sentry;
use hearth_tests::http;
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{self, members, pod_uid, ready};
use hearth_tests::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::lifecycle::set_mode;

/// How long a test may take: a pod costs about a second of CPU.
const LIMIT: Duration = Duration::from_secs(180);
/// The RuntimeClass.
const CLASS: &str = "gvisor";

/// Runs tests of other modules with all their pods on gVisor.
macro_rules! again {
    ($($module:ident: $($test:ident),+;)+) => {
        $(mod $module {
            $(#[test]
            fn $test() {
                hearth_tests::fixtures::with_runtime_class(super::CLASS, crate::$module::$test);
            })+
        })+
    };
}

again! {
    pods:
        containers_of_a_pod_share_volumes_and_network_and_have_their_own_environment,
        a_sandbox_is_not_ready_before_its_http_probe_says_so,
        processes_get_a_chance_to_end_by_themselves,
        what_a_pod_ended_with_is_its_last_word;
    containers:
        init_containers_run_in_order_with_a_sidecar_beside_them,
        an_init_container_that_fails_for_good_fails_the_pod,
        hooks_run_after_the_start_and_before_the_stop;
    configs:
        a_sandbox_waits_for_its_config_and_sees_it_change,
        members_of_a_pool_have_what_their_template_names,
        parts_of_volumes_are_mounted_and_a_link_does_not_lead_out_of_one;
    frozen:
        a_frozen_member_does_not_answer_until_it_is_claimed;
    lifecycle:
        suspending_ends_the_pod_and_resuming_starts_another_of_the_same_name,
        a_frozen_sandbox_can_be_suspended_and_a_frozen_one_deleted;
    ctl:
        a_frozen_member_is_listed_and_runs_a_command_and_is_frozen_again;
}

/// A test with all pods on gVisor.
fn run(test: impl AsyncFnOnce(&Scene) -> Result<()>) {
    fixtures::with_runtime_class(CLASS, || scene::run(LIMIT, test));
}

async fn sentry(scene: &Scene, pod_uid: &str) -> Result<Sentry> {
    let sentry = Sentry::of(&scene.cluster, &scene.containerd, pod_uid).await?;
    sentry.context("the pod does not run on gVisor")
}

#[test]
fn the_node_says_how_it_freezes_gvisor() {
    run(async |scene| {
        let api = kube::Api::<hearth_api::SandboxNode>::all(scene.client.clone());
        let node = api.get(scene.cluster.node_name()).await?;
        let handlers = node.status.unwrap_or_default().handlers;
        let found = handlers.iter().find(|handler| handler.name == "runsc");
        let found = found.with_context(|| format!("no runsc in {handlers:?}"))?;
        ensure!(found.freeze_method == "sentry", "{found:?}");
        let metrics = scene.cluster.node_metrics().await?;
        let line = r#"hearth_node_handler_can_freeze{handler="runsc",method="sentry"} 1"#;
        ensure!(metrics.lines().any(|l| l == line), "no {line}");
        Ok(())
    });
}

#[test]
fn claims_in_a_row_each_wake_their_own_sandbox() {
    run(async |scene| {
        scene.stocked_pool("pool", 2).await?;
        for number in 0..6 {
            let before = scene.until_stocked("pool", 2).await?;
            for member in &before {
                let frozen = scene.is_frozen(&pod_uid(member)?).await?;
                ensure!(frozen, "a member runs before claim {number}");
            }
            let claimed = scene.claim(&format!("c{number}"), "pool", COLD).await?;
            scene.check_answers(&claimed).await?;
            for member in &before {
                let mine = member.metadata.name.as_ref() == Some(&claimed.sandbox);
                let frozen = scene.is_frozen(&pod_uid(member)?).await?;
                ensure!(frozen != mine, "after claim {number} frozen is {frozen}");
            }
            scene.release(&claimed).await?;
        }
        Ok(())
    });
}

#[test]
fn limits_hold_for_the_sentry_and_all_that_it_runs() {
    run(async |scene| {
        let mut busy = fixtures::script("Always", "while :; do :; done");
        busy["containers"][0]["resources"] = json!({"limits": {"cpu": "200m", "memory": "256Mi"}});
        scene.create(&fixtures::sandbox("busy", &busy)).await?;
        let uid = pod_uid(&*scene.until_ready("busy", COLD).await?)?;
        let limits = scene.cgroups.limits(&uid)?;
        ensure!(
            // The class adds 64 MiB.
            (limits.memory_bytes, limits.milli_cpu) == (Some(320 << 20), Some(200)),
            "the runtime has changed what was written: {limits:?}"
        );
        ensure!(limits.pids.is_some(), "{limits:?}");

        let layout = Layout::discover(std::path::Path::new(Layout::ROOT))?;
        let cgroup = CgroupTree::new(layout, scene.cluster.instance())?.pod(&uid)?;
        let pid = sentry(scene, &uid).await?.process().await?.pid;
        let inside = cgroup.processes()?;
        ensure!(inside.contains(&pid), "{pid} is not of {inside:?}");
        // A fifth of the CPU time that passes, and not more: what it got is compared with the clock, both from a moment on.
        let (used, began) = (cgroup.usage()?.cpu_micros, std::time::Instant::now());
        wait_for("the loop has got CPU time", COLD, async || {
            let used_now = cgroup.usage().map_err(|error| error.to_string())?;
            let got = Duration::from_micros(used_now.cpu_micros - used);
            match got >= Duration::from_millis(400) {
                true => Ok(()),
                false => Err(format!("it got {got:?}")),
            }
        })
        .await?;
        let passed = began.elapsed();
        // 400 ms are those of 2 s; a period of 100 ms may have been begun before.
        ensure!(passed >= Duration::from_millis(1500), "it took {passed:?}");

        // Memory that the application takes is the Sentry's.
        let mut greedy = fixtures::script("Never", "exec tail -c 1000000000 /dev/zero");
        greedy["containers"][0]["resources"] = json!({"limits": {"memory": "160Mi"}});
        scene.create(&fixtures::sandbox("greedy", &greedy)).await?;
        let failed = reason::POD_FAILED;
        scene
            .until_condition("greedy", "Finished", "True", failed, COLD)
            .await?;
        // The rest of the node does not notice.
        ensure!(sentry(scene, &uid).await?.process().await?.pid == pid);
        Ok(())
    });
}

#[test]
fn frozen_sandboxes_outlive_the_kills_of_hearthd_and_containerd() {
    run(async |scene| {
        scene.stocked_pool("pool", 2).await?;
        let before = scene.until_stocked("pool", 2).await?;
        let mut sentries = Vec::new();
        for member in &before {
            let uid = pod_uid(member)?;
            sentries.push((uid.clone(), sentry(scene, &uid).await?.process().await?));
        }
        let still_frozen = async |when: &str| {
            for (uid, process) in &sentries {
                ensure!(scene.is_frozen(uid).await?, "{uid} runs {when}");
                let now = sentry(scene, uid).await?.process().await?;
                ensure!(now == *process, "{uid} has another Sentry {when}");
            }
            Ok(())
        };
        scene.cluster.hearthd().kill_and_wait().await?;
        scene.cluster.hearthd().wait_well().await?;
        scene.until_stocked("pool", 2).await?;
        still_frozen("after hearthd was killed").await?;

        scene.containerd.kill().await?;
        scene.containerd.wait_well().await?;
        scene.until_node_agrees(AWAY).await?;
        scene.until_stocked("pool", 2).await?;
        still_frozen("after containerd was killed").await?;

        let claimed = scene.claim("mine", "pool", COLD).await?;
        let uids: Vec<_> = sentries.iter().map(|(uid, _)| uid).collect();
        let sandbox = scene.sandboxes.now().get(&claimed.sandbox).cloned();
        let uid = pod_uid(&*sandbox.context("the claimed sandbox is gone")?)?;
        ensure!(uids.contains(&&uid), "it is a new pod");
        scene.check_answers(&claimed).await
    });
}

#[test]
fn a_sentry_that_dies_paused_is_not_handed_out() {
    run(async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let before = scene.until_stocked("pool", 1).await?;
        let uid = pod_uid(&before[0])?;
        // As the kernel does when memory runs out.
        let process = sentry(scene, &uid).await?.process().await?;
        process.kill().await?;
        wait_for("a live member is ready and frozen", COLD, async || {
            let all = members(&scene.sandboxes.now(), "pool");
            let member = all.iter().find(|member| ready(member).is_ok());
            let member = member.ok_or("none is ready")?;
            let now = pod_uid(member).map_err(|error| error.to_string())?;
            let process_now = match sentry(scene, &now).await {
                Ok(sentry) => sentry.process().await,
                Err(error) => Err(error),
            };
            let process_now = process_now.map_err(|error| format!("{error:#}"))?;
            if process_now == process {
                return Err("it is the dead one".to_owned());
            }
            match scene.is_frozen(&now).await {
                Ok(true) => Ok(()),
                other => Err(format!("frozen: {other:?}")),
            }
        })
        .await?;
        let claimed = scene.claim("mine", "pool", COLD).await?;
        scene.check_answers(&claimed).await
    });
}

#[test]
fn a_sentry_that_does_not_answer_is_not_said_to_be_frozen() {
    run(async |scene| {
        for name in ["stuck", "other"] {
            scene
                .create(&fixtures::sandbox(name, &fixtures::web_server()))
                .await?;
        }
        let stuck = scene.until_ready("stuck", COLD).await?;
        scene.until_ready("other", COLD).await?;
        let process = sentry(scene, &pod_uid(&stuck)?).await?.process().await?;
        let stopped = Stopped::stop(process.pid)?;
        set_mode(scene, "stuck", OperatingMode::Frozen).await?;
        let says = |sandbox: &Sandbox| {
            let node = sandbox.status.clone().unwrap_or_default().node;
            let node = node.unwrap_or_default();
            ensure!(node.tier != Some(Tier::Frozen), "it says that it is frozen");
            Ok(node.message)
        };
        scene
            .sandboxes
            .until_one("stuck", "says that it cannot be frozen", COLD, |sandbox| {
                let message = says(sandbox).map_err(|error| error.to_string())?;
                match message.contains("runsc-") {
                    true => Ok(()),
                    false => Err(format!("it says {message:?}")),
                }
            })
            .await?;
        // The others do not wait for it.
        set_mode(scene, "other", OperatingMode::Frozen).await?;
        scene
            .until_condition("other", "Suspended", "True", reason::FROZEN, COLD)
            .await?;
        drop(stopped);
        scene
            .until_condition("stuck", "Suspended", "True", reason::FROZEN, COLD)
            .await?;
        ensure!(scene.is_frozen(&pod_uid(&stuck)?).await?, "it runs");
        set_mode(scene, "stuck", OperatingMode::Running).await?;
        let after = scene.until_ready("stuck", COLD).await?;
        ensure!(pod_uid(&after)? == pod_uid(&stuck)?, "it is another pod");
        let ip = status::address(&after)?;
        http::get(&ip, PORT, "/", COLD).await.map(drop)
    });
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: i32) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("no pid")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}
