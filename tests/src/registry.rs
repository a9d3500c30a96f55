//! A registry of a test's own, on loopback: Debian's `docker-registry`, with or without a password.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::wait::wait_for;

/// The user whom a registry with a password lets in.
pub const USER: &str = "tester";
/// The password.
pub const PASSWORD: &str = "opensesame";
/// bcrypt of the password, as the registry wants it.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi";
/// Shells and servers in one file, from Debian's `busybox-static`.
const BUSYBOX: &str = "/usr/bin/busybox";
/// How long it may take to serve.
const LIMIT: Duration = Duration::from_secs(30);

/// A registry; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    directory: TempDir,
    port: u16,
    _child: Child,
}

impl Registry {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer.
    pub async fn start(password: bool) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Free a moment ago; the registry takes no port of its own choice.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {
                "filesystem": {"rootdirectory": directory.path().join("data")},
                // What a test puts there is found at once.
                "maintenance": {"uploadpurging": {"enabled": false}},
            },
            "http": {"addr": format!("127.0.0.1:{port}")},
        });
        if password {
            let file = directory.path().join("htpasswd");
            fs::write(&file, format!("{USER}:{HASH}\n"))?;
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": file}});
        }
        let file = directory.path().join("config.yml");
        // JSON is YAML.
        fs::write(&file, config.to_string())?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start docker-registry, of the Debian package of that name")?;
        let registry = Self {
            directory,
            port,
            _child: child,
        };
        let status = if password { "401" } else { "200" };
        wait_for("the registry answers", LIMIT, async || {
            match registry.status().await {
                Ok(answer) if answer.contains(status) => Ok(()),
                Ok(answer) => Err(format!("it answers {answer:?}")),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await?;
        Ok(registry)
    }

    /// `host:port`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A Secret's `.dockerconfigjson` with this password for it.
    #[must_use]
    pub fn login(&self, password: &str) -> String {
        let entry = json!({"username": USER, "password": password});
        json!({"auths": {self.host(): entry}}).to_string()
    }

    /// Puts an image into it: busybox, and a file `/mark` with this text and `ballast` bytes that do not compress.
    /// Returns its name.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn put(&self, repository: &str, tag: &str, mark: &str, ballast: usize) -> Result<String> {
        let layer = layer(mark, ballast)?;
        let layer_digest = self.blob(&layer)?;
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            // Not compressed, so that both digests are the same.
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        })
        .to_string();
        let config_digest = self.blob(config.as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest, "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer_digest, "size": layer.len(),
            }],
        })
        .to_string();
        let manifest_digest = self.blob(manifest.as_bytes())?;
        let repository_dir = self.data().join("repositories").join(repository);
        let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
        for (place, digest) in [
            (
                format!("_layers/sha256/{}", hex(&layer_digest)),
                &layer_digest,
            ),
            (
                format!("_layers/sha256/{}", hex(&config_digest)),
                &config_digest,
            ),
            (
                format!("_manifests/revisions/sha256/{}", hex(&manifest_digest)),
                &manifest_digest,
            ),
            (
                format!(
                    "_manifests/tags/{tag}/index/sha256/{}",
                    hex(&manifest_digest)
                ),
                &manifest_digest,
            ),
            (format!("_manifests/tags/{tag}/current"), &manifest_digest),
        ] {
            write(&repository_dir.join(place).join("link"), digest.as_bytes())?;
        }
        Ok(format!("{}/{repository}:{tag}", self.host()))
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data/docker/registry/v2")
    }

    /// Stores content by its digest, which it returns.
    fn blob(&self, content: &[u8]) -> Result<String> {
        let hex = format!("{:x}", Sha256::digest(content));
        let place = self.data().join("blobs/sha256").join(&hex[..2]).join(&hex);
        write(&place.join("data"), content)?;
        Ok(format!("sha256:{hex}"))
    }

    async fn status(&self) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream
            .write_all(b"GET /v2/ HTTP/1.0\r\nHost: registry\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let directory = path.parent().context("a file in a directory")?;
    fs::create_dir_all(directory)?;
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

fn layer(mark: &str, ballast: usize) -> Result<Vec<u8>> {
    let busybox = fs::read(BUSYBOX).with_context(|| format!("read {BUSYBOX}"))?;
    ensure!(
        fs::metadata(BUSYBOX)?.permissions().mode() & 0o111 != 0,
        "{BUSYBOX} is no program"
    );
    // A simple generator: what it makes does not compress.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(ballast)
    .collect();
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in [
        ("bin/busybox", 0o755, busybox.as_slice()),
        ("mark", 0o644, mark.as_bytes()),
        ("ballast", 0o644, noise.as_slice()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content)?;
    }
    for name in [
        "sh", "cat", "cp", "mkdir", "hostname", "httpd", "sleep", "dd",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}
