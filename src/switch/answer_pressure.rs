//! What happens when queued answers, for browsers and back ends, take too much memory: requests for
//! large answers wait for room, and connections that take nothing are closed, the largest queue
//! first. A client that takes its answers, at whatever pace, gets them, unless room is still
//! missing after `PATIENCE_MS`. Called by the switch at the end of each turn, and where back ends
//! ask.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Switch;
use super::command::Command;
use super::connections::Connections;
use super::control::Controller;
use super::replies::WORK_BYTES;
use crate::edge::{ConnId, Net, Owed};
use crate::hub::{NsId, StateKeyRef};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Millis;

/// Interval between two scans: a connection that took nothing in between may be closed.
const IDLE_MS: u64 = 1000;
/// If there is still no room after this time, each scan may close the slowest connection though it
/// takes something: else a few that take a byte now and then could block all others for ever.
const PATIENCE_MS: u64 = 60_000;
/// Connections closed in one turn.
const CUTS_PER_TURN: usize = 4;
/// Size of one connection in the answer to `channelInfo`, without the name of its user.
const LISTED_BYTES: usize = 48;
/// Room for answers that wait for the disk: one part in so many of the limit, in addition to it.
const OWED_PART: usize = 8;
/// Room under pressure for namespaces that are owed little: one part in so many of the limit,
/// beyond what was queued at its start (at most the limit, one answer, and what had just become
/// durable).
const SHARES_PART: usize = 4;
/// Interval between two counts of what each namespace is owed.
const COUNT_MS: u64 = 100;

/// The state while queued answers take too much memory.
#[derive(Debug)]
pub(super) struct AnswerPressure {
    since: Millis,
    /// When to scan again.
    look_at: Millis,
    /// Connections with queued answers at the last scan: bytes taken when first seen, and then.
    seen: BTreeMap<ConnId, (u32, u32)>,
    /// Connections to close, the largest queue last, with the bytes that each had taken.
    chosen: Vec<Owed>,
    /// Bytes queued for connections that are being closed.
    going: usize,
    /// Bytes queued when the pressure began.
    before: usize,
    /// What each namespace's back ends are owed: the queues at the last count, and what was granted
    /// since. `None` before the first count.
    shares: Option<BTreeMap<NsId, usize>>,
    count_at: Millis,
}

/// What is known of an answer before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prospect {
    /// It may be made now.
    Free,
    /// It may be made now, but has to wait for the disk; its size in bytes.
    Durable(usize),
    /// It would have to wait for the disk, and there is no room: the request waits.
    Disk,
    /// It could be sent, but there is no room for its size in bytes.
    Room(usize),
}

/// A request of a back end that waits for room for its answer, or until nothing more is owed.
#[derive(Debug)]
pub(super) enum DeferredRequest {
    State { channel: String, user: Option<String> },
    List { channel: String },
}

impl DeferredRequest {
    fn of(command: &Command<'_>) -> Option<DeferredRequest> {
        match command {
            Command::Get { channel, user } => Some(DeferredRequest::State {
                channel: channel.to_string(),
                user: user.as_ref().map(Cow::to_string),
            }),
            Command::Info { channel } => {
                Some(DeferredRequest::List { channel: channel.to_string() })
            }
            _ => None,
        }
    }

    fn command(&self) -> Command<'_> {
        match self {
            DeferredRequest::State { channel, user } => Command::Get {
                channel: channel.as_str().into(),
                user: user.as_deref().map(Cow::Borrowed),
            },
            DeferredRequest::List { channel } => Command::Info { channel: channel.as_str().into() },
        }
    }
}

/// Whether there is room for such a short answer all the same. Short answers have an eighth of the
/// limit beyond it and beyond the share of namespaces that are owed little, so that a few slow
/// readers of large answers do not block them.
pub(super) fn has_reserve(limits: &Limits, net: &impl Net, bytes: usize) -> bool {
    let max = limits.answers_bytes;
    let is_little = bytes <= limits.answers_pause_bytes / 4;
    is_little && net.queue_memory().answers <= max.saturating_add(max / SHARES_PART + max / 8)
}

impl AnswerPressure {
    fn new(now: Millis, before: usize) -> AnswerPressure {
        let (seen, chosen, shares) = (BTreeMap::new(), Vec::new(), None);
        let (look_at, count_at) = (now, now);
        AnswerPressure { since: now, look_at, seen, chosen, going: 0, before, shares, count_at }
    }

