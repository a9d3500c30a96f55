//! Directory trees with mounts in them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hearth_sys::mount;
use hearth_sys::tree::{self, TreeError};

use crate::support::assert_root;

/// A pod's directory with a volume mounted in it whose data are elsewhere, as a daemon leaves it that was killed.
struct Scene {
    _directory: tempfile::TempDir,
    root: std::path::PathBuf,
}

impl Scene {
    fn new() -> Self {
        assert_root();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for made in ["data/below", "pod/volumes/empty/inner", "pod/volumes/v"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        fs::write(root.join("data/file"), "kept").unwrap();
        fs::write(root.join("data/below/file"), "kept").unwrap();
        fs::write(root.join("pod/volumes/empty/file"), "gone").unwrap();
        fs::write(root.join("pod/etc-hosts"), "gone").unwrap();
        Self {
            _directory: directory,
            root,
        }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.root.join(path)
    }

    fn check_data(&self) {
        for file in ["data/file", "data/below/file"] {
            assert_eq!(fs::read_to_string(self.at(file)).unwrap(), "kept", "{file}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = mount::unmount_all(&self.root);
    }
}

#[test]
fn what_is_mounted_in_a_tree_outlives_every_try_to_remove_it() {
    let check = |what: &str, target: &str| {
        let scene = Scene::new();
        let target = scene.at(target);
        if scene.at(what).is_dir() {
            fs::create_dir_all(&target).unwrap();
        } else {
            fs::write(&target, "").unwrap();
        }
        mount::bind(&scene.at(what), &target, false).unwrap();
        for _ in 0..2 {
            let removed = tree::remove(&scene.at("pod"));
            assert!(
                matches!(removed, Err(TreeError::Mounted { .. })),
                "{target:?}: {removed:?}"
            );
            scene.check_data();
        }
        assert_eq!(mount::unmount_all(&scene.root).unwrap(), 1);
        tree::remove(&scene.at("pod")).unwrap();
        assert!(!scene.at("pod").exists());
        scene.check_data();
    };
    check("data", "pod/volumes/v");
    check("data", "pod/volumes/empty/inner");
    check("data/below", "pod/volumes/v");
    // A single file, as the parts of volumes may be.
    check("data/file", "pod/volumes/part");
    // The tree itself.
    check("data", "pod");
}

#[test]
fn what_is_mounted_in_a_volume_keeps_its_owner_and_does_not_count() {
    let scene = Scene::new();
    mount::bind(&scene.at("data"), &scene.at("pod/volumes/v"), false).unwrap();
    fs::write(scene.at("data/big"), vec![1; 4 << 20]).unwrap();
    let before = fs::metadata(scene.at("data/file")).unwrap();
    tree::give_to_group(&scene.at("pod"), 4711, false).unwrap();
    let group = |path: &str| fs::metadata(scene.at(path)).unwrap().gid();
    assert_eq!(
        (group("pod"), group("pod/volumes/empty/file")),
        (4711, 4711)
    );
    let after = fs::metadata(scene.at("data/file")).unwrap();
    assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
    assert!(tree::disk_usage(&scene.at("pod")).unwrap() < 1 << 20);
}

#[test]
fn a_volume_is_given_to_a_group_through_its_mount() {
    let scene = Scene::new();
    let volume = scene.at("pod/volumes/v");
    mount::bind(&scene.at("data"), &volume, false).unwrap();
    tree::give_to_group(&volume, 4711, true).unwrap();
    let of = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.gid(), meta.mode() & 0o7777)
    };
    let (group, mode) = of(&scene.at("data"));
    assert_eq!((group, mode & 0o2770), (4711, 0o2770));
    assert_eq!(of(&scene.at("data/below/file")), (4711, 0o664));
    // Once it is the group's, nothing below is looked at.
    fs::write(scene.at("data/new"), "").unwrap();
    let before = of(&scene.at("data/new"));
    tree::give_to_group(&volume, 4711, true).unwrap();
    assert_eq!(of(&scene.at("data/new")), before);
}
