//! The dedicated containerd and what belongs to it, on an instance of this test's own: kept through the ends of the
//! daemon, brought back after its own, and taken away without a trace.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use hearth_cri::{CriClient, Deadlines, ImageStore, PodRuntime, v1};
use hearth_node::cleanup::{CleanupConfig, CleanupError, cleanup};
use hearth_node::config::{Config, StorageConfig};
use hearth_node::host::{self, ContainerdHost, ContainerdMetrics, ContainerdState, Host, Runtime};
use hearth_node::paths::Paths;
use hearth_sys::{CgroupTree, Layout, link, mount, nft};
use hearth_tests::cluster::Cluster;
use hearth_tests::fixtures::{IMAGE, PORT};
use hearth_tests::http;
use hearth_tests::process::{self, ProcessId};
use hearth_tests::wait::wait_for;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use crate::LIMIT;

/// Names this test's instance to the process that plays its daemon.
const DAEMON_OF: &str = "HEARTH_TEST_DAEMON_OF";
/// For anything that is waited for, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What the daemon says of its containerd, one line of JSON each time.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    pid: i32,
    set_aside: Option<PathBuf>,
    /// Archives that were imported, not those that had been before.
    imported: usize,
    freeze_method: String,
}

/// An instance that is taken away at the end of the test, whatever its outcome.
struct Instance {
    id: String,
    bin_dir: PathBuf,
    images_dir: PathBuf,
}

impl Instance {
    fn new(cluster: &Cluster) -> Self {
        // Pids come back, and an earlier test may have been killed before it could clean.
        let since_1970 = UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            id: format!("h{:07x}", since_1970.as_nanos() & 0x0fff_ffff),
            bin_dir: cluster.dir().join("bin"),
            images_dir: cluster.dir().join("images"),
        }
    }

    fn config(&self) -> Config {
        // Of the network for benchmarks of network devices, which nobody routes; the same in all daemons.
        let subnet = self
            .id
            .bytes()
            .fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        Config {
            node_name: "host-test".to_owned(),
            instance: self.id.clone(),
            root_dir: std::env::temp_dir().join(format!("hearth-{}", self.id)),
            run_dir: Path::new("/run/hearth").join(&self.id),
            bin_dir: self.bin_dir.clone(),
            handlers: vec![Runtime::Runc.to_string()],
            images_dir: Some(self.images_dir.clone()),
            pause_image: "localhost/hearth-pause:dev".to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            advertise_address: None,
            metrics_listen: ([127, 0, 0, 1], 0).into(),
            pod_cidr: format!("198.18.{subnet}.0/24"),
            max_sandboxes: 16,
            max_parallel_creates: 1,
            min_parallel_creates: 1,
            pids_limit: 0,
            allow: Vec::new(),
            first_user_id: hearth_node::config::first_user_id(&self.id),
            reclaim_rate: 0,
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            kubernetes_service: None,
            leader_namespace: "none".to_owned(),
            leader_lease: "none".to_owned(),
            heartbeat: LONG,
            storage: StorageConfig::default(),
        }
    }

    fn paths(&self) -> Paths {
        self.config().paths()
    }

    fn cgroups(&self) -> Result<CgroupTree> {
        Ok(CgroupTree::new(
            Layout::discover(Path::new(Layout::ROOT))?,
            &self.id,
        )?)
    }

    fn cri(&self) -> CriClient {
        CriClient::new(&self.paths().containerd_socket(), Deadlines::uniform(LONG))
    }

    fn clean(&self) -> Vec<CleanupError> {
        clean(self.config())
    }

    /// Starts a daemon that prepares the host and watches containerd; what it says comes line by line.
    fn daemon(&self) -> Result<Daemon> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "host::daemon", "--ignored", "--nocapture"])
            .env(
                DAEMON_OF,
                serde_json::to_string(&(&self.id, &self.bin_dir, &self.images_dir))?,
            )
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        Ok(Daemon {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Everything on the machine that carries the instance's name.
    fn traces(&self) -> Result<BTreeSet<String>> {
        let paths = self.paths();
        let mut traces = BTreeSet::new();
        for directory in [paths.root(), paths.run()] {
            traces.extend(directory.exists().then(|| directory.display().to_string()));
            let mounts = mount::under(directory)?;
            traces.extend(mounts.iter().map(|mount| format!("{mount:?}")));
        }
        traces.extend(link::list(&paths.bridge())?);
        let filters = nft::Nft::new("nft", LONG).instances()?;
        traces.extend(filters.into_iter().filter(|id| *id == self.id));
        let cgroups = self.cgroups()?;
        traces.extend(cgroups.supervisor().exists().then(|| "cgroups".to_owned()));
        traces.extend(
            cgroups
                .processes()?
                .iter()
                .map(|pid| format!("process {pid}")),
        );
        for entry in fs::read_dir("/var/lib/cni/results").into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            traces.extend(name.starts_with(&paths.network()).then_some(name));
        }
        Ok(traces)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for error in self.clean() {
            eprintln!("left behind: {error}");
        }
    }
}

