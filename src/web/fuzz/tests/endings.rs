//! Sessions over HTTP that the server ends: the close reason counted for each.

use super::super::super::Line;
use super::*;

/// Both if its browser is between two polls and if an answer is in flight.
#[test]
fn a_session_ended_by_a_stop_counts_as_going_away() {
    for is_in_flight in [false, true] {
        let mut world = World::new();
        let conn = world.connect(Address::Unix);
        let poll = b"POST /socket/0/0/xhr HTTP/1.1\r\nHost: a\r\n\r\n";
        world.give(conn, poll);
        if is_in_flight {
            world.give(conn, poll);
            let World { door: Standalone { web, app, .. }, net } = &mut world;
            let id = web.sessions.iter().map(|(id, _)| SessionId::of_http(id)).next();
            let data = format!("\"{}\"", "x".repeat(50_000));
            assert!(!web.publish(net, id.unwrap(), &Publication::new("c", &data)));
            web.settle(net, app);
            assert!(matches!(web.lines[conn.index()], Line::AnswerInFlight(..)));
            // The session's limit holds also while its answer is in flight.
            assert_eq!(web.message_bytes(app, conn), 2048);
        }
        world.door.stopping(&mut world.net, Millis(0));
        world.give(conn, b"");
        assert_eq!(world.door.web.sessions.len(), 0);
        let parted = world.door.web.http_sessions_closed();
        assert_eq!(parted[CloseReason::GoingAway as usize], 1, "{is_in_flight}: {parted:?}");
        world.end();
    }
}

/// The memory for waiting messages of all sessions is used up.
#[test]
fn a_session_evicted_for_its_waiting_messages_closes_as_full() {
    let mut world = World::new();
    let [receiver, sender] = [(); 2].map(|()| world.connect(Address::Unix));
    let poll = b"POST /socket/0/0/xhr HTTP/1.1\r\nHost: a\r\n\r\n";
    world.give(receiver, poll);
    world.door.web.limits.bodies_bytes = 1000;
    world.door.app.is_short = true;
    let body = format!("[\"{}\"]", "x".repeat(1500));
    let head = "POST /socket/0/0/xhr_send HTTP/1.1\r\nHost: a\r\nContent-Length: ";
    world.give(sender, format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes());
    assert_eq!(world.door.web.bodies.evicted, 1);
    world.give(receiver, poll);
    let output = &world.net.peers[receiver.index()].output;
    assert!(output.ends_with(b"c[3008,\"too slow\"]\n"));
    world.net.now = Millis(60_000);
    world.give(receiver, b"");
    assert_eq!(world.door.web.http_sessions_closed()[CloseReason::Full as usize], 1);
    world.end();
}

/// As of clients behind a proxy that keeps no connection open: each request has its own.
#[test]
fn sessions_whose_requests_each_have_a_connection_leave_nothing() {
    let mut world = World::new();
    for number in 0..20_000_u32 {
        let [_, high, low, _] = (number % 1000).to_be_bytes();
        let mut ask = |request: &str, body: &str, expected: &str| {
            // The slot is free again, and so is its place in the network.
            world.net.peers.clear();
            let conn = world.connect(Address::Ip([10, high, low, 1].into()));
            let length = body.len();
            let head = format!("POST /socket/0/{number}/{request} HTTP/1.1\r\nHost: a\r\n");
            let head = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n");
            world.give(conn, (head + body).as_bytes());
            let peer = &world.net.peers[conn.index()];
            let output = String::from_utf8_lossy(&peer.output);
            assert!(output.ends_with(expected) && !peer.is_open, "{number}: {output}");
        };
        ask("xhr", "", "\r\n\r\no\n");
        ask("xhr_send", "[\"x\"]", "\r\n\r\n");
        ask("xhr", "", "a[\"x\"]\n");
        // At most five wait for a receiver that does not come.
        world.net.now = world.net.now.plus(1000);
    }
    assert!(world.door.web.sessions.len() > 1);
    world.net.now = world.net.now.plus(10_000);
    while world.turn() || world.door.due(&world.net).is_some_and(|at| at <= world.net.now) {}
    world.door.web.check_invariants();
    world.door.web.check_drained();
    let parted = world.door.web.http_sessions_closed();
    assert_eq!(parted[CloseReason::PeerLost as usize], 20_000, "{parted:?}");
}
