//! Counts the connections of each prefix (an IPv4 address or IPv6 /64), and refuses those over
//! the limit. A direct connection is counted when accepted. One from a trusted proxy is counted for
//! the client that the proxy names: in a PROXY header at the start, or in each request. Without a
//! limit nothing is kept; when one is set, the kernel is asked for the addresses of existing
//! connections. Called by `http`, and where connections begin and end.

use std::hash::Hash;
use std::net::IpAddr;

use hashbrown::HashMap;

use super::{Web, answers};
use crate::address::{Address, ClientPrefix, Proxies};
use crate::codec::http::{Head, Response};
use crate::codec::proxy;
use crate::edge::{ConnId, Net};
use crate::reason::CloseReason;

/// When a refused client may try again.
const RETRY_AFTER_SECONDS: &str = "30";

/// The entries that a table always keeps room for.
const KEPT: usize = 64;

/// What is known of one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The proxy it comes from, which may name its client with each request.
    proxy: Option<ClientPrefix>,
    /// The prefix it is counted for; `None` until a proxy has named it.
    counted: Option<ClientPrefix>,
}

/// Shrinks a table that has become much too large.
pub(super) fn fit<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    let left = table.len().max(KEPT);
    if left <= table.capacity() / 8 {
        table.shrink_to(2 * left);
    }
}

/// All counted connections, and how many each prefix has.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Connections per prefix; 0: no limit, and only connections with a PROXY header are kept.
    max: usize,
    /// The highest limit that has been in force.
    most: usize,
    pub proxies: Proxies,
    /// Indexed by the slot of the connection.
    places: HashMap<u32, Place>,
    counts: HashMap<ClientPrefix, usize>,
}

impl Addresses {
    pub fn new(max: usize) -> Addresses {
        let (places, counts) = (HashMap::new(), HashMap::new());
        let most = if max == 0 { usize::MAX } else { max };
        Addresses { max, most, proxies: Proxies::default(), places, counts }
    }

    /// Changes the limit. Existing connections stay.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
        self.most = if max == 0 { usize::MAX } else { self.most.max(max) };
    }

    /// Counts a connection for that prefix; returns false if the prefix is at its limit.
    fn count(&mut self, conn: ConnId, prefix: ClientPrefix) -> bool {
        let place = self.places.get(&conn.slot).copied().unwrap_or_default();
        if place.counted == Some(prefix) {
            return true;
        }
        self.leave(conn);
        let count = self.counts.get(&prefix).copied().unwrap_or_default();
        let is_in = self.max == 0 || count < self.max;
        if is_in {
            self.add(conn, prefix, place);
        }
        is_in
    }

    fn add(&mut self, conn: ConnId, prefix: ClientPrefix, place: Place) {
        *self.counts.entry(prefix).or_insert(0) += 1;
        self.places.insert(conn.slot, Place { counted: Some(prefix), ..place });
    }

    /// Stops counting a connection.
    pub fn leave(&mut self, conn: ConnId) {
        let Some(prefix) = self.places.remove(&conn.slot).and_then(|place| place.counted) else {
            return fit(&mut self.places);
        };
        fit(&mut self.places);
        if let Some(count) = self.counts.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&prefix);
                fit(&mut self.counts);
            }
        }
    }

    /// Checks all invariants; for tests.
    pub fn check_invariants(&self, is_open: impl Fn(usize) -> bool) {
        assert!(
            self.places.keys().all(|slot| is_open(*slot as usize)),
            "somebody has left and counts"
        );
        let mut counts = HashMap::new();
        for prefix in self.places.values().filter_map(|place| place.counted) {
            *counts.entry(prefix).or_insert(0) += 1;
        }
        assert_eq!(counts, self.counts);
        assert!(self.counts.values().all(|count| *count <= self.most));
        let room = |left: usize| 8 * (left.max(KEPT) + 1);
        let is_fit = self.places.capacity() < room(self.places.len());
        assert!(is_fit && self.counts.capacity() < room(self.counts.len()), "memory of a crowd");
    }
}

