//! The fake network: both ends of every connection, in memory. It keeps the contracts of the real
//! reactor (lists of what is ready, dirty and doomed; pause and resume; tails; one deadline each)
//! and draws from the seed what the kernel and the peers do: short reads, short writes, peers that
//! do not read. What the handler is told of one connection is in `turns`; what a turn does, and in
//! which order, is the world's.

mod clock;
mod turns;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;

use super::Prng;
use super::tape::{Item, Tape};
use crate::address::Address;
use crate::edge::{ConnId, Net, Owed};
use crate::frame::{Frame, FramePool, Kind, OutQueue, QueueMemory};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::slow::{Rules, WatchId, Watches};
use crate::time::{Millis, Now};
use crate::wheel::{Timer, Wheel};

/// Maximum number of frames in one write to the kernel.
const SLICES_MAX: usize = 64;

/// The state of a connection, as in the reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The handler knows it.
    Open,
    /// Closed for the handler; queued frames are still being written.
    Flushing,
    /// Everything is written; waiting for the peer to close.
    Lingering,
}

/// The server's side of a connection.
#[derive(Debug)]
pub(super) struct Socket {
    /// The address of the peer.
    from: Address,
    pub phase: Phase,
    pub out: OutQueue,
    /// Input that the handler has not consumed yet.
    pub tail: Vec<u8>,
    timer: Option<Timer>,
    watch: WatchId,
    is_given_up: bool,
    pub is_paused: bool,
    pub is_readable: bool,
    is_writable: bool,
    pub is_end_near: bool,
    pub is_ended: bool,
    pub is_end_told: bool,
    pub was_blocked: bool,
    pub is_on_ready: bool,
    is_on_dirty: bool,
    /// Bytes in the kernel's receive buffer.
    pub inbound: VecDeque<u8>,
    /// The client's end of stream has arrived.
    pub has_inbound_end: bool,
    /// Something arrived since `events` last reported this socket.
    has_news: bool,
    /// The client reset the connection.
    is_reset: bool,
    /// Bytes in the kernel's send buffer, at most `room`.
    pub outbound: VecDeque<u8>,
    room: usize,
    /// The server has sent its last byte.
    pub has_outbound_end: bool,
    /// When the kernel last took bytes from the server.
    pub taken_at: Millis,
    /// Bytes read from the connection, and how many of them the handler consumed.
    pub delivered: u64,
    pub consumed: u64,
}

/// The result of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    All,
    Blocked,
    More,
}

/// All connections.
#[derive(Debug)]
pub(super) struct FakeNet {
    pub prng: Prng,
    pub now: Now,
    pub sockets: BTreeMap<ConnId, Socket>,
    next: u32,
    /// Free slots, reused so that stale ids are tested.
    free_slots: Vec<u32>,
    pub frames: FramePool,
    pub wheel: Wheel<ConnId>,
    pub ready: Vec<ConnId>,
    pub dirty: Vec<ConnId>,
    pub doomed: Vec<(ConnId, CloseReason)>,
    /// Longest time from a close to the end of the connection.
    pub close_ms: u64,
    /// Longest time from the last byte sent to the end of the connection.
    pub linger_ms: u64,
    /// Peers that do not take what is published to them.
    watches: Watches,
    /// Bytes still on the way to clients whose sockets are gone, and whether they are all that was
    /// queued.
    pub leftovers: BTreeMap<ConnId, (VecDeque<u8>, bool)>,
    tape: Tape,
}

impl FakeNet {
    pub fn new(prng: Prng, now: Now, limits: &Limits, tape: Tape) -> FakeNet {
        let (close_ms, slow) = (limits.close_ms as u64, Rules::new(limits));
        FakeNet {
            prng,
            now,
            sockets: BTreeMap::new(),
            next: 0,
            free_slots: Vec::new(),
            frames: FramePool::new(slow.counted_max()),
            wheel: Wheel::new(now.mono.0),
            ready: Vec::new(),
            dirty: Vec::new(),
            doomed: Vec::new(),
            close_ms,
            linger_ms: close_ms,
            watches: Watches::new(slow, now.mono),
            leftovers: BTreeMap::new(),
            tape,
        }
    }