    /// Grants a namespace an answer of so many bytes, and notes it, if what it is owed then is not
    /// more than the room left then (as in `hub/share.rs`). So the first namespace gets half of
    /// that room, the next a quarter, and something is always left for one more.
    fn takes_share(&mut self, (ns, bytes): (NsId, usize), answers: usize, max: usize) -> bool {
        let Some(shares) = &mut self.shares else { return false };
        let most = self.before + max / SHARES_PART;
        let owed = shares.get(&ns).map_or(bytes, |owed| owed + bytes);
        let is_fair = answers.saturating_add(bytes).saturating_add(owed) <= most;
        if is_fair {
            shares.insert(ns, owed);
        }
        is_fair
    }

    /// Counts what each namespace is owed.
    fn count(&mut self, net: &impl Net, connections: &Connections) {
        let mut shares = BTreeMap::new();
        for conn in connections.all_controllers() {
            if let Some(ns) = connections.look_at(conn).and_then(Controller::namespace) {
                *shares.entry(ns).or_default() += net.queued(conn);
            }
        }
        self.shares = Some(shares);
        self.count_at = net.now().mono.plus(COUNT_MS);
    }

    /// Scans all connections with queued answers, except those of the admin door.
    fn look(&mut self, net: &impl Net, is_open: impl Fn(ConnId) -> bool) {
        let now = net.now().mono;
        let before = std::mem::take(&mut self.seen);
        let mut slowest: Option<(u32, Reverse<usize>, Owed)> = None;
        self.chosen.clear();
        self.going = 0;
        net.owed(&mut |owed| {
            if !owed.is_open {
                self.going += owed.bytes;
                return;
            }
            if !is_open(owed.conn) {
                return;
            }
            let first = match before.get(&owed.conn) {
                Some((first, last)) => {
                    if *last == owed.taken {
                        self.chosen.push(owed);
                    }
                    *first
                }
                None => owed.taken,
            };
            self.seen.insert(owed.conn, (first, owed.taken));
            let pace = (owed.taken.wrapping_sub(first), Reverse(owed.bytes));
            if slowest.is_none_or(|(taken, bytes, _)| pace < (taken, bytes)) {
                slowest = Some((pace.0, pace.1, owed));
            }
        });
        if self.chosen.is_empty() && self.since.plus(PATIENCE_MS) <= now {
            self.chosen.extend(slowest.map(|(_, _, owed)| owed));
        }
        self.chosen.sort_unstable_by_key(|owed| (owed.bytes, Reverse(owed.conn)));
        self.look_at = now.plus(IDLE_MS);
    }
}

impl Switch {
    /// Notes the start of the pressure, or its end, when a quarter of the room is free.
    pub(super) fn note_shortage(&mut self, net: &impl Net) {
        let answers = net.queue_memory().answers;
        if self.answer_pressure.is_none() && answers > self.limits.answers_bytes {
            self.answer_pressure = Some(AnswerPressure::new(net.now().mono, answers));
            self.metrics.shortages += 1;
            self.report_soon(net.now());
        } else if self.has_room_again(net) {
            self.answer_pressure = None;
        }
    }

    fn has_room_again(&self, net: &impl Net) -> bool {
        let max = self.limits.answers_bytes;
        net.queue_memory().answers <= max - max / 4
    }

    fn is_short(&self, net: &impl Net) -> bool {
        self.answer_pressure.is_some() || net.queue_memory().answers > self.limits.answers_bytes
    }

    /// When a turn is wanted at the latest: at once if the output of the last one has made room.
    pub(super) fn answer_pressure_due(&self, net: &impl Net) -> Option<Millis> {
        match &self.answer_pressure {
            Some(answer_pressure)
                if answer_pressure.chosen.is_empty() && !self.has_room_again(net) =>
            {
                let count_at = (!self.room_queue.is_empty()).then_some(answer_pressure.count_at);
                count_at.into_iter().chain([answer_pressure.look_at]).min()
            }
            None if self.room_queue.is_empty() && !self.web.waits_for_room() => None,
            _ => Some(Millis(0)),
        }
    }

