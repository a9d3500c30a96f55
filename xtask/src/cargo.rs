//! Running cargo from a program that cargo runs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::paths::repository;
use crate::system;

/// The tests that need a cluster are behind this feature; everything else needs none.
pub(crate) const CLUSTER_FEATURE: &str = "--features=hearth-tests/cluster";

/// A cargo command in the checkout.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(repository());
    // What `cargo run` told this program about itself is not meant for other packages: build
    // scripts that look at it would run anew each time.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_this_package) {
            command.env_remove(name);
        }
    }
    command
}

fn is_about_this_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || matches!(variable, "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE")
}

/// Runs cargo and shows what it prints.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    system::run(&mut cargo(args))
}

/// What programs are built with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Build {
    /// What they need.
    #[default]
    Alone,
    /// The tests, which were built already. What tests need of dependencies decides their features, and other features
    /// would mean another build of them, and of most crates here.
    BesideTests,
}

/// Builds the workspace's programs, but for this one, and returns them.
pub(crate) fn build_programs(build: Build) -> Result<Vec<PathBuf>> {
    // All packages, for the choice of packages decides the features of dependencies as well.
    let mut args = vec![
        "build",
        "--workspace",
        "--message-format=json-render-diagnostics",
    ];
    match build {
        Build::Alone => args.extend(["--exclude=xtask", "--bins"]),
        Build::BesideTests => args.extend(["--lib", "--bins", "--tests"]),
    }
    Ok(programs(&messages(&args)?))
}

/// Builds programs for other machines: optimised, linked with everything they need, without a path of this machine in them.
/// Returns where they are, in the order of `programs`, which are pairs of package and program. `told` are variables that
/// they are built with.
pub(crate) fn build_static(
    programs: &[(&str, &str)],
    told: &[(&str, &str)],
) -> Result<Vec<PathBuf>> {
    let target = target();
    let mut args = vec![
        "build",
        "--release",
        // With a target named, build scripts and macros are not linked like this.
        "--target",
        target.as_str(),
        "--message-format=json-render-diagnostics",
    ];
    for (package, program) in programs {
        args.extend(["--package", package, "--bin", program]);
    }
    let mut places = vec![(repository(), "/hearth"), (cargo_home()?, "/cargo")];
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        places.push((PathBuf::from(dir), "/target"));
    }
    let remap = |option: &str| -> Vec<String> {
        let places = places.iter();
        places
            .map(|(from, to)| format!("{option}={}={to}", from.display()))
            .collect()
    };
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(remap("--remap-path-prefix"));
    let mut command = cargo(&args);
    command
        // Before RUSTFLAGS and all configuration. Its parts are between these characters.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // The same for what build scripts compile.
        .env("CFLAGS", remap("-ffile-prefix-map").join(" "))
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .envs(told.iter().copied());
    let messages = output(&mut command)?;
    programs
        .iter()
        .map(|(_, name)| {
            artifacts(&messages)
                .find(|artifact| !artifact.is_test && artifact.name == *name)
                .map(|artifact| artifact.file)
                .with_context(|| format!("cargo built no program {name}"))
        })
        .collect()
}

/// This machine's target. Static programs of the GNU target need no other one to be installed.
pub(crate) fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Where the sources of dependencies are.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// What cargo knows of the workspace and all that it is made of.
pub(crate) fn metadata() -> Result<Value> {
    let platform = format!("--filter-platform={}", target());
    let text = system::capture(&mut cargo(&["metadata", "--format-version=1", &platform]))?;
    serde_json::from_str(&text).context("cargo metadata printed no JSON")
}

/// A program that holds the tests of one target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// The target's name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) file: PathBuf,
}

/// Builds the workspace's tests and returns the programs of the targets called `names`.
pub(crate) fn build_tests(names: &[&str]) -> Result<Vec<TestProgram>> {
    let mut args = vec![
        "test",
        "--workspace",
        CLUSTER_FEATURE,
        "--no-run",
        "--message-format=json-render-diagnostics",
    ];
    let targets: Vec<String> = names.iter().map(|name| format!("--test={name}")).collect();
    args.extend(targets.iter().map(String::as_str));
    let messages = messages(&args)?;
    names
        .iter()
        .map(|&name| {
            let file = artifacts(&messages)
                .find(|artifact| artifact.is_test && artifact.name == name)
                .map(|artifact| artifact.file)
                .with_context(|| format!("cargo built no test {name}"))?;
            Ok(TestProgram {
                name: name.to_owned(),
                file,
            })
        })
        .collect()
}

/// Runs cargo with its progress shown, and returns its messages.
fn messages(args: &[&str]) -> Result<String> {
    output(&mut cargo(args))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        // Its progress is the user's.
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo {} failed",
        command.get_args().next().unwrap_or_default().display()
    );
    String::from_utf8(output.stdout).context("cargo printed no UTF-8")
}

/// The programs in cargo's messages.
fn programs(messages: &str) -> Vec<PathBuf> {
    let artifacts = artifacts(messages).filter(|artifact| !artifact.is_test);
    artifacts.map(|artifact| artifact.file).collect()
}

/// Something that cargo made and that can be run.
struct Artifact {
    /// The target's name.
    name: String,
    is_test: bool,
    file: PathBuf,
}

fn artifacts(messages: &str) -> impl Iterator<Item = Artifact> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| {
            let name = message["target"]["name"].as_str().unwrap_or_default();
            Some(Artifact {
                name: name.to_owned(),
                is_test: message["profile"]["test"] == true,
                file: message["executable"].as_str()?.into(),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_taken_from_the_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
not json
{"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/debug/hearthd"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/debug/deps/hearthd-12"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(programs(messages), [PathBuf::from("/t/debug/hearthd")]);
    }

    #[test]
    fn settings_of_the_user_survive() {
        for (variable, expect) in [
            ("CARGO_PKG_NAME", true),
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_HOME", false),
            ("CARGO_BUILD_JOBS", false),
        ] {
            assert_eq!(is_about_this_package(variable), expect, "{variable}");
        }
    }
}
