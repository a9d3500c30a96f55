//! The guest's root file system: a minimal Debian with systemd, made once and kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::paths;
use crate::system;
use crate::ui;

/// What the guest has besides Debian's minimum: an init system, the kernel for virtual machines, and
/// what hearthd and runc call.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "dbus",
    "iproute2",
    "kmod",
    "libseccomp2",
    "linux-image-cloud-amd64",
    "nftables",
    "procps",
    "systemd-sysv",
    "udev",
];
/// Debian 12. Its programs run what this machine's compiler links.
const SUITE: &str = "bookworm";
/// Mounts the second disk and runs what it brings.
const UNIT: &str = include_str!("../../guest/hearth-guest.service");
/// QEMU's user network, which needs no lease to be asked for.
const NETWORK: &str = "[Match]\nName=eth0\n\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n";
/// Nothing in the guest has a name to look up, but CRI wants the file.
const RESOLV_CONF: &str = "nameserver 10.0.2.3\n";
/// CRI wants this one as well.
const HOSTS: &str = "127.0.0.1 localhost\n";

/// A bootable guest.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) disk: PathBuf,
}

/// The image of the cache, made if it is not there.
pub(super) fn ensure() -> Result<Image> {
    let recipe = [
        &PACKAGES.join(","),
        SUITE,
        UNIT,
        NETWORK,
        RESOLV_CONF,
        HOSTS,
    ]
    .join("\0");
    let key = &system::sha256_hex(recipe.as_bytes())[..12];
    let directory = paths::cache()?.join(format!("guest-{SUITE}-{key}"));
    let image = Image {
        kernel: directory.join("vmlinuz"),
        initrd: directory.join("initrd.img"),
        disk: directory.join("root.img"),
    };
    if !directory.exists() {
        let unfinished = system::sibling(&directory, ".unfinished");
        system::remove(&unfinished)?;
        system::create_dir(&unfinished)?;
        ui::step(
            "making a Debian guest (two minutes the first time, then cached)",
            || make(&unfinished),
        )?;
        fs::rename(&unfinished, &directory)
            .with_context(|| format!("cannot move the guest to {}", directory.display()))?;
    }
    Ok(image)
}

fn make(directory: &Path) -> Result<()> {
    let root = directory.join("root");
    debootstrap(&root, &directory.join("debootstrap.log"))?;
    configure(&root)?;
    for (prefix, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        let file = only_file(&root.join("boot"), prefix)?;
        fs::copy(&file, directory.join(name))
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    make_disk(&root, &directory.join("root.img"), "root", "2G")?;
    system::remove(&root)
}

/// Debian's packages come from where this machine has its own.
fn debootstrap(root: &Path, log: &Path) -> Result<()> {
    let described = system::capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]))?;
    let source = source(&described).with_context(|| {
        format!("apt has no source of {SUITE}: the guest is made on a Debian machine")
    })?;
    let output = system::output(
        Command::new("debootstrap")
            .arg("--variant=minbase")
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg(SUITE)
            .arg(root)
            .arg(source),
    )?;
    let said = [output.stdout, output.stderr].concat();
    system::write_atomic(log, &said, 0o644)?;
    ensure!(
        output.status.success(),
        "debootstrap failed: {}; it says:\n{}",
        output.status,
        crate::supervise::log_tail(log, 15)
    );
    Ok(())
}

/// The address of the suite's main packages in what apt says of its sources.
fn source(described: &str) -> Option<&str> {
    described.lines().find_map(|line| {
        let mut words = line.split(' ');
        let address = words.next()?;
        (words.next() == Some(SUITE) && words.next() == Some("main")).then_some(address)
    })
}

fn configure(root: &Path) -> Result<()> {
    let files = [
        ("etc/hostname", "hearth-guest\n"),
        ("etc/resolv.conf", RESOLV_CONF),
        ("etc/hosts", HOSTS),
        ("etc/systemd/network/10-user.network", NETWORK),
        ("etc/systemd/system/hearth-guest.service", UNIT),
    ];
    for (path, content) in files {
        system::write_atomic(&root.join(path), content.as_bytes(), 0o644)?;
    }
    system::create_dir(&root.join("hearth"))?;
    let units = root.join("etc/systemd/system");
    let wanted = units.join("multi-user.target.wants");
    system::create_dir(&wanted)?;
    system::link(
        Path::new("/etc/systemd/system/hearth-guest.service"),
        &wanted.join("hearth-guest.service"),
    )?;
    system::link(
        Path::new("/lib/systemd/system/systemd-networkd.service"),
        &wanted.join("systemd-networkd.service"),
    )?;
    // The console is for the kernel's words; nobody logs in.
    for unit in [
        "serial-getty@ttyS0.service",
        "getty@tty1.service",
        "apt-daily.timer",
    ] {
        system::link(Path::new("/dev/null"), &units.join(unit))?;
    }
    Ok(())
}

fn only_file(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("{} has no {prefix}*", directory.display()))
}

/// Makes an ext4 disk image of `size` with what is in `tree`.
pub(super) fn make_disk(tree: &Path, disk: &Path, label: &str, size: &str) -> Result<()> {
    system::remove(disk)?;
    let made = system::capture(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-L", label, "-d"])
            .arg(tree)
            .arg(disk)
            .arg(size),
    );
    made.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suites_main_packages_are_where_apt_says() {
        let described = "http://a/security bookworm-security main\n\
                         http://a/debian bookworm contrib\n\
                         http://b/debian bookworm main\n";
        assert_eq!(source(described), Some("http://b/debian"));
        assert_eq!(source("http://b/debian trixie main\n"), None);
    }
}
