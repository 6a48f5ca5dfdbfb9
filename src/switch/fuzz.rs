//! Fuzz targets for the whole switch: its invariants hold whatever browsers and back ends send. A
//! few peers in an in-memory network play a script; the input determines everything that happens.
//! Called by the fuzzer and by the test that replays its corpus, never by the server.
//!
//! An input is a script that a person can read and write. A line is one letter and its text:
//!
//! | letter | what happens |
//! |---|---|
//! | `a` `b` | a browser sends the text as one WebSocket message |
//! | `c` `d` | another does so over SockJS |
//! | `h` | an HTTP client sends the text and a newline to the browsers' port |
//! | `k` `l` | a back end sends the text as one command |
//! | upper case | the same peer sends the text as raw bytes, without framing |
//! | `.` | time passes, 40 ms times the value of the next byte |
//! | `!` | the peer named next stops reading, or reads again |
//! | `$` | the peer named next half-closes: it sends no more |
//! | `~` | the connection of the peer named next is lost |
//!
//! A peer that is not connected connects first. After each line the switch runs until it is idle,
//! except after a line that ends in `+`: its bytes arrive together with those of the next. A script
//! that begins with `*` uses a [`DelayedJournal`].

use super::refusal_tally::REPORT_MS;
use super::{Demo, Settings, Switch};
use crate::address::Address;
use crate::codec::json::JsonError;
use crate::codec::ws::{Bounds, Event, Opcode, Reader, Side};
use crate::codec::{control, http, json, jwt, sockjs, ws};
use crate::edge::{ConnId, Door, Handler, Net};
use crate::frame::Frame;
use crate::journal::{DelayedJournal, Journal, MemoryJournal};
use crate::reason::CloseReason;
use crate::time::{Millis, Now, UnixMillis};
use limits::limits;

mod limits;
#[cfg(test)]
mod tests;

/// The peers of a script; the index is the slot.
const PEERS: [u8; 7] = *b"abcdhkl";
/// Key of the namespace `site`.
const KEY: &str = "11111111-1111-4111-8111-111111111111";
/// The date at the start of every script.
const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// One unit of `.`, in milliseconds.
const STEP_MS: u64 = 40;
/// Scripts end before the switch would log a line about refusals.
const END: Millis = Millis(REPORT_MS - 1);
/// Lines between two checks of the invariants, which take longer than the lines do.
const LOOK_EVERY: usize = 8;
/// More turns than the switch ever needs to become idle.
const TURNS_MAX: usize = 10_000;

/// Fuzz target: a script of browsers. One back end, `k`, has authenticated.
///
/// # Panics
/// If an invariant of the switch, a law of [`crate::edge`] or a wire format is broken.
pub fn fuzz_browser(data: &[u8]) {
    run(&[], data);
}

/// Fuzz target: a script of back ends. Two users listen as well, over WebSocket and SockJS.
///
/// # Panics
/// As [`fuzz_browser`].
pub fn fuzz_commands(data: &[u8]) {
    run(&[('a', "1"), ('d', "2")], data);
}

/// Plays the script to an audience of these peers and users.
fn run(audience: &[(char, &str)], data: &[u8]) {
    let opening = opening(audience);
    match data.strip_prefix(b"*") {
        Some(script) => play(DelayedJournal::new(data.len() as u64, 4), &opening, script),
        None => play(MemoryJournal::default(), &opening, data),
    }
}

fn opening(audience: &[(char, &str)]) -> String {
    let mut opening = format!("k{{\"action\":\"auth\",\"name\":\"site\",\"sKey\":\"{KEY}\"}}\n");
    for (peer, user) in audience {
        let token = jwt::sign(user, KEY, None);
        opening += &format!("{peer}{{\"event\":\"auth\",\"data\":{{\"i\":\"site\",");
        opening += &format!("\"s\":\"{token}\"}}}}+\n");
        for channel in ["c", "@c", "#c"] {
            opening += &format!("{peer}{{\"event\":\"subscribe\",\"data\":\"{channel}\"}}+\n");
        }
    }
    opening
}

