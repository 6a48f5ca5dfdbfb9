//! The reactor's side of the seam: all connections, the work lists, and the [`Net`] through which
//! the handler acts. Nothing here calls the handler.

mod slow_peers;

use std::collections::VecDeque;
use std::io::{self as stdio, IoSlice};

use super::closing_queue::ClosingQueue;
use super::frame_joiner::{FrameJoiner, portion};
use super::peer::{Peer, Phase, flag};
use super::pending_input::PendingInput;
use super::process::Files;
use super::refuse::TURNED_AWAY_MS;
use super::rounds::SMALL_BYTES;
use super::slots::Slots;
use super::stream::Stream;
use crate::address::Address;
use crate::arena::NIL;
use crate::edge::{ConnId, Door, Net, Owed};
use crate::frame::{Frame, FramePool, Kind, QueueMemory};
use crate::metrics::{Meters, Process};
use crate::reason::CloseReason;
use crate::slow::{Rules, Watches};
use crate::time::{Millis, Now};
use crate::wheel::Wheel;

/// Frames passed to the kernel in one write.
const SLICES_MAX: usize = 64;
/// Bytes written in the middle of one turn, outside its rounds, because a peer has much queued.
pub(super) const OFFER_ROUND_BYTES: u64 = 128 * 1024;
/// Entries that each list keeps room for, however few it has.
pub(super) const LIST_KEPT: usize = 2048;
/// Random bytes fetched from the system at a time.
const RANDOM_BYTES: usize = 512;

/// Result of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Everything is written, and nothing waits for that.
    Quiet,
    /// Everything is written.
    All,
    /// Much is queued, or the connection is closing: others come first. Nothing is written.
    Much,
    /// The kernel takes no more, and will report when it does.
    Blocked,
    /// More is to be written in the next turn.
    More,
    /// The connection is lost.
    Lost,
}

/// All connections and work lists.
#[derive(Debug)]
pub(super) struct Io {
    pub peers: Slots,
    pub frames: FramePool,
    pub now: Now,
    /// Deadlines, each with the slot of its connection, which cancels it before the slot is freed.
    pub wheel: Wheel<u32>,
    /// Connections of browsers to be read or served again without a new event.
    pub web_ready: VecDeque<ConnId>,
    /// The same for back ends and admin clients.
    pub control_ready: VecDeque<ConnId>,
    /// Connections with output to be flushed in this turn.
    pub to_flush: VecDeque<ConnId>,
    /// Those of them that have much queued, or are closing.
    pub to_flush_large: VecDeque<ConnId>,
    /// Frames joined for several peers that have the same ones queued.
    pub joiner: FrameJoiner,
    /// Closing connections whose input is still to be read and discarded.
    pub leaving: VecDeque<ConnId>,
    /// Bytes of this turn that the kernel took when they were offered in the midst of it.
    pub offered: u64,
    /// Connections closed in this turn, for the handler to forget.
    pub closed_unreported: Vec<(ConnId, CloseReason)>,
    /// Closing connections that have not ended yet.
    pub closing: ClosingQueue,
    /// Connections that were turned away and have not ended yet, oldest first.
    pub turned_away: Vec<ConnId>,
    /// Maximum time from a close to the end of the connection.
    pub close_ms: u64,
    /// Maximum time from the last byte sent to the end of the connection.
    pub linger_ms: u64,
    /// Tracks the peers that do not take what is published to them. Its rules also bound what may
    /// be queued for a peer before it is offered to the kernel in the middle of a turn.
    watches: Watches,
    random: Vec<u8>,
    /// Counters; [`Net::meters`] adds what can be read elsewhere.
    pub meters: Meters,
    /// Number of connections of the admin listener, and of the control listeners, in any phase.
    admins: usize,
    pub back_ends: usize,
    /// Input that the handler has not consumed.
    pub pending_input: PendingInput,
    /// There is more memory to give back.
    pub is_shrinking: bool,
    /// Files in which the system reports on this process.
    files: Files,
}

impl Io {
    pub fn new(now: Now, close_ms: u64, slow: Rules) -> Io {
        Io {
            peers: Slots::default(),
            frames: FramePool::new(slow.counted_max()),
            now,
            wheel: Wheel::new(now.mono.0),
            web_ready: VecDeque::new(),
            control_ready: VecDeque::new(),
            to_flush: VecDeque::new(),
            to_flush_large: VecDeque::new(),
            joiner: FrameJoiner::default(),
            leaving: VecDeque::new(),
            offered: 0,
            closed_unreported: Vec::new(),
            closing: ClosingQueue::default(),
            turned_away: Vec::new(),
            close_ms,
            linger_ms: close_ms,
            watches: Watches::new(slow, now.mono),
            random: Vec::new(),
            meters: Meters::default(),
            admins: 0,
            back_ends: 0,
            pending_input: PendingInput::default(),
            is_shrinking: false,
            files: Files::open(),
        }
    }

