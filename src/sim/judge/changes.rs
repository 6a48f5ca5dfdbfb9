//! The effects of entries, in the order of the tape.

use std::collections::{BTreeMap, BTreeSet};

use super::expected::Expected;
use super::{Due, Judge, Past, Pending, Role};
use crate::edge::ConnId;
use crate::hub::{Change, NsId};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::sim::intent::{Command, Emit, Store};
use crate::sim::record::{Refusal, Space, need_auth, no_namespace};
use crate::sim::tape::{Item, Place};
use crate::time::Now;

/// What the reply to a change reports.
pub(super) enum Outcome {
    Done,
    Key(String),
    Count(usize),
}

impl Judge {
    /// Creates a judge over an empty store, or over none. `is_easy`: states are acknowledged before
    /// they are durable.
    pub fn over(limits: Limits, now: Now, is_easy: bool) -> Judge {
        let mut judge = Judge::new(limits, now);
        judge.disk.is_easy = is_easy;
        judge.replica = judge.replica.keeping(is_easy);
        judge
    }

    /// Advances time, and applies the entries that came and the losses.
    pub fn orders(&mut self, items: &[Item], (mark, durable): (u64, u64), horizon: u64) {
        self.mark = self.mark.max(mark);
        self.replica.replay(items);
        self.record.advance(horizon);
        for (i, item) in items.iter().enumerate() {
            let (ticket, entry, after) = match item {
                Item::Ordered { ticket, entry, after } => {
                    (ticket.expect("all are ours"), Some(entry), *after)
                }
                Item::Failed(ticket) => (*ticket, None, 0),
                Item::Undone { is_end } => {
                    self.record.is_undoing = true;
                    if !is_end {
                        self.undo_last();
                    }
                    continue;
                }
                Item::Lost { from, upto } => {
                    self.record.is_undoing = false;
                    self.lose(*from, *upto);
                    self.record.advance(horizon);
                    continue;
                }
                Item::Proposed { .. } => {
                    self.continue_long_emits((items, i));
                    continue;
                }
                _ => continue,
            };
            let pending = self.pending.remove(&ticket.0).expect("a ticket is answered once");
            let conn = pending.conn;
            let result = match entry {
                None => Err(lost()),
                Some(entry) => {
                    assert_eq!(entry.change, pending.change, "another change than was proposed");
                    self.applied += 1;
                    self.apply(&pending, entry.at.0, following(items, i))
                }
            };
            if let Some(long_emit) = pending.of {
                self.continue_long_emit(*long_emit, result, after);
            } else if let Some(controller) = self.controller(conn) {
                controller.waits = false;
                self.reply_to(conn, &pending.command, result, after);
            }
        }
        self.end_long_emits();
        while let Some(past) = self.past.front().filter(|past| past.mark <= durable) {
            self.stays(past.entry);
            self.past.pop_front();
        }
    }

    /// Checks that a turn undid at most as many changes as it may deliver messages.
    pub fn takes_back_no_more_than_fits(&self, items: &[Item]) {
        let count = items.iter().filter(|item| matches!(item, Item::Undone { .. })).count();
        assert!(count <= self.limits.deliveries_per_turn, "{count} were taken back in one turn");
    }

    /// Whether changes are being undone: expired states may be back meanwhile.
    pub fn is_undoing(&self) -> bool {
        self.record.is_undoing
    }

    /// Undoes the last change.
    fn undo_last(&mut self) {
        let past = self.past.pop_back().expect("something was recorded");
        let spaces = match self.disk.is_easy {
            true => past.without_states(&self.record.spaces),
            false => past.spaces.clone(),
        };
        self.record.go_back(spaces);
        let gone = self.peers().filter(|(_, space, ..)| !self.record.spaces.contains_key(space));
        let gone: Vec<ConnId> = gone.map(|(conn, ..)| conn).collect();
        for conn in gone {
            self.part(conn, CloseReason::NamespaceRemoved);
        }
        for line in self.lines.values_mut() {
            if let Role::Browser(browser) = &mut line.role
                && let Some((space, user)) = &browser.who
                && let Some(space) = past.spaces.get(space)
            {
                // A browser that lost a channel by this change is in it again.
                for (channel, entries) in &mut browser.held {
                    if entries.pop_if(|entry| *entry == past.entry).is_some() {
                        browser.channels.insert(channel.clone());
                    }
                }
                browser.held.retain(|_, entries| !entries.is_empty());
                // A browser that joined by a lost grant is out again, even if an earlier grant
                // comes back after that: changes are undone one by one.
                browser.channels.retain(|channel| {
                    let grant = (channel.clone(), user.clone());
                    !channel.starts_with('#') || space.grants.contains(&grant)
                });
            }
        }
    }

