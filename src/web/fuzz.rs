//! Properties of the web listener that hold for any input. Owns a deterministic in-memory network
//! of a few connections, and an application that echoes. Called by the fuzzer and by the test that
//! replays its corpus, never by the server.

use super::{Application, Message, Outlet, Parting, Service, Standalone};
use crate::address::{Address, Proxies};
use crate::codec::http::{self, Head, Response};
use crate::codec::sockjs;
use crate::codec::ws::Bounds;
use crate::edge::{ConnId, Door, Handler, Net};
use crate::frame::{FRAME_COST_BYTES, Frame, QueueMemory};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::{Millis, Now, UnixMillis};

/// More turns than the listener needs to come to rest.
const TURNS_MAX: usize = 10_000;

/// A message that renews a session, and one that changes its user.
const RENEWAL: &str = "renew";
const OTHER: &str = "other";

/// Echoes every message.
#[derive(Debug, Default)]
struct Echo {
    /// There is no room for answers.
    is_short: bool,
    /// All sessions have expired.
    is_over: bool,
}

impl Application for Echo {
    type Peer = ();

    fn opened(&mut self, _: &mut Outlet<'_, impl Net>, _: usize) -> Result<(), Parting> {
        Ok(())
    }

    fn message(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        _: &mut (),
        message: Message<'_>,
    ) -> Result<(), Parting> {
        match message {
            Message::Text("end") => return Err(CloseReason::Disconnected.into()),
            Message::Text(text) => {
                self.is_over &= text != RENEWAL;
                outlet.send(text);
            }
            Message::Binary(bytes) => outlet.send_binary(bytes),
        }
        Ok(())
    }

    fn is_short(&self, _: &impl Net) -> bool {
        self.is_short
    }

    fn has_room(&self, _: &impl Net, _: &(), message: &str) -> bool {
        !self.is_short || message == RENEWAL
    }

    fn deadline(&self, _: &(), now: Now) -> Option<Millis> {
        self.is_over.then_some(now.mono)
    }

    fn timed_out(&mut self, _: &mut (), _: Now) -> Result<(), Parting> {
        if self.is_over { Err(CloseReason::TokenExpired.into()) } else { Ok(()) }
    }

    fn renews(&self, _: &(), message: &str, _: Now) -> Option<bool> {
        matches!(message, RENEWAL | OTHER).then_some(message == RENEWAL)
    }

    fn bounds(&self, _: &()) -> Bounds {
        Bounds { message_bytes: 2048, fragments: 4 }
    }

    fn page(&mut self, _: &mut impl Net, _: &Head<'_>) -> Response {
        Response::new(404).text("nothing\n")
    }
}

/// One connection.
#[derive(Debug, Default)]
struct Peer {
    input: Vec<u8>,
    output: Vec<u8>,
    queued: usize,
    taken: u32,
    is_open: bool,
    is_closing: bool,
    reason: Option<CloseReason>,
    is_paused: bool,
    is_ready: bool,
    deadline: Option<Millis>,
    /// Bytes of its input that wait to be handled.
    kept: usize,
}

/// The network: every peer takes its output at the end of the turn.
#[derive(Debug, Default)]
struct FakeNet {
    peers: Vec<Peer>,
    now: Millis,
    /// No peer has taken anything for a long time.
    is_stuck: bool,
    /// Bytes of answers in flight to other connections.
    answers: usize,
}

impl FakeNet {
    fn open(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.peers.get_mut(conn.index()).filter(|peer| peer.is_open && !peer.is_closing)
    }
}

impl Net for FakeNet {
    fn now(&self) -> Now {
        Now { mono: self.now, unix: UnixMillis(1_800_000_000_000 + self.now.0) }
    }

    fn random(&mut self, out: &mut [u8]) {
        out.fill(7);
    }

    fn send(&mut self, conn: ConnId, frame: Frame) {
        if let Some(peer) = self.open(conn) {
            peer.output.extend_from_slice(&frame);
            peer.queued += frame.len() + FRAME_COST_BYTES;
        }
    }

    fn publish(&mut self, conn: ConnId, frame: Frame) -> bool {
        self.send(conn, frame);
        self.is_stuck
    }

