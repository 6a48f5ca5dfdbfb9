//! The lives of the server: how it starts on what it finds, what goes wrong while it runs, and how
//! it ends: stopped, killed or without power. All that was promised must be there afterwards.

use super::World;
use crate::edge::{Door, Handler, Net, TurnedAway};
use crate::limits::Limits;
use crate::sim::client::{self, Client};
use crate::sim::judge::Found;
use crate::sim::net::FakeNet;
use crate::sim::storage::{End, Start, Storage};
use crate::sim::tape::{Tape, Traced};
use crate::sim::{Prng, Report};
use crate::switch::{Settings, Switch};
use crate::time::{Millis, Now, UnixMillis};

/// Builds a switch over what was found at the start.
pub(super) fn switch(start: Start, limits: &Limits, now: Now, tape: &Tape) -> Switch {
    let settings = Settings {
        service: super::service(limits),
        proxies: crate::sim::ways::proxies(),
        at: start.at,
        ..Settings::new(limits.clone(), crate::sim::grammar::SERVER_KEY, now)
    };
    Switch::over(start.hub, settings, Box::new(Traced::new(start.journal, tape.clone())))
}

/// Describes what the first server of a run finds.
pub(super) fn found(start: &Start, now: Now) -> Found {
    let (batch, at) = (start.batch, start.at.0);
    Found { batch, at, now, is_killed: false, is_closed: false, away_ms: None }
}

impl<G: Storage> World<G> {
    /// Lets the store's worker do something. Returns whether it did, or is about to.
    pub(super) fn work(&mut self) -> bool {
        let is_busy = self.storage.step(&mut self.net.prng, self.net.now);
        if let Some(store) = self.storage.store() {
            self.judge.batch_written(store.written());
        }
        is_busy
    }

    /// If a batch has just been sent, notes that it holds what is recorded by now.
    pub(super) fn note_batch(&mut self) {
        if let Some(number) = self.storage.store().and_then(|store| store.take_sent()) {
            self.judge.batch_sent(number);
        }
    }

    /// Checks at rest that nothing waits for a disk that works.
    pub(super) fn look_at_disk(&mut self) {
        let now = self.net.now.mono;
        let Some(store) = self.storage.store() else { return };
        self.judge.is_disk_stuck = store.is_stuck(now);
        self.judge.disk_wait.is_full = !self.switch.journal().has_room();
        self.judge.disk_wait.is_met = false;
        if !store.is_well(now) {
            return;
        }
        let wait_ms = store.wait_ms().unwrap_or(0);
        let is_failing = self.is_failing();
        if !is_failing {
            self.judge.at_rest_on_disk(self.tape.durable(), wait_ms);
        }
    }

    fn is_failing(&self) -> bool {
        let meters = self.switch.journal().meters(self.net.now);
        meters.is_some_and(|meters| meters.is_failing)
    }

    /// Runs out of descriptors: nothing is accepted for a while, or newcomers are turned away.
    pub(super) fn starve(&mut self) {
        let ms = self.net.prng.below(3000) as u64;
        self.accept_at = self.net.now.mono.plus(ms);
        self.note(|| format!("no descriptors for {ms} ms"));
        if self.net.prng.one_in(2) {
            return;
        }
        let before = self.clients.len();
        let is_out = |client: &Client| client.conn.is_none() && client.door == Door::Web;
        self.clients.retain(|client| !is_out(client));
        for _ in self.clients.len()..before {
            let why = *self.net.prng.pick(&[TurnedAway::Full, TurnedAway::Crowd]);
            self.switch.turned_away(self.net.now, why);
            self.turned_away += 1;
        }
    }

    /// Makes something go wrong with the disk.
    pub(super) fn trouble(&mut self) {
        let now = self.net.now.mono;
        let Some(store) = self.storage.store() else { return };
        let what = store.trouble(&mut self.net.prng, now);
        self.note(|| what);
    }

