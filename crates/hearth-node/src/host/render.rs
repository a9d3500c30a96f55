//! The configuration of containerd and of the pods' network.

use std::path::Path;

use serde_json::json;

use super::Runtime;
use crate::config::Config;
use crate::paths::Paths;

/// Parts of containerd that nothing of ours uses, or that reach beyond the instance's directories.
const DISABLED: [&str; 13] = [
    // Makes directories in /opt.
    "io.containerd.internal.v1.opt",
    "io.containerd.image-verifier.v1.bindir",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    // Restarts containers on its own account.
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.mount-handler.v1.erofs",
    "io.containerd.differ.v1.erofs",
    "io.containerd.nri.v1.nri",
];

/// Parts without which containerd is to end at once, rather than run without them.
const REQUIRED: [&str; 5] = [
    "io.containerd.metadata.v1.bolt",
    "io.containerd.snapshotter.v1.overlayfs",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.grpc.v1.cri",
];

/// containerd's configuration for these runtimes, the default one first.
///
/// `may_lower_oom_score`: whether this process may make processes less likely to be killed when memory is short.
pub(super) fn containerd(
    config: &Config,
    paths: &Paths,
    runtimes: &[Runtime],
    may_lower_oom_score: bool,
) -> String {
    let text = |path: &Path| quoted(&path.to_string_lossy());
    let root = text(&paths.containerd_root());
    let state = text(&paths.containerd_state());
    let socket = text(&paths.containerd_socket());
    let shim_sockets = text(&paths.shim_sockets());
    let bin = text(&config.bin_dir);
    let cni = text(&paths.cni_conf());
    let pause = quoted(&config.pause_image);
    let own_registries = paths.registries();
    let registries = config.storage.registry_config_dir.as_ref();
    let registries = text(registries.unwrap_or(&own_registries));
    let oom_score = if may_lower_oom_score { -999 } else { 0 };
    let restrict = !may_lower_oom_score;
    let disabled = list(&DISABLED);
    let required = list(&REQUIRED);
    let default = quoted(runtimes.first().map_or("", |runtime| runtime.handler()));
    let sections = runtimes.iter().map(|runtime| {
        let section = placed(runtime.containerd_config(), config, paths);
        format!("\n{section}")
    });
    let sections: String = sections.collect();
    // Statistics come from the kernel's own files, read by whoever wants them; no_sync: what a power cut damages is
    // made anew from the images' archives and the journal.
    format!(
        r#"# Written by hearthd at each start; changes are lost.
version = 3
root = {root}
state = {state}
imports = []
oom_score = {oom_score}
disabled_plugins = {disabled}
required_plugins = {required}

[debug]
level = "warn"

[grpc]
address = {socket}

[timeouts]
"io.containerd.timeout.bolt.open" = "10s"

[plugins."io.containerd.metadata.v1.bolt"]
no_sync = true

[plugins."io.containerd.monitor.task.v1.cgroups"]
no_prometheus = true

[plugins."io.containerd.shim.v1.manager"]
socket_dir = {shim_sockets}

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
stats_collect_period = 86400

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {pause}

[plugins."io.containerd.cri.v1.images".registry]
config_path = {registries}

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = {restrict}
netns_mounts_under_state_dir = true
stats_collect_period = "24h"
cdi_spec_dirs = []

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{bin}]
conf_dir = {cni}
use_internal_loopback = true

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = {default}
{sections}"#
    )
}

/// The files that runtimes have beside containerd's configuration: name and content.
pub(super) fn runtime_files(
    config: &Config,
    paths: &Paths,
    runtimes: &[Runtime],
) -> Vec<(&'static str, String)> {
    let files = runtimes.iter().filter_map(|runtime| runtime.config_file());
    files
        .map(|(name, text)| (name, placed(text, config, paths)))
        .collect()
}

/// Puts the instance's directories into a part of a configuration. Each stands within a quoted string.
fn placed(text: &str, config: &Config, paths: &Paths) -> String {
    let escaped = |path: &Path| {
        let quoted = quoted(&path.to_string_lossy());
        quoted.trim_matches('"').to_owned()
    };
    text.replace("@bin@", &escaped(&config.bin_dir))
        .replace("@root@", &escaped(paths.root()))
        .replace("@run@", &escaped(paths.run()))
}