    fn queue_memory(&self) -> QueueMemory {
        QueueMemory { answers: self.answers, ..QueueMemory::default() }
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.peers.get(conn.index()).map_or(0, |peer| peer.queued)
    }

    fn taken(&self, conn: ConnId) -> u32 {
        self.peers.get(conn.index()).map_or(0, |peer| peer.taken)
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        if let Some(peer) = self.open(conn) {
            (peer.is_closing, peer.reason) = (true, Some(reason));
        }
    }

    fn deadline(&mut self, conn: ConnId, at: Option<Millis>) {
        if let Some(peer) = self.open(conn) {
            peer.deadline = at;
        }
    }

    fn note_input_bytes(&mut self, conn: ConnId, bytes: usize) {
        if let Some(peer) = self.open(conn) {
            peer.kept = bytes;
        }
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(peer) = self.open(conn) {
            peer.is_paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(peer) = self.open(conn) {
            (peer.is_paused, peer.is_ready) = (false, true);
        }
    }
}

#[derive(Debug)]
struct World {
    door: Standalone<Echo>,
    net: FakeNet,
}

impl World {
    fn new() -> World {
        let limits = Limits {
            http_head_bytes: 1024,
            http_headers: 8,
            http_target_bytes: 256,
            http_body_bytes: 4096,
            answers_pause_bytes: 2048,
            stream_response_bytes: 2048,
            sessions: 8,
            connections_per_address: 4,
            ..Limits::default()
        };
        let net = FakeNet::default();
        let services = vec![
            Service::new("/socket", &limits),
            Service { cookie: true, websocket: false, ..Service::new("/s", &limits) },
        ];
        let proxies = Proxies { networks: Vec::new(), is_unix: true };
        let door = Standalone::new(services, limits, net.now(), Echo::default()).believing(proxies);
        World { door, net }
    }

    fn connect(&mut self, from: Address) -> ConnId {
        let conn = ConnId::new(self.net.peers.len() as u32, 0);
        self.net.peers.push(Peer { is_open: true, ..Peer::default() });
        self.door.opened(&mut self.net, conn, Door::Web, from);
        conn
    }

    /// Gives a connection input, and runs turns until nothing is left to do.
    fn give(&mut self, conn: ConnId, bytes: &[u8]) {
        if let Some(peer) = self.net.open(conn) {
            peer.input.extend_from_slice(bytes);
            peer.is_ready = true;
        }
        for _ in 0..TURNS_MAX {
            if !self.turn() && self.door.due(&self.net).is_none_or(|at| at > self.net.now) {
                self.door.check_invariants();
                return;
            }
        }
        panic!("the door does not come to rest: {self:?}");
    }

    fn turn(&mut self) -> bool {
        self.door.tick(&mut self.net);
        let mut is_busy = false;
        for slot in 0..self.net.peers.len() {
            let conn = ConnId::new(slot as u32, 0);
            let Some(peer) = self.net.open(conn) else { continue };
            if !std::mem::take(&mut peer.is_ready) || peer.is_paused || peer.input.is_empty() {
                continue;
            }
            is_busy = true;
            let mut input = std::mem::take(&mut peer.input);
            match self.door.received(&mut self.net, conn, &mut input) {
                Ok(used) => {
                    input.drain(..used);
                    self.net.peers[slot].input.splice(..0, input);
                }
                Err(reason) => self.net.close(conn, reason),
            }
        }
        self.door.settle(&mut self.net);
        for slot in 0..self.net.peers.len() {
            let conn = ConnId::new(slot as u32, 0);
            let peer = &mut self.net.peers[slot];
            if peer.is_closing && peer.is_open {
                peer.is_open = false;
                self.door.closed(&mut self.net, conn, CloseReason::Answered);
                is_busy = true;
            }
            let peer = &mut self.net.peers[slot];
            let was_queued = std::mem::take(&mut peer.queued) > 0;
            peer.taken += u32::from(was_queued);
            if peer.is_open && peer.is_paused && was_queued {
                self.door.drained(&mut self.net, conn);
                is_busy = true;
            }
        }
        is_busy
    }

