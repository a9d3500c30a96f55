//! `localhost/hearth-pause:dev`: the first process of each pod sandbox.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Image, Layer, read, sources};
use crate::paths;
use crate::system;

/// What hearthd asks for unless it is told otherwise.
pub(super) const REFERENCE: &str = "localhost/hearth-pause:dev";

/// The image.
pub(super) fn image() -> Result<Image> {
    let mut layer = Layer::default();
    layer.file("pause", 0o755, program()?);
    Ok(Image {
        reference: REFERENCE.to_owned(),
        layers: vec![layer],
        entrypoint: &["/pause"],
        ..Image::default()
    })
}

/// The compiled program, from the cache when its source and compiler are the same as then.
fn program() -> Result<Vec<u8>> {
    let source = sources("pause").join("main.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiler = system::capture(Command::new(&rustc).arg("--version"))?;
    let mut inputs = read(&source)?;
    inputs.extend(compiler.as_bytes());
    inputs.extend(FLAGS.join(" ").as_bytes());
    let key = system::sha256_hex(&inputs);
    let cached = paths::cache()?
        .join("images")
        .join(format!("pause-{}", &key[..12]));
    if !cached.exists() {
        compile(&rustc, &source, &cached)?;
    }
    read(&cached)
}

/// Static, because the image has nothing else in it; small, because each sandbox has one.
const FLAGS: &[&str] = &[
    "--edition=2024",
    "-Ctarget-feature=+crt-static",
    "-Cpanic=abort",
    "-Copt-level=z",
    "-Clto=fat",
    "-Cstrip=symbols",
];

fn compile(rustc: &std::ffi::OsStr, source: &Path, to: &Path) -> Result<()> {
    let dir = to
        .parent()
        .with_context(|| format!("{} has no directory", to.display()))?;
    system::create_dir(dir)?;
    let unfinished = system::sibling(to, ".unfinished");
    let name = source
        .file_name()
        .with_context(|| format!("{} has no name", source.display()))?;
    system::capture(
        Command::new(rustc)
            .args(FLAGS)
            // The path of the checkout must not get into the program.
            .current_dir(source.parent().unwrap_or(dir))
            .arg("-o")
            .arg(&unfinished)
            .arg(name)
            // Meant for the workspace.
            .env_remove("RUSTFLAGS"),
    )?;
    fs::rename(&unfinished, to).with_context(|| format!("cannot move to {}", to.display()))
}
