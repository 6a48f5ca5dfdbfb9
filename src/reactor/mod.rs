//! The reactor: one poll, one slab for doors and connections, one turn. It owns every socket, the
//! deadlines and the one read buffer; it has never heard of HTTP, channels or JSON. It calls a
//! [`Handler`]; only the server's start-up knows it.

mod cork;
#[cfg(feature = "bench")]
mod dial;
mod io;
mod listener;
mod process;
mod refuse;
mod rounds;
mod spare;
mod stop;
mod stream;
mod tails;
#[cfg(test)]
mod tests;

pub use io::Signal;
pub use listener::Listener;
pub use process::raise_descriptor_limit;

use std::io as stdio;
use std::io::Read;
use std::time::Duration;

use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::address::Address;
use crate::edge::{ConnId, Door, Handler, TurnedAway};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::slow::Rules;
use crate::time::{Clock, Millis, Stopwatch};
use io::{Flushed, Io, Phase, Slot};
use refuse::{Gate, Haste};
use spare::Spares;

/// Bytes read from one connection in one turn, and the size of the one read buffer.
const READ_BYTES: usize = 64 * 1024;
/// Connections accepted from one door in one turn.
const ACCEPT_MAX: usize = 32;
/// Between two log lines that say the same of the doors.
const REPEAT_MS: u64 = 10_000;
/// Deadlines that are seen to in one turn.
const EXPIRED_MAX: usize = 32;
/// Events taken from the kernel in one turn.
const EVENTS_MAX: usize = 256;

/// Bounds of a reactor.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections in all, those that are closing included.
    pub connections: usize,
    /// Connections let in through [`Door::Web`] in a second.
    pub admissions_per_second: usize,
    /// So many of them at once, after a time without.
    pub admissions_burst: usize,
    /// So many more through [`Door::Control`]: browsers must not lock the back ends out.
    pub control_reserve: usize,
    /// Connections through [`Door::Admin`], which count among no others.
    pub admin_connections: usize,
    /// From a close to the end of the connection, at most.
    pub close_ms: u64,
    /// From the first signal to stop to the end of [`Reactor::run`], at most.
    pub drain_ms: u64,
    /// When a peer does not take fast enough what is published to it.
    pub slow: Rules,
    /// Input of browsers that waits, in all.
    pub input_bytes: usize,
}

/// The event loop.
#[derive(Debug)]
pub struct Reactor {
    poll: Poll,
    events: Events,
    clock: Clock,
    io: Io,
    bounds: Bounds,
    /// Slots of the listening doors; none once the server drains.
    doors: Vec<ConnId>,
    /// Slots that are no connections.
    others: usize,
    scratch: Box<[u8]>,
    /// An empty list with an allocation, for the next turn's lists to take over.
    spare: Vec<ConnId>,
    /// No door is asked before this moment, unless there are fewer sockets than so many.
    accept_at: Millis,
    starved_sockets: usize,
    spares: Spares,
    is_starved: bool,
    is_full_told: bool,
    /// Neither is said again before these moments, however often it comes to that.
    starved_again_at: Millis,
    full_again_at: Millis,
    /// How fast browsers are let in.
    gate: Gate,
    /// Signals to stop that have come.
    stops: usize,
    /// A signal to reload has come, and nobody has asked for it yet.
    has_reload: bool,
    drain_until: Millis,
    /// The server stops, and until then at most what comes is still heard.
    hear_until: Option<Millis>,
    /// No turn waits for longer.
    idle_ms: Option<u64>,
    /// Bytes given to the handler, those that it has been given before included.
    heard_bytes: u64,
    /// Events that the kernel had for this turn, and whether anybody was to be read in it.
    reported: usize,
    has_read: bool,
}

