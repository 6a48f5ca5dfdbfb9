//! Tests of frames, valid and invalid, split anywhere.

use super::fuzz::{Heard, hear};
use super::*;
use crate::reason::CloseReason;

const BOUNDS: Bounds = Bounds { message_bytes: 1 << 20, fragments: 8 };
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Returns one masked frame with this first byte and payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked_into(&mut out, Opcode::Continuation, payload, MASK);
    out[0] = first;
    out
}

fn error_of(bytes: &[u8]) -> WsError {
    let at_once = hear(Side::Server, [bytes], &BOUNDS);
    assert_eq!(hear(Side::Server, bytes.chunks(1), &BOUNDS), at_once);
    let error = at_once.1.unwrap();
    let reason = CloseReason::from(error);
    assert_eq!(reason.told().map(|(code, _)| code), Some(error.close_code()));
    error
}

fn text(text: &str) -> Heard {
    Heard::Text(text.to_owned())
}

#[test]
fn the_handshake_key_of_rfc_6455_1_3_is_accepted() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert!(is_valid_key("dGhlIHNhbXBsZSBub25jZQ=="));
    assert!(is_valid_key("dGhlIHNhbXBsZSBub25jZR=="), "unused bits may be set");
    for bad in ["dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQAA", "éééééééééééé"] {
        assert!(!is_valid_key(bad), "{bad}");
    }
}

#[test]
fn the_frames_of_rfc_6455_5_7_are_read_and_written() {
    let client = |bytes: &[u8]| hear(Side::Client, [bytes], &BOUNDS);
    let server = |bytes: &[u8]| hear(Side::Server, [bytes], &BOUNDS);
    let hello = text("Hello");
    assert_eq!(client(b"\x81\x05Hello"), (vec![hello.clone()], None));
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(server(masked), (vec![hello.clone()], None));
    assert_eq!(client(b"\x01\x03Hel\x80\x02lo"), (vec![hello], None));
    assert_eq!(client(b"\x89\x05Hello"), (vec![Heard::Ping(b"Hello".to_vec())], None));
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(server(pong), (vec![Heard::Pong(b"Hello".to_vec())], None));
    for (head, bytes) in [(&b"\x82\x7e\x01\x00"[..], 256), (b"\x82\x7f\0\0\0\0\0\x01\0\0", 65_536)]
    {
        let wire = [head, &vec![7; bytes]].concat();
        assert_eq!(client(&wire), (vec![Heard::Binary(vec![7; bytes])], None));
        let mut encoded = Vec::new();
        encode_into(&mut encoded, Opcode::Binary, &vec![7; bytes]);
        assert_eq!(encoded, wire);
    }
    assert_eq!(&*text_frame(b"Hello"), b"\x81\x05Hello");
    let mut encoded = Vec::new();
    encode_masked_into(&mut encoded, Opcode::Text, b"Hello", MASK);
    assert_eq!(encoded, masked);
}

#[test]
fn every_split_of_a_stream_yields_the_same_events() {
    let long = "é☃😀 ".repeat(40);
    let (first, second) = "a😀b".as_bytes().split_at(3);
    let stream = [
        frame(0x81, b""),
        frame(0x81, long.as_bytes()),
        frame(0x01, first),
        frame(0x89, b"between"),
        frame(0x00, b""),
        frame(0x80, second),
        frame(0x02, b"\xff\xfe"),
        frame(0x8A, &[9; 125]),
        frame(0x80, b"\x00"),
        frame(0x82, b"bin"),
        frame(0x88, b"\x03\xe8bye \xe2\x98\x83"),
    ]
    .concat();
    let expected = vec![
        text(""),
        text(&long),
        Heard::Ping(b"between".to_vec()),
        text("a😀b"),
        Heard::Pong(vec![9; 125]),
        Heard::Binary(b"\xff\xfe\x00".to_vec()),
        Heard::Binary(b"bin".to_vec()),
        Heard::Close(Some((1000, "bye ☃".to_owned()))),
    ];
    for at in 0..=stream.len() {
        let (left, right) = stream.split_at(at);
        assert_eq!(hear(Side::Server, [left, right], &BOUNDS), (expected.clone(), None), "{at}");
    }
    for size in 1..=40 {
        assert_eq!(hear(Side::Server, stream.chunks(size), &BOUNDS), (expected.clone(), None));
    }
}