    /// Everything recorded between these marks has been undone; replies that wait for it become
    /// errors.
    fn lose(&mut self, from: u64, upto: u64) {
        self.disk.lost(from, upto);
        let is_lost = |mark: u64| from < mark && mark <= upto;
        assert!(!self.past.iter().any(|past| is_lost(past.mark)), "not all was taken back");
        for line in self.lines.values_mut() {
            for due in line.expected.iter_mut().filter(|due| is_lost(due.after)) {
                due.what = Expected::Reply(refusal(lost()));
            }
        }
    }

    /// A controller asks for a change. `items` from `next` on hold the proposals on the tape.
    pub(super) fn propose(
        &mut self,
        conn: ConnId,
        command: Command,
        space: Option<u32>,
        (items, next): (&[Item], &mut usize),
    ) {
        if let Err(refusal) = self.record.check(&command, space, self.at()) {
            self.note_full(&refusal.1);
            return self.refuse_shown(conn, refusal);
        }
        let at = self.at();
        let found = items[*next..].iter().position(|item| matches!(item, Item::Proposed { .. }));
        if let (None, Command::Emit(emit), Some(space)) = (found, &command, space)
            && emit.channels.len() > 1
        {
            return self.begin_long_emit(conn, space, emit);
        }
        let i = *next + found.unwrap_or_else(|| panic!("{command:?} was not proposed"));
        *next = i + 1;
        let Item::Proposed { at: proposed_at, change, place } = &items[i] else { return };
        assert_eq!(proposed_at.0, at, "proposed at another time");
        let key = self.recognize(change, &command, space);
        let change = change.clone();
        let pending = Pending { conn, command, space, key, change, of: None };
        match place {
            Place::Refused => self.refuse(conn, lost()),
            Place::Later(ticket) => {
                if let Some(controller) = self.controller(conn) {
                    controller.waits = true;
                }
                self.pending.insert(ticket.0, pending);
            }
            Place::Now => {
                self.applied += 1;
                let result = self.apply(&pending, at, following(items, i));
                let is_easy = self.disk.is_easy && matches!(pending.command, Command::Store(_));
                let waits = pending.change.is_recorded() && !is_easy;
                let after = if waits { self.mark } else { 0 };
                self.reply_to(conn, &pending.command, result, after);
            }
        }
    }

    /// Checks that a change is what the command asked for; returns the key that was drawn for it.
    pub(super) fn recognize(
        &mut self,
        change: &Change<'_>,
        command: &Command,
        space: Option<u32>,
    ) -> String {
        let mut drawn = String::new();
        let ns = match (change, command) {
            (Change::Register { name, key }, Command::Register { name: asked, .. }) => {
                assert_eq!(**name, **asked);
                assert!(!self.record.keys.iter().any(|(_, old)| **old == **key), "a key again");
                return key.to_string();
            }
            (Change::Remove { ns }, Command::Remove { .. }) => *ns,
            (Change::Rotate { ns, key, grace_ms }, Command::Rotate { grace_seconds, .. }) => {
                assert_eq!(*grace_ms, grace_seconds * 1000);
                drawn = key.to_string();
                *ns
            }
            (Change::Grant { ns, channel, user }, Command::Grant { is_withdrawn: false, .. })
            | (Change::Revoke { ns, channel, user }, Command::Grant { is_withdrawn: true, .. }) => {
                let Command::Grant { channel: asked, user: whom, .. } = command else { panic!() };
                assert_eq!((&**channel, &**user), (&**asked, &**whom));
                *ns
            }
            (Change::Set { ns, channel, user, data, ttl_ms, emit }, Command::Store(store))
            | (Change::Push { ns, channel, user, data, ttl_ms, emit }, Command::Store(store)) => {
                assert_eq!(matches!(change, Change::Push { .. }), store.is_push);
                assert_eq!((&**channel, &**data), (&*store.channel, &*store.data));
                assert_eq!(user.as_deref(), store.user.as_deref());
                assert_eq!(*ttl_ms, store.ttl_seconds.map(|seconds| seconds * 1000));
                assert_eq!(*emit, store.is_emitted);
                *ns
            }
            (Change::Emit { ns, channels, data, user, except }, Command::Emit(emit)) => {
                // A channel named twice counts once.
                let is_first = |(i, name): &(usize, &String)| !emit.channels[..*i].contains(name);
                let meant = emit.channels.iter().enumerate().filter(is_first);
                assert!(channels.iter().map(|name| &**name).eq(meant.map(|(_, name)| name)));
                assert_eq!((&**data, user.as_deref()), (&*emit.data, emit.user.as_deref()));
                assert_eq!(except.map(|cid| cid.to_string()), emit.except);
                *ns
            }
            (Change::Disconnect { ns, user }, Command::Disconnect { user: asked }) => {
                assert_eq!(**user, **asked);
                *ns
            }
            _ => panic!("{change:?} was proposed for {command:?}"),
        };
        self.same_space(space, ns);
        drawn
    }

