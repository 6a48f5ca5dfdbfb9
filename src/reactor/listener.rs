//! Listeners ("doors"): listening sockets, fully set up before a client can reach them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token, event::Source};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::umask;

use super::stream::Stream;
use crate::address::Address;
use crate::edge::{Door, TurnedAway};
use crate::frame::Frame;
use crate::limits::Limits;

/// Connections that the kernel completes before they are accepted; it turns more away.
const BACKLOG: i32 = 4096;

/// Makes the response to a connection that is not let in: why, and in how many seconds to retry.
pub type Refusal = fn(TurnedAway, u64) -> Frame;

/// Device and inode: the path may lead to another file later.
type FileId = (u64, u64);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// With the path of its file, and the file's identity if it is to be removed at the end.
    Unix(UnixListener, PathBuf, Option<FileId>),
}

/// A listening socket and the kind of client that it serves.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// The kind of client that it serves.
    pub door: Door,
    /// Whether a connection may be waiting. Epoll reports arrivals once: when accepting stops early
    /// this stays set, and the reactor tries again.
    pub(super) is_ready: bool,
    /// The response to a connection that cannot be let in.
    pub(super) refusal: Option<Refusal>,
}

impl Listener {
    /// Listens on a TCP address; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Those of the kernel; most often that the address is in use, or not one of this machine.
    pub fn tcp(door: Door, addr: SocketAddr) -> io::Result<Listener> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        // Accepted sockets inherit this, which saves a call for each of them.
        sockopt::set_tcp_nodelay(&fd, true)?;
        rustix::net::bind(&fd, &addr)?;
        rustix::net::listen(&fd, BACKLOG)?;
        let socket = Socket::Tcp(TcpListener::from_std(std::net::TcpListener::from(fd)));
        Ok(Listener { socket, door, is_ready: true, refusal: None })
    }

    /// Sets bounds for connections accepted from now on, if this is a TCP listener: how long sent
    /// bytes may stay unacknowledged before the connection ends, and how much the kernel buffers
    /// for a peer that does not read, or from a browser that is not read (its own choice may be
    /// megabytes). Set here because accepted sockets inherit it, which saves three calls for each.
    /// The admin listener needs none of it: it serves few clients, all bound by the deadlines of
    /// requests, also if they do not take their answers.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn bound(&self, limits: &Limits) -> io::Result<()> {
        let Socket::Tcp(listener) = &self.socket else { return Ok(()) };
        // The kernel treats a peer with no room for more like one that is gone. A back end may
        // leave its replies unread for longer; then our own deadline ends it, which is counted.
        let timeout_ms = match self.door {
            // A proxy on this machine cannot vanish unnoticed. It may have no room for as long as a
            // slow link needs for what it holds: loopback opens a window in steps of 64 KB.
            Door::Web if self.is_loopback() => Some(0),
            Door::Web => Some(limits.tcp_user_timeout_ms),
            Door::Control => {
                let replies_ms = limits.control_replies_ms + limits.close_ms;
                Some(limits.tcp_user_timeout_ms.max(replies_ms))
            }
            Door::Admin => None,
        };
        if let Some(timeout_ms) = timeout_ms {
            let timeout_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(listener, timeout_ms)?;
        }
        // Nothing may ever be sent to a back end that only listens: without keepalive, one whose
        // machine is gone would stay for ever. The timeout above bounds its silence after that.
        if self.door == Door::Control {
            let idle_s = (limits.control_keepalive_ms as u64 / 1000).max(1);
            sockopt::set_socket_keepalive(listener, true)?;
            sockopt::set_tcp_keepidle(listener, Duration::from_secs(idle_s))?;
            sockopt::set_tcp_keepintvl(listener, Duration::from_secs((idle_s / 4).max(1)))?;
        }
        if self.door != Door::Admin {
            sockopt::set_socket_send_buffer_size(listener, limits.kernel_send_bytes)?;
        }
        // Not for back ends: unread input does not grow their window, and a fast one needs that.
        if self.door == Door::Web {
            sockopt::set_socket_recv_buffer_size(listener, limits.kernel_receive_bytes)?;
        }
        Ok(())
    }

    /// Sets the response to connections for which there is no room. Without it they wait in the
    /// kernel's queue until there is.
    pub fn refuse_with(&mut self, words: Refusal) {
        self.refusal = Some(words);
    }

    /// Takes over a TCP socket that was opened by another process, which keeps holding it.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn inherited_tcp(door: Door, socket: std::net::TcpListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        let socket = Socket::Tcp(TcpListener::from_std(socket));
        Ok(Listener { socket, door, is_ready: true, refusal: None })
    }

    /// Takes over a unix socket that was opened by another process, which keeps holding it.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn inherited_unix(door: Door, socket: StdUnixListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        let path = socket.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
        let socket = Socket::Unix(UnixListener::from_std(socket), path, None);
        Ok(Listener { socket, door, is_ready: true, refusal: None })
    }

    /// Returns whether it is a unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.socket, Socket::Unix(..))
    }

    /// Returns whether it is a TCP port that only this machine can reach.
    pub fn is_loopback(&self) -> bool {
        match &self.socket {
            Socket::Tcp(listener) => {
                listener.local_addr().is_ok_and(|addr| addr.ip().is_loopback())
            }
            Socket::Unix(..) => false,
        }
    }

    /// Returns whether the socket is in the listening state.
    pub fn is_listening(&self) -> bool {
        let listens = match &self.socket {
            Socket::Tcp(listener) => sockopt::socket_acceptconn(listener),
            Socket::Unix(listener, ..) => sockopt::socket_acceptconn(listener),
        };
        listens.is_ok_and(|listens| listens)
    }

    /// Listens on a unix socket with mode 0660. Removes a file left behind by a dead server.
    ///
    /// # Errors
    /// `AddrInUse` if a live server listens there or is about to, `AlreadyExists` if the path is
    /// not a socket, and those of the kernel.
    pub fn unix(door: Door, path: &Path) -> io::Result<Listener> {
        let claim = Claim::of(path)?;
        remove_stale(path)?;
        // The file must never be reachable with a wider mode, not even for a moment.
        let before = umask(Mode::from_raw_mode(0o117));
        let socket = UnixListener::bind(path);
        umask(before);
        let file = file_id(path);
        drop(claim);
        let socket = Socket::Unix(socket?, path.to_owned(), Some(file?));
        Ok(Listener { socket, door, is_ready: true, refusal: None })
    }

    /// Returns `127.0.0.1:8080` or `unix:PATH`.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".into(), |addr| addr.to_string())
            }
            Socket::Unix(_, path, _) => format!("unix:{}", path.display()),
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(listener) => listener.register(registry, token, Interest::READABLE),
            Socket::Unix(listener, ..) => listener.register(registry, token, Interest::READABLE),
        }
    }

    pub(super) fn accept(&mut self) -> io::Result<(Stream, Address)> {
        match &mut self.socket {
            Socket::Tcp(listener) => {
                listener.accept().map(|(stream, from)| (stream.into(), from.ip().into()))
            }
            Socket::Unix(listener, ..) => {
                listener.accept().map(|(stream, _)| (stream.into(), Address::Unix))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another server may listen there by now, with its own file.
        if let Socket::Unix(_, path, Some(file)) = &self.socket
            && file_id(path).is_ok_and(|now| now == *file)
        {
            // It may be gone already.
            let _ = fs::remove_file(path);
        }
    }
}

/// The right to inspect a path and to take it over. Without it each of two servers could find the
/// path stale, also between the other's bind and listen, and remove the other's socket.
struct Claim {
    /// The lock file, locked until this is dropped.
    _file: File,
    path: PathBuf,
}

impl Claim {
    fn of(path: &Path) -> io::Result<Claim> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let lock_path = path.with_file_name(name);
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).mode(0o600).custom_flags(no_follow);
            let file = options.open(&lock_path).map_err(|e| not_ours(&lock_path, e))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => {
                    let text = format!("another server is about to listen on {}", path.display());
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
                }
                locked => locked?,
            }
            // The last holder may have removed it since it was opened.
            let meta = file.metadata()?;
            if file_id(&lock_path).is_ok_and(|id| id == (meta.dev(), meta.ino())) {
                return Ok(Claim { _file: file, path: lock_path });
            }
        }
    }
}

