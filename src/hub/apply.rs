//! Applies ordered changes: the one way by which commands change what is recorded.

use std::borrow::Cow;

use super::grants::GrantRef;
use super::record::{Before, Key, KeyRef, Undo};
use super::share::Total;
use super::state::{State, Value};
use super::{Change, ChannelId, Hub, Namespace, NsId, Outbox, Outcome, Peer};
use super::{PeerId, Refusal, StateKeyRef, UnixMillis};
use crate::arena::Id;
use crate::publication::Publication;
use crate::uuid::Uuid;

/// Expired states that are dropped with one entry, at most.
const ENDS_PER_ENTRY: usize = 16;

/// What a check found. Valid until the hub changes in any way other than by states that expire.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    /// The state at the place of the change, if there is one; it may have expired.
    state: Option<Id<State>>,
    /// The channel of a message to a single one, if anybody is in it.
    channel: Option<ChannelId>,
}

impl Checked {
    /// The namespace of a message to a channel that nobody is in: applying it does nothing.
    #[inline]
    pub fn unheard_in(&self, change: &Change<'_>) -> Option<NsId> {
        match change {
            Change::Emit { ns, channels, .. } if channels.len() == 1 && self.channel.is_none() => {
                Some(*ns)
            }
            _ => None,
        }
    }
}

/// Which of the subscribers of a channel a message is for.
#[derive(Clone, Copy, Default)]
struct Audience<'a> {
    user: Option<&'a str>,
    except: Option<Uuid>,
}

impl Hub {
    /// Checks whether a change could be applied now. Called before the change is ordered, so that
    /// what is certain to fail is never recorded; what is ordered in between may still refuse it.
    ///
    /// # Errors
    /// [`Refusal`]
    #[inline]
    pub fn check(&self, change: &Change<'_>, at: UnixMillis) -> Result<Checked, Refusal> {
        match change {
            // A message fails only if its namespace is gone.
            Change::Emit { ns, channels, .. } if self.namespaces.contains(*ns) => {
                let only = if let [channel] = &**channels { Some(channel) } else { None };
                let found = only.and_then(|channel| self.find_channel(*ns, channel));
                Ok(Checked { channel: found.map(|(id, _)| id), ..Checked::default() })
            }
            _ => self.look_into(change, at),
        }
    }