    /// Checks that the hub always uses the same id for a namespace, and no other's.
    fn same_space(&mut self, space: Option<u32>, ns: NsId) {
        let space = space.expect("the change was checked");
        let known = *self.names.entry(space).or_insert(ns);
        assert_eq!(known, ns, "another namespace");
        assert_eq!(self.names.values().filter(|other| **other == ns).count(), 1);
    }

    /// Applies an entry. `following` is what the switch did because of it.
    pub(super) fn apply(
        &mut self,
        pending: &Pending,
        at: u64,
        following: &[Item],
    ) -> Result<Outcome, Refusal> {
        self.record.advance(at);
        self.record.check(&pending.command, pending.space, at)?;
        let spaces = pending.change.is_recorded().then(|| self.record.spaces.clone());
        let outcome = self.carry(pending, at, following);
        if let Some(spaces) = spaces {
            self.note_change(pending, spaces, following);
        }
        Ok(outcome)
    }

    /// Checks that the journal knows of a change, if anything changed, and notes how to undo it.
    fn note_change(&mut self, pending: &Pending, spaces: BTreeMap<u32, Space>, following: &[Item]) {
        let mark = following.iter().rev().find_map(|item| match item {
            Item::Changed { mark, stays } => Some((*mark, *stays)),
            _ => None,
        });
        let Some((mark, stays)) = mark else {
            // The journal handles the removal of a namespace itself, and never undoes it.
            let is_end = matches!(pending.command, Command::Remove { .. });
            assert!(is_end || spaces == self.record.spaces, "a change that nobody keeps");
            return self.stays(self.applied);
        };
        assert!(mark >= self.mark, "marks fall");
        self.mark = mark;
        self.disk.changed(self.now.mono);
        if stays && self.disk.is_easy {
            assert!(matches!(pending.command, Command::Store(_)), "it must wait for the disk");
            return;
        }
        if let (Command::Store(store), Some(space)) = (&pending.command, pending.space) {
            self.marks.insert((space, store.channel.clone(), store.user.clone()), mark);
        }
        self.past.push_back(Past { mark, entry: self.applied, spaces });
    }

    fn carry(&mut self, pending: &Pending, at: u64, following: &[Item]) -> Outcome {
        let space = pending.space.unwrap_or_default();
        match &pending.command {
            Command::Register { name, .. } => {
                self.record.register(name, &pending.key);
                Outcome::Key(pending.key.clone())
            }
            Command::Rotate { grace_seconds, .. } => {
                self.record.rotate(space, &pending.key, at + grace_seconds * 1000);
                Outcome::Key(pending.key.clone())
            }
            Command::Remove { .. } => {
                self.record.spaces.remove(&space);
                // A removal is never undone.
                self.past.iter_mut().for_each(|past| drop(past.spaces.remove(&space)));
                self.let_go(space, None, CloseReason::NamespaceRemoved);
                Outcome::Done
            }
            Command::Grant { channel, user, is_withdrawn } => {
                self.grant(space, channel, user, *is_withdrawn);
                Outcome::Done
            }
            Command::Store(store) => {
                let Store { channel, user, data, ttl_seconds, is_emitted, .. } = store;
                if *is_emitted {
                    self.publish(
                        space,
                        std::slice::from_ref(channel),
                        data,
                        user,
                        &None,
                        following,
                    );
                }
                self.record.store(space, store, ttl_seconds.map(|ttl| at + ttl * 1000));
                Outcome::Done
            }
            Command::Emit(Emit { channels, data, user, except, .. }) => {
                Outcome::Count(self.publish(space, channels, data, user, except, following))
            }
            Command::Disconnect { user } => {
                Outcome::Count(self.let_go(space, Some(user), CloseReason::Disconnected))
            }
            other => panic!("{other:?} is no change"),
        }
    }

