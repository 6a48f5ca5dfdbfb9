//! The client address reported by a proxy: the PROXY protocol, versions 1 and 2, before the first
//! request of a connection, and the header `X-Forwarded-For` in each request. Pure over slices;
//! which proxies are trusted is decided elsewhere. Called by the web listener.
//!
//! Source: "The PROXY protocol, versions 1 & 2" of HAProxy, parts 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::http::Head;
use crate::address::{Address, Proxies};

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const HEADER_BYTES: usize = 16;
/// The first bytes of version 1.
const WORD: &[u8] = b"PROXY ";
/// Maximum length of a version 1 line, including its CR LF.
const LINE_BYTES: usize = 107;

/// The PROXY protocol header at the start of a connection, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Something else.
    None,
    /// A prefix of a header, or of something else: more bytes are needed.
    Incomplete,
    /// A complete header.
    Whole {
        /// Its length in bytes.
        length: usize,
        /// The client's address; `None` if the proxy speaks for itself or the client has no IP.
        source: Option<IpAddr>,
    },
    /// It begins like a header but is invalid or too long.
    Malformed,
}

/// Parses a header of at most `bytes_max` bytes at the start of a connection. Everything in it but
/// the client's address is ignored.
pub fn parse(input: &[u8], bytes_max: usize) -> ProxyHeader {
    let begins = |with: &[u8]| input.iter().zip(with).all(|(a, b)| a == b);
    if !begins(SIGNATURE) {
        return match begins(WORD) {
            true if input.len() >= WORD.len() => line(input),
            true => ProxyHeader::Incomplete,
            false => ProxyHeader::None,
        };
    }
    let Some((header, rest)) = input.split_at_checked(HEADER_BYTES) else {
        return ProxyHeader::Incomplete;
    };
    let (command, family) = (header[12], header[13]);
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    // 0x20 (LOCAL): the proxy connects for itself, as a health check; the family is to be ignored.
    let family_told = if command == 0x21 { family >> 4 } else { 0 };
    let least = match family_told {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let is_family = family >> 4 <= 3 && family & 0x0F <= 2;
    let is_known = command == 0x20 || command == 0x21 && is_family;
    if !is_known || length < least || HEADER_BYTES + length > bytes_max {
        return ProxyHeader::Malformed;
    }
    let Some(rest) = rest.get(..length) else { return ProxyHeader::Incomplete };
    let source = match family_told {
        1 => rest.first_chunk::<4>().map(|ip| IpAddr::from(*ip)),
        2 => rest.first_chunk::<16>().map(|ip| IpAddr::from(*ip)),
        _ => None,
    };
    let source = source.map(|ip| ip.to_canonical());
    ProxyHeader::Whole { length: HEADER_BYTES + length, source }
}

/// Version 1: `PROXY TCP4 SOURCE DESTINATION PORT PORT` and CR LF, or `PROXY UNKNOWN` and anything.
fn line(input: &[u8]) -> ProxyHeader {
    let input = &input[..input.len().min(LINE_BYTES)];
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else {
        let is_too_long = input.len() == LINE_BYTES;
        return if is_too_long { ProxyHeader::Malformed } else { ProxyHeader::Incomplete };
    };
    let words = str::from_utf8(&input[WORD.len()..end]).unwrap_or_default();
    let words: Vec<&str> = words.split(' ').collect();
    let is_port =
        |text: &str| text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit());
    let source = match words[..] {
        ["UNKNOWN", ..] => Some(None),
        ["TCP4", source, destination, from, to] if is_port(from) && is_port(to) => {
            let ips = (source.parse::<Ipv4Addr>(), destination.parse::<Ipv4Addr>());
            if let (Ok(source), Ok(_)) = ips { Some(Some(source.into())) } else { None }
        }
        ["TCP6", source, destination, from, to] if is_port(from) && is_port(to) => {
            let ips = (source.parse::<Ipv6Addr>(), destination.parse::<Ipv6Addr>());
            let source = ips.0.map(|ip| IpAddr::from(ip).to_canonical());
            if let (Ok(source), Ok(_)) = (source, ips.1) { Some(Some(source)) } else { None }
        }
        _ => None,
    };
    source.map_or(ProxyHeader::Malformed, |source| {
        let length = end + 2;
        ProxyHeader::Whole { length, source }
    })
}

/// Returns the client behind the proxy that sent this request: the last address in
/// `X-Forwarded-For` that is not a trusted proxy, because anybody may have written what precedes
/// it. If all are trusted proxies, returns the first. `None` if there is no address, or if the scan
/// from the end meets something that is not an address.
pub fn forwarded_for(head: &Head<'_>, proxies: &Proxies) -> Option<IpAddr> {
    let mut found = None;
    for element in head.elements("x-forwarded-for").rev() {
        let ip = forwarded_ip(str::from_utf8(element).ok()?)?.to_canonical();
        found = Some(ip);
        if !proxies.has(Address::Ip(ip)) {
            break;
        }
    }
    found
}

/// Parses an address, optionally in brackets and with a port.
fn forwarded_ip(text: &str) -> Option<IpAddr> {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    if let Some((ip, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return ip.parse::<Ipv6Addr>().ok().filter(|_| is_good).map(IpAddr::from);
    }
    match text.split_once(':') {
        Some((ip, port)) if is_port(port) && ip.contains('.') => {
            ip.parse::<Ipv4Addr>().ok().map(IpAddr::from)
        }
        _ => text.parse().ok(),
    }
}

/// Fuzz target: the start of a connection. More bytes must not contradict the result for fewer.
///
/// # Panics
/// If they do.
pub fn fuzz_introduction(data: &[u8]) {
    let whole = parse(data, 1024);
    if let ProxyHeader::Whole { length, .. } = whole {
        assert!(length <= data.len() && length <= 1024);
    }
    for end in 0..data.len().min(300) {
        let said = parse(&data[..end], 1024);
        match said {
            ProxyHeader::Incomplete => {}
            said => assert_eq!(said, whole, "after {end} bytes"),
        }
    }
}

#[cfg(test)]
#[path = "proxy/tests.rs"]
mod tests;
