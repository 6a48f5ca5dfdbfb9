//! Tests of PROXY headers split anywhere, and of malformed `X-Forwarded-For`.

use super::*;
use crate::address::Network;
use crate::codec::http::{HeadBounds, HeaderRoom, parse_head};

/// Returns a version 2 header with this command, family and rest.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family][..], &length, rest].concat()
}

fn inet(source: [u8; 4]) -> Vec<u8> {
    [&source[..], &[127, 0, 0, 1], &[0x10, 0, 0x1F, 0x90]].concat()
}

fn read(input: &[u8]) -> ProxyHeader {
    fuzz_introduction(input);
    parse(input, 1024)
}

#[track_caller]
fn assert_whole(input: &[u8], source: Option<&str>) {
    let source = source.map(|ip| ip.parse().unwrap());
    let behind = [input, b"GET / HTTP/1.1\r\n"].concat();
    for whole in [input, &behind] {
        assert_eq!(read(whole), ProxyHeader::Whole { length: input.len(), source });
    }
    for end in 0..input.len() {
        assert_eq!(read(&input[..end]), ProxyHeader::Incomplete, "{end} bytes");
    }
}

#[test]
fn version_2_headers_carry_the_client_address() {
    assert_whole(&binary(0x21, 0x11, &inet([192, 0, 2, 7])), Some("192.0.2.7"));
    let mut inet6 = [0; 36];
    inet6[..2].copy_from_slice(&[0x20, 0x01]);
    inet6[15] = 9;
    assert_whole(&binary(0x21, 0x21, &inet6), Some("2001::9"));
    // What follows the addresses is ignored.
    let more = [&inet([1, 2, 3, 4])[..], &[0x02, 0, 3, b'a', b'b', b'c'], &[0xFF; 500]].concat();
    assert_whole(&binary(0x21, 0x11, &more), Some("1.2.3.4"));
    let mut mapped = [0; 36];
    mapped[10..16].copy_from_slice(&[0xFF, 0xFF, 10, 0, 0, 1]);
    assert_whole(&binary(0x21, 0x21, &mapped), Some("10.0.0.1"));
}

#[test]
fn version_2_headers_may_carry_no_address() {
    assert_whole(&binary(0x20, 0x00, b""), None);
    assert_whole(&binary(0x20, 0x11, &inet([1, 2, 3, 4])), None);
    assert_whole(&binary(0x20, 0x11, b"abc"), None);
    assert_whole(&binary(0x20, 0xFF, b""), None);
    assert_whole(&binary(0x21, 0x00, b"whatever"), None);
    assert_whole(&binary(0x21, 0x31, &[b'x'; 216]), None);
}

#[test]
fn invalid_version_2_headers_are_malformed() {
    for (command, family, rest) in [
        (0x11, 0x11, inet([1, 2, 3, 4])),
        (0x22, 0x11, inet([1, 2, 3, 4])),
        (0x21, 0x41, inet([1, 2, 3, 4])),
        (0x21, 0x13, inet([1, 2, 3, 4])),
        (0x21, 0x11, inet([1, 2, 3, 4])[..11].to_vec()),
        (0x21, 0x21, vec![0; 35]),
        (0x21, 0x31, vec![0; 215]),
        (0x21, 0x11, vec![0; 1009]),
        (0x20, 0x00, vec![0; 65_535]),
    ] {
        let input = binary(command, family, &rest);
        assert_eq!(read(&input), ProxyHeader::Malformed, "{command:x} {family:x}");
        assert_eq!(read(&input[..16]), read(&input), "known from the header");
    }
}

