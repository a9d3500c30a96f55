//! The images that are handed out: our programs with all that they start, in OCI archives that are made
//! without a daemon, a base image or a registry. From the same programs come the same digests.

mod contents;
mod debian;
mod elf;
mod sbom;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::archive::{Compression, Image, Moment};
use crate::cargo;
use crate::paths::repository;
use crate::system;
use crate::ui;

use contents::{Contents, Own};

/// What `images release` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What the images' names begin with: a registry, with or without a path.
    #[arg(long, default_value = "localhost")]
    prefix: String,
    /// Their tag [default: the version of the workspace].
    #[arg(long)]
    tag: Option<String>,
    /// Where they are written [default: dist in the checkout].
    #[arg(long)]
    out: Option<PathBuf>,
    /// The commit that they are made from [default: what git says].
    #[arg(long)]
    revision: Option<String>,
    /// Where their source is, for the label org.opencontainers.image.source.
    #[arg(long)]
    source: Option<String>,
    /// Write the files below <out>/<image>, for tools that make images out of directories, and no archives.
    #[arg(long)]
    trees: bool,
    /// Make each archive twice and fail when they differ.
    #[arg(long, conflicts_with = "trees")]
    twice: bool,
}

/// An image of ours.
struct Kind {
    name: &'static str,
    description: &'static str,
    licenses: &'static str,
    package: &'static str,
    program: &'static str,
    entrypoint: &'static [&'static str],
    env: &'static [&'static str],
    user: &'static str,
    /// Programs that may need libraries.
    dynamic: &'static [&'static str],
    contents: fn(Own<'_>) -> Result<Contents>,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "agent-sandbox-controller",
        description: "Assigns agent sandboxes to nodes and answers claims",
        licenses: "Apache-2.0",
        package: "controller",
        program: "agent-sandbox-controller",
        entrypoint: &["/agent-sandbox-controller"],
        env: &[],
        user: "65532:65532",
        dynamic: &[],
        contents: contents::controller,
    },
    Kind {
        name: "hearth-node",
        description: "Runs the agent sandboxes of one node: hearthd, containerd, runc, gVisor, CNI plugins",
        // Ours and the runtimes'; then busybox, nft and its libraries, whose texts are in usr/share/doc.
        licenses: "Apache-2.0 AND GPL-2.0-only AND GPL-2.0-or-later AND LGPL-2.1-or-later",
        package: "hearthd",
        program: "hearthd",
        entrypoint: &["/usr/bin/hearthd"],
        env: &["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        // It makes cgroups, mounts and network namespaces.
        user: "0:0",
        dynamic: contents::DYNAMIC,
        contents: contents::node,
    },
];

/// Labels that each image has.
const LABELS: &[&str] = &[
    "org.opencontainers.image.title",
    "org.opencontainers.image.description",
    "org.opencontainers.image.version",
    "org.opencontainers.image.revision",
    "org.opencontainers.image.created",
    "org.opencontainers.image.licenses",
];

/// Where an image has the list of what it is made of.
const SBOM_DIR: &str = "usr/share/sbom";

/// Builds the programs and writes the images, each with the list of what it is made of beside it.
pub(crate) fn write(options: &Options) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let tag = options.tag.as_deref().unwrap_or(version);
    check_name(&options.prefix, tag)?;
    let revision = match &options.revision {
        Some(revision) => revision.clone(),
        None => revision()?,
    };
    let made = moment()?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => repository().join("dist"),
    };
    let metadata = cargo::metadata()?;
    let programs = KINDS.map(|kind| (kind.package, kind.program));
    // What the controller says of itself in agent_sandbox_build_info.
    let told = [
        ("HEARTH_GIT_COMMIT", revision.as_str()),
        ("HEARTH_BUILD_DATE", made.text.as_str()),
    ];
    let files = ui::step("building static programs", || {
        cargo::build_static(&programs, &told)
    })?;
    for (kind, file) in KINDS.iter().zip(&files) {
        let own = Own {
            file,
            package: kind.package,
            metadata: &metadata,
            version,
            revision: &revision,
        };
        let build = || kind.image(options, own, tag, &made);
        if options.trees {
            kind.write_tree(&build()?, &out)?;
        } else {
            kind.write_archive(build, options.twice, &out, &made)?;
        }
    }
    Ok(())
}

