//! Back ends that have not authenticated, or whose key is no longer valid. Their number is bounded.
//! When there is one too many, or all connections are taken, the oldest of the client prefix
//! (address or network) with the most of them is evicted, so that a fast client can take only its
//! own prefix's places. `control` tells who comes and goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Switch;
use super::command::{INVALID_SKEY, NO_NAMESPACE, Refused};
use super::control::Controller;
use super::full::Wait;
use super::replies::refused;
use crate::address::ClientPrefix;
use crate::codec::jwt;
use crate::edge::{ConnId, Net};
use crate::hub::{NsId, Refusal};
use crate::reason::CloseReason;
use crate::time::{Millis, UnixMillis};

/// Connections reserved for others: one in `PLACES_PART`, at most `PLACES_MAX`, so that a
/// namespace whose back ends have taken all others keeps nobody from authenticating.
const PLACES_PART: usize = 32;
const PLACES_MAX: usize = 32;
/// The most back ends whose keys are checked in one turn.
const LOOKED_AT_PER_TURN: usize = 64;

/// How many of so many connections may be authenticated. If there are few, all of them: then a
/// newcomer waits for one to leave.
fn authenticated_max(connections: usize) -> usize {
    connections - places(connections)
}

/// How many of so many connections are for those that have not authenticated.
fn places(connections: usize) -> usize {
    (connections / PLACES_PART).min(PLACES_MAX)
}

/// Order of eviction among prefixes: the most members first; among equals, the one whose oldest
/// member came first.
type Rank = (usize, Reverse<u64>, ClientPrefix);

/// The back ends that have not authenticated.
#[derive(Debug, Default)]
pub(super) struct Unauthenticated {
    /// How many have come so far: the age of the next.
    next: u64,
    /// Prefix and age of each.
    places: BTreeMap<ConnId, (ClientPrefix, u64)>,
    /// The members of each prefix, the oldest first.
    prefixes: BTreeMap<ClientPrefix, BTreeMap<u64, ConnId>>,
    /// All prefixes; the first to be evicted from is last.
    ranks: BTreeSet<Rank>,
}

impl Unauthenticated {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = ConnId> {
        self.places.keys().copied()
    }

    /// Whether this connection is one of them.
    pub fn has(&self, conn: ConnId) -> bool {
        self.places.contains_key(&conn)
    }

    /// Adds one: a new connection, or one whose key is no longer valid.
    pub fn insert(&mut self, conn: ConnId, prefix: ClientPrefix) {
        self.remove(conn);
        let age = self.next;
        self.next += 1;
        self.places.insert(conn, (prefix, age));
        self.change(prefix, |members| members.insert(age, conn));
    }

    /// Removes one that has authenticated or gone; does nothing for other connections.
    pub fn remove(&mut self, conn: ConnId) {
        if let Some((prefix, age)) = self.places.remove(&conn) {
            self.change(prefix, |members| members.remove(&age));
        }
    }

    /// The one to evict for a newcomer of that prefix, which is in the set already: the
    /// oldest of the largest prefix. A peer on a unix socket, which file permissions have let
    /// in, is never evicted for one that is not.
    pub fn first_to_go(&self, newcomer: ClientPrefix) -> Option<ConnId> {
        let may_go = |prefix| newcomer == ClientPrefix::Unix || prefix != ClientPrefix::Unix;
        let (.., prefix) = self.ranks.iter().rev().find(|(.., other)| may_go(*other))?;
        self.prefixes.get(prefix)?.values().next().copied()
    }

    fn change<T>(
        &mut self,
        prefix: ClientPrefix,
        change: impl FnOnce(&mut BTreeMap<u64, ConnId>) -> T,
    ) {
        let rank = |members: &BTreeMap<u64, ConnId>| -> Option<Rank> {
            let (oldest, _) = members.first_key_value()?;
            Some((members.len(), Reverse(*oldest), prefix))
        };
        let members = self.prefixes.entry(prefix).or_default();
        if let Some(before) = rank(members) {
            self.ranks.remove(&before);
        }
        change(members);
        match rank(members) {
            Some(after) => {
                self.ranks.insert(after);
            }
            None => {
                self.prefixes.remove(&prefix);
            }
        }
    }

    /// Checks all invariants; for tests.
    pub fn check_invariants(&self) {
        assert_eq!(self.ranks.len(), self.prefixes.len());
        let members: usize = self.prefixes.values().map(BTreeMap::len).sum();
        assert_eq!(members, self.len());
        assert!(self.prefixes.values().all(|members| !members.is_empty()));
    }
}

