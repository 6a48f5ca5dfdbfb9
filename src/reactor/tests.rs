//! The reactor on real sockets, with handlers that are hard to serve.

mod leaving;
mod pair;
mod wild;

use super::*;
use crate::edge::Net;
use crate::frame::Frame;
use crate::time::Now;
use std::io::{Read, Write};

/// Pauses its connection until `is_listening`, and then counts the bytes received.
#[derive(Default)]
struct PausesFirst {
    conn: Option<ConnId>,
    is_listening: bool,
    got: usize,
}

impl Handler for PausesFirst {
    fn opened(&mut self, _: &mut impl Net, conn: ConnId, _: Door, _: Address) {
        self.conn = Some(conn);
    }
    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        if !self.is_listening {
            net.pause(conn);
            return Ok(0);
        }
        self.got += input.len();
        Ok(input.len())
    }
}

/// Counts events.
#[derive(Default)]
struct Crowd {
    conns: Vec<ConnId>,
    /// Consumes one byte per turn, of the first connection that is read; and whether it has.
    reads_one_byte: bool,
    is_turn_full: bool,
    /// How many connections have not authenticated.
    unauthenticated: usize,
    reads: usize,
    read_order: Vec<ConnId>,
    ended: usize,
    expired: usize,
    turned_away: usize,
}

impl Handler for Crowd {
    fn opened(&mut self, _: &mut impl Net, conn: ConnId, _: Door, _: Address) {
        self.conns.push(conn);
    }
    fn turned_away(&mut self, _: Now, _: TurnedAway) {
        self.turned_away += 1;
    }
    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        if self.reads_one_byte {
            net.resume(conn);
        }
        if std::mem::replace(&mut self.is_turn_full, self.reads_one_byte) {
            return Ok(0);
        }
        self.reads += 1;
        self.read_order.push(conn);
        Ok(if self.reads_one_byte { 1 } else { input.len() })
    }
    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        self.ended += 1;
        net.close(conn, CloseReason::PeerClosed);
    }
    fn timed_out(&mut self, _: &mut impl Net, _: ConnId) {
        self.expired += 1;
    }
    fn is_turn_full(&self) -> bool {
        self.is_turn_full
    }
    fn unauthenticated(&self) -> usize {
        self.unauthenticated
    }
    fn tick(&mut self, _: &mut impl Net) {
        self.is_turn_full = false;
    }
}

/// Runs turns until `count` has reached `all`; returns the largest increase in one turn.
fn turns(
    reactor: &mut Reactor,
    crowd: &mut Crowd,
    all: usize,
    count: impl Fn(&Reactor, &Crowd) -> usize,
) -> usize {
    let mut most = 0;
    while count(reactor, crowd) < all {
        let before = count(reactor, crowd);
        reactor.turn(crowd).unwrap();
        most = most.max(count(reactor, crowd) - before);
    }
    most
}

/// Returns a reactor whose turns follow each other without a wait: a connection that hangs does not
/// hang the test.
fn restless(bounds: Bounds) -> Reactor {
    let mut reactor = Reactor::new(bounds).unwrap();
    reactor.wake_every(0);
    reactor
}

