//! The reactor: the event loop, which runs in turns. It owns one poll, one slab for listeners
//! ("doors") and connections, every socket, the deadlines and the read buffer. It knows nothing of
//! HTTP, channels or JSON: it calls a [`Handler`], and only start-up code knows it.

mod closing_queue;
#[cfg(feature = "bench")]
mod dial;
mod events;
mod frame_joiner;
mod io;
mod listener;
mod peer;
mod pending_input;
mod process;
mod refuse;
mod rounds;
mod slots;
mod spare;
mod standstill;
mod stop;
mod stream;
#[cfg(test)]
mod tests;

pub use events::Signal;
pub use listener::Listener;
pub use process::raise_descriptor_limit;

use std::io as stdio;
use std::time::Duration;

use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use crate::address::Address;
use crate::edge::{ConnId, Door, Handler, TurnedAway};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::slow::Rules;
use crate::time::{Clock, Millis, Stopwatch};
use events::{SIGNALS, WAKER};
use io::{Flushed, Io};
use peer::{Phase, flag};
use refuse::AdmissionRate;
use rounds::Round;
use spare::Spares;
use standstill::Standstills;

/// Bytes read from one connection in one turn, and the size of the single read buffer.
const READ_BYTES: usize = 64 * 1024;
/// Connections accepted from one listener in one turn.
const ACCEPT_MAX: usize = 32;
/// Minimum time between two log lines that report the same state of the listeners.
const REPEAT_MS: u64 = 10_000;
/// Deadlines handled in one turn; also slow peers checked in one turn.
const EXPIRED_MAX: usize = 32;
/// Events taken from the kernel in one turn. Recording one takes some ten nanoseconds; a back end's
/// input is unknown until its event is taken: behind ten thousand browsers, in the tenth turn.
const EVENTS_MAX: usize = 1024;

/// Bounds of a reactor.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections in total, including those that are closing, without those of the admin listener.
    pub connections: usize,
    /// Connections accepted through [`Door::Web`] per second.
    pub admissions_per_second: usize,
    /// Connections accepted through it at once after a quiet time.
    pub admissions_burst: usize,
    /// Further connections through [`Door::Control`]: browsers must not lock the back ends out.
    pub control_reserve: usize,
    /// No more connections are accepted through [`Door::Control`] while this many of them have sent
    /// something and have never been read.
    pub control_unread_max: usize,
    /// Connections through [`Door::Admin`], which are counted separately.
    pub admin_connections: usize,
    /// Maximum time from a close to the end of the connection.
    pub close_ms: u64,
    /// Maximum time from the first stop signal to the end of [`Reactor::run`].
    pub drain_ms: u64,
    /// When a peer is too slow in taking what is published to it.
    pub slow: Rules,
    /// Total unconsumed input of all connections but those of back ends.
    pub input_bytes: usize,
}

/// The event loop.
#[derive(Debug)]
pub struct Reactor {
    poll: Poll,
    events: Events,
    clock: Clock,
    standstills: Standstills,
    io: Io,
    bounds: Bounds,
    /// The listeners. Their slots, in the same slab as connections, hold an index into this. Once
    /// the server drains only the admin listener is left.
    doors: Slab<Listener>,
    /// Streams on which a byte arrives for each signal, and what that signal asks for.
    signals: Vec<(UnixStream, Signal)>,
    scratch: Vec<u8>,
    /// No connection is accepted before this, unless fewer sockets are open than so many.
    accept_at: Millis,
    starved_sockets: usize,
    spares: Spares,
    is_starved: bool,
    is_full_told: bool,
    /// Earliest times at which a warning of either kind is logged again.
    starved_again_at: Millis,
    full_again_at: Millis,
    /// Limits the rate at which browsers are accepted.
    admission: AdmissionRate,
    /// Stop signals received; those in quick succession count as one.
    stops: usize,
    same_stop_until: Millis,
    /// A reload signal has arrived that [`Reactor::take_reload`] has not reported yet.
    has_reload: bool,
    drain_until: Millis,
    /// Set while the server is stopping and still handles input: when that ends at the latest.
    hear_until: Option<Millis>,
    /// Upper bound for the wait of every turn.
    idle_ms: Option<u64>,
    /// Bytes passed to the handler in total; unconsumed bytes count again when passed again.
    handled_bytes: u64,
    /// Events that the kernel reported in this turn, and whether any connection was to be read.
    reported: usize,
    has_read: bool,
    /// Connections written to in this turn, without those that have much queued; and their bytes.
    flushed: usize,
    flushed_bytes: u64,
}

