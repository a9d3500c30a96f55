//! Small services of the operating system that several commands need.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

/// Fails with one sentence unless this process is root.
pub(crate) fn require_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "root is needed: the cluster creates cgroups, mounts and network namespaces on this machine"
    );
    Ok(())
}

/// The machine's name as a Kubernetes object name.
pub(crate) fn node_name() -> String {
    let raw = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    object_name(&raw)
}

fn object_name(raw: &str) -> String {
    let name: String = raw
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() || name == "localhost" {
        "hearth-node".to_owned()
    } else {
        name.to_owned()
    }
}

/// The SHA-256 of `bytes` in lower-case hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Writes a file that is either the old one or the whole new one, whatever happens meanwhile.
pub(crate) fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    let dir = path
        .parent()
        .with_context(|| format!("{} has no directory", path.display()))?;
    create_dir(dir)?;
    let temporary = sibling(path, ".tmp");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(contents)?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// `path` with `suffix` appended to its file name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes `value` as indented JSON, atomically.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .with_context(|| format!("cannot encode {}", path.display()))?;
    text.push(b'\n');
    write_atomic(path, &text, 0o600)
}

/// Reads JSON from `path`; a file that is not there is `None`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let value = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not what this tool wrote", path.display()))?;
    Ok(Some(value))
}

/// Creates a directory and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Removes a file or a directory tree; what is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes `link` a symbolic link to `target`, replacing what stood there.
pub(crate) fn link(target: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let temporary = sibling(link, ".tmp");
    remove(&temporary)?;
    std::os::unix::fs::symlink(target, &temporary)
        .and_then(|()| fs::rename(&temporary, link))
        .with_context(|| format!("cannot link {} to {}", link.display(), target.display()))
}

/// Runs a command whose output the user should see; fails when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    ensure!(status.success(), "{} failed: {status}", describe(command));
    Ok(())
}

/// Runs a command and returns what it printed; its error output is part of a failure.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{} failed: {}: {}",
            describe(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something that is not UTF-8", describe(command)))
}

/// Runs a command to its end, whatever that is, and returns everything about it.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", describe(command)))
}

/// Runs a command with `input` on its standard input and returns what it printed.
pub(crate) fn capture_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input)
            .with_context(|| format!("cannot write to {}", describe(command)))?;
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot read from {}", describe(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed: {}: {}",
            describe(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command with `input` on its standard input and returns what it printed, byte by byte. The
/// input is in memory as a file, so that nobody has to write and read at the same time.
pub(crate) fn filter(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let stdin = || -> std::io::Result<fs::File> {
        let memory = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = fs::File::from(memory);
        file.write_all(input)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    };
    let stdin = stdin().with_context(|| format!("cannot prepare {}", describe(command)))?;
    let output = command
        .stdin(stdin)
        .output()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    ensure!(
        output.status.success(),
        "{} failed: {}: {}",
        describe(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

/// A command as it would be typed, shortened when it is long.
fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    let text = words.join(" ");
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("`{} ...`", &text[..end]),
        None => format!("`{text}`"),
    }
}

/// Where a program stands on the PATH.
pub(crate) fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The status code of a plain HTTP GET on loopback.
pub(crate) fn http_status(address: SocketAddr, path: &str) -> Result<u16> {
    const LIMIT: Duration = Duration::from_secs(2);
    let stream = TcpStream::connect_timeout(&address, LIMIT)
        .with_context(|| format!("cannot connect to {address}"))?;
    let exchange = || -> std::io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        write!(
            &stream,
            "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut head = Vec::new();
        (&stream).take(4096).read_to_end(&mut head)?;
        Ok(head)
    };
    let head = exchange().with_context(|| format!("no answer from {address}{path}"))?;
    status_code(&head).with_context(|| format!("{address}{path} did not answer with HTTP"))
}

fn status_code(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    words
        .next()
        .filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_names_become_object_names() {
        for (raw, expect) in [
            ("vm", "vm"),
            ("Dev_Box.local", "dev-box.local"),
            ("-.x.-", "x"),
            ("", "hearth-node"),
            ("localhost", "hearth-node"),
        ] {
            assert_eq!(object_name(raw), expect, "{raw:?}");
        }
    }

    #[test]
    fn http_status_line_is_read_and_nothing_else_is() {
        for (head, expect) in [
            (&b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody"[..], Some(200)),
            (b"HTTP/1.0 503 Service Unavailable\r\n", Some(503)),
            (b"SSH-2.0-x\r\n", None),
            (b"", None),
        ] {
            assert_eq!(status_code(head), expect);
        }
    }

    #[test]
    fn link_replaces_what_stood_there() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("program");
        fs::write(&place, "old").unwrap();
        link(Path::new("/somewhere/new"), &place).unwrap();
        assert_eq!(fs::read_link(&place).unwrap(), Path::new("/somewhere/new"));
    }

    #[test]
    fn absent_json_is_none_and_broken_json_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.json");
        assert_eq!(read_json::<u32>(&file).unwrap(), None);
        fs::write(&file, "7").unwrap();
        assert_eq!(read_json::<u32>(&file).unwrap(), Some(7));
        fs::write(&file, "{").unwrap();
        assert!(read_json::<u32>(&file).is_err());
    }
}