/// Opens a listener and returns its address.
fn listen(reactor: &mut Reactor, door: Door) -> String {
    let listener = Listener::tcp(door, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address().to_string();
    reactor.add_door(listener).unwrap();
    address
}

/// Returns a reactor with one listener, and its address.
fn reactor() -> (Reactor, String) {
    let mut reactor = restless(Bounds { connections: 1000, ..bounds() });
    let address = listen(&mut reactor, Door::Web);
    (reactor, address)
}

/// Connects `count` peers, and runs turns until all are accepted.
fn gather(
    reactor: &mut Reactor,
    crowd: &mut Crowd,
    address: &str,
    count: usize,
) -> Vec<std::net::TcpStream> {
    let peers = (0..count).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    turns(reactor, crowd, count, |_, crowd| crowd.conns.len());
    peers
}

#[test]
fn back_ends_do_not_wait_for_a_crowd_of_browsers() {
    let (mut reactor, address) = reactor();
    let mut crowd = Crowd::default();
    let mut peers = gather(&mut reactor, &mut crowd, &address, 900);
    let address = listen(&mut reactor, Door::Control);
    peers.push(std::net::TcpStream::connect(address).unwrap());
    turns(&mut reactor, &mut crowd, 901, |_, crowd| crowd.conns.len());
    peers.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
    turns(&mut reactor, &mut crowd, 901, |_, crowd| crowd.reads);
    let back_end = crowd.conns.last().unwrap();
    let place = crowd.read_order.iter().position(|conn| conn == back_end).unwrap();
    // The kernel reports them in the order in which they sent: all of these in the first turn.
    assert!(place < rounds::READS_MAX, "it was read in place {place}");
}

/// Publishes the input of back ends to the first browser.
#[derive(Default)]
struct Relay {
    doors: Vec<(ConnId, Door)>,
    /// Bytes written to sockets when a browser was read.
    sent_before: Option<u64>,
}

impl Handler for Relay {
    fn opened(&mut self, _: &mut impl Net, conn: ConnId, door: Door, _: Address) {
        self.doors.push((conn, door));
    }
    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        if self.doors.contains(&(conn, Door::Web)) {
            self.sent_before = Some(net.meters().sent_bytes);
        } else if let Some((browser, _)) = self.doors.iter().find(|(_, door)| *door == Door::Web) {
            net.publish(*browser, Frame::from(&*input));
        }
        Ok(input.len())
    }
}

#[test]
fn publications_are_written_before_browsers_are_read() {
    let (mut reactor, web) = reactor();
    let control = listen(&mut reactor, Door::Control);
    let peers = [web, control].map(|address| std::net::TcpStream::connect(address).unwrap());
    let mut relay = Relay::default();
    while relay.doors.len() < peers.len() {
        reactor.turn(&mut relay).unwrap();
    }
    peers.iter().rev().for_each(|mut peer| peer.write_all(b"news").unwrap());
    while relay.sent_before.is_none() {
        reactor.turn(&mut relay).unwrap();
    }
    assert_eq!(relay.sent_before, Some(4));
}

#[test]
fn back_ends_are_read_round_robin_however_much_one_has_sent() {
    let mut reactor = restless(bounds());
    let address = listen(&mut reactor, Door::Control);
    let mut peers: Vec<_> =
        (0..3).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    let mut crowd = Crowd { reads_one_byte: true, ..Crowd::default() };
    while reactor.connections() < peers.len() {
        reactor.turn(&mut crowd).unwrap();
    }
    peers.iter_mut().for_each(|peer| peer.write_all(&[b'x'; 100]).unwrap());
    while crowd.read_order.len() < 30 {
        reactor.turn(&mut crowd).unwrap();
    }
    // The first may have been read before the others had sent anything.
    let (_, late) = crowd.read_order.split_at(crowd.read_order.len() - 20);
    for three in late.windows(3) {
        assert!(three[0] != three[1] && three[1] != three[2] && three[0] != three[2], "{late:?}");
    }
}

#[test]
fn back_ends_with_input_are_read_before_more_are_accepted() {
    let mut reactor = restless(Bounds { connections: 1000, ..bounds() });
    let address = listen(&mut reactor, Door::Control);
    let connect = |_| {
        let mut peer = std::net::TcpStream::connect(&address).unwrap();
        peer.write_all(b"x").unwrap();
        peer
    };
    let _peers: Vec<_> = (0..100).map(connect).collect();
    // One is read per turn. The number of accepted, unread ones is bounded.
    let mut crowd = Crowd { reads_one_byte: true, ..Crowd::default() };
    while crowd.reads < 100 {
        reactor.turn(&mut crowd).unwrap();
        let waiting = crowd.conns.len() - crowd.reads;
        assert!(waiting <= ACCEPT_MAX, "{waiting} are accepted and not read");
    }
    // Connections read and not authenticated delay no newcomer: one of them may be evicted.
    crowd.unauthenticated = 200;
    let _peers: Vec<_> = (0..100).map(connect).collect();
    let most = turns(&mut reactor, &mut crowd, 200, |_, crowd| crowd.conns.len());
    assert!(crowd.reads < 150 && most <= ACCEPT_MAX, "{} were read before", crowd.reads);
}