/// Returns [`READ_BYTES`] of zeros. Allocates twice as much, so that the allocator maps it from the
/// kernel instead of using its heap: pages become resident only as they are read into.
fn read_buffer() -> Vec<u8> {
    let mut buffer = vec![0; 2 * READ_BYTES];
    buffer.truncate(READ_BYTES);
    buffer
}

impl Reactor {
    /// Creates a reactor without listeners.
    ///
    /// # Errors
    /// If the kernel grants no epoll instance.
    pub fn new(bounds: Bounds) -> stdio::Result<Reactor> {
        let clock = Clock::new();
        let now = clock.now();
        let mut spares = Spares::default();
        // First of all, for low numbers, which stay usable if the limit is lowered later.
        spares.refill();
        Ok(Reactor {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            clock,
            standstills: Standstills::default(),
            io: Io::new(now, bounds.close_ms, bounds.slow),
            bounds,
            doors: Slab::new(),
            signals: Vec::new(),
            scratch: read_buffer(),
            accept_at: now.mono,
            starved_sockets: 0,
            spares,
            is_starved: false,
            is_full_told: false,
            starved_again_at: now.mono,
            full_again_at: now.mono,
            admission: AdmissionRate::new(&bounds),
            stops: 0,
            same_stop_until: Millis(0),
            has_reload: false,
            drain_until: Millis(u64::MAX),
            hear_until: None,
            idle_ms: None,
            handled_bytes: 0,
            reported: 0,
            has_read: false,
            flushed: 0,
            flushed_bytes: 0,
        })
    }

    /// Returns the time of the current turn.
    pub fn now(&self) -> crate::time::Now {
        self.io.now
    }

    /// Adds a listener.
    ///
    /// # Errors
    /// If the kernel refuses to watch its socket.
    pub fn add_door(&mut self, listener: Listener) -> stdio::Result<()> {
        let kind = listener.door;
        let door = self.doors.insert(listener);
        let token = Token(self.io.peers.open_door(door, kind).index());
        self.doors[door].register(self.poll.registry(), token)
    }

    /// Adds a stream on which one byte arrives for each such signal.
    ///
    /// # Errors
    /// If the kernel refuses to watch it.
    pub fn add_signals(&mut self, mut stream: UnixStream, signal: Signal) -> stdio::Result<()> {
        let token = Token(SIGNALS + self.signals.len());
        self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
        self.signals.push((stream, signal));
        Ok(())
    }

    /// Returns a function that another thread calls to make the loop turn once more, and with it
    /// the handler's `tick`.
    ///
    /// # Errors
    /// If the kernel grants no descriptor for it.
    pub fn waker(&mut self) -> stdio::Result<impl Fn() + Send + use<>> {
        let waker = Waker::new(self.poll.registry(), Token(WAKER))?;
        Ok(move || {
            // It fails only if the loop is gone.
            let _ = waker.wake();
        })
    }

    /// Limits how long any turn waits for events.
    pub fn wake_every(&mut self, ms: u64) {
        self.idle_ms = Some(ms);
    }