#[test]
fn a_whole_message_is_read_in_place_without_allocation() {
    let mut input = frame(0x81, b"in place");
    let range = input.as_ptr_range();
    let mut reader = Reader::default();
    let step = reader.read(Side::Server, &mut input, &BOUNDS).unwrap();
    let Some(Event::Text(heard)) = step.event else { panic!("{step:?}") };
    assert_eq!((heard, step.consumed), ("in place", 14));
    assert!(range.contains(&heard.as_ptr()));
    assert!(reader.assembly.is_none());
}

#[test]
fn a_reader_owns_memory_only_while_a_message_is_incomplete() {
    assert!(size_of::<Reader>() <= 8);
    let mut reader = Reader::default();
    let mut wire = [frame(0x01, &[b'x'; 1000]), frame(0x89, b"p"), frame(0x80, b"y")].concat();
    let mut at = 0;
    for byte in 0..wire.len() {
        at += reader.read(Side::Server, &mut wire[at..=byte], &BOUNDS).unwrap().consumed;
    }
    assert!(reader.assembly.is_some(), "the message has just been returned");
    assert_eq!(
        reader.read(Side::Server, &mut [], &BOUNDS),
        Ok(Step { consumed: 0, frames: 0, event: None })
    );
    assert!(reader.assembly.is_none());
}

#[test]
fn memory_grows_with_received_bytes_not_with_the_declared_length() {
    let mut reader = Reader::default();
    let mut declared = frame(0x82, &[0; 1 << 20]);
    reader.read(Side::Server, &mut declared[..20], &BOUNDS).unwrap();
    let Some(Message { body: Body::Binary(bytes), .. }) =
        &reader.assembly.as_ref().unwrap().message
    else {
        panic!("a binary message is open");
    };
    assert_eq!(bytes.len(), 6);
    assert!(bytes.capacity() < 64);
}

#[test]
fn framing_errors_have_close_code_1002() {
    let unmasked = b"\x81\x05Hello";
    for (bytes, error) in [
        (frame(0xC1, b"x"), WsError::ReservedBits(4)),
        (frame(0xA1, b"x"), WsError::ReservedBits(2)),
        (frame(0x99, b"x"), WsError::ReservedBits(1)),
        (frame(0x83, b"x"), WsError::ReservedOpcode(3)),
        (frame(0x8B, b"x"), WsError::ReservedOpcode(11)),
        (frame(0x0F, b""), WsError::ReservedOpcode(15)),
        (frame(0x09, b""), WsError::FragmentedControl),
        (frame(0x89, &[0; 126]), WsError::LongControl(126)),
        (frame(0x80, b"x"), WsError::StrayContinuation),
        (frame(0x00, b"x"), WsError::StrayContinuation),
        ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), WsError::InterruptedMessage),
        ([frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")].concat(), {
            WsError::StrayContinuation
        }),
        (unmasked.to_vec(), WsError::Masking),
        (b"\x81\xfe\0\x7dmask".to_vec(), WsError::LongLength),
        (b"\x81\xff\0\0\0\0\0\0\xff\xffmask".to_vec(), WsError::LongLength),
        (b"\x81\xff\x80\0\0\0\0\0\0\0mask".to_vec(), WsError::HugeLength),
        (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xffmask".to_vec(), WsError::HugeLength),
    ] {
        assert_eq!(error_of(&bytes), error);
        assert_eq!(error.close_code(), 1002);
    }
    let masked = frame(0x81, b"Hello");
    assert_eq!(hear(Side::Client, [&masked[..]], &BOUNDS), (vec![], Some(WsError::Masking)));
}