    /// Applies new limits as the reactor does: slow peers are judged by them, and connections that
    /// close from now on get the new time.
    pub fn reload(&mut self, limits: &Limits) {
        let slow = Rules::new(limits);
        self.frames.set_counted_max(slow.counted_max());
        for conn in self.watches.set_rules(slow) {
            self.watch(conn, false);
        }
        (self.close_ms, self.linger_ms) = (limits.close_ms as u64, limits.close_ms as u64);
    }

    /// Opens a connection.
    pub fn insert(&mut self, from: Address) -> ConnId {
        let live = self.sockets.len() as u32;
        let slot = self.free_slots.pop().unwrap_or(live);
        let conn = ConnId::new(slot, self.next);
        self.next += 1;
        let room = 1 + self.prng.below(2000);
        self.sockets.insert(
            conn,
            Socket {
                from,
                phase: Phase::Open,
                out: OutQueue::default(),
                tail: Vec::new(),
                timer: None,
                watch: WatchId::NONE,
                is_given_up: false,
                is_paused: false,
                is_readable: false,
                is_writable: true,
                is_end_near: false,
                is_ended: false,
                is_end_told: false,
                was_blocked: false,
                is_on_ready: false,
                is_on_dirty: false,
                inbound: VecDeque::new(),
                has_inbound_end: false,
                has_news: false,
                is_reset: false,
                outbound: VecDeque::new(),
                room,
                has_outbound_end: false,
                taken_at: self.now.mono,
                delivered: 0,
                consumed: 0,
            },
        );
        conn
    }

    /// How many connections of one list are handled in this turn: sometimes only a few.
    pub fn round(&mut self) -> usize {
        if self.prng.one_in(4) { 1 + self.prng.below(3) } else { usize::MAX }
    }

    pub fn socket(&mut self, conn: ConnId) -> Option<&mut Socket> {
        self.sockets.get_mut(&conn)
    }

    fn open(&mut self, conn: ConnId) -> Option<&mut Socket> {
        self.socket(conn).filter(|socket| socket.phase == Phase::Open)
    }

    /// Delivers bytes of the client.
    pub fn arrive(&mut self, conn: ConnId, bytes: impl Iterator<Item = u8>) {
        let Some(socket) = self.socket(conn) else { return };
        socket.inbound.extend(bytes);
        socket.has_news = true;
    }

    /// Delivers the client's end of stream.
    pub fn arrive_end(&mut self, conn: ConnId) {
        let Some(socket) = self.socket(conn) else { return };
        (socket.has_inbound_end, socket.has_news) = (true, true);
    }

    /// The client resets the connection: unread bytes are lost.
    pub fn reset(&mut self, conn: ConnId) {
        let Some(socket) = self.socket(conn) else { return };
        socket.inbound.clear();
        (socket.is_reset, socket.has_news) = (true, true);
    }

    /// Reports edge-triggered events at the start of a turn. Returns connections that were reset.
    pub fn events(&mut self) -> Vec<ConnId> {
        let mut lost = Vec::new();
        let conns: Vec<ConnId> = self.sockets.keys().copied().collect();
        for conn in conns {
            let Some(socket) = self.sockets.get_mut(&conn) else { continue };
            let has_news = std::mem::take(&mut socket.has_news);
            if has_news && socket.is_reset {
                lost.push(conn);
                continue;
            }
            if !socket.is_writable && socket.outbound.len() < socket.room {
                socket.is_writable = true;
                self.tape.write(Item::Blocked { conn, is_blocked: false });
                if !socket.out.is_empty() {
                    self.mark_dirty(conn);
                }
            }
            if has_news && let Some(socket) = self.sockets.get_mut(&conn) {
                socket.is_readable = true;
                socket.is_end_near |= socket.has_inbound_end;
                self.mark_ready(conn);
            }
        }
        lost
    }

