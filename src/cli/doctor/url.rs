//! The URL of a server, as pages use it. Pure.

use std::fmt;

use crate::client::Address;
use crate::codec::sockjs::PREFIX;

/// The URL at which browsers reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub is_tls: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Without a trailing `/`.
    pub path: String,
    /// Whether the URL was that of the raw WebSocket, which clients without SockJS use.
    pub is_socket: bool,
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// What is wrong with it, worded to follow the URL.
    pub fn parse(text: &str) -> Result<Url, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let rest = text.trim_start_matches('/');
            return Err(format!("has no scheme: write http://{rest} or https://{rest}"));
        };
        let scheme = scheme.to_ascii_lowercase();
        let is_tls = match scheme.as_str() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Err("must begin with http, https, ws or wss".into()),
        };
        let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a character that must be written as %XX, or a name as xn--…".into());
        }
        if let Some(at) = text.find(['?', '#']) {
            let path = &text[..at];
            return Err(format!(
                "has a query or a fragment, which clients do not send: write {path}"
            ));
        }
        if text.contains('@') {
            return Err("must be a scheme, a host, perhaps a port, and a path".into());
        }
        let usual = if is_tls { 443 } else { 80 };
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, usual),
            Some((host, port)) => (host, port_of(port.strip_prefix(':').unwrap_or_default())?),
            None => match place.split_once(':') {
                Some((host, port)) => (host, port_of(port)?),
                None => (place, usual),
            },
        };
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
        if host.is_empty() || host.starts_with('-') || !host.bytes().all(is_known) {
            return Err("has no host, as in https://example.org/socket".into());
        }
        let path = path.trim_end_matches('/');
        // All other paths of the server are siblings of the WebSocket's.
        let beside = path.strip_suffix("/websocket").filter(|path| path.ends_with(PREFIX));
        let beside = beside.filter(|_| scheme.starts_with("ws"));
        let (path, host) = (beside.unwrap_or(path).to_owned(), host.to_ascii_lowercase());
        Ok(Url { is_tls, host, port, path, is_socket: beside.is_some() })
    }

    /// The address to connect to.
    pub fn address(&self, is_verified: bool) -> Address {
        match self.is_tls {
            true => Address::Tls { host: self.host.clone(), port: self.port, is_verified },
            false => self.tcp(),
        }
    }

    /// The same without TLS.
    pub fn tcp(&self) -> Address {
        Address::Tcp(format!("{}:{}", self.bracketed(), self.port))
    }

    /// The `Host` header of a browser.
    pub fn host(&self) -> String {
        let usual = if self.is_tls { 443 } else { 80 };
        match self.port == usual {
            true => self.bracketed(),
            false => format!("{}:{}", self.bracketed(), self.port),
        }
    }

    /// The `Origin` header of a browser for a page of the same site.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.host())
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

fn port_of(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "has a port that is no number up to 65535".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_as_written_in_pages_are_parsed() {
        for (text, shown, host) in [
            ("https://Example.org", "https://example.org", "example.org"),
            ("wss://example.org:443/socket/", "https://example.org/socket", "example.org"),
            ("ws://example.org/a/socket/websocket/", "http://example.org/a/socket", "example.org"),
            ("http://a/socket/websocket", "http://a/socket/websocket", "a"),
            ("ws://example.org:443/a/b", "http://example.org:443/a/b", "example.org:443"),
            ("http://127.0.0.1:8080/socket", "http://127.0.0.1:8080/socket", "127.0.0.1:8080"),
            ("http://[::1]:81/", "http://[::1]:81", "[::1]:81"),
            ("https://[::1]/x", "https://[::1]/x", "[::1]"),
            ("HTTPS://Example.org/Socket", "https://example.org/Socket", "example.org"),
            ("WSS://a/socket/websocket", "https://a/socket", "a"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.host().as_str()), (shown, host));
        }
        let address = Url::parse("http://[::1]:81").unwrap().address(true);
        assert_eq!(address, Address::Tcp("[::1]:81".into()));
        let address = Url::parse("https://[::1]").unwrap().address(true);
        assert_eq!(address.to_string(), "[::1]:443");
    }

    #[test]
    fn invalid_urls_are_refused_with_a_reason() {
        for (text, part) in [
            ("localhost:8080", "write http://localhost:8080"),
            ("ftp://a", "http, https, ws or wss"),
            ("http://", "no host"),
            ("http://:80", "no host"),
            ("http://-x", "no host"),
            ("http://a:b", "no number"),
            ("http://a:0", "no number"),
            ("http://[::1]x", "no number"),
            ("http://a/b c", "%XX"),
            ("http://a/b\r\nX: y", "%XX"),
            ("http://ö.example", "xn--"),
            ("http://me:pw@a/", "a scheme, a host"),
            ("//host/socket", "no scheme: write http://host/socket or https://host/socket"),
            (
                "http://a/?x",
                "has a query or a fragment, which clients do not send: write http://a/",
            ),
            ("https://a/socket#x", "clients do not send: write https://a/socket"),
            ("https://a?x", "clients do not send: write https://a"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
