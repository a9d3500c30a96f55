//! Debian packages that the build and the cluster need.

use std::io::{IsTerminal as _, Write as _};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::system;
use crate::ui;

/// A Debian package and what it is for.
struct Package {
    name: &'static str,
    purpose: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "gcc",
        purpose: "links Rust and compiles runc's C parts",
    },
    Package {
        name: "libc6-dev",
        purpose: "C headers for the same",
    },
    Package {
        name: "libseccomp-dev",
        purpose: "runc's system call filters",
    },
    Package {
        name: "pkg-config",
        purpose: "finds libseccomp",
    },
    Package {
        name: "protobuf-compiler",
        purpose: "compiles the CRI protocol",
    },
    Package {
        name: "busybox-static",
        purpose: "the contents of the example image",
    },
    Package {
        name: "ca-certificates",
        purpose: "the authorities that a node's image trusts",
    },
    Package {
        name: "docker-registry",
        purpose: "the registry that tests pull from",
    },
    Package {
        name: "iproute2",
        purpose: "network namespaces of tests",
    },
    Package {
        name: "nftables",
        purpose: "keeps sandboxes away from the node's own addresses",
    },
    Package {
        name: "python3-venv",
        purpose: "the Python SDK that tests use as a client",
    },
];

/// What a guest for `vm-test` is made and run with.
const GUEST_PACKAGES: &[Package] = &[
    Package {
        name: "debootstrap",
        purpose: "makes the guest's root file system",
    },
    Package {
        name: "e2fsprogs",
        purpose: "makes its disks",
    },
    Package {
        name: "qemu-system-x86",
        purpose: "runs it",
    },
];

/// Whether the user need not be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consent(pub(crate) bool);

impl Consent {
    /// `--yes`, or a machine without a person in front of it.
    pub(crate) fn new(yes: bool) -> Self {
        Self(yes || std::env::var_os("CI").is_some_and(|ci| !ci.is_empty()))
    }
}

/// Installs the packages that are missing for building and for the cluster, after asking.
pub(crate) fn ensure_packages(consent: Consent) -> Result<()> {
    if system::find_on_path("dpkg-query").is_none() {
        return without_apt();
    }
    ensure_installed(PACKAGES, consent)
}

/// Installs the packages that are missing for a guest, after asking.
pub(crate) fn ensure_guest_packages(consent: Consent) -> Result<()> {
    ensure!(
        system::find_on_path("dpkg-query").is_some(),
        "the guest is a Debian made with this machine's apt, and there is none"
    );
    ensure_installed(GUEST_PACKAGES, consent)
}

fn ensure_installed(packages: &'static [Package], consent: Consent) -> Result<()> {
    let missing = missing(packages, &installed(packages)?);
    if missing.is_empty() {
        return Ok(());
    }
    ui::note("these Debian packages are missing:");
    for package in &missing {
        ui::note(format!("  {:<18} {}", package.name, package.purpose));
    }
    ensure!(
        consent.0 || ask("install them with apt-get?")?,
        "not installed; run again when they are there"
    );
    system::require_root()?;
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    ui::step(&format!("installing {}", names.join(" ")), || {
        if install(&names).is_err() {
            // A fresh machine has no package lists, or stale ones.
            apt_get(&["update"])?;
            install(&names)?;
        }
        Ok(())
    })
}

fn install(names: &[&str]) -> Result<()> {
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(names);
    apt_get(&args)
}

fn apt_get(args: &[&str]) -> Result<()> {
    system::capture(
        Command::new("apt-get")
            .arg("--quiet")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .map(drop)
}

/// On another distribution the tools themselves are looked for.
fn without_apt() -> Result<()> {
    let tools = [
        "gcc",
        "pkg-config",
        "protoc",
        "busybox",
        "docker-registry",
        "ip",
        "nft",
        "python3",
    ];
    let absent: Vec<_> = tools
        .into_iter()
        .filter(|tool| system::find_on_path(tool).is_none())
        .collect();
    ensure!(
        absent.is_empty(),
        "these tools are missing, and without apt this command cannot install them: {} \
         (the headers of libseccomp are needed too)",
        absent.join(", ")
    );
    Ok(())
}

/// dpkg's view of the packages of interest, one `name status` line each.
fn installed(packages: &[Package]) -> Result<String> {
    let output = system::output(
        Command::new("dpkg-query")
            .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
            .args(packages.iter().map(|package| package.name)),
    )?;
    // It fails when it has never heard of a package, which is an answer too.
    String::from_utf8(output.stdout).context("dpkg-query printed something that is not UTF-8")
}

fn missing(packages: &'static [Package], installed: &str) -> Vec<&'static Package> {
    packages
        .iter()
        .filter(|package| {
            !installed
                .lines()
                .any(|line| line == format!("{} installed", package.name))
        })
        .collect()
}

fn ask(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to ask; run with --yes to install the missing packages");
    }
    print_prompt(question).context("cannot ask")?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    Ok(matches!(
        answer.trim().to_lowercase().as_str(),
        "" | "y" | "yes"
    ))
}

fn print_prompt(question: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    write!(out, "    {question} [Y/n] ")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let all: String = PACKAGES
            .iter()
            .map(|package| format!("{} installed\n", package.name))
            .collect();
        assert!(missing(PACKAGES, &all).is_empty());

        let removed = all.replace("nftables installed", "nftables config-files");
        let names: Vec<_> = missing(PACKAGES, &removed).iter().map(|p| p.name).collect();
        assert_eq!(names, ["nftables"]);

        assert_eq!(missing(PACKAGES, "").len(), PACKAGES.len());
    }
}
