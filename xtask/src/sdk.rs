//! The Python SDK of agent-sandbox against a running cluster, in the two lines of it that are in use; see `tests/sdk`.
//!
//! Its packages come from where pip takes packages from, pinned by hash. An environment that cannot be made fails the
//! run: these tests are never skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::kubeconfig::{self, User};
use crate::kubectl::Kubectl;
use crate::paths::{self, Layout, repository};
use crate::process;
use crate::system;
use crate::ui;

/// One of each line. The requirements of each are in a file of their own.
const VERSIONS: [&str; 2] = ["0.5.6", "1.0.8"];
/// What the versions have in common.
const DEPENDENCIES: &str = "dependencies.txt";
/// The SDK takes no earlier one.
const OLDEST_PYTHON: (u32, u32) = (3, 11);
/// What a Python that makes environments has; it prints its version.
const PROBE: &str = "import ensurepip, sys, venv; print('%d.%d.%d' % sys.version_info[:3])";
/// For what the controller and the node do before and after, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The pools that have members when the checks begin, with their number.
const STOCKED: [(&str, u32); 2] = [("warm", 2), ("open", 1)];

/// Makes the environments that are not in the cache.
pub(crate) fn prepare() -> Result<()> {
    for version in VERSIONS {
        let program = environment(version)?;
        ui::note(format!("SDK {version}: {}", program.display()));
    }
    Ok(())
}