    pub fn peer(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.peers.get_mut(conn)
    }

    /// Returns the connection if the handler still knows it.
    fn open(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.peer(conn).filter(|peer| peer.phase == Phase::Open)
    }

    pub fn insert(&mut self, stream: Stream, door: Door) -> ConnId {
        self.admins += usize::from(door == Door::Admin);
        self.back_ends += usize::from(door == Door::Control);
        self.peers.insert(Peer::new(stream, door))
    }

    /// Frees the slot, which closes the stream.
    pub fn free(&mut self, conn: ConnId) {
        self.set_timer(conn, None);
        let Some(mut peer) = self.peers.remove(conn) else { return };
        self.admins -= usize::from(peer.door == Door::Admin);
        self.back_ends -= usize::from(peer.door == Door::Control);
        self.pending_input.forget(&mut peer);
        self.frames.clear(&mut peer.out);
        self.watches.end(&mut peer.watch);
        self.turned_away.retain(|other| *other != conn);
        self.dequeue_closing(&peer);
    }

    /// Ends a connection that is lost, or over in both directions: nothing more can be sent.
    pub fn lose(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        let was_open = peer.phase == Phase::Open;
        peer.phase = Phase::Lingering;
        peer.set(flag::ENDED | flag::LOST, true);
        self.frames.clear(&mut peer.out);
        self.watches.end(&mut peer.watch);
        if was_open {
            self.closed_unreported.push((conn, reason));
        } else {
            self.free(conn);
        }
    }

    pub fn mark_ready(&mut self, conn: ConnId) {
        if let Some(peer) = self.peers.get_mut(conn)
            && !peer.is(flag::ON_READY)
        {
            peer.set(flag::ON_READY, true);
            match peer.door {
                Door::Control | Door::Admin => self.control_ready.push_back(conn),
                Door::Web => self.web_ready.push_back(conn),
            }
        }
    }

    pub fn queue_flush(&mut self, conn: ConnId) {
        if let Some(peer) = self.peers.get_mut(conn)
            && !peer.is(flag::ON_DIRTY)
        {
            peer.set(flag::ON_DIRTY, true);
            self.to_flush.push_back(conn);
        }
    }

    /// Returns whether the connection is closing: the handler no longer knows it.
    pub fn is_leaving(&self, conn: ConnId) -> bool {
        self.peers.get(conn).is_some_and(|peer| peer.phase != Phase::Open)
    }

