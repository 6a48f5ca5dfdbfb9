//! The world: the clock, the turn and what happens in it. Owns the switch, the network, the clients
//! and the judge, and runs step after step. The turn is that of the real reactor, call by call.

mod actions;
mod disk_wait;
mod lives;

use std::io::Write;

use super::client::{Client, End};
use super::intent::Intent;
use super::judge::{Judge, Seen, View};
use super::net::{FakeNet, Flushed, Phase};
use super::storage::Storage;
use super::tape::Tape;
use super::{Options, Prng, Report};
use crate::codec::sockjs;
use crate::codec::ws::Opcode;
use crate::edge::{ConnId, Door, Handler, Net};
use crate::limits::Limits;
use crate::switch::Switch;
use crate::time::{Millis, Now, UnixMillis};
use crate::web::Service;
use lives::{found, switch};

/// Maximum number of busy turns without time passing; more is a livelock.
const TURNS_MAX: usize = 20_000;

/// The whole state of a run.
pub(super) struct World<G: Storage> {
    options: Options,
    limits: Limits,
    storage: G,
    switch: Switch,
    net: FakeNet,
    clients: Vec<Client>,
    judge: Judge,
    tape: Tape,
    /// Numbers the messages of the run.
    serial: u64,
    /// Counts the changes of limits.
    reloads: u64,
    step: usize,
    /// The totals of earlier lives of the server, and the hash of all that has happened.
    report: Report,
    /// No connection is accepted before this moment.
    accept_at: Millis,
    /// Connections turned away in this life.
    turned_away: u64,
    /// Simulated time passed, in milliseconds.
    passed_ms: u64,
    /// The last actions, for the report of a failure.
    history: Vec<String>,
}

/// The service of every run.
fn service(limits: &Limits) -> Service {
    let origins = vec![super::client::SITE.into()];
    Service { origins, ..Service::new(sockjs::PREFIX, limits) }
}

/// Writes to standard error; a failure to write is ignored.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl<G: Storage> Drop for World<G> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Options { seed, steps, .. } = self.options;
            let history = self.history.join("\n  ");
            let step = self.step;
            say(&format!("\nsimulation: seed {seed}, step {step}; at last:\n  {history}"));
            say(&format!("replay with: make sim SEED={seed} STEPS={steps}"));
        }
    }
}

impl<G: Storage> World<G> {
    pub fn new(options: Options, limits: Limits, mut storage: G) -> World<G> {
        let mut prng = Prng::new(options.seed);
        let now = Now {
            mono: Millis(prng.next() >> 30),
            unix: UnixMillis(1_800_000_000_000 + (prng.next() >> 30)),
        };
        let start = storage.start(&mut prng, now, &limits);
        let wait_ms = storage.store().and_then(|store| store.wait_ms());
        let mut judge = Judge::over(limits.clone(), now, wait_ms.is_some());
        if storage.store().is_some() {
            judge.restarted(&start.hub, found(&start, now));
        }
        let tape = Tape::default();
        World {
            options,
            switch: switch(start, &limits, now, &tape),
            storage,
            net: FakeNet::new(prng, now, &limits, tape.clone()),
            clients: Vec::new(),
            judge,
            limits,
            tape,
            serial: 0,
            reloads: 0,
            step: 0,
            report: Report { trace: 0xCBF2_9CE4_8422_2325, ..Report::default() },
            accept_at: Millis(0),
            turned_away: 0,
            passed_ms: 0,
            history: Vec::new(),
        }
    }

    /// Records an action.
    fn note(&mut self, what: impl FnOnce() -> String) {
        let what = what();
        self.hash(what.as_bytes());
        if self.options.is_verbose {
            say(&format!("{:5} {:>12} {what}", self.step, self.net.now.mono.0));
        }
        if self.history.len() >= 12 {
            self.history.remove(0);
        }
        self.history.push(what);
    }

