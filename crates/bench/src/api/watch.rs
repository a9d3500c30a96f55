use std::marker::PhantomData;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;
use tokio::time::{sleep_until, timeout};

use super::call::{CallError, fetch};
use super::object::{Meta, Object};

const LIST_LIMIT: Duration = Duration::from_secs(60);
const OPEN_LIMIT: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_millis(200);
const ATTEMPTS: u32 = 20;

/// Why a watch cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("cannot list {path}")]
    List { path: String, source: CallError },
    #[error("cannot watch {path} after {attempts} attempts")]
    Open {
        path: String,
        attempts: u32,
        source: CallError,
    },
    /// Events are missing from here on (410 and the like): no measurement can stand on it.
    #[error("the watch of {path} was ended by the server: {message}")]
    Ended { path: String, message: String },
    #[error("the watch of {path} sent something that is no event: {line}")]
    Line {
        path: String,
        line: String,
        source: serde_json::Error,
    },
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One event of a watch.
#[derive(Debug)]
pub(crate) struct Event<T> {
    /// When its last byte was read from the connection, before anything was parsed.
    pub(crate) at: Instant,
    pub(crate) change: Change,
    pub(crate) object: T,
}

/// An event without its instant; `None`: a bookmark.
type Changed<Status, Spec> = Option<(Change, Object<Status, Spec>)>;

/// A watch that is resumed where it ended.
pub(crate) struct Watch<Status, Spec = IgnoredAny> {
    client: Client,
    path: String,
    query: String,
    version: String,
    lines: Option<Lines>,
    failures: u32,
    retry_at: Option<Instant>,
    /// How often it had to be opened again.
    pub(crate) restarts: u32,
    object: PhantomData<(Status, Spec)>,
}

impl<Status: DeserializeOwned, Spec: DeserializeOwned> Watch<Status, Spec> {
    /// Lists what is there and opens a watch that goes on from it. `query` selects (`labelSelector=…`), may be empty.
    pub(crate) async fn start(
        client: Client,
        path: &str,
        query: &str,
    ) -> Result<(Vec<Object<Status, Spec>>, Self), WatchError> {
        #[derive(Deserialize)]
        struct List<T> {
            metadata: Meta,
            items: Vec<T>,
        }
        let list: List<Object<Status, Spec>> =
            fetch(&client, &format!("{path}?{query}"), LIST_LIMIT)
                .await
                .map_err(|source| WatchError::List {
                    path: path.to_owned(),
                    source,
                })?;
        let mut watch = Self {
            client,
            path: path.to_owned(),
            query: query.to_owned(),
            version: list.metadata.resource_version,
            lines: None,
            failures: 0,
            retry_at: None,
            restarts: 0,
            object: PhantomData,
        };
        watch.open().await.map_err(|source| WatchError::Open {
            path: path.to_owned(),
            attempts: 1,
            source,
        })?;
        Ok((list.items, watch))
    }

    /// The next event. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Event<Object<Status, Spec>>, WatchError> {
        loop {
            let (line, at) = self.line().await?;
            if let Some((change, object)) = self.parse(&line)? {
                return Ok(Event { at, change, object });
            }
        }
    }

    async fn line(&mut self) -> Result<(Bytes, Instant), WatchError> {
        loop {
            if let Some(lines) = &mut self.lines {
                if let Some(line) = lines.next().await {
                    self.failures = 0;
                    return Ok(line);
                }
                self.lines = None;
                self.restarts += 1;
            }
            if let Some(at) = self.retry_at {
                sleep_until(at.into()).await;
            }
            if let Err(source) = self.open().await {
                self.failures += 1;
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
                if self.failures >= ATTEMPTS {
                    return Err(WatchError::Open {
                        path: self.path.clone(),
                        attempts: self.failures,
                        source,
                    });
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(), CallError> {
        let Self {
            path,
            query,
            version,
            ..
        } = self;
        let uri =
            format!("{path}?{query}&watch=true&allowWatchBookmarks=true&resourceVersion={version}");
        let request = Request::builder()
            .method(Method::GET)
            .uri(uri)
            .body(Body::empty());
        let request =
            request.map_err(|error| CallError::Transport(kube::Error::HttpError(error)))?;
        let response = timeout(OPEN_LIMIT, self.client.send(request))
            .await
            .map_err(|_| CallError::Late(OPEN_LIMIT))?
            .map_err(CallError::Transport)?;
        let status = response.status();
        if !status.is_success() {
            return Err(CallError::Refused {
                code: status.as_u16(),
                message: status.to_string(),
            });
        }
        self.lines = Some(Lines::new(response.into_body()));
        Ok(())
    }

    fn parse(&mut self, line: &[u8]) -> Result<Changed<Status, Spec>, WatchError> {
        #[derive(Deserialize)]
        struct Frame<'a> {
            #[serde(rename = "type")]
            kind: &'a str,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        let malformed = |source| WatchError::Line {
            path: self.path.clone(),
            line: String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned(),
            source,
        };
        let frame: Frame<'_> = serde_json::from_slice(line).map_err(malformed)?;
        let text = frame.object.get();
        let change = match frame.kind {
            "ADDED" => Change::Added,
            "MODIFIED" => Change::Modified,
            "DELETED" => Change::Deleted,
            "BOOKMARK" => {
                let mark: Object<IgnoredAny> = serde_json::from_str(text).map_err(malformed)?;
                self.version = mark.metadata.resource_version;
                return Ok(None);
            }
            _ => {
                return Err(WatchError::Ended {
                    path: self.path.clone(),
                    message: text.to_owned(),
                });
            }
        };
        let object: Object<Status, Spec> = serde_json::from_str(text).map_err(malformed)?;
        self.version.clone_from(&object.metadata.resource_version);
        Ok(Some((change, object)))
    }
}

/// A response body cut into lines.
#[derive(Debug)]
struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    received: Instant,
}

impl Lines {
    fn new(body: Body) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            received: Instant::now(),
        }
    }

    /// The next line with the arrival of its last byte; `None` when the stream has ended, for whatever reason.
    async fn next(&mut self) -> Option<(Bytes, Instant)> {
        loop {
            if let Some(offset) = self.buffer[self.searched..]
                .iter()
                .position(|&byte| byte == b'\n')
            {
                let line = self.buffer.split_to(self.searched + offset).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Some((line, self.received));
            }
            self.searched = self.buffer.len();
            let frame = self.body.frame().await?.ok()?;
            self.received = Instant::now();
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(text: &'static str) -> Vec<String> {
        let mut lines = Lines::new(Body::from(Bytes::from_static(text.as_bytes())));
        let mut found = Vec::new();
        while let Some((line, _)) = lines.next().await {
            found.push(String::from_utf8(line.to_vec()).unwrap());
        }
        found
    }

    #[tokio::test]
    async fn a_body_is_cut_at_line_ends_and_an_unfinished_line_is_dropped() {
        for (text, expect) in [
            ("", vec![]),
            ("a\nbc\n", vec!["a", "bc"]),
            ("a\nhalf", vec!["a"]),
            ("\n\n", vec!["", ""]),
        ] {
            assert_eq!(lines_of(text).await, expect, "{text:?}");
        }
    }
}
