//! The reactor's side of the seam: all slots, the lists of what is to be done, and the [`Net`]
//! that a handler acts through. Nothing here calls the handler.

use std::io::IoSlice;

use mio::net::UnixStream;

use super::cork::{Cork, portion};
use super::listener::Listener;
use super::process::Files;
use super::refuse::{Haste, TURNED_AWAY_MS};
use super::stream::Stream;
use crate::arena::Arena;
use crate::edge::{Conn, ConnId, Door, Kept, Net};
use crate::frame::{Frame, FramePool, Kind, OutQueue};
use crate::metrics::{Meters, Process};
use crate::reason::CloseReason;
use crate::slow::{Rules, WatchId, Watches};
use crate::time::{Millis, Now};
use crate::wheel::{Timer, Wheel};

/// Frames given to the kernel in one write.
const SLICES_MAX: usize = 64;
/// Bytes given to the kernel in the midst of one turn, because much waits for somebody.
pub(super) const OFFER_ROUND_BYTES: u64 = 128 * 1024;
/// Random bytes fetched from the system at a time.
const RANDOM_BYTES: usize = 512;

/// What a signal asks the process for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// To stop.
    Stop,
    /// To read its configuration again.
    Reload,
}

/// Who sits in a slot.
#[derive(Debug)]
pub(super) enum Slot {
    Listener(Listener),
    /// A byte comes for each signal, and what it asks for.
    Signals(UnixStream, Signal),
    /// Other threads knock here when they have something for the handler.
    Waker,
    Peer(Peer),
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The handler knows it. Next: `Flushing`, or freed.
    Open,
    /// Closed for the handler; what is queued is still written. Next: `Lingering`, or freed.
    Flushing,
    /// All is written and the end told to the peer, whose own end is awaited: closing a socket
    /// with unread input would reset it, and the peer would lose our last words. Next: freed.
    Lingering,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub stream: Stream,
    door: Door,
    pub out: OutQueue,
    /// Input that the handler has not consumed; it stands in front of the next read.
    pub tail: Box<[u8]>,
    /// The handler's deadline while open, ours afterwards.
    timer: Option<Timer>,
    /// Its place among those who do not take what is published to them.
    watch: WatchId,
    pub phase: Phase,
    /// There may be something to read.
    pub is_readable: bool,
    /// The kernel would take more, as far as we know.
    pub is_writable: bool,
    /// The handler does not want to read.
    pub is_paused: bool,
    /// The kernel said that the last byte is there, somewhere behind what is still to be read.
    pub is_end_near: bool,
    /// The peer has sent its last byte.
    pub is_ended: bool,
    /// The handler has been told so.
    pub is_end_told: bool,
    /// The kernel refused some output since the queue was last empty.
    pub was_blocked: bool,
    /// It is on the ready list: it will be served again without an event.
    pub is_on_ready: bool,
    is_on_dirty: bool,
    pub haste: Haste,
    /// Too much was published to it: nothing more is.
    is_given_up: bool,
}

impl Peer {
    /// How much of its tail counts: back ends are few, and their own bounds hold them.
    pub fn tail_counts(&self) -> usize {
        if self.door == Door::Control { 0 } else { self.tail.len() }
    }
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All is written.
    All,
    /// The kernel will tell when it takes more.
    Blocked,
    /// There is more to write in the next turn.
    More,
    /// The peer is gone.
    Lost,
}