    /// Appends up to `room` bytes to `into`; `Some(0)` at the end, `None` if nothing is there.
    pub fn read(&mut self, conn: ConnId, into: &mut Vec<u8>, room: usize) -> Option<usize> {
        let socket = self.sockets.get_mut(&conn)?;
        if socket.inbound.is_empty() {
            return socket.has_inbound_end.then_some(0);
        }
        let count = room.min(socket.inbound.len());
        into.extend(socket.inbound.drain(..count));
        socket.delivered += count as u64;
        Some(count)
    }

    /// Returns unconsumed input followed by the bytes of one read, as the reactor does.
    fn read_once(&mut self, conn: ConnId) -> Vec<u8> {
        let Some(socket) = self.socket(conn) else { return Vec::new() };
        let mut input = std::mem::take(&mut socket.tail);
        if !socket.is_readable || socket.is_ended {
            return input;
        }
        // A small room stands for a read budget that is almost used up.
        let room = if self.prng.one_in(4) { 1 + self.prng.below(64) } else { 65_536 };
        let read = self.read(conn, &mut input, room);
        let Some(socket) = self.socket(conn) else { return input };
        match read {
            Some(0) => (socket.is_ended, socket.is_readable) = (true, false),
            Some(count) => {
                socket.is_readable = count == room || socket.is_end_near;
                if socket.is_readable {
                    self.mark_ready(conn);
                }
            }
            None => socket.is_readable = false,
        }
        input
    }

    /// Discards what a closing peer still sends.
    fn discard(&mut self, conn: ConnId) {
        match self.read(conn, &mut Vec::new(), 65_536) {
            Some(0) => {
                let Some(socket) = self.socket(conn) else { return };
                socket.is_ended = true;
                if socket.phase == Phase::Lingering {
                    self.free(conn);
                }
            }
            Some(_) => self.mark_ready(conn),
            None => {}
        }
    }

    /// Called when the queue is empty: moves a closed connection on to its end. Returns whether the
    /// handler of an open one must be told.
    pub fn has_drained(&mut self, conn: ConnId) -> bool {
        let linger_until = self.now.mono.plus(self.linger_ms);
        let Some(socket) = self.socket(conn) else { return false };
        match socket.phase {
            Phase::Open => std::mem::take(&mut socket.was_blocked) || socket.is_paused,
            Phase::Lingering => false,
            Phase::Flushing if socket.is_ended => {
                self.free(conn);
                false
            }
            Phase::Flushing => {
                socket.has_outbound_end = true;
                socket.phase = Phase::Lingering;
                self.set_timer(conn, Some(linger_until));
                self.mark_ready(conn);
                false
            }
        }
    }

    /// Removes the socket and frees its slot.
    pub fn free(&mut self, conn: ConnId) {
        let Some(mut socket) = self.sockets.remove(&conn) else { return };
        if !socket.is_reset {
            self.leftovers.insert(conn, (socket.outbound, socket.out.is_empty()));
        }
        self.tape.write(Item::Cleared { conn });
        self.frames.clear(&mut socket.out);
        self.watches.end(&mut socket.watch);
        if let Some(timer) = socket.timer {
            self.wheel.cancel(timer);
        }
        self.free_slots.push(conn.slot);
    }

