//! Outgoing connections, for the load generator. Part of the reactor, which treats them like those
//! accepted from a listener.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::Token;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::Reactor;
use super::peer::flag;
use super::stream::Stream;
use crate::address::ListenAddress;
use crate::edge::{Door, Handler};

impl Reactor {
    /// Opens a connection, from that local address if one is given. Calls [`Handler::opened`] at
    /// once, as if it had come through that listener; the handler may send, which goes out when the
    /// peer has answered. If the peer refuses, the connection is `closed` as lost.
    ///
    /// # Errors
    /// Those of the kernel, if the attempt cannot even start.
    pub fn dial(
        &mut self,
        handler: &mut impl Handler,
        door: Door,
        to: &ListenAddress,
        from: Option<IpAddr>,
    ) -> io::Result<()> {
        let family = match to {
            ListenAddress::Ip(SocketAddr::V4(_)) => AddressFamily::INET,
            ListenAddress::Ip(SocketAddr::V6(_)) => AddressFamily::INET6,
            ListenAddress::Unix(_) => AddressFamily::UNIX,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(from) = from {
            rustix::net::bind(&fd, &SocketAddr::new(from, 0))?;
        }
        let answer = match to {
            ListenAddress::Ip(to) => {
                sockopt::set_tcp_nodelay(&fd, true)?;
                rustix::net::connect(&fd, to)
            }
            ListenAddress::Unix(path) => rustix::net::connect(&fd, &SocketAddrUnix::new(path)?),
        };
        match answer {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let conn = self.io.insert(Stream::from(fd), door);
        let Some(peer) = self.io.peer(conn) else { return Ok(()) };
        // The event that reports the peer's answer sets this too.
        peer.set(flag::WRITABLE, false);
        if let Err(error) = peer.stream.register(self.poll.registry(), Token(conn.index())) {
            self.io.free(conn);
            return Err(error);
        }
        handler.opened(&mut self.io, conn, door, to.address());
        Ok(())
    }
}