/// All slots and lists.
#[derive(Debug)]
pub(super) struct Io {
    pub slots: Arena<Slot, Conn>,
    pub frames: FramePool,
    pub now: Now,
    pub wheel: Wheel<ConnId>,
    /// Connections to be read or served again without a new event.
    pub ready: Vec<ConnId>,
    /// The same of back ends.
    pub first: Vec<ConnId>,
    /// Connections with output to be flushed at the end of this turn.
    pub dirty: Vec<ConnId>,
    /// Those of them for whom much waits.
    pub heavy: Vec<ConnId>,
    /// What several peers wait for alike.
    pub cork: Cork,
    /// Connections on their way out that may still say something.
    pub leaving: Vec<ConnId>,
    /// Bytes that the kernel had taken before this turn.
    pub sent_before: u64,
    /// Connections closed in this turn, for the handler to forget.
    pub doomed: Vec<(ConnId, CloseReason)>,
    /// How many of the connections were turned away and have not ended yet.
    pub turned_away: usize,
    /// From a close to the end of the connection, at most.
    pub close_ms: u64,
    /// From the last byte sent to the end of the connection, at most.
    pub linger_ms: u64,
    /// Who does not take what is published to them, and what may wait for a peer before the kernel
    /// is asked to take it in the midst of a turn.
    watches: Watches,
    random: Vec<u8>,
    /// What was counted; `Net::meters` adds what can be seen.
    pub meters: Meters,
    /// Connections of the admin door.
    admins: usize,
    /// Bytes of the tails that count.
    pub tails: usize,
    /// What the system says of the process.
    files: Files,
}

impl Io {
    pub fn new(now: Now, close_ms: u64, slow: Rules) -> Io {
        Io {
            slots: Arena::default(),
            frames: FramePool::new(slow.counted_max()),
            now,
            wheel: Wheel::new(now.mono.0),
            ready: Vec::new(),
            first: Vec::new(),
            dirty: Vec::new(),
            heavy: Vec::new(),
            cork: Cork::default(),
            leaving: Vec::new(),
            sent_before: 0,
            doomed: Vec::new(),
            turned_away: 0,
            close_ms,
            linger_ms: close_ms,
            watches: Watches::new(slow, now.mono),
            random: Vec::new(),
            meters: Meters::default(),
            admins: 0,
            tails: 0,
            files: Files::open(),
        }
    }

    /// From now on these rules hold. What counts of the backlogs is counted anew.
    pub fn set_rules(&mut self, rules: Rules) {
        self.frames.set_counted_max(rules.counted_max());
        for (_, slot) in self.slots.iter_mut() {
            if let Slot::Peer(peer) = slot {
                self.frames.recount(&mut peer.out);
            }
        }
        self.watches.set_rules(rules);
    }

    pub fn peer(&mut self, conn: ConnId) -> Option<&mut Peer> {
        match self.slots.get_mut(conn)? {
            Slot::Peer(peer) => Some(peer),
            Slot::Listener(_) | Slot::Signals(..) | Slot::Waker => None,
        }
    }

    /// The connection, if the handler still knows it.
    fn open(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.peer(conn).filter(|peer| peer.phase == Phase::Open)
    }

    pub fn insert(&mut self, stream: Stream, door: Door) -> ConnId {
        self.admins += usize::from(door == Door::Admin);
        self.slots.insert(Slot::Peer(Peer {
            stream,
            door,
            out: OutQueue::default(),
            tail: Box::default(),
            timer: None,
            watch: WatchId::NONE,
            phase: Phase::Open,
            is_readable: false,
            is_writable: true,
            is_paused: false,
            is_end_near: false,
            is_ended: false,
            is_end_told: false,
            was_blocked: false,
            is_on_ready: false,
            is_on_dirty: false,
            haste: Haste::None,
            is_given_up: false,
        }))
    }

    /// There is no room for this connection: it hears why, and ends within that time.
    pub fn turn_away(&mut self, conn: ConnId, words: Frame, ms: u64) {
        self.queue(conn, words, Kind::Asked);
        let Some(peer) = self.peer(conn) else { return };
        (peer.phase, peer.haste) = (Phase::Flushing, Haste::TurnedAway);
        self.turned_away += 1;
        self.set_timer(conn, Some(self.now.mono.plus(ms)));
        self.mark_ready(conn);
    }

