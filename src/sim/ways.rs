//! How clients connect: browsers directly or by a proxy, which names the client's address well or
//! badly, and some lie; back ends from a few addresses. The world draws one for each client.

use std::net::IpAddr;

use super::Prng;
use super::client::Client;
use super::intent::Intent;
use super::judge::Judge;
use crate::address::{Address, Network, Proxies};

/// Addresses of browsers, so few that some are crowded. The last two count as one (same /64).
const PLACES: [&str; 6] =
    ["192.0.2.1", "192.0.2.2", "198.51.100.7", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::2"];
/// Addresses of trusted proxies, beside the unix socket.
const PROXIES: [&str; 2] = ["10.0.0.1", "fd00::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Returns the trusted proxies of every run.
pub(super) fn proxies() -> Proxies {
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|text| Network::parse(text).expect("a network"));
    Proxies { networks: networks.into(), is_unix: true }
}

/// Draws the address of a back end: one of a few, or the unix socket.
pub(super) fn back_end(prng: &mut Prng) -> Address {
    let place = *prng.pick(&PLACES[2..]);
    if prng.one_in(3) { Address::Unix } else { ip(place).into() }
}

/// How one browser connects.
#[derive(Debug)]
pub(super) struct Way {
    /// The address of the peer.
    pub from: Address,
    /// The PROXY header that is sent first, and its meaning.
    proxy_header: Option<(Vec<u8>, Intent)>,
    /// The `X-Forwarded-For` line of each request, or nothing.
    header: String,
    /// The client that this line names, if it is trusted.
    named: Option<IpAddr>,
}

impl Way {
    /// Draws a way.
    pub fn draw(prng: &mut Prng) -> Way {
        let (client, other) = (*prng.pick(&PLACES), *prng.pick(&PLACES));
        let proxy = match prng.below(3) {
            0 => Address::Unix,
            at => ip(PROXIES[at - 1]).into(),
        };
        let header = |list: &str| format!("X-Forwarded-For: {list}\r\n");
        let says = |command, source| {
            let intent = Intent::ProxyHeader(if command == 0x21 { source } else { None });
            Some((proxy_header(command, source), intent))
        };
        let straight =
            |header| Way { from: ip(client).into(), proxy_header: None, header, named: None };
        let by = |proxy_header, header, named| Way { from: proxy, proxy_header, header, named };
        match prng.weighted(&[40, 8, 20, 8, 4, 4, 10, 4, 4, 2]) {
            0 => straight(String::new()),
            1 => straight(header(other)),
            2 => by(None, header(client), Some(ip(client))),
            3 => {
                by(None, header(&format!("rubbish, {other}, {client}, 10.9.9.9")), Some(ip(client)))
            }
            4 => by(None, header(&format!("{other}, rubbish")), None),
            5 => by(None, String::new(), None),
            // A client behind a PROXY header may put anything into its own header line.
            6 => by(says(0x21, Some(ip(client))), header(other), None),
            7 => by(says(0x20, Some(ip(other))), header(client), Some(ip(client))),
            8 => by(says(0x21, Some(ip("10.9.9.9"))), header(client), Some(ip(client))),
            _ => Way {
                proxy_header: Some((proxy_header(0x21, Some(ip(other))), Intent::BadRequest(400))),
                ..straight(String::new())
            },
        }
    }

    /// Writes the PROXY header, if there is one.
    pub fn send_proxy_header(&self, client: &mut Client, judge: &mut Judge) {
        if let Some((bytes, intent)) = &self.proxy_header {
            client.write(judge, bytes, intent.clone());
        }
    }

    /// Writes a request with the header line inserted after the request line.
    pub fn request(&self, client: &mut Client, judge: &mut Judge, head: &str, intent: Intent) {
        let (first, rest) = head.split_once("\r\n").expect("a line");
        let head = format!("{first}\r\n{}{rest}", self.header);
        client.write_request(judge, head.as_bytes(), self.named, intent);
    }
}

/// Encodes a PROXY protocol version 2 header, with a TLV behind the addresses.
fn proxy_header(command: u8, source: Option<IpAddr>) -> Vec<u8> {
    let (family, addresses) = match source {
        Some(IpAddr::V4(ip)) => (0x11, [&ip.octets()[..], &[127, 0, 0, 1, 0, 1, 0, 2]].concat()),
        Some(IpAddr::V6(ip)) => (0x21, [&ip.octets()[..], &[0; 16], &[0, 1, 0, 2]].concat()),
        None => (0, Vec::new()),
    };
    let rest = [&addresses[..], &[4, 0, 2, b'\r', b'\n']].concat();
    let length = (rest.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, &rest].concat()
}
