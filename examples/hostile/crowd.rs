//! Thousands of attacking connections in one thread, each of which sends what it is told to and
//! reads as much as it is told to.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::Outcome;
use crate::words::has;

/// Default of [`Crowd::at_a_time`].
const AT_A_TIME: usize = 400;
/// Size of a read.
const PIECE_BYTES: usize = 65_536;

/// How a connection reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    /// Not at all: its window fills up.
    Never,
    /// Reads everything, and keeps at most this many of the last bytes.
    KeepLast(usize),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Closed by the server, with FIN.
    Fin,
    /// Reset, or refused.
    Reset,
    /// Closed by us.
    Ours,
}

/// One connection.
pub struct Member {
    stream: Option<TcpStream>,
    out: VecDeque<(Rc<[u8]>, usize)>,
    read_mode: ReadMode,
    /// Whether it has received the mark it was to wait for.
    is_greeted: bool,
    /// The last bytes received.
    pub got: Vec<u8>,
    /// Number of bytes received.
    pub heard: u64,
    /// Number of bytes sent.
    pub said: u64,
    /// When it was opened.
    pub since: Instant,
    /// How and when it ended.
    pub end: Option<(End, Instant)>,
}

impl Member {
    /// Whether it is connected or connecting.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether everything queued has been sent.
    pub fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    fn finish(&mut self, end: End) {
        self.stream = None;
        self.out.clear();
        self.end = Some((end, Instant::now()));
    }