    /// Frees the slot; the stream closes.
    pub fn free(&mut self, conn: ConnId) {
        let Some(Slot::Peer(mut peer)) = self.slots.remove(conn) else { return };
        self.admins -= usize::from(peer.door == Door::Admin);
        self.tails -= peer.tail_counts();
        self.frames.clear(&mut peer.out);
        self.watches.end(&mut peer.watch);
        self.turned_away -= usize::from(peer.haste == Haste::TurnedAway);
        if let Some(timer) = peer.timer {
            self.wheel.cancel(timer);
        }
    }

    /// Frees the slot of a peer that has not taken its last words in time. The kernel would keep
    /// what it has for it, for as long as it likes: whoever never reads must not hold that.
    pub fn abandon(&mut self, conn: ConnId) {
        if let Some(peer) = self.peer(conn) {
            peer.stream.abandon();
        }
        self.free(conn);
    }

    /// The peer is lost, or has ended in every direction: nothing more can be sent.
    pub fn lose(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(peer) = self.peer(conn) else { return };
        let was_open = peer.phase == Phase::Open;
        peer.phase = Phase::Lingering;
        peer.is_ended = true;
        let (mut out, mut watch) = (std::mem::take(&mut peer.out), peer.watch);
        peer.watch = WatchId::NONE;
        self.frames.clear(&mut out);
        self.watches.end(&mut watch);
        if was_open {
            self.doomed.push((conn, reason));
        } else {
            self.free(conn);
        }
    }

    pub fn mark_ready(&mut self, conn: ConnId) {
        if let Some(peer) = self.peer(conn)
            && !peer.is_on_ready
        {
            peer.is_on_ready = true;
            match peer.door {
                Door::Control => self.first.push(conn),
                Door::Web | Door::Admin => self.ready.push(conn),
            }
        }
    }

