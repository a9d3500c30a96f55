//! Where the last lines of a log begin, found from its end: a log may be larger than anybody wants to read.

use std::io::{self, Read, Seek, SeekFrom};

use crate::cri_log::{MAX_ENTRY, parse};

/// How much is read at once.
const BLOCK: u64 = 64 << 10;

/// Where the last lines begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// In bytes from the beginning of the file.
    pub(super) offset: u64,
    /// How many of the lines are not in this file.
    pub(super) lacking: u64,
}

/// Where the last `lines` lines of a container begin. A line that its other stream was in the middle of there loses its
/// beginning.
pub(super) fn start(log: &mut (impl Read + Seek), lines: u64) -> io::Result<Start> {
    let end = log.seek(SeekFrom::End(0))?;
    let found = |offset| Start { offset, lacking: 0 };
    if lines == 0 {
        return Ok(found(end));
    }
    let mut counter = Counter::new(lines);
    // What lies from `position` to the end of the last entry that was not counted yet.
    let mut position = end;
    let mut window: Vec<u8> = Vec::new();
    while position > 0 && window.len() <= MAX_ENTRY {
        let length = position.min(BLOCK);
        position -= length;
        log.seek(SeekFrom::Start(position))?;
        let mut block = Vec::new();
        log.by_ref().take(length).read_to_end(&mut block)?;
        block.append(&mut window);
        window = block;
        if let Some(start) = count(&mut window, &mut counter, position == 0) {
            return Ok(found(position + start));
        }
    }
    // What is no log is not read to its beginning, and then there is nothing to look for in others.
    let lacking = if position == 0 {
        lines.saturating_sub(counter.seen)
    } else {
        0
    };
    Ok(Start {
        offset: position,
        lacking,
    })
}

/// Counts the entries of the window from its end and takes them off. The first may have begun before the window, and is
/// left, unless the log begins there. Returns where the wanted lines begin, if that is seen.
fn count(window: &mut Vec<u8>, counter: &mut Counter, is_first: bool) -> Option<u64> {
    // What comes after the last newline is still being written.
    window.truncate(last_newline(window)? + 1);
    while let Some((_, before)) = window.split_last() {
        let begin = match last_newline(before) {
            Some(newline) => newline + 1,
            None if is_first => 0,
            None => return None,
        };
        if counter.is_beyond(&before[begin..]) {
            return u64::try_from(window.len()).ok();
        }
        window.truncate(begin);
    }
    None
}

fn last_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n')
}

/// Counts lines from the end, an entry at a time.
#[derive(Debug)]
struct Counter {
    wanted: u64,
    seen: u64,
}

impl Counter {
    fn new(wanted: u64) -> Self {
        Self { wanted, seen: 0 }
    }

    /// Whether the entry belongs to the line before those that are wanted.
    fn is_beyond(&mut self, entry: &[u8]) -> bool {
        let ends = parse(entry).is_none_or(|entry| entry.ends);
        // The last line may have no end yet.
        if !ends && self.seen > 0 {
            return false;
        }
        if ends && self.seen == self.wanted {
            return true;
        }
        if ends || self.seen == 0 {
            self.seen += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn tail(log: &str, lines: u64) -> &str {
        let start = start(&mut Cursor::new(log.as_bytes()), lines).unwrap();
        &log[usize::try_from(start.offset).unwrap()..]
    }

    const LOG: &str = "T stdout F a\nT stdout P b\nT stdout F c\nT stdout F d\n";

    #[test]
    fn lines_are_counted_and_not_entries() {
        for (lines, expect) in [
            (0, ""),
            (1, "T stdout F d\n"),
            (2, "T stdout P b\nT stdout F c\nT stdout F d\n"),
            (3, LOG),
            (4, LOG),
            (u64::MAX, LOG),
        ] {
            assert_eq!(tail(LOG, lines), expect, "{lines}");
        }
        assert_eq!(tail("", 3), "");
    }

    #[test]
    fn a_last_line_without_an_end_is_a_line() {
        let log = "T stdout F a\nT stdout P b\nT stdout P c\n";
        assert_eq!(tail(log, 1), "T stdout P b\nT stdout P c\n");
        assert_eq!(tail(log, 2), log);
    }

    #[test]
    fn it_is_told_how_many_lines_are_elsewhere() {
        for (lines, lacking) in [(0, 0), (1, 0), (3, 0), (4, 1), (10, 7)] {
            let start = start(&mut Cursor::new(LOG), lines).unwrap();
            assert_eq!(start.lacking, lacking, "{lines}");
        }
    }

    #[test]
    fn an_entry_that_is_being_written_is_none_yet() {
        assert_eq!(
            tail("T stdout F a\nT stdout F b\nT st", 1),
            "T stdout F b\nT st"
        );
        assert_eq!(tail("T st", 1), "T st");
    }

    #[test]
    fn a_log_of_many_blocks_is_read_from_its_end() {
        let line = format!("T stdout F {}\n", "x".repeat(999));
        let log = line.repeat(1000);
        for lines in [1, 64, 65, 66, 999, 1000, 1001] {
            let expect = line.len() * usize::try_from(lines.min(1000)).unwrap();
            assert_eq!(tail(&log, lines).len(), expect, "{lines}");
        }
    }

    #[test]
    fn what_is_no_log_is_not_read_whole() {
        let garbage = vec![b'x'; 3 * MAX_ENTRY];
        let start = start(&mut Cursor::new(garbage), 1).unwrap();
        let least = u64::try_from(MAX_ENTRY).unwrap();
        assert!(start.offset > least && start.lacking == 0, "{start:?}");
    }
}