/// The state of the check for keys that have changed or expired.
#[derive(Debug, Default)]
pub(super) struct KeyWatch {
    /// The [`Hub::key_changes`](crate::hub::Hub::key_changes) that the last scan was started for.
    seen: u64,
    /// The connection with which a scan in progress continues.
    next: Option<ConnId>,
    /// The earliest known end of a key in use.
    ends: Option<UnixMillis>,
}

impl Switch {
    /// Makes a connection unauthenticated, with its time to authenticate. If that is one too many,
    /// or all connections are taken, one is evicted, after the replies it is owed; it may be the
    /// newcomer itself. While more are authenticated than may be, because the limit was lowered,
    /// there are as many places besides, and one at least: when the newcomer authenticates, one of
    /// another namespace may have to go for it.
    pub(super) fn meet(&mut self, net: &mut impl Net, conn: ConnId, is_full: bool) {
        let auth_by = net.now().mono.plus(self.limits.control_auth_ms as u64);
        let Some(controller) = self.connections.controller(conn) else { return };
        controller.admit(net, conn, Some(auth_by));
        let prefix = controller.prefix;
        self.unauthenticated.insert(conn, prefix);
        let places = places(self.limits.control_connections).max(1);
        let has_place = self.unauthenticated.len() <= places;
        let is_full = is_full && !(has_place && self.is_over_limit(net));
        if is_full && self.unauthenticated.first_to_go(prefix) == Some(conn) {
            self.unauthenticated.remove(conn);
            if let Some(controller) = self.connections.controller(conn) {
                controller.let_go(net, conn, CloseReason::Full);
            }
        } else if is_full
            || self.unauthenticated.len() > self.limits.control_unauthenticated_connections
        {
            self.evict_unauthenticated(net, prefix);
        }
    }

    /// Evicts one for a newcomer of that prefix.
    pub(super) fn evict_unauthenticated(&mut self, net: &mut impl Net, newcomer: ClientPrefix) {
        let Some(conn) = self.unauthenticated.first_to_go(newcomer) else { return };
        self.unauthenticated.remove(conn);
        if let Some(controller) = self.connections.controller(conn) {
            controller.let_go(net, conn, CloseReason::ControlAuth);
            self.may_be_ended = true;
        }
    }
}

impl Switch {
    /// When keys are to be checked next.
    pub(super) fn keys_due(&self) -> Option<Millis> {
        if self.drain.is_some() {
            return None;
        }
        let KeyWatch { seen, next, ends } = self.key_watch;
        if next.is_some() || seen != self.hub.key_changes() {
            return Some(Millis(0));
        }
        // The connection with that key may have gone, and all others with it.
        let ends = ends.filter(|_| self.connections.controllers() > 0)?;
        Some(Millis(ends.0.saturating_sub(self.epoch)))
    }

    /// After keys have changed or expired: makes the connections unauthenticated whose key is no
    /// longer valid, and the reverse where a key is valid after all. Some per turn.
    pub(super) fn look_at_keys(&mut self, net: &mut impl Net) {
        if self.keys_due().is_none_or(|due| net.now().mono < due) {
            return;
        }
        let from = self.key_watch.next.unwrap_or_else(|| {
            self.key_watch = KeyWatch { seen: self.hub.key_changes(), ..KeyWatch::default() };
            ConnId::new(0, 0)
        });
        let mut conns = self.connections.controllers_from(from, LOOKED_AT_PER_TURN + 1);
        let next = conns.get(LOOKED_AT_PER_TURN).copied();
        conns.truncate(LOOKED_AT_PER_TURN);
        for conn in conns {
            self.look_at_key_of(net, conn);
        }
        self.key_watch.next = next;
    }

    fn look_at_key_of(&mut self, net: &mut impl Net, conn: ConnId) {
        let at = self.at(net.now());
        let Some(controller) = self.connections.controller(conn).filter(|it| !it.is_ended) else {
            return;
        };
        let until = controller.auth.map(|(ns, epoch)| self.hub.key_until(ns, epoch));
        match (until.filter(|until| at < *until), self.unauthenticated.has(conn)) {
            (None, false) => {
                // Commands it may no longer give are refused now, not when the disk has room.
                controller.wait = Wait::Other;
                self.meet(net, conn, false);
            }
            (None, true) => {}
            (Some(until), is_unauthenticated) => {
                if is_unauthenticated {
                    // The change of its key was undone.
                    controller.admit(net, conn, None);
                    self.unauthenticated.remove(conn);
                }
                self.note_key(until);
            }
        }
    }