#[test]
fn peers_with_little_queued_are_not_delayed_by_peers_with_much() {
    let (mut reactor, address) = reactor();
    let mut crowd = Crowd::default();
    let _peers = gather(&mut reactor, &mut crowd, &address, 200);
    let (last, many) = crowd.conns.split_last().unwrap();
    let large = crate::frame::Frame::from(vec![b'x'; 65_536]);
    for conn in many {
        reactor.io.send(*conn, large.clone());
    }
    reactor.io.send(*last, crate::frame::Frame::from(&b"x"[..]));
    let (last, many) = (*last, many.len());
    let before = reactor.io.meters.sent_bytes;
    reactor.turn(&mut crowd).unwrap();
    assert!(reactor.io.peer(last).unwrap().out.is_empty(), "not written yet");
    assert!(reactor.io.meters.sent_bytes - before <= rounds::LARGE_ROUND_BYTES + 65_536);
    // The others are written in later turns.
    let all = before as usize + many * 65_536 + 1;
    turns(&mut reactor, &mut crowd, all, |reactor, _| reactor.io.meters.sent_bytes as usize);
}

#[test]
fn a_peer_not_yet_written_to_is_not_reported_as_slow() {
    let (mut reactor, address) = reactor();
    let mut crowd = Crowd::default();
    let _peers = gather(&mut reactor, &mut crowd, &address, 2);
    let owed = |reactor: &Reactor| {
        let mut found = Vec::new();
        reactor.io.owed(&mut |owed| found.push(owed.conn));
        found
    };
    let much = crate::frame::Frame::from(vec![b'x'; 16 << 20]);
    let (slow, other) = (crowd.conns[0], crowd.conns[1]);
    reactor.io.send(slow, much.clone());
    assert!(owed(&reactor).is_empty());
    turns(&mut reactor, &mut crowd, 1, |reactor, _| owed(reactor).len());
    reactor.io.send(other, much);
    assert_eq!(owed(&reactor), [slow]);
}

#[test]
fn open_connections_are_written_before_closing_ones() {
    let (mut reactor, address) = reactor();
    let mut crowd = Crowd::default();
    let peers = gather(&mut reactor, &mut crowd, &address, 200);
    let word = crate::frame::Frame::from(&b"x"[..]);
    let (last, many) = crowd.conns.split_last().unwrap();
    for conn in many {
        reactor.io.send(*conn, word.clone());
        reactor.io.close(*conn, CloseReason::NamespaceRemoved);
    }
    reactor.io.send(*last, word.clone());
    let last = *last;
    reactor.turn(&mut crowd).unwrap();
    assert!(reactor.io.peer(last).unwrap().out.is_empty(), "not written yet");
    // The closing ones are written in later turns.
    turns(&mut reactor, &mut crowd, 200, |reactor, _| reactor.io.meters.sent_bytes as usize);
    drop(peers);
}

#[test]
fn publications_written_in_one_turn_are_bounded() {
    let (mut reactor, address) = reactor();
    let mut crowd = Crowd::default();
    let peers = gather(&mut reactor, &mut crowd, &address, 200);
    let large = crate::frame::Frame::from(vec![b'x'; 65_536]);
    let before = reactor.io.meters.sent_bytes;
    for _ in 0..8 {
        for conn in &crowd.conns {
            assert!(!reactor.io.publish(*conn, large.clone()), "no peer is slow yet");
        }
    }
    let written = reactor.io.meters.sent_bytes - before;
    assert!(written <= io::OFFER_ROUND_BYTES + 8 * 65_536, "{written}");
    // Peers that read get all of it.
    let readers: Vec<_> = peers
        .into_iter()
        .map(|mut peer| std::thread::spawn(move || peer.read_exact(&mut vec![0; 8 * 65_536])))
        .collect();
    let all = before as usize + crowd.conns.len() * 8 * 65_536;
    turns(&mut reactor, &mut crowd, all, |reactor, _| reactor.io.meters.sent_bytes as usize);
    readers.into_iter().for_each(|reader| reader.join().unwrap().unwrap());
}

