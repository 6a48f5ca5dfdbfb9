//! Which commands wait, and which do not, while the journal is full.

use super::*;

const REGISTER: &str = r#"{"action":"registerNameSpace","name":"new","key":"server"}"#;

#[test]
fn newcomers_are_not_late_while_nobody_is_heard() {
    let mut world = World::new(Limits::default());
    world.journal.disk().is_full = true;
    // A command that changes something waits, and all behind it.
    for slot in 0..100 {
        let conn = world.comes(slot, &[REGISTER, AUTH]);
        world.switch.closed(&mut world.net, conn, CloseReason::PeerLost);
    }
    assert_eq!(world.switch.waiting_for_room, [], "whoever is gone leaves nothing behind");
    let conn = world.comes(100, &[REGISTER, AUTH]);
    assert_eq!(world.net.deadlines[&conn], None);
    world.net.now = 60_000;
    world.turn();
    // From then on it has the time that it had left.
    world.journal.disk().is_full = false;
    world.turn();
    world.turn();
    world.sync();
    let told = world.takes(conn);
    assert!(told[0].starts_with(r#"{"success":true,"secretKey":"#), "{told:?}");
    assert_eq!(told[1..], [OK]);
    assert_eq!(world.net.deadlines[&conn], None);
}

#[test]
fn whoever_changes_nothing_is_heard_while_others_fill_what_waits_for_the_disk() {
    let mut world = World::new(Limits::default());
    let (change, get) = (set("it", 9), r#"{"action":"get","channel":"none"}"#);
    let busy = world.comes(0, &[AUTH, &change]);
    world.journal.disk().is_full = true;
    world.says(busy, &[&change]);
    let other = world.comes(1, &[AUTH, get, r#"{"action":"ping"}"#]);
    assert_eq!(
        (world.takes(busy), world.takes(other)),
        (vec![OK.into()], vec![OK.into(), "null".into(), OK.into()])
    );
    // The same in pieces, and again, up to a command that does change something.
    let emit = r#"{"action":"emit","channel":"it","data":1}"#;
    let (first, rest) = get.split_at(9);
    world.input.entry(other).or_default().extend_from_slice(&(get.len() as u32).to_le_bytes());
    for piece in [first, rest, "\0"] {
        assert_eq!(world.takes(other), [""; 0]);
        world.input.entry(other).or_default().extend_from_slice(piece.as_bytes());
        world.turn();
    }
    assert_eq!(world.takes(other), ["null"]);
    world.says(other, &[emit, &change, get]);
    assert_eq!(world.takes(other), [OK]);
    world.journal.disk().is_full = false;
    world.turn();
    world.turn();
    world.sync();
    assert_eq!((world.takes(busy).len(), world.takes(other)), (2, vec![OK.into(), "null".into()]));
}

/// Input that stays unread while its connection is not paused would be read again each turn.
#[test]
fn what_can_never_be_a_command_waits_for_no_disk() {
    let limits = Limits { control_frame_unauthenticated_bytes: 1 << 20, ..Limits::default() };
    let mut world = World::new(limits);
    world.journal.disk().is_full = true;
    for length in [-1, i32::MIN, 0] {
        let conn = world.comes(0, &[AUTH]);
        let mut input = [&length.to_le_bytes()[..], &[b' '; 9]].concat();
        let end = world.switch.received(&mut world.net, conn, &mut input);
        assert_eq!(end, Err(CloseReason::ControlFraming), "{length}");
        world.switch.closed(&mut world.net, conn, CloseReason::ControlFraming);
        world.input.remove(&conn);
    }
    // A long one waits, and its connection is not read meanwhile.
    let conn = world.comes(1, &[AUTH]);
    let text = format!(r#"{{"action":"emit","channel":"it","data":"{}"}}"#, "x".repeat(20_000));
    world.input.get_mut(&conn).unwrap().extend(&control::encode(text.as_bytes())[..18_000]);
    world.turn();
    assert_eq!(world.net.paused, [conn]);
}

#[test]
fn whoever_waited_for_browsers_does_not_wait_for_the_disk_then() {
    let mut world = World::new(Limits::default());
    let (change, get) = (set("it", 9), r#"{"action":"get","channel":"none"}"#);
    let [busy, other] = [0, 1].map(|slot| world.comes(slot, &[AUTH]));
    world.journal.disk().is_full = true;
    world.net.published = 2 * Limits::default().queued_bytes;
    world.says(busy, &[&change]);
    world.says(other, &[get]);
    assert_eq!((world.takes(busy), world.takes(other)), (vec![OK.into()], vec![OK.into()]));
    assert_eq!(world.net.paused, [busy, other]);
    world.net.published = 0;
    world.turn();
    world.turn();
    assert_eq!((world.takes(busy), world.takes(other)), (vec![], vec!["null".into()]));
    assert_eq!(world.net.paused, [busy], "and it is not tried again and again");
    world.turn();
    assert_eq!(world.net.paused, [busy]);
}

/// The codes of the replies that it has received.
fn codes(world: &mut World, conn: ConnId) -> Vec<String> {
    let told = world.takes(conn);
    let code = |body: &String| body.rsplit_once("\"code\":").map_or(body.clone(), |it| it.1.into());
    told.iter().map(code).collect()
}

#[test]
fn what_is_refused_waits_for_no_disk() {
    let mut world = World::new(Limits::default());
    let conn = world.comes(0, &[AUTH]);
    assert_eq!(world.takes(conn), [OK]);
    world.journal.disk().is_full = true;
    let disconnect = r#"{"action":"disconnect","params":{"userId":5}}"#;
    world.says(conn, &[disconnect, r#"{"action":"set","channel":"it"}"#, "{}", PING]);
    assert_eq!(codes(&mut world, conn), [r#"{"success":true,"count":0}"#, "300}", "300}", OK]);
    let wrong_key = REGISTER.replace("server", "another");
    let unauthenticated = world.comes(1, &[&set("it", 9), "{}", &wrong_key]);
    assert_eq!(codes(&mut world, unauthenticated), ["311}", "300}", "306}"]);
    let mut no_json = control::encode(b"{").to_vec();
    let end = world.switch.received(&mut world.net, unauthenticated, &mut no_json);
    assert_eq!(end, Err(CloseReason::ControlJson));
    // A back end whose key has ended meanwhile is unauthenticated, too.
    world.journal.disk().is_full = false;
    let rotate = r#"{"action":"rotateKey","name":"site","key":"server","params":{"grace":1}}"#;
    world.comes(2, &[rotate]);
    world.sync();
    world.rest();
    world.journal.disk().is_full = true;
    world.net.now = 1000;
    world.says(conn, &[&set("it", 9), PING]);
    assert_eq!(codes(&mut world, conn), ["311}", OK]);
}

#[test]
fn whose_key_ends_waits_for_no_disk_any_more() {
    let mut world = World::new(Limits::default());
    let rotate = r#"{"action":"rotateKey","name":"site","key":"server","params":{"grace":1}}"#;
    let (conn, operator) = (world.comes(0, &[AUTH]), world.comes(1, &[rotate]));
    world.sync();
    world.rest();
    world.takes(conn);
    world.journal.disk().is_full = true;
    world.says(conn, &[&set("it", 9), PING]);
    world.says(operator, &[rotate]);
    assert_eq!((world.takes(conn).len(), world.net.paused.len()), (0, 2));
    world.net.now = 1000;
    world.turn();
    world.turn();
    assert_eq!(codes(&mut world, conn), ["311}", OK]);
    assert_eq!(world.net.paused, [operator]);
}

#[test]
fn half_of_what_changes_nothing_waits_for_no_disk_if_it_is_taken_before() {
    let mut world = World::new(Limits::default());
    let conns = [get("none"), set("it", 9)].map(|body| {
        let conn = world.comes(body.len() as u32, &[AUTH]);
        assert_eq!(world.takes(conn), [OK]);
        (conn, control::encode(body.as_bytes()))
    });
    // The decoder has the start of each, and the rest comes in pieces.
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
    assert_eq!((world.takes(asks), world.takes(changes)), (vec!["null".into(), OK.into()], vec![]));
    assert_eq!(world.net.paused, [changes]);
    world.journal.disk().is_full = false;
    world.turn();
    world.turn();
    world.sync();
    assert_eq!(world.takes(changes), [OK, OK]);
}

#[test]
fn what_is_too_long_to_be_a_command_waits_for_no_disk() {
    let limits = Limits { control_frame_bytes: 30_000, ..Limits::default() };
    let (few, most) = (limits.control_frame_unauthenticated_bytes, limits.control_frame_bytes);
    let mut world = World::new(limits);
    world.journal.disk().is_full = true;
    for (commands, length) in [(&[PING][..], few + 1), (&[AUTH], most + 1)] {
        let conn = world.comes(length as u32, commands);
        let mut input = (length as i32).to_le_bytes();
        let end = world.switch.received(&mut world.net, conn, &mut input);
        assert_eq!(end, Err(CloseReason::ControlFraming), "{length}");
    }
}

#[test]
fn other_limits_are_noticed_by_those_who_wait() {
    let mut world = World::new(Limits::default());
    world.journal.disk().is_full = true;
    let conn = world.comes(0, &[AUTH, &set("it", 9)]);
    assert_eq!((world.takes(conn), world.rest()), (vec![OK.into()], 0));
    world.journal.disk().is_full = false;
    let now = world.net.now();
    world.switch.reload(&Limits::default(), crate::switch::SockJs::default(), now);
    assert!(world.rest() > 0, "nobody looks whether there is room now");
    world.turn();
    world.sync();
    assert_eq!(world.takes(conn), [OK]);
}

#[test]
fn what_a_reload_has_refused_waits_for_no_disk_any_more() {
    for (server_key, name_bytes, code) in [("another", 255, "306}"), ("server", 2, "300}")] {
        let mut world = World::new(Limits::default());
        world.journal.disk().is_full = true;
        let registers = world.comes(0, &[REGISTER, PING]);
        let sets = world.comes(1, &[AUTH, &set("it", 9)]);
        assert_eq!((world.takes(registers), world.takes(sets)), (vec![], vec![OK.into()]));
        let (limits, now) = (Limits { name_bytes, ..Limits::default() }, world.net.now());
        world.switch.reload(&limits, crate::switch::SockJs::default(), now);
        world.switch.set_server_key(server_key);
        world.turn();
        world.turn();
        assert_eq!(codes(&mut world, registers), [code, OK]);
        // The one that must wait does, and is not looked at again and again.
        assert_eq!((world.takes(sets), world.net.paused.clone()), (vec![], vec![sets]));
        assert_eq!(world.rest(), 0);
    }
}
