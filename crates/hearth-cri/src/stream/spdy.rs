//! SPDY/3.1, as much of it as CRI's streaming servers speak with a client that opens all streams itself.
//!
//! The servers of Kubernetes (`moby/spdystream`) keep no windows, so that TCP alone holds back a sender; they look at the
//! headers of streams that are opened, and send none worth reading; and they drop what comes on a stream before they have
//! replied to it. Headers are to be a deflate stream that goes on from frame to frame. Blocks that are stored, not
//! compressed, are one as well, so that neither a compressor nor SPDY's dictionary is needed.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest frame that is read. Those of data have the 32 KiB of Go's copy buffer.
const MAX_FRAME: usize = 1 << 20;
/// The most data that is written in one frame.
const MAX_DATA: usize = 32 << 10;
/// How much is read at once.
const READ: usize = 32 << 10;
const HEAD: usize = 8;

const CONTROL: u16 = 0x8000;
const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// A frame that says something to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// The stream is there.
    Reply { stream: u32 },
    /// Bytes of a stream; `last`: it has no more.
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    /// The stream is no more.
    Reset { stream: u32 },
    /// The server is about to hang up.
    GoAway,
}

/// Reads frames.
#[derive(Debug)]
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R) -> Self {
        let buffer = BytesMut::new();
        Self { io, buffer }
    }

    /// The next frame; `None` when the server has hung up. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            while let Some(parsed) = parse(&mut self.buffer)? {
                if let Some(frame) = parsed {
                    return Ok(Some(frame));
                }
            }
            self.buffer.reserve(READ);
            // Cancel-safe: what is read is in the buffer.
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}

/// Takes a frame off the buffer: `None` when it is not complete, `Some(None)` for one that says nothing to us.
fn parse(buffer: &mut BytesMut) -> io::Result<Option<Option<Frame>>> {
    let Some(mut head) = buffer.get(..HEAD) else {
        return Ok(None);
    };
    let (first, flags_and_length) = (head.get_u32(), head.get_u32());
    let [flags, ..] = flags_and_length.to_be_bytes();
    let length = usize::try_from(flags_and_length & 0x00ff_ffff).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(invalid("a frame is larger than any that a runtime makes"));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    let mut payload = buffer.split_to(length).freeze();
    if first >> 31 == 0 {
        return Ok(Some(Some(Frame::Data {
            stream: first,
            bytes: payload,
            last: flags & FIN != 0,
        })));
    }
    let [.., kind, low] = first.to_be_bytes();
    let frame = match u16::from_be_bytes([kind, low]) {
        SYN_REPLY => Some(Frame::Reply {
            stream: stream_id(&mut payload)?,
        }),
        RST_STREAM => Some(Frame::Reset {
            stream: stream_id(&mut payload)?,
        }),
        GOAWAY => Some(Frame::GoAway),
        // Settings and windows, which bind nobody here, and pings, which these servers do not send.
        _ => None,
    };
    Ok(Some(frame))
}

fn stream_id(payload: &mut Bytes) -> io::Result<u32> {
    match payload.remaining() {
        0..4 => Err(invalid("a frame is too short")),
        _ => Ok(payload.get_u32() & 0x7fff_ffff),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Writes frames.
#[derive(Debug)]
pub(super) struct Writer<W> {
    io: W,
    /// Streams opened so far.
    opened: u32,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(io: W) -> Self {
        Self { io, opened: 0 }
    }

    /// Opens a stream and returns its id. `last`: nothing will be sent on it.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)], last: bool) -> io::Result<u32> {
        // Those of a client are odd.
        let stream = 2 * self.opened + 1;
        let block = deflated(&header_block(headers), self.opened == 0);
        self.opened += 1;
        let mut payload = BytesMut::with_capacity(block.len() + 10);
        payload.put_u32(stream);
        // No stream that it belongs to, the highest priority.
        payload.put_bytes(0, 6);
        payload.put(block);
        let mut frame = BytesMut::with_capacity(payload.len() + HEAD);
        frame.put_u16(CONTROL | VERSION);
        frame.put_u16(SYN_STREAM);
        put_flags_and_length(&mut frame, last, payload.len());
        frame.put(payload);
        self.io.write_all(&frame).await?;
        Ok(stream)
    }

    /// Sends bytes on a stream; `last`: no more will come.
    pub(super) async fn data(&mut self, stream: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        let mut chunks = bytes.chunks(MAX_DATA).peekable();
        if chunks.peek().is_none() && last {
            return self.frame(stream, &[], true).await;
        }
        while let Some(chunk) = chunks.next() {
            let last = last && chunks.peek().is_none();
            self.frame(stream, chunk, last).await?;
        }
        Ok(())
    }

    async fn frame(&mut self, stream: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        let mut frame = BytesMut::with_capacity(bytes.len() + HEAD);
        frame.put_u32(stream);
        put_flags_and_length(&mut frame, last, bytes.len());
        frame.put(bytes);
        self.io.write_all(&frame).await
    }
}

fn put_flags_and_length(frame: &mut BytesMut, last: bool, length: usize) {
    frame.put_u8(if last { FIN } else { 0 });
    // Never more than the 24 bits that there are: data comes in chunks, headers are ours.
    let [_, length @ ..] = len(length).to_be_bytes();
    frame.put_slice(&length);
}

fn header_block(headers: &[(&str, &str)]) -> BytesMut {
    let mut block = BytesMut::new();
    block.put_u32(len(headers.len()));
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.put_u32(len(text.len()));
        block.put(text.as_bytes());
    }
    block
}

