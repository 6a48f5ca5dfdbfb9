//! The input of clients, executed when the server has consumed it.

use std::collections::{BTreeSet, VecDeque};

use super::expected::Expected;
use super::{Browser, ConnModel, Controller, Judge, Meter, Role, View};
use crate::edge::ConnId;
use crate::frame::FRAME_COST_BYTES;
use crate::publication::Form;
use crate::reason::CloseReason;
use crate::sim::intent::{Auth, Command, Event, Intent};
use crate::sim::record::SHARE;
use crate::sim::tape::Item;

/// The memory of a frame for that connection, if the item is one.
fn sent_to(conn: ConnId, item: &Item) -> Option<usize> {
    match item {
        Item::Sent { conn: to, frame, .. } if *to == conn => Some(frame.len() + FRAME_COST_BYTES),
        _ => None,
    }
}

impl Judge {
    /// The switch was given bytes of a connection.
    pub fn received(&mut self, conn: ConnId, view: View, items: &[Item]) {
        self.replica.replay(items);
        self.meter(conn, view, items);
        if let Some(line) = self.lines.get_mut(&conn) {
            line.delivered = view.delivered;
        }
        if let Some(browser) = self.browser(conn)
            && browser.pong_by.take().is_some()
        {
            browser.held_until = None;
            let ping_at = self.deadline("heartbeat_ms");
            if let Some(browser) = self.browser(conn) {
                browser.ping_at = ping_at;
            }
        }
        if matches!(self.next_intent(conn), Some((_, _, Intent::Command(_) | Intent::NotJson))) {
            self.see_flood();
        }
        let (mut next, is_flooded) = (0, self.is_there_too_much());
        while let Some((from, to, intent)) = self.next_intent(conn) {
            let fault = self.fault(conn, to - from, &intent);
            if let Some(reason) = fault {
                let is_seen = items.iter().any(|item| {
                    matches!(item, Item::Closing { conn: of, reason: why, was_open: true }
                        if *of == conn && *why == reason)
                });
                // The length of a command comes first.
                let is_long = matches!(intent, Intent::Command(_) | Intent::NotJson);
                let known_at = if is_long { from + 4 } else { to };
                if from < view.delivered && (is_seen || known_at <= view.consumed) {
                    if let Intent::BadRequest(status) = intent {
                        self.expect(conn, Expected::Http(status));
                    }
                    self.punish(conn, reason);
                }
                break;
            }
            if to > view.consumed {
                break;
            }
            if let Some(line) = self.lines.get_mut(&conn) {
                line.intents.pop_front();
                (line.half, line.half_at_rest) = (None, None);
            }
            let is_command = matches!(intent, Intent::Command(_) | Intent::NotJson);
            // Short commands may be, while not much more is queued.
            let few = self.limits.control_frame_unauthenticated_bytes as u64;
            let is_long = is_command && to - from > few + 5;
            assert!(!is_long || !is_flooded, "{conn:?} is heard, and there is no room");
            let is_last = self.next_intent(conn).is_none_or(|(_, to, _)| to > view.consumed);
            if let (Intent::Command(command), true) =
                (&intent, is_last && self.meter.put_off.is_some())
            {
                self.want(conn, command.clone());
                continue;
            }
            self.carry_out(conn, intent, (items, &mut next));
        }
        if self.browser(conn).is_some_and(|browser| browser.is_read_ahead) {
            self.renew(conn);
        }
        self.note_half(conn, view);
    }

    /// There is room for the answer to a request that waited: executes it and what follows.
    pub(super) fn resumed(&mut self, conn: ConnId, items: &[Item]) {
        let before = self.lines.get(&conn).map_or(0, ConnModel::queued);
        self.meter_from(conn, before, items);
        if let Some(controller) = self.controller(conn) {
            let command = controller.deferred.take().expect("it waits for room");
            return self.command(conn, command, (&[], &mut 0));
        }
        let Some(browser) = self.browser(conn) else { panic!("{conn:?} asks for nothing") };
        assert!(std::mem::take(&mut browser.waits_for_room), "{conn:?} does not wait for room");
        self.catch_up(conn);
    }

