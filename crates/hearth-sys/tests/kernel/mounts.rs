//! Mounts and the network namespaces that they keep.

use std::fs;
use std::path::Path;
use std::process::Command;

use hearth_sys::{mount, netns};

use crate::support::{assert_root, instance};

#[test]
fn mounts_are_listed_and_detached_with_all_below() {
    assert_root();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let [volume, inner, copy] = ["a volume", "a volume/inner", "copy"].map(|name| root.join(name));
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&copy).unwrap();
    mount::tmpfs(&volume, Some(1 << 20)).unwrap();
    fs::create_dir(&inner).unwrap();
    mount::tmpfs(&inner, None).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    mount::bind(&volume, &copy, true).unwrap();
    mount::make_shared(&copy).unwrap();

    assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "content");
    assert!(
        fs::write(copy.join("file"), "changed").is_err(),
        "read-only"
    );
    assert!(
        fs::write(volume.join("big"), vec![0; 2 << 20]).is_err(),
        "larger than its size"
    );
    let targets: Vec<_> = mount::under(&root)
        .unwrap()
        .into_iter()
        .map(|m| m.target)
        .collect();
    assert_eq!(
        targets,
        [volume.clone(), inner, copy.clone(), copy.join("inner")]
    );

    assert_eq!(mount::unmount_all(&root).unwrap(), 4);
    assert_eq!(mount::under(&root).unwrap(), []);
    mount::unmount(&volume).unwrap();
    mount::unmount(&root.join("never")).unwrap();
}

#[test]
fn the_entries_of_a_directory_are_unmounted_and_nothing_else() {
    assert_root();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let volumes = root.join("volumes");
    let [twice, plain, outside] =
        ["volumes/twice", "volumes/plain", "outside"].map(|name| root.join(name));
    for made in [&volumes, &twice, &plain, &outside] {
        fs::create_dir(made).unwrap();
    }
    mount::tmpfs(&twice, None).unwrap();
    mount::tmpfs(&twice, None).unwrap();
    mount::tmpfs(&outside, None).unwrap();
    std::os::unix::fs::symlink(&outside, volumes.join("link")).unwrap();
    assert!(mount::is_mount_point(&twice).unwrap());
    assert!(!mount::is_mount_point(&plain).unwrap());
    assert!(!mount::is_mount_point(&volumes.join("link")).unwrap());

    mount::unmount_entries(&volumes).unwrap();
    mount::unmount_entries(&root.join("never")).unwrap();
    let left = mount::under(&root).unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].target, outside);
    assert_eq!(mount::unmount_all(&root).unwrap(), 1);
}

#[test]
fn a_part_of_a_volume_is_mounted_and_nothing_outside_of_it() {
    assert_root();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let [volume, outside, parts] = ["volume", "outside", "parts"].map(|name| root.join(name));
    for made in [&volume, &outside, &parts] {
        fs::create_dir(made).unwrap();
    }
    fs::write(outside.join("secret"), "x").unwrap();
    fs::create_dir(volume.join("data")).unwrap();
    fs::write(volume.join("data/file"), "content").unwrap();
    let link =
        |target: &str, name: &str| std::os::unix::fs::symlink(target, volume.join(name)).unwrap();
    link("data/file", "inside");
    link("../outside", "up");
    link(outside.to_str().unwrap(), "absolute");
    let bind = |path: &str, target: &str, make| {
        mount::bind_beneath(&volume, Path::new(path), &parts.join(target), make)
    };
    bind("data", "a", false).unwrap();
    assert_eq!(fs::read_to_string(parts.join("a/file")).unwrap(), "content");
    bind("inside", "b", false).unwrap();
    assert_eq!(fs::read_to_string(parts.join("b")).unwrap(), "content");
    bind("new/deep", "c", true).unwrap();
    fs::write(volume.join("new/deep/file"), "late").unwrap();
    assert_eq!(fs::read_to_string(parts.join("c/file")).unwrap(), "late");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(volume.join("new")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o777);
    for (path, make) in [
        ("up", true),
        ("up/secret", true),
        ("absolute", true),
        ("up/made", true),
        ("../outside", true),
        ("none", false),
    ] {
        let error = bind(path, "never", make).unwrap_err().to_string();
        assert!(error.contains(path), "{error}");
    }
    assert!(!outside.join("made").exists());
    mount::unmount_entries(&parts).unwrap();
    assert_eq!(mount::under(&root).unwrap(), []);
}

#[test]
fn network_namespaces_are_listed_and_removed() {
    assert_root();
    let name = format!("hearth-{}", instance());
    let run = |args: &[&str]| {
        assert!(
            Command::new("ip").args(args).status().unwrap().success(),
            "ip {args:?}"
        )
    };
    run(&["netns", "add", &name]);
    let path = Path::new("/run/netns").canonicalize().unwrap().join(&name);
    let listed = netns::list(path.parent().unwrap()).unwrap();
    netns::remove(&path).unwrap();
    assert!(listed.contains(&path), "{listed:?}");
    assert!(!path.exists());
    netns::remove(&path).unwrap();
}