/// They exceed their limit with the same publication, and the kernel has not reported the room.
#[test]
fn a_crowd_that_may_take_more_again_is_offered_it_in_later_turns() {
    const EACH: usize = 65_536;
    let (mut reactor, address) = reactor();
    let (mut crowd, mut bounds) = (Crowd::default(), bounds());
    let mut peers = gather(&mut reactor, &mut crowd, &address, 100);
    let large = crate::frame::Frame::from(vec![b'x'; EACH]);
    let is_blocked = |reactor: &mut Reactor, conn: &ConnId| {
        reactor.io.peer(*conn).is_some_and(|peer| !peer.is(flag::WRITABLE))
    };
    let publish = |reactor: &mut Reactor, crowd: &Crowd| {
        for conn in &crowd.conns {
            assert!(!reactor.io.publish(*conn, large.clone()), "memory is not short");
        }
    };
    bounds.slow.backlog_ms = u64::MAX / 2;
    reactor.set_bounds(bounds);
    while !crowd.conns.iter().all(|conn| is_blocked(&mut reactor, conn)) {
        publish(&mut reactor, &crowd);
        (0..100).for_each(|_| reactor.turn(&mut crowd).unwrap());
    }
    peers.iter_mut().for_each(|peer| peer.read_exact(&mut vec![0; EACH]).unwrap());
    bounds.slow.backlog_ms = 0;
    reactor.set_bounds(bounds);
    let before = reactor.io.meters.sent_bytes;
    for _ in 0..6 {
        publish(&mut reactor, &crowd);
    }
    let written = reactor.io.meters.sent_bytes - before;
    assert!(written <= io::OFFER_ROUND_BYTES + EACH as u64, "{written}");
    let conns = crowd.conns.clone();
    let is_open = |reactor: &Reactor, conn: &ConnId| {
        reactor.io.peers.get(*conn).is_some_and(|peer| peer.phase == Phase::Open)
    };
    let cut =
        |reactor: &Reactor, _: &Crowd| conns.iter().filter(|conn| !is_open(reactor, conn)).count();
    assert!(turns(&mut reactor, &mut crowd, 100, cut) <= EXPIRED_MAX, "cut in one turn");
}

#[test]
fn input_of_closing_connections_does_not_delay_open_ones() {
    let (mut reactor, address) = reactor();
    let mut crowd = Crowd::default();
    let mut peers = gather(&mut reactor, &mut crowd, &address, 100);
    for conn in &crowd.conns[1..] {
        reactor.io.close(*conn, CloseReason::InvalidToken);
    }
    for peer in &mut peers[1..] {
        peer.write_all(&[b'x'; 50_000]).unwrap();
    }
    peers[0].write_all(b"x").unwrap();
    let mut turns = 0;
    while crowd.reads == 0 {
        let before = reactor.io.meters.received_bytes;
        reactor.turn(&mut crowd).unwrap();
        let read = reactor.io.meters.received_bytes - before;
        assert!(read <= rounds::DISCARD_ROUND_BYTES + READ_BYTES as u64 + 1, "{read}");
        turns += 1;
    }
    assert!(turns <= 2, "read after {turns} turns");
    let read = |reactor: &Reactor, _: &Crowd| reactor.io.meters.received_bytes as usize;
    self::turns(&mut reactor, &mut crowd, 99 * 50_000 + 1, read);
}

