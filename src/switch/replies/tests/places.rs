//! Which back ends get a connection, or room for a command, when all are taken.

use super::*;
use crate::codec::jwt;
use crate::codec::ws::{self, Opcode};

#[test]
fn a_half_closed_connection_gives_its_place_to_a_newcomer() {
    let mut world = World::new(Limits { control_connections: 3, ..Limits::default() });
    let gone = world.connect(0, &[AUTH, &set("k", 1)]);
    let also = world.connect(1, &[AUTH, &set("big", LARGE), &get("big"), &get("big")]);
    let here = world.connect(2, &[AUTH, &set("k", 1)]);
    let first = world.connect(3, &[AUTH]);
    assert_eq!(world.net.closed, [(first, CloseReason::Full)], "all places are in use");
    world.half_close(gone);
    world.half_close(also);
    assert_eq!(world.net.closed.len(), 1, "both are owed replies");
    // Each gives its place to one newcomer; the one half-closed first goes first.
    for (slot, goes) in [(4, gone), (5, also)] {
        let newcomer = world.connect(slot, &[AUTH]);
        assert_eq!(world.net.closed.last(), Some(&(goes, CloseReason::Full)));
        assert_eq!(world.take_replies(newcomer), [OK]);
    }
    world.sync();
    assert_eq!(world.take_replies(here), [OK, OK]);
    assert_eq!((world.switch.pending_durable.len(), world.switch.reply_reserve.reserved()), (0, 0));
}

#[test]
fn a_namespace_with_all_places_yields_some_to_others() {
    const PLACES: usize = 64;
    let mut world = World::new(Limits { control_connections: PLACES, ..Limits::default() });
    world.switch.declare("other", AUTH_KEY).unwrap();
    world.sync();
    let other = AUTH.replace("site", "other").replace(KEY, AUTH_KEY);
    let mut slots = 0..;
    let mut come = |world: &mut World, commands: &[&str]| {
        let conn = world.connect(slots.next().unwrap(), commands);
        (conn, world.take_replies(conn))
    };
    // Two places are reserved for back ends that must authenticate.
    let busy = come(&mut world, &[AUTH]).0;
    let known: Vec<ConnId> = (3..PLACES).map(|_| come(&mut world, &[AUTH]).0).collect();
    let (_, replies) = come(&mut world, &[AUTH]);
    let share = r#"Too many back ends in all, at most 62: what is left is for other name spaces"#;
    assert_eq!(replies, [format!("{{\"success\":false,\"reason\":\"{share}\",\"code\":313}}")]);
    assert_eq!(world.net.closed, []);
    // This one is owed a reply.
    world.send(busy, &[&set("k", 1)]);
    // One that is owed nothing is closed for each newcomer, until both namespaces have as many.
    for goes in &known[..31] {
        assert_eq!(come(&mut world, &[&other]).1, [OK], "{goes:?}");
        assert_eq!(world.net.closed.last(), Some(&(*goes, CloseReason::Full)));
    }
    assert_eq!(world.net.closed.len(), 31);
    world.sync();
    assert_eq!(world.take_replies(busy), [OK]);
    for auth in [AUTH, &other] {
        assert!(come(&mut world, &[auth]).1[0].contains(share), "both have as many");
    }
    // A back end that has a place keeps it, whatever it sends.
    world.send(known[50], &[AUTH]);
    assert_eq!(world.take_replies(known[50]), [OK]);
    assert!(world.net.closed.iter().all(|(conn, _)| *conn != busy));
}

/// A limit that was lowered below what one namespace has keeps out none of another.
#[test]
fn a_namespace_beyond_a_lowered_limit_yields_to_others() {
    for (lowered, places) in [(2, 1), (40, 1), (64, 2)] {
        let mut world = World::new(Limits::default());
        world.switch.declare("other", AUTH_KEY).unwrap();
        world.sync();
        let mut slots = 0..;
        let mut come = |world: &mut World, commands: &[&str]| {
            let conn = world.connect(slots.next().unwrap(), commands);
            (conn, world.take_replies(conn))
        };
        let known: Vec<ConnId> = (0..100).map(|_| come(&mut world, &[AUTH]).0).collect();
        world.reload(&Limits { control_connections: lowered, ..Limits::default() });
        // What has begun goes on, and the namespace itself gets no more.
        assert!(come(&mut world, &[AUTH]).1[0].contains("what is left is for other name spaces"));
        assert_eq!(world.net.closed, []);
        let other = AUTH.replace("site", "other").replace(KEY, AUTH_KEY);
        for goes in &known[..50] {
            assert_eq!(come(&mut world, &[&other]).1, [OK], "{goes:?}");
            assert_eq!(world.net.closed.last(), Some(&(*goes, CloseReason::Full)));
            world.net.closed.clear();
        }
        // Only so many that have not authenticated may be there at a time.
        assert!(come(&mut world, &[&other]).1[0].contains("what is left is for other name spaces"));
        let newcomers: Vec<ConnId> = (0..=places).map(|_| come(&mut world, &[]).0).collect();
        assert!(world.net.closed.contains(&(newcomers[0], CloseReason::ControlAuth)));
        let is_there = |conn: &ConnId| world.net.closed.iter().all(|(closed, _)| closed != conn);
        assert!(newcomers[1..].iter().all(is_there));
    }
}

