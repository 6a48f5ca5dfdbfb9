//! Tokens and the date, over a WebSocket and over HTTP.

use super::super::replies::tests::Wire;
use super::super::{Settings, Switch};
use super::*;
use crate::address::Address;
use crate::codec::ws::{self, Opcode};
use crate::edge::{ConnId, Door, Handler};
use crate::journal::MemoryJournal;

const KEY: &str = "11111111-1111-4111-8111-111111111111";
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
/// The date at the start.
const DATE: u64 = 1_800_000_000_000;

#[test]
fn the_entry_of_a_browser_stays_small() {
    assert!(size_of::<Option<Browser>>() <= 24, "{}", size_of::<Option<Browser>>());
}

/// One browser whose token ends half an hour after the start; it answers pings.
struct World {
    switch: Switch,
    net: Wire,
    conn: ConnId,
    is_socket: bool,
}

impl World {
    fn new(is_socket: bool) -> World {
        let mut net = Wire::default();
        net.date = DATE;
        let settings = Settings::new(Limits::default(), "server", net.now());
        let mut switch = Switch::new(settings, MemoryJournal::default());
        switch.declare("site", KEY).unwrap();
        let conn = ConnId::new(0, 0);
        switch.opened(&mut net, conn, Door::Web, Address::Unix);
        let mut world = World { switch, net, conn, is_socket };
        let token = jwt::sign("1", KEY, Some((DATE + HOUR / 2) / 1000));
        let auth = format!(r#"{{"event":"auth","data":{{"i":"site","s":"{token}"}}}}"#);
        if is_socket {
            let head = "GET /socket/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            world.send(conn, head.as_bytes());
            world.say(Opcode::Text, &auth);
        } else {
            let head = "POST /socket/0/a/xhr_streaming HTTP/1.1\r\nHost: a\r\n\
                        Content-Length: 0\r\n\r\n";
            world.send(conn, head.as_bytes());
            let body = format!("[{}]", json::quote(&auth));
            let sender = ConnId::new(1, 0);
            world.switch.opened(&mut world.net, sender, Door::Web, Address::Unix);
            let length = body.len();
            let head = "POST /socket/0/a/xhr_send HTTP/1.1\r\nHost: a\r\n";
            let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
            world.send(sender, request.as_bytes());
        }
        assert!(world.net.text(conn).contains("auth ok"), "{}", world.net.text(conn));
        world
    }

    fn send(&mut self, conn: ConnId, input: &[u8]) {
        self.switch.received(&mut self.net, conn, &mut input.to_vec()).unwrap();
        self.switch.settle(&mut self.net);
    }

    fn say(&mut self, opcode: Opcode, text: &str) {
        let mut frame = Vec::new();
        ws::encode_masked_into(&mut frame, opcode, text.as_bytes(), *b"mask");
        self.send(self.conn, &frame);
    }

    /// Lets time pass, from one deadline to the next.
    fn pass(&mut self, ms: u64) {
        let until = self.net.now + ms;
        while self.net.now < until && self.is_there() {
            let of_conn = self.net.deadlines.get(&self.conn).copied().flatten();
            let due = [of_conn, self.switch.due(&self.net)].into_iter().flatten().min();
            let next = due.map_or(until, |due| due.0);
            self.net.now = next.clamp(self.net.now + 1, until);
            self.switch.tick(&mut self.net);
            if of_conn.is_some_and(|due| due.0 <= self.net.now) {
                self.net.deadlines.remove(&self.conn);
                self.switch.timed_out(&mut self.net, self.conn);
            }
            self.switch.settle(&mut self.net);
            if self.is_socket && self.is_there() {
                self.say(Opcode::Pong, "");
            }
        }
    }

    fn is_expired(&self) -> bool {
        self.net.text(self.conn).contains("token expired")
    }

    fn is_there(&self) -> bool {
        !self.is_expired() && self.net.closed.is_empty()
    }
}

const BEAT: u64 = 30_000;

#[test]
fn the_date_may_be_set_without_cutting_valid_tokens_or_keeping_others() {
    for is_socket in [true, false] {
        // It is wrong for a moment, ahead and behind, and a valid token is not cut for that.
        let mut world = World::new(is_socket);
        world.pass(MINUTE);
        for (wrong, right) in [(DATE + HOUR, DATE), (DATE - HOUR, DATE)] {
            world.net.date = wrong;
            world.pass(1000);
            world.net.date = right;
            world.pass(10 * MINUTE);
            assert!(world.is_there());
        }
        // Its end is at its time.
        world.pass(9 * MINUTE - 2001);
        assert!(world.is_there());
        world.pass(2);
        assert!(world.is_expired(), "{}", world.net.text(world.conn));

        // A date that was behind is put right: the token has ended.
        let mut world = World::new(is_socket);
        world.net.date = DATE - HOUR;
        world.pass(50 * MINUTE);
        assert!(world.is_there());
        world.net.date = DATE;
        world.pass(BEAT);
        assert!(world.is_expired(), "{}", world.net.text(world.conn));

        // The date is set ahead, and stays: it has ended, too.
        let mut world = World::new(is_socket);
        world.net.date = DATE + HOUR;
        world.pass(BEAT);
        assert!(world.is_expired(), "{}", world.net.text(world.conn));
    }
}
