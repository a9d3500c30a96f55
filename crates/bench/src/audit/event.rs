use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

/// As much of an `audit.k8s.io/v1` Event as counting needs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    #[serde(borrow)]
    stage: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) verb: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) user: User<'a>,
    #[serde(borrow)]
    pub(super) object_ref: Option<ObjectRef<'a>>,
    response_status: Option<ResponseStatus>,
    pub(super) request_received_timestamp: Timestamp,
}

#[derive(Debug, Deserialize)]
pub(super) struct User<'a> {
    #[serde(borrow)]
    pub(super) username: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ObjectRef<'a> {
    #[serde(borrow, default)]
    pub(super) resource: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) subresource: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct ResponseStatus {
    code: Option<u16>,
}

impl Event<'_> {
    /// Whether this is the end of a request that asked for a change. One that was refused counts too: it cost the
    /// same.
    pub(super) fn is_write(&self) -> bool {
        self.stage == "ResponseComplete"
            && matches!(
                &*self.verb,
                "create" | "update" | "patch" | "delete" | "deletecollection"
            )
    }

    /// Whether the change was made.
    pub(super) fn succeeded(&self) -> bool {
        self.response_status
            .as_ref()
            .and_then(|status| status.code)
            .is_some_and(|code| code < 300)
    }
}

impl ObjectRef<'_> {
    /// `sandboxes/status`, or without a subresource `sandboxes`.
    pub(super) fn path(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}