    pub fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(peer) = self.peer(conn)
            && !peer.is_on_dirty
        {
            peer.is_on_dirty = true;
            self.dirty.push(conn);
        }
    }

    /// Takes a connection off the ready list's books: whoever stops early puts it back.
    pub fn unmark_ready(&mut self, conn: ConnId) {
        if let Some(peer) = self.peer(conn) {
            peer.is_on_ready = false;
        }
    }

    /// Whether the handler knows a connection no more.
    pub fn is_leaving(&self, conn: ConnId) -> bool {
        matches!(self.slots.get(conn), Some(Slot::Peer(peer)) if peer.phase != Phase::Open)
    }

    /// Whether more than so much waits for a connection, and the kernel may take it.
    pub fn is_owed(&self, conn: ConnId, bytes: usize) -> bool {
        match self.slots.get(conn) {
            Some(Slot::Peer(peer)) => peer.is_writable && peer.out.bytes() > bytes,
            _ => false,
        }
    }

    /// Queues a frame for an open connection.
    fn queue(&mut self, conn: ConnId, frame: Frame, kind: Kind) {
        let Some(Slot::Peer(peer)) = self.slots.get_mut(conn) else { return };
        if peer.phase != Phase::Open {
            return;
        }
        self.frames.push(&mut peer.out, frame, kind);
        if !peer.is_on_dirty {
            peer.is_on_dirty = true;
            self.dirty.push(conn);
        }
    }

    /// Has the kernel take what it will in the midst of a turn. If that is all, the turn finds it
    /// out when it flushes.
    fn offer(&mut self, conn: ConnId) {
        let mut flushed = Flushed::More;
        while flushed == Flushed::More {
            flushed = self.write(conn);
        }
        match flushed {
            Flushed::Lost => self.lose(conn, CloseReason::PeerLost),
            Flushed::All => self.mark_dirty(conn),
            Flushed::Blocked | Flushed::More => {}
        }
    }

    /// One write for all that waits, unless the kernel has refused and not yet said otherwise.
    pub fn flush(&mut self, conn: ConnId) -> Flushed {
        let Some(Slot::Peer(peer)) = self.slots.get_mut(conn) else { return Flushed::Blocked };
        peer.is_on_dirty = false;
        if !peer.is_writable && !peer.out.is_empty() {
            return Flushed::Blocked;
        }
        self.write(conn)
    }

    fn write(&mut self, conn: ConnId) -> Flushed {
        let Some(Slot::Peer(peer)) = self.slots.get_mut(conn) else { return Flushed::Blocked };
        if peer.out.is_empty() {
            return Flushed::All;
        }
        let (offered, written) = match self.cork.join(&self.frames, &peer.out) {
            Some(joined) => (joined.len(), peer.stream.write(&[IoSlice::new(joined)])),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let filled = self.frames.slices(&peer.out, &mut slices);
                portion(&slices[..filled], |slices, bytes| (bytes, peer.stream.write(slices)))
            }
        };
        match written {
            Ok(0) => Flushed::Lost,
            Ok(sent) => {
                self.meters.sent_bytes += sent as u64;
                self.frames.sent(&mut peer.out, sent);
                peer.is_writable = sent == offered;
                peer.was_blocked |= sent < offered;
                self.watch(conn, true);
                match self.slots.get(conn) {
                    Some(Slot::Peer(peer)) if peer.out.is_empty() => Flushed::All,
                    _ if sent == offered => Flushed::More,
                    _ => Flushed::Blocked,
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                (peer.is_writable, peer.was_blocked) = (false, true);
                self.watch(conn, false);
                Flushed::Blocked
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Flushed::More,
            Err(_) => Flushed::Lost,
        }
    }

    /// Watches a peer that the kernel has refused something for, as long as publications wait.
    fn watch(&mut self, conn: ConnId, has_taken: bool) {
        let Some(Slot::Peer(peer)) = self.slots.get_mut(conn) else { return };
        if peer.phase == Phase::Open && (!peer.is_writable || !peer.watch.is_none()) {
            self.watches.note(&mut peer.watch, conn, &peer.out, has_taken, self.now.mono);
        }
    }

    /// Whether too much was published to it.
    fn is_lost(&mut self, conn: ConnId) -> bool {
        let (now, kept) = (self.now.mono, self.frames.ledger.weight());
        let watch = self.open(conn).map_or(WatchId::NONE, |peer| peer.watch);
        self.watches.is_lost(watch, kept, now)
    }

    /// The next peer that has not taken what was published to it for too long. It may take
    /// something now, of which the kernel has not told us: it does so only when there is much room.
    pub fn overdue(&mut self) -> Option<(ConnId, Option<CloseReason>)> {
        let conn = self.watches.next(self.now.mono)?;
        self.offer(conn);
        let watch = self.open(conn).map(|peer| peer.watch);
        let reason = watch.and_then(|watch| self.watches.judge(watch, self.now.mono));
        Some((conn, reason))
    }

    /// When [`Io::overdue`] is wanted at the latest.
    pub fn overdue_at(&self) -> Option<Millis> {
        self.watches.next_at()
    }

    /// Sets the timer of a connection in any phase.
    pub fn set_timer(&mut self, conn: ConnId, at: Option<Millis>) {
        let Some(Slot::Peer(peer)) = self.slots.get_mut(conn) else { return };
        if let Some(timer) = peer.timer.take() {
            self.wheel.cancel(timer);
        }
        peer.timer = at.map(|at| self.wheel.insert(at.0, conn));
    }

    /// The timer of a connection has come: it holds none any more.
    pub fn timer_came(&mut self, conn: ConnId) -> Option<Phase> {
        let peer = self.peer(conn)?;
        peer.timer = None;
        Some(peer.phase)
    }

    /// How many connections there are, in any phase, but for those of the admin door.
    pub fn connections(&self, others: usize) -> usize {
        self.slots.len() - others - self.admins
    }

    /// How many connections of the admin door there are, in any phase.
    pub fn admins(&self) -> usize {
        self.admins
    }
}

impl Net for Io {
    fn now(&self) -> Now {
        self.now
    }

