//! Deadlines, and the final output of closing connections.

use std::io::{Read, Write};

use super::*;
use crate::frame::Frame;

/// Waits for "done" from each; closes the second when all output to the first is written.
#[derive(Default)]
struct Pair {
    conns: Vec<ConnId>,
    wait_ms: u64,
    tells: bool,
    done: usize,
    expired: usize,
}

impl Handler for Pair {
    fn opened(&mut self, net: &mut impl Net, conn: ConnId, _: Door, _: Address) {
        self.conns.push(conn);
        net.deadline(conn, Some(net.now().mono.plus(self.wait_ms)));
    }
    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        if input != b"done" {
            return Ok(0);
        }
        self.done += 1;
        net.deadline(conn, None);
        Ok(input.len())
    }
    fn drained(&mut self, net: &mut impl Net, _: ConnId) {
        net.close(self.conns[1], CloseReason::GoingAway);
    }
    fn timed_out(&mut self, _: &mut impl Net, _: ConnId) {
        self.expired += 1;
    }
    fn tick(&mut self, net: &mut impl Net) {
        if std::mem::take(&mut self.tells) {
            for conn in self.conns.clone() {
                net.pause(conn);
                net.send(conn, Frame::from(b"last words".to_vec()));
            }
        }
    }
}

#[test]
fn input_that_arrived_in_time_is_read_before_the_deadline_expires() {
    const PEERS: usize = 200;
    let (mut reactor, address) = reactor();
    let mut handler = Pair { wait_ms: 300, ..Pair::default() };
    let mut peers: Vec<_> =
        (0..PEERS).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    while handler.conns.len() < PEERS {
        reactor.turn(&mut handler).unwrap();
    }
    // More input than one turn reads; and one peer whose input is not what is waited for.
    peers.iter_mut().skip(1).for_each(|peer| peer.write_all(b"done").unwrap());
    peers[0].write_all(b"half").unwrap();
    std::thread::park_timeout(Duration::from_millis(600));
    while handler.done + handler.expired < PEERS {
        reactor.turn(&mut handler).unwrap();
    }
    assert_eq!((handler.done, handler.expired), (PEERS - 1, 1));
}

#[test]
fn a_peer_closed_while_another_is_flushed_gets_its_final_output() {
    let (mut reactor, address) = reactor();
    let mut handler = Pair { wait_ms: 60_000, ..Pair::default() };
    let mut peers: Vec<_> =
        (0..2).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    while handler.conns.len() < 2 {
        reactor.turn(&mut handler).unwrap();
    }
    handler.tells = true;
    reactor.turn(&mut handler).unwrap();
    // Closing a socket with unread input would reset it.
    let mut words = [0; 10];
    peers[1].read_exact(&mut words).unwrap();
    assert_eq!(&words, b"last words");
    peers[1].write_all(b"unread").unwrap();
    (0..10).for_each(|_| reactor.turn(&mut handler).unwrap());
    assert_eq!(peers[1].read(&mut words).unwrap(), 0);
    peers[1].write_all(b"more").unwrap();
    (0..10).for_each(|_| reactor.turn(&mut handler).unwrap());
    assert_eq!(peers[1].write(b"still there").unwrap(), 11, "the socket was reset at once");
}
