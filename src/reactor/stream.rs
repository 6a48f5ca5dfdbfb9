//! A connected, non-blocking TCP or unix stream: nothing but its descriptor.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event::Source};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, getpeername, sockopt};

use crate::address::Address;

#[derive(Debug)]
pub(super) struct Stream(OwnedFd);

impl<T: Into<OwnedFd>> From<T> for Stream {
    fn from(socket: T) -> Stream {
        Stream(socket.into())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Stream {
    /// Registers for both directions, once for the life of the stream: closing it ends that. Urgent
    /// data is reported because a read ends in front of it.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let all = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        SourceFd(&self.0.as_raw_fd()).register(registry, token, all)
    }

    /// Returns the address of the peer, unless it is gone already.
    pub fn peer_address(&self) -> Option<Address> {
        let peer = getpeername(&self.0).ok();
        // The other end of a unix socket has no name.
        let peer =
            peer.map(|peer| peer.filter(|peer| peer.address_family() != AddressFamily::UNIX));
        match peer? {
            Some(peer) => SocketAddr::try_from(peer).ok().map(|peer| peer.ip().into()),
            None => Some(Address::Unix),
        }
    }

    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.0, into, RecvFlags::empty())?.0)
    }

    #[inline]
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    /// Costs the kernel more than [`Stream::write`], which a single slice uses.
    pub fn write_many(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => self.write(one),
            many => Ok(rustix::io::writev(&self.0, many)?),
        }
    }

    /// Makes the kernel discard what it holds for the peer when the stream is dropped, and send a
    /// reset; no effect on a unix socket. Fails only if the peer is gone already.
    pub fn abandon(&self) {
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
    }

    /// Tells the peer that nothing more comes. Fails only if the peer is gone already.
    pub fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }
}