    /// The peer is lost: nothing can be sent any more.
    pub fn lose(&mut self, conn: ConnId) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let was_open = socket.phase == Phase::Open;
        socket.phase = Phase::Lingering;
        socket.is_ended = true;
        let mut out = std::mem::take(&mut socket.out);
        self.frames.clear(&mut out);
        self.watches.end(&mut socket.watch);
        self.tape.write(Item::Cleared { conn });
        if was_open {
            self.doomed.push((conn, CloseReason::PeerLost));
        } else {
            self.free(conn);
        }
    }

    pub fn mark_ready(&mut self, conn: ConnId) {
        if let Some(socket) = self.sockets.get_mut(&conn)
            && !socket.is_on_ready
        {
            socket.is_on_ready = true;
            self.ready.push(conn);
        }
    }

    pub fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(socket) = self.sockets.get_mut(&conn)
            && !socket.is_on_dirty
        {
            socket.is_on_dirty = true;
            self.dirty.push(conn);
        }
    }

    /// Writes the queue once; the kernel takes as much as it likes.
    pub fn flush(&mut self, conn: ConnId) -> Flushed {
        let Some(socket) = self.sockets.get_mut(&conn) else { return Flushed::Blocked };
        socket.is_on_dirty = false;
        if !socket.is_writable && !socket.out.is_empty() {
            return Flushed::Blocked;
        }
        self.write(conn)
    }

    fn write(&mut self, conn: ConnId) -> Flushed {
        let Some(socket) = self.sockets.get_mut(&conn) else { return Flushed::Blocked };
        if socket.out.is_empty() {
            return Flushed::All;
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let filled = self.frames.slices(&socket.out, &mut slices);
        let offered: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
        let mut taken = offered.min(socket.room - socket.outbound.len());
        if taken > 1 && self.prng.one_in(8) {
            taken = 1 + self.prng.below(taken);
        }
        socket.outbound.extend(slices.iter().flat_map(|slice| slice.iter()).take(taken));
        self.frames.sent(&mut socket.out, taken);
        if taken > 0 {
            socket.taken_at = self.now.mono;
            self.tape.write(Item::Taken { conn, bytes: taken });
        }
        socket.is_writable = taken == offered;
        self.tape.write(Item::Blocked { conn, is_blocked: taken < offered });
        socket.was_blocked |= taken < offered;
        let is_empty = socket.out.is_empty();
        self.watch(conn, taken > 0);
        match taken == offered {
            true if is_empty => Flushed::All,
            true => Flushed::More,
            false => Flushed::Blocked,
        }
    }

    /// Lets the kernel take what it will in the middle of a turn.
    fn offer(&mut self, conn: ConnId) {
        let mut flushed = Flushed::More;
        while flushed == Flushed::More {
            flushed = self.write(conn);
        }
        if flushed == Flushed::All {
            self.mark_dirty(conn);
        }
    }
}

impl FakeNet {
    fn queue(&mut self, conn: ConnId, frame: Frame, kind: Kind) {
        let Some(socket) = self.open(conn) else { return };
        let mut out = std::mem::take(&mut socket.out);
        self.frames.push(&mut out, frame, kind);
        if let Some(socket) = self.open(conn) {
            socket.out = out;
        }
        self.mark_dirty(conn);
    }

    fn drop_waiting(&mut self, conn: ConnId, is_all: bool) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let mut dropped = Vec::new();
        self.frames.drop_waiting(&mut socket.out, is_all, |number| dropped.push(number));
        self.watches.end(&mut socket.watch);
        self.tape.write(Item::Dropped { conn, dropped, is_all });
    }
}

impl Net for FakeNet {
    fn now(&self) -> Now {
        self.now
    }

    fn address(&self, conn: ConnId) -> Option<Address> {
        let socket = self.sockets.get(&conn).filter(|socket| socket.phase == Phase::Open);
        socket.map(|socket| socket.from)
    }

