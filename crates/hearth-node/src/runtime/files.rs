//! The files that containerd and CNI read.

use std::path::Path;

use serde_json::json;

use crate::config::Config;
use crate::paths::Paths;

/// What the configuration depends on besides [`Config`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    /// Whether this process may lower the OOM scores of others. runc fails to set one where it may not, unless it is
    /// told to keep to what is allowed.
    pub(super) may_set_oom_score: bool,
}

/// containerd's configuration.
///
/// Plugins that Hearth has no use for are off: they make directories outside ours, or cost memory. `no_sync` is safe
/// because after a power cut no container runs that the metadata could be needed for; images are imported again.
pub(super) fn containerd_config(config: &Config, paths: &Paths, host: Host) -> String {
    let text = |path: &Path| quoted(&path.to_string_lossy());
    let root = text(&paths.containerd_root());
    let state = text(&paths.containerd_state());
    let socket = text(&paths.containerd_socket());
    let bin_dir = text(&config.bin_dir);
    let runc = text(&config.bin_dir.join("runc"));
    let runc_state = text(&paths.runc_state());
    let cni_conf = text(&paths.cni_conf());
    let pause = quoted(&config.pause_image);
    let restrict = !host.may_set_oom_score;
    let shim_sockets = paths.shim_sockets().map(|dir| {
        format!(
            "\n[plugins.\"io.containerd.shim.v1.manager\"]\nsocket_dir = {}\n",
            text(&dir)
        )
    });
    let shim_sockets = shim_sockets.unwrap_or_default();
    format!(
        r#"# Written by hearthd at each start; changes are lost.
version = 3
root = {root}
state = {state}
imports = []
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.image-verifier.v1.bindir",
  "io.containerd.monitor.container.v1.restart",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = {socket}

[debug]
level = "warn"

[plugins."io.containerd.metadata.v1.bolt"]
no_sync = true

[plugins."io.containerd.monitor.task.v1.cgroups"]
no_prometheus = true

[plugins."io.containerd.nri.v1.nri"]
disable = true
{shim_sockets}
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
stats_collect_period = 3600

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {pause}

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = {restrict}
netns_mounts_under_state_dir = true
stats_collect_period = "1h"
cdi_spec_dirs = []

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{bin_dir}]
conf_dir = {cni_conf}
max_conf_num = 1
use_internal_loopback = true

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {runc}
Root = {runc_state}
SystemdCgroup = false
"#
    )
}

/// The network of the pods: one bridge, addresses from a file store of our own, no masquerading.
pub(super) fn cni_config(config: &Config, paths: &Paths) -> String {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": paths.network(),
        "plugins": [{
            "type": "bridge",
            "bridge": paths.bridge(),
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": paths.cni_data(),
                "ranges": [[{ "subnet": config.pod_cidr }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    format!("{list:#}\n")
}

/// A TOML basic string. JSON's escapes are a subset of TOML's.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}