    fn write(&mut self) {
        while let (Some(stream), Some((bytes, at))) = (&mut self.stream, self.out.front_mut()) {
            match stream.write(&bytes[*at..]) {
                Ok(count) => {
                    *at += count;
                    self.said += count as u64;
                    if *at == bytes.len() {
                        self.out.pop_front();
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Do not close yet: received data is still to be read.
                Err(_) => return self.out.clear(),
            }
        }
    }

    fn read(&mut self, piece: &mut [u8], mark: &[u8]) {
        while let (Some(stream), ReadMode::KeepLast(most)) = (&mut self.stream, self.read_mode) {
            match stream.read(piece) {
                Ok(0) => return self.finish(End::Fin),
                Ok(count) => {
                    self.heard += count as u64;
                    self.got.extend_from_slice(&piece[..count]);
                    self.is_greeted = self.is_greeted || has(&self.got, mark);
                    if self.got.len() / 2 > most {
                        self.got.drain(..self.got.len() - most);
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.finish(End::Reset),
            }
        }
    }
}

/// Many connections to one listener.
pub struct Crowd {
    poll: Poll,
    events: Events,
    target: SocketAddr,
    piece: Vec<u8>,
    mark: Vec<u8>,
    /// All connections ever opened, in order.
    pub members: Vec<Member>,
    /// Receive buffer of connections opened from now on; the kernel's default if `None`.
    pub window: Option<usize>,
    /// Maximum number of connections in the handshake at the same time.
    pub at_a_time: usize,
}

impl Crowd {
    /// An empty crowd for a listener.
    pub fn new(target: SocketAddr) -> Outcome<Crowd> {
        Ok(Crowd {
            poll: Poll::new()?,
            events: Events::with_capacity(4096),
            target,
            piece: vec![0; PIECE_BYTES],
            mark: Vec::new(),
            members: Vec::new(),
            window: None,
            at_a_time: AT_A_TIME,
        })
    }

    /// Opens one more connection; on loopback, each has its own source address.
    pub fn join(&mut self, read_mode: ReadMode, first: &Rc<[u8]>) -> Outcome<usize> {
        let number = self.members.len();
        let family = AddressFamily::INET;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(bytes) = self.window {
            sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
        }
        if self.target.ip().is_loopback() {
            // One address has 28,000 ports, and most would soon be in TIME_WAIT.
            let [high, low, ..] = ((number / 250) as u16 + 1).to_be_bytes();
            let ip = Ipv4Addr::new(127, 1 + high, low, 1 + (number % 250) as u8);
            rustix::net::bind(&socket, &SocketAddr::new(IpAddr::V4(ip), 0))?;
        }
        match rustix::net::connect(&socket, &self.target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(format!("cannot connect to {}: {error}", self.target).into()),
        }
        sockopt::set_tcp_nodelay(&socket, true)?;
        let mut stream = TcpStream::from_std(socket.into());
        let interest = match read_mode {
            ReadMode::Never => Interest::WRITABLE,
            ReadMode::KeepLast(_) => Interest::WRITABLE | Interest::READABLE,
        };
        self.poll.registry().register(&mut stream, Token(number), interest)?;
        self.members.push(Member {
            stream: Some(stream),
            out: VecDeque::from([(Rc::clone(first), 0)]),
            read_mode,
            is_greeted: false,
            got: Vec::new(),
            heard: 0,
            said: 0,
            since: Instant::now(),
            end: None,
        });
        Ok(number)
    }

    /// Opens `count` connections, a bounded number at a time: the next ones when these have
    /// received `mark`, or have sent everything if there is none. `first` makes the first bytes of
    /// each.
    pub fn gather(
        &mut self,
        count: usize,
        read_mode: ReadMode,
        mark: Option<&[u8]>,
        mut first: impl FnMut(usize) -> Rc<[u8]>,
    ) -> Outcome<()> {
        let mut waiting: Vec<usize> = Vec::new();
        self.mark = mark.unwrap_or_default().to_vec();
        let start = self.members.len();
        let mut deadline = Instant::now() + Duration::from_secs(60);
        while self.members.len() < start + count || !waiting.is_empty() {
            while self.members.len() < start + count && waiting.len() < self.at_a_time {
                let first = first(self.members.len() - start);
                waiting.push(self.join(read_mode, &first)?);
            }
            self.pump(Duration::from_millis(2))?;
            let before = waiting.len();
            waiting.retain(|at| {
                let member = &self.members[*at];
                let is_ready = match mark {
                    Some(_) => member.is_greeted,
                    None => member.is_idle() && member.said > 0,
                };
                member.is_open() && !is_ready
            });
            if waiting.len() < before {
                deadline = Instant::now() + Duration::from_secs(60);
            }
            if Instant::now() > deadline {
                return Err(format!("{} of {count} never got in", waiting.len()).into());
            }
        }
        Ok(())
    }

    /// Sends bytes on a connection, if it is open.
    pub fn say(&mut self, at: usize, bytes: &Rc<[u8]>) {
        let member = &mut self.members[at];
        if member.is_open() && !bytes.is_empty() {
            member.out.push_back((Rc::clone(bytes), 0));
            member.write();
        }
    }

    /// Sends bytes on all open connections that have nothing queued.
    pub fn say_all(&mut self, bytes: &Rc<[u8]>) {
        for at in 0..self.members.len() {
            if self.members[at].is_idle() {
                self.say(at, bytes);
            }
        }
    }

    /// Reads and writes for a time.
    pub fn pump(&mut self, time: Duration) -> Outcome<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut self.events, Some(left)) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &self.events {
                let Some(member) = self.members.get_mut(event.token().0) else { continue };
                if event.is_writable() {
                    member.write();
                }
                if member.read_mode == ReadMode::Never
                    && (event.is_error() || event.is_write_closed())
                {
                    member.finish(End::Reset);
                }
                if event.is_readable() || event.is_read_closed() {
                    member.read(&mut self.piece, &self.mark);
                }
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    /// The same until a condition holds; returns whether it did in time.
    pub fn pump_until(
        &mut self,
        time: Duration,
        mut is_done: impl FnMut(&Crowd) -> bool,
    ) -> Outcome<bool> {
        let end = Instant::now() + time;
        while !is_done(self) {
            if Instant::now() > end {
                return Ok(false);
            }
            self.pump(Duration::from_millis(20))?;
        }
        Ok(true)
    }

    /// Reads some bytes on a connection that is [`ReadMode::Never`].
    pub fn sip(&mut self, at: usize, bytes: usize) {
        let member = &mut self.members[at];
        let Some(stream) = &mut member.stream else { return };
        let most = bytes.min(self.piece.len());
        match stream.read(&mut self.piece[..most]) {
            Ok(0) => member.finish(End::Fin),
            Ok(count) => member.heard += count as u64,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => member.finish(End::Reset),
        }
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.members.iter().filter(|member| member.is_open()).count()
    }

    /// The number of connections whose kept bytes contain `what`.
    pub fn heard(&self, what: &[u8]) -> usize {
        self.members.iter().filter(|member| has(&member.got, what)).count()
    }

    /// Closes a connection with a reset.
    pub fn reset(&mut self, at: usize) {
        let member = &mut self.members[at];
        if let Some(stream) = &member.stream {
            // If this fails the connection closes with FIN, and one reset fewer is sent.
            let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
        member.finish(End::Ours);
    }

    /// Closes a connection with FIN.
    pub fn close(&mut self, at: usize) {
        self.members[at].finish(End::Ours);
    }

    /// Closes all connections at once.
    pub fn close_all(&mut self) {
        for at in 0..self.members.len() {
            if self.members[at].is_open() {
                self.close(at);
            }
        }
    }
}
