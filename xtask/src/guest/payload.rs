//! The guest's second disk: our programs, the runtime's, the tests, and what they are told.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{HOST, Joining, below, image};
use crate::cargo::TestProgram;
use crate::control_plane;
use crate::hearth;
use crate::images;
use crate::kubeconfig::{self, Server, Trust, User};
use crate::paths::Layout;
use crate::pki::{Pair, Pki};
use crate::services;
use crate::system;

/// Runs in the guest.
const SCRIPT: &str = include_str!("../../guest/run.sh");
/// What of the cluster's programs is of no use to a node, and gVisor: it intercepts each system call of a
/// pod, which takes an emulated machine minutes, and has nothing to do with the cgroups' version.
const LEFT_OUT: &[&str] = &[
    "xtask",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kubectl",
    "hearth-bench",
    "runsc",
    "containerd-shim-runsc-v1",
    services::CONTROLLER,
];
/// Room for pods, images and logs.
const SIZE: &str = "6G";

/// Writes the disk and says where it is.
pub(super) fn write(
    layout: &Layout,
    joining: &Joining,
    tests: &[TestProgram],
    filters: &[String],
) -> Result<PathBuf> {
    let tree = layout.root().join("guest");
    system::remove(&tree)?;
    let guest = Joining::layout()?;
    programs(layout, &guest, &tree)?;
    images::write_all(&below(&tree, &guest.images())?)?;
    for test in tests {
        copy(&test.file, &tree.join("tests").join(&test.name))?;
    }
    credentials(layout, &guest, joining, &tree)?;
    system::write_json(&below(&tree, &guest.instance_file())?, &joining.instance)?;
    system::write_atomic(&tree.join("guest/run.sh"), SCRIPT.as_bytes(), 0o755)?;
    let settings = settings(&guest, joining, filters);
    system::write_atomic(&tree.join("guest/settings"), settings.as_bytes(), 0o644)?;
    system::create_dir(&below(&tree, &guest.logs())?)?;
    // Its lines are on the host, which looks at them there.
    let absent = below(&tree, &guest.log(services::CONTROLLER))?;
    system::write_atomic(&absent, b"", 0o644)?;

    let disk = layout.root().join("guest.img");
    image::make_disk(&tree, &disk, "hearth", SIZE)?;
    system::remove(&tree)?;
    Ok(disk)
}

fn programs(layout: &Layout, guest: &Layout, tree: &Path) -> Result<()> {
    let bin = layout.bin();
    for entry in fs::read_dir(&bin).with_context(|| format!("cannot list {}", bin.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", bin.display()))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !LEFT_OUT.contains(&name.as_ref()) {
            copy(&entry.path(), &below(tree, &guest.program(&name))?)?;
        }
    }
    Ok(())
}

fn credentials(layout: &Layout, guest: &Layout, joining: &Joining, tree: &Path) -> Result<()> {
    let pki = Pki::ensure(layout)?;
    let inside = guest.pki();
    let pair = Pair {
        certificate: inside.join("admin.crt"),
        key: inside.join("admin.key"),
    };
    let authority = inside.join("ca.crt");
    for (from, to) in [
        (pki.authority(), &authority),
        (pki.admin().certificate, &pair.certificate),
        (pki.admin().key, &pair.key),
    ] {
        copy(&from, &below(tree, to)?)?;
    }
    let server = Server {
        url: control_plane::url(HOST, &joining.instance),
        trust: Trust::File(authority.display().to_string()),
    };
    let admin = below(tree, &guest.kubeconfig())?;
    kubeconfig::write(&admin, &server, &User::Certificate(&pair))?;
    let token = guest.credentials(services::HEARTHD).join("token");
    system::write_atomic(&below(tree, &token)?, joining.token.as_bytes(), 0o600)?;
    let own = guest.credentials(services::HEARTHD).join("kubeconfig");
    kubeconfig::write(&below(tree, &own)?, &server, &User::TokenFile(&token))
}

/// Shell assignments.
fn settings(guest: &Layout, joining: &Joining, filters: &[String]) -> String {
    let own = guest.credentials(services::HEARTHD).join("kubeconfig");
    let ports = &joining.instance.ports;
    let mut args = hearth::node_args(guest, &joining.instance, &own);
    // The last one counts: from outside it is reached through the forwarded port.
    args.retain(|arg| !arg.starts_with("--listen="));
    args.push(format!("--listen=0.0.0.0:{}", ports.node_api));
    args.push(format!("--advertise-address=127.0.0.1:{}", ports.node_api));
    format!(
        "HEARTHD_ARGS='{}'\nMETRICS_PORT={}\nFILTERS='{}'\n",
        args.join(" "),
        ports.node_metrics,
        filters.join(" ")
    )
}

/// Puts a file into the tree, as a link where it can be one: the tree is only read, and programs are large.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        system::create_dir(parent)?;
    }
    // What is a link itself would be one in the guest, to nothing.
    let linked = fs::canonicalize(from).and_then(|file| fs::hard_link(file, to));
    if linked.is_ok() {
        return Ok(());
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
