//! What the kernel's own files say of the cgroups of one instance.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::process::{self, ProcessId};

/// The cgroups of one instance in every hierarchy of this machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    unified: PathBuf,
    /// Where the version 1 controllers are mounted; `None` on a machine that has only version 2.
    v1: Option<PathBuf>,
    instance: String,
}

impl Cgroups {
    /// Those of the instance called `id`.
    ///
    /// # Errors
    /// When this machine has no version 2 hierarchy.
    pub fn of_instance(id: &str) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let hybrid = root.join("unified");
        let (unified, v1) = if hybrid.join("cgroup.controllers").exists() {
            (hybrid, Some(root.to_owned()))
        } else if root.join("cgroup.controllers").exists() {
            (root.to_owned(), None)
        } else {
            bail!("no cgroup v2 hierarchy under {}", root.display());
        };
        Ok(Self {
            unified,
            v1,
            instance: format!("hearth-{id}"),
        })
    }

    /// The pods that have a cgroup in the version 2 hierarchy, by uid.
    ///
    /// # Errors
    /// When the hierarchy cannot be read.
    pub fn pods(&self) -> Result<BTreeSet<String>> {
        let pods = self.unified.join(&self.instance).join("pods");
        let entries =
            fs::read_dir(&pods).with_context(|| format!("cannot list {}", pods.display()))?;
        let mut uids = BTreeSet::new();
        for entry in entries {
            let name = entry
                .with_context(|| format!("cannot list {}", pods.display()))?
                .file_name();
            uids.extend(
                name.to_str()
                    .and_then(|name| name.strip_prefix("pod"))
                    .map(str::to_owned),
            );
        }
        Ok(uids)
    }

    /// Whether the kernel says that every process of the pod is frozen: `frozen` in its `cgroup.events`.
    ///
    /// # Errors
    /// When the pod has no cgroup or the file does not say.
    pub fn is_frozen(&self, pod_uid: &str) -> Result<bool> {
        let file = self.pod(&self.unified, pod_uid).join("cgroup.events");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        match flag(&text, "frozen") {
            Some(frozen) => Ok(frozen),
            None => bail!("{} says nothing of frozen: {text:?}", file.display()),
        }
    }

    /// What the pod's containers, the pause container included, were started with: the processes of its cgroups whose
    /// parents are outside of them.
    ///
    /// # Errors
    /// When the pod has no cgroup.
    pub fn main_processes(&self, pod_uid: &str) -> Result<BTreeSet<ProcessId>> {
        let mut pids = BTreeSet::new();
        collect_pids(&self.pod(&self.unified, pod_uid), &mut pids)?;
        Ok(process::roots(&pids))
    }

    /// The processes of containerd and its shims.
    ///
    /// # Errors
    /// When the instance has no such cgroup.
    pub fn supervisor_pids(&self) -> Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        collect_pids(
            &self.unified.join(&self.instance).join("supervisor"),
            &mut pids,
        )?;
        Ok(pids)
    }

    /// How many processes the pod could not make because of its limit.
    ///
    /// # Errors
    /// When the pod has no cgroup.
    pub fn forks_refused(&self, pod_uid: &str) -> Result<u64> {
        let base = self
            .v1
            .as_ref()
            .map_or_else(|| self.unified.clone(), |v1| v1.join("pids"));
        let mut directories = vec![self.pod(&base, pod_uid)];
        let mut refused = 0;
        // v1 counts where the fork was tried, v2 where the limit is as well.
        while let Some(directory) = directories.pop() {
            let text = fs::read_to_string(directory.join("pids.events"));
            let text =
                text.with_context(|| format!("no pids.events in {}", directory.display()))?;
            let max = text.lines().find_map(|line| line.strip_prefix("max "));
            refused += max.and_then(|max| max.parse::<u64>().ok()).unwrap_or(0);
            for entry in fs::read_dir(&directory)?.flatten() {
                if entry.path().is_dir() {
                    directories.push(entry.path());
                }
            }
        }
        Ok(refused)
    }

    /// The limits written on the pod's own cgroup.
    ///
    /// # Errors
    /// When a file is not there or says something else than a limit.
    pub fn limits(&self, pod_uid: &str) -> Result<Limits> {
        let read = |controller: &str, file: &str| -> Result<String> {
            let base = self
                .v1
                .as_ref()
                .map_or_else(|| self.unified.clone(), |v1| v1.join(controller));
            let file = self.pod(&base, pod_uid).join(file);
            let text = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            Ok(text.trim().to_owned())
        };
        let (memory, cpu) = if self.v1.is_some() {
            let memory = read("memory", "memory.limit_in_bytes")?;
            (
                memory,
                format!(
                    "{} {}",
                    read("cpu", "cpu.cfs_quota_us")?,
                    read("cpu", "cpu.cfs_period_us")?
                ),
            )
        } else {
            (read("memory", "memory.max")?, read("cpu", "cpu.max")?)
        };
        let pids = read("pids", "pids.max")?;
        Ok(Limits {
            memory_bytes: memory.parse().ok(),
            milli_cpu: milli_cpu(&cpu),
            pids: pids.parse().ok(),
        })
    }

    fn pod(&self, hierarchy: &Path, pod_uid: &str) -> PathBuf {
        hierarchy
            .join(&self.instance)
            .join("pods")
            .join(format!("pod{pod_uid}"))
    }
}

/// The limits of a pod; `None` where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes. Version 1 writes "no limit" as a huge number.
    pub memory_bytes: Option<u64>,
    /// CPU in thousandths of a core.
    pub milli_cpu: Option<i64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// `<quota> <period>`, where a quota of `max` or -1 is none.
fn milli_cpu(text: &str) -> Option<i64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (i64, i64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota >= 0 && period > 0).then(|| quota * 1000 / period)
}

/// The value of `key` in a file of `key 0|1` lines.
fn flag(text: &str, key: &str) -> Option<bool> {
    text.lines().find_map(|line| match line.split_once(' ') {
        Some((name, "0")) if name == key => Some(false),
        Some((name, "1")) if name == key => Some(true),
        _ => None,
    })
}

fn collect_pids(cgroup: &Path, pids: &mut BTreeSet<i32>) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in
        fs::read_dir(cgroup).with_context(|| format!("cannot list {}", cgroup.display()))?
    {
        let entry = entry.with_context(|| format!("cannot list {}", cgroup.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_line_is_a_flag() {
        for (text, expect) in [
            ("populated 1\nfrozen 0\n", Some(false)),
            ("populated 0\nfrozen 1\n", Some(true)),
            ("populated 1\n", None),
            ("unfrozen 1\nfrozen 2\n", None),
        ] {
            assert_eq!(flag(text, "frozen"), expect, "{text:?}");
        }
    }

    #[test]
    fn a_quota_is_a_share_of_its_period() {
        for (text, expect) in [
            ("50000 100000", Some(500)),
            ("200000 100000", Some(2000)),
            ("max 100000", None),
            ("-1 100000", None),
        ] {
            assert_eq!(milli_cpu(text), expect, "{text}");
        }
    }
}
