//! Addresses of peers and listeners, IP networks, and the proxies that are trusted to say where a
//! client is. Pure. The reactor supplies the address of each peer, the configuration the networks;
//! the web module uses both.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address. An IPv4-mapped IPv6 address counts as IPv4.
    Ip(IpAddr),
    /// A unix socket on this machine.
    Unix,
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// The address that a peer in this place has.
    pub fn address(&self) -> Address {
        match self {
            ListenAddress::Ip(at) => at.ip().into(),
            ListenAddress::Unix(_) => Address::Unix,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Ip(at) => at.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Address {
        Address::Ip(ip.to_canonical())
    }
}

/// An IP network: an address of which the first `bits` bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    ip: IpAddr,
    bits: u8,
}

/// An address as a number, its bits at the top.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The first `bits` bits of an address; the others are zero.
fn first_bits(ip: IpAddr, bits: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    number(ip) & mask
}

impl Network {
    /// Parses `10.0.0.0/8`, `fd00::/8`, or a single address.
    ///
    /// # Errors
    /// What is wrong, and how to write it right.
    pub fn parse(text: &str) -> Result<Network, String> {
        let wrong = |help: &str| format!("{text:?} is no network: {help}");
        let (ip, length) = text.split_once('/').map_or((text, None), |(ip, n)| (ip, Some(n)));
        let ip: IpAddr = ip
            .parse()
            .map_err(|_| wrong("write an IP address, or a network as 10.0.0.0/8 or fd00::/8"))?;
        let most: u8 = if ip.is_ipv4() { 32 } else { 128 };
        let bits = match length {
            None => most,
            Some(length) => length
                .parse()
                .ok()
                .filter(|bits| *bits <= most && length.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| wrong(&format!("behind the / stands a number up to {most}")))?,
        };
        if first_bits(ip, bits) != number(ip) {
            let first = first_bits(ip, bits);
            let first: IpAddr = match ip {
                IpAddr::V4(_) => IpAddr::V4(((first >> 96) as u32).into()),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(first)),
            };
            return Err(wrong(&format!("write {first}/{bits}, or the address alone")));
        }
        Ok(match (ip.to_canonical(), bits) {
            (IpAddr::V4(ip), 96..) if most == 128 => Network { ip: ip.into(), bits: bits - 96 },
            _ => Network { ip, bits },
        })
    }

    /// Whether this address is in the network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && first_bits(ip, self.bits) == number(self.ip)
    }

    /// Whether the network contains every address of its IP version.
    pub fn is_everything(&self) -> bool {
        self.bits == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.bits) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{}", self.ip),
            (ip, bits) => write!(f, "{ip}/{bits}"),
        }
    }
}

/// The proxies that are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Peers in these networks are trusted.
    pub networks: Vec<Network>,
    /// Whether peers on a unix socket are trusted.
    pub is_unix: bool,
}

impl Proxies {
    /// What stands for peers on a unix socket in the configuration.
    pub const UNIX: &'static str = "unix";

    /// Whether no proxy is trusted.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.is_unix
    }

    /// Whether a peer at this address is trusted to say where its clients are.
    pub fn has(&self, address: Address) -> bool {
        match address {
            Address::Ip(ip) => self.networks.iter().any(|network| network.contains(ip)),
            Address::Unix => self.is_unix,
        }
    }

    /// The networks and `unix`, as the configuration writes them.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let unix = self.is_unix.then(|| Proxies::UNIX.to_owned());
        self.networks.iter().map(Network::to_string).chain(unix)
    }
}

/// A group of clients whose connections are counted together: an IPv4 address, or an IPv6 network
/// of 64 bits, because a home gets one and may use every address in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientPrefix {
    /// An IPv4 address.
    V4(u32),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
    /// All clients on a unix socket.
    #[default]
    Unix,
}

impl From<Address> for ClientPrefix {
    fn from(address: Address) -> ClientPrefix {
        match address {
            Address::Ip(IpAddr::V4(ip)) => ClientPrefix::V4(ip.into()),
            Address::Ip(IpAddr::V6(ip)) => ClientPrefix::V6((u128::from(ip) >> 64) as u64),
            Address::Unix => ClientPrefix::Unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.6/31", "192.0.2.7", "192.0.2.8"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("::/0", "::1", "1.2.3.4"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ] {
            let found = Network::parse(network).unwrap();
            assert!(found.contains(ip(inside)) && !found.contains(ip(outside)), "{network}");
        }
        let shown = ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "2001:db8::1", "::/0"];
        assert!(shown.iter().all(|text| Network::parse(text).unwrap().to_string() == *text));
        let [all, one] = ["0.0.0.0/0", "0.0.0.0"].map(|text| Network::parse(text).unwrap());
        assert!(all.is_everything() && !one.is_everything());
    }

    #[test]
    fn an_invalid_network_is_refused_with_a_hint() {
        for (text, help) in [
            ("", "write an IP address"),
            ("localhost", "write an IP address"),
            ("10.0.0.0/", "a number up to 32"),
            ("10.0.0.0/33", "a number up to 32"),
            ("10.0.0.0/+8", "a number up to 32"),
            ("fd00::/129", "a number up to 128"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("fd00::1/64", "write fd00::/64"),
        ] {
            let error = Network::parse(text).unwrap_err();
            assert!(error.contains(help), "{text}: {error}");
        }
    }

    #[test]
    fn only_listed_proxies_are_trusted() {
        let mut proxies = Proxies::default();
        assert!(proxies.is_empty() && !proxies.has(Address::Unix));
        proxies.networks.push(Network::parse("127.0.0.0/8").unwrap());
        assert!(proxies.has(ip("::ffff:127.0.0.1").into()), "a mapped address counts as IPv4");
        assert!(!proxies.has(ip("::1").into()) && !proxies.has(Address::Unix));
        proxies.is_unix = true;
        assert!(proxies.has(Address::Unix) && !proxies.is_empty());
        assert_eq!(proxies.names().collect::<Vec<_>>(), ["127.0.0.0/8", "unix"]);
    }

    #[test]
    fn the_prefix_of_an_ipv6_client_is_its_64_bit_network() {
        let prefix_of = |text: &str| ClientPrefix::from(Address::from(ip(text)));
        assert_eq!(prefix_of("2001:db8::1"), prefix_of("2001:db8::ffff:1"));
        assert_ne!(prefix_of("2001:db8::1"), prefix_of("2001:db8:0:1::1"));
        assert_ne!(prefix_of("1.2.3.4"), prefix_of("1.2.3.5"));
        assert_eq!(prefix_of("::ffff:1.2.3.4"), prefix_of("1.2.3.4"));
    }
}
