//! A finished archive, opened again and looked at as whoever gets it will: by its digests alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::elf::{Linkage, linkage};
use crate::system;

/// What an archive must be like beyond being whole.
#[derive(Debug, Default)]
pub(super) struct Expected<'a> {
    /// Labels that it has, with something in them.
    pub(super) labels: &'a [&'a str],
    /// What its files date from, in seconds since 1970.
    pub(super) seconds: u64,
    /// Programs that may need libraries, by path.
    pub(super) dynamic: &'a [&'a str],
    /// What stands in none of its programs: paths of this machine.
    pub(super) traces: &'a [String],
}

/// What there is in an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Files, links and directories of the image.
    pub(super) entries: usize,
    /// Bytes of its files.
    pub(super) unpacked: u64,
    /// Its programs.
    pub(super) programs: Vec<String>,
}

/// A file of the image. Links have no contents.
type Files = BTreeMap<String, Vec<u8>>;

/// Looks at all of an archive.
///
/// # Errors
/// The first thing that is not as it must be.
pub(super) fn archive(bytes: &[u8], expected: &Expected<'_>) -> Result<Found> {
    let blobs = Blobs::read(bytes)?;
    let index = blobs.index()?;
    let [descriptor] = index["manifests"].as_array().map_or(&[][..], Vec::as_slice) else {
        bail!("index.json does not name one image");
    };
    let manifest = blobs.json(descriptor)?;
    let config = blobs.json(&manifest["config"])?;
    for label in expected.labels {
        let value = config["config"]["Labels"][*label].as_str();
        ensure!(
            value.is_some_and(|value| !value.is_empty()),
            "the label {label} is missing"
        );
    }
    let layers = manifest["layers"].as_array().context("no layers")?;
    let diff_ids = config["rootfs"]["diff_ids"]
        .as_array()
        .context("no diff_ids")?;
    ensure!(
        layers.len() == diff_ids.len(),
        "{} layers, {} diff_ids",
        layers.len(),
        diff_ids.len()
    );
    let mut files = Files::new();
    let mut entries = BTreeSet::new();
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let tar = unpacked(layer, blobs.get(layer)?)?;
        let digest = format!("sha256:{}", system::sha256_hex(&tar));
        ensure!(
            diff_id == &digest,
            "a layer unpacks to {digest}, its configuration says {diff_id}"
        );
        read_layer(&tar, expected.seconds, &mut files, &mut entries)?;
    }
    blobs.all_used()?;
    let programs = check_programs(&files, &entries, expected)?;
    Ok(Found {
        entries: entries.len(),
        unpacked: files.values().map(|contents| contents.len() as u64).sum(),
        programs,
    })
}

fn unpacked(layer: &Value, bytes: &[u8]) -> Result<Vec<u8>> {
    match layer["mediaType"].as_str() {
        Some("application/vnd.oci.image.layer.v1.tar") => Ok(bytes.to_vec()),
        Some("application/vnd.oci.image.layer.v1.tar+gzip") => {
            // Flags, and the time in the next four bytes.
            ensure!(
                bytes.get(3..8) == Some(&[0; 5]),
                "a layer has a name or a time in its gzip header"
            );
            system::filter(Command::new("gzip").args(["-d", "-c"]), bytes)
        }
        other => bail!("a layer is of the type {other:?}"),
    }
}

/// Reads the files of a layer, which must be root's, of one time, and in order.
fn read_layer(
    tar: &[u8],
    seconds: u64,
    files: &mut Files,
    entries: &mut BTreeSet<String>,
) -> Result<()> {
    let mut last = String::new();
    for entry in tar::Archive::new(tar).entries().context("no archive")? {
        let mut entry = entry.context("a damaged layer")?;
        let path = entry.path().context("an odd path")?.display().to_string();
        let path = path.trim_end_matches('/').to_owned();
        let header = entry.header();
        ensure!(
            header.uid()? == 0 && header.gid()? == 0,
            "{path} is not root's"
        );
        let names = [header.username_bytes(), header.groupname_bytes()];
        ensure!(
            names.iter().flatten().all(|name| name.is_empty()),
            "{path} has the name of a user or group"
        );
        ensure!(header.mtime()? == seconds, "{path} has another time");
        ensure!(path > last, "{path} comes after {last}");
        if header.entry_type().is_file() {
            let mut contents = Vec::new();
            entry
                .read_to_end(&mut contents)
                .with_context(|| format!("{path} is cut short"))?;
            files.insert(path.clone(), contents);
        } else {
            files.remove(&path);
        }
        entries.insert(path.clone());
        last = path;
    }
    Ok(())
}