#[test]
fn simultaneous_events_of_a_crowd_are_spread_over_several_turns() {
    const ALL: usize = 400;
    let (mut reactor, address) = reactor();
    let mut crowd = Crowd::default();
    let peers: Vec<_> = (0..ALL).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    let accepted = turns(&mut reactor, &mut crowd, ALL, |_, crowd| crowd.conns.len());
    assert!(accepted <= ACCEPT_MAX, "{accepted} accepted");
    for conn in &crowd.conns {
        reactor.io.deadline(*conn, Some(Millis(0)));
    }
    let expired = turns(&mut reactor, &mut crowd, ALL, |_, crowd| crowd.expired);
    assert!(expired <= EXPIRED_MAX, "{expired} expired in one turn");
    for conn in &crowd.conns {
        reactor.io.send(*conn, crate::frame::Frame::from(&b"x"[..]));
    }
    let sent = |reactor: &Reactor, _: &Crowd| reactor.io.meters.sent_bytes as usize;
    let written = turns(&mut reactor, &mut crowd, ALL, sent);
    assert!(written <= rounds::FLUSHES_MAX, "{written} written to in one turn");
    for mut peer in &peers {
        peer.write_all(b"x").unwrap();
    }
    let reads = turns(&mut reactor, &mut crowd, ALL, |_, crowd| crowd.reads);
    assert!(reads <= rounds::READS_MAX, "{reads} read in one turn");
    peers.iter().for_each(|peer| peer.shutdown(std::net::Shutdown::Write).unwrap());
    let ended = turns(&mut reactor, &mut crowd, ALL, |_, crowd| crowd.ended);
    assert!(ended <= rounds::READS_MAX, "{ended} ended in one turn");
    let left = |reactor: &Reactor, _: &Crowd| ALL - reactor.io.connections();
    turns(&mut reactor, &mut crowd, ALL, left);
}

fn bounds() -> Bounds {
    Bounds {
        connections: 16,
        admissions_per_second: 1_000_000,
        admissions_burst: 1_000_000,
        control_reserve: 0,
        control_unread_max: 1000,
        admin_connections: 0,
        close_ms: 1000,
        drain_ms: 1000,
        slow: Rules::new(&crate::limits::Limits::default()),
        input_bytes: 1 << 20,
    }
}

#[test]
fn pending_input_as_long_as_the_buffer_does_not_block_later_input() {
    let (mut reactor, address) = reactor();
    let mut handler = PausesFirst::default();
    let mut peer = std::net::TcpStream::connect(address).unwrap();
    let total = READ_BYTES + 1000;
    peer.write_all(&vec![b'x'; total]).unwrap();
    let mut is_full = false;
    while !is_full {
        reactor.turn(&mut handler).unwrap();
        // The peer's bytes may arrive in pieces: resume until pending input fills the buffer.
        if let Some(conn) = handler.conn {
            is_full = {
                let peer = reactor.io.peers.get(conn).unwrap();
                reactor.io.pending_input.counts(peer) == READ_BYTES
            };
            reactor.io.resume(conn);
        }
    }
    handler.is_listening = true;
    for _ in 0..1000 {
        reactor.turn(&mut handler).unwrap();
    }
    assert_eq!(handler.got, total);
}

/// Consumes nothing, and closes no connection.
#[derive(Default)]
struct ConsumesNothing {
    opened: usize,
    closed: Vec<CloseReason>,
}

impl Handler for ConsumesNothing {
    fn opened(&mut self, _: &mut impl Net, _: ConnId, _: Door, _: Address) {
        self.opened += 1;
    }
    fn received(
        &mut self,
        _: &mut impl Net,
        _: ConnId,
        _: &mut [u8],
    ) -> Result<usize, CloseReason> {
        Ok(0)
    }
    fn closed(&mut self, _: &mut impl Net, _: ConnId, reason: CloseReason) {
        self.closed.push(reason);
    }
}

#[test]
fn the_peer_with_most_pending_input_is_evicted_beyond_the_limit() {
    let bounds = Bounds { input_bytes: 40_000, ..bounds() };
    let mut reactor = restless(bounds);
    let address = listen(&mut reactor, Door::Web);
    let mut handler = ConsumesNothing::default();
    let mut peers = Vec::new();
    let mut total = 0;
    for bytes in [5000, 30_000, 4000, 5000] {
        let mut peer = std::net::TcpStream::connect(&address).unwrap();
        peer.write_all(&vec![b'x'; bytes]).unwrap();
        peers.push(peer);
        total += bytes;
        while handler.closed.is_empty() && reactor.io.pending_input.bytes < total {
            reactor.turn(&mut handler).unwrap();
        }
    }
    assert_eq!((handler.opened, &handler.closed[..]), (4, &[CloseReason::Full][..]));
    assert_eq!(reactor.io.pending_input.bytes, 14_000);
    assert_eq!(reactor.io.meters.input_evicted, 1);
    drop(peers);
}