/// An image, and the list of what it is made of.
struct Release {
    image: Image,
    sbom: Vec<u8>,
}

impl Kind {
    fn image(&self, options: &Options, own: Own<'_>, tag: &str, made: &Moment) -> Result<Release> {
        let Contents {
            mut layers,
            components,
        } = (self.contents)(own)?;
        let sbom = sbom::document(self.name, own.version, made, components);
        if let Some(top) = layers.last_mut() {
            top.file(&self.sbom_path(), 0o644, sbom.clone());
            let license = super::read(&repository().join("LICENSE"))?;
            top.file("usr/share/doc/hearth/LICENSE", 0o644, license);
        }
        let mut labels = BTreeMap::from([
            ("org.opencontainers.image.title", self.name.to_owned()),
            (
                "org.opencontainers.image.description",
                self.description.to_owned(),
            ),
            ("org.opencontainers.image.version", own.version.to_owned()),
            ("org.opencontainers.image.revision", own.revision.to_owned()),
            ("org.opencontainers.image.created", made.text.clone()),
            (
                "org.opencontainers.image.licenses",
                self.licenses.to_owned(),
            ),
        ]);
        if let Some(source) = &options.source {
            labels.insert("org.opencontainers.image.source", source.clone());
        }
        let image = Image {
            reference: format!("{}/{}:{tag}", options.prefix, self.name),
            layers,
            compression: Compression::Gzip,
            entrypoint: self.entrypoint,
            command: &[],
            env: self.env,
            user: self.user,
            labels,
            made: Some(made.clone()),
        };
        Ok(Release { image, sbom })
    }

    fn sbom_path(&self) -> String {
        format!("{SBOM_DIR}/{}.cdx.json", self.name)
    }

    fn write_tree(&self, release: &Release, out: &Path) -> Result<()> {
        let tree = out.join(self.name);
        system::remove(&tree)?;
        system::create_dir(&tree)?;
        for layer in &release.image.layers {
            layer.unpack(&tree)?;
        }
        ui::note(format!(
            "wrote the files of {} to {}",
            self.name,
            tree.display()
        ));
        Ok(())
    }

    fn write_archive(
        &self,
        build: impl Fn() -> Result<Release>,
        twice: bool,
        out: &Path,
        made: &Moment,
    ) -> Result<()> {
        let Release { image, sbom } = build()?;
        let archive = image.archive()?;
        if twice {
            let again = build()?.image.archive()?;
            ensure!(
                archive.manifest == again.manifest && archive.bytes == again.bytes,
                "{} is {} and then {}",
                self.name,
                archive.manifest,
                again.manifest
            );
        }
        let found = verify::archive(
            &archive.bytes,
            &verify::Expected {
                labels: LABELS,
                seconds: made.seconds,
                dynamic: self.dynamic,
                traces: &traces()?,
            },
        )
        .with_context(|| format!("the image {} is not as it must be", image.reference))?;
        let path = out.join(format!("{}.tar", self.name));
        system::write_atomic(&path, &archive.bytes, 0o644)?;
        let list = out.join(format!("{}.cdx.json", self.name));
        system::write_atomic(&list, &sbom, 0o644)?;
        ui::note(format!(
            "{} ({}): {} packed, {} unpacked, {} entries, {} programs",
            image.reference,
            archive.manifest,
            mebibytes(archive.bytes.len() as u64),
            mebibytes(found.unpacked),
            found.entries,
            found.programs.len()
        ));
        ui::note(format!("  {}", path.display()));
        ui::note(format!("  {}", list.display()));
        Ok(())
    }
}