fn clean(config: Config) -> Vec<CleanupError> {
    cleanup(&CleanupConfig {
        instance: config.instance,
        root_dir: config.root_dir,
        run_dir: config.run_dir,
        keep_data: false,
    })
}

/// A process that plays hearthd; killed when dropped.
struct Daemon {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Daemon {
    /// What it says next.
    async fn word(&mut self) -> Result<Word> {
        let next = async {
            while let Some(line) = self.lines.next_line().await? {
                // The test harness has its own to say.
                if let Some(start) = line.find('{') {
                    return Ok(serde_json::from_str(&line[start..])?);
                }
            }
            bail!("the daemon has ended")
        };
        tokio::time::timeout(LONG, next)
            .await
            .context("the daemon says nothing")?
    }

    async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Waited for: cleanup refuses while a daemon of the instance runs.
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(Ok(Some(id))) = pid.map(hearth_sys::ProcessId::of)
            && let Ok(Some(process)) = id.open()
        {
            let _ = process.signal(hearth_sys::Signal::KILL);
            let _ = process.wait(LONG);
        }
    }
}

/// Plays hearthd for the test below, in a process that can be killed.
#[test]
#[ignore = "the test below runs it as a process of its own"]
fn daemon() {
    let of = std::env::var(DAEMON_OF).unwrap();
    let (id, bin_dir, images_dir) = serde_json::from_str(&of).unwrap();
    // What it makes is taken away by the process that started it.
    let instance = std::mem::ManuallyDrop::new(Instance {
        id,
        bin_dir,
        images_dir,
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let host = Host::prepare(&instance.config()).await.unwrap();
        let cri = Arc::new(instance.cri());
        let containerd = ContainerdHost::new(&host, cri.clone(), ContainerdMetrics::default());
        let mut state = containerd.state();
        tokio::spawn(containerd.run(CancellationToken::new()));
        let mut told = None;
        loop {
            let up = state.wait_for(|state| state.is_up() && told.as_ref() != Some(state));
            let up = up.await.unwrap().clone();
            let ContainerdState::Up {
                process, set_aside, ..
            } = &up
            else {
                unreachable!("waited for")
            };
            let images: &dyn ImageStore = &*cri;
            let imports = host::import_images(&host, images, &instance.images_dir).await;
            let imported = imports.unwrap().into_iter().filter(|import| {
                assert!(
                    !matches!(import.outcome, host::ImportOutcome::Failed(_)),
                    "{import:?}"
                );
                matches!(import.outcome, host::ImportOutcome::Imported)
            });
            let word = Word {
                pid: process.pid,
                set_aside: set_aside.clone(),
                imported: imported.count(),
                freeze_method: host::probe_freeze(&host, &*cri, Runtime::Runc)
                    .await
                    .freeze_method,
            };
            println!("{}", serde_json::to_string(&word).unwrap());
            told = Some(up);
        }
    });
}

