//! Peers and a handler that take every possible action at random, on real sockets: in any order no
//! byte is lost or duplicated, in either direction, and in the end nothing is left over.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

use super::*;
use crate::frame::{Frame, QueueMemory};

/// A wait that takes longer fails the test.
const DEADLINE_US: u64 = 20_000_000;

/// Random numbers that are the same for the same seed: xorshift.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// Returns the byte at that offset of the stream to or from a peer.
fn byte(who: usize, at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16).wrapping_mul(31).wrapping_add(who * 7) as u8
}

fn bytes(who: usize, from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| byte(who, at)).collect()
}

#[track_caller]
fn check(who: usize, from: usize, said: &[u8]) {
    let wrong = said.iter().zip(from..).find(|(said, at)| **said != byte(who, *at));
    assert_eq!(wrong, None, "{who}: from {from}");
}

/// What the handler knows of one connection.
#[derive(Debug)]
struct Known {
    conn: ConnId,
    got: usize,
    sent: usize,
    is_paused: bool,
    has_ended: bool,
    /// It was closed, and has time to take all its output.
    is_let_go: bool,
    /// It was closed, and does not get all its queued output.
    is_cut: bool,
    is_closed: bool,
}

struct Wild {
    chance: Chance,
    known: Vec<Known>,
    turned_away: usize,
    /// Closes a connection the more often the smaller this is.
    patience: usize,
    /// Consumes everything and sends nothing more.
    is_calm: bool,
}

impl Wild {
    fn new(chance: Chance, patience: usize) -> Wild {
        Wild { chance, known: Vec::new(), turned_away: 0, patience, is_calm: false }
    }

    /// Returns the place of a connection, which must be known and open.
    #[track_caller]
    fn find(&mut self, conn: ConnId) -> usize {
        let is_it = |known: &Known| known.conn == conn && !known.is_closed;
        self.known.iter().position(is_it).expect("it is open")
    }

    fn say(&mut self, net: &mut impl Net, who: usize) {
        let count = 1 + self.chance.below(20_000);
        let known = &mut self.known[who];
        if known.is_closed || known.is_let_go || known.is_cut {
            return;
        }
        let frame = Frame::from(bytes(who, known.sent, count));
        if self.chance.one_in(2) {
            net.send(known.conn, frame);
        } else if net.publish(known.conn, frame) {
            net.drop_all(known.conn);
            net.close(known.conn, CloseReason::SlowConsumer);
            known.is_cut = true;
            return;
        }
        known.sent += count;
    }

    fn do_something(&mut self, net: &mut impl Net, who: usize) {
        match self.chance.below(40) {
            0..10 => self.say(net, who),
            10..20 => {
                net.pause(self.known[who].conn);
                self.known[who].is_paused = true;
            }
            20..34 => {
                self.known[who].is_paused = false;
                net.resume(self.known[who].conn);
            }
            34..37 => {
                let at = self.chance.below(3);
                let at = (at > 0).then(|| net.now().mono.plus(at as u64));
                net.deadline(self.known[who].conn, at);
            }
            37 => net.offer(self.known[who].conn),
            38 if self.chance.one_in(self.patience) => {
                self.known[who].is_let_go = true;
                net.close(self.known[who].conn, CloseReason::GoingAway);
            }
            39 if self.chance.one_in(2 * self.patience) => {
                self.known[who].is_cut = true;
                net.expel(self.known[who].conn, CloseReason::Full);
            }
            _ => {}
        }
    }
}