    /// Adds or withdraws a grant.
    fn grant(&mut self, space: u32, channel: &str, user: &str, is_withdrawn: bool) {
        let grant = (channel.to_string(), user.to_string());
        if let Some(space) = self.record.spaces.get_mut(&space) {
            match is_withdrawn {
                true => drop(space.grants.remove(&grant)),
                false => drop(space.grants.insert(grant)),
            }
        }
        for line in self.lines.values_mut() {
            if let Role::Browser(browser) = &mut line.role
                && is_withdrawn
                && browser.who.as_ref().is_some_and(|who| *who == (space, user.to_string()))
                && browser.channels.remove(channel)
            {
                browser.held.entry(channel.into()).or_default().push(self.applied);
            }
        }
    }

    /// The entry can no longer be undone: a browser that lost a channel by it has lost it for good.
    fn stays(&mut self, entry: u64) {
        for line in self.lines.values_mut() {
            if let Role::Browser(browser) = &mut line.role {
                for entries in browser.held.values_mut() {
                    entries.retain(|held| *held != entry);
                }
                browser.held.retain(|_, entries| !entries.is_empty());
            }
        }
    }

    /// Lets go of all connections of a user, or of a namespace; returns how many.
    fn let_go(&mut self, space: u32, user: Option<&String>, reason: CloseReason) -> usize {
        let is_meant =
            |whose: u32, who: &str| whose == space && user.is_none_or(|user| user == who);
        let meant = self.peers().filter(|(_, space, user, _)| is_meant(*space, user));
        let conns: Vec<ConnId> = meant.map(|(conn, ..)| conn).collect();
        for conn in &conns {
            self.part(*conn, reason);
        }
        conns.len()
    }

    /// Publishes a message to its subscribers; returns how many there are.
    fn publish(
        &mut self,
        space: u32,
        channels: &[String],
        data: &str,
        user: &Option<String>,
        except: &Option<String>,
        following: &[Item],
    ) -> usize {
        let to = match channels {
            [channel] if user.is_none() && except.is_none() => Some((space, channel.clone())),
            _ => None,
        };
        let gathered = self.gathered.take().filter(|(before, _)| Some(before) == to.as_ref());
        let mut pushed = gathered.map_or(BTreeMap::new(), |(_, pushed)| pushed);
        let mut reached = BTreeSet::new();
        for (i, channel) in channels.iter().enumerate() {
            if channels[..i].contains(channel) {
                continue;
            }
            let event = serde_json::to_string(channel).expect("memory takes every byte");
            let message = format!("{{\"event\":{event},\"data\":{data}}}");
            let is_meant = |(_, whose, who, browser): &(ConnId, u32, &str, &super::Browser)| {
                *whose == space
                    && browser.channels.contains(channel)
                    && user.as_ref().is_none_or(|user| user == who)
                    && (except.is_none() || browser.cid != *except)
            };
            let conns: Vec<ConnId> = self.peers().filter(is_meant).map(|(conn, ..)| conn).collect();
            for conn in conns {
                reached.insert(conn);
                *pushed.entry(conn).or_insert(0_usize) += 1;
                if let Some(line) = self.lines.get_mut(&conn) {
                    line.expect(Expected::Publication(message.clone()));
                }
            }
        }
        self.cut_the_slow(&pushed, following);
        let is_sent = |item: &Item| matches!(item, Item::Sent { is_published: true, .. });
        if !following.iter().any(is_sent) {
            // It may be sent together with the next publication to the same channel.
            self.gathered = to.map(|to| (to, pushed));
        }
        self.reached = reached;
        self.reached.len()
    }