    /// Whether this connection, of a back end or a browser, is open.
    fn has(&self, conn: ConnId) -> bool {
        self.connections.is_controller(conn) || self.web.has(conn)
    }

    /// Closes connections that take nothing, the largest queues first, until there is room.
    pub(super) fn make_room(&mut self, net: &mut impl Net) {
        self.note_shortage(net);
        let Some(mut answer_pressure) = self.answer_pressure.take() else { return };
        if answer_pressure.look_at <= net.now().mono {
            answer_pressure.look(net, |conn| self.has(conn));
        }
        let max = self.limits.answers_bytes;
        for _ in 0..CUTS_PER_TURN {
            if net.queue_memory().answers.saturating_sub(answer_pressure.going) <= max - max / 4 {
                answer_pressure.chosen.clear();
            }
            let Some(owed) = answer_pressure.chosen.pop() else { break };
            let is_patient = net.now().mono < answer_pressure.since.plus(PATIENCE_MS);
            let is_taking = is_patient && net.taken(owed.conn) != owed.taken;
            // The scan may be some turns old: skip connections that have gone meanwhile.
            if is_taking || !self.has(owed.conn) {
                continue;
            }
            net.drop_all(owed.conn);
            // The rest of a frame that is partly sent is still queued.
            answer_pressure.going += net.queued(owed.conn).min(owed.bytes);
            match self.connections.controller(owed.conn) {
                Some(controller) => {
                    // It is closed already: nobody has to make room for it any more.
                    controller.end();
                    net.close(owed.conn, CloseReason::Largest);
                }
                None => {
                    let (web, mut site) = self.split();
                    web.too_slow(net, &mut site, owed.conn, CloseReason::Largest);
                }
            }
        }
        self.answer_pressure = Some(answer_pressure);
        self.note_shortage(net);
    }

    /// Whether the answer to a command has to wait: then nothing else of that back end is handled
    /// meanwhile.
    pub(super) fn puts_off(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        command: &Command<'_>,
    ) -> bool {
        // Answers to all other commands are short.
        if !matches!(command, Command::Get { .. } | Command::Info { .. }) {
            return false;
        }
        match self.prospect(net, controller, command) {
            Prospect::Free => return false,
            Prospect::Durable(bytes) => {
                controller.reply_room = Some(self.reply_reserve.room(bytes));
                return false;
            }
            Prospect::Disk if controller.replies.is_empty() => self.pending_durable.push(conn),
            // It is in `pending_durable` already.
            Prospect::Disk => {}
            Prospect::Room(bytes) if self.takes_share(net, controller, bytes) => return false,
            Prospect::Room(_) => self.room_queue.push_back(conn),
        }
        controller.deferred = DeferredRequest::of(command);
        controller.unhear(net, conn);
        net.put_off(conn, true);
        true
    }

    /// Grants a back end an answer of so many bytes though there is no room, if its namespace is
    /// owed little.
    fn takes_share(&mut self, net: &impl Net, controller: &Controller, bytes: usize) -> bool {
        let (answers, max) = (net.queue_memory().answers, self.limits.answers_bytes);
        let (Some(answer_pressure), Some(ns)) = (&mut self.answer_pressure, controller.namespace())
        else {
            return false;
        };
        answer_pressure.takes_share((ns, bytes), answers, max)
    }

    /// Estimates the answer to a command before it is made.
    fn prospect(&self, net: &impl Net, controller: &Controller, command: &Command<'_>) -> Prospect {
        let is_behind = !controller.replies.is_empty();
        let may_be_owed = is_behind || self.journal.durable() < self.journal.mark();
        if !may_be_owed && !self.is_short(net) {
            return Prospect::Free;
        }
        let Some(ns) = controller.namespace() else { return Prospect::Free };
        let (bytes, is_owed) = match command {
            Command::Get { channel, user } => {
                let state_key = StateKeyRef { channel, user: user.as_deref() };
                let state = self.hub.state(ns, channel, state_key.user, self.at(net.now()));
                let is_owed = || is_behind || self.mark_of(ns, state_key) > self.journal.durable();
                let bytes = state.map_or(0, str::len);
                (bytes, self.shared.is_worth(bytes) && is_owed())
            }
            Command::Info { channel } => {
                // A long list is estimated from its first names.
                let most = self.limits.answers_pause_bytes / LISTED_BYTES;
                let users = self.hub.users_in(ns, channel).take(most);
                let bytes: usize = users.map(|user| LISTED_BYTES + user.len()).sum();
                let parts = self.hub.audience_max(ns, channel, None).div_ceil(most.max(1));
                (bytes.saturating_mul(parts), is_behind)
            }
            _ => return Prospect::Free,
        };
        let is_short = self.is_short(net) && !has_reserve(&self.limits, net, bytes);
        let max = self.limits.answers_bytes / OWED_PART;
        let may_be_kept = matches!(command, Command::Get { .. }) && controller.reply_room.is_none();
        match (is_owed, is_short) {
            _ if !self.shared.is_worth(bytes) => Prospect::Free,
            (false, false) => Prospect::Free,
            (false, true) => Prospect::Room(bytes),
            // A list shows nothing that could be lost: it waits only for the replies before it.
            (true, false) if may_be_kept && self.reply_reserve.has_room(bytes, max) => {
                Prospect::Durable(bytes)
            }
            (true, _) => Prospect::Disk,
        }
    }