#[test]
fn close_frames_have_a_valid_code_or_none() {
    let close = |payload: &[u8]| frame(0x88, payload);
    let heard = |bytes: &[u8]| hear(Side::Server, [bytes], &BOUNDS);
    assert_eq!(heard(&close(b"")), (vec![Heard::Close(None)], None));
    assert_eq!(error_of(&close(b"\x03")), WsError::HalfCloseCode);
    assert_eq!(error_of(&close(b"\x03\xe8\xff")), WsError::Utf8);
    for code in 0..=u16::MAX {
        let valid = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let expected = if valid {
            (vec![Heard::Close(Some((code, String::new())))], None)
        } else {
            (vec![], Some(WsError::CloseCode(code)))
        };
        assert_eq!(heard(&close(&code.to_be_bytes())), expected);
    }
    assert_eq!(WsError::CloseCode(1005).close_code(), 1002);
}

#[test]
fn text_fails_at_its_first_invalid_utf8_byte() {
    let wire = frame(0x81, b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80 and more");
    // The second byte of F4 90 shows that this is beyond the last character.
    for (length, error) in [(6 + 6, None), (6 + 7, Some(WsError::Utf8))] {
        assert_eq!(hear(Side::Server, [&wire[..length]], &BOUNDS), (vec![], error));
        assert_eq!(hear(Side::Server, wire[..length].chunks(1), &BOUNDS), (vec![], error));
    }
    for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"ok\x80", b"\xf4\x90\x80\x80"] {
        assert_eq!(error_of(&frame(0x81, bad)), WsError::Utf8);
        assert_eq!(error_of(&[frame(0x01, b"fine"), frame(0x00, bad)].concat()), WsError::Utf8);
    }
    let cut = [frame(0x01, b"\xe2\x98"), frame(0x80, b"")].concat();
    assert_eq!(error_of(&cut), WsError::Utf8);
    assert_eq!(error_of(&frame(0x81, b"\xe2\x98")), WsError::Utf8);
    assert_eq!(WsError::Utf8.close_code(), 1007);
}