    fn random(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = self.prng.next() as u8;
        }
    }

    fn send(&mut self, conn: ConnId, frame: Frame) {
        if self.open(conn).is_some() {
            self.queue(conn, frame.clone(), Kind::Asked);
            self.tape.write(Item::Sent { conn, frame, is_published: false });
            if self.sockets.get(&conn).is_some_and(|socket| !socket.watch.is_none()) {
                self.watch(conn, false);
            }
        }
    }

    fn publish(&mut self, conn: ConnId, frame: Frame) -> bool {
        let max = self.watches.rules().backlog_bytes;
        let Some(socket) = self.sockets.get(&conn) else { return false };
        if socket.phase != Phase::Open || socket.is_given_up {
            return false;
        }
        if socket.is_writable && self.frames.bytes_of(&socket.out) > max {
            self.offer(conn);
        }
        let before = self.waiting(conn);
        self.queue(conn, frame.clone(), Kind::Published);
        self.tape.write(Item::Sent { conn, frame, is_published: true });
        if !self.watches.is_same(before, self.waiting(conn)) {
            self.watch(conn, false);
        }
        if self.is_lost(conn) {
            self.offer(conn);
        }
        let is_lost = self.is_lost(conn);
        let Some(socket) = self.sockets.get_mut(&conn) else { return false };
        if socket.phase != Phase::Open {
            return false;
        }
        socket.is_given_up = is_lost;
        let bytes = self.frames.waiting(&socket.out).backlog;
        self.tape.write(Item::Backlog { conn, bytes, is_lost });
        is_lost
    }

    fn offer(&mut self, conn: ConnId) {
        self.offer(conn);
    }

    fn drop_published(&mut self, conn: ConnId) {
        self.drop_waiting(conn, false);
    }

    fn drop_all(&mut self, conn: ConnId) {
        self.drop_waiting(conn, true);
    }

    fn add_outside(&mut self, frame: &Frame, kind: Kind) {
        self.frames.ledger.add_outside(frame, kind);
    }

    fn remove_outside(&mut self, frame: &Frame, kind: Kind) {
        self.frames.ledger.remove_outside(frame, kind);
    }

    fn queue_memory(&self) -> QueueMemory {
        self.frames.ledger.memory()
    }

    fn owed(&self, each: &mut dyn FnMut(Owed)) {
        for (conn, socket) in &self.sockets {
            let is_open = socket.phase == Phase::Open;
            if is_open && socket.is_writable {
                continue;
            }
            let (bytes, taken) = (self.frames.owed(&socket.out), socket.out.taken());
            if bytes > 0 {
                each(Owed { conn: *conn, bytes, taken, is_open });
            }
        }
    }

    fn put_off(&mut self, conn: ConnId, is_waiting: bool) {
        self.tape.write(Item::PutOff { conn, is_waiting });
        if is_waiting {
            self.pause(conn);
        }
    }

    fn largest(&self, since: Millis) -> Option<(ConnId, usize)> {
        let largest = self.watches.largest(since, |conn| self.waiting(conn).published);
        let conn = largest.map(|(conn, _)| conn);
        self.tape.write(Item::Chosen { conn, since });
        largest
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.sockets.get(&conn).map_or(0, |socket| self.frames.waiting(&socket.out).weight())
    }

    fn taken(&self, conn: ConnId) -> u32 {
        self.sockets.get(&conn).map_or(0, |socket| socket.out.taken())
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let was_open = self.open(conn).is_some();
        self.tape.write(Item::Closing { conn, reason, was_open });
        let Some(socket) = self.open(conn) else { return };
        socket.phase = Phase::Flushing;
        socket.is_paused = false;
        socket.tail = Vec::new();
        let mut watch = std::mem::replace(&mut socket.watch, WatchId::NONE);
        self.watches.end(&mut watch);
        self.doomed.push((conn, reason));
        self.set_timer(conn, Some(self.now.mono.plus(self.close_ms)));
        self.mark_dirty(conn);
        self.mark_ready(conn);
    }

    fn deadline(&mut self, conn: ConnId, at: Option<Millis>) {
        if self.open(conn).is_some() {
            self.set_timer(conn, at);
        }
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(socket) = self.open(conn) {
            socket.is_paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(socket) = self.open(conn) {
            socket.is_paused = false;
            self.mark_ready(conn);
        }
    }
}
