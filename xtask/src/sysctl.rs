//! Kernel settings that a cluster raises, or that its network plugin changes, and that go back to
//! what they were when the last cluster of the machine goes down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::paths::Layout;
use crate::system;

/// Shared by all clusters of the machine.
const SHARED: &str = "/run/hearth";

/// One kernel setting.
struct Setting {
    /// Below `/proc/sys`.
    path: &'static str,
    /// The least value that a few hundred sandboxes need; `None` where we only put it back.
    least: Option<u64>,
}

const SETTINGS: &[Setting] = &[
    // The bridge plugin turns it on, and the kernel changes the next one along with it.
    Setting {
        path: "net/ipv4/ip_forward",
        least: None,
    },
    Setting {
        path: "net/ipv4/conf/all/accept_redirects",
        least: None,
    },
    // Each sandbox is a neighbour; a full table drops packets.
    Setting {
        path: "net/ipv4/neigh/default/gc_thresh1",
        least: Some(4096),
    },
    Setting {
        path: "net/ipv4/neigh/default/gc_thresh2",
        least: Some(8192),
    },
    Setting {
        path: "net/ipv4/neigh/default/gc_thresh3",
        least: Some(16_384),
    },
    // Each shim and each frozen cgroup is watched.
    Setting {
        path: "fs/inotify/max_user_instances",
        least: Some(8192),
    },
    Setting {
        path: "fs/inotify/max_user_watches",
        least: Some(524_288),
    },
];

/// What the machine had, and who makes it differ.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// A reboot undoes everything by itself.
    boot_id: String,
    originals: BTreeMap<String, String>,
    /// Directories of the clusters that are up.
    users: BTreeSet<PathBuf>,
}

/// Notes what is there and raises what is too low.
pub(crate) fn raise(layout: &Layout) -> Result<()> {
    let shared = Shared::lock()?;
    let mut record = shared.load()?;
    for setting in SETTINGS {
        if !record.originals.contains_key(setting.path) {
            record
                .originals
                .insert(setting.path.to_owned(), read(setting.path)?);
        }
    }
    record.users.insert(layout.root().to_owned());
    // Before anything is changed: a killed `up` must be able to find the way back.
    shared.store(&record)?;
    for setting in SETTINGS {
        let Some(least) = setting.least else { continue };
        let now: u64 = read(setting.path)?
            .parse()
            .with_context(|| format!("/proc/sys/{} is not a number", setting.path))?;
        if now < least {
            write(setting.path, &least.to_string())?;
        }
    }
    Ok(())
}

/// Puts everything back, unless another cluster needs it still.
pub(crate) fn restore(layout: &Layout) -> Result<()> {
    if !Path::new(SHARED).exists() {
        return Ok(());
    }
    let shared = Shared::lock()?;
    let mut record = shared.load()?;
    record.users.remove(layout.root());
    // A checkout that was deleted while its cluster ran does not count for ever.
    record
        .users
        .retain(|root| root.join("instance.json").exists());
    if !record.users.is_empty() {
        return shared.store(&record);
    }
    for setting in SETTINGS {
        if let Some(original) = record.originals.get(setting.path)
            && read(setting.path)? != *original
        {
            write(setting.path, original)?;
        }
    }
    system::remove(&shared.file)?;
    // Not empty while another instance of hearthd has its directory in there.
    let _ = fs::remove_dir(SHARED);
    Ok(())
}

/// The present values of everything that may differ while a cluster is up.
pub(crate) fn snapshot() -> Result<BTreeMap<String, String>> {
    SETTINGS
        .iter()
        .map(|setting| Ok((setting.path.replace('/', "."), read(setting.path)?)))
        .collect()
}

/// The record, locked for as long as this lives.
struct Shared {
    file: PathBuf,
    _lock: File,
}

impl Shared {
    fn lock() -> Result<Self> {
        let dir = Path::new(SHARED);
        system::create_dir(dir)?;
        let lock = File::open(dir).with_context(|| format!("cannot open {SHARED}"))?;
        lock.lock()
            .with_context(|| format!("cannot lock {SHARED}"))?;
        Ok(Self {
            file: dir.join("sysctls.json"),
            _lock: lock,
        })
    }

    fn load(&self) -> Result<Record> {
        let boot_id = read("kernel/random/boot_id")?;
        let record = system::read_json::<Record>(&self.file)?;
        Ok(still_valid(record, boot_id))
    }

    fn store(&self, record: &Record) -> Result<()> {
        system::write_json(&self.file, record)
    }
}

fn still_valid(record: Option<Record>, boot_id: String) -> Record {
    match record {
        Some(record) if record.boot_id == boot_id => record,
        _ => Record {
            boot_id,
            ..Record::default()
        },
    }
}

fn read(setting: &str) -> Result<String> {
    let path = Path::new("/proc/sys").join(setting);
    let value =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(value.trim().to_owned())
}

fn write(setting: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(setting);
    fs::write(&path, value).with_context(|| format!("cannot set {} to {value}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_a_reboot_is_void() {
        let record = || Record {
            boot_id: "a".into(),
            originals: BTreeMap::from([("x".into(), "0".into())]),
            users: BTreeSet::from([PathBuf::from("/y")]),
        };
        assert_eq!(still_valid(Some(record()), "a".into()), record());
        let fresh = Record {
            boot_id: "b".into(),
            ..Record::default()
        };
        assert_eq!(still_valid(Some(record()), "b".into()), fresh);
        assert_eq!(still_valid(None, "b".into()), fresh);
    }
}
