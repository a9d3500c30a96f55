use super::*;

fn config(root: &Path) -> Config {
    Config {
        node_name: "n".to_owned(),
        instance: "t1".to_owned(),
        root_dir: root.join("root"),
        run_dir: root.join("run"),
        bin_dir: "/opt/hearth \"bin\"".into(),
        images_dir: None,
        pause_image: "localhost/pause:dev".to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise_address: None,
        metrics_listen: ([127, 0, 0, 1], 0).into(),
        pod_cidr: "10.88.0.0/16".to_owned(),
        max_sandboxes: 100,
        max_parallel_creates: 2,
        pids_limit: 0,
        leader_namespace: "a".to_owned(),
        leader_lease: "b".to_owned(),
        heartbeat: Duration::from_secs(10),
    }
}

#[test]
fn the_network_is_named_and_kept_by_the_instance() {
    let config = config(Path::new("/x"));
    let list: serde_json::Value =
        serde_json::from_str(&files::cni_config(&config, &config.paths())).unwrap();
    let plugin = &list["plugins"][0];
    assert_eq!(list["name"], "hearth-t1");
    assert_eq!(plugin["bridge"], "hth-t1");
    assert_eq!(plugin["ipMasq"], false);
    assert_eq!(plugin["ipam"]["dataDir"], "/x/root/cni/data");
    assert_eq!(plugin["ipam"]["ranges"][0][0]["subnet"], "10.88.0.0/16");
}

#[test]
fn containerd_is_told_to_keep_to_our_directories() {
    let config = config(Path::new("/x"));
    let check = |may_set_oom_score, expected: &str| {
        let text =
            files::containerd_config(&config, &config.paths(), files::Host { may_set_oom_score });
        for line in [
            "root = \"/x/root/containerd\"",
            "state = \"/x/run/containerd\"",
            "address = \"/x/run/containerd/containerd.sock\"",
            "BinaryName = \"/opt/hearth \\\"bin\\\"/runc\"",
            "socket_dir = \"/x/run/s\"",
            "sandbox = \"localhost/pause:dev\"",
            expected,
        ] {
            assert!(
                text.lines().any(|present| present == line),
                "{line} is missing in\n{text}"
            );
        }
    };
    check(true, "restrict_oom_score_adj = false");
    check(false, "restrict_oom_score_adj = true");
}

#[test]
fn a_run_directory_too_deep_for_sockets_leaves_them_to_containerd() {
    let deep = format!("/{}", "d".repeat(60));
    assert_eq!(
        Paths::new("i", Path::new("/r"), Path::new(&deep)).shim_sockets(),
        None
    );
}

#[test]
fn a_configuration_is_written_only_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    assert!(write_if_changed(&path, "a").unwrap());
    assert!(!write_if_changed(&path, "a").unwrap());
    assert!(write_if_changed(&path, "b").unwrap());
}
