//! Advising the kernel to write out what a process has in memory.
#![allow(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::{ReclaimError, is};
use crate::process::ProcessId;

/// A part of what a process has mapped.
#[derive(Debug)]
pub(super) struct Piece {
    pid: i32,
    process: Arc<OwnedFd>,
    range: Range<usize>,
    /// How much of it is in memory, about, in bytes.
    pub(super) resident: u64,
}

/// A mapping that has memory which can be written out.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    range: Range<usize>,
    resident: u64,
}

/// What the processes have in memory, in pieces of about `bytes`. A process that has gone has none.
pub(super) fn pieces(tasks: &BTreeSet<i32>, bytes: u64) -> Result<VecDeque<Piece>, ReclaimError> {
    let mut pieces = VecDeque::new();
    for pid in tasks {
        let opened = ProcessId::of(*pid).and_then(|id| match id {
            Some(id) => id.open(),
            None => Ok(None),
        });
        let Some(process) = opened.map_err(ReclaimError::Task)? else {
            continue;
        };
        let process = Arc::new(process.into_fd());
        let path = PathBuf::from(format!("/proc/{pid}/smaps"));
        let Some(maps) = read(&path)? else { continue };
        for mapping in mappings(&maps) {
            for (range, resident) in slices(mapping, bytes.max(1)) {
                pieces.push_back(Piece {
                    pid: *pid,
                    process: Arc::clone(&process),
                    range,
                    resident,
                });
            }
        }
    }
    Ok(pieces)
}

/// The file's content; `None` when its process has gone.
fn read(path: &Path) -> Result<Option<String>, ReclaimError> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || is(&error, Errno::SRCH) => {
            Ok(None)
        }
        Err(source) => Err(ReclaimError::Maps {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The mappings that have memory of their own, or of a file that exists only in memory. What is mapped from disk is
/// shared with others, and the kernel drops it when it needs to.
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut range = None;
    let mut in_memory = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(key) = first.strip_suffix(':') {
            let wanted = if in_memory { "Rss" } else { "Anonymous" };
            let kib = words.next().and_then(|kib| kib.parse::<u64>().ok());
            if let (true, Some(kib), Some(range)) =
                (key == wanted, kib.filter(|kib| *kib > 0), &range)
            {
                found.push(Mapping {
                    range: Range::clone(range),
                    resident: kib << 10,
                });
            }
            continue;
        }
        let address = |text: &str| usize::from_str_radix(text, 16).ok();
        range = first
            .split_once('-')
            .and_then(|(start, end)| Some(address(start)?..address(end)?));
        // Permissions, offset, device, inode; then the name, which may have spaces.
        let name = words.nth(4).unwrap_or_default();
        in_memory = name.starts_with("/memfd:")
            || name.starts_with("/dev/shm/")
            || name.starts_with("/SYSV");
        if name.starts_with("[v") {
            // The kernel's own pages.
            range = None;
        }
    }
    found
}

/// A mapping in pieces of about `bytes` of what is resident, in whole pages, as if it were spread evenly.
fn slices(mapping: Mapping, bytes: u64) -> Vec<(Range<usize>, u64)> {
    let Mapping { range, resident } = mapping;
    let count = usize::try_from(resident.div_ceil(bytes))
        .unwrap_or(1)
        .max(1);
    let page = rustix::param::page_size();
    let length = range.len().div_ceil(count).next_multiple_of(page);
    let mut slices = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let end = start.saturating_add(length).min(range.end);
        slices.push((start..end, resident / u64::try_from(count).unwrap_or(1)));
        start = end;
    }
    slices
}

impl Piece {
    /// Has the kernel write it out. What is not mapped any more is passed over.
    pub(super) fn advise_out(&self) -> Result<(), ReclaimError> {
        let vector = libc::iovec {
            iov_base: std::ptr::without_provenance_mut(self.range.start),
            iov_len: self.range.len(),
        };
        // SAFETY: The kernel reads one `iovec`, which lives until the call returns. The address in it is another
        // process's: it is advice about pages there, is dereferenced neither here nor by the kernel, and does not change
        // what any page holds. The descriptor is open for as long as `self`.
        let advised = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                self.process.as_raw_fd(),
                std::ptr::from_ref(&vector),
                1_usize,
                libc::MADV_PAGEOUT,
                0_u32,
            )
        };
        if advised >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let passed_over = [
            Errno::SRCH,
            Errno::NOMEM,
            Errno::INVAL,
            Errno::FAULT,
            Errno::AGAIN,
        ];
        if passed_over.iter().any(|errno| is(&error, *errno)) {
            return Ok(());
        }
        Err(ReclaimError::Advise {
            pid: self.pid,
            source: error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d000000000-55d000002000 r-xp 00000000 fe:00 12  /bin/app
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
55d000010000-55d000020000 rw-p 00000000 00:00 0  [heap]
Rss:                  40 kB
Anonymous:            40 kB
7f0000000000-7f0000100000 rw-s 00000000 00:01 9  /memfd:pool of pages (deleted)
Rss:                 512 kB
Anonymous:             0 kB
7f1000000000-7f1000001000 r--p 00000000 00:00 0  [vvar]
Rss:                   4 kB
Anonymous:             4 kB
7f2000000000-7f2000004000 rw-p 00000000 fe:00 13 /lib/libc.so
Rss:                  16 kB
Anonymous:             8 kB
";

    #[test]
    fn what_only_the_process_has_is_found() {
        let found: Vec<_> = mappings(SMAPS)
            .into_iter()
            .map(|mapping| (mapping.range.start, mapping.resident >> 10))
            .collect();
        assert_eq!(
            found,
            [
                (0x55d0_0001_0000, 40),
                (0x7f00_0000_0000, 512),
                (0x7f20_0000_0000, 8),
            ]
        );
        assert_eq!(mappings("nonsense\n: \n"), []);
    }

    #[test]
    fn a_large_mapping_goes_in_slices_that_cover_it() {
        let page = rustix::param::page_size();
        let mapping = Mapping {
            range: 0..10 * page,
            resident: 4000,
        };
        let slices = slices(mapping, 1000);
        assert_eq!(
            slices,
            [
                (0..3 * page, 1000),
                (3 * page..6 * page, 1000),
                (6 * page..9 * page, 1000),
                (9 * page..10 * page, 1000)
            ]
        );
    }
}
