//! `cargo xtask check` and `cargo xtask test`: phases, each with its name and its time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::apt::{self, Consent};
use crate::cargo::{self, Build, CLUSTER_FEATURE};
use crate::components;
use crate::conformance;
use crate::down::down;
use crate::guest;
use crate::handed_out;
use crate::inventory::Inventory;
use crate::paths::Layout;
use crate::sdk;
use crate::services;
use crate::supervise;
use crate::system;
use crate::ui;
use crate::up::{self, up};

/// How much of a log is shown when something failed.
const TAIL: usize = 40;

/// What has been done and how long it took.
#[derive(Default)]
struct Phases {
    done: Vec<(&'static str, Duration, bool)>,
}

impl Phases {
    fn run(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        ui::heading(name);
        let started = Instant::now();
        let result = work();
        self.done.push((name, started.elapsed(), result.is_ok()));
        result.with_context(|| format!("failed: {name}"))
    }

    fn print(&self) {
        ui::heading("phases");
        for (name, took, passed) in &self.done {
            let verdict = if *passed { "passed" } else { "FAILED" };
            ui::note(format!("{verdict}  {:>6}  {name}", ui::duration(*took)));
        }
    }
}

/// Format, lints and every test that needs no cluster.
pub(crate) fn check(consent: Consent) -> Result<()> {
    let mut phases = Phases::default();
    let result = check_phases(&mut phases, consent);
    phases.print();
    result
}

fn check_phases(phases: &mut Phases, consent: Consent) -> Result<()> {
    phases.run("packages", || apt::ensure_packages(consent))?;
    phases.run("format", || cargo::run(&["fmt", "--all", "--check"]))?;
    phases.run("lints", || {
        cargo::run(&[
            "clippy",
            "--workspace",
            "--all-targets",
            CLUSTER_FEATURE,
            "--",
            "--deny=warnings",
        ])
    })?;
    phases.run("tests without a cluster", || {
        cargo::run(&["test", "--workspace"])
    })
}

/// Everything: [`check`], the cluster suite and the Python SDK on a cluster of its own, and the node in a guest, with a look
/// at the machine before and after all of it.
pub(crate) fn test(layout: &Layout, consent: Consent) -> Result<()> {
    system::require_root()?;
    let mut phases = Phases::default();
    let result = test_phases(&mut phases, layout, consent);
    phases.print();
    result
}

fn test_phases(phases: &mut Phases, layout: &Layout, consent: Consent) -> Result<()> {
    check_phases(phases, consent)?;
    phases.run("components", components::build_all)?;
    phases.run("the chart", handed_out::chart)?;
    phases.run("Python environments", sdk::prepare)?;
    // The guest joins a cluster of its own beside this one.
    let guest = layout.beside("-guest")?;
    let layouts = [layout, &guest];
    // What an earlier run left would pass for the machine's own.
    phases.run("clean start", || layouts.into_iter().try_for_each(down))?;
    let before = take_inventories(layouts)?;
    let tested = phases
        .run("cluster up", || {
            up(
                layout,
                &up::Options {
                    yes: consent.0,
                    no_examples: true,
                    build: Build::BesideTests,
                    ..up::Options::default()
                },
            )
        })
        .and_then(|()| phases.run("cluster suite", || cluster_suite(layout)))
        .and_then(|()| phases.run("Python SDK", || sdk::test(layout)))
        .and_then(|()| {
            phases.run("conformance", || {
                let rows = conformance::Options::default();
                conformance::run(layout, Build::BesideTests, &rows)
            })
        })
        .and_then(|()| {
            phases.run("conformance of v1alpha1", || {
                let rows = conformance::Options::of_v1alpha1();
                conformance::run(layout, Build::BesideTests, &rows)
            })
        })
        .and_then(|()| phases.run("rights: used and granted", || handed_out::rights(layout)));
    if tested.is_err() {
        print_logs(layout);
    }
    let ended = phases.run("cluster down", || down(layout));
    let in_guest = if tested.is_ok() && ended.is_ok() {
        phases.run("the node in a guest: cgroup v2, systemd", || {
            guest::test(&guest, consent, &guest::Options::default())
        })
    } else {
        Ok(())
    };
    // After everything that could leave something behind.
    let cleaned = phases.run("the machine is as it was", || {
        as_it_was(&before, &take_inventories(layouts)?)
    });
    first_error([tested, ended, in_guest, cleaned])
}

/// The machine as each of the clusters sees it: what belongs to another cluster is not in an inventory.
fn take_inventories(layouts: [&Layout; 2]) -> Result<Vec<Inventory>> {
    layouts.into_iter().map(Inventory::take).collect()
}

fn as_it_was(before: &[Inventory], after: &[Inventory]) -> Result<()> {
    let mut differences = BTreeSet::new();
    for (before, after) in before.iter().zip(after) {
        differences.extend(after.differences(before)?);
    }
    if differences.is_empty() {
        return Ok(());
    }
    let differences: Vec<_> = differences.into_iter().collect();
    Err(anyhow!("it is not:\n  {}", differences.join("\n  ")))
}

/// The first error, with what else went wrong.
fn first_error(results: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut errors = results.into_iter().filter_map(Result::err);
    let Some(first) = errors.next() else {
        return Ok(());
    };
    Err(errors.fold(first, |first, next| {
        first.context(format!("moreover: {next:#}"))
    }))
}

fn cluster_suite(layout: &Layout) -> Result<()> {
    // All packages, for the choice of packages decides the features of dependencies, and other
    // features would mean another build of them.
    let args = [
        "test",
        "--workspace",
        CLUSTER_FEATURE,
        "--test=cluster",
        "--",
        "--test-threads=1",
    ];
    system::run(
        cargo::cargo(&args)
            .env("HEARTH_DIR", layout.root())
            .env("KUBECONFIG", layout.kubeconfig()),
    )
}

/// The ends of the logs, for whoever has nothing but the output of a failed run.
fn print_logs(layout: &Layout) {
    for name in services::START_ORDER {
        let tail = supervise::log_tail(&layout.log(name), TAIL);
        if !tail.is_empty() {
            ui::heading(format!("the end of {}", layout.log(name).display()));
            println!("{tail}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_is_lost_among_others() {
        let error = |text: &'static str| Err(anyhow!(text));
        assert!(first_error([Ok(()), Ok(())]).is_ok());
        let only = first_error([Ok(()), error("a"), Ok(())]).unwrap_err();
        assert_eq!(format!("{only:#}"), "a");
        let both = first_error([error("a"), Ok(()), error("b")]).unwrap_err();
        assert_eq!(format!("{both:#}"), "moreover: b: a");
    }
}