    /// Queues a frame for an open connection.
    fn queue(&mut self, conn: ConnId, frame: Frame, kind: Kind) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        if peer.phase != Phase::Open {
            return;
        }
        self.frames.push(&mut peer.out, frame, kind);
        // A peer for which the kernel has refused output is written to when the kernel reports
        // room: a thousand of those must not stand in front of peers that take what they get.
        if peer.is(flag::WRITABLE) && !peer.is(flag::ON_DIRTY) {
            peer.set(flag::ON_DIRTY, true);
            self.to_flush.push_back(conn);
        }
    }

    /// Writes in the middle of a turn as much as the kernel takes. If that is everything, the flush
    /// of this turn notices it.
    fn offer(&mut self, conn: ConnId) {
        let (mut flushed, before) = (Flushed::More, self.meters.sent_bytes);
        while flushed == Flushed::More {
            flushed = self.write(conn);
        }
        self.offered += self.meters.sent_bytes - before;
        match flushed {
            Flushed::Lost => self.lose(conn, CloseReason::PeerLost),
            Flushed::All => self.queue_flush(conn),
            Flushed::Quiet | Flushed::Much | Flushed::Blocked | Flushed::More => {}
        }
    }

    /// Writes what is queued, in one write; not after a refusal until the kernel reports room, nor
    /// above `most` queued bytes, nor to a closing connection unless `most` is `usize::MAX`.
    #[inline]
    pub fn flush(&mut self, conn: ConnId, most: usize) -> Flushed {
        let Some(peer) = self.peers.get_mut(conn) else { return Flushed::Blocked };
        let is_here = peer.phase == Phase::Open;
        let is_quick = |frame: &&Frame| is_here && frame.len() <= most.min(SMALL_BYTES);
        let Some(frame) = self.frames.only(&peer.out).filter(is_quick) else {
            return self.flush_list(conn, most);
        };
        if !peer.is(flag::WRITABLE) {
            peer.set(flag::ON_DIRTY, false);
            return Flushed::Blocked;
        }
        // The usual case: a single frame, which the kernel takes whole.
        let (offered, written) = (frame.len(), peer.stream.write(frame));
        let is_taken = written.as_ref().is_ok_and(|sent| *sent == offered);
        peer.set(flag::ON_DIRTY, false);
        if !is_taken || !peer.watch.is_none() {
            return self.written(conn, offered, written);
        }
        self.meters.sent_bytes += offered as u64;
        self.frames.sent(&mut peer.out, offered);
        let is_awaited = peer.phase != Phase::Open || peer.is(flag::BLOCKED | flag::PAUSED);
        if is_awaited { Flushed::All } else { Flushed::Quiet }
    }

    /// As [`Io::flush`], if what is queued is not one small frame of an open connection.
    fn flush_list(&mut self, conn: ConnId, most: usize) -> Flushed {
        let Some(peer) = self.peers.get_mut(conn) else { return Flushed::Blocked };
        let is_much = peer.is(flag::WRITABLE) && self.frames.bytes_of(&peer.out) > most;
        if is_much || (peer.phase != Phase::Open && most < usize::MAX) {
            return Flushed::Much;
        }
        peer.set(flag::ON_DIRTY, false);
        if !peer.is(flag::WRITABLE) && !peer.out.is_empty() {
            return Flushed::Blocked;
        }
        self.write(conn)
    }

    fn write(&mut self, conn: ConnId) -> Flushed {
        let Some(peer) = self.peers.get_mut(conn) else { return Flushed::Blocked };
        if peer.out.is_empty() {
            return Flushed::All;
        }
        let (offered, written) = match self.joiner.join(&self.frames, &peer.out) {
            Some(bytes) => (bytes.len(), peer.stream.write(bytes)),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let filled = self.frames.slices(&peer.out, &mut slices);
                portion(&slices[..filled], |some, bytes| (bytes, peer.stream.write_many(some)))
            }
        };
        self.written(conn, offered, written)
    }

    /// Records the result of a write.
    fn written(&mut self, conn: ConnId, offered: usize, written: stdio::Result<usize>) -> Flushed {
        let Some(peer) = self.peers.get_mut(conn) else { return Flushed::Blocked };
        match written {
            Ok(0) => Flushed::Lost,
            Ok(sent) => {
                self.meters.sent_bytes += sent as u64;
                self.frames.sent(&mut peer.out, sent);
                let is_empty = peer.out.is_empty();
                peer.set(flag::WRITABLE, sent == offered);
                if sent < offered {
                    peer.set(flag::BLOCKED, true);
                }
                self.watch(conn, true);
                match is_empty {
                    true => Flushed::All,
                    false if sent == offered => Flushed::More,
                    false => Flushed::Blocked,
                }
            }
            Err(error) if error.kind() == stdio::ErrorKind::WouldBlock => {
                peer.set(flag::WRITABLE, false);
                peer.set(flag::BLOCKED, true);
                self.watch(conn, false);
                Flushed::Blocked
            }
            Err(error) if error.kind() == stdio::ErrorKind::Interrupted => Flushed::More,
            Err(_) => Flushed::Lost,
        }
    }

    /// Sets the timer of a connection in any phase.
    pub fn set_timer(&mut self, conn: ConnId, at: Option<Millis>) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        if let Some(timer) = self.wheel.timer_in(peer.timer) {
            self.wheel.cancel(timer);
        }
        peer.timer = at.map_or(NIL, |at| self.wheel.insert(at.0, conn.slot).place());
    }

    /// Returns the next connection whose timer has expired; it has none any more.
    pub fn expired(&mut self) -> Option<(ConnId, Phase)> {
        let (_, slot) = self.wheel.pop_expired()?;
        let conn = self.peers.at(slot as usize)?;
        let peer = self.peers.get_mut(conn)?;
        peer.timer = NIL;
        Some((conn, peer.phase))
    }

    /// Gives back memory that a past crowd has used; of tables a part per call.
    pub fn shrink(&mut self) {
        self.frames.shrink(self.now.mono);
        let Io { peers, wheel, pending_input, watches, .. } = self;
        self.is_shrinking = peers.trim() | wheel.trim() | pending_input.trim() | watches.trim();
        let Io { web_ready, control_ready, to_flush, to_flush_large, leaving, peers, .. } = self;
        // By the number of connections: while a crowd stays, a list fills again in the next turn.
        let crowd = peers.len();
        for list in [web_ready, control_ready, to_flush, to_flush_large, leaving] {
            let needed = list.len().max(crowd);
            if needed == 0 && list.capacity() >= LIST_KEPT {
                *list = VecDeque::new();
            } else if list.capacity() > LIST_KEPT && needed <= list.capacity() / 8 {
                list.shrink_to(2 * needed);
            }
        }
    }

    /// Returns the number of connections in any phase, without those of the admin listener.
    pub fn connections(&self) -> usize {
        self.peers.len() - self.admins
    }

    /// Returns the number of connections of the admin listener, in any phase.
    pub fn admins(&self) -> usize {
        self.admins
    }
}

impl Net for Io {
    fn now(&self) -> Now {
        self.now
    }

