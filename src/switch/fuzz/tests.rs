//! The fuzz targets reach the code that they check, and report wrong output.

use super::*;
use crate::address::ClientPrefix;
use crate::journal::RollbackJournal;

/// Returns what a peer has received since it connected, after the opening and a script.
fn output(journal: impl Journal + 'static, script: &str, peer: u8) -> String {
    let mut world = World::new(journal);
    world.play(opening(&[('a', "1"), ('d', "2")]).as_bytes());
    world.play(script.as_bytes());
    let slot = PEERS.iter().position(|letter| *letter == peer).unwrap();
    let output = String::from_utf8_lossy(&world.net.peers[slot].output).into_owned();
    world.end();
    output
}

#[test]
fn scripts_reach_the_whole_switch() {
    let script = r#"k{"action":"emit","channel":"c","data":"hi"}"#;
    for journal in [0, 1] {
        for (peer, wanted) in [
            (b'a', r#"{"event":"c","data":"hi"}"#),
            (b'd', r#"a["{\"event\":\"c\",\"data\":\"hi\"}"]"#),
            (b'k', "\0\u{10}\0\0\0{\"success\":true}\0"),
        ] {
            let output = match journal {
                0 => output(MemoryJournal::default(), script, peer),
                _ => output(DelayedJournal::new(0, 0), script, peer),
            };
            assert!(output.contains(wanted), "{output}");
        }
    }
}

#[test]
fn scripts_pass_time_and_connect_and_disconnect_peers() {
    let beat = output(MemoryJournal::default(), ".\u{34}", b'a');
    assert!(beat.ends_with("\u{fffd}\0"), "a ping: {beat:?}");
    let script = "~a\nk{\"action\":\"channelInfo\",\"channel\":\"c\"}\na5";
    assert!(output(MemoryJournal::default(), script, b'k').contains(r#""countUser":1"#));
    assert!(!output(MemoryJournal::default(), script, b'a').contains("auth ok"));
    let script = "!k\nk{\"action\":\"ping\"}\n$k+\n!k";
    assert_eq!(output(MemoryJournal::default(), script, b'k'), "");
    let xhr = "hPOST /socket/0/0/xhr_streaming HTTP/1.1\r\nhHost: a\r\nh\r";
    assert!(output(MemoryJournal::default(), xhr, b'h').ends_with("\r\n2\r\no\n\r\n"));
    let script = "hGET /socket HTTP/1.1\r\nhHost: a\r\nh\r";
    assert!(output(MemoryJournal::default(), script, b'h').contains("Welcome"));
}

#[test]
fn a_back_end_is_closed_for_the_first_reason_given() {
    let mut world = World::new(RollbackJournal::new(0, 0));
    world.line(br#"l{"action":"registerNameSpace","name":"n","key":"server"}"#);
    world.line(b"L\xff\xff\xff\xff");
    world.turn();
    // It is evicted while it is owed the key that was generated for it.
    world.switch.evict_unauthenticated(&mut world.net, ClientPrefix::Unix);
    world.rest();
    let closed = world.switch.metrics.closed;
    assert_eq!(closed[CloseReason::ControlFraming as usize], 1);
    assert_eq!(closed[CloseReason::ControlAuth as usize], 0);
    world.end();
}

#[test]
fn no_command_is_executed_once_back_ends_are_drained() {
    let mut world = World::new(RollbackJournal::new(0, 0));
    world.line(br#"l{"action":"registerNameSpace","name":"n","key":"server"}"#);
    world.turn();
    // It is owed the key that was generated for it.
    world.switch.drain_control(&mut world.net);
    let before = world.switch.metrics.commands;
    world.line(br#"l{"action":"ping"}"#);
    world.rest();
    assert_eq!(world.switch.metrics.commands, before);
    assert_eq!(world.switch.metrics.closed[CloseReason::PeerClosed as usize], 1);
    world.end();
}

#[test]
fn a_browser_that_reads_is_kept_though_its_queue_fills_again() {
    let mut world = World::new(MemoryJournal::default());
    world.play(opening(&[('a', "1")]).as_bytes());
    world.play(b"!a");
    for _ in 0..3 {
        // It reads all, once per heartbeat; then as many answers as are allowed are queued again.
        world.play(b"!a\n!a");
        (0..19).for_each(|_| world.line(br#"a{"event":"ping","clb":1}"#));
        world.rest();
        assert!(world.net.peers[0].is_paused);
        world.play(b".\x32");
    }
    assert_eq!(world.net.peers[0].phase, Phase::Open);
    // It no longer reads.
    world.play(b".\x32");
    assert_eq!(world.switch.metrics.closed[CloseReason::NoHeartbeat as usize], 1);
    world.end();
}

#[test]
fn an_emit_to_many_channels_continues_in_later_turns() {
    for journal in [0, 1] {
        match journal {
            0 => long_emit(MemoryJournal::default()),
            _ => long_emit(DelayedJournal::new(0, 0)),
        }
    }
}

/// One turn has room for two messages.
fn long_emit(journal: impl Journal + 'static) {
    let mut world = World::new(journal);
    world.play(opening(&[('a', "1"), ('b', "2")]).as_bytes());
    world.play(b"a{\"event\":\"subscribe\",\"data\":\"e\"}");
    let output = |world: &World, peer: u8| {
        let slot = PEERS.iter().position(|letter| *letter == peer).unwrap();
        String::from_utf8_lossy(&world.net.peers[slot].output).into_owned()
    };
    let start = world.switch.metrics.deliveries;
    let to = r#""channels":["c","@c","e"]"#;
    let emit = format!(r#"k{{"action":"emit",{to},"data":7,"params":{{"count":1}}}}"#);
    world.line(emit.as_bytes());
    world.line(br#"k{"action":"emit","channel":"c","data":8}"#);
    let mut most = 0;
    for _ in 0..20 {
        let before = world.switch.metrics.deliveries;
        world.turn();
        most = most.max(world.switch.metrics.deliveries - before);
    }
    world.rest();
    assert_eq!((world.switch.metrics.deliveries - start, most), (7, 2), "in all, and in a turn");
    let heard = output(&world, b'a');
    let order = [("c", 7), ("@c", 7), ("e", 7), ("c", 8)];
    let places = order.map(|(channel, data)| {
        heard.find(&format!(r#"{{"event":"{channel}","data":{data}}}"#)).unwrap()
    });
    assert!(places.is_sorted(), "{heard}");
    let replies = output(&world, b'k');
    assert!(replies.contains(r#"{"success":true,"count":2}"#), "{replies}");
    assert_eq!((world.switch.metrics.long_emits, world.switch.metrics.publications), (1, 2));
    world.end();
}

#[test]
fn fuzz_targets_accept_any_input() {
    for data in [&b""[..], b"*", b"\xff\n.\n!\n$\n~\n", b"k\nl{\na\xff\nA\xff\n!z"] {
        fuzz_browser(data);
        fuzz_commands(data);
    }
}

#[test]
fn malformed_output_is_detected() {
    let panics = |check: fn()| std::panic::catch_unwind(check).is_err();
    assert!(panics(|| assert_eq!(check_control(b"\x02\0\0\0{}"), 1)));
    assert!(panics(|| assert_eq!(check_control(b"\x01\0\0\0{\0"), 1)));
    assert!(panics(|| check_web(&mut b"HTTP/1.1 200 OK".to_vec())));
    assert!(panics(|| check_web(&mut b"nonsense\r\n\r\n".to_vec())));
    assert!(panics(|| check_frames(&mut b"\x81\x01x".to_vec())));
    assert!(panics(|| check_frames(&mut b"\x88\0\x89\0".to_vec())));
    assert!(panics(|| check_frames(&mut b"\x81\x01o\x81\x02{}".to_vec())));
    check_frames(&mut b"\x89\0\x81\x0b{\"event\":1}\x88\0".to_vec());
    assert_eq!(check_control(b"\x02\0\0\0{}\0"), 1);
}
