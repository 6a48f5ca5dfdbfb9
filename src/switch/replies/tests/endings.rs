//! Back ends that are closed while replies to them wait for the disk.

use super::*;
use crate::address::ClientPrefix;

/// It is owed the key that was generated for it.
#[test]
fn a_back_end_is_closed_for_the_first_reason_given() {
    let mut world = World::new(Limits::default());
    let conn = world.connect(0, &[REGISTER]);
    world.input.get_mut(&conn).unwrap().extend([0xff; 4]);
    world.turn();
    world.switch.evict_unauthenticated(&mut world.net, ClientPrefix::Unix);
    world.sync();
    assert_eq!(world.net.closed, [(conn, CloseReason::ControlFraming)]);
}

#[test]
fn no_command_is_executed_once_back_ends_are_drained() {
    let mut world = World::new(Limits::default());
    let conn = world.connect(0, &[REGISTER]);
    world.switch.drain_control(&mut world.net);
    let before = world.switch.metrics.commands;
    world.send(conn, &[PING]);
    assert_eq!(world.switch.metrics.commands, before);
    world.sync();
    assert_eq!(world.net.closed, [(conn, CloseReason::PeerClosed)]);
}
