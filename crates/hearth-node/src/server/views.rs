use std::collections::HashSet;
use std::sync::Arc;

use hearth_core::attachments::Attachment;
use hearth_core::effects::ConfigKey;
use hearth_core::ids::{Key, SandboxUid};
use hearth_core::podspec::Config;
use hearth_core::volumes::Location;

use crate::binder::MemberPods;
use crate::pod::{Changes, PodManager, PodView};
use crate::volumes::OwnVolumes;

/// What a session needs of the pods.
pub trait SessionPods: MemberPods {
    /// Names the sandboxes that changed.
    type Changes: NextChange;

    /// What is known of all sandboxes.
    fn views(&self) -> Vec<Arc<PodView>>;

    /// Subscribes to changes.
    fn changes(&self) -> Self::Changes;

    /// All the ConfigMaps and Secrets that are needed.
    fn keep_configs(&self, keys: &HashSet<ConfigKey>);

    /// What one of them holds.
    fn set_config(&self, key: ConfigKey, config: Option<Arc<Config>>);

    /// One of them is not needed any more.
    fn forget_config(&self, key: &ConfigKey);

    /// All the PersistentVolumeClaims that are used.
    fn keep_locations(&self, claims: &HashSet<Key>);

    /// Where the volume of one of them is.
    fn set_location(&self, claim: Key, location: Option<Location>);

    /// One of them is not used any more.
    fn forget_location(&self, claim: &Key);

    /// All the sandboxes of which the controller has anything to say for their status.
    fn keep_attachments(&self, sandboxes: HashSet<SandboxUid>);

    /// What it has to say of one; `None`: nothing.
    fn set_attachment(&self, uid: SandboxUid, attachment: Option<Attachment>);

    /// The volumes that were made on this node.
    fn volumes(&self) -> &OwnVolumes;
}

/// A coalesced stream of changes.
pub trait NextChange: Send + 'static {
    /// Waits for a change and names the sandbox. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = SandboxUid> + Send;
}

impl SessionPods for PodManager {
    type Changes = Changes;

    fn views(&self) -> Vec<Arc<PodView>> {
        Self::views(self)
    }

    fn changes(&self) -> Changes {
        Self::changes(self)
    }

    fn keep_configs(&self, keys: &HashSet<ConfigKey>) {
        Self::keep_configs(self, keys);
    }

    fn set_config(&self, key: ConfigKey, config: Option<Arc<Config>>) {
        Self::set_config(self, key, config);
    }

    fn forget_config(&self, key: &ConfigKey) {
        Self::forget_config(self, key);
    }

    fn keep_locations(&self, claims: &HashSet<Key>) {
        Self::keep_locations(self, claims);
    }

    fn set_location(&self, claim: Key, location: Option<Location>) {
        Self::set_location(self, claim, location);
    }

    fn forget_location(&self, claim: &Key) {
        Self::forget_location(self, claim);
    }

    fn keep_attachments(&self, sandboxes: HashSet<SandboxUid>) {
        Self::keep_attachments(self, sandboxes);
    }

    fn set_attachment(&self, uid: SandboxUid, attachment: Option<Attachment>) {
        Self::set_attachment(self, uid, attachment);
    }

    fn volumes(&self) -> &OwnVolumes {
        Self::volumes(self)
    }
}

impl NextChange for Changes {
    async fn next(&mut self) -> SandboxUid {
        Self::next(self).await
    }
}