#[test]
fn message_bounds_hold_across_fragments_and_before_the_payload() {
    let bounds = Bounds { message_bytes: 200, fragments: 3 };
    let too_large = Some(WsError::TooLarge(200));
    let heard = |bytes: &[u8]| hear(Side::Server, [bytes], &bounds);
    assert_eq!(heard(&frame(0x82, &[1; 200])).1, None);
    assert_eq!(heard(&frame(0x82, &[1; 201])[..8]), (vec![], too_large));
    assert_eq!(heard(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask"), (vec![], too_large));
    let parts = [frame(0x02, &[1; 150]), frame(0x00, &[1; 50])].concat();
    assert_eq!(heard(&[&parts[..], &frame(0x80, b"")].concat()).0.len(), 1);
    assert_eq!(heard(&[&parts[..], &frame(0x80, b"x")].concat()), (vec![], too_large));
    // 150 + (2^63 - 1) must not wrap around.
    let wrap = [&frame(0x02, &[1; 150])[..], b"\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask"];
    assert_eq!(heard(&wrap.concat()), (vec![], too_large));
    // The first bytes of a split character count too.
    let text = [frame(0x01, &[b'a'; 198]), frame(0x00, b"\xe2\x98"), frame(0x80, b"\x83")];
    assert_eq!(heard(&text.concat()), (vec![], too_large));

    let many = [frame(0x02, b""), frame(0x00, b""), frame(0x00, b""), frame(0x80, b"")].concat();
    let error = WsError::TooManyFragments(3);
    assert_eq!(heard(&many), (vec![], Some(error)));
    assert_eq!((error.close_code(), WsError::TooLarge(1).close_code()), (1009, 1009));
    assert_eq!(CloseReason::from(error), CloseReason::WsTooLarge);
}

#[test]
fn masking_by_words_equals_masking_by_bytes() {
    let bytes: Vec<u8> = (0..80).map(|i: u8| i.wrapping_mul(37)).collect();
    for start in 0..9 {
        for end in start..bytes.len() {
            let mut naive = bytes[start..end].to_vec();
            naive.iter_mut().enumerate().for_each(|(i, byte)| *byte ^= MASK[i % 4]);
            let mut words = bytes[start..end].to_vec();
            apply_mask(&mut words, MASK);
            assert_eq!(words, naive);
        }
    }
}

#[test]
fn frame_headers_use_the_shortest_form() {
    let mut scratch = b"old".to_vec();
    for (bytes, header_bytes) in
        [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10), (70_000, 10)]
    {
        let payload = vec![b'x'; bytes];
        let frame = text_frame(&payload);
        assert_eq!(frame.len(), header_bytes + bytes);
        let heard = hear(Side::Client, [&frame[..]], &BOUNDS);
        assert_eq!(heard, (vec![text(str::from_utf8(&payload).unwrap())], None));
        let filled = text_frame_with(&mut scratch, |out| out.extend_from_slice(&payload));
        assert_eq!(filled, frame);
    }
}

#[test]
fn payloads_of_control_frames_are_truncated_to_fit() {
    assert_eq!(&*ping_frame(b"hi"), b"\x89\x02hi");
    assert_eq!(&*pong_frame(b""), b"\x8a\x00");
    assert_eq!(ping_frame(&[1; 300]).len(), 127);
    assert_eq!(&*close_frame(1001, ""), b"\x88\x02\x03\xe9");
    let frame = close_frame(1002, &"é".repeat(100));
    let close = Heard::Close(Some((1002, "é".repeat(61))));
    assert_eq!(hear(Side::Client, [&frame[..]], &BOUNDS), (vec![close], None));
}

#[test]
fn random_streams_are_read_as_by_tungstenite_at_any_split() {
    let payloads: [&[u8]; 6] = [b"", b"x", b"\x03\xe8", "é☃".as_bytes(), b"\xe2", &[b'y'; 140]];
    let mut seed = 7u32;
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    for _ in 0..4000 {
        let side = draw(2);
        let mut wire = Vec::new();
        for _ in 0..=draw(6) {
            let payload = payloads[draw(payloads.len())];
            let start = wire.len();
            if side == 0 {
                encode_masked_into(&mut wire, Opcode::Text, payload, MASK);
            } else {
                encode_into(&mut wire, Opcode::Text, payload);
            }
            let firsts = [0x81, 0x01, 0x80, 0x00, 0x82, 0x02, 0x89, 0x8A, 0x88, 0xC1, 0x83];
            wire[start] = firsts[draw(firsts.len())];
        }
        if draw(3) == 0 {
            let (at, to) = (draw(wire.len()), draw(256) as u8);
            wire[at] = to;
        }
        let mut data = vec![(side | draw(4) << 1) as u8];
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(draw(40)));
            data.push(piece.len() as u8);
            data.extend_from_slice(piece);
            rest = tail;
        }
        fuzz_reader(&data);
    }
}

#[test]
fn every_error_text_fits_a_close_frame() {
    let mut errors: Vec<WsError> = (1..8).map(WsError::ReservedBits).collect();
    errors.extend((0..16).map(WsError::ReservedOpcode));
    errors.extend([WsError::LongControl(126), WsError::LongControl(1 << 40), WsError::Masking]);
    errors.extend([WsError::StrayContinuation, WsError::InterruptedMessage, WsError::Utf8]);
    for error in errors {
        assert!(error.close_text().len() <= CONTROL_BYTES - 2, "{error}");
    }
    let bits = "One or more reserved bits are on: reserved1 = 0, reserved2 = 1, reserved3 = 1";
    assert_eq!(WsError::ReservedBits(3).close_text(), bits);
    assert_eq!(WsError::ReservedOpcode(12).close_text(), "Unrecognized frame opcode: 12");
    // An error without a specific text has the text of its kind.
    for error in [WsError::CloseCode(1005), WsError::Utf8, WsError::TooLarge(1)] {
        let told = Some((error.close_code(), error.close_text()));
        assert_eq!(CloseReason::from(error).told(), told);
    }
}