/// Runs the checks with each version, also with the second one when they failed with the first.
pub(crate) fn test(layout: &Layout) -> Result<()> {
    let mut failed = Vec::new();
    for version in VERSIONS {
        if let Err(error) = test_version(layout, version) {
            failed.push(format!("SDK {version}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn test_version(layout: &Layout, version: &str) -> Result<()> {
    let program = environment(version)?;
    let stage = Stage::set(layout, version)?;
    let tested = stage
        .fill(layout)
        .and_then(|kubeconfig| run(layout, &program, version, &stage.namespace, &kubeconfig));
    if tested.is_err() {
        stage.describe();
    }
    match (tested, stage.strike(layout)) {
        (Err(first), Err(second)) => Err(first.context(format!("moreover: {second:#}"))),
        (tested, struck) => tested.and(struck),
    }
}

/// The namespace of one run.
struct Stage {
    kubectl: Kubectl,
    namespace: String,
}

impl Stage {
    /// Creates a namespace of its own, so that no run meets what another left.
    fn set(layout: &Layout, version: &str) -> Result<Self> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let version = version.replace('.', "-");
        let stage = Self {
            kubectl: Kubectl::new(layout),
            namespace: format!("sdk-{version}-{:x}", now.as_millis()),
        };
        stage
            .kubectl
            .capture(&["create", "namespace", &stage.namespace])?;
        Ok(stage)
    }

    /// Applies what the checks find there, waits for the members, and returns the kubeconfig of the checks' user.
    fn fill(&self, layout: &Layout) -> Result<PathBuf> {
        let objects = directory().join("cluster.yaml").display().to_string();
        self.capture(&["apply", "--filename", &objects])?;
        ui::step("waiting for the pools", || {
            STOCKED.iter().try_for_each(|(pool, members)| {
                let full = format!("jsonpath={{.status.readyReplicas}}={members}");
                self.wait(&[&format!("sandboxwarmpool/{pool}")], &full)
            })
        })?;
        let token = self.capture(&["create", "token", "sdk", "--duration=1h"])?;
        let directory = layout.credentials(&self.namespace);
        let token_file = directory.join("token");
        system::write_atomic(&token_file, token.trim().as_bytes(), 0o600)?;
        let kubeconfig = directory.join("kubeconfig");
        kubeconfig::write(&kubeconfig, &server(layout)?, &User::TokenFile(&token_file))?;
        Ok(kubeconfig)
    }

    /// Prints what helps to understand a failure.
    fn describe(&self) {
        let kinds = "sandboxclaims,sandboxes,sandboxwarmpools";
        match self.capture(&["get", kinds, "--output=yaml"]) {
            Ok(seen) => ui::note(format!("{} has:\n{seen}", self.namespace)),
            Err(error) => ui::warn(format!("cannot say what {} has: {error:#}", self.namespace)),
        }
    }

    /// Takes everything away in the order that a careful user would: one that goes all at once looks to a node like a
    /// mistake.
    fn strike(&self, layout: &Layout) -> Result<()> {
        system::remove(&layout.credentials(&self.namespace))?;
        let pools = self.capture(&["get", "sandboxwarmpools", "--output=name"])?;
        for pool in pools.lines() {
            self.capture(&["scale", pool, "--replicas=0"])?;
        }
        self.capture(&["delete", "sandboxclaims", "--all", "--wait=false"])?;
        self.wait(&["sandboxes", "--all"], "delete")?;
        self.kubectl
            .capture(&["delete", "namespace", &self.namespace, "--wait=false"])
            .map(drop)
    }

    /// `kubectl` in the namespace.
    fn capture(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(args);
        self.kubectl.capture(&all)
    }

    /// `kubectl wait` in the namespace.
    fn wait(&self, objects: &[&str], condition: &str) -> Result<()> {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(objects);
        self.kubectl.wait(&all, condition, PATIENCE)
    }
}

/// The cluster, as its administrator's kubeconfig has it.
fn server(layout: &Layout) -> Result<kubeconfig::Server> {
    let file = layout.kubeconfig();
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    kubeconfig::server(&text).with_context(|| format!("{} is not usable", file.display()))
}

fn run(
    layout: &Layout,
    program: &Path,
    version: &str,
    namespace: &str,
    kubeconfig: &Path,
) -> Result<()> {
    let mut command = python(program);
    command
        .arg(directory().join("run.py"))
        .args([version, namespace])
        .env("KUBECONFIG", kubeconfig)
        // A killed run leaves it behind, and `down` must find it.
        .env(process::MARK, layout.root())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    // In a pod, the SDK would take that pod's cluster; and ours is behind no proxy.
    for variable in [
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ] {
        command.env_remove(variable);
    }
    system::run(&mut command)
}

/// The environment's interpreter, which is made where it is not in the cache.
fn environment(version: &str) -> Result<PathBuf> {
    let interpreter = Interpreter::find()?;
    let requirements = directory().join(format!("requirements-{version}.txt"));
    let digest = interpreter.digest(&[&requirements, &directory().join(DEPENDENCIES)])?;
    let home = paths::cache()?
        .join("python")
        .join(format!("agent-sandbox-{version}-{}", &digest[..12]));
    let program = home.join("bin/python");
    // Written last: an environment cannot be moved to its place, for it knows where it is.
    let finished = home.join("finished");
    if finished.exists() {
        return Ok(program);
    }
    if let Some(parent) = home.parent() {
        system::create_dir(parent)?;
    }
    // Another run may be making the same.
    let lock_file = system::sibling(&home, ".lock");
    let lock = fs::File::create(&lock_file)
        .with_context(|| format!("cannot create {}", lock_file.display()))?;
    lock.lock()
        .with_context(|| format!("cannot lock {}", lock_file.display()))?;
    if finished.exists() {
        return Ok(program);
    }
    system::remove(&home)?;
    let what =
        format!("installing the Python SDK {version} (a minute the first time, then cached)");
    ui::step(&what, || {
        system::capture(python(&interpreter.file).args(["-m", "venv"]).arg(&home))?;
        system::capture(
            python(&program)
                .args(["-m", "pip", "install", "--quiet", "--no-input"])
                .args(["--disable-pip-version-check", "--require-hashes"])
                .args(["--only-binary=:all:", "--requirement"])
                .arg(&requirements),
        )
    })?;
    system::write_atomic(&finished, b"", 0o644)?;
    Ok(program)
}

/// A Python that runs with nothing but its own modules.
fn python(program: &Path) -> Command {
    let mut command = Command::new(program);
    for variable in ["PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET"] {
        command.env_remove(variable);
    }
    command
}

fn directory() -> PathBuf {
    repository().join("tests/sdk")
}

/// A Python of the machine.
#[derive(Debug)]
struct Interpreter {
    file: PathBuf,
    version: String,
}

impl Interpreter {
    /// The system's, for which there is a package with what it takes to make environments, or else the user's.
    fn find() -> Result<Self> {
        let candidates = [
            Some(PathBuf::from("/usr/bin/python3")),
            system::find_on_path("python3"),
        ];
        let mut unfit = Vec::new();
        for file in candidates.into_iter().flatten() {
            match Self::probe(&file) {
                Ok(found) => return Ok(found),
                Err(error) => unfit.push(format!("{}: {error:#}", file.display())),
            }
        }
        let (major, minor) = OLDEST_PYTHON;
        bail!(
            "the Python SDK wants Python {major}.{minor} or later with its modules venv and ensurepip:\n  {}",
            unfit.join("\n  ")
        )
    }

    fn probe(file: &Path) -> Result<Self> {
        let said = system::capture(python(file).args(["-c", PROBE]))?;
        let version = said.trim().to_owned();
        ensure!(
            numbers(&version).is_some_and(|numbers| numbers >= OLDEST_PYTHON),
            "it is Python {version:?}"
        );
        Ok(Self {
            file: file.to_owned(),
            version,
        })
    }

    /// Changes with everything that decides what an environment of it is like.
    fn digest(&self, requirements: &[&Path]) -> Result<String> {
        let mut digest = Sha256::new();
        digest.update(self.file.as_os_str().as_encoded_bytes());
        digest.update([0]);
        digest.update(&self.version);
        for file in requirements {
            let contents =
                fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            digest.update([0]);
            digest.update(Sha256::digest(contents));
        }
        Ok(system::hex(&digest.finalize()))
    }
}

/// Major and minor number of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    let mut next = || -> Option<u32> { parts.next()?.parse().ok() };
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, fits) in [
            ("3.11.2", true),
            ("3.12.0", true),
            ("4.0", true),
            ("3.9.18", false),
            ("3.10.0", false),
            ("3", false),
            ("", false),
        ] {
            let numbers = numbers(version);
            assert_eq!(
                numbers.is_some_and(|numbers| numbers >= OLDEST_PYTHON),
                fits,
                "{version}"
            );
        }
    }

    #[test]
    fn an_environment_is_of_one_interpreter_and_one_set_of_requirements() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::write(&one, "a==1\n").unwrap();
        fs::write(&other, "a==2\n").unwrap();
        let interpreter = |version: &str| Interpreter {
            file: "/usr/bin/python3".into(),
            version: version.to_owned(),
        };
        let digest = interpreter("3.11.2").digest(&[&one]).unwrap();
        assert_eq!(digest, interpreter("3.11.2").digest(&[&one]).unwrap());
        assert_ne!(digest, interpreter("3.12.0").digest(&[&one]).unwrap());
        assert_ne!(digest, interpreter("3.11.2").digest(&[&other]).unwrap());
        let absent = dir.path().join("absent");
        assert!(interpreter("3.11.2").digest(&[&absent]).is_err());
    }

    #[test]
    fn each_version_has_requirements_that_are_pinned_by_hash() {
        for version in VERSIONS {
            let file = directory().join(format!("requirements-{version}.txt"));
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains(&format!(
                "k8s-agent-sandbox=={version} \\\n    --hash=sha256:"
            )));
            assert!(text.starts_with(&format!("-r {DEPENDENCIES}\n")));
        }
    }
}