    /// Returns whether the process has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stops > 0
    }

    /// Returns the number of connections, without those of the admin listener.
    pub fn connections(&self) -> usize {
        self.io.connections()
    }

    /// Returns whether a reload signal has arrived since the last call.
    pub fn take_reload(&mut self) -> bool {
        std::mem::take(&mut self.has_reload)
    }

    /// Applies new bounds. Open connections stay.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.io.set_rules(bounds.slow);
        self.admission.set_pace(&bounds, self.io.now.mono);
        (self.io.close_ms, self.io.linger_ms) = (bounds.close_ms, bounds.close_ms);
    }

    /// Applies new socket limits to the TCP listeners ([`Listener::bound`]).
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn bound_doors(&self, limits: &Limits) -> stdio::Result<()> {
        self.doors.iter().try_for_each(|(_, door)| door.bound(limits))
    }

    /// Runs turns until a stop signal has come and all peers are gone or the drain time is over, or
    /// until a second stop signal has come.
    ///
    /// # Errors
    /// If polling fails, which it does only for reasons that no later turn can fix.
    pub fn run(&mut self, handler: &mut impl Handler) -> stdio::Result<()> {
        while !self.is_done() {
            self.turn(handler)?;
        }
        Ok(())
    }

    /// Returns whether [`Reactor::run`] is over.
    pub fn is_done(&self) -> bool {
        let is_drained = self.stops > 0
            && self.hear_until.is_none()
            && (self.io.connections() == 0 || self.drain_until <= self.io.now.mono);
        self.stops > 1 || is_drained
    }

    /// Runs one turn of the loop.
    ///
    /// # Errors
    /// As [`Reactor::run`].
    pub fn turn(&mut self, handler: &mut impl Handler) -> stdio::Result<()> {
        let asked = self.poll_events(handler)?;
        let watch = Stopwatch::start();
        self.begin(handler, &watch, asked);
        (self.io.offered, self.flushed, self.flushed_bytes) = (0, 0, 0);
        self.read_events();
        self.report_closed(handler);
        handler.tick(&mut self.io);
        self.read_back_ends(handler);
        // Subscribers should not wait for a crowd that speaks, comes or goes.
        self.flush_small(handler);
        self.read_browsers(handler);
        self.expire(handler);
        self.cut_slow(handler);
        self.part(handler);
        // So that `settle` gives nothing to a connection that has gone in this turn.
        self.report_closed(handler);
        handler.settle(&mut self.io);
        self.report_closed(handler);
        self.flush_rest(handler);
        self.report_closed(handler);
        // Last, because a newcomer may end a closing connection, which was written to by now.
        self.accept(handler);
        self.io.shrink();
        self.io.meters.sockets = self.io.connections();
        self.io.meters.turns.record(watch.elapsed_us());
        Ok(())
    }

    /// Waits for events, until the next deadline at most. Returns the timeout used.
    fn poll_events(&mut self, handler: &mut impl Handler) -> stdio::Result<Option<Duration>> {
        // While the server stops, a connection just read may have more, which shows at once.
        let is_curious = self.hear_until.is_some() && self.has_read;
        let Io { web_ready, control_ready, to_flush, to_flush_large, leaving, .. } = &self.io;
        let lists = [web_ready, control_ready, to_flush, to_flush_large, leaving];
        let is_busy = is_curious || self.io.is_shrinking;
        let is_idle = lists.iter().all(|list| list.is_empty()) && !is_busy;
        let timeout = if is_idle {
            let timer = self.io.wheel.next_at().map(Millis);
            let accept = self.accept_due();
            let drain = (self.stops > 0).then_some(self.drain_until);
            let now = self.read_clock(&Stopwatch::start()).mono;
            let idle = self.idle_ms.map(|ms| now.plus(ms));
            let slow = self.io.overdue_at();
            let shrink = self.io.frames.shrink_at();
            let due =
                [timer, slow, handler.due(&self.io), accept, drain, self.hear_until, idle, shrink];
            let due = due.into_iter().flatten().min();
            due.map(|due| due.after(now))
        } else {
            Some(Duration::ZERO)
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != stdio::ErrorKind::Interrupted => Err(error),
            _ => Ok(timeout),
        }
    }

    /// Accepts connections from the listeners, within a budget and the room there is. A connection
    /// that is not accepted stays in the kernel's queue, and its listener's `is_ready` stays set.
    fn accept(&mut self, handler: &mut impl Handler) {
        let max = self.bounds.connections;
        if self.let_in() <= max - max / 10 {
            self.is_full_told = false;
        }
        if self.io.now.mono < self.accept_from() {
            return;
        }
        if !self.spares.is_full() {
            self.spares.refill();
        }
        for i in 0..self.doors.capacity() {
            let mut round = Round::start();
            for accepted in 0..self.accept_max(handler, i) {
                let Some(listener) = self.doors.get(i) else { break };
                if !listener.is_ready || (accepted > 0 && round.is_late()) {
                    break;
                }
                let (door, obstacle) = (listener.door, self.obstacle(listener.door));
                let refusal = listener.refusal.filter(|_| self.can_refuse(listener));
                if obstacle == Some(TurnedAway::Full) && door != Door::Admin {
                    self.tell_full();
                }
                if obstacle.is_some() && refusal.is_none() {
                    break;
                }
                let Some(listener) = self.doors.get_mut(i) else { break };
                match self.spares.accept(listener) {
                    Ok((stream, from)) => match obstacle.zip(refusal) {
                        Some((why, words)) => self.refuse(handler, stream, why, words),
                        None => self.welcome(handler, stream, (door, from)),
                    },
                    Err(error) => match error.kind() {
                        stdio::ErrorKind::WouldBlock => listener.is_ready = false,
                        // The peer gave up while it was in the queue.
                        stdio::ErrorKind::ConnectionAborted | stdio::ErrorKind::Interrupted => {}
                        _ => {
                            // Another listener may still be entitled to a spare descriptor.
                            self.starve(&error);
                            break;
                        }
                    },
                }
            }
        }
    }

    fn welcome(
        &mut self,
        handler: &mut impl Handler,
        stream: stream::Stream,
        (door, from): (Door, Address),
    ) {
        self.is_starved = false;
        self.make_place(handler, door);
        if door == Door::Web {
            self.admission.pass(self.io.now.mono);
        }
        let conn = self.io.insert(stream, door);
        let registry = self.poll.registry();
        let Some(peer) = self.io.peer(conn) else { return };
        if let Err(error) = peer.stream.register(registry, Token(conn.index())) {
            self.io.free(conn);
            self.starve(&error);
            return;
        }
        handler.opened(&mut self.io, conn, door, from);
    }

    /// Reads one connection once and passes the bytes to the handler.
    fn read(&mut self, handler: &mut impl Handler, conn: ConnId) {
        let Io { peers, pending_input, .. } = &mut self.io;
        let Some(peer) = peers.get_mut(conn) else { return };
        peer.set(flag::ON_READY | flag::NEW, false);
        if peer.is(flag::PAUSED) {
            return self.hang_up(handler, conn);
        }
        let tail = pending_input.take(peer);
        self.scratch[..tail.len()].copy_from_slice(&tail);
        let mut filled = tail.len();
        if peer.is(flag::READABLE) && !peer.is(flag::ENDED) && filled < self.scratch.len() {
            match peer.stream.read(&mut self.scratch[filled..]) {
                Ok(0) => {
                    peer.set(flag::ENDED, true);
                    peer.set(flag::READABLE, false);
                }
                Ok(count) => {
                    filled += count;
                    // A short read: the kernel has no more, and reports what arrives later. Only
                    // an end or urgent data that it has reported already is not reported again.
                    let is_cut = peer.is(flag::END_NEAR | flag::URGENT);
                    let has_more = filled == self.scratch.len() || is_cut;
                    peer.set(flag::READABLE, has_more);
                    if has_more {
                        self.io.mark_ready(conn);
                    }
                }
                Err(error) => match error.kind() {
                    stdio::ErrorKind::WouldBlock => peer.set(flag::READABLE | flag::URGENT, false),
                    stdio::ErrorKind::Interrupted => self.io.mark_ready(conn),
                    // Commands that arrived before the error may still have to be carried out.
                    _ if peer.door == Door::Control && filled > 0 => {
                        peer.set(flag::ENDED, true);
                        peer.set(flag::READABLE, false);
                    }
                    _ => return self.io.lose(conn, CloseReason::PeerLost),
                },
            }
        } else if peer.is(flag::READABLE) && !peer.is(flag::ENDED) {
            // The tail left no room in the buffer: nothing was read, so no event will follow.
            self.io.mark_ready(conn);
        }
        self.io.meters.received_bytes += (filled - tail.len()) as u64;
        self.handled_bytes += filled as u64;
        self.hand_over(handler, conn, filled);
    }

    /// Passes what has been read to the handler and keeps what it does not consume.
    fn hand_over(&mut self, handler: &mut impl Handler, conn: ConnId, filled: usize) {
        if filled > 0 {
            let input = &mut self.scratch[..filled];
            match handler.received(&mut self.io, conn, input) {
                Ok(used) => {
                    debug_assert!(used <= filled);
                    let Io { peers, pending_input, .. } = &mut self.io;
                    if let Some(peer) = peers.get_mut(conn).filter(|p| p.phase == Phase::Open) {
                        debug_assert!(filled - used < READ_BYTES || peer.is(flag::PAUSED));
                        pending_input.keep(peer, &self.scratch[used.min(filled)..filled]);
                        self.enforce_input_max(handler);
                    }
                }
                Err(reason) => return crate::edge::Net::close(&mut self.io, conn, reason),
            }
        }
        let Some(peer) = self.io.peer(conn) else { return };
        let is_at_end = peer.is(flag::ENDED) && !peer.is(flag::END_TOLD | flag::PAUSED);
        if peer.phase == Phase::Open && is_at_end && !peer.is(flag::ON_READY) {
            peer.set(flag::END_TOLD, true);
            handler.ended(&mut self.io, conn);
        }
        self.hang_up(handler, conn);
    }

    /// Discards what a closing peer still sends, one read per turn.
    fn discard(&mut self, conn: ConnId) {
        let Some(peer) = self.io.peer(conn) else { return };
        peer.set(flag::ON_READY, false);
        match peer.stream.read(&mut self.scratch) {
            Ok(count @ 1..) => {
                self.io.meters.received_bytes += count as u64;
                self.io.mark_ready(conn);
            }
            Err(error) if error.kind() == stdio::ErrorKind::WouldBlock => {}
            Ok(0) => {
                peer.set(flag::ENDED, true);
                if peer.phase == Phase::Lingering {
                    self.io.free(conn);
                }
            }
            Err(_) => self.io.lose(conn, CloseReason::PeerLost),
        }
    }

    /// Handles expired deadlines, a bounded number: the wheel keeps the rest for the next turn.
    fn expire(&mut self, handler: &mut impl Handler) {
        self.io.wheel.advance(self.io.now.mono.0);
        let mut round = Round::start();
        for seen_to in 0..EXPIRED_MAX {
            if seen_to > 0 && round.is_late() {
                return;
            }
            let Some((conn, phase)) = self.io.expired() else { return };
            match phase {
                Phase::Open => self.time_out(handler, conn),
                Phase::Flushing => self.io.abandon(conn),
                Phase::Lingering => self.io.free(conn),
            }
        }
    }

    /// Handles an expired deadline that the handler has set. Input that arrived in time may still
    /// be queued behind that of others: it is read first, and may be what was waited for.
    fn time_out(&mut self, handler: &mut impl Handler, conn: ConnId) {
        let Some(peer) = self.io.peer(conn) else { return };
        if peer.is(flag::READABLE | flag::ON_READY) && !peer.is(flag::PAUSED) {
            peer.set(flag::DEADLINE_PASSED, true);
            self.read(handler, conn);
            let Some(peer) = self.io.peer(conn) else { return };
            if peer.phase != Phase::Open || !peer.is(flag::DEADLINE_PASSED) {
                return;
            }
            peer.set(flag::DEADLINE_PASSED, false);
        }
        handler.timed_out(&mut self.io, conn);
    }

    /// Checks peers whose time to take their backlog is over, again a bounded number.
    fn cut_slow(&mut self, handler: &mut impl Handler) {
        let mut round = Round::start();
        for seen_to in 0..EXPIRED_MAX {
            if seen_to > 0 && round.is_late() {
                return;
            }
            let Some((conn, verdict)) = self.io.overdue() else { return };
            if let Some(reason) = verdict {
                handler.too_slow(&mut self.io, conn, reason);
            }
        }
    }

    /// Reports closed connections to the handler, including those that these calls close.
    fn report_closed(&mut self, handler: &mut impl Handler) {
        while !self.io.closed_unreported.is_empty() {
            for (conn, reason) in std::mem::take(&mut self.io.closed_unreported) {
                handler.closed(&mut self.io, conn, reason);
                if self.io.peer(conn).is_some_and(|peer| peer.is(flag::LOST)) {
                    self.io.free(conn);
                }
            }
        }
    }

    /// Writes to a connection. Returns false if it must wait behind others ([`Flushed::Much`]).
    fn flush(&mut self, handler: &mut impl Handler, conn: ConnId, most: usize) -> bool {
        match self.io.flush(conn, most) {
            Flushed::Quiet | Flushed::Blocked => {}
            Flushed::All => self.drained(handler, conn),
            Flushed::Much => return false,
            Flushed::More => self.io.queue_flush(conn),
            Flushed::Lost => self.lose_output(conn),
        }
        true
    }

    /// Handles a connection whose queue has been written completely.
    fn drained(&mut self, handler: &mut impl Handler, conn: ConnId) {
        let Some(peer) = self.io.peer(conn) else { return };
        match peer.phase {
            Phase::Open if peer.is(flag::BLOCKED | flag::PAUSED) => {
                peer.set(flag::BLOCKED, false);
                handler.drained(&mut self.io, conn);
            }
            Phase::Open => {}
            Phase::Flushing if peer.is(flag::ENDED) => self.io.free(conn),
            Phase::Flushing => {
                peer.stream.shutdown_write();
                peer.phase = Phase::Lingering;
                if !peer.is(flag::FAST_CLOSE) {
                    self.io.set_timer(conn, Some(self.io.now.mono.plus(self.io.linger_ms)));
                }
                self.io.mark_ready(conn);
            }
            Phase::Lingering => {}
        }
    }
}
