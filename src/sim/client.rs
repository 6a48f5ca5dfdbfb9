//! The client's end of a connection: the bytes it writes, each with its meaning, and what it makes
//! of what it receives. Owns the bytes that have not arrived yet; the world moves them.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::Prng;
use super::intent::Intent;
use super::judge::{BOUNDS, Judge, Seen};
use crate::address::Address;
use crate::codec::control;
use crate::codec::ws::{self, Opcode, Reader, Side};
use crate::edge::{ConnId, Door};
use crate::time::Millis;

/// The only origin whose pages may connect.
pub(super) const SITE: &str = "https://site.example";

/// Time between two bytes of a slow client.
pub(super) const SLOW_MS: u64 = 700;

/// How far a client has ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It has not.
    None,
    /// It will end once everything written has arrived.
    Wanted,
    /// Its end of stream has arrived.
    Sent,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    /// `None` until it is accepted.
    pub conn: Option<ConnId>,
    pub door: Door,
    /// Its address.
    pub from: Address,
    /// Bytes written that have not arrived yet.
    pipe: VecDeque<u8>,
    written: u64,
    /// What it wrote before it was accepted: first byte, byte after the last, meaning.
    pub early: Vec<(u64, u64, Intent)>,
    /// Maximum number of bytes that arrive at once, in half of all cases.
    pace: usize,
    /// Its bytes arrive one at a time, with pauses.
    pub is_slow: bool,
    /// When its bytes last arrived.
    moved_at: Millis,
    /// It reads what the kernel has for it.
    pub is_reading: bool,
    /// It reads only a few bytes at a time, with pauses.
    pub is_sipping: bool,
    sipped_at: Millis,
    /// It answers pings, and ends its side when the server does.
    pub is_lively: bool,
    pub end: End,
    /// It stopped in the middle of a message and sends no more.
    pub is_mute: bool,
    /// It has sent an `auth`, processed or not.
    pub has_said_auth: bool,
    /// Its connection is gone.
    pub is_gone: bool,
    inbox: Vec<u8>,
    is_upgraded: bool,
    reader: Reader,
    decoder: control::Decoder,
}

impl Client {
    pub fn new(door: Door, prng: &mut Prng) -> Client {
        let pace = *prng.pick(&[usize::MAX, usize::MAX, 4096, 200, 40, 7]);
        Client {
            conn: None,
            door,
            from: Address::Unix,
            pipe: VecDeque::new(),
            written: 0,
            early: Vec::new(),
            pace,
            is_slow: prng.one_in(12),
            moved_at: Millis(0),
            is_reading: true,
            is_sipping: prng.one_in(8),
            sipped_at: Millis(0),
            is_lively: !prng.one_in(8),
            end: End::None,
            is_mute: false,
            has_said_auth: false,
            is_gone: false,
            inbox: Vec::new(),
            is_upgraded: false,
            reader: Reader::default(),
            decoder: control::Decoder::new(),
        }
    }

    /// Whether it may still send.
    pub fn can_speak(&self) -> bool {
        self.end == End::None && !self.is_mute
    }

    /// Writes bytes with their meaning; does nothing after its end.
    pub fn write(&mut self, judge: &mut Judge, bytes: &[u8], intent: Intent) {
        if self.can_speak() {
            let from = self.written;
            self.pipe.extend(bytes);
            self.written += bytes.len() as u64;
            self.mean(judge, from, intent);
        }
    }

    /// Writes a request that names the client's address, for a trusted proxy.
    pub fn write_request(
        &mut self,
        judge: &mut Judge,
        bytes: &[u8],
        named: Option<IpAddr>,
        intent: Intent,
    ) {
        if self.can_speak() {
            let from = self.written;
            self.pipe.extend(bytes);
            self.written += bytes.len() as u64;
            self.mean(judge, from, Intent::Named(named));
            self.mean(judge, from, intent);
        }
    }

    /// Writes the first `half` bytes of something, and never the rest.
    pub fn write_half(&mut self, judge: &mut Judge, bytes: &[u8], half: usize, intent: Intent) {
        if self.can_speak() {
            let from = self.written;
            self.pipe.extend(&bytes[..half]);
            self.written += bytes.len() as u64;
            self.mean(judge, from, intent);
            self.is_mute = true;
        }
    }

