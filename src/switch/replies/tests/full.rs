//! Which commands wait while the journal is full, and which do not.

use super::*;
use crate::codec::sockjs;
use crate::web::Service;

#[test]
fn auth_deadlines_are_suspended_while_the_journal_is_full() {
    let mut world = World::new(Limits::default());
    world.journal.disk().is_full = true;
    // A command that changes something waits, and so do all behind it.
    for slot in 0..100 {
        let conn = world.connect(slot, &[REGISTER, AUTH]);
        world.switch.closed(&mut world.net, conn, CloseReason::PeerLost);
    }
    assert_eq!(world.switch.waiting_for_room, [], "closed connections leave nothing behind");
    let conn = world.connect(100, &[REGISTER, AUTH]);
    assert_eq!(world.net.deadlines[&conn], None);
    world.net.now = 60_000;
    world.turn();
    // Its deadline resumes with the time that was left.
    world.journal.disk().is_full = false;
    world.turn();
    world.turn();
    world.sync();
    let replies = world.take_replies(conn);
    assert!(replies[0].starts_with(r#"{"success":true,"secretKey":"#), "{replies:?}");
    assert_eq!(replies[1..], [OK]);
    assert_eq!(world.net.deadlines[&conn], None);
}

#[test]
fn read_only_commands_are_executed_while_the_journal_is_full() {
    let mut world = World::new(Limits::default());
    let (change, get) = (set("it", 9), r#"{"action":"get","channel":"none"}"#);
    let busy = world.connect(0, &[AUTH, &change]);
    world.journal.disk().is_full = true;
    world.send(busy, &[&change]);
    let other = world.connect(1, &[AUTH, get, r#"{"action":"ping"}"#]);
    assert_eq!(
        (world.take_replies(busy), world.take_replies(other)),
        (vec![OK.into()], vec![OK.into(), "null".into(), OK.into()])
    );
    // The same in pieces, and then up to a command that does change something.
    let emit = r#"{"action":"emit","channel":"it","data":1}"#;
    let (first, rest) = get.split_at(9);
    world.input.entry(other).or_default().extend_from_slice(&(get.len() as u32).to_le_bytes());
    for piece in [first, rest, "\0"] {
        assert_eq!(world.take_replies(other), [""; 0]);
        world.input.entry(other).or_default().extend_from_slice(piece.as_bytes());
        world.turn();
    }
    assert_eq!(world.take_replies(other), ["null"]);
    world.send(other, &[emit, &change, get]);
    assert_eq!(world.take_replies(other), [OK]);
    world.journal.disk().is_full = false;
    world.turn();
    world.turn();
    world.sync();
    assert_eq!(
        (world.take_replies(busy).len(), world.take_replies(other)),
        (2, vec![OK.into(), "null".into()])
    );
}

/// Input that stays unread while its connection is not paused would be read again each turn.
#[test]
fn invalid_frame_lengths_are_refused_while_the_journal_is_full() {
    let limits = Limits { control_frame_unauthenticated_bytes: 1 << 20, ..Limits::default() };
    let mut world = World::new(limits);
    world.journal.disk().is_full = true;
    for length in [-1, i32::MIN, 0] {
        let conn = world.connect(0, &[AUTH]);
        let mut input = [&length.to_le_bytes()[..], &[b' '; 9]].concat();
        let end = world.switch.received(&mut world.net, conn, &mut input);
        assert_eq!(end, Err(CloseReason::ControlFraming), "{length}");
        world.switch.closed(&mut world.net, conn, CloseReason::ControlFraming);
        world.input.remove(&conn);
    }
    // A long valid one waits, and its connection is not read meanwhile.
    let conn = world.connect(1, &[AUTH]);
    let text = format!(r#"{{"action":"emit","channel":"it","data":"{}"}}"#, "x".repeat(20_000));
    world.input.get_mut(&conn).unwrap().extend(&control::encode(text.as_bytes())[..18_000]);
    world.turn();
    assert_eq!(world.net.paused, [conn]);
}

#[test]
fn a_get_delayed_by_browsers_does_not_then_wait_for_the_disk() {
    let mut world = World::new(Limits::default());
    let (change, get) = (set("it", 9), r#"{"action":"get","channel":"none"}"#);
    let [busy, other] = [0, 1].map(|slot| world.connect(slot, &[AUTH]));
    world.journal.disk().is_full = true;
    world.net.published = 2 * Limits::default().queued_bytes;
    world.send(busy, &[&change]);
    world.send(other, &[get]);
    assert_eq!(
        (world.take_replies(busy), world.take_replies(other)),
        (vec![OK.into()], vec![OK.into()])
    );
    assert_eq!(world.net.paused, [busy, other]);
    world.net.published = 0;
    world.turn();
    world.turn();
    assert_eq!(
        (world.take_replies(busy), world.take_replies(other)),
        (vec![], vec!["null".into()])
    );
    assert_eq!(world.net.paused, [busy], "a connection that still waits is not retried each turn");
    world.turn();
    assert_eq!(world.net.paused, [busy]);
}

/// Short commands are read although browsers of others are slow, whatever they have waited for.
#[test]
fn a_back_end_that_waited_for_the_disk_does_not_then_wait_for_browsers() {
    let mut world = World::new(Limits { control_replies_waiting: 2, ..Limits::default() });
    let conns = [0, 1].map(|slot| world.connect(slot, &[AUTH]));
    let [owed, changes] = conns;
    // The one waits for its replies, and the other for a journal with room.
    world.send(owed, &[&set("it", 9), &set("it", 8), PING]);
    world.journal.disk().is_full = true;
    world.send(changes, &[&set("it", 9)]);
    assert_eq!(world.net.paused, conns);
    for conn in conns {
        assert_eq!(world.take_replies(conn), [OK]);
    }
    world.net.published = Limits::default().queued_bytes + 1;
    world.journal.disk().is_full = false;
    world.sync();
    world.turn();
    world.sync();
    assert_eq!(world.take_replies(owed), [OK, OK, OK]);
    assert_eq!((world.take_replies(changes), world.net.paused.clone()), (vec![OK.into()], vec![]));
    // A long command waits, and is not retried each turn.
    world.send(changes, &[&set("it", 20_000)]);
    world.turn();
    assert_eq!((world.take_replies(changes), world.net.paused.clone()), (vec![], vec![changes]));
    assert_eq!(world.run_until_idle(), 0);
    world.net.published = 0;
    world.turn();
    world.turn();
    world.sync();
    assert_eq!(world.take_replies(changes), [OK]);
}

/// The codes of the replies that a back end has received.
fn codes(world: &mut World, conn: ConnId) -> Vec<String> {
    let replies = world.take_replies(conn);
    let code = |body: &String| body.rsplit_once("\"code\":").map_or(body.clone(), |it| it.1.into());
    replies.iter().map(code).collect()
}

#[test]
fn refused_commands_are_answered_while_the_journal_is_full() {
    let mut world = World::new(Limits::default());
    let conn = world.connect(0, &[AUTH]);
    assert_eq!(world.take_replies(conn), [OK]);
    world.journal.disk().is_full = true;
    let disconnect = r#"{"action":"disconnect","params":{"userId":5}}"#;
    world.send(conn, &[disconnect, r#"{"action":"set","channel":"it"}"#, "{}", PING]);
    assert_eq!(codes(&mut world, conn), [r#"{"success":true,"count":0}"#, "300}", "300}", OK]);
    let wrong_key = REGISTER.replace("server", "another");
    let unauthenticated = world.connect(1, &[&set("it", 9), "{}", &wrong_key]);
    assert_eq!(codes(&mut world, unauthenticated), ["311}", "300}", "306}"]);
    let mut no_json = control::encode(b"{").to_vec();
    let end = world.switch.received(&mut world.net, unauthenticated, &mut no_json);
    assert_eq!(end, Err(CloseReason::ControlJson));
    // A back end whose key has expired meanwhile is unauthenticated, too.
    world.journal.disk().is_full = false;
    let rotate = r#"{"action":"rotateKey","name":"site","key":"server","params":{"grace":1}}"#;
    world.connect(2, &[rotate]);
    world.sync();
    world.run_until_idle();
    world.journal.disk().is_full = true;
    world.net.now = 1000;
    world.send(conn, &[&set("it", 9), PING]);
    assert_eq!(codes(&mut world, conn), ["311}", OK]);
}

#[test]
fn an_expired_key_ends_the_wait_for_a_full_journal() {
    let mut world = World::new(Limits::default());
    let rotate = r#"{"action":"rotateKey","name":"site","key":"server","params":{"grace":1}}"#;
    let (conn, operator) = (world.connect(0, &[AUTH]), world.connect(1, &[rotate]));
    world.sync();
    world.run_until_idle();
    world.take_replies(conn);
    world.journal.disk().is_full = true;
    world.send(conn, &[&set("it", 9), PING]);
    world.send(operator, &[rotate]);
    assert_eq!((world.take_replies(conn).len(), world.net.paused.len()), (0, 2));
    world.net.now = 1000;
    world.turn();
    world.turn();
    assert_eq!(codes(&mut world, conn), ["311}", OK]);
    assert_eq!(world.net.paused, [operator]);
}

#[test]
fn a_partial_read_only_command_does_not_wait_for_a_full_journal() {
    let mut world = World::new(Limits::default());
    let conns = [get("none"), set("it", 9)].map(|body| {
        let conn = world.connect(body.len() as u32, &[AUTH]);
        assert_eq!(world.take_replies(conn), [OK]);
        (conn, control::encode(body.as_bytes()))
    });
    // The decoder has the start of each, and the rest arrives in pieces.
    for (conn, frame) in &conns {
        world.input.entry(*conn).or_default().extend_from_slice(&frame[..9]);
    }
    world.turn();
    world.journal.disk().is_full = true;
    for piece in [9..10, 10..20] {
        for (conn, frame) in &conns {
            world.input.entry(*conn).or_default().extend_from_slice(&frame[piece.clone()]);
        }
        world.turn();
        assert_eq!(world.net.paused, []);
    }
    let [(asks, _), (changes, _)] = conns;
    for (conn, frame) in &conns {
        let rest = [&frame[20..], &control::encode(PING.as_bytes())].concat();
        world.input.entry(*conn).or_default().extend_from_slice(&rest);
    }
    world.turn();
    assert_eq!(
        (world.take_replies(asks), world.take_replies(changes)),
        (vec!["null".into(), OK.into()], vec![])
    );
    assert_eq!(world.net.paused, [changes]);
    world.journal.disk().is_full = false;
    world.turn();
    world.turn();
    world.sync();
    assert_eq!(world.take_replies(changes), [OK, OK]);
}

#[test]
fn oversized_frames_are_refused_while_the_journal_is_full() {
    let limits = Limits { control_frame_bytes: 30_000, ..Limits::default() };
    let (few, most) = (limits.control_frame_unauthenticated_bytes, limits.control_frame_bytes);
    let mut world = World::new(limits);
    world.journal.disk().is_full = true;
    for (commands, length) in [(&[PING][..], few + 1), (&[AUTH], most + 1)] {
        let conn = world.connect(length as u32, commands);
        let mut input = (length as i32).to_le_bytes();
        let end = world.switch.received(&mut world.net, conn, &mut input);
        assert_eq!(end, Err(CloseReason::ControlFraming), "{length}");
    }
}

impl World {
    pub(super) fn reload(&mut self, limits: &Limits) {
        let (service, now) = (Service::new(sockjs::PREFIX, limits), self.net.now());
        self.switch.reload(limits, service, now);
    }
}

#[test]
fn a_reload_wakes_commands_that_wait_for_the_journal() {
    let mut world = World::new(Limits::default());
    world.journal.disk().is_full = true;
    let conn = world.connect(0, &[AUTH, &set("it", 9)]);
    assert_eq!((world.take_replies(conn), world.run_until_idle()), (vec![OK.into()], 0));
    world.journal.disk().is_full = false;
    world.reload(&Limits::default());
    assert!(world.run_until_idle() > 0, "waiting commands are not retried");
    world.turn();
    world.sync();
    assert_eq!(world.take_replies(conn), [OK]);
}

#[test]
fn commands_invalid_after_a_reload_stop_waiting_for_the_journal() {
    for (server_key, name_bytes, code) in [("another", 255, "306}"), ("server", 2, "300}")] {
        let mut world = World::new(Limits::default());
        world.journal.disk().is_full = true;
        let registers = world.connect(0, &[REGISTER, PING]);
        let sets = world.connect(1, &[AUTH, &set("it", 9)]);
        assert_eq!(
            (world.take_replies(registers), world.take_replies(sets)),
            (vec![], vec![OK.into()])
        );
        world.reload(&Limits { name_bytes, ..Limits::default() });
        world.switch.set_server_key(server_key);
        world.turn();
        world.turn();
        assert_eq!(codes(&mut world, registers), [code, OK]);
        // The one that must wait does, and is not retried each turn.
        assert_eq!((world.take_replies(sets), world.net.paused.clone()), (vec![], vec![sets]));
        assert_eq!(world.run_until_idle(), 0);
    }
}
