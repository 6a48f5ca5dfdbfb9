//! Scripts reach the code that they check.

use super::*;

/// Returns what a peer has been sent since it connected, before an audience.
fn heard(journal: impl Journal + 'static, script: &str, peer: u8) -> String {
    let mut stage = opened(journal, &AUDIENCE, script.as_bytes());
    let output = output_of(&mut stage, peer);
    stage.end();
    output
}

fn output_of(stage: &mut Stage<Diskless>, peer: u8) -> String {
    let conn = stage.peers.named(peer).and_then(|peer| peer.conn);
    let sent = conn.and_then(|conn| stage.sent.get(&conn)).map_or(&[][..], |sent| sent);
    String::from_utf8_lossy(sent).into_owned()
}

#[test]
fn scripts_reach_the_whole_server() {
    let script = r#"k{"action":"emit","channel":"c","data":"hi"}"#;
    for (peer, wanted) in [
        (b'a', r#"{"event":"c","data":"hi"}"#),
        (b'd', r#"a["{\"event\":\"c\",\"data\":\"hi\"}"]"#),
        (b'k', "\0\u{10}\0\0\0{\"success\":true}\0"),
    ] {
        let outputs = [
            heard(MemoryJournal::default(), script, peer),
            heard(DelayedJournal::new(0, 0), script, peer),
        ];
        assert!(outputs.iter().all(|output| output.contains(wanted)), "{outputs:?}");
    }
}

#[test]
fn scripts_pass_time_and_connect_and_disconnect_peers() {
    let heard = |script: &str, peer| heard(MemoryJournal::default(), script, peer);
    let beat = heard(".\u{34}", b'a');
    assert!(beat.ends_with("\u{fffd}\0"), "a ping: {beat:?}");
    let script = "~a\nk{\"action\":\"channelInfo\",\"channel\":\"c\"}\na5";
    assert!(heard(script, b'k').contains(r#""countUser":1"#));
    assert!(!heard(script, b'a').contains("auth ok"));
    assert_eq!(heard("!k\nk{\"action\":\"ping\"}\n$k+\n!k", b'k'), "");
    let xhr = "hPOST /socket/0/0/xhr_streaming HTTP/1.1\r\nhHost: a\r\nh\r";
    assert!(heard(xhr, b'h').ends_with("\r\n2\r\no\n\r\n"));
    let get = "hGET /socket HTTP/1.1\r\nhHost: a\r\nh\r";
    assert!(heard(get, b'h').contains("Welcome"));
}

#[test]
fn fuzz_targets_accept_any_input() {
    for data in [&b""[..], b"*", b"\xff\n.\n!\n$\n~\n", b"k\nl{\na\xff\nA\xff\n!z"] {
        fuzz_browser(data);
        fuzz_commands(data);
    }
}

#[test]
fn an_emit_to_many_channels_continues_in_later_turns() {
    long_emit(MemoryJournal::default());
    long_emit(DelayedJournal::new(0, 0));
}

/// One turn has room for two messages.
fn long_emit(journal: impl Journal + 'static) {
    let users = [('a', "1"), ('b', "2")];
    let subscribe = b"a{\"event\":\"subscribe\",\"data\":\"e\"}";
    let mut stage = opened(journal, &users, subscribe);
    let delivered = |stage: &Stage<Diskless>| stage.door.switch().metrics().deliveries;
    let start = delivered(&stage);
    let to = r#""channels":["c","@c","e"]"#;
    let emit = format!(r#"k{{"action":"emit",{to},"data":7,"params":{{"count":1}}}}"#);
    stage.line(emit.as_bytes());
    stage.line(br#"k{"action":"emit","channel":"c","data":8}"#);
    let mut most = 0;
    for _ in 0..100 {
        let before = delivered(&stage);
        stage.turn();
        most = most.max(delivered(&stage) - before);
    }
    stage.rest();
    assert_eq!((delivered(&stage) - start, most), (7, 2), "in all, and in a turn");
    let output = output_of(&mut stage, b'a');
    let order = [("c", 7), ("@c", 7), ("e", 7), ("c", 8)];
    let places = order.map(|(channel, data)| {
        output.find(&format!(r#"{{"event":"{channel}","data":{data}}}"#)).unwrap()
    });
    assert!(places.is_sorted(), "{output}");
    let replies = output_of(&mut stage, b'k');
    assert!(replies.contains(r#"{"success":true,"count":2}"#), "{replies}");
    let metrics = stage.door.switch().metrics();
    assert_eq!((metrics.long_emits, metrics.publications), (1, 2));
    stage.end();
}

/// The connection is paused since it has sent too much, and its end comes behind that input.
#[test]
fn the_end_of_a_paused_connection_is_noticed() {
    let mut stage = Stage::new(0, limits(0), Diskless::new(MemoryJournal::default()));
    (0..100).for_each(|_| stage.line(b"a{}"));
    stage.rest();
    assert!(stage.net.sockets.values().any(|socket| socket.is_paused));
    stage.line(b"$a");
    stage.rest();
    assert!(stage.net.sockets.values().all(|socket| socket.phase != Phase::Open));
    stage.end();
}
