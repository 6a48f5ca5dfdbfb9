//! Who waits, and who does not, while nothing more may wait for the disk.

use super::*;

#[test]
fn newcomers_are_not_late_while_nobody_is_heard() {
    let mut world = World::new(Limits::default());
    world.journal.disk().is_full = true;
    // What changes something waits, and all behind it.
    let change = set("it", 9);
    for slot in 0..100 {
        let conn = world.comes(slot, &[&change, AUTH]);
        world.switch.closed(&mut world.net, conn, CloseReason::PeerLost);
    }
    assert_eq!(world.switch.crowded, [], "whoever is gone leaves nothing behind");
    let conn = world.comes(100, &[&change, AUTH]);
    assert_eq!(world.net.deadlines[&conn], None);
    world.net.now = 60_000;
    world.turn();
    // From then on it has what it had left.
    world.journal.disk().is_full = false;
    world.turn();
    world.turn();
    let need_auth = String::from_utf8(refusal(&command::NEED_AUTH)).unwrap();
    assert_eq!(world.takes(conn), [&need_auth, OK]);
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
    // In pieces, and again, and up to what does change something.
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

/// What stays unread and is not paused is read again each turn.
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
    // One that is not short waits, and is not read meanwhile.
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