/// The pods' network: a bridge of the instance's own with addresses from the pod network.
pub(super) fn network(config: &Config, paths: &Paths) -> String {
    let network = json!({
        "cniVersion": "1.0.0",
        "name": paths.network(),
        "plugins": [{
            "type": "bridge",
            "bridge": paths.bridge(),
            "isGateway": true,
            // Another pod network than before is a new start for the bridge, too.
            "forceAddress": true,
            "ipam": {
                "type": "host-local",
                "dataDir": paths.cni_data(),
                "ranges": [[{ "subnet": config.pod_cidr }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    format!("{network:#}\n")
}

fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A string as TOML has it, whose basic strings take all of JSON's escapes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> (Config, Paths) {
        let config = Config {
            node_name: "n".to_owned(),
            instance: "t1".to_owned(),
            root_dir: "/r".into(),
            run_dir: "/run/t1".into(),
            bin_dir: "/b".into(),
            handlers: Vec::new(),
            images_dir: None,
            pause_image: "localhost/pause:dev".to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            advertise_address: None,
            metrics_listen: ([127, 0, 0, 1], 0).into(),
            pod_cidr: "10.88.0.0/16".to_owned(),
            reclaim_rate: 0,
            max_sandboxes: 100,
            max_parallel_creates: 2,
            min_parallel_creates: 1,
            pids_limit: 0,
            allow: Vec::new(),
            first_user_id: crate::config::first_user_id("t1"),
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            kubernetes_service: None,
            leader_namespace: "a".to_owned(),
            leader_lease: "b".to_owned(),
            heartbeat: std::time::Duration::from_secs(10),
            storage: crate::config::StorageConfig::default(),
        };
        let paths = config.paths();
        (config, paths)
    }

    #[test]
    fn every_place_of_containerd_is_the_instances() {
        let (config, paths) = config();
        let text = containerd(&config, &paths, &Runtime::ALL, true);
        for line in [
            r#"root = "/r/containerd""#,
            r#"state = "/run/t1/containerd""#,
            r#"address = "/run/t1/containerd/containerd.sock""#,
            r#"socket_dir = "/run/t1/s""#,
            r#"Root = "/run/t1/runc""#,
            r#"BinaryName = "/b/runc""#,
            r#"bin_dirs = ["/b"]"#,
            r#"conf_dir = "/r/cni/conf""#,
            r#"sandbox = "localhost/pause:dev""#,
            r#"config_path = "/r/registries""#,
            r#"default_runtime_name = "runc""#,
            r#"ConfigPath = "/r/runsc.toml""#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn registries_are_set_up_where_the_administrator_says() {
        let (mut config, paths) = config();
        config.storage.registry_config_dir = Some("/etc/hearth/registries".into());
        let text = containerd(&config, &paths, &Runtime::ALL, true);
        let line = "config_path = \"/etc/hearth/registries\"\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn only_the_node_s_runtimes_are_there() {
        let (config, paths) = config();
        let text = containerd(&config, &paths, &[Runtime::Gvisor], true);
        assert!(text.contains(r#"default_runtime_name = "runsc""#), "{text}");
        assert!(text.contains("runtimes.runsc]"), "{text}");
        assert!(!text.contains("runtimes.runc]"), "{text}");
        assert!(!text.contains('@'), "{text}");
        let files = runtime_files(&config, &paths, &[Runtime::Runc, Runtime::Gvisor]);
        let [("runsc.toml", text)] = &files[..] else {
            panic!("{files:?}")
        };
        assert!(text.contains(r#"binary_name = "/b/runsc""#), "{text}");
        assert!(text.contains(r#"root = "/run/t1/runsc""#), "{text}");
    }

    #[test]
    fn oom_scores_are_only_lowered_where_that_is_allowed() {
        let (config, paths) = config();
        let check = |may, score: &str, restrict: &str| {
            let text = containerd(&config, &paths, &[Runtime::Gvisor], may);
            assert!(text.contains(score) && text.contains(restrict), "{text}");
        };
        check(
            true,
            "oom_score = -999\n",
            "restrict_oom_score_adj = false\n",
        );
        check(false, "oom_score = 0\n", "restrict_oom_score_adj = true\n");
    }

    #[test]
    fn strings_cannot_leave_their_quotes() {
        assert_eq!(quoted("a\"\n\\"), r#""a\"\n\\""#);
    }

    #[test]
    fn the_network_is_named_after_the_instance() {
        let (config, paths) = config();
        let network: serde_json::Value = serde_json::from_str(&network(&config, &paths)).unwrap();
        assert_eq!(network["name"], "hearth-t1");
        let bridge = &network["plugins"][0];
        assert_eq!(bridge["bridge"], "hth-t1");
        assert_eq!(bridge["ipam"]["dataDir"], "/r/cni/data");
        assert_eq!(bridge["ipam"]["ranges"][0][0]["subnet"], "10.88.0.0/16");
    }
}
