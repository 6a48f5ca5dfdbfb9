//! The one way in which what is recorded changes.

use std::hash::BuildHasher;

use super::state::{State, Value};
use super::{Change, Entry, Grant, GrantRef, Hub, Namespace, NsId, Outbox, Outcome, PeerId, Place};
use super::{Refusal, UnixMillis};
use crate::arena::Id;
use crate::publication::Publication;
use crate::reason::CloseReason;
use crate::uuid::Uuid;

/// Whom a message goes to, among the subscribers of a channel.
#[derive(Clone, Copy, Default)]
struct Audience<'a> {
    user: Option<&'a str>,
    except: Option<Uuid>,
}

impl Hub {
    /// Whether a change could be applied as things stand: asked before it is ordered, so that what
    /// is certain to fail is never recorded. What is ordered in between may still refuse it.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check(&self, change: &Change, at: UnixMillis) -> Result<(), Refusal> {
        let ns = match change {
            Change::Register { name, .. } => {
                let (taken, max) = (self.namespaces.len(), self.limits.namespaces);
                return match self.namespace(name) {
                    Some(_) => Err(Refusal::NameTaken),
                    None if taken >= max => Err(Refusal::TooMany("name spaces", max)),
                    None => Ok(()),
                };
            }
            Change::Remove { ns }
            | Change::Rotate { ns, .. }
            | Change::Grant { ns, .. }
            | Change::Revoke { ns, .. }
            | Change::Set { ns, .. }
            | Change::Push { ns, .. }
            | Change::Emit { ns, .. }
            | Change::Disconnect { ns, .. } => *ns,
        };
        let gone = match change {
            Change::Remove { .. } | Change::Rotate { .. } => Refusal::NoNamespace,
            _ => Refusal::Gone,
        };
        let space = self.namespaces.get(ns).ok_or(gone)?;
        match change {
            Change::Grant { channel, user, .. } => {
                let max = self.limits.grants_per_namespace;
                let grant = GrantRef { channel, user };
                let is_full = space.grants.len() >= max && !space.grants.contains(&grant);
                if is_full { Err(Refusal::TooMany("grants", max)) } else { Ok(()) }
            }
            Change::Set { place, data, .. } if &**data != "null" => {
                self.check_state(space, self.live_state(ns, place, at), data)
            }
            Change::Push { place, data, .. } => {
                let state = self.live_state(ns, place, at);
                if state.is_some_and(|state| !state.value.is_list()) {
                    return Err(Refusal::NotAList);
                }
                // The list around the element takes two bytes more.
                let max = self.limits.state_bytes;
                if data.len() + 2 > max {
                    return Err(Refusal::StateTooLarge(max));
                }
                self.check_state(space, state, data)
            }
            _ => Ok(()),
        }
    }

    fn check_state(
        &self,
        space: &Namespace,
        state: Option<&State>,
        data: &str,
    ) -> Result<(), Refusal> {
        let (max, bytes_max) = (self.limits.states_per_namespace, self.limits.state_bytes);
        if data.len() > bytes_max {
            Err(Refusal::StateTooLarge(bytes_max))
        } else if state.is_none() && space.states.len() >= max {
            Err(Refusal::TooMany("states", max))
        } else {
            Ok(())
        }
    }

    fn live_state(&self, ns: NsId, place: &Place, at: UnixMillis) -> Option<&State> {
        let id = self.find_state(ns, &place.channel, place.user.as_deref())?;
        self.states.get(id).filter(|state| state.expires.is_none_or(|end| at < end))
    }

    /// Applies one entry: changes what is recorded, and tells the outbox who hears of it.
    ///
    /// # Errors
    /// [`Refusal`], if what was ordered before it stands in its way; nothing has changed then.
    pub fn apply(&mut self, entry: Entry, out: &mut impl Outbox) -> Result<Outcome, Refusal> {
        self.advance(entry.at);
        self.check(&entry.change, entry.at)?;
        match entry.change {
            Change::Register { name, key } => Ok(self.register(name, key)),
            Change::Remove { ns } => Ok(self.remove(ns, out)),
            Change::Rotate { ns, key, grace_ms } => {
                Ok(self.rotate(ns, key, entry.at.plus(grace_ms)))
            }
            Change::Grant { ns, channel, user } => {
                if let Some(space) = self.namespaces.get_mut(ns) {
                    space.grants.insert(Grant { channel, user });
                }
                Ok(Outcome::Done)
            }
            Change::Revoke { ns, channel, user } => Ok(self.revoke(ns, &channel, &user)),
            Change::Set { ns, place, data, ttl_ms, emit } => {
                if emit {
                    let to = Audience { user: place.user.as_deref(), except: None };
                    self.publish(ns, &place.channel, &data, to, out);
                }
                let expires = ttl_ms.map(|ttl| entry.at.plus(ttl));
                let value = (&*data != "null").then_some(Value::Json(data));
                self.set(ns, place, value, expires);
                Ok(Outcome::Done)
            }
            Change::Push { ns, place, data, ttl_ms, emit } => {
                if emit {
                    let to = Audience { user: place.user.as_deref(), except: None };
                    self.publish(ns, &place.channel, &data, to, out);
                }
                self.push(ns, place, data, ttl_ms.map(|ttl| entry.at.plus(ttl)));
                Ok(Outcome::Done)
            }
            Change::Emit { ns, channels, data, user, except } => {
                let to = Audience { user: user.as_deref(), except };
                Ok(Outcome::Reached(self.emit(ns, &channels, &data, to, out)))
            }
            Change::Disconnect { ns, user } => {
                let peers = self.find_user(ns, &user).and_then(|id| self.users.get(id));
                let peers = peers.map_or(Vec::new(), |user| user.peers.clone());
                Ok(Outcome::Reached(self.let_go(peers, CloseReason::Disconnected, out)))
            }
        }
    }

    fn register(&mut self, name: Box<str>, key: Box<str>) -> Outcome {
        let (hash, outcome) = (self.hash(&*name), Outcome::Key(key.clone()));
        let id = self.namespaces.insert(Namespace {
            name,
            key,
            old_key: None,
            key_epoch: 0,
            channels: Default::default(),
            users: Default::default(),
            states: Default::default(),
            grants: Default::default(),
        });
        let (namespaces, hasher) = (&self.namespaces, &self.hasher);
        let rehash = |id| hasher.hash_one(namespaces.get(id).map_or("", |ns| &ns.name));
        self.names.insert(hash, id, rehash);
        outcome
    }

    fn remove(&mut self, ns: NsId, out: &mut impl Outbox) -> Outcome {
        // By the arenas, whose order is that of the slots; that of the tables is chance.
        let peers = self.peers.iter().filter(|(_, peer)| peer.ns == ns).map(|(id, _)| id).collect();
        let closed = self.let_go(peers, CloseReason::NamespaceRemoved, out);
        let states: Vec<Id<State>> =
            self.states.iter().filter(|(_, state)| state.ns == ns).map(|(id, _)| id).collect();
        states.into_iter().for_each(|id| self.drop_state(id));
        if let Some(space) = self.namespaces.remove(ns) {
            self.names.remove(self.hash(&*space.name), ns);
        }
        Outcome::Reached(closed)
    }

    fn rotate(&mut self, ns: NsId, key: Box<str>, grace_until: UnixMillis) -> Outcome {
        if let Some(space) = self.namespaces.get_mut(ns) {
            let old = std::mem::replace(&mut space.key, key.clone());
            space.old_key = Some((old, grace_until));
            space.key_epoch = space.key_epoch.wrapping_add(1);
        }
        Outcome::Key(key)
    }

    fn revoke(&mut self, ns: NsId, channel: &str, user: &str) -> Outcome {
        let Some(space) = self.namespaces.get_mut(ns) else { return Outcome::Done };
        space.grants.remove(&GrantRef { channel, user });
        let channel = self.find_channel(ns, channel);
        let user = self.find_user(ns, user).and_then(|id| self.users.get(id));
        if let (Some(channel), Some(user)) = (channel, user) {
            for peer in user.peers.clone() {
                self.leave(peer, channel);
            }
        }
        Outcome::Done
    }

    fn set(&mut self, ns: NsId, place: Place, value: Option<Value>, expires: Option<UnixMillis>) {
        let id = self.find_state(ns, &place.channel, place.user.as_deref());
        match (id, value) {
            (Some(id), Some(value)) => {
                if let Some(state) = self.states.get_mut(id) {
                    state.value = value;
                }
                self.end_at(id, expires);
            }
            (Some(id), None) => self.drop_state(id),
            (None, Some(value)) => {
                let hash = self.hash((&*place.channel, place.user.as_deref()));
                let Place { channel, user } = place;
                let state = State { ns, channel, user, value, expires: None, timer: None };
                let Some(space) = self.namespaces.get_mut(ns) else { return };
                let id = self.states.insert(state);
                let (states, hasher) = (&self.states, &self.hasher);
                space.states.insert(hash, id, |id| {
                    let state = states.get(id);
                    hasher.hash_one(state.map_or(("", None), |s| (&*s.channel, s.user.as_deref())))
                });
                self.end_at(id, expires);
            }
            (None, None) => {}
        }
    }

    /// Gives a state its end in place of the one before.
    fn end_at(&mut self, id: Id<State>, expires: Option<UnixMillis>) {
        let Some(state) = self.states.get_mut(id) else { return };
        if let Some(timer) = state.timer.take() {
            self.ends.cancel(timer);
        }
        state.expires = expires;
        state.timer = expires.map(|end| self.ends.insert(end.0, id));
    }

    fn push(&mut self, ns: NsId, place: Place, data: Box<str>, expires: Option<UnixMillis>) {
        let (items, bytes) = (self.limits.list_items, self.limits.state_bytes);
        match self.find_state(ns, &place.channel, place.user.as_deref()) {
            None => {
                let mut list = super::state::List::default();
                list.push(data);
                self.set(ns, place, Some(Value::List(Box::new(list))), expires);
            }
            Some(id) => {
                if let Some(list) = self.states.get_mut(id).and_then(|s| s.value.as_list()) {
                    list.push(data);
                    list.bound(items, bytes);
                }
                self.end_at(id, expires);
            }
        }
    }

    /// Publishes on several channels; returns how many connections were reached. One that is in
    /// two of them gets two messages and counts once.
    fn emit(
        &self,
        ns: NsId,
        channels: &[Box<str>],
        data: &str,
        to: Audience<'_>,
        out: &mut impl Outbox,
    ) -> usize {
        if let [channel] = channels {
            return self.publish(ns, channel, data, to, out);
        }
        struct Noted<'a, O>(&'a mut O, Vec<PeerId>);
        impl<O: Outbox> Outbox for Noted<'_, O> {
            fn deliver(&mut self, peer: PeerId, publication: &Publication<'_>) {
                self.1.push(peer);
                self.0.deliver(peer, publication);
            }
            fn close(&mut self, peer: PeerId, reason: CloseReason) {
                self.0.close(peer, reason);
            }
        }
        let mut noted = Noted(out, Vec::new());
        for channel in channels {
            self.publish(ns, channel, data, to, &mut noted);
        }
        noted.1.sort_unstable();
        noted.1.dedup();
        noted.1.len()
    }

    /// Hands a message to the subscribers of a channel; returns how many it was handed to.
    fn publish(
        &self,
        ns: NsId,
        channel: &str,
        data: &str,
        to: Audience<'_>,
        out: &mut impl Outbox,
    ) -> usize {
        let Some(id) = self.find_channel(ns, channel) else { return 0 };
        let Some(members) = self.channels.get(id).map(|channel| &channel.members) else { return 0 };
        let publication = Publication::new(channel, data);
        let is_meant = |peer: PeerId| {
            to.except.is_none_or(|cid| self.peers.get(peer).is_some_and(|p| p.cid != cid))
        };
        let mut reached = 0;
        let mut deliver = |peer| {
            if is_meant(peer) {
                out.deliver(peer, &publication);
                reached += 1;
            }
        };
        match to.user {
            None => members.iter().for_each(|member| deliver(member.peer)),
            Some(user) => {
                let user = self.find_user(ns, user).and_then(|id| self.users.get(id));
                let peers = user.map_or(&[][..], |user| &user.peers);
                peers.iter().filter(|peer| self.is_member(**peer, id)).for_each(|p| deliver(*p));
            }
        }
        reached
    }

    fn let_go(&mut self, peers: Vec<PeerId>, reason: CloseReason, out: &mut impl Outbox) -> usize {
        for peer in &peers {
            self.disconnect(*peer);
            out.close(*peer, reason);
        }
        peers.len()
    }
}
