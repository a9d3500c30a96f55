//! Running cargo from a program that cargo runs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::paths::repository;
use crate::system;

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

/// Builds the workspace's programs, but for this one, and returns them.
pub(crate) fn build_programs() -> Result<Vec<PathBuf>> {
    // All packages, for the choice of packages decides the features of dependencies, and the tests
    // should find them built.
    let args = [
        "build",
        "--workspace",
        "--exclude=xtask",
        "--bins",
        "--message-format=json-render-diagnostics",
    ];
    let output = cargo(&args)
        .stdin(Stdio::null())
        // Its progress is the user's.
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo build failed");
    let messages = String::from_utf8(output.stdout).context("cargo printed no UTF-8")?;
    Ok(programs(&messages))
}

/// The programs in cargo's messages.
fn programs(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_taken_from_the_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
not json
{"reason":"compiler-artifact","executable":"/t/debug/hearthd"}
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
