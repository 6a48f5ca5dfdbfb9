//! Checks that what the server has sent on a connection is complete, and follows its protocol.

use crate::codec::json::JsonError;
use crate::codec::ws::{Bounds, Event, Reader, Side};
use crate::codec::{control, http, json, sockjs};

/// Checks that replies are frames of JSON; returns how many there are.
pub(super) fn check_control(mut output: &[u8]) -> usize {
    let (mut decoder, mut replies) = (control::Decoder::new(), 0);
    while !output.is_empty() {
        let decoded = decoder.next(output, usize::MAX).expect("replies are frames");
        output = &output[decoded.consumed..];
        let body = decoded.body.expect("replies are whole");
        let body = str::from_utf8(body).expect("replies are text");
        assert_ne!(json::members(body, &[]), Err(JsonError::Syntax), "{body}");
        replies += 1;
    }
    replies
}

/// Checks HTTP responses, up to one that upgrades the connection to a WebSocket.
pub(super) fn check_web(mut output: &mut [u8]) {
    while !output.is_empty() {
        let end = http::find_head_end(output, 0).expect("a response has a head");
        let (head, rest) = output.split_at_mut(end);
        let head = str::from_utf8(head).expect("our heads are text");
        assert!(head.starts_with("HTTP/1.1 "), "{head}");
        if head.starts_with("HTTP/1.1 101 ") {
            return check_frames(rest);
        }
        if head.contains("\r\nTransfer-Encoding: chunked\r\n") {
            let Some(end) = end_of_chunks(rest) else { return };
            output = &mut rest[end..];
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if length.is_none() && head.starts_with("HTTP/1.1 200 ") {
            // An answer to HTTP/1.0 that ends with the connection.
            assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
            return;
        }
        let length = length.map_or(0, |length| length.parse().expect("a length is a number"));
        // The response to HEAD has a length and no body.
        let has_body = !rest.is_empty() && !rest.starts_with(b"HTTP/1.1 ");
        output = &mut rest[if has_body { length } else { 0 }..];
    }
}

/// Returns where a chunked response ends; `None` if it is incomplete.
fn end_of_chunks(output: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = output[at..].windows(2).position(|two| two == b"\r\n")?;
        let size = str::from_utf8(&output[at..at + line]).expect("the size of a chunk is text");
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk is a number");
        at += line + 2 + size + 2;
        assert!(output[..at].ends_with(b"\r\n"), "a chunk ends in CR LF");
        if size == 0 {
            return Some(at);
        }
    }
}

/// Checks WebSocket frames, in SockJS framing if the first is `o`; nothing may follow a close.
fn check_frames(output: &mut [u8]) {
    let mut reader = Reader::default();
    let bounds = Bounds { message_bytes: usize::MAX, fragments: 1 };
    let (mut at, mut is_sockjs, mut is_closed) = (0, false, false);
    while at < output.len() {
        let step =
            reader.read(Side::Client, &mut output[at..], &bounds).expect("our frames are good");
        at += step.consumed;
        match step.event.expect("frames are whole") {
            Event::Text("o") if !is_sockjs => is_sockjs = true,
            Event::Text(text) => {
                assert!(!is_closed, "{text} after the end");
                match text.strip_prefix('a') {
                    Some(framed) if is_sockjs => {
                        let messages = sockjs::parse_messages(framed).expect("an array");
                        messages.for_each(|message| check_message(&message));
                    }
                    _ if is_sockjs => {
                        assert!(text.starts_with("c["), "{text}");
                        is_closed = true;
                    }
                    _ => check_message(text),
                }
            }
            Event::Close(_) => return assert_eq!(at, output.len(), "bytes after a close"),
            Event::Ping(_) | Event::Pong(_) => assert!(!is_closed),
            Event::Binary(_) => panic!("nothing we send is binary"),
        }
    }
}

fn check_message(message: &str) {
    match json::members(message, &["event"]) {
        // A list of states is nested one deeper than what clients may send.
        Err(JsonError::Depth { .. }) | Ok(Some([Some(_)])) => {}
        other => panic!("{message}: {other:?}"),
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
