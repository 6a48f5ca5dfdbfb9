//! Connections that are closing, on real sockets.

use super::*;

#[test]
fn a_closing_connection_gives_its_place_to_a_newcomer() {
    let (mut reactor, address) = reactor();
    reactor.set_bounds(Bounds { connections: 3, ..bounds() });
    let mut crowd = Crowd::default();
    let mut peers = gather(&mut reactor, &mut crowd, &address, 3);
    // They are closing and stay open: the oldest of them is cut for each newcomer.
    let [first, second, third] = crowd.conns[..] else { panic!("three are connected") };
    for conn in [second, first, third] {
        reactor.io.close(conn, CloseReason::BadHttp);
    }
    for (came, gone) in [(4, second), (5, first)] {
        peers.push(std::net::TcpStream::connect(&address).unwrap());
        turns(&mut reactor, &mut crowd, came, |_, crowd| crowd.conns.len());
        assert!(reactor.io.peers.get(gone).is_none() && reactor.io.peers.get(third).is_some());
        assert_eq!(reactor.connections(), 3);
    }
    // No open connection is cut for a newcomer, and nothing is left of the closed ones.
    peers.push(std::net::TcpStream::connect(&address).unwrap());
    turns(&mut reactor, &mut crowd, 6, |_, crowd| crowd.conns.len());
    peers.push(std::net::TcpStream::connect(&address).unwrap());
    (0..50).for_each(|_| reactor.turn(&mut crowd).unwrap());
    assert_eq!((crowd.conns.len(), reactor.connections(), reactor.io.closing.count), (6, 3, 0));
    // Of many that are closed at once none stays in the queue.
    for conn in crowd.conns.drain(..).skip(3) {
        reactor.io.close(conn, CloseReason::BadHttp);
        reactor.io.free(conn);
    }
    assert_eq!(reactor.io.closing.count, 0);
}

#[test]
fn a_closing_connection_is_not_cut_when_a_lost_one_frees_a_place() {
    let (mut reactor, address) = reactor();
    reactor.set_bounds(Bounds { connections: 3, ..bounds() });
    let mut crowd = Crowd::default();
    let _peers = gather(&mut reactor, &mut crowd, &address, 3);
    let [closing, lost, _] = crowd.conns[..] else { panic!("three are connected") };
    reactor.io.close(closing, CloseReason::BadHttp);
    reactor.io.lose(lost, CloseReason::PeerLost);
    reactor.make_place(&mut crowd, Door::Web);
    assert!(reactor.io.peers.get(closing).is_some() && reactor.io.peers.get(lost).is_none());
}

/// Sends "bye" to the first connection and closes it, in the tick after `is_due` is set.
#[derive(Default)]
struct Kick {
    conns: Vec<ConnId>,
    is_due: bool,
}

impl Handler for Kick {
    fn opened(&mut self, _: &mut impl Net, conn: ConnId, _: Door, _: Address) {
        self.conns.push(conn);
    }
    fn received(
        &mut self,
        _: &mut impl Net,
        _: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        Ok(input.len())
    }
    fn tick(&mut self, net: &mut impl Net) {
        if std::mem::take(&mut self.is_due) {
            net.send(self.conns[0], Frame::from(b"bye".as_slice()));
            net.close(self.conns[0], CloseReason::PeerClosed);
        }
    }
}

#[test]
fn final_output_is_written_before_a_newcomer_takes_the_place() {
    let (mut reactor, address) = reactor();
    reactor.set_bounds(Bounds { connections: 1, ..bounds() });
    let mut kick = Kick::default();
    let mut kicked = std::net::TcpStream::connect(&address).unwrap();
    while kick.conns.is_empty() {
        reactor.turn(&mut kick).unwrap();
    }
    let _newcomer = std::net::TcpStream::connect(&address).unwrap();
    kick.is_due = true;
    while kick.conns.len() < 2 {
        reactor.turn(&mut kick).unwrap();
    }
    let mut words = [0; 3];
    kicked.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"bye");
}

