//! The reactor on real sockets, with handlers that are hard to serve.

use super::*;
use crate::edge::Net;
use std::io::Write;

/// Does not listen until it is told to, and then counts what comes.
#[derive(Default)]
struct Late {
    conn: Option<ConnId>,
    is_listening: bool,
    got: usize,
}

impl Handler for Late {
    fn opened(&mut self, _: &mut impl Net, conn: ConnId, _: Door) {
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
    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        net.close(conn, CloseReason::PeerClosed);
    }
    fn drained(&mut self, _: &mut impl Net, _: ConnId) {}
    fn timed_out(&mut self, _: &mut impl Net, _: ConnId) {}
    fn closed(&mut self, _: &mut impl Net, _: ConnId, _: CloseReason) {}
    fn stopping(&mut self, _: &mut impl Net) {}
    fn due(&self) -> Option<Millis> {
        // Turns go on; whoever hangs, hangs alone.
        Some(Millis(0))
    }
    fn tick(&mut self, _: &mut impl Net) {}
    fn settle(&mut self, _: &mut impl Net) {}
}

#[test]
fn a_tail_as_long_as_the_buffer_does_not_hide_what_is_behind_it() {
    let bounds = Bounds {
        connections: 16,
        control_reserve: 0,
        admin_connections: 0,
        close_ms: 1000,
        drain_ms: 1000,
        slow: Rules::new(&crate::limits::Limits::default()),
    };
    let mut reactor = Reactor::new(bounds).unwrap();
    let door = Listener::tcp(Door::Web, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = door.address();
    reactor.add_door(door).unwrap();
    let mut handler = Late::default();
    let mut peer = std::net::TcpStream::connect(address).unwrap();
    let total = READ_BYTES + 1000;
    peer.write_all(&vec![b'x'; total]).unwrap();
    let mut is_full = false;
    while !is_full {
        reactor.turn(&mut handler).unwrap();
        // The peer's bytes may come in pieces: ask again until the tail fills the buffer.
        if let Some(conn) = handler.conn {
            is_full = reactor.io.peer(conn).unwrap().tail.len() == READ_BYTES;
            reactor.io.resume(conn);
        }
    }
    handler.is_listening = true;
    for _ in 0..1000 {
        reactor.turn(&mut handler).unwrap();
    }
    assert_eq!(handler.got, total);
}