    /// Whether the request of a back end that has all owed replies still has to wait for the disk.
    /// If not, it is queued for room.
    pub(super) fn still_wants(&mut self, net: &impl Net, conn: ConnId, it: &Controller) -> bool {
        let Some(deferred) = &it.deferred else { return false };
        let is_for_disk = self.prospect(net, it, &deferred.command()) == Prospect::Disk;
        if !is_for_disk {
            self.room_queue.push_back(conn);
        }
        is_for_disk
    }

    /// Answers a command that waited for room.
    fn answer_wanted(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        deferred: Command<'_>,
    ) {
        let answer = self.execute(net, conn, controller, &deferred);
        // It fails for too many wrong keys only, and no command with a key waits for room.
        let _ = self.say(net, conn, controller, answer);
        self.send_replies(net, conn);
        if controller.fault.is_none() {
            controller.hear(net, conn);
        }
        self.close_when_answered(net, conn, controller);
    }

    /// Answers the back ends for whose answers there is room now: at least one, whatever others
    /// have asked for in this turn. Under pressure all are examined now and then: the namespace
    /// of some may be owed little.
    pub(super) fn resume_waiting(&mut self, net: &mut impl Net) {
        if self.is_short(net) && !self.count_shares(net) {
            return;
        }
        let (mut is_first, mut left) = (true, self.room_queue.len());
        while (std::mem::take(&mut is_first) || !self.has_worked_enough())
            && left > 0
            && let Some(conn) = self.room_queue.pop_front()
        {
            left -= 1;
            let Some(mut controller) = self.connections.take(conn) else { continue };
            // A back end whose key has expired gets no large answer.
            self.look_at_key(net, &mut controller);
            if let Some(deferred) = controller.deferred.take() {
                self.resume_one(net, conn, &mut controller, deferred);
            }
            self.connections.put_back(conn, controller);
        }
    }

    /// Counts what each namespace is owed, if a back end waits and it is time; whether it did.
    fn count_shares(&mut self, net: &impl Net) -> bool {
        let Some(answer_pressure) = &mut self.answer_pressure else { return false };
        let is_due = !self.room_queue.is_empty() && answer_pressure.count_at <= net.now().mono;
        if is_due {
            answer_pressure.count(net, &self.connections);
        }
        is_due
    }

