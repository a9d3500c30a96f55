//! Paths of the node in pods: what is allowed is mounted, and nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use hearth_sys::host_path::{Expect, Missing, bind_host_path};
use hearth_sys::mount;

use crate::support::assert_root;

/// `allowed` with a few things in it, and `secret` beside it.
struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        assert_root();
        let node = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for made in ["allowed/data/inner", "secret"] {
            fs::create_dir_all(node.path(made)).unwrap();
        }
        fs::write(node.path("allowed/data/file"), "content").unwrap();
        fs::write(node.path("secret/key"), "secret").unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    /// What a path below `allowed` is mounted as.
    fn bind(&self, path: &str, expect: Expect, missing: Missing) -> Result<PathBuf, String> {
        let target = self.path("volume");
        let allowed = self.path("allowed");
        bind_host_path(&allowed, Path::new(path), &target, expect, missing)
            .map(|()| target)
            .map_err(|error| format!("{error}: {}", error.source))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = mount::unmount_all(&self.path(""));
    }
}

#[test]
fn what_is_allowed_is_mounted_with_what_is_mounted_below_it() {
    let node = Node::new();
    mount::tmpfs(&node.path("allowed/data/inner"), None).unwrap();
    fs::write(node.path("allowed/data/inner/deep"), "deep").unwrap();
    let volume = node.bind("data", Expect::Directory, Missing::Fail).unwrap();
    assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "content");
    assert_eq!(
        fs::read_to_string(volume.join("inner/deep")).unwrap(),
        "deep"
    );
    fs::write(volume.join("new"), "new").unwrap();
    assert_eq!(
        fs::read_to_string(node.path("allowed/data/new")).unwrap(),
        "new"
    );
}

#[test]
fn taking_it_away_takes_nothing_from_the_node() {
    let node = Node::new();
    // As on a machine with systemd, where all mounts are shared.
    mount::make_shared(&node.path("allowed")).unwrap();
    mount::tmpfs(&node.path("allowed/data/inner"), None).unwrap();
    fs::write(node.path("allowed/data/inner/deep"), "deep").unwrap();
    let volume = node.bind("", Expect::Directory, Missing::Fail).unwrap();
    assert!(volume.join("data/inner/deep").exists());
    mount::unmount_at(&volume).unwrap();
    assert!(!volume.join("data").exists());
    assert!(node.path("allowed/data/inner/deep").exists());
}

#[test]
fn taking_away_what_a_killed_daemon_did_not_set_apart_takes_nothing_from_the_node_either() {
    let node = Node::new();
    mount::make_shared(&node.path("allowed")).unwrap();
    mount::tmpfs(&node.path("allowed/data/inner"), None).unwrap();
    fs::write(node.path("allowed/data/inner/deep"), "deep").unwrap();
    let volume = node.path("volume");
    fs::create_dir(&volume).unwrap();
    let allowed = node.path("allowed");
    rustix::mount::mount_bind_recursive(allowed.as_path(), volume.as_path()).unwrap();
    assert!(volume.join("data/inner/deep").exists());
    mount::unmount_at(&volume).unwrap();
    assert!(!volume.join("data").exists());
    assert!(node.path("allowed/data/inner/deep").exists());
}

#[test]
fn no_link_leads_out_of_what_is_allowed() {
    let node = Node::new();
    for (name, target) in [
        ("relative", "../secret".into()),
        ("absolute", node.path("secret")),
        ("dangling", "../new".into()),
    ] {
        symlink::<PathBuf, _>(target, node.path("allowed").join(name)).unwrap();
        for path in [
            name.to_owned(),
            format!("{name}/key"),
            format!("{name}/made"),
        ] {
            for missing in [Missing::Fail, Missing::MakeDirectory, Missing::MakeFile] {
                let refused = node.bind(&path, Expect::Anything, missing).unwrap_err();
                assert!(
                    refused.contains("without leaving what is allowed"),
                    "{refused}"
                );
            }
        }
    }
    assert!(!node.path("secret/made").exists() && !node.path("new").exists());
    symlink("data/file", node.path("allowed/inside")).unwrap();
    let volume = node.bind("inside", Expect::File, Missing::Fail).unwrap();
    assert_eq!(fs::read_to_string(volume).unwrap(), "content");
}

#[test]
fn a_path_must_be_what_its_type_says() {
    let node = Node::new();
    let _socket = UnixListener::bind(node.path("allowed/socket")).unwrap();
    for (path, good, bad) in [
        ("data", Expect::Directory, Expect::File),
        ("data/file", Expect::File, Expect::Directory),
        ("socket", Expect::Socket, Expect::CharDevice),
    ] {
        let refused = node.bind(path, bad, Missing::Fail).unwrap_err();
        assert!(refused.contains("it is not a"), "{refused}");
        let volume = node.bind(path, good, Missing::Fail).unwrap();
        mount::unmount_at(&volume).unwrap();
        let _ = fs::remove_dir(&volume).or_else(|_| fs::remove_file(&volume));
    }
    let target = node.path("null");
    bind_host_path(
        Path::new("/"),
        Path::new("dev/null"),
        &target,
        Expect::CharDevice,
        Missing::Fail,
    )
    .unwrap();
    let refused = node
        .bind("none", Expect::Anything, Missing::Fail)
        .unwrap_err();
    assert!(refused.contains("No such file"), "{refused}");
}

#[test]
fn what_is_missing_is_made_as_a_kubelet_makes_it() {
    let node = Node::new();
    let mode = |name: &str| fs::metadata(node.path(name)).unwrap().permissions().mode() & 0o7777;
    let volume = node
        .bind("made/below", Expect::Directory, Missing::MakeDirectory)
        .unwrap();
    assert_eq!(
        (mode("allowed/made"), mode("allowed/made/below")),
        (0o755, 0o755)
    );
    mount::unmount_at(&volume).unwrap();
    fs::remove_dir(&volume).unwrap();
    let refused = node
        .bind("no/file", Expect::File, Missing::MakeFile)
        .unwrap_err();
    assert!(
        refused.contains("No such file"),
        "directories above a file are not made: {refused}"
    );
    node.bind("data/made", Expect::File, Missing::MakeFile)
        .unwrap();
    assert_eq!(mode("allowed/data/made"), 0o644);
}