/// What must not stand in a program: where it was built. A place right below the root is not looked for, because other
/// paths have its name in them.
fn traces() -> Result<Vec<String>> {
    let places = [repository(), cargo::cargo_home()?];
    Ok(places
        .iter()
        .map(|place| place.display().to_string())
        .filter(|place| place.matches('/').count() > 1)
        .collect())
}

/// `12.3 MiB`.
fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Refuses what no registry and no containerd takes as a name, before anything is built.
fn check_name(prefix: &str, tag: &str) -> Result<()> {
    let prefix_fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"./:-_".contains(&byte);
    ensure!(
        !prefix.is_empty() && prefix.bytes().all(prefix_fits) && !prefix.ends_with('/'),
        "--prefix {prefix:?} cannot begin the name of an image: use lower-case letters, digits and ./:-_, such as \
         registry.example:5000/team"
    );
    let tag_fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    ensure!(
        (1..=128).contains(&tag.len()) && tag.bytes().all(tag_fits) && !tag.starts_with(['.', '-']),
        "--tag {tag:?} cannot be a tag: use at most 128 letters, digits and ._-"
    );
    Ok(())
}

/// The commit, and whether the files are still as it has them.
fn revision() -> Result<String> {
    let commit = git(&["rev-parse", "HEAD"])
        .context("git does not say which commit this is; give it with --revision")?;
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    Ok(if changed {
        format!("{commit}-dirty")
    } else {
        commit
    })
}

/// What the images date from: SOURCE_DATE_EPOCH, or the commit.
fn moment() -> Result<Moment> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds,
        Err(_) => git(&["log", "-1", "--format=%ct"])
            .context("git does not say when the commit was made; set SOURCE_DATE_EPOCH")?,
    };
    let seconds: u64 = seconds
        .trim()
        .parse()
        .with_context(|| format!("{seconds:?} is not a number of seconds since 1970"))?;
    let text = system::capture(
        Command::new("date")
            .args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"])
            .arg(format!("--date=@{seconds}")),
    )?;
    Ok(Moment {
        seconds,
        text: text.trim().to_owned(),
    })
}

fn git(args: &[&str]) -> Result<String> {
    let said = system::capture(Command::new("git").current_dir(repository()).args(args))?;
    Ok(said.trim().to_owned())
}

/// The names of the images, without what they begin with and without tags.
#[cfg(test)]
fn names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_takes_are_refused_at_once() {
        for (prefix, tag) in [
            ("localhost", "0.1.0"),
            ("registry.example:5000/team", "v1_rc-1"),
        ] {
            check_name(prefix, tag).unwrap();
        }
        for (prefix, tag) in [
            ("", "1"),
            ("Registry", "1"),
            ("localhost/", "1"),
            ("localhost", ""),
            ("localhost", ".1"),
            ("localhost", "a b"),
        ] {
            assert!(check_name(prefix, tag).is_err(), "{prefix} {tag}");
        }
    }

    #[test]
    fn sizes_are_in_mebibytes() {
        for (bytes, expect) in [(0, "0.0 MiB"), (1 << 20, "1.0 MiB"), (1_700_000, "1.6 MiB")] {
            assert_eq!(mebibytes(bytes), expect);
        }
    }

    #[test]
    fn the_containerfile_makes_the_same_images() {
        let text = std::fs::read_to_string(repository().join("Containerfile")).unwrap();
        for name in names() {
            assert!(text.contains(&format!(" AS {name}\n")), "no stage {name}");
            let copied = format!("COPY --from=build /out/{name}/ /\n");
            assert!(text.contains(&copied), "{name} is not copied");
        }
        for kind in KINDS {
            let entrypoint = format!("ENTRYPOINT [\"{}\"]", kind.entrypoint[0]);
            assert!(text.contains(&entrypoint), "{entrypoint}");
            assert!(text.contains(&format!("USER {}\n", kind.user)));
        }
    }
}
