//! What is in each image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::super::{Layer, busybox, pause, read};
use super::debian::{self, Package};
use super::sbom::{self, Component};
use crate::components::{self, Built};
use crate::system;

/// The components that a node runs, in the order of the versions file.
pub(super) const COMPONENTS: [&str; 4] = ["containerd", "runc", "gvisor", "cni"];

/// Programs of the node's image that need libraries. Nobody has a static `nft`.
pub(super) const DYNAMIC: &[&str] = &["usr/sbin/nft"];

/// Where hearthd looks for them when it is told nothing else.
const BIN: &str = "opt/hearth/bin";
/// Image archives that a node has from the start.
const IMAGES: &str = "usr/share/hearth/images";
/// Debian's list of certificate authorities, as its package has it: what an administrator of this machine added is not
/// for others.
const AUTHORITIES: &str = "/usr/share/ca-certificates/mozilla";
/// What is linked into our static programs, and into runc.
const LINKED: [&str; 2] = ["libc6-dev", "libseccomp-dev"];

/// One image's files and what they are.
#[derive(Debug)]
pub(super) struct Contents {
    /// The layers, that which changes least first.
    pub(super) layers: Vec<Layer>,
    /// What they are made of.
    pub(super) components: Vec<Component>,
}

/// One of our programs, with what cargo knows of its package.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) file: &'a Path,
    pub(super) package: &'a str,
    pub(super) metadata: &'a Value,
    pub(super) version: &'a str,
    pub(super) revision: &'a str,
}

impl Own<'_> {
    fn components(&self, contents: &[u8]) -> Result<Vec<Component>> {
        let mut found = sbom::crates(self.metadata, self.package)?;
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let digest = system::sha256_hex(contents);
        found.push(Component::program(&name, self.version, digest));
        Ok(found)
    }
}

/// `agent-sandbox-controller`: the one program.
pub(super) fn controller(own: Own<'_>) -> Result<Contents> {
    let program = read(own.file)?;
    let mut components = own.components(&program)?;
    components.push(Package::installed(LINKED[0])?.component());
    let mut layer = Layer::default();
    users(&mut layer);
    layer.file("agent-sandbox-controller", 0o755, program);
    Ok(Contents {
        layers: vec![layer],
        components,
    })
}

/// `hearth-node`: hearthd, and all that it starts.
pub(super) fn node(own: Own<'_>) -> Result<Contents> {
    let (mut below, mut components) = runtime()?;
    let tools = tools(&mut below)?;
    components.extend(tools.iter().map(Package::component));
    for package in LINKED {
        components.push(Package::installed(package)?.component());
    }
    let built = COMPONENTS.map(components::build);
    let built: Vec<Built> = built.into_iter().collect::<Result<_>>()?;
    let program = read(own.file)?;
    components.extend(own.components(&program)?);

    let mut above = Layer::default();
    above.file("usr/bin/hearthd", 0o755, program);
    let versions = versions(own, &built, &tools)?;
    above.file("usr/share/hearth/versions.json", 0o644, versions);
    Ok(Contents {
        layers: vec![below, above],
        components,
    })
}

/// What changes with the pinned versions only: the runtimes, and what a file system must have.
fn runtime() -> Result<(Layer, Vec<Component>)> {
    let mut layer = Layer::default();
    let mut components = Vec::new();
    for name in COMPONENTS {
        let built = components::build(name)?;
        for (program, file) in &built.programs {
            let contents = read(file)?;
            let digest = system::sha256_hex(&contents);
            components.push(Component::program(program, built.version, digest));
            let said = system::capture(Command::new("go").args(["version", "-m"]).arg(file))?;
            components.extend(sbom::go_modules(&said));
            layer.file(&format!("{BIN}/{program}"), 0o755, contents);
        }
    }
    let pause = pause::image()?.archive()?;
    layer.file(&format!("{IMAGES}/hearth-pause.tar"), 0o644, pause.bytes);
    users(&mut layer);
    layer.file(
        "etc/ssl/certs/ca-certificates.crt",
        0o644,
        authorities(Path::new(AUTHORITIES))?,
    );
    for (directory, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var/lib/hearth", 0o755),
    ] {
        layer.directory(directory, mode);
    }
    components.push(Package::installed("ca-certificates")?.component());
    Ok((layer, components))
}

/// The tools of the host that hearthd calls: `nft`, and `ip`, which busybox is too.
fn tools(layer: &mut Layer) -> Result<Vec<Package>> {
    let mut packages = debian::add_program(layer, "nft", "nftables")?;
    layer.file("bin/busybox", 0o755, read(&busybox::program()?)?);
    layer.link("sbin/ip", "/bin/busybox");
    // For whoever looks around in the Pod.
    layer.link("bin/sh", "/bin/busybox");
    let busybox = Package::installed("busybox-static")?;
    debian::add_copyright(layer, &busybox.name)?;
    packages.push(busybox);
    Ok(packages)
}

/// Who may be there, and how names are resolved: by files and DNS, which are all that a static program can do.
fn users(layer: &mut Layer) {
    let passwd = "root:x:0:0:root:/root:/bin/sh\n\
                  nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n\
                  nonroot:x:65532:65532:nonroot:/nonexistent:/bin/false\n";
    let group = "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n";
    for (path, text) in [
        ("etc/passwd", passwd),
        ("etc/group", group),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
    ] {
        layer.file(path, 0o644, text.as_bytes().to_vec());
    }
}

/// The certificates of a directory, one after the other.
fn authorities(dir: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("cannot list {} (package ca-certificates)", dir.display());
    let entries = fs::read_dir(dir).with_context(cannot)?;
    let mut files = entries
        .map(|entry| -> Result<PathBuf> { Ok(entry.with_context(cannot)?.path()) })
        .collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "crt"));
    files.sort();
    ensure!(!files.is_empty(), "no certificates in {}", dir.display());
    let mut all = Vec::new();
    for file in files {
        all.extend(read(&file)?);
        if !all.ends_with(b"\n") {
            all.push(b'\n');
        }
    }
    Ok(all)
}

/// The versions file: what each program is, for whoever puts them on a node side by side with others.
fn versions(own: Own<'_>, built: &[Built], tools: &[Package]) -> Result<Vec<u8>> {
    let mut components = Vec::new();
    for component in built {
        let mut programs = BTreeMap::new();
        for (name, file) in &component.programs {
            let digest = system::sha256_hex(&read(file)?);
            programs.insert(*name, format!("sha256:{digest}"));
        }
        components.push(json!({
            "name": component.name,
            "version": component.version,
            "programs": programs,
        }));
    }
    let tools: BTreeMap<_, _> = tools
        .iter()
        .map(|package| (&package.name, &package.version))
        .collect();
    let versions = json!({
        "hearthd": own.version,
        "revision": own.revision,
        "components": components,
        "packages": tools,
    });
    let mut text = format!("{versions:#}").into_bytes();
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_those_of_the_directory_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b.crt", "B\n"), ("a.crt", "A"), ("note.txt", "no")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(authorities(dir.path()).unwrap(), b"A\nB\n");
        let empty = tempfile::tempdir().unwrap();
        assert!(authorities(empty.path()).is_err());
    }

    /// What hearthd looks for is where it looks for it.
    #[test]
    fn the_node_s_image_agrees_with_the_daemon_s_defaults() {
        let args = include_str!("../../../../crates/hearthd/src/main.rs");
        assert!(args.contains(&format!("default_value = \"/{BIN}\"")));
        assert!(args.contains(&format!("default_value = \"{}\"", pause::REFERENCE)));
    }
}