    fn random(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.random.is_empty() {
                self.random.resize(RANDOM_BYTES, 0);
                // Without a random source no key could be made and no peer told from another:
                // there is nothing to go on with.
                getrandom::fill(&mut self.random).expect("the system has a random source");
            }
            *byte = self.random.pop().unwrap_or_default();
        }
    }

    fn send(&mut self, conn: ConnId, frame: Frame) {
        self.queue(conn, frame, Kind::Asked);
    }

    fn publish(&mut self, conn: ConnId, frame: Frame) -> bool {
        let max = self.watches.rules().backlog_bytes;
        let Some(peer) = self.open(conn).filter(|peer| !peer.is_given_up) else { return false };
        let is_due = peer.is_writable && peer.out.bytes() > max;
        if is_due && self.meters.sent_bytes - self.sent_before < OFFER_ROUND_BYTES {
            self.offer(conn);
        }
        self.queue(conn, frame, Kind::Published);
        self.watch(conn, false);
        if self.is_lost(conn) {
            // It may have taken something since the kernel refused; that report comes next turn.
            self.offer(conn);
        }
        let is_lost = self.is_lost(conn);
        if let Some(peer) = self.open(conn) {
            peer.is_given_up = is_lost;
        }
        is_lost
    }

    fn drop_published(&mut self, conn: ConnId) {
        let Some(Slot::Peer(peer)) = self.slots.get_mut(conn) else { return };
        self.frames.drop_published(&mut peer.out, |_| ());
        self.watches.end(&mut peer.watch);
    }

    fn keep(&mut self, frame: &Frame) {
        self.frames.ledger.add_aside(frame);
    }

    fn unkeep(&mut self, frame: &Frame) {
        self.frames.ledger.remove_aside(frame);
    }

    fn kept(&self) -> Kept {
        Kept { bytes: self.frames.ledger.weight(), aside: self.frames.ledger.aside() }
    }

    fn largest(&self, since: Millis) -> Option<(ConnId, usize)> {
        self.watches.largest(since)
    }

    fn queued(&self, conn: ConnId) -> usize {
        let Some(Slot::Peer(peer)) = self.slots.get(conn) else { return 0 };
        peer.out.weight()
    }

    fn taken(&self, conn: ConnId) -> u32 {
        let Some(Slot::Peer(peer)) = self.slots.get(conn) else { return 0 };
        peer.out.taken()
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(peer) = self.open(conn) else { return };
        peer.phase = Phase::Flushing;
        peer.is_paused = false;
        let mut watch = std::mem::replace(&mut peer.watch, WatchId::NONE);
        self.watches.end(&mut watch);
        drop(self.take_tail(conn));
        self.doomed.push((conn, reason));
        self.set_timer(conn, Some(self.now.mono.plus(self.close_ms)));
        self.mark_dirty(conn);
        // What the peer still sends is read and thrown away.
        self.mark_ready(conn);
    }

    fn expel(&mut self, conn: ConnId, reason: CloseReason) {
        if let Some(peer) = self.open(conn) {
            peer.haste = Haste::Expelled;
            self.close(conn, reason);
            self.set_timer(conn, Some(self.now.mono.plus(TURNED_AWAY_MS)));
        }
    }

    fn deadline(&mut self, conn: ConnId, at: Option<Millis>) {
        if self.open(conn).is_some() {
            self.set_timer(conn, at);
        }
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(peer) = self.open(conn) {
            peer.is_paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(peer) = self.open(conn) {
            peer.is_paused = false;
            self.mark_ready(conn);
        }
    }

    fn meters(&self) -> Meters {
        Meters {
            queued_bytes: self.frames.bytes(),
            queued_frames: self.frames.len(),
            input_bytes: self.tails,
            kept_bytes: self.kept().bytes,
            watched: self.watches.len(),
            ..self.meters.clone()
        }
    }

    fn process(&self) -> Process {
        self.files.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_stays_small() {
        assert!(size_of::<Peer>() <= 112, "{}", size_of::<Peer>());
        assert!(size_of::<Slot>() <= 120, "{}", size_of::<Slot>());
    }
}
