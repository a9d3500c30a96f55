//! What the daemon is told of images, logs and the disk.

use std::path::PathBuf;

use super::ConfigError;
use crate::images::DiskRules;
use crate::pod::LogLimits;

/// What the daemon is told of images, logs and the disk.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageConfig {
    /// Directory with `<host>/hosts.toml` for registries, as containerd has it; `None`: one in the root directory.
    pub registry_config_dir: Option<PathBuf>,
    /// Images that are pulled at once.
    pub max_parallel_pulls: usize,
    /// How much is kept of what containers log.
    pub logs: LogLimits,
    /// When images go, and when nothing new is begun.
    pub disk: DiskRules,
}

impl Default for StorageConfig {
    /// What a kubelet does where it is told nothing.
    fn default() -> Self {
        Self {
            registry_config_dir: None,
            max_parallel_pulls: 4,
            logs: LogLimits::default(),
            disk: DiskRules::default(),
        }
    }
}

impl StorageConfig {
    /// Checks what can be checked without looking at the machine.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(path) = &self.registry_config_dir
            && (!path.is_absolute() || path.to_str().is_none())
        {
            return Err(ConfigError {
                flag: "registry-config-dir",
                value: path.to_string_lossy().into_owned(),
                problem: "must be an absolute path in UTF-8",
            });
        }
        if self.max_parallel_pulls == 0 {
            return Err(ConfigError {
                flag: "max-parallel-pulls",
                value: "0".to_owned(),
                problem: "must be at least 1",
            });
        }
        if self.logs.max_files < 2 {
            return Err(ConfigError {
                flag: "container-log-max-files",
                value: self.logs.max_files.to_string(),
                problem: "must be at least 2: what is written and what was set aside",
            });
        }
        if self.logs.max_bytes < MIN_LOG {
            return Err(ConfigError {
                flag: "container-log-max-bytes",
                value: self.logs.max_bytes.to_string(),
                problem: "must be at least 65536: an entry of a log may be that long",
            });
        }
        let DiskRules { images, pressure } = self.disk;
        let percents = [
            ("image-gc-high-threshold-percent", images.high_percent),
            ("image-gc-low-threshold-percent", images.low_percent),
            (
                "disk-pressure-available-percent",
                pressure.available_percent,
            ),
            ("disk-pressure-inodes-percent", pressure.inodes_percent),
        ];
        for (flag, percent) in percents {
            if percent > 100 {
                return Err(ConfigError {
                    flag,
                    value: percent.to_string(),
                    problem: "must be 0 to 100",
                });
            }
        }
        if images.low_percent >= images.high_percent {
            return Err(ConfigError {
                flag: "image-gc-low-threshold-percent",
                value: images.low_percent.to_string(),
                problem: "must be less than --image-gc-high-threshold-percent",
            });
        }
        Ok(())
    }
}

/// The least at which a log is set aside, in bytes.
const MIN_LOG: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_flag() {
        let check = |spoil: fn(&mut StorageConfig), flag: &str| {
            let mut config = StorageConfig::default();
            config.check().unwrap();
            spoil(&mut config);
            assert_eq!(config.check().unwrap_err().flag, flag);
        };
        check(
            |c| c.registry_config_dir = Some("certs.d".into()),
            "registry-config-dir",
        );
        check(|c| c.max_parallel_pulls = 0, "max-parallel-pulls");
        check(|c| c.logs.max_files = 1, "container-log-max-files");
        check(|c| c.logs.max_bytes = 1000, "container-log-max-bytes");
        check(
            |c| c.disk.images.low_percent = 90,
            "image-gc-low-threshold-percent",
        );
        check(
            |c| c.disk.images.high_percent = 101,
            "image-gc-high-threshold-percent",
        );
        check(
            |c| c.disk.pressure.inodes_percent = 200,
            "disk-pressure-inodes-percent",
        );
    }
}