    /// Answers a back end if there is room for that; else it continues to wait.
    fn resume_one(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        deferred: DeferredRequest,
    ) {
        let command = deferred.command();
        match self.prospect(net, controller, &command) {
            Prospect::Disk => {
                // The state has changed since.
                self.pending_durable.push(conn);
                controller.deferred = Some(deferred);
                return;
            }
            Prospect::Room(bytes) if !self.takes_share(net, controller, bytes) => {
                // The estimate is work; for a list it has read the first names.
                let is_list = matches!(command, Command::Info { .. });
                let seen = if is_list { bytes.min(self.limits.answers_pause_bytes) } else { 0 };
                self.work += 1 + seen / WORK_BYTES;
                self.room_queue.push_back(conn);
                controller.deferred = Some(deferred);
                return;
            }
            Prospect::Durable(bytes) => {
                controller.reply_room = Some(self.reply_reserve.room(bytes))
            }
            Prospect::Room(_) | Prospect::Free => {}
        }
        net.put_off(conn, false);
        self.answer_wanted(net, conn, controller, command);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;
    use crate::address::{Address, ClientPrefix};
    use crate::edge::{Door, Handler};
    use crate::frame::{Frame, QueueMemory};
    use crate::journal::MemoryJournal;
    use crate::time::{Now, UnixMillis};

    /// Bytes queued for each peer; none reads anything, and a part of each queue is being sent.
    struct Stuck {
        now: Now,
        owed: Vec<usize>,
        closed: usize,
    }

    const BEGUN: usize = 10;

    impl Net for Stuck {
        fn now(&self) -> Now {
            self.now
        }
        fn random(&mut self, _: &mut [u8]) {}
        fn send(&mut self, _: ConnId, _: Frame) {}
        fn publish(&mut self, _: ConnId, _: Frame) -> bool {
            false
        }
        fn drop_all(&mut self, conn: ConnId) {
            self.owed[conn.index()] = BEGUN;
        }
        fn queue_memory(&self) -> QueueMemory {
            QueueMemory { answers: self.owed.iter().sum(), ..QueueMemory::default() }
        }
        fn owed(&self, each: &mut dyn FnMut(Owed)) {
            for (slot, bytes) in (0..).zip(&self.owed) {
                let is_open = *bytes > BEGUN;
                each(Owed { conn: ConnId::new(slot, 0), bytes: *bytes, taken: 0, is_open });
            }
        }
        fn queued(&self, conn: ConnId) -> usize {
            self.owed[conn.index()]
        }
        fn taken(&self, _: ConnId) -> u32 {
            0
        }
        fn close(&mut self, _: ConnId, _: CloseReason) {
            self.closed += 1;
        }
        fn deadline(&mut self, _: ConnId, _: Option<Millis>) {}
        fn pause(&mut self, _: ConnId) {}
        fn resume(&mut self, _: ConnId) {}
    }

    #[test]
    fn only_as_many_connections_are_closed_as_the_limit_requires() {
        let now = Now { mono: Millis(0), unix: UnixMillis(0) };
        let limits = Limits { answers_bytes: 1200, ..Limits::default() };
        let settings = Settings::new(limits, "server", now);
        let mut switch = Switch::new(settings, MemoryJournal::default());
        let mut net = Stuck { now, owed: vec![100; 13], closed: 0 };
        for slot in 0..13 {
            switch
                .connections
                .add_controller(ConnId::new(slot, 0), Controller::new(ClientPrefix::Unix));
        }
        switch.make_room(&mut net);
        assert_eq!(net.closed, 0, "they have had no time to read anything");
        net.now.mono = net.now.mono.plus(IDLE_MS);
        switch.make_room(&mut net);
        // 1300 are queued, of which 900 may stay: each that is closed leaves the part being sent,
        // which is gone a moment later.
        assert_eq!((net.closed, net.queue_memory().answers), (4, 940));
        switch.make_room(&mut net);
        assert_eq!(net.closed, 4);
    }

    /// Few of the chosen are closed in a turn. One that has closed before then is skipped: another
    /// connection may have its slot.
    #[test]
    fn a_connection_chosen_for_eviction_that_has_closed_is_skipped() {
        let now = Now { mono: Millis(0), unix: UnixMillis(0) };
        let limits = Limits { answers_bytes: 1200, ..Limits::default() };
        let settings = Settings::new(limits, "server", now);
        let mut switch = Switch::new(settings, MemoryJournal::default());
        let mut net = Stuck { now, owed: vec![300; 13], closed: 0 };
        let conn = |slot| ConnId::new(slot, 0);
        for slot in 0..13 {
            let door = if slot < 6 { Door::Control } else { Door::Web };
            switch.opened(&mut net, conn(slot), door, Address::Unix);
        }
        switch.make_room(&mut net);
        net.now.mono = net.now.mono.plus(IDLE_MS);
        switch.make_room(&mut net);
        assert_eq!(net.closed, CUTS_PER_TURN);
        // The next to be closed are all lost at this moment.
        (4..13).for_each(|slot| switch.closed(&mut net, conn(slot), CloseReason::PeerLost));
        switch.make_room(&mut net);
        assert_eq!((net.closed, &net.owed[4..8]), (CUTS_PER_TURN, &[300; 4][..]));
    }
}
