//! Why a container ended, in its own words.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use hearth_core::sandbox::{Pod, SeenContainer, SeenLife, Sighting};

use super::sight;
use super::work::{Problem, Result, Subject, blocking};
use crate::cri_log;

/// Most that is kept of what a container leaves in its file, in bytes: Kubernetes' figure.
const FILE_MAX: u64 = 4096;
/// Most that is kept of the end of its log, in bytes: Kubernetes' figure.
const LOG_MAX: u64 = 2048;

/// Name of the file for the last words of an attempt of a container.
pub(super) fn place(container: &str, attempt: u32) -> String {
    format!("{container}-{attempt}")
}

/// A container of the pod that has ended and of which that was not known.
struct Ended {
    /// Its place in the sighting.
    index: usize,
    id: String,
    place: String,
    /// Its log is to stand in for last words.
    or_log: bool,
}

impl Subject {
    /// Adds the containers' last words to what the runtime says of their ends.
    pub(super) async fn hear_last_words(&self, seen: &mut Sighting) -> Result<()> {
        let Some(pod) = &self.pod else { return Ok(()) };
        let containers = seen.containers.iter().enumerate();
        let ended = containers.filter_map(|(index, container)| self.ended(pod, index, container));
        let ended: Vec<_> = ended.collect();
        if ended.is_empty() {
            return Ok(());
        }
        let mut with_logs = Vec::new();
        for ended in ended {
            let log = if ended.or_log {
                self.log_of(&ended.id).await?
            } else {
                None
            };
            with_logs.push((ended, log));
        }
        let uid = pod.uid.clone();
        let heard = blocking(&self.shared, move |host| {
            let hear = |(ended, log): (Ended, Option<PathBuf>)| {
                let words = host.last_words(&uid, &ended.place);
                let instead = log.filter(|_| words.is_empty());
                (ended.index, instead.map_or(words, |log| of_log(&log)))
            };
            Ok(with_logs.into_iter().map(hear).collect::<Vec<_>>())
        })
        .await?;
        for (index, words) in heard {
            let container = seen.containers.get_mut(index);
            if let Some(SeenLife::Exited { reason, .. }) = container.map(|found| &mut found.life) {
                *reason = joined(reason, &words);
            }
        }
        Ok(())
    }

    fn ended(&self, pod: &Pod, index: usize, container: &SeenContainer) -> Option<Ended> {
        let SeenLife::Exited { code, .. } = container.life else {
            return None;
        };
        if sight::known_code(Some(pod), &container.id).is_some() {
            return None;
        }
        let mut plans = pod.plan.containers.iter();
        let plan = plans.find(|plan| plan.name == container.name)?;
        Some(Ended {
            index,
            id: container.id.clone(),
            place: place(&plan.name, container.attempt),
            or_log: plan.last_words.or_log && code != 0,
        })
    }

    /// The log of a container, as the runtime knows it; `None` when the container is gone.
    async fn log_of(&self, container: &str) -> Result<Option<PathBuf>> {
        let status = self.shared.runtime.container_status(container).await;
        let status = status.map_err(|error| Problem::of(&error))?;
        Ok(status.map(|status| PathBuf::from(status.log_path)))
    }
}

fn joined(reason: &str, words: &str) -> String {
    match (reason, words) {
        (reason, "") => reason.to_owned(),
        ("", words) => words.to_owned(),
        (reason, words) => format!("{reason}: {words}"),
    }
}

/// What a file holds, shortened; empty when there is none.
pub(super) fn of_file(path: &Path) -> String {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    text(&read().unwrap_or_default())
}

/// The end of a log in CRI's format, without what CRI adds to each line; empty when there is none.
pub(super) fn of_log(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        // Each line has half as much again of CRI's.
        let start = length.saturating_sub(LOG_MAX * 2);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LOG_MAX * 2).read_to_end(&mut bytes)?;
        if start > 0 {
            // Begins within a line.
            let end = bytes
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            bytes.drain(..end);
        }
        Ok::<_, std::io::Error>(bytes)
    };
    let written = written(&read().unwrap_or_default());
    let max = usize::try_from(LOG_MAX).unwrap_or(usize::MAX);
    let start = written.len().saturating_sub(max);
    let start = (start..=written.len()).find(|at| written.is_char_boundary(*at));
    written
        .get(start.unwrap_or(0)..)
        .unwrap_or_default()
        .to_owned()
}

/// What a container has written, from entries of its log.
fn written(log: &[u8]) -> String {
    let mut written = Vec::new();
    for entry in log.split(|byte| *byte == b'\n').filter_map(cri_log::parse) {
        written.extend_from_slice(entry.content);
        written.extend(entry.ends.then_some(b'\n'));
    }
    text(&written)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn last_words_are_read_and_shortened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("words");
        assert_eq!(of_file(&path), "");
        fs::write(&path, "no disk\n").unwrap();
        assert_eq!(of_file(&path), "no disk");
        fs::write(&path, "x".repeat(10_000)).unwrap();
        assert_eq!(of_file(&path).len(), 4096);
    }

    #[test]
    fn the_end_of_a_log_stands_without_what_cri_adds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        assert_eq!(of_log(&path), "");
        let line = |text: &str| format!("2026-11-22T10:00:00.000000000Z stderr F {text}\n");
        fs::write(&path, line("first") + &line("the last  word")).unwrap();
        assert_eq!(of_log(&path), "first\nthe last  word");
        let long = "2026-11-22T10:00:00.000000000Z stderr P one \n".to_owned() + &line("line");
        fs::write(&path, long).unwrap();
        assert_eq!(of_log(&path), "one line");
        let many: String = (0..1000).map(|n| line(&format!("line {n}"))).collect();
        fs::write(&path, many).unwrap();
        let end = of_log(&path);
        assert!(
            end.len() <= 2048 && end.starts_with("line ") && end.ends_with("line 999"),
            "{end}"
        );
    }
}