    /// Adds to the trace (FNV-1a).
    fn hash(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let trace = self.report.trace ^ u64::from(*byte);
            self.report.trace = trace.wrapping_mul(0x100_0000_01B3);
        }
    }

    /// Checks what the switch did in a call.
    fn judge(&mut self, pinged: Option<ConnId>) {
        self.report.calls += 1;
        let items = self.tape.take();
        self.judge_items(&items, pinged);
    }

    fn judge_items(&mut self, items: &[super::tape::Item], pinged: Option<ConnId>) {
        for item in items {
            if let super::tape::Item::Sent { conn, frame, .. } = item {
                self.hash(&conn.slot.to_le_bytes());
                self.hash(frame);
            }
        }
        self.judge.compare(items, self.tape.durable(), pinged);
    }

    /// Runs one turn, in the order of `Reactor::turn`. Returns whether anything happened in it.
    fn turn(&mut self) -> bool {
        self.judge.now = self.net.now;
        let mut is_busy = self.move_bytes() | self.work();
        for conn in self.net.events() {
            self.lose(conn);
        }
        is_busy |= self.forget();
        self.accept();
        self.switch.tick(&mut self.net);
        self.report.calls += 1;
        let items = self.tape.take();
        self.judge.takes_back_no_more_than_fits(&items);
        self.judge.orders(&items, self.tape.marks(), self.tape.horizon());
        self.judge.look_at_keys();
        self.judge.count_in();
        self.judge_items(&items, None);
        let most = self.net.round().min(self.net.ready.len());
        is_busy |= most > 0;
        // Back ends skipped because the switch has processed enough for now keep their place.
        let mut left = Vec::new();
        let door = |conn: &ConnId| self.judge.lines.get(conn).map(|line| line.door());
        let (back_ends, browsers): (Vec<_>, Vec<_>) =
            self.net.ready.drain(..most).partition(|conn| door(conn) == Some(Door::Control));
        for conn in back_ends {
            match self.switch.is_turn_full() {
                true => left.push(conn),
                false => self.read(conn),
            }
        }
        is_busy |= self.flush_some();
        for conn in browsers {
            self.read(conn);
        }
        self.net.ready.splice(..0, left);
        is_busy |= self.expire();
        is_busy |= self.cut_slow();
        is_busy |= self.forget();
        self.switch.settle(&mut self.net);
        self.note_batch();
        let items = self.tape.take();
        self.judge.orders(&items, self.tape.marks(), self.tape.horizon());
        self.judge_items(&items, None);
        self.judge.settled(self.tape.durable(), self.switch.is_releasing());
        is_busy |= self.forget();
        is_busy |= self.flush_some();
        is_busy |= self.forget();
        let (sizes, mut expected) = (self.switch.hub().sizes(), self.judge.sizes());
        if self.switch.hub().is_leaving() {
            self.report.leaving_turns += 1;
            self.judge.note_leaving();
            // Some channels are left whose only members are about to be removed.
            assert!(sizes[1] >= expected[1], "channels of the hub");
            expected[1] = sizes[1];
        }
        if self.judge.is_undoing() {
            // Some expired states are back for now; those whose expiry is durable are not.
            let living = self.judge.record.living(self.judge.at());
            assert!(sizes[4] >= living, "states of the hub");
            expected[4] = sizes[4];
        }
        assert_eq!(sizes, expected, "sizes of the hub");
        is_busy || !self.net.ready.is_empty() || !self.net.dirty.is_empty()
    }

    /// Runs turns until nothing happens any more, and checks that all is as it must be at rest.
    fn drive(&mut self) {
        let mut turns = 0;
        while self.turn() || self.is_due() {
            turns += 1;
            assert!(turns < TURNS_MAX, "a livelock");
        }
        self.switch.check_invariants();
        self.judge.compare_replica();
        self.look_at_disk();
        assert_eq!(
            self.net.queue_memory().bytes,
            self.judge.kept_bytes(),
            "publications that wait"
        );
        assert_eq!(
            self.net.queue_memory().answers,
            self.judge.answers_bytes(),
            "answers that wait"
        );
        let clients = &self.clients;
        self.judge.lines.retain(|conn, line| {
            !line.is_gone || clients.iter().any(|client| client.conn == Some(*conn))
        });
        let conns: Vec<ConnId> = self.net.sockets.keys().copied().collect();
        let is_open = |conn: &&ConnId| self.net.sockets[conn].phase == Phase::Open;
        let views = conns.iter().filter(is_open).map(|conn| (*conn, self.view(*conn)));
        self.judge.intake_at_rest(&views.collect::<Vec<_>>());
        for conn in conns {
            let socket = &self.net.sockets[&conn];
            let is_open = socket.phase == Phase::Open;
            if is_open {
                assert!(self.net.queued(conn) < 40_000, "{conn:?} has too much queued");
                let view = self.view(conn);
                self.judge.at_rest(conn, view);
            }
        }
    }

    /// Writes to some of the connections that have output.
    fn flush_some(&mut self) -> bool {
        let some = self.net.some_dirty();
        some.iter().for_each(|conn| self.flush(*conn));
        !some.is_empty()
    }

    /// Whether the switch wants a turn now.
    fn is_due(&self) -> bool {
        self.switch.due(&self.net).is_some_and(|at| at <= self.net.now.mono)
    }

    fn view(&self, conn: ConnId) -> View {
        let socket = &self.net.sockets[&conn];
        View {
            delivered: socket.delivered,
            consumed: socket.consumed,
            is_paused: socket.is_paused,
            queued: self.net.queued(conn),
            taken_at: socket.taken_at,
        }
    }

    /// Delivers bytes of the clients, and lets them read what is there for them.
    fn move_bytes(&mut self) -> bool {
        let mut is_busy = false;
        for i in 0..self.clients.len() {
            let Some(conn) = self.clients[i].conn else {
                is_busy |= self.accept_at <= self.net.now.mono;
                continue;
            };
            let piece = self.clients[i].pop_piece(&mut self.net.prng, self.net.now.mono);
            if !piece.is_empty() {
                is_busy = true;
                self.net.arrive(conn, piece.into_iter());
            }
            if self.clients[i].end == End::Wanted && self.clients[i].is_drained() {
                self.clients[i].end = End::Sent;
                is_busy = true;
                self.net.arrive_end(conn);
            }
            is_busy |= self.receive(i, conn);
        }
        self.clients.retain(|client| !client.is_gone);
        is_busy
    }

    /// Lets a client read, and react as every client does.
    fn receive(&mut self, i: usize, conn: ConnId) -> bool {
        let left = self.net.leftovers.remove(&conn);
        let Some(socket) = self.net.sockets.get_mut(&conn) else {
            let (bytes, was_flushed) = left.expect("a socket that is gone has left something");
            let client = &mut self.clients[i];
            client.is_gone = true;
            if client.is_reading {
                let seen = client.receive(bytes.into_iter());
                self.seen(i, conn, seen);
                let wire = &self.judge.lines[&conn].wire;
                assert!(!was_flushed || wire.is_empty(), "{conn:?} never received {wire:?}");
            }
            return true;
        };
        if !self.clients[i].is_reading {
            return false;
        }
        let has_end = socket.has_outbound_end;
        let now = self.net.now.mono;
        let bytes = match self.clients[i].sip(&mut self.net.prng, now) {
            None => std::mem::take(&mut socket.outbound),
            Some(most) => {
                let most = most.min(socket.outbound.len());
                let rest = socket.outbound.split_off(most);
                std::mem::replace(&mut socket.outbound, rest)
            }
        };
        let has_end = has_end && socket.outbound.is_empty();
        let is_busy = !bytes.is_empty();
        if is_busy {
            let seen = self.clients[i].receive(bytes.into_iter());
            self.seen(i, conn, seen);
        }
        let client = &mut self.clients[i];
        if has_end && client.is_lively && client.end == End::None {
            client.end = End::Wanted;
            return true;
        }
        is_busy
    }

    /// Checks that a client received what was sent, and answers pings.
    fn seen(&mut self, i: usize, conn: ConnId, seen: Vec<Seen>) {
        for seen in seen {
            let line = self.judge.lines.get_mut(&conn).expect("it was let in");
            assert_eq!(line.wire.pop_front().as_ref(), Some(&seen), "{conn:?} received");
            let client = &mut self.clients[i];
            if seen == Seen::Ping && client.is_lively {
                let pong = super::client::masked(&mut self.net.prng, Opcode::Pong, b"");
                client.write(&mut self.judge, &pong, Intent::Pong);
            }
        }
    }

    fn lose(&mut self, conn: ConnId) {
        self.judge.lost(conn);
        self.net.lose(conn);
    }

    /// Accepts waiting connections.
    fn accept(&mut self) {
        if self.net.now.mono < self.accept_at {
            return;
        }
        for i in 0..self.clients.len() {
            if self.clients[i].conn.is_some() {
                continue;
            }
            let (door, from) = (self.clients[i].door, self.clients[i].from);
            let conn = self.net.insert(from);
            self.clients[i].conn = Some(conn);
            let early = std::mem::take(&mut self.clients[i].early);
            self.switch.opened(&mut self.net, conn, door, from);
            let items = self.tape.take();
            self.judge.opened(conn, door, from, early, &items);
            self.judge_items(&items, None);
        }
    }

    /// Reads a connection once and hands the bytes over, as the reactor does.
    fn read(&mut self, conn: ConnId) {
        let Some(input) = self.net.input(conn) else { return };
        if !input.is_empty() {
            self.net.give(&mut self.switch, conn, input);
            let (view, items) = (self.view(conn), self.tape.take());
            self.report.calls += 1;
            self.judge.received(conn, view, &items);
            self.judge_items(&items, None);
        }
        if self.net.tell_end(&mut self.switch, conn) {
            self.judge.ended(conn);
            self.judge(None);
        }
        if self.net.tell_hang_up(&mut self.switch, conn) {
            self.judge.hung_up(conn);
            self.judge(None);
        }
    }

    /// Fires timers that have expired. Returns whether there may be more than this turn handles.
    fn expire(&mut self) -> bool {
        self.net.wheel.advance(self.net.now.mono.0);
        for _ in 0..self.net.round().min(TURNS_MAX) {
            let Some((_, conn)) = self.net.wheel.pop_expired() else { return false };
            match self.net.timer_came(conn) {
                Some(Phase::Open) => {
                    let view = self.view(conn);
                    self.switch.timed_out(&mut self.net, conn);
                    self.report.calls += 1;
                    let items = self.tape.take();
                    self.judge.timed_out(conn, view, &items);
                    self.judge_items(&items, Some(conn));
                }
                Some(Phase::Flushing | Phase::Lingering) => self.net.free(conn),
                None => {}
            }
        }
        true
    }

    /// Handles slow peers whose time is up. Returns whether there may be more.
    fn cut_slow(&mut self) -> bool {
        for _ in 0..self.net.round().min(TURNS_MAX) {
            let Some((conn, verdict)) = self.net.overdue() else { return false };
            // Judges what the peer took when it was offered its queue once more.
            self.judge(None);
            if let Some(reason) = verdict {
                self.judge.too_slow(conn, reason);
                self.switch.too_slow(&mut self.net, conn, reason);
                self.judge(None);
            }
        }
        true
    }

    /// Tells the switch about closed connections, until there are no more.
    fn forget(&mut self) -> bool {
        let is_busy = !self.net.doomed.is_empty();
        while !self.net.doomed.is_empty() {
            for (conn, reason) in std::mem::take(&mut self.net.doomed) {
                self.switch.closed(&mut self.net, conn, reason);
                self.judge.closed(conn, reason);
                self.judge(None);
                self.hash(reason.label().as_bytes());
                if self.net.socket(conn).is_some_and(|s| s.phase == Phase::Lingering) {
                    self.net.free(conn);
                }
            }
        }
        is_busy
    }

    fn flush(&mut self, conn: ConnId) {
        let flushed = self.net.flush(conn);
        self.judge(None);
        match flushed {
            Flushed::All => {}
            Flushed::Blocked => return,
            Flushed::More => return self.net.mark_dirty(conn),
        }
        if self.net.has_drained(conn) {
            self.switch.drained(&mut self.net, conn);
            self.report.calls += 1;
            let items = self.tape.take();
            self.judge.drained(conn, self.view(conn), &items);
            self.judge_items(&items, None);
        }
    }

    /// Advances time, from one deadline to the next.
    fn walk(&mut self, ms: u64) {
        let until = self.net.now.mono.plus(ms);
        loop {
            self.drive();
            let now = self.net.now.mono;
            if now >= until {
                return;
            }
            let due = self.net.next_at();
            let is_trickling = |client: &Client| client.is_slow && !client.is_drained();
            let is_slow =
                self.clients.iter().any(|client| client.is_sipping || is_trickling(client));
            let byte = is_slow.then(|| now.plus(super::client::SLOW_MS));
            let accept_at = Some(self.accept_at).filter(|at| *at > now);
            let inside = [self.switch.due(&self.net), self.storage.due(), self.judge.next_cut()];
            let outside = [due, byte, accept_at, Some(until)];
            let next = inside.into_iter().chain(outside).flatten().min();
            let next = next.unwrap_or(until).max(now.plus(1)).min(until);
            self.pass(next.0 - now.0);
        }
    }

    /// Advances both clocks at once.
    fn pass(&mut self, ms: u64) {
        let unheard = self.net.sockets.iter().filter(|(_, socket)| socket.is_paused);
        unheard.for_each(|(conn, _)| self.judge.unheard(*conn));
        let Now { mono, unix } = self.net.now;
        self.net.now = Now { mono: mono.plus(ms), unix: unix.plus(ms) };
        self.passed_ms += ms;
    }
}