    fn look_into(&self, change: &Change<'_>, at: UnixMillis) -> Result<Checked, Refusal> {
        let ns = match change {
            Change::Register { name, .. } => {
                let (taken, max) = (self.namespaces.len(), self.limits.namespaces);
                return match self.namespace(name) {
                    Some(_) => Err(Refusal::NameTaken),
                    None if taken >= max => Err(Refusal::TooMany("name spaces", max)),
                    None => Ok(Checked::default()),
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
                if self.is_granted(ns, channel, user) {
                    return Ok(Checked::default());
                }
                if space.grants.len() >= max {
                    return Err(Refusal::TooMany("grants", max));
                }
                let (most, taken, own) = (self.limits.grants, self.grant_count, space.grants.len());
                Total { what: "grants in all", most, taken, own }.check(1)?;
                Ok(Checked::default())
            }
            Change::Set { channel, user, data, .. } if &**data != "null" => {
                let state_key = StateKeyRef { channel, user: user.as_deref() };
                let (found, state) = self.live_state(ns, state_key, at);
                let before = state.map_or(0, State::bytes);
                let bytes = (state_key.bytes() + data.len()).saturating_sub(before);
                self.check_state(space, state.is_none(), data, bytes)?;
                Ok(Checked { state: found, ..Checked::default() })
            }
            Change::Push { channel, user, data, .. } => {
                let state_key = StateKeyRef { channel, user: user.as_deref() };
                self.check_push((ns, space), state_key, data, at)
            }
            _ => Ok(Checked::default()),
        }
    }

    /// Checks whether an element can be appended to the list at a place.
    fn check_push(
        &self,
        (ns, space): (NsId, &Namespace),
        state_key: StateKeyRef<'_>,
        data: &str,
        at: UnixMillis,
    ) -> Result<Checked, Refusal> {
        let (found, state) = self.live_state(ns, state_key, at);
        if state.is_some_and(|state| !state.value.is_list()) {
            return Err(Refusal::NotAList);
        }
        // A list of this one element takes two bytes more.
        let max = self.limits.state_bytes;
        if data.len() + 2 > max {
            return Err(Refusal::StateTooLarge(max));
        }
        // If there is no room for more, a push still fits when it drops as much at the front.
        let bytes = match state {
            Some(_) => data.len() + 1,
            None => state_key.bytes() + data.len() + 2,
        };
        let grows =
            |state: &State| !state.value.stays_as_short(data.len(), self.limits.list_items, max);
        let room = self.check_state(space, state.is_none(), data, bytes);
        if room.is_err() && state.is_none_or(grows) {
            room?;
        }
        Ok(Checked { state: found, ..Checked::default() })
    }

    /// Checks whether there is room for a state that takes `bytes` more bytes.
    fn check_state(
        &self,
        space: &Namespace,
        is_new: bool,
        data: &str,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let limits = &self.limits;
        if data.len() > limits.state_bytes {
            return Err(Refusal::StateTooLarge(limits.state_bytes));
        }
        if is_new {
            let (own, max) = (space.states.len(), limits.states_per_namespace);
            if own >= max {
                return Err(Refusal::TooMany("states", max));
            }
            let (most, taken) = (limits.states, self.states.len());
            Total { what: "states in all", most, taken, own }.check(1)?;
        }
        if bytes > 0 {
            let (own, max) = (space.states_bytes, limits.states_bytes_per_namespace);
            if own + bytes > max {
                return Err(Refusal::TooMany("bytes of states", max));
            }
            let (most, taken) = (limits.states_bytes, self.states_bytes);
            Total { what: "bytes of states in all", most, taken, own }.check(bytes)?;
        }
        Ok(())
    }

    /// The state at a place: its id, and its value unless it has expired.
    #[inline]
    fn live_state(
        &self,
        ns: NsId,
        state_key: StateKeyRef<'_>,
        at: UnixMillis,
    ) -> (Option<Id<State>>, Option<&State>) {
        let (id, state) = self.find_state(ns, state_key).unzip();
        (id, state.filter(|state| state.lives(at)))
    }

    /// Applies a change that was ordered at the time `at`: updates what is recorded, and hands the
    /// messages that follow from it to the outbox. `checked` comes from [`Hub::check`] for the same
    /// time, with nothing in between; without it the change is checked first.
    ///
    /// # Errors
    /// [`Refusal`], if a change ordered before it prevents it; nothing has changed then.
    pub fn apply(
        &mut self,
        at: UnixMillis,
        change: &Change<'_>,
        checked: Option<Checked>,
        out: &mut impl Outbox,
    ) -> Result<Outcome, Refusal> {
        self.advance(at, ENDS_PER_ENTRY, out);
        let checked = match checked {
            // The state may have been dropped just now.
            Some(checked) => {
                Checked { state: checked.state.filter(|id| self.states.contains(*id)), ..checked }
            }
            None => self.check(change, at)?,
        };
        Ok(self.carry_out(at, change, checked, out))
    }

    fn carry_out(
        &mut self,
        at: UnixMillis,
        change: &Change<'_>,
        checked: Checked,
        out: &mut impl Outbox,
    ) -> Outcome {
        match change {
            Change::Register { name, key } => self.register(name, key, out),
            Change::Remove { ns } => self.remove(*ns, out),
            Change::Rotate { ns, key, grace_ms } => self.rotate(*ns, key, at.plus(*grace_ms), out),
            Change::Grant { ns, channel, user } => {
                self.grant(*ns, channel, user, out);
                Outcome::Done
            }
            Change::Revoke { ns, channel, user } => {
                self.revoke(*ns, channel, user, out);
                Outcome::Done
            }
            Change::Set { ns, channel, user, data, ttl_ms, emit } => {
                let state_key = StateKeyRef { channel, user: user.as_deref() };
                if *emit {
                    self.publish_at(*ns, state_key, data, out);
                }
                let expires = ttl_ms.map(|ttl| at.plus(ttl));
                match &**data {
                    "null" => self.unset(*ns, state_key, out),
                    text => self.set((*ns, state_key), checked.state, text, expires, out),
                }
                Outcome::Done
            }
            Change::Push { ns, channel, user, data, ttl_ms, emit } => {
                let state_key = StateKeyRef { channel, user: user.as_deref() };
                if *emit {
                    self.publish_at(*ns, state_key, data, out);
                }
                let times = (at, ttl_ms.map(|ttl| at.plus(ttl)));
                self.push((*ns, state_key), checked.state, data, times, out);
                Outcome::Done
            }
            Change::Emit { ns, channels, data, user, except } => {
                let to = Audience { user: user.as_deref(), except: *except };
                Outcome::Reached(match &**channels {
                    [channel] => self.publish(*ns, (checked.channel, channel), data, to, out),
                    channels => self.emit(*ns, channels, data, to, out),
                })
            }
            Change::Disconnect { ns, user } => self.expel(*ns, user, out),
        }
    }

    /// Publishes the new value of a state, to its user or to the whole channel.
    fn publish_at(&self, ns: NsId, state_key: StateKeyRef<'_>, data: &str, out: &mut impl Outbox) {
        let (found, to) = (
            self.find_channel(ns, state_key.channel),
            Audience { user: state_key.user, except: None },
        );
        self.publish(ns, (found.map(|(id, _)| id), state_key.channel), data, to, out);
    }

    fn register(&mut self, name: &str, key: &str, out: &mut impl Outbox) -> Outcome {
        let (number, outcome) = (self.take_number(), Outcome::Key(key.into()));
        self.insert_namespace(Namespace::new(number, name.into(), Some(key.into())));
        out.after_change(Undo::new(Key::Namespace { ns: number }, 0, Before::Nothing));
        outcome
    }

    fn rotate(
        &mut self,
        ns: NsId,
        key: &str,
        grace_until: UnixMillis,
        out: &mut impl Outbox,
    ) -> Outcome {
        if let Some(number) = self.number(ns) {
            self.show(KeyRef::Namespace { ns: number }, out);
        }
        if let Some(space) = self.namespaces.get_mut(ns) {
            out.after_change(space.undo());
            let was_open = space.current_key().is_some();
            let old = space.key.replace(key.into()).filter(|_| was_open);
            space.old_key = old.map(|old| (old, grace_until));
            if !was_open {
                // The new key replaces none; nor does it after a restart, which knows no such key.
                space.configured = None;
            }
            self.graces_end = self.graces_end.max(grace_until);
            space.key_epoch = space.key_epoch.wrapping_add(1);
            self.key_changes += 1;
        }
        Outcome::Key(key.into())
    }

    fn grant(&mut self, ns: NsId, channel: &str, user: &str, out: &mut impl Outbox) {
        let Some(number) = self.number(ns) else { return };
        self.show(KeyRef::Grant { ns: number, channel, user }, out);
        if self.admit(ns, channel.into(), user.into()) {
            let key = Key::Grant { ns: number, channel: channel.into(), user: user.into() };
            out.after_change(Undo::new(key, 0, Before::Nothing));
        }
    }

    fn revoke(&mut self, ns: NsId, channel: &str, user: &str, out: &mut impl Outbox) {
        let Some(number) = self.number(ns) else { return };
        self.show(KeyRef::Grant { ns: number, channel, user }, out);
        let grant = GrantRef { channel, user };
        if self.drop_grant(ns, grant) {
            let key = Key::Grant { ns: number, channel: channel.into(), user: user.into() };
            let withdrawal = self.next_withdrawal();
            out.after_change(Undo::new(key, 0, Before::Grant { withdrawal }));
            self.withdraw(ns, grant, (withdrawal, out.mark()));
        }
    }

    fn set(
        &mut self,
        (ns, state_key): (NsId, StateKeyRef<'_>),
        id: Option<Id<State>>,
        text: &str,
        expires: Option<UnixMillis>,
        out: &mut impl Outbox,
    ) {
        let Some(number) = self.number(ns) else { return };
        let state = id.and_then(|id| self.states.get(id));
        let is_endless = state.is_some_and(|state| state.end.is_none()) && expires.is_none();
        if is_endless && state.is_some_and(|state| state.value.is(text)) {
            return;
        }
        let key = KeyRef::State { ns: number, state_key };
        self.show(key, out);
        if let Some(id) = id
            && out.needs_no_undo(key, text.len())
        {
            self.overwrite(id, text);
            return self.end_at(id, expires);
        }
        self.put(ns, state_key, id, Value::Json(text.into()), expires, out);
    }

    /// Sets a state, replacing the one with that id if given, and reports the undo.
    fn put(
        &mut self,
        ns: NsId,
        state_key: StateKeyRef<'_>,
        id: Option<Id<State>>,
        value: Value,
        expires: Option<UnixMillis>,
        out: &mut impl Outbox,
    ) {
        let Some(number) = self.number(ns) else { return };
        let bytes = value.bytes();
        let before = match id {
            Some(id) => {
                let ended = self.states.get(id).and_then(State::expires);
                let Some(value) = self.replace_value(id, value) else { return };
                self.end_at(id, expires);
                Before::State { value, expires: ended }
            }
            None => {
                self.put_state(ns, state_key, value, expires);
                Before::Nothing
            }
        };
        out.after_change(Undo::new(
            Key::State { ns: number, state_key: state_key.to_key() },
            bytes,
            before,
        ));
    }

    fn unset(&mut self, ns: NsId, state_key: StateKeyRef<'_>, out: &mut impl Outbox) {
        let Some(number) = self.number(ns) else { return };
        self.show(KeyRef::State { ns: number, state_key }, out);
        let found = self.find_state(ns, state_key).map(|(id, _)| id);
        let state = found.and_then(|id| self.take_state(id));
        if let Some(state) = state {
            let before = Before::State { expires: state.expires(), value: state.value };
            out.after_change(Undo::new(
                Key::State { ns: number, state_key: state.state_key },
                0,
                before,
            ));
        }
    }

    fn push(
        &mut self,
        (ns, state_key): (NsId, StateKeyRef<'_>),
        found: Option<Id<State>>,
        data: &str,
        (at, expires): (UnixMillis, Option<UnixMillis>),
        out: &mut impl Outbox,
    ) {
        let Some(number) = self.number(ns) else { return };
        self.show(KeyRef::State { ns: number, state_key }, out);
        // A state that has expired but is not dropped yet is replaced as a whole.
        let lives = |id: &Id<State>| self.states.get(*id).is_some_and(|state| state.lives(at));
        let Some(id) = found.filter(lives) else {
            let mut list = super::state::List::default();
            list.push(data);
            return self.put(ns, state_key, found, Value::List(Box::new(list)), expires, out);
        };
        let (items, bytes) = (self.limits.list_items, self.limits.state_bytes);
        let Some(state) = self.states.get(id) else { return };
        let ended = state.expires();
        let changed = self.change_list(id, |list| {
            list.push(data);
            (list.bound(items, bytes), list.text().len())
        });
        let Some(((dropped, bytes), was)) = changed else { return };
        self.end_at(id, expires);
        let before = match was {
            Some(value) => Before::State { value, expires: ended },
            None => Before::Shorter { pushed: data.len(), dropped, expires: ended },
        };
        out.after_change(Undo::new(
            Key::State { ns: number, state_key: state_key.to_key() },
            bytes,
            before,
        ));
    }

    /// Changes a list and its byte counts. Also returns the old value if that was plain text.
    pub(super) fn change_list<T>(
        &mut self,
        id: Id<State>,
        change: impl FnOnce(&mut super::state::List) -> T,
    ) -> Option<(T, Option<Value>)> {
        let state = self.states.get_mut(id)?;
        let before = state.value.bytes();
        let (list, was) = state.value.as_list(self.limits.list_items)?;
        let changed = change(list);
        let (ns, after) = (state.ns, state.value.bytes());
        self.weigh(ns, before, after);
        Some((changed, was))
    }

    /// Publishes on several channels; returns how many connections were reached. A connection that
    /// is in two of them gets two messages and counts once.
    fn emit(
        &self,
        ns: NsId,
        channels: &[Cow<'_, str>],
        data: &str,
        to: Audience<'_>,
        out: &mut impl Outbox,
    ) -> usize {
        // Channel by channel, collecting the peers, so that one that is in two counts once.
        let mut reached = Vec::new();
        out.look_at(channels.len());
        for channel in channels {
            if let Some((id, _)) = self.find_channel(ns, channel) {
                let publication = Publication::new(channel, data);
                self.hand_out(ns, id, &publication, to, out, |peer| reached.push(peer.slot));
            }
        }
        reached.sort_unstable();
        reached.dedup();
        reached.len()
    }

    /// Publishes a message to the subscribers of a channel; returns how many they are.
    fn publish(
        &self,
        ns: NsId,
        (id, channel): (Option<ChannelId>, &str),
        data: &str,
        to: Audience<'_>,
        out: &mut impl Outbox,
    ) -> usize {
        let found = id.and_then(|id| Some((id, self.channels.get(id)?)));
        let Some((id, found)) = found else { return 0 };
        if to.user.is_none() && to.except.is_none() && self.leaving.is_calm_in(id) {
            let count = found.members.len();
            if out.gather(id, count, channel, data) {
                return count;
            }
        }
        let (publication, mut reached) = (Publication::new(channel, data), 0);
        self.hand_out(ns, id, &publication, to, out, |_| reached += 1);
        reached
    }

    /// Delivers a message to the subscribers of a channel, and calls `reached` for each.
    fn hand_out(
        &self,
        ns: NsId,
        id: ChannelId,
        publication: &Publication<'_>,
        to: Audience<'_>,
        out: &mut impl Outbox,
        mut reached: impl FnMut(PeerId),
    ) {
        let Some(members) = self.channels.get(id).map(|channel| &channel.members) else { return };
        let peers = to.user.map(|user| {
            let found = self.find_user(ns, user);
            found.map_or(&[][..], |(_, user)| &user.peers)
        });
        out.look_at(peers.map_or(members.len(), <[PeerId]>::len));
        let is_meant = |peer: PeerId| {
            to.except.is_none_or(|cid| self.peers.get(peer).is_some_and(|p| p.cid != cid))
        };
        let mut deliver = |peer, route| {
            if self.hears(peer, id) && is_meant(peer) {
                out.deliver(route, publication);
                reached(peer);
            }
        };
        let Some(peers) = peers else {
            for member in members.iter() {
                let peer = self.peers.at(member.peer as usize);
                peer.into_iter().for_each(|peer| deliver(peer, member.route));
            }
            return;
        };
        for peer in peers {
            if self.is_member(*peer, id)
                && let Some(Peer { route, .. }) = self.peers.get(*peer)
            {
                deliver(*peer, *route);
            }
        }
    }
}
