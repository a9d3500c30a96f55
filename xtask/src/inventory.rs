//! What is on the machine of the kinds of things that a cluster makes. Taken before `up` and after
//! `down`, the two must be equal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use crate::paths::Layout;
use crate::process;
use crate::sysctl;
use crate::system;

/// The machine, but for what other instances of Hearth made on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Inventory {
    /// Command lines of the processes that belong to this cluster. The machine has others, which
    /// come and go.
    processes: Vec<String>,
    /// Mount points with their file system types, in this process's mount namespace.
    mounts: Vec<String>,
    /// Named network namespaces.
    network_namespaces: BTreeSet<String>,
    /// Network interfaces, with the bridge that they are ports of.
    links: BTreeSet<String>,
    /// nftables tables with their families.
    nftables: BTreeSet<String>,
    /// The cgroups of every hierarchy.
    cgroups: BTreeSet<String>,
    /// Runtime files in places that are not the cluster's own.
    files: BTreeSet<String>,
    /// Kernel settings.
    sysctls: BTreeMap<String, String>,
}

/// Where `ip netns` keeps the names of network namespaces.
const NAMED_NAMESPACES: &str = "/run/netns";

/// Whose things are looked at.
struct Owner {
    id: String,
    /// The cluster's directory and hearthd's runtime directory.
    dirs: [PathBuf; 2],
}

impl Owner {
    fn new(layout: &Layout) -> Self {
        Self {
            id: layout.instance_id(),
            dirs: [layout.root().to_owned(), layout.node_run()],
        }
    }

    /// Whether `name` is `<prefix><id>`, possibly followed by more, of another instance.
    fn is_foreign(&self, name: &str, prefix: &str) -> bool {
        match name.strip_prefix(prefix) {
            None => false,
            Some(rest) => {
                let id: String = rest
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric())
                    .collect();
                id != self.id
            }
        }
    }

    /// Whether something lies in another instance's directories.
    fn is_foreign_path(&self, path: &Path) -> bool {
        if self.dirs.iter().any(|dir| path.starts_with(dir)) {
            return false;
        }
        let in_other_run_dir = path
            .strip_prefix("/run/hearth")
            .is_ok_and(|rest| rest != Path::new("") && rest != Path::new("sysctls.json"));
        let is_other_namespace = path
            .strip_prefix(NAMED_NAMESPACES)
            .is_ok_and(|name| self.is_foreign(&name.to_string_lossy(), "hearth-"));
        let in_other_cluster = path
            .ancestors()
            .any(|dir| dir.join("instance.json").exists());
        in_other_run_dir || is_other_namespace || in_other_cluster
    }
}

impl Inventory {
    /// Looks at the machine.
    pub(crate) fn take(layout: &Layout) -> Result<Self> {
        let owner = Owner::new(layout);
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")
            .context("cannot read /proc/self/mountinfo")?;
        let mounts = parse_mountinfo(&mountinfo);
        let mut all_cgroups = BTreeSet::new();
        for mount in mounts.iter().filter(|mount| mount.is_cgroup()) {
            cgroups(&owner, &mount.point, &mut all_cgroups);
        }
        Ok(Self {
            processes: processes(&owner, layout)?,
            mounts: mounts
                .iter()
                .filter(|mount| !owner.is_foreign_path(&mount.point))
                // `ip netns` mounts it onto itself at its first use and for good.
                .filter(|mount| mount.point != Path::new(NAMED_NAMESPACES))
                .map(|mount| format!("{} {}", mount.point.display(), mount.kind))
                .collect(),
            network_namespaces: list(Path::new(NAMED_NAMESPACES))
                .into_iter()
                .filter(|name| !owner.is_foreign(name, "hearth-"))
                .collect(),
            links: links(&owner),
            nftables: nft_tables(&owner)?,
            cgroups: all_cgroups,
            files: files(&owner),
            sysctls: sysctl::snapshot()?,
        })
    }

    /// What of this cluster is left, but for files: empty when it is down.
    pub(crate) fn leftovers(&self, layout: &Layout) -> Vec<String> {
        let owner = Owner::new(layout);
        let ours = |prefix: &str, name: &str| name.starts_with(&format!("{prefix}{}", owner.id));
        let mut left = Vec::new();
        left.extend(self.processes.iter().map(|p| format!("process: {p}")));
        for mount in &self.mounts {
            if owner
                .dirs
                .iter()
                .any(|dir| Path::new(mount).starts_with(dir))
            {
                left.push(format!("mount: {mount}"));
            }
        }
        for name in &self.network_namespaces {
            if ours("hearth-", name) {
                left.push(format!("network namespace: {name}"));
            }
        }
        for link in &self.links {
            if ours("hth-", link) || link.ends_with(&format!(" in hth-{}", owner.id)) {
                left.push(format!("link: {link}"));
            }
        }
        for table in &self.nftables {
            if ours("inet hearth-", table) {
                left.push(format!("nftables table: {table}"));
            }
        }
        for cgroup in &self.cgroups {
            if cgroup.contains(&format!("/hearth-{}", owner.id)) {
                left.push(format!("cgroup: {cgroup}"));
            }
        }
        left
    }