    /// A command of a back end waits for room for its reply.
    fn want(&mut self, conn: ConnId, command: Command) {
        let is_question = matches!(command, Command::Get { .. } | Command::Info { .. });
        assert!(is_question, "{conn:?}: {command:?} is put off");
        self.meter.put_off = None;
        if let Some(controller) = self.controller(conn) {
            controller.deferred = Some(command);
        }
    }

    /// How much an event asks for, in bytes.
    fn asks_for(&mut self, conn: ConnId, event: &Event) -> usize {
        let at = self.at();
        let Event::Subscribe { channel, .. } = event else { return 0 };
        let Some((space, user)) = self.browser(conn).and_then(|b| b.who.clone()) else { return 0 };
        let of = channel.starts_with('@').then_some(user.as_str());
        let space = self.record.spaces.get(&space);
        let state = space.and_then(|space| space.state(channel, of, at));
        state.map_or(0, |state| state.text.len())
    }

    /// Whether this is the event that was put off; if so, that is noted.
    fn is_put_off(&mut self, conn: ConnId, event: &Event) -> bool {
        let (bytes, pause, max) = (
            self.asks_for(conn, event),
            self.limits.answers_pause_bytes,
            self.limits.answers_bytes,
        );
        if bytes < pause / 64 {
            return false;
        }
        // Short answers have an eighth more, on top of what namespaces that are owed little have.
        let max = if bytes <= pause / 4 { max + max / 4 + max / 8 } else { max };
        let due = self.lines.get(&conn).map_or(0, |line| line.expected.len());
        let is_here = self.meter.put_off == Some(due.saturating_sub(self.meter.start));
        let has_room = self.meter.answers <= max;
        assert!(is_here || has_room, "{conn:?} is heard, and there is no room");
        if is_here {
            self.meter.put_off = None;
        }
        is_here
    }

    /// Everything queued for a connection has gone out: events that waited for that are executed.
    pub fn drained(&mut self, conn: ConnId, view: View, items: &[Item]) {
        self.meter(conn, view, items);
        self.catch_up(conn);
    }

    /// Notes what was queued when a call into the switch began, and what it sent.
    fn meter(&mut self, conn: ConnId, view: View, items: &[Item]) {
        let sent = items.iter().filter_map(|item| sent_to(conn, item));
        let sent: usize = sent.sum();
        self.meter_from(conn, view.queued.saturating_sub(sent), items);
    }

    pub(super) fn meter_from(&mut self, conn: ConnId, before: usize, items: &[Item]) {
        let sent = items.iter().filter_map(|item| sent_to(conn, item)).collect();
        let start = self.lines.get(&conn).map_or(0, |line| line.expected.len());
        let is_put_off = |item: &Item| match item {
            Item::PutOff { conn: of, is_waiting } => *of == conn && *is_waiting,
            _ => false,
        };
        let put_off = items
            .iter()
            .position(is_put_off)
            .map(|at| items[..at].iter().filter_map(|item| sent_to(conn, item)).count());
        let answers = self.answers_bytes();
        self.meter = Meter { before, sent, start, put_off, answers };
    }

    /// What was queued for it at this point of the call, after everything so far was sent.
    fn queued_by_now(&self, conn: ConnId) -> usize {
        let due = self.lines.get(&conn).map_or(0, |line| line.expected.len());
        let count = due.saturating_sub(self.meter.start);
        self.meter.before + self.meter.sent.iter().take(count).sum::<usize>()
    }

    /// How much may be queued for it before its events wait.
    fn pause_bytes(&self, conn: ConnId) -> usize {
        match self.lines.get(&conn).map(|line| &line.role) {
            Some(Role::Browser(browser)) if browser.who.is_none() => {
                self.limits.answers_unauthenticated_bytes
            }
            _ => self.limits.answers_pause_bytes,
        }
    }

    /// A browser has come that is not authenticated: the oldest of those may have to go.
    fn make_room_for_unauthenticated(&mut self) {
        let unauthenticated = self.lines.iter().filter_map(|(conn, line)| match &line.role {
            Role::Browser(browser) if !line.is_gone && browser.is_unauthenticated => {
                Some((browser.number, *conn))
            }
            _ => None,
        });
        let (count, oldest) = (unauthenticated.clone().count(), unauthenticated.min());
        let max = self.limits.sessions_unauthenticated;
        if let Some((_, oldest)) = oldest.filter(|_| count > max) {
            // Those before it stay, even if there are more than permitted now.
            self.deadlines.note("sessions_unauthenticated", count - 1);
            self.dismiss(oldest, CloseReason::AuthTimeout);
        }
    }

