//! The way out: connections that this end opens, for the load generator. Part of the reactor, to
//! which they are connections like those that come through a door.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::Token;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::Reactor;
use super::peer::flag;
use super::stream::Stream;
use crate::address::Address;
use crate::edge::{Door, Handler};

impl Reactor {
    /// Opens a connection, from that address of ours if it matters. The handler hears at once that
    /// it is `opened`, as if it had come through that door, and may speak: what it says is sent
    /// when the peer has answered. If the peer refuses, the connection is `closed` as lost.
    ///
    /// # Errors
    /// Those of the kernel, if it does not even try.
    pub fn dial(
        &mut self,
        handler: &mut impl Handler,
        door: Door,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> io::Result<()> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        if let Some(from) = from {
            rustix::net::bind(&fd, &SocketAddr::new(from, 0))?;
        }
        match rustix::net::connect(&fd, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let conn = self.io.insert(Stream::from(fd), door);
        let Some(peer) = self.io.peer(conn) else { return Ok(()) };
        // The event that says that the peer has answered says this too.
        peer.set(flag::WRITABLE, false);
        if let Err(error) = peer.stream.register(self.poll.registry(), Token(conn.index())) {
            self.io.free(conn);
            return Err(error);
        }
        handler.opened(&mut self.io, conn, door, Address::Ip(to.ip()));
        Ok(())
    }
}