    /// What differs from an earlier inventory, one line each; empty when nothing does.
    pub(crate) fn differences(&self, before: &Self) -> Result<Vec<String>> {
        let (before, after) = (lines(before)?, lines(self)?);
        let gone = before.difference(&after).map(|line| format!("- {line}"));
        let new = after.difference(&before).map(|line| format!("+ {line}"));
        Ok(gone.chain(new).collect())
    }
}

/// Prints the inventory as JSON.
pub(crate) fn print(layout: &Layout) -> Result<()> {
    let inventory = Inventory::take(layout)?;
    let text = serde_json::to_string_pretty(&inventory).context("cannot encode the inventory")?;
    println!("{text}");
    Ok(())
}

/// Every single fact of an inventory with the kind of thing it is about.
fn lines(inventory: &Inventory) -> Result<BTreeSet<String>> {
    let value = serde_json::to_value(inventory).context("cannot encode the inventory")?;
    let mut lines = BTreeSet::new();
    for (kind, things) in value.as_object().into_iter().flatten() {
        match things {
            Value::Array(things) => lines.extend(
                // Numbered, because a mount point can be mounted on twice.
                counted(things).map(|(thing, count)| format!("{kind}: {thing} ({count})")),
            ),
            Value::Object(things) => {
                lines.extend(things.iter().map(|(k, v)| format!("{kind}: {k} = {v}")));
            }
            other => {
                lines.insert(format!("{kind}: {other}"));
            }
        }
    }
    Ok(lines)
}

fn counted(things: &[Value]) -> impl Iterator<Item = (&str, usize)> {
    let mut seen = BTreeMap::new();
    things.iter().filter_map(Value::as_str).map(move |thing| {
        let count = seen.entry(thing).or_insert(0);
        *count += 1;
        (thing, *count)
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    kind: String,
}

impl Mount {
    fn is_cgroup(&self) -> bool {
        matches!(self.kind.as_str(), "cgroup" | "cgroup2")
    }
}

fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            Some(Mount {
                point: PathBuf::from(left.split(' ').nth(4)?),
                kind: right.split(' ').next()?.to_owned(),
            })
        })
        .collect()
}

/// A process is this cluster's by its mark, by its cgroup, or by a path of the cluster among its
/// arguments.
fn processes(owner: &Owner, layout: &Layout) -> Result<Vec<String>> {
    let cgroup = format!("/hearth-{}/", owner.id);
    let marked = process::find(|pid| {
        process::is_marked(pid, layout.root())
            || fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(&cgroup))
            || is_run_from(&process::command_line(pid), owner)
    })?;
    let mut lines: Vec<_> = marked
        .into_iter()
        .map(|process| process::command_line(process.pid))
        .collect();
    lines.sort();
    Ok(lines)
}

/// Whether the program itself lies in one of the cluster's directories; mere arguments could be
/// an editor's or a test's.
fn is_run_from(command_line: &str, owner: &Owner) -> bool {
    let program = command_line.split(' ').next().unwrap_or_default();
    owner
        .dirs
        .iter()
        .any(|dir| Path::new(program).starts_with(dir))
}

fn links(owner: &Owner) -> BTreeSet<String> {
    list(Path::new("/sys/class/net"))
        .into_iter()
        .map(|name| {
            let master = fs::read_link(format!("/sys/class/net/{name}/master")).ok();
            let master = master.and_then(|m| Some(m.file_name()?.to_str()?.to_owned()));
            (name, master)
        })
        .filter(|(name, master)| {
            !owner.is_foreign(name, "hth-")
                && !master
                    .as_ref()
                    .is_some_and(|master| owner.is_foreign(master, "hth-"))
        })
        .map(|(name, master)| match master {
            Some(master) => format!("{name} in {master}"),
            None => name,
        })
        .collect()
}

fn nft_tables(owner: &Owner) -> Result<BTreeSet<String>> {
    if system::find_on_path("nft").is_none() {
        return Ok(BTreeSet::new());
    }
    let text = system::capture(Command::new("nft").args(["--json", "list", "tables"]))?;
    let tables = parse_nft_tables(&text)?;
    Ok(tables
        .into_iter()
        .filter(|table| !owner.is_foreign(table, "inet hearth-"))
        .collect())
}

fn parse_nft_tables(text: &str) -> Result<BTreeSet<String>> {
    let value: Value = serde_json::from_str(text).context("nft did not print JSON")?;
    let tables = value["nftables"].as_array().into_iter().flatten();
    Ok(tables
        .filter_map(|entry| entry.get("table"))
        .filter_map(|table| {
            Some(format!(
                "{} {}",
                table["family"].as_str()?,
                table["name"].as_str()?
            ))
        })
        .collect())
}

