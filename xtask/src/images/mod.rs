//! Images, written as OCI archives without any image tool: those of the examples and tests, and in
//! [`release`] those that are handed out.

mod archive;
mod busybox;
mod pause;
pub(crate) mod release;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::paths::repository;
use crate::system;
use crate::ui;

use archive::{Image, Layer};

/// Which images are written, when not those of the examples and tests.
#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// Builds hearthd and the controller for other machines and writes their images.
    Release(release::Options),
}

/// Writes every image as `<name>.tar` into `dir`, unless the archive there is the same already.
pub(crate) fn write_all(dir: &Path) -> Result<()> {
    system::create_dir(dir)?;
    for (file, image) in [
        ("hearth-pause.tar", pause::image()?),
        ("hearth-busybox.tar", busybox::image()?),
    ] {
        let archive = image.archive()?;
        let path = dir.join(file);
        if !fs::read(&path).is_ok_and(|now| now == archive.bytes) {
            system::write_atomic(&path, &archive.bytes, 0o644)?;
            ui::note(format!(
                "wrote the image {} ({})",
                image.reference, archive.manifest
            ));
        }
    }
    Ok(())
}

/// A directory of `runtimes/images`.
fn sources(image: &str) -> PathBuf {
    repository().join("runtimes/images").join(image)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
