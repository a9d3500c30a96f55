//! Looking after the disk: images go when it gets full, and nothing new is begun when it is nearly so.
//!
//! No event tells how full a disk is. Asking is one system call that reads nothing, so that it is asked again and again;
//! images are only looked through now and then, and when there is too little room.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::images::{Fill, Memory, Needed, Stored, Thresholds};
use hearth_core::storage::{PressureRules, Room, pressure};
use hearth_cri::CriError;
use hearth_sys::disk::FileSystem;
use hearth_telemetry::ErrorChain;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Images;
use crate::pod::PodManager;

/// How often, about, the disk is asked how full it is.
const LOOK: Duration = Duration::from_secs(10);
/// How often, about, images are looked through when there is room: when each was needed last is known to so much.
const REVIEW: Duration = Duration::from_secs(300);
/// How soon they are looked through again when there is too little room.
const AGAIN: Duration = Duration::from_secs(30);

/// When images go, and when the disk counts as nearly full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskRules {
    /// When images go.
    pub images: Thresholds,
    /// When nothing new is begun.
    pub pressure: PressureRules,
}

/// What is used of an image and needed by whom.
#[async_trait::async_trait]
pub(crate) trait Users: Send + Sync + std::fmt::Debug + 'static {
    /// The images that sandboxes of this node name, made or not.
    fn named(&self) -> Needed;

    /// These, and what containers were made from that are there.
    async fn needed(&self) -> Result<Needed, CriError>;

    /// Nothing new is begun for this reason, or for none any more.
    fn set_no_room(&self, why: Option<String>);
}

#[async_trait::async_trait]
impl Users for PodManager {
    fn named(&self) -> Needed {
        self.named_images()
    }

    async fn needed(&self) -> Result<Needed, CriError> {
        self.needed_images().await
    }

    fn set_no_room(&self, why: Option<String>) {
        Self::set_no_room(self, why);
    }
}

/// Looks after the disk of the root directory.
#[derive(Debug)]
pub(crate) struct DiskKeeper {
    images: Images,
    users: Arc<dyn Users>,
    disk: Disk,
    rules: DiskRules,
    /// Whether all sandboxes of this node are known.
    synced: watch::Receiver<bool>,
    /// Why nothing new is begun.
    pressure: watch::Sender<Option<String>>,
    memory: Memory,
    epoch: Instant,
    /// When images are looked through next.
    review: Instant,
}

/// Says how full the disk is. Blocks.
pub(crate) type Look = dyn Fn() -> std::io::Result<FileSystem> + Send + Sync;

#[derive(Clone)]
struct Disk(Arc<Look>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

/// The disk that a directory is on.
pub(crate) fn disk_of(directory: PathBuf) -> Arc<Look> {
    Arc::new(move || hearth_sys::disk::file_system(&directory))
}

impl DiskKeeper {
    pub(crate) fn new(
        images: Images,
        users: Arc<dyn Users>,
        disk: Arc<Look>,
        rules: DiskRules,
        synced: watch::Receiver<bool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            images,
            users,
            disk: Disk(disk),
            rules,
            synced,
            pressure: watch::Sender::new(None),
            memory: Memory::default(),
            epoch: now,
            review: now,
        }
    }

    /// Why nothing new is begun; `None` while there is room.
    pub(crate) fn pressure(&self) -> watch::Receiver<Option<String>> {
        self.pressure.subscribe()
    }

    /// Looks after it until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let round = async {
                self.look().await;
                // Nodes that were started together do not look together.
                let pause = LOOK.mul_f64(rand::rng().random_range(0.8..1.2));
                sleep(pause).await;
            };
            // What is dropped here is done anew by the next daemon.
            tokio::select! {
                () = stop.cancelled() => return,
                () = round => {}
            }
        }
    }

    async fn look(&mut self) {
        let disk = self.disk.clone();
        let found = tokio::task::spawn_blocking(move || (disk.0)()).await;
        let found = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot see how full the disk is");
                return;
            }
            Err(error) => {
                tracing::error!(%error, "the thread that looks at the disk has ended");
                return;
            }
        };
        self.images.metrics().disk(&found);
        self.press(&found);
        let urgent = self.pressure.borrow().is_some();
        let fill = Fill {
            capacity: found.capacity_bytes,
            available: found.available_bytes,
        };
        let full = urgent || fill.used_percent() >= self.rules.images.high_percent;
        let now = Instant::now();
        let due = now >= self.review || (full && now + REVIEW - AGAIN >= self.review);
        // Before all sandboxes are known, what they need is not either.
        if !due || !*self.synced.borrow() {
            return;
        }
        self.review = now + REVIEW;
        if let Err(error) = self.review(fill, urgent).await {
            tracing::warn!(error = %ErrorChain(&error), "cannot look through the images");
        }
    }

    fn press(&self, found: &FileSystem) {
        let room = Room {
            capacity: found.capacity_bytes,
            available: found.available_bytes,
            inodes: found.inodes,
            inodes_free: found.inodes_free,
        };
        let before = self.pressure.borrow().is_some();
        let now = pressure(&room, &self.rules.pressure, before);
        let changed = self.pressure.send_if_modified(|known| {
            let changed = *known != now;
            known.clone_from(&now);
            changed
        });
        if changed {
            match &now {
                Some(why) => tracing::warn!(why, "the disk is nearly full; nothing new is begun"),
                None => tracing::info!("the disk has room again"),
            }
            self.users.set_no_room(now);
        }
    }

    /// Notes which images are needed, and removes some if there is too little room.
    async fn review(&mut self, fill: Fill, urgent: bool) -> Result<(), CriError> {
        let store = self.images.store();
        let images: Vec<Stored> = store
            .list_images()
            .await?
            .into_iter()
            .map(|image| {
                let names = [image.repo_tags, image.repo_digests].concat();
                Stored {
                    bytes: image.size,
                    // What came with an archive of the node's cannot be had from anywhere else.
                    pinned: image.pinned || self.images.is_own(&names),
                    id: image.id,
                    names,
                }
            })
            .collect();
        let needed = self.users.needed().await?;
        let now = self.epoch.elapsed();
        self.memory.observe(&images, &needed, now);
        self.images.keep_notes_of(&images).await;
        let rules = &self.rules.images;
        let chosen = self
            .memory
            .choose(&images, &needed, fill, rules, urgent, now);
        for image in chosen {
            // Somebody may have come meanwhile.
            if self.users.named().has(image) {
                continue;
            }
            match store.remove_image(&image.id).await {
                Ok(()) => {
                    tracing::info!(id = image.id, names = ?image.names, bytes = image.bytes, "removed an image for its room");
                    self.images.metrics().removed(image.bytes);
                }
                Err(error) => {
                    tracing::warn!(id = image.id, error = %ErrorChain(&error), "cannot remove an image");
                }
            }
        }
        Ok(())
    }
}