    /// Executes events until too much is queued; the others wait.
    pub(super) fn hear(&mut self, conn: ConnId, mut events: VecDeque<Event>) {
        while let Some(event) = events.pop_front() {
            // After a close nothing is executed any more.
            if self.lines.get(&conn).is_none_or(|line| line.closing.is_some()) {
                return;
            }
            if self.is_put_off(conn, &event) {
                events.push_front(event);
                if let Some(browser) = self.browser(conn) {
                    (browser.pending, browser.waits_for_room) = (events, true);
                }
                return;
            }
            self.event(conn, event);
            if self.queued_by_now(conn) >= self.pause_bytes(conn) {
                if let Some(browser) = self.browser(conn) {
                    browser.pending = events;
                }
                return;
            }
        }
        if let Some(browser) = self.browser(conn) {
            browser.is_read_ahead = false;
        }
    }

    /// It broke a rule: a browser is closed now, a controller once it has its replies.
    pub(super) fn punish(&mut self, conn: ConnId, reason: CloseReason) {
        match self.controller(conn) {
            Some(controller) => (controller.is_ended, controller.fault) = (true, Some(reason)),
            None => self.dismiss(conn, reason),
        }
    }

    /// The reason for which a controller is being let go, or may be.
    pub(super) fn end_of(&self, conn: ConnId) -> Option<CloseReason> {
        let line = self.lines.get(&conn)?;
        let Role::Controller(controller) = &line.role else { return None };
        if controller.is_ended {
            return Some(controller.fault.unwrap_or(CloseReason::PeerClosed));
        }
        // A violation may be noticed before all of it is there.
        let (from, to, intent) = line.intents.front()?;
        self.fault(conn, to - from, intent).filter(|_| *from < line.delivered)
    }

    /// The client sends no more, and all its input has been executed.
    pub fn ended(&mut self, conn: ConnId) {
        match self.controller(conn) {
            Some(controller) => controller.is_ended = true,
            None => self.close(conn, CloseReason::PeerClosed),
        }
    }

    /// The client sends no more while it is paused: a browser is closed.
    pub fn hung_up(&mut self, conn: ConnId) {
        if self.browser(conn).is_some() {
            self.close(conn, CloseReason::PeerClosed);
        }
    }

    fn next_intent(&self, conn: ConnId) -> Option<(u64, u64, Intent)> {
        let line = self.lines.get(&conn).filter(|line| line.closing.is_none())?;
        let is_ended = matches!(&line.role, Role::Controller(c) if c.is_ended);
        line.intents.front().filter(|_| !is_ended).cloned()
    }

    /// The reason for which this intent cannot be accepted at present.
    fn fault(&self, conn: ConnId, bytes: u64, intent: &Intent) -> Option<CloseReason> {
        let limits = &self.limits;
        match (&self.lines.get(&conn)?.role, intent) {
            (_, Intent::Violation(reason)) => Some(*reason),
            (_, Intent::BadRequest(_)) => Some(CloseReason::BadHttp),
            (Role::Controller(controller), Intent::Command(_) | Intent::NotJson) => {
                let max = match controller.auth {
                    Some(_) => limits.control_frame_bytes,
                    None => limits.control_frame_unauthenticated_bytes,
                };
                (bytes - 5 > max as u64).then_some(CloseReason::ControlFraming)
            }
            _ => None,
        }
    }

