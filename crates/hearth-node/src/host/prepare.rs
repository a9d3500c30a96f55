//! Making the machine ready for pods.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_sys::nft::{Nft, NodePolicy};
use hearth_sys::{CgroupTree, Layout, check, sysctl};
use tracing::info;

use super::{HostError, Runtime, files, handlers, render};
use crate::config::Config;
use crate::freezers::{Freezers, TaskApi};
use crate::paths::Paths;

/// The programs of the bin directory that pods need, whatever their runtime.
const PROGRAMS: [&str; 4] = ["containerd", "ctr", "bridge", "host-local"];
/// The tools of the host.
const TOOLS: [&str; 2] = ["nft", "ip"];

/// What the note says of forwarding before this instance: off, on.
pub(crate) const FORWARDED_BEFORE: [&[u8]; 2] = [b"0", b"1"];

/// How long a tool of the host may take.
pub(crate) const TOOL_LIMIT: Duration = Duration::from_secs(20);

/// A machine that is ready for pods. Clones are the same; while one of them lives, no other daemon of the instance
/// can prepare it.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    paths: Paths,
    bin_dir: PathBuf,
    pause_image: String,
    runtimes: Vec<Runtime>,
    cgroups: CgroupTree,
    freezers: Freezers,
    containerd_config_digest: String,
    _lock: File,
}

impl Host {
    /// Makes directories, cgroups, the packet filter and the configuration of containerd and of the network. Harmless
    /// when all is there already, and with running pods.
    ///
    /// # Errors
    /// [`HostError::Problems`] has everything that the machine lacks; [`HostError::Locked`] when another daemon of the
    /// instance runs.
    pub async fn prepare(config: &Config) -> Result<Self, HostError> {
        let config = config.clone();
        tokio::task::spawn_blocking(|| prepare(config))
            .await
            .map_err(HostError::Abandoned)?
    }

    /// The instance's cgroups.
    #[must_use]
    pub fn cgroups(&self) -> &CgroupTree {
        &self.inner.cgroups
    }

    /// The runtimes of the node, containerd's default one first.
    #[must_use]
    pub fn runtimes(&self) -> &[Runtime] {
        &self.inner.runtimes
    }

    /// Where everything lies, free of symbolic links.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.inner.paths
    }

    /// The freezers of the instance's pods.
    #[must_use]
    pub fn freezers(&self) -> Freezers {
        self.inner.freezers.clone()
    }

    pub(super) fn pause_image(&self) -> &str {
        &self.inner.pause_image
    }

    /// A program of the bin directory.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.inner.bin_dir.join(name)
    }

    pub(super) fn containerd_config_digest(&self) -> &str {
        &self.inner.containerd_config_digest
    }
}

fn prepare(mut config: Config) -> Result<Host, HostError> {
    config.check().map_err(HostError::Config)?;
    let runtimes = handlers::choose(&config.handlers, &config.bin_dir);
    self_check(&config, &runtimes)?;
    files::private_dir(&config.root_dir)?;
    files::passage(&config.run_dir)?;
    for directory in [&config.root_dir, &config.run_dir] {
        files::claim(directory, &config.instance)?;
    }
    // Mounts are known by their real places.
    for directory in [
        &mut config.root_dir,
        &mut config.run_dir,
        &mut config.bin_dir,
    ] {
        *directory = real(directory)?;
    }
    // A short name may have stood for a long one.
    config.check().map_err(HostError::Config)?;
    let paths = config.paths();
    let lock = lock(&paths.lock())?;
    for directory in [
        paths.logs(),
        paths.pods(),
        paths.tls(),
        paths.registries(),
        paths.containerd_root(),
        paths.shim_sockets(),
        paths.runc_state(),
        paths.runsc_state(),
        paths.cni_conf(),
        paths.cni_data(),
    ] {
        files::private_dir(&directory)?;
    }
    files::passage(&paths.containerd_state())?;
    let cgroups = cgroups(&config.instance)?;
    network(&config, &paths)?;
    let freezers = freezers(&runtimes, &cgroups, &paths)?;
    for (name, text) in render::runtime_files(&config, &paths, &runtimes) {
        files::write(&paths.root().join(name), text.as_bytes())?;
    }
    let may_lower = check::may_lower_oom_scores();
    let text = render::containerd(&config, &paths, &runtimes, may_lower);
    files::write(&paths.containerd_config(), text.as_bytes())?;
    info!(
        handlers = ?runtimes,
        root_dir = %paths.root().display(),
        run_dir = %paths.run().display(),
        "the host is prepared"
    );
    Ok(Host {
        inner: Arc::new(Inner {
            paths,
            bin_dir: config.bin_dir,
            pause_image: config.pause_image,
            runtimes,
            cgroups,
            freezers,
            containerd_config_digest: files::digest_of(&text),
            _lock: lock,
        }),
    })
}

