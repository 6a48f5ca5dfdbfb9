//! Who gets a connection, or room for a command, when all are taken.

use super::*;

#[test]
fn whoever_has_said_all_makes_room_for_a_newcomer() {
    let mut world = World::new(Limits { control_connections: 3, ..Limits::default() });
    let gone = world.comes(0, &[AUTH, &set("k", 1)]);
    let also = world.comes(1, &[AUTH, &set("big", LARGE), &get("big"), &get("big")]);
    let here = world.comes(2, &[AUTH, &set("k", 1)]);
    let first = world.comes(3, &[AUTH]);
    assert_eq!(world.net.closed, [(first, CloseReason::Full)], "all of them are there");
    world.ends(gone);
    world.ends(also);
    assert_eq!(world.net.closed.len(), 1, "they are owed something");
    // Each makes room once, and the one that has waited longest goes first.
    for (slot, goes) in [(4, gone), (5, also)] {
        let newcomer = world.comes(slot, &[AUTH]);
        assert_eq!(world.net.closed.last(), Some(&(goes, CloseReason::Full)));
        assert_eq!(world.takes(newcomer), [OK]);
    }
    world.sync();
    assert_eq!(world.takes(here), [OK, OK]);
    assert_eq!((world.switch.pending_durable.len(), world.switch.reply_reserve.reserved()), (0, 0));
}

#[test]
fn a_name_space_that_has_all_places_makes_room_for_others() {
    const PLACES: usize = 64;
    let mut world = World::new(Limits { control_connections: PLACES, ..Limits::default() });
    world.switch.declare("other", AUTH_KEY).unwrap();
    world.sync();
    let other = AUTH.replace("site", "other").replace(KEY, AUTH_KEY);
    let mut slots = 0..;
    let mut come = |world: &mut World, commands: &[&str]| {
        let conn = world.comes(slots.next().unwrap(), commands);
        (conn, world.takes(conn))
    };
    // Two places are reserved for those who must authenticate.
    let busy = come(&mut world, &[AUTH]).0;
    let known: Vec<ConnId> = (3..PLACES).map(|_| come(&mut world, &[AUTH]).0).collect();
    let (_, told) = come(&mut world, &[AUTH]);
    let share = r#"Too many back ends in all, at most 62: what is left is for other name spaces"#;
    assert_eq!(told, [format!("{{\"success\":false,\"reason\":\"{share}\",\"code\":313}}")]);
    assert_eq!(world.net.closed, []);
    // This one is owed a reply.
    world.says(busy, &[&set("k", 1)]);
    // One that is owed nothing is closed for each newcomer, until both namespaces have as many.
    for goes in &known[..31] {
        assert_eq!(come(&mut world, &[&other]).1, [OK], "{goes:?}");
        assert_eq!(world.net.closed.last(), Some(&(*goes, CloseReason::Full)));
    }
    assert_eq!(world.net.closed.len(), 31);
    world.sync();
    assert_eq!(world.takes(busy), [OK]);
    for auth in [AUTH, &other] {
        assert!(come(&mut world, &[auth]).1[0].contains(share), "nobody has more than others");
    }
    // A back end that has a place keeps it, whatever it sends.
    world.says(known[50], &[AUTH]);
    assert_eq!(world.takes(known[50]), [OK]);
    assert!(world.net.closed.iter().all(|(conn, _)| *conn != busy));
}

#[test]
fn a_command_that_waits_for_room_has_its_time_when_it_has_it() {
    let limits =
        Limits { control_input_bytes: LARGE, control_frame_bytes: LARGE, ..Limits::default() };
    let mut world = World::new(limits);
    let [first, second] = [0, 1].map(|slot| world.comes(slot, &[AUTH]));
    let frame = control::encode(set("k", LARGE - 100).as_bytes());
    let (half, rest) = frame.split_at(20_000);
    for conn in [first, second] {
        world.input.get_mut(&conn).unwrap().extend_from_slice(half);
        world.turn();
    }
    assert_eq!(world.net.deadlines[&first], Some(Millis(10_000)));
    assert_eq!(world.net.paused, [second]);
    assert_eq!(world.net.deadlines[&second], None, "it is not read: nothing can be late");
    world.net.now = 9000;
    world.input.get_mut(&first).unwrap().extend_from_slice(rest);
    world.turn();
    assert!(world.net.paused.is_empty());
    world.turn();
    assert_eq!(world.net.deadlines[&second], Some(Millis(19_000)));
}
