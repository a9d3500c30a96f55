//! Why a claim gets no Sandbox.

use hearth_api::constants::reason;

use crate::status::error_seen;

/// A reason and text for the claim's Ready condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Whether only a change of the claim, the pool or the template can help.
    pub(super) is_final: bool,
}

impl Refusal {
    /// An error that is tried again after a while.
    pub(super) fn error(fault: impl std::fmt::Display) -> Self {
        Self {
            reason: reason::RECONCILER_ERROR,
            message: error_seen(&fault.to_string()),
            is_final: false,
        }
    }

    pub(super) fn env(message: impl Into<String>) -> Self {
        Self::lasting(reason::ENV_VARS_INJECTION_REJECTED, message)
    }

    pub(super) fn volumes(message: impl Into<String>) -> Self {
        Self::lasting(reason::VOLUME_CLAIM_TEMPLATES_ERROR, message)
    }

    pub(super) fn metadata(message: impl Into<String>) -> Self {
        Self::lasting(reason::INVALID_METADATA, message)
    }

    pub(super) fn no_pool(name: &str) -> Self {
        Self::lasting(
            reason::WARM_POOL_NOT_FOUND,
            format!("SandboxWarmPool \"{name}\" not found"),
        )
    }

    pub(super) fn no_template(name: &str) -> Self {
        Self::lasting(
            reason::TEMPLATE_NOT_FOUND,
            format!("SandboxTemplate \"{name}\" not found"),
        )
    }

    /// The claim has its Sandbox, but nothing says whether what it adds may be added.
    pub(super) fn no_template_to_follow(name: &str) -> Self {
        let missing = Self::no_template(name);
        Self {
            message: format!(
                "failed to get template for metadata propagation: {}",
                missing.message
            ),
            ..missing
        }
    }

    fn lasting(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            is_final: true,
        }
    }
}
