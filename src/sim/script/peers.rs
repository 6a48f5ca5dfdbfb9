//! The peers of a script: at most one connection at a time for each of a few letters.

use std::collections::VecDeque;

use super::super::net::FakeNet;
use crate::address::Address;
use crate::codec::ws::{self, Opcode};
use crate::codec::{control, json};
use crate::edge::{ConnId, Door, Handler};

/// The letters of the peers.
const LETTERS: [u8; 11] = *b"abcdhiklmno";
/// A peer with more unsent bytes than this sends nothing more.
const PIPE_BYTES_MAX: usize = 64 * 1024;

fn is_back_end(letter: u8) -> bool {
    matches!(letter, b'k' | b'l' | b'n' | b'o')
}

/// The peer's side of a connection.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub conn: Option<ConnId>,
    /// Bytes written that have not arrived yet.
    pipe: VecDeque<u8>,
    /// How many bytes arrive at once; 0 means all.
    pace: usize,
    is_stuck: bool,
    is_ended: bool,
    is_end_sent: bool,
    is_lost: bool,
    /// How many commands it has sent; `None` if it has sent raw bytes.
    commands: Option<usize>,
}

/// All peers, in the order of their letters.
#[derive(Debug, Default)]
pub(super) struct Peers([Peer; LETTERS.len()]);

impl Peers {
    pub fn named(&mut self, letter: u8) -> Option<&mut Peer> {
        let at = LETTERS.iter().position(|other| *other == letter)?;
        self.0.get_mut(at)
    }

    /// Whether this connection is read before those of browsers.
    pub fn is_first(&self, conn: ConnId) -> bool {
        let mut peers = LETTERS.iter().zip(&self.0);
        peers.any(|(letter, peer)| matches!(letter, b'k'..=b'o') && peer.conn == Some(conn))
    }

    /// Plays a line about a peer.
    pub fn line(&mut self, letter: u8, text: &[u8], net: &mut FakeNet, door: &mut impl Handler) {
        let named = text.first().copied().unwrap_or(0);
        let amount = text.get(1).map_or(0, |byte| usize::from(*byte));
        match (letter, self.named(named)) {
            (b'/', Some(peer)) => peer.pace = amount,
            (b'!', Some(peer)) => peer.is_stuck ^= true,
            (b'$', Some(peer)) => peer.is_ended = true,
            (b'~', Some(peer)) => {
                if let Some(conn) = peer.conn.filter(|_| !peer.is_lost) {
                    peer.is_lost = true;
                    net.reset(conn);
                }
            }
            _ => self.say(letter, text, net, door),
        }
    }

    fn say(&mut self, letter: u8, text: &[u8], net: &mut FakeNet, door: &mut impl Handler) {
        let lower = letter.to_ascii_lowercase();
        let Some(peer) = self.named(lower) else { return };
        if peer.conn.is_none() {
            peer.connect(lower, net, door);
        }
        if peer.is_ended || peer.is_lost || peer.pipe.len() > PIPE_BYTES_MAX {
            return;
        }
        let mut bytes = Vec::new();
        match letter {
            b'a' | b'b' => ws::encode_masked_into(&mut bytes, Opcode::Text, text, *b"mask"),
            b'c' | b'd' => {
                let mut message = b"[".to_vec();
                json::quote_into(&mut message, &String::from_utf8_lossy(text));
                message.push(b']');
                ws::encode_masked_into(&mut bytes, Opcode::Text, &message, *b"mask");
            }
            b'k' | b'l' | b'n' | b'o' => {
                control::encode_into(&mut bytes, text);
                peer.commands = peer.commands.map(|count| count + 1);
            }
            b'h' | b'i' | b'm' => bytes.extend([text, b"\n"].concat()),
            _ => {
                bytes.extend(text);
                peer.commands = None;
            }
        }
        peer.pipe.extend(bytes);
    }

    /// Delivers bytes in both directions. Returns whether there were any.
    pub fn move_bytes(&mut self, net: &mut FakeNet) -> bool {
        let mut is_busy = false;
        for peer in &mut self.0 {
            is_busy |= peer.move_bytes(net);
        }
        is_busy
    }

    /// Lets all peers read, and what they have sent arrive.
    pub fn take_all(&mut self) {
        self.0.iter_mut().for_each(|peer| (peer.is_stuck, peer.pace) = (false, 0));
    }

    /// Lets all peers end their streams.
    pub fn leave(&mut self, net: &mut FakeNet) {
        for peer in &mut self.0 {
            peer.is_ended = true;
            peer.move_bytes(net);
        }
    }

    /// The connections of back ends that have sent nothing but commands, and how many.
    pub fn commands(&self) -> impl Iterator<Item = (ConnId, usize)> {
        let back_ends = LETTERS.iter().zip(&self.0).filter(|(letter, _)| is_back_end(**letter));
        back_ends.filter_map(|(_, peer)| peer.conn.zip(peer.commands))
    }

    /// Whether this is the connection of a back end.
    pub fn has_back_end(&self, conn: ConnId) -> bool {
        let mut peers = LETTERS.iter().zip(&self.0);
        peers.any(|(letter, peer)| is_back_end(*letter) && peer.conn == Some(conn))
    }
}

impl Peer {
    fn connect(&mut self, letter: u8, net: &mut FakeNet, door: &mut impl Handler) {
        *self = Peer { pace: self.pace, commands: Some(0), ..Peer::default() };
        let at = match letter {
            _ if is_back_end(letter) => Door::Control,
            b'm' => Door::Admin,
            _ => Door::Web,
        };
        let from = match letter {
            b'i' | b'k'..=b'o' => Address::Unix,
            letter => Address::from(std::net::IpAddr::from([192, 0, 2, letter])),
        };
        let path = match letter {
            b'a' | b'b' => Some("websocket"),
            b'c' | b'd' => Some("0/1/websocket"),
            _ => None,
        };
        if let Some(path) = path {
            let head = format!(
                "GET /socket/{path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            self.pipe.extend(head.bytes());
        }
        let conn = net.insert(from);
        self.conn = Some(conn);
        door.opened(net, conn, at, from);
    }

    fn move_bytes(&mut self, net: &mut FakeNet) -> bool {
        let Some(conn) = self.conn else { return false };
        net.leftovers.remove(&conn);
        let Some(socket) = net.socket(conn) else {
            *self = Peer { pace: self.pace, ..Peer::default() };
            return true;
        };
        let mut is_busy = false;
        if !self.is_stuck {
            is_busy |= !socket.outbound.is_empty();
            socket.outbound.clear();
            // A peer that sees the end of the stream ends its own as well.
            self.is_ended |= socket.has_outbound_end;
        }
        if self.is_lost {
            return is_busy;
        }
        let count = match self.pace {
            0 => self.pipe.len(),
            pace => pace.min(self.pipe.len()),
        };
        if count > 0 {
            net.arrive(conn, self.pipe.drain(..count));
            return true;
        }
        if self.is_ended && !self.is_end_sent {
            self.is_end_sent = true;
            net.arrive_end(conn);
            return true;
        }
        is_busy
    }
}
