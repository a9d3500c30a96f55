//! The third-party programs of the cluster: built from Go modules into a cache that all checkouts
//! of this machine share, or taken from where the user has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::paths::{self, Layout};
use crate::system;
use crate::ui;

/// How one component is built. Its module, with the exact version of everything in it, is the
/// directory `xtask/components/<name>`.
#[derive(Debug)]
struct Recipe {
    name: &'static str,
    version: &'static str,
    cgo: bool,
    tags: &'static str,
    ldflags: &'static str,
    programs: &'static [Program],
    /// What to tell somebody who waits for it.
    takes: &'static str,
}

/// One program of a component.
#[derive(Debug)]
struct Program {
    name: &'static str,
    package: &'static str,
    /// How `<program> --version` begins when it is the wanted one, where a copy of the user's may
    /// serve. Only the API server's test tools are commonly at hand; a runtime is always our own.
    version_output: Option<&'static str>,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program {
        name,
        package,
        version_output: None,
    }
}

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "etcd",
        version: "v3.6.8",
        cgo: false,
        tags: "",
        ldflags: "-s -w",
        programs: &[Program {
            name: "etcd",
            package: ".",
            version_output: Some("etcd Version: 3.6.8"),
        }],
        takes: "half a minute",
    },
    Recipe {
        name: "runc",
        version: "v1.5.1",
        cgo: true,
        tags: "seccomp netgo osusergo",
        // Static: it runs on machines that have another C library, or none that it can reach.
        ldflags: "-s -w -linkmode external -extldflags -static",
        programs: &[program("runc", "github.com/opencontainers/runc")],
        takes: "half a minute",
    },
    Recipe {
        name: "cni",
        version: "v1.9.1",
        cgo: false,
        tags: "",
        ldflags: "-s -w",
        programs: &[
            program(
                "bridge",
                "github.com/containernetworking/plugins/plugins/main/bridge",
            ),
            program(
                "host-local",
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
            ),
            program(
                "loopback",
                "github.com/containernetworking/plugins/plugins/main/loopback",
            ),
            program(
                "ptp",
                "github.com/containernetworking/plugins/plugins/main/ptp",
            ),
        ],
        takes: "a few seconds",
    },
    Recipe {
        name: "containerd",
        version: "v2.4.2",
        cgo: false,
        tags: "",
        ldflags: "-s -w -X github.com/containerd/containerd/v2/version.Version=v2.4.2",
        programs: &[
            program(
                "containerd",
                "github.com/containerd/containerd/v2/cmd/containerd",
            ),
            program(
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
            program("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
        takes: "three minutes",
    },
    Recipe {
        name: "gvisor",
        version: "v0.0.0-20260905035102-160fafc42237",
        cgo: false,
        tags: "",
        ldflags: "-s -w -X gvisor.dev/gvisor/runsc/version.version=20260905.0",
        programs: &[
            program("runsc", "gvisor.dev/gvisor/runsc"),
            program("containerd-shim-runsc-v1", "./containerd-shim-runsc-v1"),
        ],
        takes: "four minutes",
    },
    Recipe {
        name: "kubernetes",
        version: "v1.36.3",
        cgo: false,
        tags: "",
        // Without these the servers call themselves v0.0.0.
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
                  -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=36 \
                  -X k8s.io/component-base/version.gitTreeState=clean",
        programs: &[
            Program {
                name: "kube-apiserver",
                package: "k8s.io/kubernetes/cmd/kube-apiserver",
                version_output: Some("Kubernetes v1.36.3"),
            },
            Program {
                name: "kube-controller-manager",
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
                version_output: Some("Kubernetes v1.36.3"),
            },
            Program {
                name: "kubectl",
                package: "k8s.io/kubernetes/cmd/kubectl",
                version_output: Some("Client Version: v1.36.3"),
            },
        ],
        takes: "six minutes",
    },
];

/// What no cluster has: tools that look at what we hand out.
const TOOLS: &[Recipe] = &[Recipe {
    name: "helm",
    version: "v4.3.2",
    cgo: false,
    tags: "",
    ldflags: "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.2",
    programs: &[program("helm", "helm.sh/helm/v4/cmd/helm")],
    takes: "three minutes",
}];

/// The control plane, which somebody else runs in a cluster that exists already.
const CONTROL_PLANE: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];

/// Provides the components in the cluster's `bin`, building what is nowhere to be found.
pub(crate) fn provide(layout: &Layout, control_plane: bool) -> Result<()> {
    let bin = layout.bin();
    system::create_dir(&bin)?;
    for recipe in RECIPES {
        for (name, file) in provide_one(recipe, control_plane)? {
            system::link(&file, &bin.join(name))?;
        }
    }
    Ok(())
}

/// A component that is in the cache.
#[derive(Debug)]
pub(crate) struct Built {
    /// Its name, that of its directory in `xtask/components`.
    pub(crate) name: &'static str,
    /// The version of its main module.
    pub(crate) version: &'static str,
    /// Its programs: their names, and where they are.
    pub(crate) programs: Vec<(&'static str, PathBuf)>,
}

/// Builds one component into the cache.
pub(crate) fn build(name: &str) -> Result<Built> {
    let recipe = RECIPES
        .iter()
        .chain(TOOLS)
        .find(|recipe| recipe.name == name)
        .with_context(|| format!("there is no component {name}"))?;
    Ok(Built {
        name: recipe.name,
        version: recipe.version,
        programs: provide_one(recipe, true)?,
    })
}

/// Builds everything that a cluster has into the cache, without making one.
pub(crate) fn build_all() -> Result<()> {
    for recipe in RECIPES {
        for (name, file) in provide_one(recipe, true)? {
            ui::note(format!("{name}: {}", file.display()));
        }
    }
    Ok(())
}

/// Provides the programs of one component and says where they are.
fn provide_one(recipe: &Recipe, control_plane: bool) -> Result<Vec<(&'static str, PathBuf)>> {
    let module = paths::repository()
        .join("xtask/components")
        .join(recipe.name);
    let digest = recipe.digest(&module)?;
    let dir = paths::cache()?.join("components").join(format!(
        "{}-{}-{}",
        recipe.name,
        recipe.version,
        &digest[..12]
    ));
    let mut found = Vec::new();
    let mut absent = Vec::new();
    let wanted = |program: &&Program| control_plane || !CONTROL_PLANE.contains(&program.name);
    for program in recipe.programs.iter().filter(wanted) {
        let cached = dir.join(program.name);
        if cached.exists() {
            found.push((program.name, cached));
        } else if let Some(file) = program.found_by_user() {
            ui::note(format!("{} is taken from {}", program.name, file.display()));
            found.push((program.name, file));
        } else {
            absent.push(program);
            found.push((program.name, cached));
        }
    }
    if !absent.is_empty() {
        recipe.build(&absent, &module, &dir)?;
    }
    Ok(found)
}

impl Recipe {
    /// Changes with everything that decides what comes out, but for the Go version.
    fn digest(&self, module: &Path) -> Result<String> {
        let mut digest = Sha256::new();
        for word in [self.version, self.tags, self.ldflags] {
            digest.update(word);
            digest.update([0]);
        }
        digest.update([u8::from(self.cgo)]);
        let mut files = Vec::new();
        list_files(module, &mut files)?;
        files.sort();
        for file in files {
            let contents =
                fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(module).unwrap_or(&file);
            digest.update(name.as_os_str().as_encoded_bytes());
            digest.update([0]);
            digest.update(Sha256::digest(contents));
        }
        Ok(system::hex(&digest.finalize()))
    }

    fn build(&self, programs: &[&Program], module: &Path, dir: &Path) -> Result<()> {
        system::create_dir(dir)?;
        // Another `up` may be building the same.
        let lock_file = system::sibling(dir, ".lock");
        let lock = fs::File::create(&lock_file)
            .with_context(|| format!("cannot create {}", lock_file.display()))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", lock_file.display()))?;
        let names: Vec<_> = programs.iter().map(|program| program.name).collect();
        if names.iter().all(|name| dir.join(name).exists()) {
            return Ok(());
        }
        require_go(module)?;
        let unfinished = system::sibling(dir, ".unfinished");
        system::remove(&unfinished)?;
        system::create_dir(&unfinished)?;
        let what = format!(
            "building {} {} ({}; {} the first time, then cached)",
            self.name,
            self.version,
            names.join(", "),
            self.takes
        );
        ui::step(&what, || self.go_build(programs, module, &unfinished))?;
        for name in names {
            fs::rename(unfinished.join(name), dir.join(name))
                .with_context(|| format!("cannot move {name} to {}", dir.display()))?;
        }
        system::remove(&unfinished)
    }

    fn go_build(&self, programs: &[&Program], module: &Path, into: &Path) -> Result<()> {
        let mut output = into.as_os_str().to_owned();
        // The slash makes go write one file for each package, named like it.
        output.push("/");
        system::capture(
            Command::new("go")
                .current_dir(module)
                .args(["build", "-buildvcs=false", "-trimpath", "-mod=readonly"])
                .arg(format!("-tags={}", self.tags))
                .arg(format!("-ldflags={}", self.ldflags))
                .arg("-o")
                .arg(output)
                .args(programs.iter().map(|program| program.package))
                .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
                // A workspace file above the checkout is somebody else's.
                .env("GOWORK", "off"),
        )
        .map(drop)
    }
}

/// All files in a directory and below.
fn list_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let cannot = || format!("cannot list {}", dir.display());
    for entry in fs::read_dir(dir).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path.is_dir() {
            list_files(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

impl Program {
    fn found_by_user(&self) -> Option<PathBuf> {
        let wanted = self.version_output?;
        let assets = std::env::var_os("KUBEBUILDER_ASSETS")
            .map(|dir| Path::new(&dir).join(self.name))
            .filter(|file| file.is_file());
        assets
            .into_iter()
            .chain(system::find_on_path(self.name))
            .find(|file| reports_version(file, self.name, wanted))
    }
}

fn reports_version(file: &Path, name: &str, wanted: &str) -> bool {
    let mut command = Command::new(file);
    if name == "kubectl" {
        command.args(["version", "--client"]);
    } else {
        command.arg("--version");
    }
    system::capture(&mut command)
        .is_ok_and(|said| said.lines().next().map(str::trim) == Some(wanted))
}

/// Fails with one sentence unless Go is there and new enough for `module`.
fn require_go(module: &Path) -> Result<()> {
    let manifest = module.join("go.mod");
    let text = fs::read_to_string(&manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let needed =
        go_line(&text).with_context(|| format!("{} names no Go version", manifest.display()))?;
    let Ok(said) = system::capture(Command::new("go").args(["env", "GOVERSION"])) else {
        bail!(
            "Go {needed} or newer is needed to build the cluster's components (see https://go.dev/dl)"
        );
    };
    let found = said.trim().trim_start_matches("go");
    ensure!(
        version(found) >= version(needed),
        "Go {needed} or newer is needed to build the cluster's components, but `go` is {found}"
    );
    Ok(())
}

/// The version on the `go` line of a go.mod.
fn go_line(manifest: &str) -> Option<&str> {
    manifest
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .map(str::trim)
}

/// `1.26.6` as numbers; what follows the digits of a part (`rc1`) is not told apart.
fn version(text: &str) -> Vec<u32> {
    text.split('.')
        .map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (older, newer) in [
            ("1.9.9", "1.26"),
            ("1.26.0", "1.26.8"),
            ("1.25.12", "1.26rc1"),
            ("1.26", "1.26.0"),
        ] {
            assert!(version(older) < version(newer), "{older} {newer}");
        }
    }

    #[test]
    fn recipes_agree_with_their_modules() {
        for recipe in RECIPES.iter().chain(TOOLS) {
            let module = paths::repository()
                .join("xtask/components")
                .join(recipe.name);
            let text = fs::read_to_string(module.join("go.mod")).unwrap();
            assert!(go_line(&text).is_some(), "{}", recipe.name);
            for program in recipe.programs {
                // Our own mains are in the module, the others are tools of it.
                let own = program.package.starts_with('.');
                let known = if own {
                    module.join(program.package).join("main.go").is_file()
                } else {
                    text.contains(program.package)
                };
                assert!(known, "{} has no {} to build", recipe.name, program.package);
            }
            let required = text
                .lines()
                .any(|line| line.contains('/') && line.split(' ').any(|w| w == recipe.version));
            assert!(required, "{} is not at {}", recipe.name, recipe.version);
        }
    }

    #[test]
    fn digest_follows_the_module() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = &RECIPES[0];
        fs::write(dir.path().join("go.mod"), "module a\n").unwrap();
        let before = recipe.digest(dir.path()).unwrap();
        assert_eq!(before, recipe.digest(dir.path()).unwrap());
        fs::write(dir.path().join("go.mod"), "module b\n").unwrap();
        assert_ne!(before, recipe.digest(dir.path()).unwrap());
    }
}