/// The cgroups of one hierarchy. Those of other programs are listed by their topmost one: what is
/// below belongs to whoever made that, and comes and goes.
fn cgroups(owner: &Owner, hierarchy: &Path, found: &mut BTreeSet<String>) {
    for dir in subdirectories(hierarchy) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        if owner.is_foreign(&name, "hearth-") {
            continue;
        }
        let is_ours = name.starts_with("hearth-");
        found.insert(dir.display().to_string());
        if is_ours {
            everything_below(&dir, found);
        }
    }
}

fn everything_below(dir: &Path, found: &mut BTreeSet<String>) {
    for dir in subdirectories(dir) {
        found.insert(dir.display().to_string());
        everything_below(&dir, found);
    }
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    // A cgroup that vanishes meanwhile is no cgroup.
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// What containerd, its shims and the CNI library leave in places that no setting moves, and our own
/// directories. A directory with nothing in it is nothing that was left.
fn files(owner: &Owner) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in [
        "/run/hearth",
        "/run/containerd/fifo",
        "/run/containerd/runc",
        "/run/containerd/s",
        "/run/runc",
        "/var/lib/cni",
        "/var/lib/hearth",
    ] {
        files_below(owner, Path::new(dir), &mut found);
    }
    found
}

fn files_below(owner: &Owner, dir: &Path, found: &mut BTreeSet<String>) {
    for name in list(dir) {
        let path = dir.join(&name);
        if owner.is_foreign_path(&path) || owner.is_foreign(&name, "hearth-") {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            files_below(owner, &path, found);
        } else {
            found.insert(path.display().to_string());
        }
    }
}

/// The names in a directory; one that is not there has none.
fn list(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            id: "abc123".to_owned(),
            dirs: [
                PathBuf::from("/x/.hearth"),
                PathBuf::from("/run/hearth/abc123"),
            ],
        }
    }

    #[test]
    fn only_other_instances_are_left_out() {
        for (name, prefix, expect) in [
            ("hearth-abc123", "hearth-", false),
            ("hearth-fed987", "hearth-", true),
            ("hth-fed987", "hth-", true),
            ("eth0", "hth-", false),
            ("inet hearth-fed987", "inet hearth-", true),
            ("inet filter", "inet hearth-", false),
        ] {
            assert_eq!(owner().is_foreign(name, prefix), expect, "{name}");
        }
        for (path, expect) in [
            ("/run/hearth/abc123/containerd", false),
            ("/run/hearth/fed987/containerd", true),
            ("/run/hearth/sysctls.json", false),
            ("/run/netns/hearth-abc123-test", false),
            ("/run/netns/hearth-fed987-test", true),
            ("/x/.hearth/node", false),
            ("/proc", false),
        ] {
            assert_eq!(owner().is_foreign_path(Path::new(path)), expect, "{path}");
        }
    }

    #[test]
    fn mount_lines_are_read_with_any_number_of_tags() {
        let text = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
41 31 0:38 / /sys/fs/cgroup/unified rw shared:1 master:2 - cgroup2 cgroup2 rw
garbage
";
        assert_eq!(
            parse_mountinfo(text),
            [("/proc", "proc"), ("/sys/fs/cgroup/unified", "cgroup2")].map(|(point, kind)| Mount {
                point: point.into(),
                kind: kind.into()
            })
        );
    }

    #[test]
    fn tables_are_read_from_nft() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "hearth-abc123", "handle": 1}}]}"#;
        let expect = BTreeSet::from(["inet hearth-abc123".to_owned()]);
        assert_eq!(parse_nft_tables(text).unwrap(), expect);
    }

    #[test]
    fn differences_name_what_is_new_and_what_is_gone() {
        let before = Inventory {
            processes: vec![],
            mounts: vec!["/a ext4".into()],
            network_namespaces: BTreeSet::new(),
            links: BTreeSet::from(["lo".to_owned()]),
            nftables: BTreeSet::new(),
            cgroups: BTreeSet::new(),
            files: BTreeSet::new(),
            sysctls: BTreeMap::from([("net.x".to_owned(), "0".to_owned())]),
        };
        let mut after = before.clone();
        assert!(after.differences(&before).unwrap().is_empty());
        after.mounts.push("/a ext4".into());
        after.links.clear();
        after.sysctls.insert("net.x".into(), "1".into());
        assert_eq!(
            after.differences(&before).unwrap(),
            [
                "- links: lo (1)",
                "- sysctls: net.x = \"0\"",
                "+ mounts: /a ext4 (2)",
                "+ sysctls: net.x = \"1\"",
            ]
        );
    }
}