fn check_programs(
    files: &Files,
    entries: &BTreeSet<String>,
    expected: &Expected<'_>,
) -> Result<Vec<String>> {
    let mut programs = Vec::new();
    for (path, contents) in files {
        match linkage(contents) {
            Linkage::None => continue,
            Linkage::Damaged => bail!("{path} cannot be read as a program"),
            Linkage::Static => {}
            // A library or a loader: it goes with the program that needs it.
            Linkage::Dynamic { loader: None, .. } => continue,
            Linkage::Dynamic {
                loader: Some(loader),
                libraries,
            } => {
                if path.contains(".so") {
                    continue;
                }
                ensure!(
                    expected.dynamic.contains(&path.as_str()),
                    "{path} is not static: it needs {loader} and {}",
                    libraries.join(", ")
                );
                check_libraries(path, &loader, &libraries, entries)?;
            }
        }
        for trace in expected.traces {
            ensure!(
                !contains(contents, trace.as_bytes()),
                "{path} has the path {trace} of this machine in it"
            );
        }
        programs.push(path.clone());
    }
    Ok(programs)
}

fn check_libraries(
    path: &str,
    loader: &str,
    libraries: &[String],
    entries: &BTreeSet<String>,
) -> Result<()> {
    let there = |name: &str| {
        let name = format!("/{name}");
        entries.iter().any(|entry| entry.ends_with(&name))
    };
    ensure!(
        entries.contains(loader.trim_start_matches('/')),
        "{path} needs {loader}, which is not in the image"
    );
    let missing: Vec<_> = libraries.iter().filter(|name| !there(name)).collect();
    ensure!(
        missing.is_empty(),
        "{path} needs {missing:?}, which are not in the image"
    );
    Ok(())
}

fn contains(contents: &[u8], wanted: &[u8]) -> bool {
    let first = wanted.first();
    let starts = contents.iter().enumerate();
    starts
        .filter(|(_, byte)| Some(*byte) == first)
        .any(|(at, _)| contents[at..].starts_with(wanted))
}

/// The files of an archive, and which of them were asked for.
struct Blobs {
    files: Files,
    used: std::cell::RefCell<BTreeSet<String>>,
}

impl Blobs {
    fn read(bytes: &[u8]) -> Result<Self> {
        let mut files = Files::new();
        for entry in tar::Archive::new(bytes).entries().context("no archive")? {
            let mut entry = entry.context("a damaged archive")?;
            let path = entry.path().context("an odd path")?.display().to_string();
            let mut contents = Vec::new();
            entry
                .read_to_end(&mut contents)
                .with_context(|| format!("{path} is cut short"))?;
            ensure!(
                files.insert(path.clone(), contents).is_none(),
                "{path} is there twice"
            );
        }
        Ok(Self {
            files,
            used: std::cell::RefCell::default(),
        })
    }

    fn index(&self) -> Result<Value> {
        let layout = self.file("oci-layout")?;
        let layout: Value = serde_json::from_slice(layout).context("an odd oci-layout")?;
        ensure!(
            layout["imageLayoutVersion"] == "1.0.0",
            "an archive of layout {layout}"
        );
        serde_json::from_slice(self.file("index.json")?).context("an odd index.json")
    }

    fn file(&self, path: &str) -> Result<&[u8]> {
        self.used.borrow_mut().insert(path.to_owned());
        let file = self.files.get(path);
        file.map(Vec::as_slice)
            .with_context(|| format!("no {path} in the archive"))
    }

    /// What a descriptor describes.
    fn get(&self, descriptor: &Value) -> Result<&[u8]> {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        let bytes = self.file(&format!("blobs/{}", digest.replace(':', "/")))?;
        let really = format!("sha256:{}", system::sha256_hex(bytes));
        ensure!(digest == really, "the blob {digest} is {really}");
        ensure!(
            descriptor["size"] == bytes.len(),
            "the blob {digest} has not its size"
        );
        Ok(bytes)
    }

    fn json(&self, descriptor: &Value) -> Result<Value> {
        serde_json::from_slice(self.get(descriptor)?).context("a damaged blob")
    }

