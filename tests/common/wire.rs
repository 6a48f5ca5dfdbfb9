//! A blocking stream, TCP or unix, with a read deadline and ways to be rude to a server: writes
//! held back to be sent as one, half-close, reset.

use super::DEADLINE;
use rustix::net;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection to the server.
pub struct Wire {
    socket: Socket,
    /// What was written since `hold`; `None` if writes are sent at once.
    held: Option<Vec<u8>>,
}

impl Wire {
    /// Connects; every write is sent as its own segment.
    pub fn tcp(address: SocketAddr) -> Wire {
        Wire::over(TcpStream::connect(address).expect("the port accepts connections"))
    }

    /// The same from another local address.
    pub fn from_ip(ip: [u8; 4], address: SocketAddr) -> Wire {
        let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None);
        let socket = socket.expect("a socket");
        net::bind(&socket, &SocketAddr::from((ip, 0))).expect("an address of this machine");
        net::connect(&socket, &address).expect("the port accepts connections");
        Wire::over(TcpStream::from(socket))
    }

    fn over(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read deadline");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write deadline");
        Wire { socket: Socket::Tcp(stream), held: None }
    }

    /// Connects to a Unix socket.
    pub fn unix(path: &Path) -> Wire {
        let stream = UnixStream::connect(path).expect("the port accepts connections");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read deadline");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write deadline");
        Wire { socket: Socket::Unix(stream), held: None }
    }

    /// A second handle of the connection, to write while another thread reads.
    pub fn another(&self) -> Wire {
        let socket = match &self.socket {
            Socket::Tcp(stream) => stream.try_clone().map(Socket::Tcp),
            Socket::Unix(stream) => stream.try_clone().map(Socket::Unix),
        };
        Wire { socket: socket.expect("an open socket"), held: None }
    }

    /// Holds writes back until `release`.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Sends what was held back, in one write.
    pub fn release(&mut self) {
        if let Some(bytes) = self.held.take() {
            self.write_all(&bytes).expect("the server reads");
        }
    }

    /// Sets the timeout of reads.
    pub fn set_deadline(&mut self, deadline: Duration) {
        match &self.socket {
            Socket::Tcp(stream) => stream.set_read_timeout(Some(deadline)),
            Socket::Unix(stream) => stream.set_read_timeout(Some(deadline)),
        }
        .expect("a read deadline");
    }

    /// Shuts down the sending side (FIN), and goes on reading.
    pub fn half_close(&mut self) {
        match &self.socket {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        .expect("an open socket");
    }

    /// Closes the connection with a reset instead of a FIN.
    pub fn reset(self) {
        if let Socket::Tcp(stream) = &self.socket {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("linger");
        }
    }

    /// Reads to the end of the stream. A reset counts as the end: the server may close before it
    /// has read everything.
    pub fn read_rest(&mut self) -> Result<Vec<u8>, String> {
        let mut rest = Vec::new();
        match self.read_to_end(&mut rest) {
            Ok(_) => Ok(rest),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(rest),
            Err(error) => Err(format!("still open after {rest:?}: {error}")),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(held) = &mut self.held {
            held.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