impl Reactor {
    /// A reactor without doors.
    ///
    /// # Errors
    /// If the kernel grants no epoll instance.
    pub fn new(bounds: Bounds) -> stdio::Result<Reactor> {
        let clock = Clock::new();
        let now = clock.now();
        let mut spares = Spares::default();
        // First of all, so that their numbers are low: a limit that is lowered later spares them.
        spares.refill();
        Ok(Reactor {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            clock,
            io: Io::new(now, bounds.close_ms, bounds.slow),
            bounds,
            doors: Vec::new(),
            others: 0,
            scratch: vec![0; READ_BYTES].into(),
            spare: Vec::new(),
            accept_at: now.mono,
            starved_sockets: 0,
            spares,
            is_starved: false,
            is_full_told: false,
            starved_again_at: now.mono,
            full_again_at: now.mono,
            gate: Gate::new(&bounds),
            stops: 0,
            has_reload: false,
            drain_until: Millis(u64::MAX),
            hear_until: None,
            idle_ms: None,
            heard_bytes: 0,
            reported: 0,
            has_read: false,
        })
    }

    /// The time of the current turn.
    pub fn now(&self) -> crate::time::Now {
        self.io.now
    }

    /// Opens a door.
    ///
    /// # Errors
    /// If the kernel refuses to watch it.
    pub fn add_door(&mut self, listener: Listener) -> stdio::Result<()> {
        let id = self.io.slots.insert(Slot::Listener(listener));
        self.doors.push(id);
        self.others += 1;
        if let Some(Slot::Listener(listener)) = self.io.slots.get_mut(id) {
            listener.register(self.poll.registry(), Token(id.index()))?;
        }
        Ok(())
    }

    /// Takes a stream on which one byte arrives for each such signal.
    ///
    /// # Errors
    /// If the kernel refuses to watch it.
    pub fn add_signals(&mut self, stream: UnixStream, signal: Signal) -> stdio::Result<()> {
        let id = self.io.slots.insert(Slot::Signals(stream, signal));
        self.others += 1;
        match self.io.slots.get_mut(id) {
            Some(Slot::Signals(stream, _)) => {
                self.poll.registry().register(stream, Token(id.index()), Interest::READABLE)
            }
            _ => Ok(()),
        }
    }

    /// What another thread calls so that the loop turns once more, and the handler's `tick` with
    /// it.
    ///
    /// # Errors
    /// If the kernel grants no descriptor for it.
    pub fn waker(&mut self) -> stdio::Result<impl Fn() + Send + use<>> {
        let id = self.io.slots.insert(Slot::Waker);
        self.others += 1;
        let waker = Waker::new(self.poll.registry(), Token(id.index()))?;
        Ok(move || {
            // It fails only where the loop is gone.
            let _ = waker.wake();
        })
    }

    /// Lets no turn wait for longer than that, whatever there is to wait for.
    pub fn wake_every(&mut self, ms: u64) {
        self.idle_ms = Some(ms);
    }