#[test]
fn the_deadline_of_a_command_starts_once_it_has_room() {
    let limits =
        Limits { control_input_bytes: LARGE, control_frame_bytes: LARGE, ..Limits::default() };
    let mut world = World::new(limits);
    let [first, second] = [0, 1].map(|slot| world.connect(slot, &[AUTH]));
    let frame = control::encode(set("k", LARGE - 100).as_bytes());
    let (half, rest) = frame.split_at(20_000);
    for conn in [first, second] {
        world.input.get_mut(&conn).unwrap().extend_from_slice(half);
        world.turn();
    }
    assert_eq!(world.net.deadlines[&first], Some(Millis(10_000)));
    assert_eq!(world.net.paused, [second]);
    assert_eq!(world.net.deadlines[&second], None, "it is not read, so it has no deadline");
    world.net.now = 9000;
    world.input.get_mut(&first).unwrap().extend_from_slice(rest);
    world.turn();
    assert!(world.net.paused.is_empty());
    world.turn();
    assert_eq!(world.net.deadlines[&second], Some(Millis(19_000)));
}

/// A long emit keeps the room of its command, which counts for its namespace.
#[test]
fn room_goes_first_to_the_namespace_that_holds_least() {
    let mut world = World::new(Limits {
        control_input_bytes: 200_000,
        deliveries_per_turn: 1,
        ..Limits::default()
    });
    world.switch.declare("other", AUTH_KEY).unwrap();
    world.sync();
    // A browser subscribes to the channels of the emit.
    let browser = ConnId::new(9, 0);
    world.switch.opened(&mut world.net, browser, Door::Web, Address::Unix);
    let head = "GET /socket/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut said = head.as_bytes().to_vec();
    let token = jwt::sign("1", KEY, None);
    let auth = format!(r#"{{"event":"auth","data":{{"i":"site","s":"{token}"}}}}"#);
    let names: Vec<String> = (0..30).map(|number| format!("\"{number}\"")).collect();
    let subscribe = |name| format!(r#"{{"event":"subscribe","data":{name}}}"#);
    for message in std::iter::once(auth).chain(names.iter().map(subscribe)) {
        ws::encode_masked_into(&mut said, Opcode::Text, message.as_bytes(), *b"mask");
    }
    world.input.insert(browser, said);
    world.turn();
    let other = AUTH.replace("site", "other").replace(KEY, AUTH_KEY);
    let [emits, also] = [0, 1].map(|slot| world.connect(slot, &[AUTH]));
    let [holds, waits] = [2, 3].map(|slot| world.connect(slot, &[&other]));
    // The rest of its command arrives in a second piece, and has room by then.
    let names = names.join(",");
    let data = "x".repeat(LARGE);
    let emit = format!(r#"{{"action":"emit","channels":[{names}],"data":"{data}"}}"#);
    let mut frame = Vec::new();
    control::encode_into(&mut frame, emit.as_bytes());
    let (start, rest) = frame.split_at(20_000);
    for piece in [start, rest] {
        world.input.entry(emits).or_default().extend_from_slice(piece);
        world.turn();
    }
    assert_eq!(world.switch.metrics.long_emits, 1);
    world.send_start(holds, 90_000);
    // Once `holds` is closed there is room for one of these: that of the namespace with less room.
    world.send_start(also, 80_000);
    world.send_start(waits, 85_000);
    world.net.closed.push((holds, CloseReason::PeerLost));
    world.turn();
    world.turn();
    assert_eq!(world.switch.long_emits.len(), 1, "the emit continues");
    let has_room = |conn| world.switch.connections.look_at(conn).map(|it| it.room.is_some());
    assert_eq!((has_room(also), has_room(waits)), (Some(false), Some(true)));
}
