//! A disk to cut the power of.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Database, DatabaseError, StorageBackend};

use super::*;

/// A disk that keeps only what was synced, and remembers what it would hold after a power cut at every moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    /// What reads see.
    bytes: Vec<u8>,
    /// What each sync made durable, the empty disk first.
    synced: Vec<Vec<u8>>,
    /// Writes since the last sync.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Contents in which a sync was reached with only some of its writes done, and the number of syncs before.
    torn: Vec<(usize, Vec<u8>)>,
    /// Fail writes from now on.
    broken: bool,
}

impl Disk {
    /// A disk with this content.
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.platter().synced.push(bytes.clone());
        disk.platter().bytes = bytes;
        disk
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    /// How often it was synced.
    pub(crate) fn syncs(&self) -> usize {
        self.platter().synced.len() - 1
    }

    /// Whether writes fail from now on.
    pub(crate) fn break_down(&self, broken: bool) {
        self.platter().broken = broken;
    }

    /// What a power cut could have left, with the number of syncs before it.
    pub(crate) fn power_cuts(&self) -> Vec<(usize, Vec<u8>)> {
        let platter = self.platter();
        platter
            .synced
            .iter()
            .cloned()
            .enumerate()
            .chain(platter.torn.iter().cloned())
            .collect()
    }

    /// The disk as it would be found if the power went now.
    pub(crate) fn after_power_cut(&self) -> Self {
        Self::holding(self.platter().synced.last().unwrap().clone())
    }

    /// A journal on this disk, with its bind files in `dir`.
    pub(crate) fn journal(&self, dir: &Path) -> Opened {
        let files = BindFiles::open(dir.join("binds")).unwrap();
        Journal::open_on(Box::new(self.clone()), files, JournalMetrics::default()).unwrap()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.platter().bytes[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.platter()
            .bytes
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.platter();
        let before = platter.synced.last().unwrap().clone();
        let syncs = platter.synced.len() - 1;
        let unsynced = std::mem::take(&mut platter.unsynced);
        // A power cut may keep any part of what was not synced: try every beginning, and every end.
        for cut in 0..unsynced.len() {
            for kept in [&unsynced[..cut], &unsynced[cut..]] {
                let mut bytes = before.clone();
                bytes.resize(platter.bytes.len().max(bytes.len()), 0);
                for (start, data) in kept {
                    if let Some(place) = bytes.get_mut(*start..start + data.len()) {
                        place.copy_from_slice(data);
                    }
                }
                platter.torn.push((syncs, bytes));
            }
        }
        let now = platter.bytes.clone();
        platter.synced.push(now);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.platter();
        if platter.broken {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let start = usize::try_from(offset).unwrap();
        platter.bytes[start..start + data.len()].copy_from_slice(data);
        platter.unsynced.push((start, data.to_owned()));
        Ok(())
    }
}

impl Medium for Disk {
    fn is_fresh(&self) -> bool {
        self.platter().bytes.is_empty()
    }

    fn open(&mut self) -> Result<Database, DatabaseError> {
        store::builder().create_with_backend(self.clone())
    }

    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn set_aside(&mut self) -> Result<PathBuf, OpenError> {
        *self.platter() = Platter {
            synced: vec![Vec::new()],
            ..Platter::default()
        };
        Ok(PathBuf::from("aside"))
    }
}