fn self_check(config: &Config, runtimes: &[Runtime]) -> Result<(), HostError> {
    let programs = PROGRAMS
        .iter()
        .chain(runtimes.iter().flat_map(|runtime| runtime.programs()))
        .map(|name| config.bin_dir.join(name));
    let needs = check::Needs {
        cgroup_root: Layout::ROOT.into(),
        programs: programs.chain(TOOLS.map(PathBuf::from)).collect(),
    };
    let problems = check::host(&needs);
    if problems.is_empty() {
        return Ok(());
    }
    let sentences = problems.into_iter().map(|problem| problem.sentence);
    Err(HostError::Problems(sentences.collect()))
}

fn real(path: &Path) -> Result<PathBuf, HostError> {
    path.canonicalize()
        .map_err(|source| HostError::io("find the real path of", path, source))
}

fn lock(path: &Path) -> Result<File, HostError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| HostError::io("open", path, source))?;
    let locked = files::lock(file).map_err(|source| HostError::io("lock", path, source))?;
    locked.ok_or_else(|| HostError::Locked {
        path: path.to_owned(),
    })
}

fn cgroups(instance: &str) -> Result<CgroupTree, HostError> {
    let layout = Layout::discover(Path::new(Layout::ROOT)).map_err(HostError::Cgroup)?;
    let tree = CgroupTree::new(layout, instance).map_err(HostError::Cgroup)?;
    tree.create().map_err(HostError::Cgroup)?;
    Ok(tree)
}

fn freezers(
    runtimes: &[Runtime],
    cgroups: &CgroupTree,
    paths: &Paths,
) -> Result<Freezers, HostError> {
    let socket = paths.containerd_socket();
    let tasks = runtimes.contains(&Runtime::Kata).then(|| {
        TaskApi::start(&socket).map_err(|source| HostError::io("speak to", &socket, source))
    });
    let tasks = tasks.transpose()?;
    Ok(Freezers::new(cgroups.clone(), paths.runsc_state(), tasks))
}

fn network(config: &Config, paths: &Paths) -> Result<(), HostError> {
    let switch = Path::new("/proc/sys/net/ipv4/ip_forward");
    let before = sysctl::ip_forward().map_err(|source| HostError::io("read", switch, source))?;
    // Noted before it is changed, and only once: after a restart the switch is our own.
    if files::read_if_exists(&paths.forwarding_note())?.is_none() {
        files::write(
            &paths.forwarding_note(),
            FORWARDED_BEFORE[usize::from(before)],
        )?;
    }
    sysctl::set_ip_forward(true).map_err(|source| HostError::io("write", switch, source))?;
    let policy = NodePolicy {
        instance: config.instance.clone(),
        bridge: paths.bridge(),
        pod_cidr: config.pod_cidr.clone(),
    };
    Nft::new("nft", TOOL_LIMIT)
        .apply(&policy)
        .map_err(HostError::Filter)?;
    let text = render::network(config, paths);
    files::write(
        &paths.cni_conf().join("10-hearth.conflist"),
        text.as_bytes(),
    )
}
