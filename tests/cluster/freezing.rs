//! Figures of freezing for `docs/benchmarks.md`: by handler, over many cycles, with requests under way.
//!
//! `cargo test --package hearth-tests --features=cluster --test=cluster -- --ignored --nocapture figures_of_freezing`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hearth_core::ids::PodUid;
use hearth_cri::{PodRuntime as _, v1};
use hearth_node::freezers::{FreezeTarget, Freezers};
use hearth_sys::{CgroupTree, Freezer, Layout};
use hearth_tests::fixtures::{self, PORT};
use hearth_tests::scene::{self, COLD, Scene};
use hearth_tests::status::{address, pod_uid};
use hearth_tests::{http, process};

/// How long one freeze, thaw or request may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Cycles for each handler: `HEARTH_FREEZE_CYCLES`, or as many as a p99 needs.
fn cycles() -> usize {
    let told = std::env::var("HEARTH_FREEZE_CYCLES").ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(1000)
}

#[test]
#[ignore = "prints figures, and takes minutes"]
fn figures_of_freezing() {
    for class in ["runc", "gvisor"] {
        fixtures::with_runtime_class(class, || {
            scene::run(Duration::from_secs(1800), async |scene| {
                measure(scene, class).await
            });
        });
    }
}

async fn measure(scene: &Scene, class: &str) -> Result<()> {
    // Without a probe, which would find it frozen.
    let mut pod = fixtures::web_server();
    pod["containers"][0]
        .as_object_mut()
        .context("no container")?
        .remove("readinessProbe");
    scene.create(&fixtures::sandbox("web", &pod)).await?;
    let sandbox = scene.until_ready("web", COLD).await?;
    let (uid, ip) = (pod_uid(&sandbox)?, address(&sandbox)?);
    let freezer = freezer(scene, &uid).await?;
    let background = Background::start(ip.clone());
    let (mut freezes, mut thaws, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..cycles() {
        let (this, began) = (Arc::clone(&freezer), Instant::now());
        tokio::task::spawn_blocking(move || this.freeze(WITHIN)).await??;
        freezes.push(began.elapsed());
        let (this, began) = (Arc::clone(&freezer), Instant::now());
        tokio::task::spawn_blocking(move || this.thaw(WITHIN)).await??;
        thaws.push(began.elapsed());
        http::get(&ip, PORT, "/", WITHIN).await?;
        answers.push(began.elapsed());
    }
    let others = background.stop().await?;
    println!(
        "{class} by {}, {} cycles, {others} other requests answered: freeze {}, thaw {}, thaw and an answer {}",
        freezer.method().as_str(),
        freezes.len(),
        summary(freezes),
        summary(thaws),
        summary(answers)
    );
    let this = Arc::clone(&freezer);
    tokio::task::spawn_blocking(move || this.freeze(WITHIN)).await??;
    println!("{class}, frozen: {}", memory(scene, &uid)?);
    tokio::task::spawn_blocking(move || freezer.thaw(WITHIN)).await??;
    Ok(())
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |per_cent: usize| times.get(times.len() * per_cent / 100).copied();
    format!("p50 {:?} p99 {:?}", at(50), at(99))
}

/// The freezer that hearthd would use, which does nothing to a sandbox that is to run.
async fn freezer(scene: &Scene, uid: &str) -> Result<Arc<dyn Freezer>> {
    let filter = v1::PodSandboxFilter {
        label_selector: [("io.kubernetes.pod.uid".to_owned(), uid.to_owned())].into(),
        ..v1::PodSandboxFilter::default()
    };
    let pods = scene.containerd.cri().list_pod_sandboxes(filter).await?;
    let pod = pods
        .into_iter()
        .next()
        .context("containerd has no such pod")?;
    let layout = Layout::discover(Path::new(Layout::ROOT))?;
    let cgroups = CgroupTree::new(layout, scene.cluster.instance())?;
    let run = PathBuf::from("/run/hearth").join(scene.cluster.instance());
    let target = FreezeTarget {
        pod: PodUid::from(uid),
        handler: pod.runtime_handler,
        sandbox: pod.id,
        containers: Vec::new(),
    };
    let freezers = Freezers::new(cgroups, run.join("runsc"), None);
    Ok(tokio::task::spawn_blocking(move || freezers.of(&target)).await??)
}

/// Proportional memory of the pod's processes and of the shims of the instance, by program.
fn memory(scene: &Scene, uid: &str) -> Result<String> {
    let layout = Layout::discover(Path::new(Layout::ROOT))?;
    let tree = CgroupTree::new(layout, scene.cluster.instance())?;
    let mut pids: Vec<i32> = tree.pod(uid)?.processes()?.into_iter().collect();
    let shims = tree.supervisor().processes()?;
    pids.extend(
        shims
            .into_iter()
            .filter(|pid| process::comm(*pid).starts_with("containerd-shim")),
    );
    let mut lines = Vec::new();
    for pid in pids {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let pss = text.unwrap_or_default();
        let pss = pss.lines().find_map(|line| line.strip_prefix("Pss:"));
        lines.push(format!(
            "{} {}",
            process::comm(pid),
            pss.unwrap_or("gone").trim()
        ));
    }
    Ok(lines.join(", "))
}

/// Requests that are under way whatever happens to the pod.
struct Background {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<()>>,
    answered: Arc<AtomicUsize>,
}

impl Background {
    fn start(ip: String) -> Self {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                http::get(&ip, PORT, "/", WITHIN).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self {
            stop,
            task,
            answered,
        }
    }

    /// How many were answered; all must have been.
    async fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        let answered = self.answered.load(Ordering::Relaxed);
        ensure!(answered > 0, "no request was under way");
        Ok(answered)
    }
}