#[test]
fn version_1_headers_are_one_line_with_the_client_address() {
    assert_whole(b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 80\r\n", Some("192.0.2.7"));
    assert_whole(b"PROXY TCP6 2001:db8::7 ::1 4000 80\r\n", Some("2001:db8::7"));
    assert_whole(b"PROXY UNKNOWN\r\n", None);
    assert_whole(b"PROXY UNKNOWN a b c d\r\n", None);
    for wrong in [
        "PROXY TCP4 192.0.2.7 127.0.0.1 4000\r\n",
        "PROXY TCP4 192.0.2.7 127.0.0.1 4000 65536\r\n",
        "PROXY TCP4 192.0.2.7 127.0.0.1 +400 80\r\n",
        "PROXY TCP4 2001:db8::7 ::1 4000 80\r\n",
        "PROXY TCP6 192.0.2.7 127.0.0.1 4000 80\r\n",
        "PROXY TCP4  192.0.2.7 127.0.0.1 4000 80\r\n",
        "PROXY UDP4 192.0.2.7 127.0.0.1 4000 80\r\n",
        "PROXY \r\n",
        "PROXY \u{fffd}\r\n",
    ] {
        assert_eq!(read(wrong.as_bytes()), ProxyHeader::Malformed, "{wrong}");
    }
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 91], b"\r\n"].concat();
    assert_eq!(
        (long.len(), read(&long)),
        (LINE_BYTES, ProxyHeader::Whole { length: LINE_BYTES, source: None })
    );
    let longer = [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat();
    assert_eq!(read(&longer), ProxyHeader::Malformed);
}

#[test]
fn other_protocols_have_no_proxy_header() {
    for input in [&b"GET / HTTP/1.1\r\n"[..], b"\r\n\r\nGET /", b"PROXX", b"PRI * HTTP/2.0", b"\0"]
    {
        assert_eq!(read(input), ProxyHeader::None);
    }
    for input in [&b""[..], b"\r", b"\r\n\r\n", b"P", b"PROXY"] {
        assert_eq!(read(input), ProxyHeader::Incomplete);
    }
}

fn forwarded(lines: &[&str]) -> Option<String> {
    let network = |text| Network::parse(text).unwrap();
    let networks = vec![network("10.0.0.0/8"), network("fd00::/8")];
    let proxies = Proxies { networks, is_unix: false };
    let mut text = "GET / HTTP/1.1\r\nHost: a\r\n".to_string();
    for line in lines {
        text.push_str(&format!("X-Forwarded-For: {line}\r\n"));
    }
    text.push_str("\r\n");
    let (mut room, bounds) = (HeaderRoom::default(), HeadBounds { headers: 64, target_bytes: 64 });
    let head = parse_head(text.as_bytes(), &mut room, &bounds).unwrap();
    forwarded_for(&head, &proxies).map(|ip| ip.to_string())
}

#[test]
fn the_last_forwarded_address_that_is_no_trusted_proxy_counts() {
    for (lines, expected) in [
        (&["1.2.3.4"][..], "1.2.3.4"),
        (&["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (&["6.6.6.6, 1.2.3.4, 10.0.0.1,fd00::1"], "1.2.3.4"),
        (&["6.6.6.6", "1.2.3.4", "10.0.0.1"], "1.2.3.4"),
        (&["rubbish, 1.2.3.4"], "1.2.3.4"),
        (&["1.2.3.4:5678"], "1.2.3.4"),
        (&["[2001:db8::1]:5678, [fd00::2]"], "2001:db8::1"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["::ffff:1.2.3.4"], "1.2.3.4"),
        (&["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        (&[" ,1.2.3.4, ,"], "1.2.3.4"),
    ] {
        assert_eq!(forwarded(lines).as_deref(), Some(expected), "{lines:?}");
    }
}

#[test]
fn malformed_forwarded_headers_yield_no_address() {
    for lines in [
        &[][..],
        &[""],
        &["unknown"],
        &["1.2.3.4, rubbish"],
        &["rubbish, 10.0.0.1"],
        &["1.2.3"],
        &["1.2.3.4:x"],
        &["[1.2.3.4]"],
        &["[2001:db8::1"],
        &["[2001:db8::1]x"],
        &["1.2.3.4 5.6.7.8"],
        &["\u{fffd}"],
    ] {
        assert_eq!(forwarded(lines), None, "{lines:?}");
    }
}
