//! Flags for images, logs and the disk.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hearth_node::config::StorageConfig;
use hearth_node::images::{DiskRules, PressureRules, Thresholds};
use hearth_node::pod::LogLimits;

#[derive(Debug, Args)]
pub(crate) struct StorageArgs {
    /// Directory with <host>/hosts.toml for mirrors, certificates and plain HTTP of registries, as containerd has it;
    /// default <root-dir>/registries. Read at each pull.
    #[arg(long, env = "HEARTH_REGISTRY_CONFIG_DIR")]
    registry_config_dir: Option<PathBuf>,
    /// Images that are pulled at once. One of them is kept for what somebody waits for.
    #[arg(long, env = "HEARTH_MAX_PARALLEL_PULLS", default_value_t = StorageConfig::default().max_parallel_pulls)]
    max_parallel_pulls: usize,
    /// A container's log is set aside when it has so many bytes.
    #[arg(long, env = "HEARTH_CONTAINER_LOG_MAX_BYTES", default_value_t = StorageConfig::default().logs.max_bytes)]
    container_log_max_bytes: u64,
    /// Files that are kept of the log of one start of a container, that which is being written included.
    #[arg(long, env = "HEARTH_CONTAINER_LOG_MAX_FILES", default_value_t = StorageConfig::default().logs.max_files)]
    container_log_max_files: usize,
    /// When more than this part of the disk of --root-dir is used, in per cent, images that nobody on the node needs are
    /// removed, those first that were not needed for the longest time. 100: never.
    #[arg(long, env = "HEARTH_IMAGE_GC_HIGH_THRESHOLD_PERCENT", default_value_t = StorageConfig::default().disk.images.high_percent)]
    image_gc_high_threshold_percent: u8,
    /// And until no more than this part is.
    #[arg(long, env = "HEARTH_IMAGE_GC_LOW_THRESHOLD_PERCENT", default_value_t = StorageConfig::default().disk.images.low_percent)]
    image_gc_low_threshold_percent: u8,
    /// Seconds for which an image is kept after it was first seen, unless the disk is nearly full.
    #[arg(
        long,
        env = "HEARTH_IMAGE_MINIMUM_GC_AGE_SECONDS",
        default_value_t = 120
    )]
    image_minimum_gc_age_seconds: u32,
    /// When less than this part of the disk of --root-dir is available, in per cent, the node says DiskPressure and begins
    /// no new pods. 0: never.
    #[arg(long, env = "HEARTH_DISK_PRESSURE_AVAILABLE_PERCENT", default_value_t = StorageConfig::default().disk.pressure.available_percent)]
    disk_pressure_available_percent: u8,
    /// The same for its inodes.
    #[arg(long, env = "HEARTH_DISK_PRESSURE_INODES_PERCENT", default_value_t = StorageConfig::default().disk.pressure.inodes_percent)]
    disk_pressure_inodes_percent: u8,
}

impl StorageArgs {
    pub(crate) fn into_config(self) -> StorageConfig {
        // Taken apart completely: a flag that nobody uses does not compile.
        let Self {
            registry_config_dir,
            max_parallel_pulls,
            container_log_max_bytes,
            container_log_max_files,
            image_gc_high_threshold_percent,
            image_gc_low_threshold_percent,
            image_minimum_gc_age_seconds,
            disk_pressure_available_percent,
            disk_pressure_inodes_percent,
        } = self;
        StorageConfig {
            registry_config_dir,
            max_parallel_pulls,
            logs: LogLimits {
                max_bytes: container_log_max_bytes,
                max_files: container_log_max_files,
            },
            disk: DiskRules {
                images: Thresholds {
                    high_percent: image_gc_high_threshold_percent,
                    low_percent: image_gc_low_threshold_percent,
                    min_age: Duration::from_secs(u64::from(image_minimum_gc_age_seconds)),
                },
                pressure: PressureRules {
                    available_percent: disk_pressure_available_percent,
                    inodes_percent: disk_pressure_inodes_percent,
                },
            },
        }
    }
}
