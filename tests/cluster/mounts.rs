//! What is mounted of volumes on a node, and that nothing is emptied or removed under it. No daemon is needed for this.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use hearth_api::{PodSpecJson, SandboxSpec};
use hearth_core::ids::PodUid;
use hearth_core::podspec::{self, PodPlan};
use hearth_core::volumes::{Backing, Location};
use hearth_node::freezers::Freezers;
use hearth_node::pod::{HostError, PodHost as _, SysHost};
use hearth_node::volumes::{OwnVolumes, VolumeError};
use hearth_sys::{CgroupTree, Layout, mount};
use serde_json::{Value, json};

use crate::volumes::{pod, template};

/// Directories of a node.
struct Node {
    own: OwnVolumes,
    host: SysHost,
    root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let root = directory.path().canonicalize()?;
        let own = OwnVolumes::new(root.join("volumes"), root.join("wiped"), root.join("pods"));
        let cgroups = CgroupTree::new(Layout::discover(Path::new(Layout::ROOT))?, "volumes")?;
        Ok(Self {
            host: SysHost::new(
                cgroups.clone(),
                Freezers::new(cgroups, root.join("runsc"), None),
                root.join("pods"),
                root.join("state"),
                own.clone(),
            ),
            own,
            root,
            _directory: directory,
        })
    }

    fn make(&self, pod: &PodUid, volume: &str) -> Result<PathBuf> {
        let data = self.own.make(volume, 1)?;
        std::fs::write(data.join("file"), "kept")?;
        let plan = plan()?;
        let location = Location {
            volume: volume.to_owned(),
            backing: Backing::Ours,
        };
        let locations = [("data".to_owned(), location)].into();
        self.host
            .make_volumes(pod, &plan, &Default::default(), &locations)?;
        // Again, as after a daemon that was killed; by then nobody may know where they are.
        self.host
            .make_volumes(pod, &plan, &Default::default(), &Default::default())?;
        Ok(data)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = mount::unmount_all(&self.root);
    }
}

fn plan() -> Result<PodPlan> {
    let mut spec = SandboxSpec::default();
    spec.pod_template.spec = PodSpecJson::from_value(&pod_with_volumes())?;
    spec.volume_claim_templates = vec![template("hearth-local")];
    podspec::plan(
        &spec,
        None,
        &podspec::Admission::default(),
        &podspec::Support::default(),
    )
    .map_err(|refusal| anyhow::anyhow!("{refusal}"))
}

fn pod_with_volumes() -> Value {
    let mut pod = pod();
    pod["volumes"] = json!([
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]);
    pod
}

#[test]
fn a_volume_that_a_pod_has_mounted_is_not_wiped() -> Result<()> {
    let (node, pod) = (Node::new()?, PodUid::from("p"));
    let data = node.make(&pod, "pvc-1")?;
    let mounted = node.host.volumes(&pod).join("data/file");
    ensure!(
        std::fs::read_to_string(&mounted)? == "kept",
        "it is not mounted"
    );
    let wiped = node.own.wipe("pvc-1");
    ensure!(matches!(wiped, Err(VolumeError::InUse { .. })), "{wiped:?}");
    ensure!(std::fs::read_to_string(data.join("file"))? == "kept");
    node.host.remove_volumes(&pod)?;
    ensure!(mount::under(&node.root)?.is_empty(), "mounts are left");
    ensure!(
        std::fs::read_to_string(data.join("file"))? == "kept",
        "it went with its pod"
    );
    node.own.wipe("pvc-1")?;
    node.own.empty_trash()?;
    ensure!(!data.exists() && !node.host.volumes(&pod).exists());
    Ok(())
}

#[test]
fn a_pod_in_whose_directory_something_is_mounted_goes_once_it_is_not() -> Result<()> {
    let (node, pod) = (Node::new()?, PodUid::from("p"));
    let data = node.make(&pod, "pvc-1")?;
    // Below a volume, where nobody looks for mounts.
    let strange = node.host.volumes(&pod).join("scratch/strange");
    std::fs::create_dir(&strange)?;
    mount::bind(&data, &strange, false)?;
    let removed = node.host.remove_volumes(&pod);
    ensure!(
        matches!(removed, Err(HostError::Tree { .. })),
        "{removed:?}"
    );
    ensure!(std::fs::read_to_string(data.join("file"))? == "kept");
    mount::unmount(&strange)?;
    node.host.remove_volumes(&pod)?;
    ensure!(std::fs::read_to_string(data.join("file"))? == "kept");
    Ok(())
}

#[test]
fn an_empty_dir_keeps_the_mode_that_its_pod_has_given_it() -> Result<()> {
    let (node, pod) = (Node::new()?, PodUid::from("p"));
    node.make(&pod, "pvc-1")?;
    let directories = ["scratch", "memory"].map(|volume| node.host.volumes(&pod).join(volume));
    let mode = |directory: &Path| -> Result<u32> {
        Ok(std::fs::metadata(directory)?.permissions().mode() & 0o7777)
    };
    for directory in &directories {
        let opened = mode(directory)?;
        ensure!(opened == 0o777, "{} has {opened:o}", directory.display());
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    // As whenever files of a running pod change.
    node.host
        .make_volumes(&pod, &plan()?, &Default::default(), &Default::default())?;
    for directory in &directories {
        let kept = mode(directory)?;
        ensure!(kept == 0o700, "{} has {kept:o}", directory.display());
    }
    node.host.remove_volumes(&pod)?;
    Ok(())
}