    fn carry_out(&mut self, conn: ConnId, intent: Intent, orders: (&[Item], &mut usize)) {
        self.pay(conn, &intent);
        match intent {
            Intent::Command(command) => self.command(conn, command, orders),
            Intent::NotJson => {
                self.refuse(conn, (301, "Body is not JSON".into()));
                self.punish(conn, CloseReason::ControlJson);
            }
            Intent::Upgrade(_) if self.is_stopping => {
                self.expect(conn, Expected::Http(503));
                self.close(conn, CloseReason::Answered);
            }
            Intent::ProxyHeader(Some(client)) => self.note_proxy_header(conn, client.into()),
            Intent::Named(client) => self.is_named(conn, client),
            Intent::Upgrade(form) => {
                let (auth_by, ping_at) = (self.deadline("auth_ms"), self.deadline("heartbeat_ms"));
                let Some(line) = self.lines.get_mut(&conn) else { return };
                line.expect(Expected::Http(101));
                if form == Form::SockJs {
                    line.expect(Expected::SockOpen);
                }
                self.browsers += 1;
                let browser = Browser::new(self.browsers, form, auth_by, ping_at);
                line.role = Role::Browser(browser);
                self.make_room_for_unauthenticated();
            }
            Intent::Request { status, is_last } => {
                let next_by = self.deadline("http_head_ms");
                let Some(line) = self.lines.get_mut(&conn) else { return };
                line.expect(Expected::Http(status));
                line.role = Role::Http(next_by);
                line.is_answered_once = true;
                if is_last {
                    self.close(conn, CloseReason::Answered);
                }
            }
            Intent::Strange => {
                let Some(line) = self.lines.get_mut(&conn) else { return };
                line.expect(Expected::Http(403));
                self.close(conn, CloseReason::OriginRefused);
            }
            Intent::Message(events) => self.message(conn, events),
            Intent::Ping(payload) => self.expect(conn, Expected::Pong(payload)),
            Intent::Pong | Intent::ProxyHeader(None) => {}
            Intent::Close(said) => {
                self.expect(conn, Expected::Close(said.or(Some((1000, String::new())))));
                self.close(conn, CloseReason::PeerClosed);
            }
            Intent::Violation(_) | Intent::BadRequest(_) => panic!("it has been punished"),
        }
    }

    fn message(&mut self, conn: ConnId, mut events: Vec<Event>) {
        let is_raw = self.browser(conn).is_some_and(|browser| browser.form == Form::Raw);
        if events.is_empty() && is_raw {
            events.push(Event::Nothing);
        }
        if let Some(browser) = self.browser(conn).filter(|browser| browser.is_read_ahead) {
            return browser.pending.extend(events);
        }
        self.hear(conn, events.into());
    }

    fn expect(&mut self, conn: ConnId, expected: Expected) {
        if let Some(line) = self.lines.get_mut(&conn) {
            line.expect(expected);
        }
    }

    fn command(&mut self, conn: ConnId, command: Command, orders: (&[Item], &mut usize)) {
        let at = self.at();
        self.disk_wait.heard += u64::from(self.disk_wait.is_met);
        let Some(Controller { auth, waits, .. }) = self.controller(conn) else {
            panic!("{conn:?} is no controller")
        };
        assert!(!*waits, "{conn:?}: carried out before the command in front of it");
        let auth = auth.take().filter(|(space, key)| self.record.opens(*space, key, at));
        if let Some(controller) = self.controller(conn) {
            controller.auth = auth.clone();
        }
        let space = match &command {
            Command::Ping => return self.reply(conn, "{\"success\":true}".into()),
            Command::Wrong { needs_auth: true, .. } if auth.is_none() => {
                return self.refuse(conn, (311, "Need auth".into()));
            }
            Command::Wrong { code, reason, .. } => {
                return self.refuse(conn, (*code, reason.clone()));
            }
            Command::Register { has_key: false, .. } => {
                return self.refuse(conn, (306, "Invalid key".into()));
            }
            Command::Register { .. } => Ok(None),
            Command::Remove { name, has_key } | Command::Rotate { name, has_key, .. } => {
                self.named(name, *has_key).map(Some)
            }
            Command::Auth { name, key } => {
                return self.auth_controller(conn, name, key, orders.0);
            }
            _ => self.authenticated(&auth).map(Some),
        };
        let space = match space {
            Ok(space) => space,
            Err(refusal) => return self.refuse_shown(conn, refusal),
        };
        match (&command, space.and_then(|space| self.record.spaces.get(&space))) {
            (Command::Get { channel, user }, Some(record)) => {
                let state = record.state(channel, user.as_deref(), at);
                let body = state.map_or("null".to_string(), |state| state.text.clone());
                let place = (space.unwrap_or_default(), channel.clone(), user.clone());
                let after = self.marks.get(&place).copied().unwrap_or_default();
                self.owe(conn, Expected::Reply(body), after);
            }
            (Command::Info { channel }, _) => {
                let members = self
                    .peers()
                    .filter(|(_, of, _, browser)| {
                        Some(*of) == space && browser.channels.contains(channel)
                    })
                    .map(|(_, _, user, browser)| {
                        (browser.cid.clone().unwrap_or_default(), user.to_string())
                    });
                let info = Expected::Info(members.collect());
                self.owe(conn, info, 0);
            }
            _ => self.propose(conn, command, space, orders),
        }
    }

