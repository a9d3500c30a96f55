//! OCI images: a layer, its configuration, its manifest, all of it in one archive. Nothing in
//! them depends on when and where they are made, so the same contents give the same digests.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

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

    fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::default();
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

/// An image of one layer.
#[derive(Debug)]
pub(super) struct Image {
    /// The name it is imported under, with tag.
    pub(super) reference: &'static str,
    /// Its file system.
    pub(super) layer: Layer,
    /// `Entrypoint`.
    pub(super) entrypoint: &'static [&'static str],
    /// `Cmd`.
    pub(super) command: &'static [&'static str],
    /// `Env`.
    pub(super) env: &'static [&'static str],
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
        let layer = Blob::new(self.layer.tar()?);
        let config = Blob::json(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Env": self.env, "Entrypoint": self.entrypoint, "Cmd": self.command },
            // Not compressed, so the digest of the contents is the digest of the blob.
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        }));
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
        }));
        let mut descriptor = manifest.descriptor(MANIFEST);
        descriptor["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": tag(self.reference),
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] });

        let mut tar = Tar::default();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.file("index.json", 0o644, index.to_string().as_bytes())?;
        for blob in [&manifest, &config, &layer] {
            tar.file(&blob.path(), 0o644, &blob.bytes)?;
        }
        Ok(Archive {
            bytes: tar.finish()?,
            manifest: manifest.digest,
        })
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn tag(reference: &str) -> &str {
    reference.rsplit_once(':').map_or("latest", |(_, tag)| tag)
}

fn architecture() -> &'static str {
    crate::deploy::architecture()
}

/// A tar archive in memory. Everything in it belongs to root and dates from 1970.
#[derive(Default)]
struct Tar {
    builder: Option<tar::Builder<Vec<u8>>>,
}

impl Tar {
    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        // The slash is the custom; some readers go by it rather than by the type.
        let path = format!("{path}/");
        self.append(&path, tar::EntryType::Directory, mode, &[])
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.append(path, tar::EntryType::Regular, mode, contents)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.builder()
            .append_link(&mut header, path, target)
            .with_context(|| format!("cannot add {path} to an archive"))
    }

    fn append(&mut self, path: &str, kind: tar::EntryType, mode: u32, data: &[u8]) -> Result<()> {
        let mut header = header(kind, mode, data.len() as u64);
        self.builder()
            .append_data(&mut header, path, data)
            .with_context(|| format!("cannot add {path} to an archive"))
    }

    fn builder(&mut self) -> &mut tar::Builder<Vec<u8>> {
        self.builder
            .get_or_insert_with(|| tar::Builder::new(Vec::new()))
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        self.builder();
        match self.builder.take() {
            Some(builder) => builder.into_inner().context("cannot finish an archive"),
            None => Ok(Vec::new()),
        }
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
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
            reference: "localhost/example:dev",
            layer,
            entrypoint: &["/bin/tool"],
            command: &[],
            env: &[],
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
}