impl Handler for Wild {
    fn opened(&mut self, _: &mut impl Net, conn: ConnId, _: Door, _: Address) {
        self.known.push(Known {
            conn,
            got: 0,
            sent: 0,
            is_paused: false,
            has_ended: false,
            is_let_go: false,
            is_cut: false,
            is_closed: false,
        });
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
        let who = self.find(conn);
        let known = &mut self.known[who];
        assert!(!known.is_paused && !known.is_let_go && !known.is_cut, "{who} must not be read");
        check(who, known.got, input);
        let is_all = self.is_calm || input.len() > READ_BYTES / 2 || self.chance.one_in(3);
        let used = if is_all { input.len() } else { self.chance.below(input.len()) };
        known.got += used;
        if !self.is_calm {
            if self.chance.one_in(300) {
                known.is_let_go = true;
                return Err(CloseReason::BadHttp);
            }
            self.do_something(net, who);
        }
        Ok(used)
    }
    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        let who = self.find(conn);
        assert!(
            !std::mem::replace(&mut self.known[who].has_ended, true),
            "the end of {who} is reported twice"
        );
        if self.is_calm || self.chance.one_in(2) {
            self.known[who].is_let_go = true;
            net.close(conn, CloseReason::PeerClosed);
        }
    }
    fn drained(&mut self, _: &mut impl Net, conn: ConnId) {
        self.find(conn);
    }
    fn timed_out(&mut self, net: &mut impl Net, conn: ConnId) {
        let who = self.find(conn);
        if !self.is_calm {
            self.do_something(net, who);
        }
    }
    fn too_slow(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        let who = self.find(conn);
        self.known[who].is_let_go = true;
        net.close(conn, reason);
    }
    fn closed(&mut self, _: &mut impl Net, conn: ConnId, _: CloseReason) {
        let who = self.find(conn);
        self.known[who].is_closed = true;
    }
    fn settle(&mut self, net: &mut impl Net) {
        if self.known.is_empty() {
            return;
        }
        let some = self.chance.below(self.known.len());
        for who in 0..self.known.len() {
            let known = &mut self.known[who];
            if known.is_closed {
                continue;
            }
            if !self.is_calm {
                if who == some {
                    self.do_something(net, who);
                }
                continue;
            }
            if known.has_ended && !known.is_let_go {
                known.is_let_go = true;
                net.close(known.conn, CloseReason::PeerClosed);
            } else if !known.is_let_go && !known.is_cut {
                known.is_paused = false;
                net.resume(known.conn);
            }
        }
    }
}

/// The other end of a connection.
#[derive(Debug)]
struct Peer {
    socket: Option<OwnedFd>,
    wrote: usize,
    read: usize,
    is_shut: bool,
    has_end: bool,
    /// It closed its socket: output in flight to it is lost, and input from it may be.
    has_left: bool,
}

impl Peer {
    fn new(socket: OwnedFd) -> Peer {
        let (wrote, read, is_shut, has_end, has_left) = (0, 0, false, false, false);
        Peer { socket: Some(socket), wrote, read, is_shut, has_end, has_left }
    }

    fn write(&mut self, who: usize, count: usize) {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.is_shut) else { return };
        match send(socket, &bytes(who, self.wrote, count), SendFlags::NOSIGNAL) {
            Ok(count) => self.wrote += count,
            Err(Errno::AGAIN) => {}
            // The server has closed the connection.
            Err(_) => self.is_shut = true,
        }
    }

    fn read(&mut self, who: usize, most: usize) {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.has_end) else { return };
        let mut buffer = vec![0; most];
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => self.has_end = true,
            Ok((count, _)) => {
                check(who, self.read, &buffer[..count]);
                self.read += count;
            }
            Err(Errno::AGAIN) => {}
            Err(_) => (self.has_end, self.has_left) = (true, true),
        }
    }

    fn do_something(&mut self, who: usize, chance: &mut Chance) {
        match chance.below(40) {
            0..16 => self.write(who, 1 + chance.below(30_000)),
            16..36 => self.read(who, 1 + chance.below(60_000)),
            36 if chance.one_in(8) => {
                self.is_shut = true;
                self.socket.iter().for_each(|socket| _ = shutdown(socket, Shutdown::Write));
            }
            37 if chance.one_in(30) => {
                self.has_left = true;
                let socket = self.socket.take();
                let reset = |socket| sockopt::set_socket_linger(socket, Some(Duration::ZERO));
                socket.iter().filter(|_| chance.one_in(2)).for_each(|socket| _ = reset(socket));
            }
            _ => {}
        }
    }
}