    /// Kills the server or cuts its power.
    pub(super) fn crash(&mut self) {
        let kind = self.net.prng.below(4);
        if let Some(store) = self.storage.store() {
            match kind {
                // So that a batch is in flight at the end, or a call has just failed.
                0 | 1 => store.hold(),
                2 => store.trip(&mut self.net.prng),
                _ => {}
            }
        }
        if kind < 3 {
            for _ in 0..=self.net.prng.below(3) {
                self.chorus();
            }
            self.drive();
            let ms = self.net.prng.below(3000) as u64;
            if kind < 2 {
                self.walk(ms);
            }
        }
        let how = *self.net.prng.pick(&[End::Killed, End::PowerCut]);
        self.restart(how);
    }

    /// Stops the server in an orderly way, and starts another.
    pub(super) fn stop_and_start(&mut self) {
        self.stop();
        self.restart(End::Closed);
    }

    /// Ends this server, and starts another on what it has left.
    fn restart(&mut self, how: End) {
        if let Some(store) = self.storage.store() {
            store.begin();
        }
        let is_closed = how == End::Closed && self.close();
        self.close_books();
        let old = self.net.now;
        self.judge.now = old;
        let Some(store) = self.storage.store() else { return };
        let is_intact = store.end(&mut self.net.prng, how, old.mono);
        if let Some(content) = store.beside.take() {
            self.judge.read_beside(&content);
        }
        let (now, away_ms) = self.time_without(how);
        let start = self.storage.start(&mut self.net.prng, now, &self.limits);
        self.note(|| format!("{how:?}, and {away_ms:?} ms later a start on batch {}", start.batch));
        let found = Found {
            batch: start.batch,
            at: start.at.0,
            now,
            is_killed: how == End::Killed && !start.power_went && is_intact,
            is_closed,
            away_ms,
        };
        self.judge.restarted(&start.hub, found);
        self.tape = Tape::default();
        self.switch = switch(start, &self.limits, now, &self.tape);
        let prng = Prng(self.net.prng.next());
        self.net = FakeNet::new(prng, now, &self.limits, self.tape.clone());
        self.clients.clear();
        (self.accept_at, self.turned_away) = (Millis(0), 0);
        self.begin();
    }

    /// Lets time pass without a server; returns how much, unless the date is changed meanwhile.
    fn time_without(&mut self, how: End) -> (Now, Option<u64>) {
        let (prng, Now { mono, unix }) = (&mut self.net.prng, self.net.now);
        let most_ms = *prng.pick(&[5, 5000, 20_000_000]);
        let ms = prng.below(most_ms) as u64;
        self.passed_ms += ms;
        let mono = match how {
            // The machine has rebooted.
            End::PowerCut => Millis(prng.next() >> 40),
            _ => mono.plus(ms),
        };
        if !prng.one_in(3) {
            return (Now { mono, unix: unix.plus(ms) }, Some(ms));
        }
        let step = prng.below(400_000) as u64;
        (Now { mono, unix: UnixMillis(unix.0 + ms + step - 200_000) }, None)
    }

    /// Adds the counts of this server to the report.
    fn close_books(&mut self) {
        let metrics = self.switch.metrics();
        let turned_away: u64 = metrics.turned_away.iter().sum();
        assert_eq!(turned_away, self.turned_away, "turned away");
        let report = &mut self.report;
        for (sum, count) in report.closed.iter_mut().zip(metrics.closed) {
            *sum += count;
        }
        report.commands += metrics.commands;
        report.deliveries += metrics.deliveries;
        report.browsers_held += metrics.browsers_held;
        report.long_emits += metrics.long_emits;
        report.floods += metrics.floods;
        report.shortages += metrics.shortages;
        let census = self.switch.census();
        report.control_input_waits += census.control_input_waits;
        report.control_input_evicted += census.control_input_evicted;
        let meters = self.switch.journal().meters(self.net.now).unwrap_or_default();
        if let Some(store) = self.storage.store() {
            store.met.failures += meters.failures;
            store.met.recoveries += meters.failures - u64::from(meters.is_failing);
        }
    }