    fn auth_controller(&mut self, conn: ConnId, name: &str, key: &str, items: &[Item]) {
        let at = self.at();
        let Some(space) = self.record.named(name) else {
            return self.refuse_shown(conn, (404, "Name space not found".into()));
        };
        if !self.record.opens(space, key, at) {
            return self.refuse_shown(conn, (305, "Invalid sKey".into()));
        }
        if !self.finds_place(conn, space, items) {
            let max = self.authenticated_max();
            let rest = "what is left is for other name spaces";
            let why = format!("Too many back ends in all, at most {max}: {rest}");
            return self.refuse_shown(conn, (313, why));
        }
        if let Some(controller) = self.controller(conn) {
            controller.auth = Some((space, key.to_string()));
            (controller.unauthenticated, controller.was_authenticated) = (None, true);
        }
        self.reply(conn, "{\"success\":true}".into());
    }

    pub(super) fn event(&mut self, conn: ConnId, event: Event) {
        let ok = "{\"ok\":true}";
        if let Some(reason) = self.browser(conn).and_then(|browser| browser.parting) {
            return self.dismiss(conn, reason);
        }
        let (unix, expires) = (self.now.unix.0, self.browser(conn).and_then(|it| it.expires));
        match event {
            Event::Subscribe { .. } | Event::BadSubscribe { .. }
                if expires.is_some_and(|end| end * 1000 <= unix) =>
            {
                self.dismiss(conn, CloseReason::TokenExpired);
            }
            Event::Nothing => {}
            Event::Ping { clb } => self.answer(conn, &clb, ok),
            Event::Auth(auth) => {
                if let Err(reason) = self.auth(conn, &auth) {
                    self.dismiss(conn, reason);
                }
            }
            Event::BadSubscribe { clb, reason } => {
                let is_authenticated = self.browser(conn).is_some_and(|b| b.who.is_some());
                let reason = if is_authenticated { &*reason } else { "need auth" };
                self.answer(conn, &clb, &format!("{{\"ok\":false,\"reason\":\"{reason}\"}}"));
            }
            Event::Subscribe { channel, clb } => self.subscribe(conn, &channel, &clb),
            Event::Unsubscribe { channel, clb } => {
                if let Some(browser) = self.browser(conn) {
                    browser.channels.remove(&channel);
                    browser.held.remove(&channel);
                }
                self.answer(conn, &clb, ok);
            }
        }
    }

    fn answer(&mut self, conn: ConnId, clb: &Option<String>, data: &str) {
        if let (Some(clb), Some(line)) = (clb, self.lines.get_mut(&conn)) {
            line.message(format!("{{\"event\":\"callBackAnswer\",\"clb\":{clb},\"data\":{data}}}"));
        }
    }

    /// The user that an `auth` would make of a browser now.
    pub(super) fn identity(&self, auth: &Auth) -> Result<(u32, String), CloseReason> {
        if let Some(fault @ (CloseReason::AuthWithoutToken | CloseReason::AuthWithoutNamespace)) =
            auth.fault
        {
            return Err(fault);
        }
        let space = self.record.named(&auth.space).ok_or(CloseReason::UnknownNamespace)?;
        let seconds = self.now.unix.0 / 1000;
        let is_good = self.record.opens(space, &auth.key, self.at())
            && auth.expires.is_none_or(|end| seconds < end)
            && auth.user.len() <= self.limits.name_bytes;
        if auth.fault.is_some() || !is_good {
            return Err(CloseReason::InvalidToken);
        }
        Ok((space, auth.user.clone()))
    }

