//! Parses addresses to listen on, and those of proxies. Pure. Accepts what is unambiguous, and
//! explains the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::{Network, Proxies};

/// Parses `127.0.0.1:8080`, `[::1]:8080`, or `localhost:8080` for the first of them. `usual` is the
/// port used in examples.
///
/// # Errors
/// What is wrong, and how to write it correctly.
pub fn parse_address(text: &str, usual: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = |help: String| Err(format!("{text:?} is not ADDR:PORT: {help}"));
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    if let (Ok(ip), Ok(port)) = (host.parse::<Ipv6Addr>(), port.parse()) {
        // It may be an address without a port, too: those are written like that.
        let whole = SocketAddr::new(ip.into(), port);
        return wrong(format!("an IPv6 address stands in brackets, as in {whole}"));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return wrong(format!("the port is missing; write {}", SocketAddr::new(ip, usual)));
    }
    let Ok(port) = port.parse::<u16>() else {
        return wrong(format!("the port must be a number up to 65535, as in 127.0.0.1:{usual}"));
    };
    match host {
        "localhost" => Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        "" | "*" => {
            wrong(format!("write 0.0.0.0:{port} for everybody, 127.0.0.1:{port} for this machine"))
        }
        _ => wrong(format!("the address must be an IP address, as in 127.0.0.1:{port}")),
    }
}

/// Adds one or more proxies, separated by commas or white space: networks, addresses, or the word
/// for those that connect through a unix socket.
///
/// # Errors
/// What is wrong, and how to write it correctly.
pub fn parse_proxies(text: &str, proxies: &mut Proxies) -> Result<(), String> {
    for word in text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty()) {
        if word == Proxies::UNIX {
            proxies.is_unix = true;
        } else {
            proxies.networks.push(Network::parse(word)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unambiguous_addresses_are_parsed() {
        for (text, address) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("localhost:81", "127.0.0.1:81"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(parse_address(text, 8080).unwrap().to_string(), address);
        }
    }

    #[test]
    fn invalid_addresses_are_refused_with_a_hint() {
        for (text, help) in [
            (":8080", "write 0.0.0.0:8080 for everybody, 127.0.0.1:8080 for this machine"),
            ("8080", "write 0.0.0.0:8080 for everybody"),
            ("*:8080", "write 0.0.0.0:8080 for everybody"),
            ("127.0.0.1", "the port is missing; write 127.0.0.1:8085"),
            ("::1", "the port is missing; write [::1]:8085"),
            ("::1:8085", "an IPv6 address stands in brackets, as in [::1]:8085"),
            ("127.0.0.1:http", "the port must be a number up to 65535, as in 127.0.0.1:8085"),
            ("127.0.0.1:65536", "the port must be a number"),
            ("example.org:80", "must be an IP address, as in 127.0.0.1:80"),
            ("", "the port must be a number"),
            ("127.0.0.1:80 ", "the port must be a number"),
        ] {
            let error = parse_address(text, 8085).unwrap_err();
            assert!(error.contains(help), "{text}: {error}");
        }
    }
}