    fn end(mut self) {
        self.door.stopping(&mut self.net, Millis(0));
        while self.turn() {}
        self.door.check_invariants();
        assert_eq!(self.door.sessions(), 0, "somebody is left");
    }
}

/// The output of a connection whose input arrives in pieces of that length, and whether it is open.
fn output(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut world = World::new();
    let conn = world.connect(Address::Unix);
    for piece in bytes.chunks(piece) {
        world.give(conn, piece);
    }
    let peer = &mut world.net.peers[conn.index()];
    let (mut output, is_open) = (std::mem::take(&mut peer.output), peer.is_open);
    world.end();
    // Whether `100 Continue` is sent rightly depends on when the body arrives.
    while let Some(at) = find(&output, http::CONTINUE) {
        output.drain(at..at + http::CONTINUE.len());
    }
    (output, is_open)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Fuzz target: the bytes of one connection from a trusted proxy. The first byte gives the length
/// of the pieces in which the others arrive.
///
/// # Panics
/// If the pieces make a difference, an answer is malformed, or an invariant is broken.
pub fn fuzz_connection(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    let whole = output(bytes, bytes.len().max(1));
    let pieces = output(bytes, 1 + usize::from(*first));
    assert_eq!(whole, pieces, "the pieces make a difference");
    check_answers(&whole.0);
}

/// Checks that the output is a series of answers, up to one that streams or upgrades.
fn check_answers(mut output: &[u8]) {
    while !output.is_empty() {
        let end = http::find_head_end(output, 0).expect("an answer has a head");
        let head = str::from_utf8(&output[..end]).expect("our heads are text");
        let status: u16 =
            head.strip_prefix("HTTP/1.1 ").and_then(|h| h.get(..3)?.parse().ok()).expect("status");
        assert!((100..506).contains(&status), "{head}");
        let lengths = head.matches("Content-Length: ").count();
        let is_chunked = head.contains("Transfer-Encoding: chunked");
        assert!(lengths + usize::from(is_chunked) <= 1, "{head}");
        assert!(!head.contains("\r\n\r\n\r\n") && !head.contains('\0'), "{head}");
        if status == 101 || is_chunked || (lengths == 0 && !matches!(status, 100 | 204 | 304)) {
            return;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
        let rest = &output[end..];
        // The answer to HEAD has a length and no body.
        let has_body = rest.len() >= length && !rest.starts_with(b"HTTP/1.1 ");
        output = &rest[if has_body { length } else { 0 }..];
    }
}

/// Fuzz target: a path under `/socket`, a content type and a body, separated by newlines, posted to
/// a listener with one open session, `0/0`.
///
/// # Panics
/// If an accepted body does not come back as its messages, or an invariant is broken.
pub fn fuzz_sockjs(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let path = parts.next().unwrap_or_default();
    let (kind, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut world = World::new();
    let receiver = world.connect(Address::Unix);
    let poll = b"POST /socket/0/0/xhr HTTP/1.1\r\nHost: a\r\n\r\n";
    world.give(receiver, poll);
    assert!(world.net.peers[receiver.index()].output.ends_with(b"\r\n\r\no\n"));
    world.net.peers[receiver.index()].output.clear();
    for method in ["POST", "GET", "OPTIONS"] {
        let conn = world.connect(Address::Unix);
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        let head = format!("{method} /socket");
        let request = [
            head.as_bytes(),
            path,
            b" HTTP/1.1\r\nHost: a\r\nContent-Type: ",
            kind,
            b"\r\n",
            length.as_bytes(),
            body,
        ];
        world.give(conn, &request.concat());
        check_answers(&world.net.peers[conn.index()].output);
    }
    world.give(receiver, poll);
    let output = std::mem::take(&mut world.net.peers[receiver.index()].output);
    if path == b"/0/0/xhr_send" && matches!(kind, b"" | b"text/plain" | b"application/json") {
        check_echo(body, &output);
    }
    world.end();
}

/// Checks that the messages of a body come back in a poll.
fn check_echo(body: &[u8], output: &[u8]) {
    let Ok(messages) = sockjs::parse_body(body) else { return assert_eq!(output, b"") };
    let messages: Vec<String> = messages.map(std::borrow::Cow::into_owned).collect();
    let is_odd = messages.iter().any(|message| message == "end" || message.len() > 2048);
    let bytes: usize = messages.iter().map(|message| 6 * message.len() + 128).sum();
    if is_odd || bytes > 2048 || body.len() > 4096 {
        return;
    }
    let start = http::find_head_end(output, 0).unwrap_or(0);
    let frame = str::from_utf8(&output[start..]).expect("frames are text");
    let got: Vec<String> = match frame.strip_prefix('a') {
        Some(array) => serde_json::from_str(array).expect("an array of strings"),
        None => Vec::new(),
    };
    assert_eq!(got, messages);
}

#[cfg(test)]
mod tests {
    mod endings;
    mod renewal;

    use super::super::SessionId;
    use super::*;
    use crate::publication::Publication;

    #[test]
    fn fuzz_targets_accept_any_input_and_detect_wrong_output() {
        for data in
            [&b""[..], b"\0", b"\xff\r\n\r\n", b"\x03GET /socket HTTP/1.1\r\nHost: a\r\n\r\n"]
        {
            fuzz_connection(data);
            fuzz_sockjs(data);
        }
        fuzz_sockjs(b"/0/0/xhr_send\ntext/plain\n[\"a\", 5, \"\\u2028\"]");
        let (got, is_open) = output(b"GET /s HTTP/1.0\r\n\r\n", 3);
        assert!(got.ends_with(b"Welcome to SockJS!\n") && !is_open);
        let broken = std::panic::catch_unwind(|| check_answers(b"HTTP/1.1 200 OK\r\n"));
        assert!(broken.is_err());
        let broken = std::panic::catch_unwind(|| check_echo(b"[\"a\"]", b"a[\"b\"]"));
        assert!(broken.is_err());
    }

    #[test]
    fn pipelined_requests_are_answered_one_per_turn() {
        let mut world = World::new();
        let conn = world.connect(Address::Unix);
        let get = "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
        let whole = [get, post].concat().repeat(5);
        // The input of the first turn ends inside the last request's body.
        let (now, later) = whole.split_at(whole.len() - 1);
        let answers = |world: &World| {
            let output = &world.net.peers[conn.index()].output;
            output.windows(8).filter(|window| window == b"HTTP/1.1").count()
        };
        let peer = &mut world.net.peers[conn.index()];
        peer.input = now.into();
        peer.is_ready = true;
        for count in 1..=9 {
            assert!(world.turn());
            assert_eq!(answers(&world), count);
        }
        world.give(conn, later.as_bytes());
        assert_eq!(answers(&world), 10);
        world.end();
    }

    #[test]
    fn a_large_publication_to_many_polls_takes_several_turns() {
        for (bytes, turns) in [(50_000, &[6, 8][..]), (100_000, &[3, 6, 8]), (300_000, &[2, 3, 4])]
        {
            let mut world = World::new();
            let polls = (0..8).map(|number| {
                let conn = world.connect(Address::Ip([127, 0, 0, number].into()));
                let poll = format!("POST /socket/0/{number}/xhr HTTP/1.1\r\nHost: a\r\n\r\n");
                world.give(conn, poll.repeat(2).as_bytes());
                conn
            });
            let polls: Vec<ConnId> = polls.collect();
            let data = format!("\"{}\"", "x".repeat(bytes));
            let publication = Publication::new("c", &data);
            let World { door, net } = &mut world;
            let ids: Vec<SessionId> =
                door.web.sessions.iter().map(|(id, _)| SessionId::of_http(id)).collect();
            for id in ids {
                assert!(!door.web.publish(net, id, &publication));
            }
            door.web.check_invariants();
            for count in turns {
                world.turn();
                let peers = polls.iter().map(|conn| &world.net.peers[conn.index()]);
                assert_eq!(peers.filter(|peer| peer.output.len() > bytes).count(), *count);
            }
            world.end();
        }
    }

    /// A streaming answer always has a receiver, however long the last answer took.
    #[test]
    fn a_streaming_receiver_is_slow_when_the_network_reports_it() {
        let mut world = World::new();
        let conn = world.connect(Address::Unix);
        world.give(conn, b"POST /socket/0/0/xhr_streaming HTTP/1.1\r\nHost: a\r\n\r\n");
        let World { door: Standalone { web, .. }, net } = &mut world;
        let (id, _) = web.sessions.iter().next().unwrap();
        web.sessions.get_mut(id).unwrap().session.took_ms = 10_000;
        (net.now, net.is_stuck) = (Millis(5000), true);
        assert!(web.publish(net, SessionId::of_http(id), &Publication::new("c", "1")));
        world.end();
    }

    #[test]
    fn a_poll_waiting_for_room_is_answered_after_its_session_has_ended() {
        let mut world = World::new();
        let conn = world.connect(Address::Unix);
        world.give(conn, b"POST /socket/0/0/xhr HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2).as_slice());
        world.door.app.is_short = true;
        let data = format!("\"{}\"", "x".repeat(10_000));
        let World { door: Standalone { web, app, .. }, net } = &mut world;
        let id = web.sessions.iter().map(|(id, _)| SessionId::of_http(id)).next().unwrap();
        assert!(!web.publish(net, id, &Publication::new("c", &data)));
        web.settle(net, app);
        assert!(web.waits_for_room());
        web.dismiss(net, app, id, CloseReason::Disconnected.into());
        web.settle(net, app);
        // So many stale ids that the queue is cleaned up.
        (0..10_000).for_each(|_| web.room_queue.push(SessionId::NOWHERE));
        web.settle(net, app);
        app.is_short = false;
        web.settle(net, app);
        assert!(net.peers[conn.index()].output.ends_with(b"xxx\\\"}\"]\n"));
        web.check_nobody_waits();
        world.end();
    }

    /// The heartbeat is short, and nothing else is sent with it.
    #[test]
    fn without_room_a_receiver_gets_only_heartbeats() {
        for transport in ["xhr", "xhr_streaming"] {
            let mut world = World::new();
            let conn = world.connect(Address::Unix);
            let ask = format!("POST /socket/0/0/{transport} HTTP/1.1\r\nHost: a\r\n\r\n");
            world.give(conn, b"POST /socket/0/0/xhr HTTP/1.1\r\nHost: a\r\n\r\n");
            let data = format!("\"{}\"", "x".repeat(10_000));
            let World { door: Standalone { web, .. }, net } = &mut world;
            let id = web.sessions.iter().map(|(id, _)| SessionId::of_http(id)).next().unwrap();
            assert!(!web.publish(net, id, &Publication::new("c", &data)));
            // The room is filled by other output: this session's own would be sent.
            (world.door.app.is_short, world.net.answers) = (true, usize::MAX);
            world.give(conn, ask.as_bytes());
            world.net.peers[conn.index()].output.clear();
            world.net.now = Millis(Limits::default().heartbeat_ms as u64);
            world.give(conn, b"");
            let output = String::from_utf8_lossy(&world.net.peers[conn.index()].output);
            assert!(
                output.contains("h\n") && !output.contains("xxx"),
                "{transport}: {output:.200}"
            );
            world.door.app.is_short = false;
            world.give(conn, if transport == "xhr" { ask.as_bytes() } else { b"" });
            let output = String::from_utf8_lossy(&world.net.peers[conn.index()].output);
            assert!(output.contains("xxx"), "{transport}: {output:.200}");
            world.end();
        }
    }

    #[test]
    fn memory_is_released_after_a_crowd_has_left() {
        let mut world = World::new();
        let first = world.connect(Address::Unix);
        let crowd: Vec<ConnId> = (0..10_000).map(|_| world.connect(Address::Unix)).collect();
        for conn in crowd {
            world.net.close(conn, CloseReason::PeerClosed);
        }
        world.turn();
        world.door.check_invariants();
        world.give(first, b"GET /socket HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(world.net.peers[first.index()].output.ends_with(b"Welcome to SockJS!\n"));
        world.end();
    }
}
