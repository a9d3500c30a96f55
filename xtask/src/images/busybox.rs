//! `localhost/hearth-busybox:dev`: Debian's static busybox under the name of each of its applets.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Image, Layer, read, sources};
use crate::system;

/// The image.
pub(super) fn image() -> Result<Image> {
    let busybox = program()?;
    let applets = system::capture(Command::new(&busybox).arg("--list-full"))?;
    let mut layer = Layer::default();
    layer.file("bin/busybox", 0o755, read(&busybox)?);
    for applet in applets.lines().filter(|applet| *applet != "bin/busybox") {
        layer.link(applet, "/bin/busybox");
    }
    for (directory, mode) in [
        ("dev", 0o755),
        ("home", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("run", 0o755),
    ] {
        layer.directory(directory, mode);
    }
    for file in [
        "etc/passwd",
        "etc/group",
        "etc/nsswitch.conf",
        "www/index.html",
    ] {
        layer.file(file, 0o644, read(&sources("busybox").join(file))?);
    }
    Ok(Image {
        reference: "localhost/hearth-busybox:dev".to_owned(),
        layers: vec![layer],
        command: &["sh"],
        env: &["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        ..Image::default()
    })
}

/// busybox-static installs it as plain `busybox`.
pub(super) fn program() -> Result<PathBuf> {
    system::find_on_path("busybox").context("busybox is not installed (package busybox-static)")
}