    /// Whether the connection acts in a namespace, which it does while its key is valid.
    #[inline]
    pub(super) fn is_authenticated(&self, net: &impl Net, controller: &Controller) -> bool {
        let at = self.at(net.now());
        controller.auth.is_some_and(|(ns, epoch)| at < self.hub.key_until(ns, epoch))
    }

    /// The same, and clears `auth` if the key is no longer valid.
    #[inline]
    pub(super) fn look_at_key(&self, net: &impl Net, controller: &mut Controller) {
        if !self.is_authenticated(net, controller) {
            controller.auth = None;
        }
    }

    /// The same before each command of one call, in which no time passes: the key is checked only
    /// if keys have changed since the last check.
    #[inline]
    pub(super) fn look_again_at_key(
        &self,
        net: &impl Net,
        controller: &mut Controller,
        seen: &mut Option<u64>,
    ) {
        let changes = Some(self.hub.key_changes());
        if std::mem::replace(seen, changes) != changes {
            self.look_at_key(net, controller);
        }
    }

    /// Returns the epoch of this key of the namespace.
    pub(super) fn key_epoch(
        &mut self,
        ns: NsId,
        key: &str,
        at: UnixMillis,
    ) -> Result<u32, Refused> {
        let epoch = self.hub.key_epoch(ns).ok_or(NO_NAMESPACE)?;
        let mut found = None;
        for (age, good) in (0..).zip(self.hub.keys(ns, at)) {
            if jwt::same_key(key.as_bytes(), good.as_bytes()) {
                found = Some(epoch.wrapping_sub(age));
            }
        }
        if let (None, Some(name)) = (found, self.hub.name(ns)) {
            self.refusal_tally.note(name);
        }
        found.ok_or(INVALID_SKEY)
    }

    /// Makes sure that one more back end of that namespace may authenticate. If all places are
    /// taken, one of the namespace with the most is closed, preferably one that is not busy,
    /// provided that the newcomer's has fewer even with the newcomer.
    ///
    /// # Errors
    /// 313: no namespace has enough more.
    pub(super) fn find_place(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        ns: NsId,
    ) -> Result<(), Refused> {
        let max = authenticated_max(self.limits.control_connections);
        let known = self.connections.controllers() - self.unauthenticated.len();
        if known < max || !self.unauthenticated.has(conn) {
            return Ok(());
        }
        let shares = self.shares(net);
        if shares.values().map(|(count, _)| count).sum::<usize>() < max {
            // The others are being closed.
            return Ok(());
        }
        let own = shares.get(&ns).map_or(0, |(count, _)| *count);
        let largest = shares.values().max_by_key(|(count, first)| (*count, Reverse(*first)));
        let offender = largest.filter(|(count, _)| own + 1 < *count);
        let Some((_, (_, offender))) = offender else {
            return Err(refused(Refusal::Share("back ends in all", max)));
        };
        if let Some(controller) = self.connections.controller(*offender) {
            controller.let_go(net, *offender, CloseReason::Full);
            self.may_be_ended = true;
        }
        Ok(())
    }

    /// How many authenticated back ends each namespace has, and which of them goes first.
    fn shares(&mut self, net: &impl Net) -> BTreeMap<NsId, (usize, (bool, ConnId))> {
        let mut shares = BTreeMap::<NsId, (usize, (bool, ConnId))>::new();
        for conn in self.connections.all_controllers() {
            let is_there = |it: &&Controller| !it.is_ended && self.is_authenticated(net, it);
            let controller = self.connections.look_at(conn).filter(is_there);
            let controller = controller.filter(|_| !self.unauthenticated.has(conn));
            if let Some((of, it)) = controller.and_then(|it| Some((it.namespace()?, it))) {
                let candidate = (it.is_busy(), conn);
                let (count, first) = shares.entry(of).or_insert((0, candidate));
                (*count, *first) = (*count + 1, candidate.min(*first));
            }
        }
        // All of them were examined.
        self.work += self.connections.controllers();
        shares
    }

    /// Whether more back ends are authenticated than may be.
    fn is_over_limit(&mut self, net: &impl Net) -> bool {
        let max = authenticated_max(self.limits.control_connections);
        self.connections.controllers() - self.unauthenticated.len() > max
            && self.shares(net).values().map(|(count, _)| count).sum::<usize>() > max
    }

    /// Notes that a back end has authenticated with that key of its namespace.
    pub(super) fn recognize(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        (ns, epoch): (NsId, u32),
    ) {
        controller.auth = Some((ns, epoch));
        controller.admit(net, conn, None);
        self.unauthenticated.remove(conn);
        self.note_key(self.hub.key_until(ns, epoch));
    }