#[test]
fn containerd_outlives_its_daemon_and_nothing_outlives_cleanup() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let test = async {
        let instance = Instance::new(&Cluster::of_environment()?);
        ensure!(
            instance.traces()?.is_empty(),
            "left by another: {:?}",
            instance.traces()?
        );
        story(&instance).await?;
        ensure!(
            instance.traces()?.is_empty(),
            "left behind: {:?}",
            instance.traces()?
        );
        let errors = instance.clean();
        ensure!(errors.is_empty(), "the second cleanup fails: {errors:?}");
        Ok::<_, anyhow::Error>(())
    };
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, test).await });
    ended.expect("the test takes too long").unwrap();
}

async fn story(instance: &Instance) -> Result<()> {
    let images = fs::read_dir(&instance.images_dir)?.count();
    let mut daemon = instance.daemon()?;
    let first = daemon.word().await?;
    ensure!(first.imported == images, "{first:?}: not {images} archives");
    ensure!(
        first.freeze_method.starts_with("cgroup-v"),
        "{first:?}: pods cannot be frozen"
    );
    let containerd = ProcessId::of(first.pid).context("containerd has ended")?;
    ensure!(
        instance
            .cri()
            .list_pod_sandboxes(v1::PodSandboxFilter::default())
            .await?
            .is_empty(),
        "the probe's pod is left"
    );

    let pod = Pod::run(instance).await?;
    pod.answers().await?;

    refuses_a_second_daemon(instance).await?;

    // The daemon is killed: containerd and pods go on, and the next daemon finds them.
    daemon.kill().await?;
    ensure!(containerd.is_alive(), "containerd ended with its daemon");
    pod.answers().await?;
    let mut daemon = instance.daemon()?;
    let second = daemon.word().await?;
    ensure!(
        second.pid == first.pid && containerd.is_alive(),
        "another containerd: {second:?}"
    );
    ensure!(second.imported == 0, "imported again: {second:?}");

    // containerd is killed: it comes back, and a frozen pod stays frozen.
    let freezer = instance.cgroups()?.pod(&pod.uid)?.freezer()?;
    freezer.freeze(LONG)?;
    containerd.kill().await?;
    let third = daemon.word().await?;
    ensure!(
        third.pid != first.pid && third.set_aside.is_none(),
        "{third:?}"
    );
    ensure!(freezer.is_frozen()?, "the pod was thawed");
    let status = instance
        .cri()
        .pod_sandbox_status(&pod.id)
        .await?
        .context("the pod is gone")?;
    ensure!(
        status.state() == v1::PodSandboxState::SandboxReady,
        "{status:?}"
    );
    freezer.thaw(LONG)?;
    pod.answers().await?;
    ensure!(
        process::roots(&pod.processes(instance)?) == pod.roots,
        "the pod's processes have changed"
    );

    // Its database is damaged: what ran from it goes, and a new one begins.
    damage(&instance.paths())?;
    ProcessId::of(third.pid)
        .context("containerd has ended")?
        .kill()
        .await?;
    let fourth = daemon.word().await?;
    ensure!(
        fourth.set_aside.as_ref().is_some_and(|path| path.exists()),
        "{fourth:?}"
    );
    ensure!(fourth.imported == images, "{fourth:?}: images are missing");
    // They are out of their cgroup, but the last of them ends only when the machine's init has reaped the others.
    wait_for("the pod that nobody knows has ended", LONG, async || {
        let left = pod.roots.iter().find(|process| process.is_alive());
        left.map_or(Ok(()), |process| Err(format!("{process:?} has not")))
    })
    .await?;
    let pod = Pod::run(instance).await?;
    pod.answers().await?;

    // Killed with a frozen pod, and taken away.
    instance.cgroups()?.pod(&pod.uid)?.freezer()?.freeze(LONG)?;
    daemon.kill().await?;
    let errors = instance.clean();
    ensure!(errors.is_empty(), "cleanup fails: {errors:?}");
    Ok(())
}

async fn refuses_a_second_daemon(instance: &Instance) -> Result<()> {
    let config = instance.config();
    // At once, for both wait a while.
    let cleaner = instance.config();
    let (refused, errors) = tokio::join!(
        Host::prepare(&config),
        tokio::task::spawn_blocking(move || clean(cleaner))
    );
    let errors = errors?;
    ensure!(
        matches!(refused, Err(host::HostError::Locked { .. })),
        "{refused:?}"
    );
    ensure!(
        matches!(errors[..], [CleanupError::Running { .. }]),
        "{errors:?}"
    );
    Ok(())
}