    /// Connections cut during a publication got its first messages only, and a farewell.
    fn cut_the_slow(&mut self, pushed: &BTreeMap<ConnId, usize>, following: &[Item]) {
        for item in following {
            let Item::Closing { conn, reason: CloseReason::SlowConsumer, was_open } = item else {
                continue;
            };
            let count = *pushed.get(conn).expect("only a publication makes a peer slow");
            if !was_open {
                // It was being closed already, and leaves the hub a little earlier.
                self.leave(*conn);
                continue;
            }
            let told = |item: &Item| match item {
                Item::Backlog { conn: to, is_lost, .. } if to == conn => Some(*is_lost),
                _ => None,
            };
            let told: Vec<bool> = following.iter().filter_map(told).collect();
            let (last, before) = told.split_last().expect("it got the one that was too much");
            let is_fair = *last && !before.contains(&true);
            assert!(is_fair, "{conn:?}: cut too early, or given more: {told:?}");
            let Some(line) = self.lines.get_mut(conn) else { continue };
            let got = |item: &Item| match item {
                Item::Sent { conn: to, frame, is_published: true } if to == conn => {
                    line.see(frame).len()
                }
                _ => 0,
            };
            let got: usize = following.iter().map(got).sum();
            // It never receives the messages behind that one.
            let kept = line.expected.len() + got - count;
            line.expected.truncate(kept);
            self.dismiss(*conn, CloseReason::SlowConsumer);
        }
    }

    pub(super) fn reply_to(
        &mut self,
        conn: ConnId,
        command: &Command,
        result: Result<Outcome, Refusal>,
        after: u64,
    ) {
        let is_counted = match command {
            Command::Emit(emit) => emit.is_counted,
            Command::Disconnect { .. } => true,
            _ => false,
        };
        let body = match result {
            Err(why) if after == 0 => return self.refuse_shown(conn, why),
            Err(why) => refusal(why),
            Ok(Outcome::Key(key)) => format!("{{\"success\":true,\"secretKey\":\"{key}\"}}"),
            Ok(Outcome::Count(count)) if is_counted => {
                format!("{{\"success\":true,\"count\":{count}}}")
            }
            Ok(_) => "{\"success\":true}".into(),
        };
        self.owe(conn, Expected::Reply(body), after);
    }

    /// Replies with an error that reveals nothing of what is recorded.
    pub(super) fn refuse(&mut self, conn: ConnId, why: Refusal) {
        let code = why.0;
        self.reply(conn, refusal(why));
        self.count_wrong_key(conn, code);
    }

    /// Counts a wrong key; too many close the connection, once it has its replies.
    fn count_wrong_key(&mut self, conn: ConnId, code: u16) {
        let max = self.limits.control_wrong_keys;
        let Some(controller) = self.controller(conn).filter(|_| matches!(code, 305 | 306)) else {
            return;
        };
        controller.wrong_keys += 1;
        if controller.wrong_keys >= max {
            self.punish(conn, CloseReason::WrongKeys);
        }
    }

    /// Replies with an error that reveals what is recorded, and so may wait until that is durable.
    pub(super) fn refuse_shown(&mut self, conn: ConnId, why: Refusal) {
        let shows = match why.0 {
            313 | 314 => !self.disk.is_easy,
            code => code == 309,
        };
        let (code, after) = (why.0, if shows { self.mark } else { 0 });
        self.owe(conn, Expected::Reply(refusal(why)), after);
        self.count_wrong_key(conn, code);
    }

    pub(super) fn reply(&mut self, conn: ConnId, body: String) {
        self.owe(conn, Expected::Reply(body), 0);
    }

    /// Expects a reply that leaves once that mark is durable.
    pub(super) fn owe(&mut self, conn: ConnId, expected: Expected, after: u64) {
        let by = self.mark;
        if let Some(line) = self.lines.get_mut(&conn).filter(|line| line.closing.is_none()) {
            line.expected.push_back(Due { what: expected, after, by });
        }
    }

    /// Returns the namespace named by a command with the server key.
    pub(super) fn named(&self, name: &str, has_key: bool) -> Result<u32, Refusal> {
        if !has_key {
            return Err((306, "Invalid key".into()));
        }
        self.record.named(name).ok_or_else(no_namespace)
    }

    /// Returns the namespace that a controller is authenticated for.
    pub(super) fn authenticated(&self, auth: &Option<(u32, String)>) -> Result<u32, Refusal> {
        auth.as_ref().map(|(space, _)| *space).ok_or_else(need_auth)
    }
}

pub(super) fn lost() -> Refusal {
    (302, "Error store, try latter...".into())
}

pub(super) fn refusal((code, reason): Refusal) -> String {
    let reason = serde_json::to_string(&reason).expect("memory takes every byte");
    format!("{{\"success\":false,\"reason\":{reason},\"code\":{code}}}")
}

/// Returns what the tape has between this item and the next that concerns the order.
pub(super) fn following(items: &[Item], i: usize) -> &[Item] {
    let rest = &items[i + 1..];
    let end = rest.iter().position(Item::is_order).unwrap_or(rest.len());
    &rest[..end]
}