fn connect(address: &str) -> OwnedFd {
    match address.strip_prefix("unix:") {
        None => {
            let socket = std::net::TcpStream::connect(address).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.into()
        }
        Some(path) => {
            let socket = std::os::unix::net::UnixStream::connect(path).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.into()
        }
    }
}

/// How many runs: `FWS_TEST_WILD`, or 8.
fn seeds() -> u64 {
    std::env::var("FWS_TEST_WILD").ok().and_then(|it| it.parse().ok()).unwrap_or(8)
}

/// Returns a reactor with a listener of each kind, and their addresses.
fn doors(seed: u64) -> (Reactor, [String; 3]) {
    let bounds = Bounds { connections: 1000, close_ms: 60_000, ..bounds() };
    let mut reactor = restless(bounds);
    let path = std::env::temp_dir().join(format!("fws-wild-{}-{seed}", std::process::id()));
    let doors = [
        Listener::tcp(Door::Web, "127.0.0.1:0".parse().unwrap()).unwrap(),
        Listener::tcp(Door::Control, "127.0.0.1:0".parse().unwrap()).unwrap(),
        Listener::unix(Door::Web, &path).unwrap(),
    ];
    let addresses = doors.each_ref().map(Listener::address);
    let limits =
        Limits { kernel_send_bytes: 8192, kernel_receive_bytes: 8192, ..Limits::default() };
    for door in doors {
        door.bound(&limits).unwrap();
        reactor.add_door(door).unwrap();
    }
    (reactor, addresses)
}

/// Returns whether both ends have all that they are to get.
fn has_all(peer: &Peer, known: &Known) -> bool {
    match known {
        _ if peer.has_left => known.is_closed,
        Known { is_cut: true, .. } => known.is_closed && peer.has_end,
        Known { is_let_go: true, .. } => known.is_closed && peer.has_end && peer.read == known.sent,
        _ => peer.read == known.sent && known.got == peer.wrote && !peer.is_shut,
    }
}

/// Acts at random, and then waits until both ends of all have all that they are to get.
fn run(seed: u64) {
    let chance = &mut Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let (mut reactor, addresses) = doors(seed);
    let mut wild = Wild::new(Chance(chance.0 ^ 0xABCD), 10);
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..600 {
        if peers.len() < 12 && chance.one_in(20) {
            peers.push(Peer::new(connect(&addresses[chance.below(3)])));
            while wild.known.len() < peers.len() {
                reactor.turn(&mut wild).unwrap();
            }
        }
        for _ in 0..chance.below(4) {
            let who = chance.below(peers.len().max(1));
            peers.iter_mut().skip(who).take(1).for_each(|peer| peer.do_something(who, chance));
        }
        reactor.turn(&mut wild).unwrap();
    }
    wild.is_calm = true;
    let watch = Stopwatch::start();
    while let Some(who) = peers.iter().zip(&wild.known).position(|(one, it)| !has_all(one, it)) {
        reactor.turn(&mut wild).unwrap();
        (0..).zip(&mut peers).for_each(|(who, peer)| peer.read(who, READ_BYTES));
        let (peer, known) = (&peers[who], &wild.known[who]);
        let is_late = watch.elapsed_us() > DEADLINE_US;
        assert!(!is_late, "seed {seed}: {who} waits in vain: {peer:?}, {known:?}");
    }
    drop(peers);
    leave(seed, &mut reactor, &mut wild);
}

/// All peers have gone: no connection stays known, and nothing is left over.
fn leave(seed: u64, reactor: &mut Reactor, wild: &mut Wild) {
    let watch = Stopwatch::start();
    while reactor.connections() > 0 || wild.known.iter().any(|known| !known.is_closed) {
        reactor.turn(wild).unwrap();
        assert!(watch.elapsed_us() < DEADLINE_US, "seed {seed}: a connection stays");
    }
    let io = &reactor.io;
    assert!(
        io.frames.is_empty() && io.frames.bytes() == 0 && io.pending_input.bytes == 0,
        "seed {seed}"
    );
    assert!(
        io.wheel.is_empty() && io.closing.count == 0 && io.closed_unreported.is_empty(),
        "seed {seed}"
    );
    assert_eq!((io.overdue_at(), io.queue_memory()), (None, QueueMemory::default()), "seed {seed}");
    assert!(io.turned_away.is_empty(), "seed {seed}");
}