fn play(journal: impl Journal + 'static, opening: &str, script: &[u8]) {
    let mut world = World::new(journal);
    world.play(opening.as_bytes());
    world.play(script);
    world.end();
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// There is no connection. Next: `Open`.
    #[default]
    Absent,
    /// The switch knows the connection. Next: `Doomed`.
    Open,
    /// The switch will be told of its end when the turn ends. Next: `Absent`.
    Doomed,
}

/// A connection and the peer at its other end.
#[derive(Debug, Default)]
struct Peer {
    generation: u32,
    phase: Phase,
    /// What the peer has sent and the switch has not consumed.
    input: Vec<u8>,
    /// Everything that the switch has sent.
    output: Vec<u8>,
    /// Bytes of the output that the peer has not taken, and those of them that were published while
    /// it took nothing.
    queued: usize,
    backlog: usize,
    deadline: Option<Millis>,
    /// It is read in the next turn.
    is_ready: bool,
    /// A frame was queued in this turn.
    is_dirty: bool,
    is_paused: bool,
    /// The peer does not read.
    is_stuck: bool,
    was_blocked: bool,
    is_ended: bool,
    is_end_told: bool,
    /// Number of commands it has sent; `None` if it has sent raw bytes.
    commands: Option<usize>,
}

/// The network: one connection for each of [`PEERS`] at a time.
#[derive(Debug, Default)]
struct FakeNet {
    peers: [Peer; PEERS.len()],
    mono: Millis,
    doomed: Vec<(ConnId, CloseReason)>,
    drawn: u64,
}

impl FakeNet {
    fn id(&self, slot: usize) -> ConnId {
        ConnId::new(slot as u32, self.peers[slot].generation)
    }

    fn open(&mut self, conn: ConnId) -> Option<&mut Peer> {
        let peer = &mut self.peers[conn.index()];
        (peer.generation == conn.generation && peer.phase == Phase::Open).then_some(peer)
    }

    /// Queues a frame; returns how many bytes were queued before.
    fn queue(&mut self, conn: ConnId, frame: &Frame) -> usize {
        let Some(peer) = self.open(conn) else { return 0 };
        peer.output.extend_from_slice(frame);
        peer.queued += frame.len();
        peer.is_dirty = true;
        peer.queued - frame.len()
    }
}

impl Net for FakeNet {
    fn now(&self) -> Now {
        Now { mono: self.mono, unix: START.plus(self.mono.0) }
    }

    /// No two draws are the same: that is all the randomness the switch needs.
    fn random(&mut self, out: &mut [u8]) {
        self.drawn += 1;
        let bytes = self.drawn.to_le_bytes();
        out.iter_mut().zip(bytes.into_iter().cycle()).for_each(|(out, byte)| *out = byte);
    }

    fn send(&mut self, conn: ConnId, frame: Frame) {
        self.queue(conn, &frame);
    }

    fn publish(&mut self, conn: ConnId, frame: Frame) -> bool {
        let max = limits().backlog_bytes;
        let Some(peer) = self.open(conn).filter(|peer| peer.backlog <= max) else { return false };
        if peer.queued > max {
            // Flushed at once; the flush at the end of the turn reports that it has drained.
            peer.was_blocked |= peer.is_stuck;
            if !peer.is_stuck {
                (peer.queued, peer.backlog) = (0, 0);
            }
        }
        let is_refused = peer.is_stuck && peer.was_blocked;
        let is_behind = self.queue(conn, &frame) > 0;
        let Some(peer) = self.open(conn) else { return false };
        peer.backlog += if is_behind && is_refused { frame.len() } else { 0 };
        peer.backlog > max
    }

    fn queued(&self, conn: ConnId) -> usize {
        let peer = &self.peers[conn.index()];
        if peer.generation == conn.generation { peer.queued } else { 0 }
    }

    fn taken(&self, conn: ConnId) -> u32 {
        (self.peers[conn.index()].output.len() - self.queued(conn)) as u32
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        if let Some(peer) = self.open(conn) {
            peer.phase = Phase::Doomed;
            self.doomed.push((conn, reason));
        }
    }