    fn auth(&mut self, conn: ConnId, auth: &Auth) -> Result<(), CloseReason> {
        let who = self.identity(auth)?;
        let space = who.0;
        let Some(browser) = self.browser(conn) else { return Ok(()) };
        if browser.who.as_ref() != Some(&who) {
            self.leave(conn);
            let same = self.peers().filter(|(_, of, user, _)| (*of, *user) == (space, &auth.user));
            if same.count() >= self.limits.connections_per_user {
                return Err(CloseReason::UserFull);
            }
        }
        if let Some(browser) = self.browser(conn) {
            browser.who = Some(who);
            browser.is_unauthenticated = false;
            browser.expires = auth.expires;
            browser.overdue_since = None;
        }
        self.expect(
            conn,
            Expected::AuthOk(auth.expires.map(|end| (end * 1000 - self.now.unix.0) / 1000)),
        );
        Ok(())
    }

    fn subscribe(&mut self, conn: ConnId, channel: &str, clb: &Option<String>) {
        let at = self.at();
        let Some(browser) = self.browser(conn) else { return };
        let (who, is_in) = (browser.who.clone(), browser.channels.contains(channel));
        let channels = browser.channels.len();
        let record = who.as_ref().and_then(|(space, _)| self.record.spaces.get(space));
        let (Some((space, user)), Some(record)) = (&who, record) else {
            return self.answer(conn, clb, "{\"ok\":false,\"reason\":\"need auth\"}");
        };
        let grant = (channel.to_string(), user.clone());
        if channel.starts_with('#') && !record.grants.contains(&grant) {
            return self.answer(conn, clb, "{\"ok\":false,\"reason\":\"no grant\"}");
        }
        if let Some(reason) = self.crowd(*space, channels).filter(|_| !is_in) {
            self.note_full(&reason);
            let data = format!("{{\"ok\":false,\"reason\":\"{reason}\"}}");
            return self.answer(conn, clb, &data);
        }
        let of = channel.starts_with('@').then_some(user.as_str());
        let state = record.state(channel, of, at).map(|state| state.text.clone());
        if let Some(browser) = self.browser(conn) {
            browser.channels.insert(channel.to_string());
        }
        self.answer(conn, clb, "{\"ok\":true}");
        if let (Some(state), Some(line)) = (state, self.lines.get_mut(&conn)) {
            let event = serde_json::to_string(channel).expect("memory takes every byte");
            line.message(format!("{{\"event\":{event},\"data\":{state}}}"));
        }
    }

    /// Why a connection with so many channels gets no more.
    fn crowd(&self, space: u32, channels: usize) -> Option<String> {
        let (max, most) = (self.limits.channels_per_connection, self.limits.subscriptions);
        if channels >= max {
            return Some(format!("too many channels, at most {max}"));
        }
        let of = |it: &Browser| it.channels.len();
        let in_all: usize = self.peers().map(|(.., it)| of(it)).sum();
        let own: usize =
            self.peers().filter(|(_, at, ..)| *at == space).map(|(.., it)| of(it)).sum();
        if in_all >= most {
            return Some(format!("too many subscriptions in all, at most {most}"));
        }
        // How many more the namespace could take, one after the other.
        let fits = |more: &usize| own + more <= SHARE * (most - in_all - more);
        let room = (0..most - in_all).take_while(fits).count();
        let others = "what is left is for others";
        (room == 0 || most >= 64 && channels > room / 64)
            .then(|| format!("too many subscriptions in all, at most {most}: {others}"))
    }

    /// Counts a refusal for want of room, by its text without the number.
    pub(super) fn note_full(&mut self, reason: &str) {
        if let Some((what, rest)) = reason.split_once(", at most ") {
            let of = if rest.contains(':') { "share" } else { "limit" };
            *self.full.entry(format!("{what}: {of}")).or_default() += 1;
        }
    }

    /// How many namespaces, channels, users, peers and states the hub must have.
    pub fn sizes(&self) -> [usize; 5] {
        let (mut channels, mut users, mut peers) = (BTreeSet::new(), BTreeSet::new(), 0);
        for (_, space, user, browser) in self.peers() {
            peers += 1;
            users.insert((space, user));
            let there = browser.channels.iter().chain(browser.held.keys());
            channels.extend(there.map(|channel| (space, channel)));
        }
        let spaces = self.record.spaces.len();
        [spaces, channels.len(), users.len(), peers, self.record.states()]
    }
}