/// More connect than there is room for, and many are closed.
fn run_full(seed: u64) {
    const ROOM: usize = 5;
    crate::log::mute(true);
    let chance = &mut Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut reactor = restless(Bounds { connections: ROOM, ..bounds() });
    let mut door = Listener::tcp(Door::Web, "127.0.0.1:0".parse().unwrap()).unwrap();
    door.refuse_with(|_, _| Frame::from(&b"full"[..]));
    let address = door.address();
    reactor.add_door(door).unwrap();
    let mut wild = Wild::new(Chance(chance.0 ^ 0xABCD), 2);
    // Those admitted are as many as are known; the others get the refusal, and no byte more.
    let (mut peers, mut others): (Vec<Peer>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        if chance.one_in(8) {
            let socket = connect(&address);
            let before = wild.turned_away;
            while wild.known.len() == peers.len() && wild.turned_away == before {
                reactor.turn(&mut wild).unwrap();
            }
            match wild.turned_away == before {
                true => peers.push(Peer::new(socket)),
                false => others.push(socket),
            }
        }
        let who = chance.below(peers.len().max(1));
        peers.iter_mut().skip(who).take(1).for_each(|peer| peer.do_something(who, chance));
        if chance.one_in(4) && !others.is_empty() {
            let other = others.swap_remove(chance.below(others.len()));
            let mut words = [0; 100];
            match recv(&other, &mut words[..], RecvFlags::empty()) {
                Ok((count, _)) => assert!(matches!(&words[..count], b"" | b"full"), "seed {seed}"),
                Err(error) => assert!(matches!(error, Errno::AGAIN | Errno::CONNRESET)),
            }
        }
        reactor.turn(&mut wild).unwrap();
        let open = wild.known.iter().filter(|known| !known.is_closed).count();
        assert!(open <= reactor.let_in() && reactor.let_in() <= ROOM, "seed {seed}");
        assert!(reactor.connections() <= ROOM + 8, "seed {seed}");
        assert_eq!(reactor.io.closing.count, reactor.let_in() - open, "seed {seed}");
    }
    drop((peers, others));
    wild.is_calm = true;
    leave(seed, &mut reactor, &mut wild);
}

#[test]
fn no_byte_is_lost_in_any_order_of_events() {
    (0..seeds()).for_each(run);
}

/// The kernel takes it out of the stream, ends a read in front of it, and reports what stands
/// behind it together with it, once.
#[test]
fn urgent_data_neither_ends_nor_delays_what_follows_it() {
    for door in [Door::Web, Door::Control] {
        let mut reactor = restless(bounds());
        let address = listen(&mut reactor, door);
        let mut handler = PausesFirst { is_listening: true, ..PausesFirst::default() };
        let mut peer = std::net::TcpStream::connect(&address).unwrap();
        for round in 1..4 {
            peer.write_all(b"before").unwrap();
            send(&peer, b"!", SendFlags::OOB).unwrap();
            peer.write_all(b"behind").unwrap();
            let watch = Stopwatch::start();
            while handler.got < 12 * round && watch.elapsed_us() < DEADLINE_US {
                reactor.turn(&mut handler).unwrap();
            }
            assert_eq!(handler.got, 12 * round, "the rest waits for more");
        }
        assert_eq!(reactor.connections(), 1, "it has not ended");
        assert!(handler.conn.is_some_and(|conn| !reactor.io.is_leaving(conn)));
        // Once all has been read a turn waits again.
        (0..9).for_each(|_| reactor.turn(&mut handler).unwrap());
        assert!(reactor.io.web_ready.is_empty() && reactor.io.control_ready.is_empty());
    }
}

#[test]
fn a_full_server_leaks_nothing_as_connections_come_and_go() {
    (0..seeds()).for_each(run_full);
}