    /// Ends the run: all clients leave, and nothing may be left.
    pub fn finish(mut self) -> Report {
        if let Some(store) = self.storage.store() {
            store.mend();
        }
        if self.net.prng.one_in(3) {
            self.stop();
        }
        self.leave_all();
        assert!(self.net.sockets.is_empty(), "left: {:?}", self.net.sockets);
        assert!(self.net.frames.is_empty() && self.net.wheel.is_empty(), "frames or timers left");
        assert_eq!(self.net.queue_memory().bytes, 0, "publications are left");
        assert!(self.net.is_nobody_watched(), "somebody is watched");
        assert!(!self.judge.is_waiting(), "proposals wait");
        let [_, channels, users, peers, states] = self.switch.hub().sizes();
        assert_eq!([channels, users, peers], [0; 3], "somebody is left in the hub");
        // Only states may keep the switch awake and, on a store, other rows that expire.
        self.walk(60_000);
        let has_ends = self.switch.hub().has_ends(UnixMillis(self.judge.at()));
        let may_wake = states > 0 || self.storage.store().is_some() && has_ends;
        assert!(may_wake || self.switch.due(&self.net).is_none(), "due without a reason");
        self.switch.check_drained(self.net.now);
        let metrics = self.switch.metrics();
        let closed: u64 = metrics.closed.iter().sum();
        assert_eq!(metrics.opened, closed, "opened and closed");
        if self.storage.store().is_some() {
            self.restart(End::Closed);
            self.leave_all();
        }
        self.close_books();
        if let Some(store) = self.storage.store() {
            self.report.misfortunes = store.met;
        }
        let outlived = self.judge.outlived().clone();
        Report {
            simulated_ms: self.passed_ms,
            reloads: self.reloads,
            outlived,
            full: self.judge.full.clone(),
            renewed: self.judge.renewed,
            waited: self.judge.disk_wait.waited,
            heard_beside: self.judge.disk_wait.heard,
            ..self.report.clone()
        }
    }

    /// Tells the server to stop, and checks that no connection outlives its deadline.
    fn stop(&mut self) {
        self.note(|| "the server stops".into());
        // Clients that are not accepted yet never will be.
        self.clients.retain(|client| client.conn.is_some());
        if self.net.prng.one_in(2) {
            // Usually all input that has arrived is processed, unless it is held back for too long.
            self.drive();
        }
        self.net.close_ms = self.limits.drain_ms as u64;
        self.net.linger_ms = self.net.linger_ms.min(500);
        let until = self.net.now.mono.plus(self.limits.drain_ms as u64);
        let gone_by = Millis(until.0 - 1000);
        self.judge.stopping();
        self.switch.stopping(&mut self.net, gone_by);
        self.judge(None);
        while self.net.now.mono < until && !self.net.sockets.is_empty() {
            self.walk(100);
        }
        let is_reading = |client: &Client| client.is_reading && !client.is_sipping;
        let is_reading = self.clients.iter().all(is_reading);
        let may_wait = !is_reading || self.judge.is_disk_stuck;
        assert!(may_wait || self.net.sockets.is_empty(), "{:?}", self.net.sockets);
    }

    /// Closes the switch. Returns whether everything recorded is on disk.
    fn close(&mut self) -> bool {
        self.switch.close(self.net.now, &mut || false);
        !self.is_failing()
    }

    /// Makes all clients leave, and gives them the time.
    fn leave_all(&mut self) {
        for i in (0..self.clients.len()).rev() {
            (self.clients[i].is_reading, self.clients[i].is_slow) = (true, false);
            self.clients[i].is_sipping = false;
            self.leave(i);
        }
        self.accept_at = Millis(0);
        self.drive();
        // Running deadlines are at most those of the initial limits.
        let most = crate::sim::limits(self.options.seed);
        self.walk(most.close_ms as u64 + most.control_replies_ms as u64);
        // Clients that sent far too fast are still read to their end, at the permitted rate.
        for _ in 0..4 {
            let is_held =
                |client: &Client| client.end == client::End::Sent && client.conn.is_some();
            if self.clients.iter().any(is_held) {
                self.walk(10_000);
            }
        }
    }
}
