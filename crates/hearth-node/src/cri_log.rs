//! The format in which a CRI runtime writes logs: a line an entry,
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F what was written
//! ```
//!
//! with the tag `F`, or `P` when the line was too long for one entry and goes on in the stream's next.

use hearth_proto::sandboxes::v1::{LogsResponse, Stream};
use jiff::Timestamp;

/// Longer entries than this are not made by any runtime (containerd makes them of 16 KiB): such a file is not a log.
pub(crate) const MAX_ENTRY: usize = 1 << 20;

/// One entry, without its line's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// When it was written, in RFC 3339.
    pub(crate) time: &'a [u8],
    pub(crate) stream: Stream,
    /// Whether a line of the container ends with it.
    pub(crate) ends: bool,
    pub(crate) content: &'a [u8],
}

/// Reads an entry; `None` when it is not in the format.
pub(crate) fn parse(entry: &[u8]) -> Option<Entry<'_>> {
    let mut fields = entry.splitn(4, |byte| *byte == b' ');
    let time = fields.next()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // More tags may follow the first one.
    let ends = match fields.next()?.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    // A container's empty line has no fourth field in some runtimes.
    let content = fields.next().unwrap_or_default();
    Some(Entry {
        time,
        stream,
        ends,
        content,
    })
}

impl Entry<'_> {
    /// Whether it was written before this, in nanoseconds since 1970. What does not say when it was written was not.
    fn is_before(&self, moment: i128) -> bool {
        let time = std::str::from_utf8(self.time).ok();
        let time = time.and_then(|time| time.parse::<Timestamp>().ok());
        time.is_some_and(|time| time.as_nanosecond() < moment)
    }
}

/// Turns a log's bytes, as they are read, into what the container has written.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// What was written before this is passed over, in nanoseconds since 1970; `None` once something later has come.
    since: Option<i128>,
    /// An entry whose end was not read yet, of [`MAX_ENTRY`] at most.
    unfinished: Vec<u8>,
}

impl Decoder {
    /// Of a log of which nothing is wanted that was written before this, in nanoseconds since 1970.
    pub(crate) fn since(since: Option<i128>) -> Self {
        Self {
            since,
            ..Self::default()
        }
    }

    /// Takes the next bytes and returns what is complete: parts of one stream that follow each other as one.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<LogsResponse> {
        let mut written = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.take(&mut written);
        }
        self.unfinished.extend_from_slice(rest);
        if self.unfinished.len() > MAX_ENTRY {
            self.take(&mut written);
        }
        written
    }

    /// Takes the entry that is complete now.
    fn take(&mut self, written: &mut Vec<LogsResponse>) {
        let entry = parse(&self.unfinished);
        let is_early = |entry: &Entry<'_>| self.since.is_some_and(|since| entry.is_before(since));
        if !entry.as_ref().is_some_and(is_early) {
            // A clock that was set back since does not hide what follows.
            if entry.is_some() {
                self.since = None;
            }
            write(entry, &self.unfinished, written);
        }
        self.unfinished.clear();
    }
}

fn write(entry: Option<Entry<'_>>, text: &[u8], written: &mut Vec<LogsResponse>) {
    // What cannot be read is shown as it is rather than kept back: it may be what somebody looks for.
    let entry = entry.unwrap_or(Entry {
        time: &[],
        stream: Stream::Stderr,
        ends: true,
        content: text,
    });
    let stream = i32::from(entry.stream);
    if written.last().is_none_or(|last| last.stream != stream) {
        let data = Vec::new();
        written.push(LogsResponse { stream, data });
    }
    if let Some(last) = written.last_mut() {
        last.data.extend_from_slice(entry.content);
        last.data.extend(entry.ends.then_some(b'\n'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.678901234Z";

    fn decoded(log: &str, step: usize) -> Vec<(Stream, String)> {
        let mut decoder = Decoder::default();
        let chunks = log.as_bytes().chunks(step);
        let mut all: Vec<(Stream, String)> = Vec::new();
        for response in chunks.flat_map(|bytes| decoder.push(bytes)) {
            let (stream, text) = (
                response.stream(),
                String::from_utf8(response.data.clone()).unwrap(),
            );
            match all.last_mut() {
                Some((last, so_far)) if *last == stream => so_far.push_str(&text),
                _ => all.push((stream, text)),
            }
        }
        all
    }

    #[test]
    fn entries_are_read_by_their_fields() {
        let entry = |stream, ends, content: &'static str| {
            Some(Entry {
                time: b"T",
                stream,
                ends,
                content: content.as_bytes(),
            })
        };
        for (text, expect) in [
            ("T stdout F a b", entry(Stream::Stdout, true, "a b")),
            ("T stderr P a", entry(Stream::Stderr, false, "a")),
            ("T stdout F:more a", entry(Stream::Stdout, true, "a")),
            ("T stdout F  a", entry(Stream::Stdout, true, " a")),
            ("T stdout F ", entry(Stream::Stdout, true, "")),
            ("T stdout F", entry(Stream::Stdout, true, "")),
            ("T stdin F a", None),
            ("T stdout X a", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expect, "{text:?}");
        }
    }

    #[test]
    fn partial_lines_are_joined_however_the_log_is_read() {
        let log = format!(
            "{TIME} stdout P one \n{TIME} stdout F line\n{TIME} stderr F other\n{TIME} stdout F end\n"
        );
        let expect = [
            (Stream::Stdout, "one line\n".to_owned()),
            (Stream::Stderr, "other\n".to_owned()),
            (Stream::Stdout, "end\n".to_owned()),
        ];
        for step in [1, 7, 64, log.len()] {
            assert_eq!(decoded(&log, step), expect, "{step}");
        }
    }

    #[test]
    fn what_was_written_before_is_passed_over() {
        let log = "2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:06.5Z stderr P b\ntorn\n\
            2026-01-02T05:04:06.500000001+02:00 stdout F c\nT stdout F d\n2026-01-02T03:04:05Z stdout F e\n";
        for (since, expect) in [
            ("2026-01-02T03:04:05Z", "a\nbtorn\nc\nd\ne\n"),
            ("2026-01-02T03:04:06Z", "btorn\nc\nd\ne\n"),
            ("2026-01-02T03:04:06.500000001Z", "torn\nc\nd\ne\n"),
            ("2026-01-02T03:04:07Z", "torn\nd\ne\n"),
        ] {
            let since: Timestamp = since.parse().unwrap();
            let mut decoder = Decoder::since(Some(since.as_nanosecond()));
            let parts = decoder.push(log.as_bytes()).into_iter();
            let text: Vec<u8> = parts.flat_map(|part| part.data).collect();
            assert_eq!(String::from_utf8(text).unwrap(), expect, "{since}");
        }
    }

    #[test]
    fn what_is_not_an_entry_is_shown_as_it_is() {
        let log = format!("torn\n{TIME} stdout F a\n");
        let expect = [
            (Stream::Stderr, "torn\n".to_owned()),
            (Stream::Stdout, "a\n".to_owned()),
        ];
        assert_eq!(decoded(&log, log.len()), expect);
    }

    #[test]
    fn an_entry_without_an_end_is_not_kept_for_ever() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(&vec![b'x'; MAX_ENTRY]), []);
        assert_eq!(decoder.push(b"x")[0].data.len(), MAX_ENTRY + 2);
        assert!(decoder.unfinished.is_empty());
    }
}