    fn all_used(&self) -> Result<()> {
        let used = self.used.borrow();
        let more: Vec<_> = self
            .files
            .keys()
            .filter(|path| !used.contains(*path))
            .collect();
        ensure!(more.is_empty(), "nothing leads to {more:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::archive::{Compression, Image, Layer, Moment};
    use super::super::elf::testing::{dynamic_program, static_program};
    use super::*;

    const SECONDS: u64 = 1_700_000_000;
    const LABEL: &str = "org.opencontainers.image.version";

    fn expected() -> Expected<'static> {
        Expected {
            labels: &[LABEL],
            seconds: SECONDS,
            dynamic: &["usr/sbin/nft"],
            traces: &[],
        }
    }

    fn image(files: &[(&str, Vec<u8>)]) -> Image {
        let mut below = Layer::default();
        below.file("etc/passwd", 0o644, b"root:x:0:0::/:\n".to_vec());
        let mut above = Layer::default();
        for (path, contents) in files {
            above.file(path, 0o755, contents.clone());
        }
        Image {
            reference: "localhost/example:1".to_owned(),
            layers: vec![below, above],
            compression: Compression::Gzip,
            labels: BTreeMap::from([(LABEL, "1".to_owned())]),
            made: Some(Moment {
                seconds: SECONDS,
                text: "2023-11-14T22:13:20Z".to_owned(),
            }),
            ..Image::default()
        }
    }

    fn look(files: &[(&str, Vec<u8>)]) -> Result<Found> {
        archive(&image(files).archive().unwrap().bytes, &expected())
    }

    /// Why an archive is refused.
    fn refused(files: &[(&str, Vec<u8>)]) -> String {
        format!("{:#}", look(files).unwrap_err())
    }

    #[test]
    fn a_whole_archive_is_found_whole() {
        let loader = ("lib64/ld.so", static_program());
        let library = ("lib/libc.so.6", b"\x7fELF".to_vec());
        let nft = ("usr/sbin/nft", dynamic_program("/lib64/ld.so", "libc.so.6"));
        let tool = ("bin/tool", static_program());
        // What cannot be read as a library is no library.
        assert!(
            refused(&[loader.clone(), library, nft.clone(), tool.clone()]).contains("libc.so.6")
        );
        let library = ("lib/libc.so.6", b"a library".to_vec());
        let found = look(&[loader, library, nft, tool]).unwrap();
        assert_eq!(
            found.programs,
            ["bin/tool", "lib64/ld.so", "usr/sbin/nft"].map(str::to_owned)
        );
        assert!(found.unpacked > 0 && found.entries > 7, "{found:?}");
    }

    #[test]
    fn the_same_files_give_the_same_archive() {
        let files = [("bin/tool", static_program())];
        let (one, two) = (image(&files).archive(), image(&files).archive());
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.manifest, two.manifest);
        assert_eq!(one.bytes, two.bytes);
    }

    #[test]
    fn a_program_that_needs_libraries_is_refused() {
        let program = || dynamic_program("/lib64/ld.so", "libc.so.6");
        let said = refused(&[("bin/tool", program())]);
        assert!(said.contains("bin/tool is not static"), "{said}");
        let said = refused(&[("usr/sbin/nft", program())]);
        assert!(said.contains("needs /lib64/ld.so"), "{said}");
        let loader = ("lib64/ld.so", static_program());
        let said = refused(&[("usr/sbin/nft", program()), loader]);
        assert!(said.contains("libc.so.6"), "{said}");
    }

    #[test]
    fn a_path_of_this_machine_is_found() {
        let mut program = static_program();
        program.extend(b"panicked at /home/somebody/src/main.rs");
        let bytes = image(&[("bin/tool", program)]).archive().unwrap().bytes;
        let traces = ["/home/somebody".to_owned()];
        let expected = Expected {
            traces: &traces,
            ..expected()
        };
        let said = format!("{:#}", archive(&bytes, &expected).unwrap_err());
        assert!(said.contains("/home/somebody"), "{said}");
    }

    #[test]
    fn what_is_not_as_it_says_is_refused() {
        let whole = image(&[("bin/tool", static_program())]);
        let bytes = whole.archive().unwrap().bytes;
        let refused = |bytes: &[u8], expected: &Expected<'_>| {
            format!("{:#}", archive(bytes, expected).unwrap_err())
        };
        let other = Expected {
            seconds: SECONDS + 1,
            ..expected()
        };
        assert!(refused(&bytes, &other).contains("another time"));
        let other = Expected {
            labels: &["missing"],
            ..expected()
        };
        assert!(refused(&bytes, &other).contains("the label missing"));
        // One bit of each blob in turn.
        let digest = whole.archive().unwrap().manifest;
        let digest = digest.trim_start_matches("sha256:").as_bytes();
        let at = bytes
            .windows(digest.len())
            .rposition(|window| window == digest)
            .unwrap();
        // The name of the manifest's blob: its contents are in the next block.
        let mut spoilt = bytes.clone();
        let contents = at / 512 * 512 + 512;
        spoilt[contents] ^= 1;
        let said = refused(&spoilt, &expected());
        assert!(said.contains(" is sha256:"), "{said}");
    }
}
