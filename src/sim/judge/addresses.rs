//! The addresses of clients, and how many connections each may have: counted anew each time.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::expected::Expected;
use super::{ConnModel, Judge, Role};
use crate::address::Address;
use crate::edge::{ConnId, Door};
use crate::reason::CloseReason;
use crate::sim::tape::Item;

/// What is known about where a browser is.
#[derive(Clone, Debug, Default)]
pub(super) struct Whereabouts {
    /// The trusted proxy that it comes by, as the text of its address.
    proxy: Option<String>,
    /// The address that it counts for.
    counts_as: Option<String>,
    /// A PROXY header has named the client: addresses in its requests do not count.
    is_spoken_for: bool,
}

/// Whether a peer with this address is trusted to name its client.
fn is_proxy(address: Address) -> bool {
    match address {
        Address::Ip(IpAddr::V4(ip)) => ip.octets()[0] == 10,
        Address::Ip(IpAddr::V6(ip)) => ip.octets()[0] == 0xFD,
        Address::Unix => true,
    }
}

/// Returns a text that is the same for all addresses that count as one.
pub(super) fn prefix(address: Address) -> String {
    match address {
        Address::Ip(IpAddr::V4(ip)) => ip.to_string(),
        Address::Ip(IpAddr::V6(ip)) => format!("{:x?}", &ip.segments()[..4]),
        Address::Unix => "a socket".into(),
    }
}

impl Judge {
    /// A back end is not authenticated, or no longer. If there are too many of those, or it found
    /// all places taken, one is let go: the oldest of the address with most of them, among such
    /// addresses the oldest of all; but none on the unix socket for one that is elsewhere.
    pub(super) fn note_unauthenticated(&mut self, conn: ConnId, is_full: bool) {
        let (number, auth_by) = (self.unauthenticated, self.deadline("control_auth_ms"));
        self.unauthenticated += 1;
        let Some(controller) = self.controller(conn) else { return };
        (controller.unauthenticated, controller.auth_by) = (Some(number), auth_by);
        let from = controller.place.clone();
        let unauthenticated: Vec<(ConnId, &str, u64)> = self
            .lines
            .iter()
            .filter(|(_, line)| !line.is_gone)
            .filter_map(|(conn, line)| match &line.role {
                Role::Controller(c) => {
                    c.unauthenticated.map(|number| (*conn, c.place.as_str(), number))
                }
                _ => None,
            })
            .collect();
        let local = prefix(Address::Unix);
        let may_go = |place: &str| from == local || place != local;
        let crowd =
            |place: &str| unauthenticated.iter().filter(|(_, other, _)| *other == place).count();
        let first = unauthenticated
            .iter()
            .filter(|(_, place, _)| may_go(place))
            .max_by_key(|(_, place, number)| (crowd(place), Reverse(*number)));
        let (first, ..) = *first.expect("the newcomer is one of them");
        let authenticated: usize = self.shares().values().map(Vec::len).sum();
        let places = (self.limits.control_connections / 32).clamp(1, 32);
        let is_over_limit = authenticated > self.authenticated_max();
        let is_full = is_full && !(is_over_limit && unauthenticated.len() <= places);
        if !is_full && unauthenticated.len() <= self.limits.control_unauthenticated_connections {
            return;
        }
        let is_refused = is_full && first == conn;
        let reason = if is_refused { CloseReason::Full } else { CloseReason::ControlAuth };
        self.let_go_answered(first, reason);
        if let Some(controller) = self.controller(first) {
            controller.unauthenticated = None;
        }
    }

    /// One place in 32 is for those that have not authenticated.
    pub(super) fn authenticated_max(&self) -> usize {
        let connections = self.limits.control_connections;
        connections - (connections / 32).min(32)
    }

    /// The authenticated back ends of each namespace.
    fn shares(&self) -> BTreeMap<u32, Vec<ConnId>> {
        let mut shares = BTreeMap::<u32, Vec<ConnId>>::new();
        for (conn, line) in &self.lines {
            let Role::Controller(controller) = &line.role else { continue };
            let is_over = line.is_gone || line.closing.is_some() || controller.is_ended;
            let auth = controller.auth.as_ref().filter(|_| controller.unauthenticated.is_none());
            if let Some((space, key)) = auth.filter(|_| !is_over)
                && self.record.opens(*space, key, self.at())
            {
                shares.entry(*space).or_default().push(*conn);
            }
        }
        shares
    }