/// Overwrites pages of containerd's metadata, as a power cut without synced writes may leave them.
fn damage(paths: &Paths) -> Result<()> {
    let database = paths
        .containerd_root()
        .join("io.containerd.metadata.v1.bolt/meta.db");
    let file = fs::File::options().write(true).open(database)?;
    Ok(file.write_all_at(&[0; 8 << 12], 2 << 12)?)
}

/// A pod with a web server.
struct Pod {
    id: String,
    uid: String,
    ip: String,
    roots: BTreeSet<ProcessId>,
}

impl Pod {
    async fn run(instance: &Instance) -> Result<Self> {
        let cri = instance.cri();
        let uid = "web".to_owned();
        let cgroup = instance.cgroups()?.pod(&uid)?;
        cgroup.create()?;
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".to_owned(),
                namespace: "host-test".to_owned(),
                uid: uid.clone(),
                attempt: 0,
            }),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: cgroup.path().to_owned(),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        };
        let id = cri
            .run_pod_sandbox(config.clone(), Runtime::Runc.handler())
            .await?;
        let script = "mkdir -p /www; echo hearth > /www/index.html; exec httpd -f -p 8888 -h /www";
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "web".to_owned(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: IMAGE.to_owned(),
                ..v1::ImageSpec::default()
            }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            ..v1::ContainerConfig::default()
        };
        let container = cri.create_container(&id, container, config).await?;
        cri.start_container(&container).await?;
        let status = cri.pod_sandbox_status(&id).await?.context("no pod")?;
        let ip = status.network.context("the pod has no network")?.ip;
        let mut pod = Self {
            id,
            uid,
            ip,
            roots: BTreeSet::new(),
        };
        pod.answers().await?;
        pod.roots = process::roots(&pod.processes(instance)?);
        Ok(pod)
    }

    async fn answers(&self) -> Result<()> {
        wait_for("the pod answers", LONG, async || {
            let answer = http::get(&self.ip, PORT, "/", LONG).await;
            answer.map(drop).map_err(|error| format!("{error:#}"))
        })
        .await
    }

    fn processes(&self, instance: &Instance) -> Result<BTreeSet<i32>> {
        Ok(instance.cgroups()?.pod(&self.uid)?.processes()?)
    }
}

#[test]
fn cleanup_is_complete_whenever_the_daemon_was_killed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let test = async {
        let cluster = Cluster::of_environment()?;
        // From before the first directory until after the probe's pod, on a machine of any speed.
        for millis in [0, 10, 30, 60, 100, 150, 200, 300, 500, 1000, 2000] {
            let instance = Instance::new(&cluster);
            let mut daemon = instance.daemon()?;
            let word = tokio::time::timeout(Duration::from_millis(millis), daemon.word()).await;
            let when = format!("killed after {millis} ms, when it had said {word:?}");
            daemon.kill().await?;
            let errors = instance.clean();
            ensure!(errors.is_empty(), "{when}: {errors:?}");
            ensure!(
                instance.traces()?.is_empty(),
                "{when}: {:?}",
                instance.traces()?
            );
        }
        Ok::<_, anyhow::Error>(())
    };
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, test).await });
    ended.expect("the test takes too long").unwrap();
}

#[test]
fn a_machine_that_lacks_programs_is_refused_in_sentences() {
    let empty = tempfile::tempdir().unwrap();
    let instance = Instance {
        id: "hnothing".to_owned(),
        bin_dir: empty.path().to_owned(),
        images_dir: empty.path().to_owned(),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime
        .block_on(Host::prepare(&instance.config()))
        .unwrap_err();
    let host::HostError::Problems(problems) = error else {
        panic!("{error}")
    };
    for program in ["containerd", "runc", "ctr", "bridge", "host-local"] {
        let path = empty.path().join(program);
        let named = problems.iter().any(|p| p.contains(path.to_str().unwrap()));
        assert!(named, "{program} is not in {problems:#?}");
    }
    let traces = instance.traces().unwrap();
    assert!(traces.is_empty(), "the self-check comes first: {traces:?}");
}