/// Returns a reactor stopped by a signal, and the stream on which further ones are sent.
fn stopped() -> (Reactor, std::os::unix::net::UnixStream) {
    let mut reactor = restless(bounds());
    let (mut signals, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    reactor.add_signals(UnixStream::from_std(ours), Signal::Stop).unwrap();
    signals.write_all(&[0]).unwrap();
    reactor.run(&mut Crowd::default()).unwrap();
    (reactor, signals)
}

/// The work after the last turn may take long: a second signal cuts it short.
#[test]
fn a_second_stop_signal_is_noticed_after_the_last_turn() {
    let (mut reactor, mut signals) = stopped();
    assert!(!reactor.is_urged());
    signals.write_all(&[0, 0]).unwrap();
    assert!(!reactor.is_urged(), "signals that arrive together count as one");
    reactor.same_stop_until = Millis(0);
    assert!(!reactor.is_urged());
    signals.write_all(&[0]).unwrap();
    assert!(reactor.is_urged() && reactor.is_urged());
}

/// Signals are read now and then: one may be read long after it arrived.
#[test]
fn a_signal_sent_with_the_first_is_not_a_second_one_when_read_late() {
    let (mut reactor, mut signals) = stopped();
    reactor.same_stop_until = Millis(u64::MAX);
    signals.write_all(&[0]).unwrap();
    assert!(!reactor.is_urged(), "it arrived with the first");
    let looked_at = reactor.io.now.mono;
    reactor.same_stop_until = looked_at.plus(1);
    signals.write_all(&[0]).unwrap();
    while reactor.read_clock(&Stopwatch::start()).mono < reactor.same_stop_until {}
    assert!(!reactor.is_urged(), "it may have arrived with the first");
    signals.write_all(&[0]).unwrap();
    assert!(reactor.is_urged(), "the last read was later than that, and found none");
}

#[test]
fn a_refused_client_that_stays_gives_its_place_to_the_next() {
    let mut reactor = restless(Bounds { connections: 0, ..bounds() });
    let mut door = Listener::tcp(Door::Web, "127.0.0.1:0".parse().unwrap()).unwrap();
    door.refuse_with(|_, _| Frame::from(&b"full"[..]));
    let address = door.address();
    reactor.add_door(door).unwrap();
    let come = |_| {
        let mut peer = std::net::TcpStream::connect(&address).unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        peer
    };
    let peers: Vec<_> = (0..30).map(come).collect();
    let mut crowd = Crowd::default();
    while crowd.turned_away < peers.len() {
        reactor.turn(&mut crowd).unwrap();
        let is_done = |conn: &ConnId| reactor.io.is_done(*conn);
        let waits = reactor.io.turned_away.iter().all(is_done) && reactor.accept_due().is_none();
        assert!(
            !waits || crowd.turned_away == peers.len(),
            "the next client waits for refused ones"
        );
        assert!(reactor.connections() <= 8);
    }
    // A client that had sent something and was not waited for still gets its response.
    while reactor.io.turned_away.iter().any(|conn| !reactor.io.is_done(*conn)) {
        reactor.turn(&mut crowd).unwrap();
    }
    for mut peer in peers {
        let mut words = String::new();
        peer.read_to_string(&mut words).unwrap();
        assert_eq!(words, "full");
    }
    while reactor.connections() > 0 {
        reactor.turn(&mut crowd).unwrap();
    }
    assert_eq!((crowd.conns.len(), reactor.io.turned_away.len()), (0, 0));
}

#[test]
fn connections_closed_in_a_turn_are_reported_before_settle() {
    /// Closes each connection that sends something; records how many are open at `settle`.
    #[derive(Default)]
    struct Settler {
        open: usize,
        settled_with: Vec<usize>,
    }
    impl Handler for Settler {
        fn opened(&mut self, _: &mut impl Net, _: ConnId, _: Door, _: Address) {
            self.open += 1;
        }
        fn received(
            &mut self,
            net: &mut impl Net,
            conn: ConnId,
            input: &mut [u8],
        ) -> Result<usize, CloseReason> {
            net.close(conn, CloseReason::PeerClosed);
            Ok(input.len())
        }
        fn closed(&mut self, _: &mut impl Net, _: ConnId, _: CloseReason) {
            self.open -= 1;
        }
        fn settle(&mut self, net: &mut impl Net) {
            if net.meters().received_bytes > 0 {
                self.settled_with.push(self.open);
            }
        }
    }
    let (mut reactor, address) = reactor();
    let mut settler = Settler::default();
    let mut peer = std::net::TcpStream::connect(address).unwrap();
    peer.write_all(b"x").unwrap();
    while settler.settled_with.is_empty() {
        reactor.turn(&mut settler).unwrap();
    }
    assert_eq!(settler.settled_with, [0]);
}