    /// A back end of that namespace authenticates. If no place is left, one of a namespace with the
    /// most is let go for it. Returns whether there is a place.
    pub(super) fn finds_place(&mut self, conn: ConnId, space: u32, items: &[Item]) -> bool {
        let (shares, max) = (self.shares(), self.authenticated_max());
        let is_new = self.controller(conn).is_some_and(|it| it.unauthenticated.is_some());
        if !is_new || shares.values().map(Vec::len).sum::<usize>() < max {
            return true;
        }
        let most = shares.values().map(Vec::len).max().unwrap_or_default();
        if shares.get(&space).map_or(0, Vec::len) + 1 >= most {
            return false;
        }
        let candidates = || shares.values().filter(|of| of.len() == most).flatten().copied();
        let is_closed = |one: &ConnId| {
            items.iter().any(|item| {
                matches!(item, Item::Closing { conn, reason: CloseReason::Full, was_open: true }
                    if conn == one)
            })
        };
        // One that is closed at once is owed nothing, and goes before those that are.
        let goes = candidates().find(is_closed).or(candidates().min());
        self.let_go_answered(goes.expect("somebody has the most"), CloseReason::Full);
        true
    }

    /// At the start of a turn, notes which back ends are authenticated by a valid key.
    pub fn look_at_keys(&mut self) {
        let at = self.at();
        let conns: Vec<ConnId> = self.lines.keys().copied().collect();
        for conn in conns {
            let line = &self.lines[&conn];
            let Role::Controller(controller) = &line.role else { continue };
            if self.is_stopping || line.is_gone || controller.is_ended {
                continue;
            }
            let auth = controller.auth.as_ref();
            let is_good = auth.is_some_and(|(space, key)| self.record.opens(*space, key, at));
            let was_good = controller.unauthenticated.is_none();
            match self.controller(conn) {
                Some(controller) if is_good => controller.unauthenticated = None,
                _ if was_good => self.note_unauthenticated(conn, false),
                _ => {}
            }
        }
    }

    /// A browser, or a proxy, has connected from this address.
    pub(super) fn came(&mut self, conn: ConnId, from: Address) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        line.whereabouts = Whereabouts::default();
        if self.limits.connections_per_address == 0 {
            return;
        }
        match is_proxy(from) {
            true => line.whereabouts.proxy = Some(prefix(from)),
            false => self.counts(conn, prefix(from)),
        }
    }

    /// A PROXY header has named the client, which counts as if it had connected itself.
    pub(super) fn note_proxy_header(&mut self, conn: ConnId, from: Address) {
        self.came(conn, from);
        if let Some(line) = self.lines.get_mut(&conn) {
            line.whereabouts.is_spoken_for = !is_proxy(from);
        }
    }

    /// At the start of a turn, if there is a limit where there was none: counts all that are here.
    pub fn count_in(&mut self) {
        if !std::mem::take(&mut self.is_cap_new) || self.limits.connections_per_address == 0 {
            return;
        }
        let is_here = |line: &&mut ConnModel| {
            let is_open = !line.is_gone && line.closing.is_none() && line.door() == Door::Web;
            is_open && line.whereabouts.proxy.is_none() && !is_proxy(line.from)
        };
        for line in self.lines.values_mut().filter(is_here) {
            line.whereabouts.counts_as.get_or_insert_with(|| prefix(line.from));
        }
    }

    /// A request has come by that connection, with this client address in it.
    pub(super) fn is_named(&mut self, conn: ConnId, client: Option<IpAddr>) {
        let has_cap = self.limits.connections_per_address > 0;
        let Some(ConnModel { whereabouts, from, .. }) = self.lines.get_mut(&conn) else { return };
        let is_unknown = whereabouts.proxy.is_none() && whereabouts.counts_as.is_none();
        let is_unknown = is_unknown && !whereabouts.is_spoken_for;
        if is_unknown && client.is_some() && has_cap && is_proxy(*from) {
            // It came when there was no limit.
            whereabouts.proxy = Some(prefix(*from));
        }
        let Some(proxy) = whereabouts.proxy.clone() else { return };
        self.counts(conn, client.map_or(proxy, |ip| prefix(ip.into())));
    }

    fn counts(&mut self, conn: ConnId, place: String) {
        let is_there = |(other, line): &(&ConnId, &ConnModel)| {
            **other != conn && !line.is_gone && line.whereabouts.counts_as.as_ref() == Some(&place)
        };
        let (others, max) =
            (self.lines.iter().filter(is_there).count(), self.limits.connections_per_address);
        // Connections that were there before the limit was lowered stay.
        self.deadlines.note("connections_per_address", others.max(max));
        let Some(line) = self.lines.get_mut(&conn) else { return };
        if line.whereabouts.counts_as.as_ref() == Some(&place) || max == 0 || others < max {
            line.whereabouts.counts_as = Some(place);
            return;
        }
        line.whereabouts = Whereabouts::default();
        line.expect(Expected::Http(503));
        self.close(conn, CloseReason::AddressFull);
    }
}