impl<P> Web<P> {
    /// A connection was accepted from that address. A trusted proxy has yet to name its client.
    pub(super) fn arrive(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        from: Address,
    ) -> Result<(), CloseReason> {
        if self.addresses.max == 0 {
            return Ok(());
        }
        if self.addresses.proxies.has(from) {
            let place = Place { proxy: Some(from.into()), counted: None };
            self.addresses.places.insert(conn.slot, place);
            return Ok(());
        }
        self.admit(net, conn, from.into())
    }

    /// Counts a connection accepted when there was no limit, even if that exceeds the limit. One
    /// from a proxy is counted from its next request that names a client.
    pub fn count_in(&mut self, net: &impl Net, conn: ConnId) {
        let Addresses { max, places, proxies, .. } = &self.addresses;
        if *max == 0 || places.contains_key(&conn.slot) {
            return;
        }
        let Some(from) = net.address(conn).filter(|from| !proxies.has(*from)) else { return };
        self.addresses.add(conn, from.into(), Place::default());
    }

    /// A PROXY header has named the client's address; `None` if the proxy speaks for itself.
    pub(super) fn note_proxy_header(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        source: Option<IpAddr>,
    ) -> Result<(), CloseReason> {
        let Some(source) = source else { return Ok(()) };
        self.addresses.leave(conn);
        let Addresses { max, places, proxies, .. } = &mut self.addresses;
        if *max == 0 && !proxies.has(source.into()) {
            // If a limit is set later, this client must not name others either.
            places.insert(conn.slot, Place::default());
        }
        // As if accepted from there: if that is a trusted proxy too, it may name its client.
        self.arrive(net, conn, source.into())
    }

    /// A request has arrived. From a proxy it is counted for the client it names, or for the proxy.
    pub(super) fn requested(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        head: &Head<'_>,
    ) -> Result<(), CloseReason> {
        let Addresses { max, places, proxies, .. } = &mut self.addresses;
        let client = || proxy::forwarded_for(head, proxies).map(|ip| Address::from(ip).into());
        let prefix = match places.get(&conn.slot) {
            Some(Place { proxy: None, .. }) => return Ok(()),
            Some(Place { proxy: Some(proxy), .. }) => client().unwrap_or(*proxy),
            // Accepted when there was no limit: not counted until it names a client.
            None => {
                let Some(client) = client().filter(|_| *max > 0) else { return Ok(()) };
                let from = net.address(conn).filter(|from| proxies.has(*from));
                let Some(from) = from else { return Ok(()) };
                places.insert(conn.slot, Place { proxy: Some(from.into()), counted: None });
                client
            }
        };
        self.admit(net, conn, prefix)
    }

    fn admit(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        prefix: ClientPrefix,
    ) -> Result<(), CloseReason> {
        if self.addresses.count(conn, prefix) {
            return Ok(());
        }
        let response = Response::new(503).header("Retry-After", RETRY_AFTER_SECONDS);
        let response = response.text("Too many connections from your address\n").close();
        answers::send(net, conn, response);
        net.expel(conn, CloseReason::AddressFull);
        Err(CloseReason::AddressFull)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_released_after_a_crowd_has_left() {
        let mut addresses = Addresses::new(2);
        let crowd = 0..50_000;
        for slot in crowd.clone() {
            assert!(addresses.count(ConnId::new(slot, 0), ClientPrefix::V4(slot)));
        }
        assert!(addresses.places.capacity() >= 50_000 && addresses.counts.capacity() >= 50_000);
        for slot in crowd.skip(10) {
            addresses.leave(ConnId::new(slot, 0));
        }
        addresses.check_invariants(|slot| slot < 10);
        let room = [addresses.places.capacity(), addresses.counts.capacity()];
        assert!(room.iter().all(|room| *room <= 8 * KEPT), "{room:?}");
        // Those still connected are counted.
        assert!(addresses.count(ConnId::new(10, 0), ClientPrefix::V4(3)));
        assert!(!addresses.count(ConnId::new(11, 0), ClientPrefix::V4(3)));
    }
}