    /// Writes a message in one or more frames, now and then with a ping between two of them.
    pub fn write_message(
        &mut self,
        judge: &mut Judge,
        prng: &mut Prng,
        payload: &[u8],
        intent: Intent,
    ) {
        if !self.can_speak() {
            return;
        }
        let from = self.written;
        let frames = if prng.one_in(5) { 1 + prng.below(4) } else { 1 };
        let mut rest = payload;
        for i in 0..frames {
            let is_last = i + 1 == frames;
            let cut = if is_last { rest.len() } else { prng.below(rest.len() + 1) };
            let (piece, behind) = rest.split_at(cut);
            rest = behind;
            let opcode = match i {
                0 if prng.one_in(8) => Opcode::Binary,
                0 => Opcode::Text,
                _ => Opcode::Continuation,
            };
            let mut frame = masked(prng, opcode, piece);
            if !is_last {
                frame[0] &= 0x7F;
            }
            self.pipe.extend(&frame);
            self.written += frame.len() as u64;
            if !is_last && prng.one_in(3) {
                let ping = masked(prng, Opcode::Ping, b"between");
                self.write(judge, &ping, Intent::Ping(b"between".to_vec()));
            }
        }
        self.mean(judge, from, intent);
    }

    fn mean(&mut self, judge: &mut Judge, from: u64, intent: Intent) {
        match self.conn {
            Some(conn) => judge.intends(conn, from, self.written, intent),
            None => self.early.push((from, self.written, intent)),
        }
    }

    /// Takes the bytes that arrive now.
    pub fn pop_piece(&mut self, prng: &mut Prng, now: Millis) -> Vec<u8> {
        let most = self.pipe.len().min(self.pace);
        if most == 0 || self.is_slow && now < self.moved_at.plus(SLOW_MS) {
            return Vec::new();
        }
        self.moved_at = now;
        if self.is_slow && !prng.one_in(16) {
            return self.pipe.pop_front().into_iter().collect();
        }
        let is_cut = self.pace < usize::MAX && prng.one_in(2);
        let count = if is_cut { 1 + prng.below(most) } else { self.pipe.len() };
        self.pipe.drain(..count).collect()
    }

    /// How many bytes it reads now at most; `None` if it reads everything.
    pub fn sip(&mut self, prng: &mut Prng, now: Millis) -> Option<usize> {
        if !self.is_sipping {
            return None;
        }
        if now < self.sipped_at.plus(SLOW_MS) {
            return Some(0);
        }
        self.sipped_at = now;
        Some(1 + prng.below(60))
    }

    /// Whether everything it wrote has arrived.
    pub fn is_drained(&self) -> bool {
        self.pipe.is_empty()
    }

    /// Decodes received bytes.
    pub fn receive(&mut self, bytes: impl Iterator<Item = u8>) -> Vec<Seen> {
        self.inbox.extend(bytes);
        let mut seen = Vec::new();
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut used = 0;
        loop {
            let rest = &mut inbox[used..];
            let (consumed, found) = match self.door {
                Door::Control => {
                    let decoded = self.decoder.next(rest, 1 << 20).expect("good control frames");
                    let body = decoded.body.map(|body| String::from_utf8_lossy(body).into_owned());
                    (decoded.consumed, body.map(Seen::Reply))
                }
                Door::Web if self.is_upgraded => {
                    let step = self.reader.read(Side::Client, rest, &BOUNDS).expect("good frames");
                    (step.consumed, step.event.map(Seen::of))
                }
                Door::Web | Door::Admin => self.response(rest),
            };
            used += consumed;
            match found {
                Some(found) => seen.push(found),
                None => break,
            }
            if matches!(seen.last(), Some(Seen::Close(_))) {
                assert_eq!(used, inbox.len(), "something was sent behind a close frame");
                break;
            }
        }
        inbox.drain(..used);
        self.inbox = inbox;
        seen
    }

    /// Decodes one whole HTTP response.
    fn response(&mut self, bytes: &[u8]) -> (usize, Option<Seen>) {
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return (0, None);
        };
        let seen = Seen::of_response(&bytes[..head]);
        self.is_upgraded = seen == Seen::Http(101);
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
        let end = head + 4 + if self.is_upgraded { 0 } else { length };
        if bytes.len() < end { (0, None) } else { (end, Some(seen)) }
    }
}

/// Encodes a client frame, masked.
pub(super) fn masked(prng: &mut Prng, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ws::encode_masked_into(&mut frame, opcode, payload, (prng.next() as u32).to_le_bytes());
    frame
}