    fn deadline(&mut self, conn: ConnId, at: Option<Millis>) {
        if let Some(peer) = self.open(conn) {
            peer.deadline = at;
        }
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(peer) = self.open(conn) {
            peer.is_paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(peer) = self.open(conn) {
            peer.is_paused = false;
            peer.is_ready = true;
        }
    }
}

/// The switch and its network.
#[derive(Debug)]
struct World {
    switch: Switch,
    net: FakeNet,
}

impl World {
    fn new(journal: impl Journal + 'static) -> World {
        let net = FakeNet::default();
        let demo = Demo { page: "<p>".as_bytes().into(), namespace: "site".to_owned() };
        let settings =
            Settings { demo: Some(demo), ..Settings::new(limits(), "server", net.now()) };
        let mut switch = Switch::new(settings, journal);
        assert!(switch.declare("site", KEY).is_some(), "there is room for one namespace");
        World { switch, net }
    }

    fn play(&mut self, script: &[u8]) {
        for (number, line) in script.split(|byte| *byte == b'\n').enumerate() {
            match line.strip_suffix(b"+") {
                Some(line) => self.line(line),
                None => {
                    self.line(line);
                    self.rest();
                }
            }
            if number % LOOK_EVERY == LOOK_EVERY - 1 {
                self.switch.check_invariants();
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some((letter, text)) = line.split_first() else { return };
        let slot_of = |letter: u8| PEERS.iter().position(|peer| *peer == letter);
        let named = text.first().and_then(|letter| slot_of(*letter));
        match (letter, named) {
            (b'.', _) => {
                let steps = text.first().map_or(0, |byte| u64::from(*byte));
                self.net.mono = self.net.mono.plus(STEP_MS * steps).min(END);
            }
            (b'!', Some(slot)) => {
                let peer = &mut self.net.peers[slot];
                peer.is_stuck ^= true;
                peer.is_dirty |= peer.queued > 0;
            }
            (b'$', Some(slot)) => {
                let peer = &mut self.net.peers[slot];
                (peer.is_ended, peer.is_ready) = (true, true);
            }
            (b'~', Some(slot)) => self.net.close(self.net.id(slot), CloseReason::PeerLost),
            _ => {
                if let Some(slot) = slot_of(letter.to_ascii_lowercase()) {
                    self.say(slot, *letter, text);
                }
            }
        }
    }

    /// Lets a peer send something, unless it has closed its side.
    fn say(&mut self, slot: usize, letter: u8, text: &[u8]) {
        if self.net.peers[slot].phase == Phase::Absent {
            self.connect(slot);
        }
        let peer = &mut self.net.peers[slot];
        if peer.phase != Phase::Open || peer.is_ended {
            return;
        }
        let input = &mut peer.input;
        match letter {
            b'a' | b'b' => ws::encode_masked_into(input, Opcode::Text, text, *b"mask"),
            b'c' | b'd' => {
                let mut message = b"[".to_vec();
                json::quote_into(&mut message, &String::from_utf8_lossy(text));
                message.push(b']');
                ws::encode_masked_into(input, Opcode::Text, &message, *b"mask");
            }
            b'k' | b'l' => {
                control::encode_into(input, text);
                peer.commands = peer.commands.map(|count| count + 1);
            }
            b'h' => input.extend_from_slice(&[text, b"\n"].concat()),
            _ => {
                input.extend_from_slice(text);
                peer.commands = None;
            }
        }
        peer.is_ready = true;
    }

    fn connect(&mut self, slot: usize) {
        let generation = self.net.peers[slot].generation + 1;
        let fresh = Peer { generation, phase: Phase::Open, commands: Some(0), ..Peer::default() };
        self.net.peers[slot] = fresh;
        let path = match PEERS[slot] {
            b'a' | b'b' => Some("websocket"),
            b'c' | b'd' => Some("0/1/websocket"),
            _ => None,
        };
        let door = if matches!(PEERS[slot], b'k' | b'l') { Door::Control } else { Door::Web };
        let conn = ConnId::new(slot as u32, generation);
        self.switch.opened(&mut self.net, conn, door, Address::Unix);
        if let Some(path) = path {
            let head = format!(
                "GET /socket/{path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            self.net.peers[slot].input.extend_from_slice(head.as_bytes());
        }
    }

    /// Runs turns until nothing is left to do before time passes or a peer sends.
    fn rest(&mut self) {
        for _ in 0..TURNS_MAX {
            self.turn();
            let is_due = self.switch.due(&self.net).is_some_and(|at| at <= self.net.mono);
            if !is_due && !self.net.peers.iter().any(|peer| peer.is_ready || peer.is_dirty) {
                return;
            }
        }
        panic!("the switch does not come to rest: {:?}", self.net);
    }

    /// Runs one turn, in the order of the reactor's.
    fn turn(&mut self) {
        self.switch.tick(&mut self.net);
        for slot in 0..PEERS.len() {
            if std::mem::take(&mut self.net.peers[slot].is_ready) {
                self.read(slot);
            }
        }
        for slot in 0..PEERS.len() {
            let (conn, now) = (self.net.id(slot), self.net.mono);
            let Some(peer) = self.net.open(conn) else { continue };
            if peer.deadline.take_if(|at| *at <= now).is_some() {
                self.switch.timed_out(&mut self.net, conn);
            }
        }
        self.switch.settle(&mut self.net);
        self.forget();
        for slot in 0..PEERS.len() {
            if std::mem::take(&mut self.net.peers[slot].is_dirty) {
                self.flush(slot);
            }
        }
        self.forget();
    }

    fn read(&mut self, slot: usize) {
        let conn = self.net.id(slot);
        let Some(peer) = self.net.open(conn).filter(|peer| !peer.is_paused) else { return };
        let mut input = std::mem::take(&mut peer.input);
        if !input.is_empty() {
            match self.switch.received(&mut self.net, conn, &mut input) {
                Ok(used) => drop(input.drain(..used)),
                Err(reason) => return self.net.close(conn, reason),
            }
        }
        let Some(peer) = self.net.open(conn) else { return };
        let is_to_go_on = peer.is_paused || peer.is_ready;
        assert!(is_to_go_on || input.len() < limits().http_head_bytes, "a long tail is kept");
        peer.input = input;
        if peer.is_ended && !is_to_go_on && !std::mem::replace(&mut peer.is_end_told, true) {
            self.switch.ended(&mut self.net, conn);
        }
    }

    fn flush(&mut self, slot: usize) {
        let conn = self.net.id(slot);
        let Some(peer) = self.net.open(conn) else { return };
        if peer.is_stuck {
            peer.was_blocked = true;
            return;
        }
        (peer.queued, peer.backlog) = (0, 0);
        if std::mem::take(&mut peer.was_blocked) || peer.is_paused {
            self.switch.drained(&mut self.net, conn);
        }
    }

    fn forget(&mut self) {
        while !self.net.doomed.is_empty() {
            for (conn, reason) in std::mem::take(&mut self.net.doomed) {
                self.switch.closed(&mut self.net, conn, reason);
                let peer = &mut self.net.peers[conn.index()];
                (peer.phase, peer.is_ready, peer.is_dirty) = (Phase::Absent, false, false);
                check_output(conn.index(), &mut std::mem::take(&mut peer.output));
            }
        }
    }

    /// All peers read and get what they are owed; then the server stops, and no connection is left.
    fn end(mut self) {
        for peer in &mut self.net.peers {
            (peer.is_stuck, peer.is_dirty) = (false, peer.queued > 0);
        }
        self.rest();
        self.switch.check_invariants();
        for (slot, peer) in self.net.peers.iter_mut().enumerate() {
            let is_controller = matches!(PEERS[slot], b'k' | b'l');
            if peer.phase == Phase::Open && is_controller && peer.commands.is_some() {
                let replies = check_control(&peer.output);
                assert_eq!(Some(replies), peer.commands, "each command has one reply");
            }
        }
        // Nobody reads a log line for each of a million scripts.
        self.switch.report_at = None;
        self.switch.stopping(&mut self.net, Millis(0));
        self.rest();
        for peer in &self.net.peers {
            assert_eq!(peer.phase, Phase::Absent, "{peer:?}");
        }
        self.switch.check_invariants();
        let [_, channels, users, peers, _] = self.switch.hub().sizes();
        assert_eq!([channels, users, peers], [0; 3], "somebody is left in the hub");
    }
}

/// Checks that what a peer received is complete, and follows its protocol.
fn check_output(slot: usize, output: &mut [u8]) {
    match PEERS[slot] {
        b'k' | b'l' => {
            check_control(output);
        }
        _ => check_web(output),
    }
}

/// Checks that replies are frames of JSON; returns how many there are.
fn check_control(mut output: &[u8]) -> usize {
    let (mut decoder, mut replies) = (control::Decoder::new(), 0);
    while !output.is_empty() {
        let decoded = decoder.next(output, usize::MAX).expect("replies are frames");
        output = &output[decoded.consumed..];
        let body = decoded.body.expect("replies are whole");
        let body = str::from_utf8(body).expect("replies are text");
        assert_ne!(json::members(body, &[]), Err(JsonError::Syntax), "{body}");
        replies += 1;
    }
    replies
}

/// Checks HTTP responses, up to one that upgrades the connection to a WebSocket.
fn check_web(mut output: &mut [u8]) {
    while !output.is_empty() {
        let end = http::find_head_end(output, 0).expect("a response has a head");
        let (head, rest) = output.split_at_mut(end);
        let head = str::from_utf8(head).expect("our heads are text");
        assert!(head.starts_with("HTTP/1.1 "), "{head}");
        if head.starts_with("HTTP/1.1 101 ") {
            return check_frames(rest);
        }
        if head.contains("\r\nTransfer-Encoding: chunked\r\n") {
            let Some(end) = end_of_chunks(rest) else { return };
            output = &mut rest[end..];
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if length.is_none() && head.starts_with("HTTP/1.1 200 ") {
            // An answer to HTTP/1.0 that ends with the connection.
            assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
            return;
        }
        let length = length.map_or(0, |length| length.parse().expect("a length is a number"));
        // The response to HEAD has a length and no body.
        let has_body = !rest.is_empty() && !rest.starts_with(b"HTTP/1.1 ");
        output = &mut rest[if has_body { length } else { 0 }..];
    }
}

/// Returns where a chunked response ends; `None` if it is incomplete.
fn end_of_chunks(output: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = output[at..].windows(2).position(|two| two == b"\r\n")?;
        let size = str::from_utf8(&output[at..at + line]).expect("the size of a chunk is text");
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk is a number");
        at += line + 2 + size + 2;
        assert!(output[..at].ends_with(b"\r\n"), "a chunk ends in CR LF");
        if size == 0 {
            return Some(at);
        }
    }
}

/// Checks WebSocket frames, in SockJS framing if the first is `o`; nothing may follow a close.
fn check_frames(output: &mut [u8]) {
    let mut reader = Reader::default();
    let bounds = Bounds { message_bytes: usize::MAX, fragments: 1 };
    let (mut at, mut is_sockjs, mut is_closed) = (0, false, false);
    while at < output.len() {
        let step =
            reader.read(Side::Client, &mut output[at..], &bounds).expect("our frames are good");
        at += step.consumed;
        match step.event.expect("frames are whole") {
            Event::Text("o") if !is_sockjs => is_sockjs = true,
            Event::Text(text) => {
                assert!(!is_closed, "{text} after the end");
                match text.strip_prefix('a') {
                    Some(framed) if is_sockjs => {
                        let messages = sockjs::parse_messages(framed).expect("an array");
                        messages.for_each(|message| check_message(&message));
                    }
                    _ if is_sockjs => {
                        assert!(text.starts_with("c["), "{text}");
                        is_closed = true;
                    }
                    _ => check_message(text),
                }
            }
            Event::Close(_) => return assert_eq!(at, output.len(), "bytes after a close"),
            Event::Ping(_) | Event::Pong(_) => assert!(!is_closed),
            Event::Binary(_) => panic!("nothing we send is binary"),
        }
    }
}

fn check_message(message: &str) {
    match json::members(message, &["event"]) {
        // A list of states is nested one deeper than what clients may send.
        Err(JsonError::Depth { .. }) | Ok(Some([Some(_)])) => {}
        other => panic!("{message}: {other:?}"),
    }
}
