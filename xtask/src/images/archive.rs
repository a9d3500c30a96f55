//! OCI images: layers, their configuration, their manifest, all of it in one archive. Nothing in
//! them depends on when and where they are made, so the same contents give the same digests.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::system;

/// One file system layer under construction.
#[derive(Debug, Default)]
pub(super) struct Layer {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, contents: Vec<u8> },
    Link { target: String },
}

impl Layer {
    /// Adds a directory; `path` is relative to the root, like all paths here.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.parents(path);
        self.entries
            .insert(path.to_owned(), Entry::Directory { mode });
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, contents: Vec<u8>) {
        self.parents(path);
        self.entries
            .insert(path.to_owned(), Entry::File { mode, contents });
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        let target = target.to_owned();
        self.entries.insert(path.to_owned(), Entry::Link { target });
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.entries
                .entry(path[..end].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
    }

    /// Writes it as files below `root`, for tools that make images out of directories.
    pub(super) fn unpack(&self, root: &Path) -> Result<()> {
        // A directory sorts before what is in it.
        for (path, entry) in &self.entries {
            let place = root.join(path);
            match entry {
                Entry::Directory { mode } => {
                    system::create_dir(&place)?;
                    fs::set_permissions(&place, fs::Permissions::from_mode(*mode))
                        .with_context(|| format!("cannot give {} its mode", place.display()))?;
                }
                Entry::File { mode, contents } => system::write_atomic(&place, contents, *mode)?,
                Entry::Link { target } => system::link(Path::new(target), &place)?,
            }
        }
        Ok(())
    }

    fn tar(&self, time: u64) -> Result<Vec<u8>> {
        let mut tar = Tar::at(time);
        // A directory sorts before what is in it.
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => tar.directory(path, *mode)?,
                Entry::File { mode, contents } => tar.file(path, *mode, contents)?,
                Entry::Link { target } => tar.link(path, target)?,
            }
        }
        tar.finish()
    }
}

/// How layers are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Compression {
    /// As they are: the fastest for what never leaves the machine.
    #[default]
    None,
    /// By gzip, without a name and a time in it.
    Gzip,
}

impl Compression {
    fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }

    fn apply(self, tar: Vec<u8>) -> Result<Vec<u8>> {
        match self {
            Self::None => Ok(tar),
            Self::Gzip => system::filter(Command::new("gzip").args(["-n", "-6", "-c"]), &tar),
        }
    }
}

/// A moment that an image dates from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// Seconds since 1970, UTC.
    pub(super) seconds: u64,
    /// The same in RFC 3339.
    pub(super) text: String,
}

/// An image.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// The name it is imported under, with tag.
    pub(super) reference: String,
    /// Its file system, the lowest layer first.
    pub(super) layers: Vec<Layer>,
    /// How those are stored.
    pub(super) compression: Compression,
    /// `Entrypoint`.
    pub(super) entrypoint: &'static [&'static str],
    /// `Cmd`.
    pub(super) command: &'static [&'static str],
    /// `Env`.
    pub(super) env: &'static [&'static str],
    /// `User`; empty: root.
    pub(super) user: &'static str,
    /// `Labels`.
    pub(super) labels: BTreeMap<&'static str, String>,
    /// What its files date from, and when it says that it was made. Absent: 1970, and it says nothing.
    pub(super) made: Option<Moment>,
}

/// A finished archive.
#[derive(Debug)]
pub(super) struct Archive {
    /// The manifest's digest, which is the image's.
    pub(super) manifest: String,
    /// The archive.
    pub(super) bytes: Vec<u8>,
}

/// A blob with its digest.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let digest = format!("sha256:{}", system::sha256_hex(&bytes));
        Self { digest, bytes }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