fn len(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The part of the connection's zlib stream that holds `block`: stored, and followed by an empty block, at which a reader
/// has all that came before it.
fn deflated(block: &[u8], is_first: bool) -> BytesMut {
    let mut deflated = BytesMut::with_capacity(block.len() + 12);
    if is_first {
        // Deflate with the usual window, no dictionary.
        deflated.put_slice(&[0x78, 0x01]);
    }
    for stored in [block, &[]] {
        // Not the last block, stored. Our headers are far from the 64 KiB that one can hold.
        deflated.put_u8(0);
        let length = u16::try_from(stored.len()).unwrap_or(u16::MAX);
        deflated.put_u16_le(length);
        deflated.put_u16_le(!length);
        deflated.put_slice(stored);
    }
    deflated
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames as a server writes them.
    fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = BytesMut::new();
        frame.put_u16(CONTROL | VERSION);
        frame.put_u16(kind);
        put_flags_and_length(&mut frame, false, payload.len());
        frame.put(payload);
        frame.to_vec()
    }

    /// Reads bytes of which no more than `step` come at a time.
    async fn read_all(bytes: &[u8], step: usize) -> Vec<Frame> {
        let (near, mut far) = tokio::io::duplex(step);
        let mut reader = Reader::new(near);
        let read = async {
            let mut frames = Vec::new();
            while let Some(frame) = reader.next().await.unwrap() {
                frames.push(frame);
            }
            frames
        };
        let write = async move { far.write_all(bytes).await.unwrap() };
        tokio::join!(read, write).0
    }

    #[tokio::test]
    async fn frames_are_read_however_they_arrive() {
        let mut bytes = control(SYN_REPLY, &[0, 0, 0, 1, 0x78, 0x9c]);
        bytes.extend(control(4, &[0; 12]));
        bytes.extend([0, 0, 0, 3, 0, 0, 0, 2, b'h', b'i']);
        bytes.extend([0, 0, 0, 3, FIN, 0, 0, 0]);
        bytes.extend(control(RST_STREAM, &[0, 0, 0, 5, 0, 0, 0, 5]));
        bytes.extend(control(GOAWAY, &[0; 8]));
        let data = |bytes: &'static str, last| Frame::Data {
            stream: 3,
            bytes: Bytes::from_static(bytes.as_bytes()),
            last,
        };
        let expect = [
            Frame::Reply { stream: 1 },
            data("hi", false),
            data("", true),
            Frame::Reset { stream: 5 },
            Frame::GoAway,
        ];
        for step in [1, 3, 1000] {
            assert_eq!(read_all(&bytes, step).await, expect, "{step} at a time");
        }
    }

    #[tokio::test]
    async fn a_frame_that_ends_early_or_is_too_large_is_an_error() {
        for (bytes, kind) in [
            (
                &[0, 0, 0, 3, 0, 0, 0, 2, b'h'][..],
                io::ErrorKind::UnexpectedEof,
            ),
            (&[0, 0, 0, 3, 0, 0xff, 0, 0][..], io::ErrorKind::InvalidData),
            (&control(SYN_REPLY, &[0, 1])[..], io::ErrorKind::InvalidData),
        ] {
            let error = Reader::new(bytes).next().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn streams_are_opened_with_headers_that_are_stored() {
        let mut written = Vec::new();
        let mut writer = Writer::new(&mut written);
        assert_eq!(writer.open(&[("a", "bc")], false).await.unwrap(), 1);
        assert_eq!(writer.open(&[], true).await.unwrap(), 3);
        let block = [0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 2, b'b', b'c'];
        let mut expect = vec![0x80, 3, 0, 1, 0, 0, 0, 10 + 2 + 5 + 15 + 5];
        expect.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x78, 0x01]);
        expect.extend([0, 15, 0, 0xf0, 0xff]);
        expect.extend(block);
        expect.extend([0, 0, 0, 0xff, 0xff]);
        expect.extend([0x80, 3, 0, 1, FIN, 0, 0, 10 + 5 + 4 + 5]);
        expect.extend([0, 0, 0, 3, 0, 0, 0, 0, 0, 0]);
        expect.extend([0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        expect.extend([0, 0, 0, 0xff, 0xff]);
        assert_eq!(written, expect);
    }

    #[tokio::test]
    async fn what_is_long_goes_in_several_frames_and_only_the_last_ends_the_stream() {
        let mut written = Vec::new();
        let mut writer = Writer::new(&mut written);
        let bytes = vec![7; MAX_DATA + 1];
        writer.data(5, &bytes, true).await.unwrap();
        writer.data(5, &[], false).await.unwrap();
        let frames = read_all(&written, 1 << 20).await;
        let lengths: Vec<_> = frames
            .iter()
            .map(|frame| match frame {
                Frame::Data { bytes, last, .. } => (bytes.len(), *last),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [(MAX_DATA, false), (1, true)]);
    }
}