    /// Notes a key in use that is valid until then.
    fn note_key(&mut self, until: UnixMillis) {
        if until != UnixMillis(u64::MAX) {
            let ends = self.key_watch.ends.map_or(until, |ends| ends.min(until));
            self.key_watch.ends = Some(ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::replies::tests::Wire;
    use super::*;
    use crate::address::Address;
    use crate::codec::control;
    use crate::edge::{Door, Handler};
    use crate::journal::MemoryJournal;
    use crate::limits::Limits;

    /// Adds back ends of these prefixes one by one, keeping at most four; returns those left.
    fn left(places: &[ClientPrefix]) -> Vec<usize> {
        let mut unauthenticated = Unauthenticated::default();
        for (slot, prefix) in (0..).zip(places) {
            unauthenticated.insert(ConnId::new(slot, 7), *prefix);
            if unauthenticated.len() > 4 {
                unauthenticated.remove(unauthenticated.first_to_go(*prefix).unwrap());
            }
            unauthenticated.check_invariants();
        }
        unauthenticated.iter().map(|conn| conn.index()).collect()
    }

    #[test]
    fn the_address_with_most_connections_is_evicted_first() {
        let [a, b, c, d, e, unix] = [1, 2, 3, 4, 5, 0]
            .map(|ip| if ip == 0 { ClientPrefix::Unix } else { ClientPrefix::V4(ip) });
        // A single one before a crowd from one address, and amid one.
        assert_eq!(left(&[a, b, b, b, b, b, b]), [0, 4, 5, 6]);
        assert_eq!(left(&[b, b, b, b, b, a, b, b, b, b]), [5, 7, 8, 9]);
        // Of addresses with equally many, the one whose oldest connected first.
        assert_eq!(left(&[a, a, b, b, a]), [1, 2, 3, 4]);
        assert_eq!(left(&[a, a, b, b, c]), [1, 2, 3, 4]);
        assert_eq!(left(&[a, b, c, d, e]), [1, 2, 3, 4], "the oldest of all");
        // Peers on the unix socket stay, whatever connects over TCP.
        assert_eq!(left(&[unix, a, b, c, d, e]), [0, 3, 4, 5]);
        assert_eq!(left(&[unix, unix, unix, unix, a]), [0, 1, 2, 3]);
        assert_eq!(left(&[a, b, unix, unix, unix]), [0, 1, 3, 4]);
        assert_eq!(left(&[unix, a, a, a, unix]), [0, 2, 3, 4]);
    }

    #[test]
    fn removed_connections_leave_nothing_behind() {
        let mut unauthenticated = Unauthenticated::default();
        let conns = [0, 1, 2].map(|slot| ConnId::new(slot, 1));
        for conn in conns {
            unauthenticated.insert(conn, ClientPrefix::V6(u64::from(conn.slot % 2)));
            unauthenticated.insert(conn, ClientPrefix::V6(u64::from(conn.slot % 2)));
        }
        conns.into_iter().chain(conns).for_each(|conn| unauthenticated.remove(conn));
        unauthenticated.check_invariants();
        assert_eq!(
            (unauthenticated.len(), unauthenticated.first_to_go(ClientPrefix::Unix)),
            (0, None)
        );
    }

    #[test]
    fn a_key_ended_by_a_command_is_invalid_for_the_next_of_the_same_read() {
        for end in [
            r#"{"action":"rotateKey","name":"site","key":"server"}"#,
            r#"{"action":"removeNameSpace","name":"site","key":"server"}"#,
        ] {
            let mut net = Wire::default();
            let settings = Settings::new(Limits::default(), "server", net.now());
            let mut switch = Switch::new(settings, MemoryJournal::default());
            switch.declare("site", "key").unwrap();
            let conn = ConnId::new(0, 0);
            switch.opened(&mut net, conn, Door::Control, Address::Unix);
            let auth = r#"{"action":"auth","name":"site","sKey":"key"}"#;
            let get = r#"{"action":"get","channel":"c"}"#;
            let mut input = Vec::new();
            for body in [auth, get, end, get] {
                control::encode_into(&mut input, body.as_bytes());
            }
            switch.received(&mut net, conn, &mut input).unwrap();
            let replies = String::from_utf8_lossy(&net.sent[&conn]).into_owned();
            let replies: Vec<&str> = replies.split_terminator("}\0").collect();
            assert!(replies.last().unwrap().ends_with("\"code\":311"), "{end}: {replies:?}");
        }
    }
}
