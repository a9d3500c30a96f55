//! `cargo xtask vm-test`: the node on the production platform, unified cgroup v2 under systemd, which
//! a development machine need not have.
//!
//! The control plane and the controller run on this machine as always; hearthd, its containerd and
//! the tests run in a small Debian guest under software emulation, which is the cluster's one node.
//! They meet over QEMU's user network: in the guest [`HOST`] is this machine's loopback, and the
//! node API's port is forwarded from loopback into the guest. Emulation is slow, so this shows what
//! is right and never how fast it is.

mod image;
mod machine;
mod payload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::apt::{self, Consent};
use crate::cargo;
use crate::components;
use crate::control_plane;
use crate::deploy;
use crate::down::down;
use crate::hearth;
use crate::install::install_self;
use crate::instance::Instance;
use crate::paths::Layout;
use crate::pki;
use crate::system;
use crate::ui;

/// The guest's name as a node.
const NODE_NAME: &str = "hearth-guest";
/// This machine's loopback, as QEMU's user network shows it to the guest.
const HOST: &str = pki::GUEST_SEES_HOST_AS;
/// The cluster's directory in the guest.
const GUEST_ROOT: &str = "/hearth";
/// From power-on to power-off. A quiet machine needs a third of it.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// The cluster tests that run in the guest: what depends on cgroups and the freezer, and enough of
/// the rest to know that a pod is a pod there. Of `env` those in which a container is killed by its
/// cgroup; where the daemon is killed as well its supervisor is needed, which is not in the guest.
/// What is the runtime's and the daemon's alone, like messages and grace periods, is not emulated:
/// the machine's own suite has it, and each cold start takes several seconds here.
const CLUSTER_TESTS: &[&str] = &[
    "env::a_member_has_a_claims_variables_when_it_is_ready_and_keeps_its_pod_and_volumes",
    "env::one_that_does_not_come_up_with_its_variables_says_so_and_leaves_nothing",
    "frozen::a_frozen_member_does_not_answer_until_it_is_claimed",
    "lifecycle::freezing_stops_the_very_same_processes_and_thawing_wakes_them",
    "lifecycle::suspending_ends_the_pod_and_resuming_starts_another_of_the_same_name",
    "pods::a_container_that_runs_out_of_memory_says_so",
    "pods::limits_of_the_containers_are_written_on_the_pods_cgroup",
    "resources::a_container_that_forks_without_end_hurts_only_itself",
    "resources::limits_of_the_pod_as_a_whole_hold_for_its_containers_together",
];

/// What is tested in the guest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Parts of names of cluster tests; none means [`CLUSTER_TESTS`].
    pub(crate) filters: Vec<String>,
}

/// Runs the tests in a guest, and takes everything away again.
pub(crate) fn test(layout: &Layout, consent: Consent, options: &Options) -> Result<()> {
    system::require_root()?;
    apt::ensure_packages(consent)?;
    apt::ensure_guest_packages(consent)?;
    down(layout)?;
    let tested = run(layout, options);
    let cleaned = down(layout);
    match (tested, cleaned) {
        (Err(first), Err(second)) => Err(first.context(format!("moreover: {second:#}"))),
        (tested, cleaned) => tested.and(cleaned),
    }
}

fn run(layout: &Layout, options: &Options) -> Result<()> {
    let image = image::ensure()?;
    let tests = cargo::build_tests(&["kernel", "cluster"])?;
    let guest = start_host(layout)?;
    let disk = payload::write(layout, &guest, &tests, &filters(options))?;
    ui::heading("in the guest");
    machine::run(layout, &image, &disk, guest.instance.ports.node_api, LIMIT)
}

fn filters(options: &Options) -> Vec<String> {
    if options.filters.is_empty() {
        CLUSTER_TESTS.iter().map(|&name| name.to_owned()).collect()
    } else {
        options.filters.clone()
    }
}

/// What the guest needs to know of the cluster that it joins.
struct Joining {
    /// The recorded facts, as they are in the guest.
    instance: Instance,
    /// hearthd's token.
    token: String,
}

impl Joining {
    /// The cluster's directory in the guest.
    fn layout() -> Result<Layout> {
        Layout::new(Some(Path::new(GUEST_ROOT)))
    }
}

/// Starts everything of the cluster but its node.
fn start_host(layout: &Layout) -> Result<Joining> {
    ui::heading(format!("cluster in {}", layout.root().display()));
    let _lock = layout.lock()?;
    let instance = Instance::ensure(layout, false, NODE_NAME.to_owned())?;
    components::provide(layout, true)?;
    install_self(layout)?;
    let server = control_plane::start(layout, &instance)?;
    deploy::apply(layout, &instance)?;
    let token = hearth::start_without_node(layout, &instance, &server)?;
    let instance = Instance {
        id: Joining::layout()?.instance_id(),
        ..instance
    };
    Ok(Joining { instance, token })
}

/// Where something of this machine stands below the root of a directory tree that becomes a disk.
fn below(tree: &Path, path: &Path) -> Result<PathBuf> {
    let inside = path
        .strip_prefix(GUEST_ROOT)
        .with_context(|| format!("{} is not below {GUEST_ROOT}", path.display()))?;
    Ok(tree.join(inside))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_tests_of_the_guest_are_there() {
        let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cluster");
        for name in CLUSTER_TESTS {
            let (module, test) = name.split_once("::").unwrap();
            let source = fs::read_to_string(cluster.join(format!("{module}.rs"))).unwrap();
            assert!(source.contains(&format!("fn {test}(")), "{name}");
        }
    }
}
