//! The kinds of objects that the controller watches, and how each of them comes to the index.
//!
//! Pods of the controller before this one would be one more line in each of these tables.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::effects::{Now, Object, Outcome, Subject};
use crate::ids::Key;
use crate::index::Index;
use crate::services::{ServiceRecord, SliceRecord};
use crate::templates::PolicyRecord;
use crate::volumes::{Pv, Pvc};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::index) enum Kind {
    Claim,
    Sandbox,
    Pool,
    Template,
    Policy,
    Service,
    /// An EndpointSlice. There are none but ours.
    Slice,
    Pvc,
    /// Its key has no namespace.
    Pv,
}

impl Kind {
    pub(in crate::index) const ALL: [Self; 9] = [
        Self::Claim,
        Self::Sandbox,
        Self::Pool,
        Self::Template,
        Self::Policy,
        Self::Service,
        Self::Slice,
        Self::Pvc,
        Self::Pv,
    ];

    /// The kind of what a write is about.
    pub(super) fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Claim(_) => Self::Claim,
            Subject::Sandbox(_) => Self::Sandbox,
            Subject::Pool(_) => Self::Pool,
            Subject::Template(_) => Self::Template,
            Subject::NetworkPolicy(_) => Self::Policy,
            Subject::Service(_) => Self::Service,
            Subject::EndpointSlice(_) => Self::Slice,
            Subject::VolumeClaim(_) => Self::Pvc,
            Subject::Volume(_) => Self::Pv,
            Subject::Pod(_) => panic!("nothing here has a {subject:?}"),
        }
    }

    /// The watch shows an object.
    pub(super) fn apply(self, index: &mut Index, object: Value, now: Now) {
        let key = key_of(&object);
        match self {
            Self::Claim => index.apply_claim(read(object), now),
            Self::Sandbox => index.apply_sandbox(read(object), now),
            Self::Pool => index.apply_pool(read(object), now),
            Self::Template => index.apply_template(read(object), now),
            Self::Policy => index.apply_kept(&key, PolicyRecord::of(read(object)), now),
            Self::Service => index.apply_kept(&key, ServiceRecord::of(read(object)), now),
            Self::Slice => index.apply_kept(&key, SliceRecord::of(read(object)), now),
            Self::Pvc => index.apply_pvc(key, Pvc::of(read(object)), now),
            Self::Pv => index.apply_pv(Pv::of(read(object)), now),
        }
    }

    /// The watch shows the end of one.
    pub(super) fn delete(self, index: &mut Index, key: &Key, uid: &str, now: Now) {
        match self {
            Self::Claim => index.delete_claim(key, uid, now),
            Self::Sandbox => index.delete_sandbox(key, uid, now),
            Self::Pool => index.delete_pool(key, uid, now),
            Self::Template => index.delete_template(key, uid, now),
            Self::Policy => index.delete_kept::<PolicyRecord>(key, uid, now),
            Self::Service => index.delete_kept::<ServiceRecord>(key, uid, now),
            Self::Slice => index.delete_kept::<SliceRecord>(key, uid, now),
            Self::Pvc => index.delete_pvc(key, uid, now),
            Self::Pv => index.delete_pv(&key.name, uid, now),
        }
    }

    /// The watch begins anew, and these are all that it shows.
    pub(super) fn retain(self, index: &mut Index, present: &HashSet<Key>, now: Now) {
        match self {
            Self::Claim => index.retain_claims(present, now),
            Self::Sandbox => index.retain_sandboxes(present, now),
            Self::Pool => index.retain_pools(present, now),
            Self::Template => index.retain_templates(present, now),
            Self::Policy => index.retain_kept::<PolicyRecord>(present, now),
            Self::Service => index.retain_kept::<ServiceRecord>(present, now),
            Self::Slice => index.retain_kept::<SliceRecord>(present, now),
            Self::Pvc => index.retain_pvcs(present, now),
            Self::Pv => {
                let names = present.iter().map(|key| key.name.clone()).collect();
                index.retain_pvs(&names, now);
            }
        }
    }

    /// What the controller hears of a write that made this.
    pub(super) fn done(self, object: Value) -> Outcome {
        let key = key_of(&object);
        let object = match self {
            Self::Claim => Object::Claim(read(object)),
            Self::Sandbox => Object::Sandbox(read(object)),
            // Of pools nothing comes back.
            Self::Pool => return Outcome::Done(None),
            Self::Template => Object::Template(read(object)),
            Self::Policy => Object::NetworkPolicy(key, PolicyRecord::of(read(object))),
            Self::Service => Object::Service(key, ServiceRecord::of(read(object))),
            Self::Slice => Object::EndpointSlice(key, SliceRecord::of(read(object))),
            Self::Pvc => Object::VolumeClaim(key, Pvc::of(read(object))),
            Self::Pv => Object::Volume(Pv::of(read(object))),
        };
        Outcome::Done(Some(Box::new(object)))
    }
}

fn read<T: DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

pub(super) fn key_of(object: &Value) -> Key {
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    Key::new(text("namespace"), text("name"))
}