    fn address(&self, conn: ConnId) -> Option<Address> {
        self.peers.get(conn).filter(|peer| peer.phase == Phase::Open)?.stream.peer_address()
    }

    fn random(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.random.is_empty() {
                self.random.resize(RANDOM_BYTES, 0);
                // Without a random source no key can be made and no peer told from another: the
                // server cannot go on.
                getrandom::fill(&mut self.random).expect("the system has a random source");
            }
            *byte = self.random.pop().unwrap_or_default();
        }
    }

    fn send(&mut self, conn: ConnId, frame: Frame) {
        self.queue(conn, frame, Kind::Asked);
        if self.peers.get(conn).is_some_and(|peer| !peer.watch.is_none()) {
            self.watch(conn, false);
        }
    }

    #[inline]
    fn publish(&mut self, conn: ConnId, frame: Frame) -> bool {
        let Some(peer) = self.peers.get_mut(conn) else { return false };
        let is_little = peer.out.is_empty()
            || self.frames.bytes_of(&peer.out) <= self.watches.rules().backlog_bytes;
        if !peer.takes_all() || !is_little {
            return self.publish_with_care(conn, frame);
        }
        self.frames.push(&mut peer.out, frame, Kind::Published);
        if !peer.is(flag::ON_DIRTY) {
            peer.set(flag::ON_DIRTY, true);
            self.to_flush.push_back(conn);
        }
        false
    }

    fn offer(&mut self, conn: ConnId) {
        self.offer(conn);
    }

    fn drop_published(&mut self, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        self.frames.drop_waiting(&mut peer.out, false, |_| ());
        self.watches.end(&mut peer.watch);
    }

    fn drop_all(&mut self, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        self.frames.drop_waiting(&mut peer.out, true, |_| ());
        self.watches.end(&mut peer.watch);
        peer.set(flag::FAST_CLOSE, true);
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
        for (conn, peer) in self.peers.iter().filter(|(_, peer)| !peer.out.is_empty()) {
            let is_open = peer.phase == Phase::Open;
            if is_open && peer.is(flag::WRITABLE) {
                continue;
            }
            let (bytes, taken) = (self.frames.owed(&peer.out), peer.out.taken());
            if bytes > 0 {
                each(Owed { conn, bytes, taken, is_open });
            }
        }
    }

    fn largest(&self, since: Millis) -> Option<(ConnId, usize)> {
        self.watches.largest(since, |conn| self.waiting(conn).published)
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.waiting(conn).weight()
    }

    fn taken(&self, conn: ConnId) -> u32 {
        self.peers.get(conn).map_or(0, |peer| peer.out.taken())
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        if peer.phase != Phase::Open {
            return;
        }
        peer.phase = Phase::Flushing;
        peer.set(flag::PAUSED, false);
        self.watches.end(&mut peer.watch);
        self.pending_input.forget(peer);
        let ms = if peer.is(flag::FAST_CLOSE) { TURNED_AWAY_MS } else { self.close_ms };
        self.closed_unreported.push((conn, reason));
        self.enqueue_closing(conn);
        self.set_timer(conn, Some(self.now.mono.plus(ms)));
        self.queue_flush(conn);
        // What the peer still sends is read and discarded.
        self.mark_ready(conn);
    }

    fn expel(&mut self, conn: ConnId, reason: CloseReason) {
        if let Some(peer) = self.open(conn) {
            peer.set(flag::FAST_CLOSE, true);
            if peer.out.is_empty() {
                // No last words could be lost, so the peer's own end is not awaited.
                peer.set(flag::ENDED, true);
            }
            self.close(conn, reason);
        }
    }

    fn deadline(&mut self, conn: ConnId, at: Option<Millis>) {
        if let Some(peer) = self.open(conn) {
            peer.set(flag::DEADLINE_PASSED, false);
            self.set_timer(conn, at);
        }
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(peer) = self.open(conn) {
            peer.set(flag::PAUSED, true);
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(peer) = self.open(conn) {
            peer.set(flag::PAUSED, false);
            self.mark_ready(conn);
        }
    }

    fn note_input_bytes(&mut self, conn: ConnId, bytes: usize) {
        if let Some(peer) = self.peers.get_mut(conn).filter(|peer| peer.phase == Phase::Open) {
            self.pending_input.set_handler_bytes(peer, bytes);
        }
    }

    fn meters(&self) -> Meters {
        Meters {
            queued_bytes: self.frames.bytes(),
            queued_frames: self.frames.len(),
            input_bytes: self.pending_input.bytes,
            kept_bytes: self.queue_memory().bytes,
            answers_bytes: self.queue_memory().answers,
            watched: self.watches.len(),
            ..self.meters.clone()
        }
    }

    fn process(&self) -> Process {
        self.files.read()
    }
}
