//! A WebSocket session that expires while its answers are in flight: every order of events that may
//! follow.

use super::*;
use crate::codec::ws::{self, Opcode};
use crate::publication::Form;

/// The output at which a browser is no longer read.
const FULL: usize = 2048;

/// A WebSocket whose browser reads no output unless it is told to.
struct Held {
    world: World,
    conn: ConnId,
    form: Form,
    /// Input that has arrived and has not been read.
    input: Vec<u8>,
}

impl Held {
    fn new(form: Form) -> Held {
        let mut world = World::new();
        let conn = world.connect(Address::Unix);
        let path = if form == Form::Raw { "websocket" } else { "0/0/websocket" };
        let upgrade = format!(
            "GET /socket/{path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        world.give(conn, upgrade.as_bytes());
        world.net.peers[conn.index()].output.clear();
        Held { world, conn, form, input: Vec::new() }
    }

    /// A socket that the server does not read, because an answer to it is unread.
    fn with_unread_answer(form: Form) -> Held {
        let mut held = Held::new(form);
        held.send(&["x".repeat(FULL - 8).as_str()]);
        assert!(held.peer().is_paused);
        held
    }

    fn peer(&mut self) -> &mut Peer {
        &mut self.world.net.peers[self.conn.index()]
    }

    /// Sends each message in a frame of its own, and lets the server read them if it reads.
    fn send(&mut self, messages: &[&str]) {
        for message in messages {
            let mut text = message.as_bytes().to_vec();
            if self.form != Form::Raw {
                text = serde_json::to_vec(&[message]).unwrap();
            }
            ws::encode_masked_into(&mut self.input, Opcode::Text, &text, *b"mask");
        }
        self.read();
    }

    fn read(&mut self) {
        if self.peer().is_paused || self.peer().is_closing {
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        let World { door, net } = &mut self.world;
        let used = door.received(net, self.conn, &mut input).unwrap();
        self.input = input.split_off(used);
        self.world.door.check_invariants();
    }

    fn time_out(&mut self) {
        let World { door, net } = &mut self.world;
        door.timed_out(net, self.conn);
        self.world.door.check_invariants();
        self.read();
    }

    /// The browser reads all queued output; returns the messages received.
    fn read_output(&mut self) -> Vec<String> {
        let peer = self.peer();
        (peer.queued, peer.taken) = (0, peer.taken + 1);
        let mut output = std::mem::take(&mut peer.output);
        let World { door, net } = &mut self.world;
        door.drained(net, self.conn);
        self.world.door.check_invariants();
        self.read();
        let (mut reader, mut rest) = (ws::Reader::default(), &mut output[..]);
        let bounds = Bounds { message_bytes: usize::MAX, fragments: 1 };
        let mut received = Vec::new();
        while !rest.is_empty() {
            let step = reader.read(ws::Side::Client, rest, &bounds).unwrap();
            match step.event.unwrap() {
                ws::Event::Text(text) => match text.strip_prefix('a') {
                    Some(array) if self.form != Form::Raw => {
                        received.extend(serde_json::from_str::<Vec<String>>(array).unwrap());
                    }
                    _ => received.push(text.to_owned()),
                },
                ws::Event::Binary(bytes) => received.push(format!("{bytes:?}")),
                ws::Event::Close(close) => received.push(format!("{close:?}")),
                _ => {}
            }
            let used = step.consumed;
            rest = &mut rest[used..];
        }
        // The start of a long message is enough.
        received.iter().map(|text| text.chars().take(12).collect()).collect()
    }

    /// The browser reads until there is no more output.
    fn read_all_output(&mut self) -> Vec<String> {
        let mut received = self.read_output();
        while self.peer().queued > 0 {
            received.extend(self.read_output());
        }
        received
    }
}

const FORMS: [Form; 2] = [Form::Raw, Form::SockJs];

fn long() -> String {
    "x".repeat(12)
}

#[test]
fn deferred_messages_take_at_most_twice_their_wire_size() {
    for form in FORMS {
        for message in ["\u{1}", "\"", "", "ü", "a", "\\"] {
            let mut held = Held::with_unread_answer(form);
            held.world.door.app.is_over = true;
            held.time_out();
            let message = message.repeat(20);
            held.send(&[&*message; 4]);
            let came = 4 * (6 + message.len());
            assert!(held.peer().kept <= 2 * came, "{form:?} {message:.1}: {}", held.peer().kept);
            held.send(&[RENEWAL]);
            let mut expected = vec![long(), RENEWAL.to_owned()];
            expected.extend([(); 4].map(|()| message.chars().take(12).collect::<String>()));
            assert_eq!(held.read_all_output(), expected);
            assert_eq!(held.peer().kept, 0);
            held.world.end();
        }
    }
}

#[test]
fn reading_ahead_ends_even_if_the_expiry_is_postponed() {
    for form in FORMS {
        for is_short in [false, true] {
            let mut held = Held::with_unread_answer(form);
            held.world.door.app.is_over = true;
            held.time_out();
            held.send(&["one"]);
            assert!(!held.peer().is_paused && held.input.is_empty());
            // The expiry is postponed.
            held.world.door.app.is_over = false;
            if is_short {
                // It reads all its output, and its message needs more room than there is.
                held.world.door.app.is_short = true;
                assert_eq!(held.read_output(), [long()]);
            } else {
                held.time_out();
            }
            assert!(held.peer().is_paused, "{form:?}: reading ahead does not end");
            held.send(&["two", RENEWAL]);
            assert!(!held.input.is_empty());
            // It may expire again.
            held.world.door.app.is_over = true;
            held.time_out();
            assert!(held.input.is_empty() && held.peer().is_paused);
            held.world.door.app.is_short = false;
            let World { door, net } = &mut held.world;
            door.settle(net);
            let received = held.read_all_output();
            let received: Vec<_> = received.iter().filter(|text| **text != long()).collect();
            assert_eq!(received, [RENEWAL, "one", "two"]);
            held.world.end();
        }
    }
}

#[test]
fn no_message_is_handled_while_a_renewal_is_searched_for() {
    for form in FORMS {
        for is_ahead in [true, false] {
            let mut held = Held::with_unread_answer(form);
            held.world.door.app.is_over = true;
            held.time_out();
            held.send(&["one", RENEWAL, "two", "three"]);
            // The renewal was handled; it expires again.
            held.world.door.app.is_over = true;
            if is_ahead {
                held.time_out();
            }
            // Now it reads all its output.
            assert_eq!(held.read_output(), [&*long(), RENEWAL]);
            assert_eq!(held.read_output(), [""; 0], "{form:?}: handled before the renewal");
            if !is_ahead {
                let now = held.world.net.now;
                assert_eq!(held.peer().deadline, Some(now));
                held.time_out();
            }
            held.send(&["four", RENEWAL]);
            assert_eq!(held.read_all_output(), [RENEWAL, "one", "two", "three", "four"]);
            assert!(!held.peer().is_paused);
            held.world.end();
        }
    }
}

#[test]
fn an_expired_session_without_renewal_ends_even_if_it_reads() {
    for form in FORMS {
        for takes in [false, true] {
            let mut held = Held::with_unread_answer(form);
            held.world.door.app.is_over = true;
            held.time_out();
            held.send(&["one"]);
            if takes {
                held.read_output();
            }
            held.time_out();
            assert!(held.peer().is_closing);
            held.world.end();
        }
    }
}

#[test]
fn a_renewal_behind_a_change_of_user_is_not_handled_first() {
    for form in FORMS {
        let mut held = Held::with_unread_answer(form);
        held.world.door.app.is_over = true;
        held.time_out();
        held.send(&["one", OTHER, RENEWAL]);
        assert_eq!(held.read_output(), [long()]);
        held.time_out();
        assert!(held.peer().is_closing);
        held.world.end();
    }
}

#[test]
fn messages_are_handled_once_the_expiry_is_postponed() {
    for form in FORMS {
        let mut held = Held::with_unread_answer(form);
        held.world.door.app.is_over = true;
        held.time_out();
        held.send(&["one"]);
        assert_eq!(held.read_output(), [long()]);
        held.world.door.app.is_over = false;
        held.time_out();
        held.send(&["two"]);
        assert_eq!(held.read_all_output(), ["one", "two"]);
        held.world.end();
    }
}

#[test]
fn a_browser_that_reads_is_kept_though_its_queue_fills_again() {
    for form in FORMS {
        let mut held = Held::with_unread_answer(form);
        let beat = |held: &mut Held| {
            held.world.net.now = held.world.net.now.plus(Limits::default().heartbeat_ms as u64);
            held.time_out();
            held.peer().is_closing
        };
        for _ in 0..3 {
            // It reads all, once per heartbeat; then as much as is allowed is queued again.
            held.read_output();
            held.send(&["x".repeat(FULL - 8).as_str()]);
            assert!(held.peer().is_paused && !beat(&mut held));
        }
        assert!(beat(&mut held), "it no longer reads");
        assert_eq!(held.peer().reason, Some(CloseReason::NoHeartbeat));
        held.world.end();
    }
}

/// Binary messages behind unread answers, and behind a message that waits for room.
#[test]
fn deferred_binary_messages_stay_binary() {
    for is_short in [false, true] {
        let mut held = Held::with_unread_answer(Form::Raw);
        if is_short {
            assert_eq!(held.read_output(), [long()]);
            held.world.door.app.is_short = true;
        } else {
            held.world.door.app.is_over = true;
            held.time_out();
        }
        for bytes in [&b"two"[..], b"\xff"] {
            ws::encode_masked_into(&mut held.input, Opcode::Binary, bytes, *b"mask");
        }
        held.read();
        held.send(&["three"]);
        let expected = if is_short {
            held.world.door.app.is_short = false;
            let World { door, net } = &mut held.world;
            door.settle(net);
            vec!["[116, 119, 111]".to_owned(), "[255]".to_owned(), "three".to_owned()]
        } else {
            held.send(&[RENEWAL]);
            let [long, renewal] = [long(), RENEWAL.to_owned()];
            vec![long, renewal, "[116, 119, 111]".into(), "[255]".into(), "three".into()]
        };
        let received = held.read_all_output();
        let expected: Vec<String> =
            expected.iter().map(|text| text.chars().take(12).collect()).collect();
        assert_eq!(received, expected);
        held.world.end();
    }
}

#[test]
fn an_expired_http_session_handles_its_renewal_first() {
    let mut world = World::new();
    let [receiver, first, sender] = [(); 3].map(|()| world.connect(Address::Unix));
    let poll = b"POST /socket/0/0/xhr HTTP/1.1\r\nHost: a\r\n\r\n";
    let send = |messages: &[&str]| {
        let body = serde_json::to_string(messages).unwrap();
        let length = body.len();
        let head = "POST /socket/0/0/xhr_send HTTP/1.1\r\nHost: a\r\n";
        format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes()
    };
    world.give(receiver, poll);
    world.give(first, &send(&["x".repeat(FULL - 8).as_str()]));
    world.give(sender, &send(&["one", RENEWAL, "two"]));
    assert!(world.net.peers[sender.index()].output.is_empty());
    world.door.app.is_over = true;
    world.give(receiver, poll);
    world.net.peers[receiver.index()].output.clear();
    world.give(receiver, poll);
    let output = String::from_utf8_lossy(&world.net.peers[receiver.index()].output).into_owned();
    assert!(output.ends_with("a[\"renew\",\"one\",\"two\"]\n"), "{output}");
    assert!(world.net.peers[sender.index()].output.starts_with(b"HTTP/1.1 204"));
    world.end();
}
