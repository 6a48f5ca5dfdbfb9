//! Grants: which user of a namespace may hear which `#` channel. Part of the hub.

use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::index::Named;
use super::{Hub, NsId};
use crate::arena::Id;

/// The right of a user to hear a `#` channel.
#[derive(Debug)]
pub(super) struct Grant {
    pub ns: NsId,
    pub channel: Box<str>,
    pub user: Box<str>,
}

/// A borrowed [`Grant`] of a namespace, for lookups.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GrantRef<'a> {
    pub channel: &'a str,
    pub user: &'a str,
}

impl Grant {
    fn as_ref(&self) -> GrantRef<'_> {
        GrantRef { channel: &self.channel, user: &self.user }
    }
}

impl Named for Grant {
    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one(self.as_ref())
    }
}

impl Hub {
    fn find_grant(&self, ns: NsId, grant: GrantRef<'_>) -> Option<Id<Grant>> {
        let table = &self.namespaces.get(ns)?.grants;
        let found = table.find(&self.grants, self.hash(grant), |it| it.as_ref() == grant);
        found.map(|(id, _)| id)
    }

    pub(super) fn is_granted(&self, ns: NsId, channel: &str, user: &str) -> bool {
        self.find_grant(ns, GrantRef { channel, user }).is_some()
    }

    /// Adds a grant. Returns whether it is new.
    pub(super) fn admit(&mut self, ns: NsId, channel: Box<str>, user: Box<str>) -> bool {
        if self.is_granted(ns, &channel, &user) {
            return false;
        }
        let Some(space) = self.namespaces.get_mut(ns) else { return false };
        let id = self.grants.insert(Grant { ns, channel, user });
        space.grants.insert(&self.grants, id, &self.hasher);
        self.grant_count += 1;
        true
    }

    /// Removes a grant. Returns whether there was one.
    pub(super) fn drop_grant(&mut self, ns: NsId, grant: GrantRef<'_>) -> bool {
        let Some(id) = self.find_grant(ns, grant) else { return false };
        if let Some(space) = self.namespaces.get_mut(ns) {
            space.grants.remove(&self.grants, id, &self.hasher);
            self.grant_count -= 1;
        }
        self.grants.remove(id).is_some()
    }
}