/// Returns the error of opening a lock file, which may belong to another user.
fn not_ours(lock_path: &Path, error: io::Error) -> io::Error {
    let (path, us) = (lock_path.display(), rustix::process::geteuid().as_raw());
    match fs::symlink_metadata(lock_path).map(|lock| lock.uid()) {
        Ok(owner) if error.kind() == io::ErrorKind::PermissionDenied => {
            let whose = format!("it belongs to user {owner}, and this is user {us}");
            let text = format!("{path}: {error}: {whose}; rm it if no server of theirs runs");
            io::Error::new(error.kind(), text)
        }
        _ => error,
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Nobody else holds this lock yet.
        let _ = fs::remove_file(&self.path);
    }
}

fn file_id(path: &Path) -> io::Result<FileId> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        let text = format!("{} is there already and is no socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    // Without blocking: the queue of a live server that accepts nothing may be full.
    let is_live = match mio::net::UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => false,
            io::ErrorKind::WouldBlock => true,
            _ => return Err(error),
        },
    };
    if is_live {
        let text = format!("a live server listens on {}", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_tcp_user_timeout_of_back_ends_exceeds_our_own_deadline() {
        let listener = Listener::tcp(Door::Control, "127.0.0.1:0".parse().unwrap()).unwrap();
        let timeout_ms = |limits: &Limits| {
            listener.bound(limits).unwrap();
            let Socket::Tcp(socket) = &listener.socket else { panic!("it is TCP") };
            sockopt::tcp_user_timeout(socket).unwrap()
        };
        assert_eq!(timeout_ms(&Limits::default()), 65_000);
        let patient = Limits { tcp_user_timeout_ms: 100_000, ..Limits::default() };
        assert_eq!(timeout_ms(&patient), 100_000);
    }

    #[test]
    fn an_inaccessible_lock_file_is_named_with_its_owner() {
        let path = std::env::temp_dir().join(format!("fws-lock-{}", std::process::id()));
        File::create(&path).unwrap();
        let told = |kind: io::ErrorKind| not_ours(&path, kind.into()).to_string();
        let (denied, other) = (told(io::ErrorKind::PermissionDenied), told(io::ErrorKind::Other));
        fs::remove_file(&path).unwrap();
        let us = rustix::process::geteuid().as_raw();
        assert!(denied.starts_with(&format!("{}: permission denied", path.display())), "{denied}");
        assert!(denied.contains(&format!(": it belongs to user {us}, and")), "{denied}");
        assert_eq!(other, io::Error::from(io::ErrorKind::Other).to_string());
    }

    #[test]
    fn loopback_listeners_have_no_tcp_user_timeout() {
        let timeout_ms = |address: &str| {
            let listener = Listener::tcp(Door::Web, address.parse().unwrap()).unwrap();
            listener.bound(&Limits::default()).unwrap();
            let Socket::Tcp(socket) = &listener.socket else { panic!("it is TCP") };
            sockopt::tcp_user_timeout(socket).unwrap()
        };
        assert_eq!((timeout_ms("127.0.0.1:0"), timeout_ms("0.0.0.0:0")), (0, 20_000));
    }

    #[test]
    fn tcp_keepalive_is_set_on_back_end_connections() {
        let mut door = Listener::tcp(Door::Control, "127.0.0.1:0".parse().unwrap()).unwrap();
        door.bound(&Limits { control_keepalive_ms: 8000, ..Limits::default() }).unwrap();
        let _peer = std::net::TcpStream::connect(door.address()).unwrap();
        let (stream, _) = std::iter::repeat_with(|| door.accept()).find_map(Result::ok).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), Duration::from_secs(8));
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), Duration::from_secs(2));
    }

    #[test]
    fn the_kernel_send_buffer_of_back_ends_is_bounded() {
        let listener = Listener::tcp(Door::Control, "127.0.0.1:0".parse().unwrap()).unwrap();
        listener.bound(&Limits::default()).unwrap();
        let Socket::Tcp(socket) = &listener.socket else { panic!("it is TCP") };
        assert_eq!(sockopt::socket_send_buffer_size(socket).unwrap(), 2 * 65_536);
    }

    #[test]
    fn accepted_connections_inherit_the_limits_of_their_listener() {
        let mut door = Listener::tcp(Door::Web, "0.0.0.0:0".parse().unwrap()).unwrap();
        let limits = Limits { kernel_send_bytes: 100_000, ..Limits::default() };
        door.bound(&limits).unwrap();
        let mut peer = std::net::TcpStream::connect(door.address()).unwrap();
        let stream = loop {
            match door.accept() {
                Ok((stream, from)) => {
                    assert_eq!(from, Address::Ip([127, 0, 0, 1].into()));
                    break stream;
                }
                other => assert!(other.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)),
            }
        };
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 20_000);
        let (mut taken, piece) = (0, [0; 10_000]);
        while let Ok(count) = stream.write(&piece) {
            taken += count;
        }
        // Bytes in flight and in the peer's kernel are not bounded by this.
        assert!((50_000..1_000_000).contains(&taken), "{taken} bytes");
        assert_eq!(sockopt::socket_recv_buffer_size(&stream).unwrap(), 2 * 65_536);
        // What it sends while it is not read is bounded as well; its own kernel holds some of it.
        sockopt::set_socket_send_buffer_size(&peer, 16_384).unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut said = 0;
        while let Ok(count) = io::Write::write(&mut peer, &piece) {
            said += count;
        }
        assert!((10_000..250_000).contains(&said), "{said} bytes");
    }

    #[test]
    fn only_one_of_several_servers_takes_over_a_stale_socket() {
        let dir = std::env::temp_dir().join(format!("fws-claims-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("web.sock");
        for round in 0..200 {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let gate = std::sync::Barrier::new(4);
            let come = || {
                gate.wait();
                Listener::unix(Door::Web, &path)
            };
            let all: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(come)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(all.iter().filter(|one| one.is_ok()).count(), 1, "round {round}");
            assert!(mio::net::UnixStream::connect(&path).is_ok(), "round {round}");
            let refused = all.iter().filter_map(|one| one.as_ref().err());
            refused.for_each(|error| assert_eq!(error.kind(), io::ErrorKind::AddrInUse));
            let live = Listener::unix(Door::Web, &path).unwrap_err();
            assert_eq!(live.kind(), io::ErrorKind::AddrInUse);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing is left behind");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = std::env::temp_dir().join(format!("fws-listener-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let live = Listener::unix(Door::Control, &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = Listener::unix(Door::Control, &path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // There is no wait for a live server whose backlog is full.
        let Socket::Unix(socket, ..) = &live.socket else { panic!("it is a unix socket") };
        rustix::net::listen(socket, 0).unwrap();
        let _waiting: Vec<_> =
            std::iter::from_fn(|| mio::net::UnixStream::connect(&path).ok()).collect();
        let error = Listener::unix(Door::Control, &path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // The file is removed, and another server takes the path.
        fs::remove_file(&path).unwrap();
        let next = Listener::unix(Door::Control, &path).unwrap();
        drop(live);
        assert!(path.exists(), "the path now belongs to the next server");
        drop(next);
        assert!(!path.exists(), "removed when dropped");
        fs::write(&path, "precious").unwrap();
        let error = Listener::unix(Door::Control, &path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir_all(&dir).unwrap();
    }
}