    /// Whether the process has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stops > 0
    }

    /// Whether a signal to reload has come since this was asked the last time.
    pub fn take_reload(&mut self) -> bool {
        std::mem::take(&mut self.has_reload)
    }

    /// From now on these bounds hold. Whoever is here stays.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.io.set_rules(bounds.slow);
        self.gate.set_pace(&bounds);
        (self.io.close_ms, self.io.linger_ms) = (bounds.close_ms, bounds.close_ms);
    }

    /// From now on this is the bound of what comes through TCP doors ([`Listener::bound`]).
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn bound_doors(&self, limits: &Limits) -> stdio::Result<()> {
        for door in &self.doors {
            if let Some(Slot::Listener(listener)) = self.io.slots.get(*door) {
                listener.bound(limits)?;
            }
        }
        Ok(())
    }

    /// Turns until a signal to stop has come and all peers are gone, or the drain time is over, or
    /// a second signal has come.
    ///
    /// # Errors
    /// If polling fails, which it does only for reasons that no turn can mend.
    pub fn run(&mut self, handler: &mut impl Handler) -> stdio::Result<()> {
        while !self.is_done() {
            self.turn(handler)?;
        }
        Ok(())
    }

    /// Whether [`Reactor::run`] is over.
    pub fn is_done(&self) -> bool {
        let is_drained = self.stops > 0
            && self.hear_until.is_none()
            && (self.io.connections(self.others) == 0 || self.drain_until <= self.io.now.mono);
        self.stops > 1 || is_drained
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// As [`Reactor::run`].
    pub fn turn(&mut self, handler: &mut impl Handler) -> stdio::Result<()> {
        self.poll_events(handler)?;
        let watch = Stopwatch::start();
        self.io.now = self.clock.now();
        self.io.sent_before = self.io.meters.sent_bytes;
        self.read_events();
        self.accept(handler);
        handler.tick(&mut self.io);
        self.read_round(handler);
        self.expire(handler);
        self.cut_slow(handler);
        self.part(handler);
        handler.settle(&mut self.io);
        self.forget(handler);
        self.flush_round(handler);
        self.forget(handler);
        self.io.frames.shrink_when_empty();
        self.io.meters.sockets = self.io.connections(self.others);
        self.io.meters.turns.record(watch.elapsed_us());
        Ok(())
    }

    /// Waits for events, no longer than anybody can wait.
    fn poll_events(&mut self, handler: &mut impl Handler) -> stdio::Result<()> {
        let now = self.clock.now().mono;
        // Whoever was read while the server stops may have more, which shows at once.
        let is_curious = self.hear_until.is_some() && self.has_read;
        let Io { ready, first, dirty, heavy, leaving, .. } = &self.io;
        let lists = [ready, first, dirty, heavy, leaving];
        let is_idle = lists.iter().all(|list| list.is_empty()) && !is_curious;
        let timeout = if is_idle {
            let timer = self.io.wheel.next_at().map(Millis);
            let accept = self.accept_due();
            let drain = (self.stops > 0).then_some(self.drain_until);
            let idle = self.idle_ms.map(|ms| now.plus(ms));
            let slow = self.io.overdue_at();
            let due = [timer, slow, handler.due(), accept, drain, self.hear_until, idle];
            let due = due.into_iter().flatten().min();
            due.map(|due| due.after(now))
        } else {
            Some(Duration::ZERO)
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != stdio::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Notes what each event says. Slots are freed at the end of a turn only, so no event can
    /// meet another life of its slot.
    fn read_events(&mut self) {
        let mut stopped = 0;
        self.reported = self.events.iter().count();
        for event in &self.events {
            let Some(id) = self.io.slots.at(event.token().0) else { continue };
            match self.io.slots.get_mut(id) {
                Some(Slot::Listener(listener)) => listener.is_ready = true,
                Some(Slot::Signals(stream, signal)) => {
                    let (mut bytes, mut came) = ([0; 16], 0);
                    while let Ok(count @ 1..) = stream.read(&mut bytes) {
                        came += count;
                    }
                    match signal {
                        Signal::Stop => stopped += came,
                        Signal::Reload => self.has_reload |= came > 0,
                    }
                }
                Some(Slot::Peer(peer)) => {
                    let is_over = event.is_read_closed() || event.is_error();
                    peer.is_readable |= event.is_readable() || is_over;
                    peer.is_end_near |= is_over;
                    if event.is_writable() {
                        peer.is_writable = true;
                    }
                    let has_output = !peer.out.is_empty();
                    // What came before a reset is still heard: the read behind it finds the error.
                    let is_heard = peer.phase == Phase::Open && !peer.is_paused;
                    if event.is_error() && !is_heard {
                        self.io.lose(id, CloseReason::PeerLost);
                        continue;
                    }
                    if event.is_writable() && has_output {
                        self.io.mark_dirty(id);
                    }
                    if event.is_readable() || is_over {
                        self.io.mark_ready(id);
                    }
                }
                Some(Slot::Waker) | None => {}
            }
        }
        self.events.clear();
        if stopped > 0 {
            self.stop();
        }
    }

    /// Lets in whom the doors have, within a budget and the room there is. Who is not let in stays
    /// in the kernel's queue, and the door's `is_ready` stays set.
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
        for i in 0..self.doors.len() {
            for _ in 0..ACCEPT_MAX {
                let Some(Slot::Listener(listener)) = self.io.slots.get(self.doors[i]) else {
                    break;
                };
                if !listener.is_ready {
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
                let Some(Slot::Listener(listener)) = self.io.slots.get_mut(self.doors[i]) else {
                    break;
                };
                match self.spares.accept(listener) {
                    Ok((stream, from)) => match obstacle.zip(refusal) {
                        Some((why, words)) => self.refuse(handler, stream, why, words),
                        None => self.welcome(handler, stream, (door, from)),
                    },
                    Err(error) => match error.kind() {
                        stdio::ErrorKind::WouldBlock => listener.is_ready = false,
                        // The peer gave up while it waited.
                        stdio::ErrorKind::ConnectionAborted | stdio::ErrorKind::Interrupted => {}
                        _ => {
                            // Another door may still be one for which there is a spare.
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
        if door == Door::Web {
            self.gate.pass(self.io.now.mono);
        }
        let conn = self.io.insert(stream, door);
        let registry = self.poll.registry();
        let Some(Slot::Peer(peer)) = self.io.slots.get_mut(conn) else { return };
        if let Err(error) = peer.stream.register(registry, Token(conn.index())) {
            self.io.free(conn);
            self.starve(&error);
            return;
        }
        handler.opened(&mut self.io, conn, door, from);
    }

    /// Reads one connection once and hands the bytes over.
    fn read(&mut self, handler: &mut impl Handler, conn: ConnId) {
        self.io.unmark_ready(conn);
        let Some(peer) = self.io.peer(conn) else { return };
        if peer.is_paused {
            return self.hang_up(handler, conn);
        }
        let tail = self.io.take_tail(conn);
        let Some(peer) = self.io.peer(conn) else { return };
        self.scratch[..tail.len()].copy_from_slice(&tail);
        let mut filled = tail.len();
        if peer.is_readable && !peer.is_ended && filled < self.scratch.len() {
            match peer.stream.read(&mut self.scratch[filled..]) {
                Ok(0) => (peer.is_ended, peer.is_readable) = (true, false),
                Ok(count) => {
                    filled += count;
                    // Less than there was room for: the kernel has no more and will report what
                    // comes, which saves the read that would say `WouldBlock`. Only an end that
                    // it has reported already it will not report again.
                    peer.is_readable = filled == self.scratch.len() || peer.is_end_near;
                    if peer.is_readable {
                        self.io.mark_ready(conn);
                    }
                }
                Err(error) => match error.kind() {
                    stdio::ErrorKind::WouldBlock => peer.is_readable = false,
                    stdio::ErrorKind::Interrupted => self.io.mark_ready(conn),
                    _ => return self.io.lose(conn, CloseReason::PeerLost),
                },
            }
        } else if peer.is_readable && !peer.is_ended {
            // The tail left no room to read into: there was no read, so no event will follow.
            self.io.mark_ready(conn);
        }
        self.io.meters.received_bytes += (filled - tail.len()) as u64;
        self.heard_bytes += filled as u64;
        self.hand_over(handler, conn, filled);
    }

    /// Gives the handler what has been read, and keeps what it does not consume.
    fn hand_over(&mut self, handler: &mut impl Handler, conn: ConnId, filled: usize) {
        if filled > 0 {
            let input = &mut self.scratch[..filled];
            match handler.received(&mut self.io, conn, input) {
                Ok(used) => {
                    debug_assert!(used <= filled);
                    if let Some(peer) = self.io.peer(conn).filter(|p| p.phase == Phase::Open) {
                        debug_assert!(filled - used < READ_BYTES || peer.is_paused);
                        let tail = self.scratch[used.min(filled)..filled].into();
                        self.io.keep_tail(conn, tail);
                        self.relieve();
                    }
                }
                Err(reason) => return crate::edge::Net::close(&mut self.io, conn, reason),
            }
        }
        let Some(peer) = self.io.peer(conn) else { return };
        let is_at_end = peer.is_ended && !peer.is_end_told && !peer.is_paused;
        if peer.phase == Phase::Open && is_at_end && !peer.is_on_ready {
            peer.is_end_told = true;
            handler.ended(&mut self.io, conn);
        }
        self.hang_up(handler, conn);
    }

    /// Throws away what a closing peer still sends, one read a turn.
    fn discard(&mut self, conn: ConnId) {
        self.io.unmark_ready(conn);
        let Some(peer) = self.io.peer(conn) else { return };
        match peer.stream.read(&mut self.scratch) {
            Ok(count @ 1..) => {
                self.io.meters.received_bytes += count as u64;
                self.io.mark_ready(conn);
            }
            Err(error) if error.kind() == stdio::ErrorKind::WouldBlock => {}
            Ok(0) => {
                peer.is_ended = true;
                if peer.phase == Phase::Lingering {
                    self.io.free(conn);
                }
            }
            Err(_) => self.io.lose(conn, CloseReason::PeerLost),
        }
    }

    /// Deadlines that have passed, a bounded number: the wheel has the others for the next turn.
    fn expire(&mut self, handler: &mut impl Handler) {
        self.io.wheel.advance(self.io.now.mono.0);
        for _ in 0..EXPIRED_MAX {
            let Some((_, conn)) = self.io.wheel.pop_expired() else { return };
            match self.io.timer_came(conn) {
                Some(Phase::Open) => handler.timed_out(&mut self.io, conn),
                Some(Phase::Flushing) => self.io.abandon(conn),
                Some(Phase::Lingering) => self.io.free(conn),
                None => {}
            }
        }
    }

    /// Peers that were given time to take what waits for them, a bounded number as well.
    fn cut_slow(&mut self, handler: &mut impl Handler) {
        for _ in 0..EXPIRED_MAX {
            let Some((conn, verdict)) = self.io.overdue() else { return };
            if let Some(reason) = verdict {
                handler.too_slow(&mut self.io, conn, reason);
            }
        }
    }

    /// Tells the handler whom to forget, until there is nobody left to forget.
    fn forget(&mut self, handler: &mut impl Handler) {
        while !self.io.doomed.is_empty() {
            for (conn, reason) in std::mem::take(&mut self.io.doomed) {
                handler.closed(&mut self.io, conn, reason);
                let Some(peer) = self.io.peer(conn) else { continue };
                if peer.phase == Phase::Lingering {
                    // Lost before the handler knew: there is nothing to linger for.
                    self.io.free(conn);
                }
            }
        }
    }

    fn flush(&mut self, handler: &mut impl Handler, conn: ConnId) {
        match self.io.flush(conn) {
            Flushed::All => {}
            Flushed::Blocked => return,
            Flushed::More => return self.io.mark_dirty(conn),
            Flushed::Lost => return self.io.lose(conn, CloseReason::PeerLost),
        }
        let Some(peer) = self.io.peer(conn) else { return };
        match peer.phase {
            Phase::Open if peer.was_blocked || peer.is_paused => {
                peer.was_blocked = false;
                handler.drained(&mut self.io, conn);
            }
            Phase::Open => {}
            Phase::Flushing if peer.is_ended => self.io.free(conn),
            Phase::Flushing => {
                peer.stream.shutdown_write();
                peer.phase = Phase::Lingering;
                if peer.haste != Haste::None {
                    return self.io.mark_ready(conn);
                }
                self.io.set_timer(conn, Some(self.io.now.mono.plus(self.io.linger_ms)));
                self.io.mark_ready(conn);
            }
            Phase::Lingering => {}
        }
    }
}