/// So a table of admin clients, indexed by slot, stays short.
#[test]
fn admin_clients_get_low_slots_however_many_browsers_are_connected() {
    let bounds = Bounds { connections: 1000, admin_connections: 2, ..bounds() };
    let mut reactor = restless(bounds);
    let [web, admin] = [Door::Web, Door::Admin].map(|door| listen(&mut reactor, door));
    let mut crowd = Crowd::default();
    let opened = |_: &Reactor, crowd: &Crowd| crowd.conns.len();
    let connect = |address: &str| std::net::TcpStream::connect(address).unwrap();
    let browsers: Vec<_> = (0..200).map(|_| connect(&web)).collect();
    turns(&mut reactor, &mut crowd, 200, opened);
    for round in 1..=3 {
        let watchers = [connect(&admin), connect(&admin)];
        turns(&mut reactor, &mut crowd, 200 + 2 * round, opened);
        let slots = crowd.conns.iter().rev().take(2).map(|conn| conn.index());
        assert!(slots.max() < Some(20), "{:?}", crowd.conns);
        assert_eq!((reactor.connections(), reactor.io.admins()), (200, 2));
        drop(watchers);
        turns(&mut reactor, &mut crowd, 2, |reactor, _| 2 - reactor.io.admins());
    }
    drop(browsers);
    turns(&mut reactor, &mut crowd, 200, |reactor, _| 200 - reactor.connections());
    assert_eq!(reactor.io.peers.iter().count(), 0);
}

#[test]
fn browsers_above_a_lowered_limit_do_not_lock_out_back_ends() {
    let lowered = Bounds { control_reserve: 2, ..bounds() };
    let mut reactor = restless(Bounds { connections: 40, ..lowered });
    let [web, control] = [Door::Web, Door::Control].map(|door| listen(&mut reactor, door));
    let mut crowd = Crowd::default();
    let opened = |_: &Reactor, crowd: &Crowd| crowd.conns.len();
    let connect = |address: &str| std::net::TcpStream::connect(address).unwrap();
    let browsers: Vec<_> = (0..40).map(|_| connect(&web)).collect();
    turns(&mut reactor, &mut crowd, 40, opened);
    reactor.set_bounds(lowered);
    assert!(!reactor.is_within(Door::Web) && reactor.is_within(Door::Control));
    let back_ends = [connect(&control), connect(&control)];
    turns(&mut reactor, &mut crowd, 42, opened);
    assert!(!reactor.is_within(Door::Control));
    drop(back_ends);
    turns(&mut reactor, &mut crowd, 2, |reactor, _| 42 - reactor.connections());
    assert!(reactor.is_within(Door::Control));
    drop(browsers);
}

#[test]
fn lists_are_shrunk_after_a_crowd_has_left() {
    let now = crate::time::Clock::new().now();
    let mut io =
        super::io::Io::new(now, 1000, crate::slow::Rules::new(&crate::limits::Limits::default()));
    let conns = (0..20_000).map(|slot| ConnId::new(slot, 0));
    io.to_flush.extend(conns.clone());
    io.web_ready.extend(conns);
    io.web_ready.truncate(15_000);
    let capacity = io.web_ready.capacity();
    io.shrink();
    assert_eq!(
        (io.to_flush.len(), io.web_ready.capacity()),
        (20_000, capacity),
        "lists in use are not shrunk"
    );
    io.to_flush.clear();
    io.web_ready.truncate(3);
    io.shrink();
    assert!(
        io.to_flush.capacity() <= super::io::LIST_KEPT
            && io.web_ready.capacity() <= super::io::LIST_KEPT
    );
    assert_eq!(io.web_ready, [0, 1, 2].map(|slot| ConnId::new(slot, 0)));
}