impl Image {
    /// The image as an OCI archive.
    pub(super) fn archive(&self) -> Result<Archive> {
        let time = self.made.as_ref().map_or(0, |made| made.seconds);
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let tar = Blob::new(layer.tar(time)?);
            diff_ids.push(tar.digest.clone());
            layers.push(match self.compression {
                // The digest of the contents is the digest of the blob.
                Compression::None => tar,
                Compression::Gzip => Blob::new(self.compression.apply(tar.bytes)?),
            });
        }
        let config = Blob::json(&self.configuration(&diff_ids));
        let media_type = self.compression.media_type();
        let described: Vec<_> = layers
            .iter()
            .map(|layer| layer.descriptor(media_type))
            .collect();
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": described,
        }));
        let mut descriptor = manifest.descriptor(MANIFEST);
        descriptor["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": tag(&self.reference),
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] });

        let mut tar = Tar::at(time);
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.file("index.json", 0o644, index.to_string().as_bytes())?;
        let mut blobs = vec![&manifest, &config];
        for layer in &layers {
            // Two layers may be the same.
            if !blobs.iter().any(|blob| blob.digest == layer.digest) {
                blobs.push(layer);
            }
        }
        for blob in blobs {
            tar.file(&blob.path(), 0o644, &blob.bytes)?;
        }
        Ok(Archive {
            bytes: tar.finish()?,
            manifest: manifest.digest,
        })
    }

    fn configuration(&self, diff_ids: &[String]) -> Value {
        let mut run = Map::new();
        run.insert("Env".to_owned(), json!(self.env));
        run.insert("Entrypoint".to_owned(), json!(self.entrypoint));
        run.insert("Cmd".to_owned(), json!(self.command));
        if !self.user.is_empty() {
            run.insert("User".to_owned(), json!(self.user));
        }
        if !self.labels.is_empty() {
            run.insert("Labels".to_owned(), json!(self.labels));
        }
        let mut config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": run,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        if let Some(made) = &self.made {
            config["created"] = json!(made.text);
        }
        config
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn tag(reference: &str) -> &str {
    reference.rsplit_once(':').map_or("latest", |(_, tag)| tag)
}

fn architecture() -> &'static str {
    crate::deploy::architecture()
}

/// A tar archive in memory. Everything in it belongs to root and dates from the same second.
struct Tar {
    builder: tar::Builder<Vec<u8>>,
    time: u64,
}

impl Tar {
    /// An empty one, with what its entries date from in seconds since 1970.
    fn at(time: u64) -> Self {
        Self {
            builder: tar::Builder::new(Vec::new()),
            time,
        }
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        // The slash is the custom; some readers go by it rather than by the type.
        let path = format!("{path}/");
        self.append(&path, tar::EntryType::Directory, mode, &[])
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.append(path, tar::EntryType::Regular, mode, contents)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = self.header(tar::EntryType::Symlink, 0o777, 0);
        self.builder
            .append_link(&mut header, path, target)
            .with_context(|| format!("cannot add {path} to an archive"))
    }

    fn append(&mut self, path: &str, kind: tar::EntryType, mode: u32, data: &[u8]) -> Result<()> {
        let mut header = self.header(kind, mode, data.len() as u64);
        self.builder
            .append_data(&mut header, path, data)
            .with_context(|| format!("cannot add {path} to an archive"))
    }

    fn header(&self, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.builder
            .into_inner()
            .context("cannot finish an archive")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image() -> Image {
        let mut layer = Layer::default();
        layer.file("bin/tool", 0o755, b"tool".to_vec());
        layer.link("bin/other", "tool");
        layer.directory("tmp", 0o1777);
        Image {
            reference: "localhost/example:dev".to_owned(),
            layers: vec![layer],
            entrypoint: &["/bin/tool"],
            ..Image::default()
        }
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        tar::Archive::new(archive)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut contents = Vec::new();
                entry.read_to_end(&mut contents).unwrap();
                (path, contents)
            })
            .collect()
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(digest, format!("sha256:{}", system::sha256_hex(bytes)));
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn archive_leads_from_the_index_to_the_files() {
        let archive = image().archive().unwrap();
        let files = files(&archive.bytes);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let descriptor = &index["manifests"][0];
        assert_eq!(
            descriptor["annotations"]["io.containerd.image.name"],
            "localhost/example:dev"
        );
        assert_eq!(descriptor["digest"], archive.manifest);
        let manifest: Value = serde_json::from_slice(blob(&files, descriptor)).unwrap();
        let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/tool"]));
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        assert_eq!(config["created"], Value::Null);

        let layer = blob(&files, &manifest["layers"][0]);
        let listed: Vec<_> = tar::Archive::new(layer)
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let mode = entry.header().mode().unwrap();
                (entry.path().unwrap().display().to_string(), mode)
            })
            .collect();
        assert_eq!(
            listed,
            [
                ("bin/".to_owned(), 0o755),
                ("bin/other".to_owned(), 0o777),
                ("bin/tool".to_owned(), 0o755),
                ("tmp/".to_owned(), 0o1777),
            ]
        );
    }

    #[test]
    fn same_contents_give_the_same_bytes() {
        assert_eq!(
            image().archive().unwrap().bytes,
            image().archive().unwrap().bytes
        );
    }

    #[test]
    fn a_tree_has_what_the_layer_has() {
        let dir = tempfile::tempdir().unwrap();
        image().layers[0].unpack(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("bin/tool")).unwrap(), b"tool");
        let mode = |path: &str| {
            let metadata = fs::metadata(dir.path().join(path)).unwrap();
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!((mode("bin/tool"), mode("tmp")), (0o755, 0o1777));
        let link = fs::read_link(dir.path().join("bin/other")).unwrap();
        assert_eq!(link, Path::new("tool"));
    }
}
