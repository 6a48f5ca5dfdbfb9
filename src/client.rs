//! Blocking clients of both ports, for the command line: one thread, one connection, and a time
//! limit on everything but waiting for a publication. Owns its sockets; prints nothing. Called by
//! [`crate::cli`].

mod control;
mod response;
mod socket;
mod tls;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::mailbox::mailbox;
use crate::time::{Clock, Millis};

pub use control::Control;
pub use response::{Response, page};
pub use socket::{Message, Socket};

use tls::Tls;

/// Checks that a connection to `address` is accepted within 4 s.
///
/// # Errors
/// [`ClientError::Connect`].
pub fn reach(address: &Address) -> Result<(), ClientError> {
    Stream::connect(address).map(drop)
}

/// Time to connect, in milliseconds.
const CONNECT_MS: u64 = 4000;

/// Time for an answer, in milliseconds.
pub(crate) const ANSWER_MS: u64 = 10_000;

/// Longest message or reply accepted from a server, in bytes: 16 times what its default limits
/// allow, and no more than a machine has.
const MESSAGE_BYTES: usize = 1 << 27;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`; the host may be a name.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
    /// TCP with TLS, through the program `openssl`.
    Tls {
        /// A name or an IP address, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
        /// Whether to fail on a certificate that a browser would reject.
        is_verified: bool,
    },
}

impl Address {
    /// Returns where to reach a server that listens at `address`: on this machine, if that means
    /// every interface.
    pub fn to_reach(mut address: SocketAddr) -> Address {
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        Address::Tcp(address.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tls { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tls { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

/// Why communication with a server failed, in words for a user.
#[derive(Debug)]
pub enum ClientError {
    /// No connection.
    Connect(Address, io::Error),
    /// No TLS: why.
    Tls(String),
    /// No answer in time.
    Silence,
    /// The server closed, or the network failed.
    Lost,
    /// What came is not from a server of ours.
    Foreign(String),
    /// It does not accept pages of that site.
    Origin,
    /// It has no room now.
    Full,
    /// What was to be sent is too long for a frame, in bytes.
    TooLong(usize),
    /// The system's random source failed.
    Random(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connect(at, e) => match e.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
                    write!(f, "no server at {at}: is `fws serve` running?")
                }
                ErrorKind::TimedOut => write!(f, "{at} did not answer within {CONNECT_MS} ms"),
                _ => write!(f, "cannot connect to {at}: {e}"),
            },
            ClientError::Tls(why) => write!(f, "no TLS connection: {why}"),
            ClientError::Silence => write!(f, "no answer within {ANSWER_MS} ms"),
            ClientError::Lost => f.write_str("the connection was closed before the answer"),
            ClientError::Foreign(what) => write!(f, "this is no fws server: {what}"),
            ClientError::Origin => f.write_str(
                "HTTP 403: only pages of some sites may connect; name one of them with --origin",
            ),
            ClientError::Full => f.write_str("HTTP 503: it has no room now"),
            ClientError::TooLong(bytes) => write!(f, "{bytes} bytes are too many for one message"),
            ClientError::Random(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// Returns whether TLS failed only for a certificate that a browser rejects.
    pub fn is_certificate(&self) -> bool {
        matches!(self, ClientError::Tls(why) if why.starts_with(tls::CERTIFICATE))
    }
}

/// The time by which something must have happened.
#[derive(Debug)]
pub(crate) struct Deadline {
    clock: Clock,
    at: Millis,
}

impl Deadline {
    pub(crate) fn after(ms: u64) -> Deadline {
        let clock = Clock::new();
        let at = clock.now().mono.plus(ms);
        Deadline { clock, at }
    }

    /// Returns the time left, `None` if there is none.
    fn left(&self) -> Option<Duration> {
        Some(self.at.after(self.clock.now().mono)).filter(|left| !left.is_zero())
    }

    /// Returns the time left in milliseconds, at least 1.
    fn left_ms(&self) -> Result<u64, ClientError> {
        let left = self.left().ok_or(ClientError::Silence)?;
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1))
    }
}

/// A connection of any kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Tls),
}

impl Stream {
    /// Connects within 4 s, the look-up of a name included.
    pub(crate) fn connect(address: &Address) -> Result<Stream, ClientError> {
        if let Address::Tls { host, port, is_verified } = address {
            return Tls::start(host, *port, *is_verified).map(Stream::Tls);
        }
        let failed = |e| ClientError::Connect(address.clone(), e);
        let (sender, receiver) = mailbox();
        let place = address.clone();
        // On a thread of its own: neither the look-up of a name nor a unix socket has a time limit
        // to set. A late result finds no receiver, and the process ends soon.
        let connect = move || {
            sender.send(match place {
                Address::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
                place => TcpStream::connect(place.to_string()).map(Stream::Tcp),
            })
        };
        std::thread::Builder::new().spawn(connect).map_err(failed)?;
        let connected = receiver.recv(Some(Duration::from_millis(CONNECT_MS)));
        let late = |_| Err(ErrorKind::TimedOut.into());
        let stream = connected.unwrap_or_else(late).map_err(failed)?;
        if let Stream::Tcp(stream) = &stream {
            // If this fails, it costs a delay, no more.
            let _ = stream.set_nodelay(true);
        }
        Ok(stream)
    }

    /// Reads at least one byte.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        deadline: &Deadline,
    ) -> Result<usize, ClientError> {
        loop {
            let left = Some(deadline.left().ok_or(ClientError::Silence)?);
            let read = match self {
                Stream::Tcp(s) => s.set_read_timeout(left).and_then(|()| s.read(buffer)),
                Stream::Unix(s) => s.set_read_timeout(left).and_then(|()| s.read(buffer)),
                Stream::Tls(s) => return s.read(buffer, deadline),
            };
            match read {
                Ok(0) => return Err(ClientError::Lost),
                Ok(n) => return Ok(n),
                Err(e) if is_retried(&e) => {}
                Err(_) => return Err(ClientError::Lost),
            }
        }
    }

    pub(crate) fn write_all(
        &mut self,
        mut bytes: &[u8],
        deadline: &Deadline,
    ) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let left = Some(deadline.left().ok_or(ClientError::Silence)?);
            let written = match self {
                Stream::Tcp(s) => s.set_write_timeout(left).and_then(|()| s.write(bytes)),
                Stream::Unix(s) => s.set_write_timeout(left).and_then(|()| s.write(bytes)),
                Stream::Tls(s) => return s.write_all(bytes, deadline),
            };
            match written {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if is_retried(&e) => {}
                Err(_) => return Err(ClientError::Lost),
            }
        }
        Ok(())
    }
}

/// Whether to try again: an expired time-out is a `WouldBlock`; the deadline decides what is final.
fn is_retried(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_address_is_reached_through_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.0.0.5:1", "10.0.0.5:1"),
        ] {
            let address = Address::to_reach(listens.parse().unwrap());
            assert_eq!(address.to_string(), reached);
        }
    }

    #[test]
    fn a_failed_connection_is_reported_as_a_missing_server() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let missing = std::env::temp_dir().join("fws-no-such-folder/control.sock");
        for address in [Address::to_reach(free), Address::Unix(missing)] {
            let error = Stream::connect(&address).unwrap_err();
            let expected = format!("no server at {address}: is `fws serve` running?");
            assert_eq!(error.to_string(), expected);
        }
        let error = Stream::connect(&Address::Tcp("127.0.0.1".into())).unwrap_err().to_string();
        assert!(error.starts_with("cannot connect to 127.0.0.1: "), "{error}");
    }
}
