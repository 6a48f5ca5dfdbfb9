//! Back ends on the control port (protocol parts 2 to 4): frames in, commands carried out one after
//! the other, replies out in the same order.
//!
//! Life of a command: `received` → parsed → either answered from the hub, or *proposed*. A proposal
//! that is ordered at once is applied at once. If it is ordered later, the connection waits
//! (`waits`) and is not read until its entry has come, so order needs no further care. A reply that
//! reports or shows something that is not durable yet waits in `replies`.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::answer_pressure::DeferredRequest;
use super::command::{self, Command, EmitOptions, MemberScanner, Refused, StoreOptions};
use super::deadlines::Deadlines;
use super::full::{Next, Wait};
use super::intake::Room;
use super::replies::{Body, PendingReply, ReplySink, SUCCESS, WORK_BYTES, info, refused, success};
use super::{Switch, WHOLE, Waiter, text};
use crate::address::ClientPrefix;
use crate::codec::{control, jwt};
use crate::edge::{ConnId, Net};
use crate::hub::{Change, LOOKED_INTO_BYTES, NsId, Outcome, Refusal, StateKeyRef};
use crate::journal::{Mark, Proposal, Ticket};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::{Millis, UnixMillis};
use crate::uuid::Uuid;

/// The connection of a back end.
#[derive(Debug, Default)]
pub(super) struct Controller {
    pub decoder: control::Decoder,
    /// What is known of a large request while it arrives.
    scanner: Option<Box<MemberScanner>>,
    /// Room for the large frame that is arriving, or its place in the queue for that.
    pub room: Option<Room>,
    pub place: Option<u64>,
    /// The address or network that it comes from, by which the unauthenticated are evicted.
    pub prefix: ClientPrefix,
    /// The namespace it acts in, and the epoch of the key it used.
    pub auth: Option<(NsId, u32)>,
    /// Its last command has no place in the order yet.
    pub waits: Option<Ticket>,
    /// Its last command is an emit that takes several turns.
    pub has_long_emit: bool,
    /// Its last command waits for room for its reply.
    pub deferred: Option<DeferredRequest>,
    /// The reply to the command that waits, or is a long emit, tells how many it has reached.
    pub counts: bool,
    /// Replies that wait until their mark is durable, and their bytes.
    pub replies: VecDeque<(Mark, PendingReply)>,
    pub replies_bytes: usize,
    /// The reservation for a large reply among those.
    pub reply_room: Option<Room>,
    /// It is not read until its replies have been sent.
    pub is_held: bool,
    /// Who has to make the room that its next command waits for, if it is not read for that.
    pub wait: Wait,
    /// It sends no more, or is no longer read: closed once all is answered.
    pub is_ended: bool,
    /// Why it is no longer read, if that is a fault.
    pub fault: Option<CloseReason>,
    pub deadlines: Deadlines,
    /// Number of wrong keys that it has tried.
    pub wrong_keys: usize,
}

/// The reply to a command, to be sent once this mark is durable; `None` if the reply has been made,
/// or comes later.
pub(super) type Answer = Option<(Body, Mark)>;

/// A reply that neither reports nor shows anything that could be lost.
fn now(body: impl Into<Body>) -> Answer {
    Some((body.into(), Mark::default()))
}

impl Controller {
    /// Creates the controller of a new connection.
    pub fn new(prefix: ClientPrefix) -> Controller {
        Controller { prefix, ..Controller::default() }
    }

    /// All replies have gone to the kernel: reads it again if it was held for that.
    pub fn drained(&mut self, net: &mut impl Net, conn: ConnId) {
        if std::mem::take(&mut self.is_held) {
            self.deadlines.replies(None);
            self.hear(net, conn);
        }
    }

    /// Reads it again. Its deadlines run on from now, not from its next byte: there may be none.
    pub fn hear(&mut self, net: &mut impl Net, conn: ConnId) {
        self.deadlines.heard(net.now().mono);
        net.deadline(conn, self.deadlines.next());
        net.resume(conn);
    }

    /// Returns the namespace it acts in.
    pub fn namespace(&self) -> Option<NsId> {
        self.auth.map(|(ns, _)| ns)
    }

    /// Whether its last command has no reply yet.
    fn is_waiting(&self) -> bool {
        self.waits.is_some() || self.has_long_emit || self.deferred.is_some()
    }

    /// Whether a command, a reply or part of a frame is pending.
    pub fn is_busy(&self) -> bool {
        self.is_waiting() || !self.replies.is_empty() || self.decoder.is_midway()
    }

    /// Whether so many of its replies wait for the disk that it must not send more commands.
    pub(super) fn is_behind(&self, limits: &Limits) -> bool {
        self.replies.len() >= limits.control_replies_waiting
            || self.replies_bytes >= limits.control_replies_pause_bytes
    }

    /// Stops reading until the replies have been sent, and sets the deadline for that.
    fn hold(&mut self, net: &mut impl Net, conn: ConnId, limits: &Limits) {
        self.is_held = true;
        let by = net.now().mono.plus(limits.control_replies_ms as u64);
        self.deadlines.replies(Some(by));
        self.deadlines.unheard(net.now().mono);
        net.deadline(conn, self.deadlines.next());
        net.pause(conn);
    }

    /// Stops reading until there is room. Meanwhile the deadlines of its frame and of `auth` stand
    /// still.
    pub fn unhear(&mut self, net: &mut impl Net, conn: ConnId) {
        self.deadlines.starved(net.now().mono);
        net.deadline(conn, self.deadlines.next());
        net.pause(conn);
    }

    /// Its deadline has passed: it does not read its replies, has left a frame incomplete, or has
    /// not authenticated.
    pub fn timed_out(&mut self, net: &mut impl Net, conn: ConnId) {
        let reason = self.deadlines.reason(net.now().mono);
        if !self.is_held {
            return self.let_go(net, conn, reason);
        }
        self.end();
        net.close(conn, reason);
    }

    /// Closes it: at once, or once it has the replies it is owed. A known fault of its own stays
    /// the reason.
    pub fn let_go(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        let reason = self.fault.unwrap_or(reason);
        self.end();
        if self.replies.is_empty() && !self.is_waiting() {
            net.close(conn, reason);
        } else {
            self.give_up(net, conn, reason);
        }
    }

    /// Stops reading it; it is closed once it has the replies it is owed.
    fn give_up(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        self.fault = Some(reason);
        self.end();
        self.deadlines.give_up();
        net.deadline(conn, None);
        net.pause(conn);
    }

    /// Carries out no more of it: a partial frame is of no use then.
    pub fn end(&mut self) {
        self.is_ended = true;
        (self.decoder, self.scanner, self.room) = Default::default();
    }

    /// Takes what has arrived of an incomplete request. A large one is scanned as it arrives:
    /// scanning eight megabytes at once would block everybody for ten milliseconds.
    fn read_on(&mut self, arrived: &[u8], limits: &Limits) {
        if arrived.len() > limits.control_frame_unauthenticated_bytes {
            self.scanner.get_or_insert_with(|| Box::new(command::scanner())).read(arrived);
        }
    }

    /// Completes the scan of a large request; `None` for a small one.
    #[inline]
    fn whole(&mut self, body: &[u8]) -> Option<Box<MemberScanner>> {
        let mut scanner = self.scanner.take()?;
        scanner.read(body);
        Some(scanner)
    }

    /// Notes that it has authenticated (`None`), or when it must have.
    pub fn admit(&mut self, net: &mut impl Net, conn: ConnId, auth_by: Option<Millis>) {
        self.deadlines.auth_by(auth_by, net.now().mono);
        net.deadline(conn, self.deadlines.next());
    }

    /// The deadline of a frame runs from its first byte, and bytes do not extend it.
    pub fn watch_frame(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        is_midway: bool,
        limits: &Limits,
    ) {
        let (before, now) = (self.deadlines, net.now().mono);
        self.deadlines.heard(now);
        self.deadlines.frame(is_midway, now, limits.control_frame_ms as u64);
        if self.deadlines != before {
            net.deadline(conn, self.deadlines.next());
        }
    }
}

impl Switch {
    pub(super) fn controller_received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        input: &[u8],
    ) -> Result<usize, CloseReason> {
        if controller.is_ended {
            return Ok(input.len());
        }
        // Taken out of the controller meanwhile, so that a body is carried out without a copy.
        let mut decoder = std::mem::take(&mut controller.decoder);
        self.reply_buffer.clear();
        let used = self.commands(net, conn, controller, &mut decoder, input);
        self.send_replies(net, conn);
        controller.decoder = decoder;
        match used {
            // Commands before the fault are answered first.
            Err(reason) if !controller.replies.is_empty() => {
                controller.give_up(net, conn, reason);
                Ok(input.len())
            }
            Err(reason) => {
                controller.end();
                Err(reason)
            }
            used => used,
        }
    }

    /// Carries out the commands that have arrived, within the budget of this turn.
    fn commands(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        decoder: &mut control::Decoder,
        input: &[u8],
    ) -> Result<usize, CloseReason> {
        let (mut used, mut commands, mut keys, queued) = (0, 0, None, net.queued(conn));
        loop {
            if controller.is_waiting() {
                net.pause(conn);
                return Ok(used);
            }
            match self.next(net, controller, decoder, &input[used..]) {
                Next::Heard => {}
                Next::Half => break,
                Next::Waits(wait) => {
                    self.wait_for_room(net, conn, controller, wait);
                    return Ok(used);
                }
            }
            let pending = queued + self.reply_buffer.len() + controller.replies_bytes;
            if pending >= self.limits.control_replies_pause_bytes {
                controller.hold(net, conn, &self.limits);
                return Ok(used);
            }
            let is_over =
                commands == self.limits.control_commands_per_turn || self.has_worked_enough();
            if is_over && used < input.len() {
                // It is the turn of others; this one continues in the next.
                net.resume(conn);
                return Ok(used);
            }
            let few = self.limits.control_frame_unauthenticated_bytes;
            let body_max = controller.auth.map_or(few, |_| self.limits.control_frame_bytes);
            if let Some(bytes) = decoder.outgrows(&input[used..], few)
                && bytes <= body_max
                && !self.has_room_for(net, conn, controller, bytes)
            {
                return Ok(used);
            }
            let decoded = decoder.next(&input[used..], body_max);
            let decoded = decoded.map_err(|_| CloseReason::ControlFraming)?;
            used += decoded.consumed;
            let Some(body) = decoded.body else {
                controller.read_on(decoder.arrived(), &self.limits);
                break;
            };
            let mut scanner = controller.whole(body);
            commands += 1;
            self.metrics.commands += 1;
            if commands == 1 {
                // The incomplete frame that was waited for is complete.
                controller.watch_frame(net, conn, false, &self.limits);
            }
            self.look_again_at_key(net, controller, &mut keys);
            let is_large = controller.room.is_some();
            self.command(net, conn, controller, (body, scanner.as_deref_mut()))?;
            if is_large {
                decoder.release();
                controller.room = None;
            }
        }
        let is_midway = decoder.is_midway() || used < input.len();
        controller.watch_frame(net, conn, is_midway, &self.limits);
        Ok(used)
    }

    /// Carries out one command, and sends its reply or queues it until it is durable.
    fn command(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        (body, mut scanner): (&[u8], Option<&mut MemberScanner>),
    ) -> Result<(), CloseReason> {
        let max = self.limits.control_frame_bytes;
        let body = match text::of_body(body, scanner.as_deref_mut(), max) {
            Ok(body) => body,
            Err(refused) => return self.refuse(net, conn, controller, &refused),
        };
        let is_authenticated = controller.auth.is_some();
        let command = command::parse(&body, scanner.as_deref(), is_authenticated, &self.limits);
        let answer = match &command {
            Ok(command) if self.puts_off(net, conn, controller, command) => return Ok(()),
            Ok(command) => self.execute(net, conn, controller, command),
            Err(refused) => return self.refuse(net, conn, controller, refused),
        };
        self.say(net, conn, controller, answer)
    }

    pub(super) fn execute(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        command: &Command<'_>,
    ) -> Result<Answer, Refused> {
        let at = self.at(net.now());
        let ns = controller.auth.map(|(ns, _)| ns).ok_or(command::NEED_AUTH);
        let change = match command {
            Command::Ping => return Ok(now(SUCCESS)),
            Command::Register { name, key } => {
                self.check_server_key(key)?;
                Change::Register { name: (**name).into(), key: new_key(net) }
            }
            Command::Remove { name, key } => {
                self.check_server_key(key)?;
                Change::Remove { ns: self.named(name)? }
            }
            Command::Rotate { name, key, grace_ms } => {
                self.check_server_key(key)?;
                Change::Rotate { ns: self.named(name)?, key: new_key(net), grace_ms: *grace_ms }
            }
            Command::Auth { name, key } => {
                let ns = self.named(name)?;
                let auth = (ns, self.key_epoch(ns, key, at)?);
                self.find_place(net, conn, ns)?;
                self.recognize(net, conn, controller, auth);
                return Ok(now(SUCCESS));
            }
            Command::Get { channel, user } => {
                let state_key = StateKeyRef { channel, user: user.as_deref() };
                self.show(conn, controller, (ns?, state_key), at);
                return Ok(None);
            }
            Command::Info { channel } => return self.list(net, ns?, channel),
            Command::Emit { channels, data, options } => {
                self.check_publication(channels.len(), data)?;
                let ns = ns?;
                let EmitOptions { user, except, .. } = options;
                if self.is_long(ns, channels, user.as_deref()) {
                    return Ok(self.begin_long(conn, controller, (ns, channels, *data), options));
                }
                let (channels, data) = (Cow::Borrowed(&**channels), Cow::Borrowed(*data));
                let user = user.as_deref().map(Cow::Borrowed);
                Change::Emit { ns, channels, data, user, except: *except }
            }
            Command::Store { channel, data, options, is_push } => {
                let StoreOptions { user, ttl_ms, emit } = options;
                self.check_publication(usize::from(*emit), data)?;
                let (ns, state_key) = (ns?, StateKeyRef { channel, user: user.as_deref() });
                self.check_state((ns, state_key), data, *is_push, at)?;
                let (channel, data) = (Cow::Borrowed(&**channel), Cow::Borrowed(*data));
                let (user, ttl_ms, emit) = (user.as_deref().map(Cow::Borrowed), *ttl_ms, *emit);
                match is_push {
                    true => Change::Push { ns, channel, user, data, ttl_ms, emit },
                    false => Change::Set { ns, channel, user, data, ttl_ms, emit },
                }
            }
            Command::Grant { channel, user, is_withdrawn } => {
                let (ns, channel, user) = (ns?, (**channel).into(), (**user).into());
                match is_withdrawn {
                    true => Change::Revoke { ns, channel, user },
                    false => Change::Grant { ns, channel, user },
                }
            }
            Command::Disconnect { user } => Change::Disconnect { ns: ns?, user: (**user).into() },
        };
        self.propose(net, conn, controller, (at, &change), command.counts())
    }

    /// Replies with the state at a place, once that is durable.
    fn show(
        &mut self,
        conn: ConnId,
        controller: &mut Controller,
        (ns, state_key): (NsId, StateKeyRef<'_>),
        at: UnixMillis,
    ) {
        let mark = self.mark_of(ns, state_key);
        let state = self.hub.state(ns, state_key.channel, state_key.user, at);
        let state = state.unwrap_or("null");
        let (durable, pending_durable) = (self.journal.durable(), &mut self.pending_durable);
        let mut sink = ReplySink { buffer: &mut self.reply_buffer, pending_durable, durable };
        sink.reply(conn, controller, state.as_bytes(), mark);
    }

    /// Lists the members of a channel, without peers closed by publications that came before.
    fn list(&mut self, net: &mut impl Net, ns: NsId, channel: &str) -> Result<Answer, Refused> {
        self.hand_out(net);
        self.work += self.hub.audience_max(ns, channel, None);
        let presence = self.hub.presence(ns, channel);
        // Leaves room for the closing braces.
        let max = self.limits.answers_bytes.min(control::BODY_MAX - 2);
        Ok(now(info(&presence, max)?))
    }

    fn propose(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        (at, change): (UnixMillis, &Change<'_>),
        counts: bool,
    ) -> Result<Answer, Refused> {
        self.hand_out_before(net, change);
        let checked = self.hub.check(change, at).map_err(|refusal| {
            if matches!(change, Change::Push { .. }) {
                // The check may have searched the list for elements to drop.
                self.work += LOOKED_INTO_BYTES / WORK_BYTES;
            }
            refused(refusal)
        })?;
        let is_recorded = change.is_recorded();
        let is_state = matches!(change, Change::Set { .. } | Change::Push { .. });
        match self.journal.propose(at, change) {
            Proposal::Now => {
                let outcome = self.apply(net, (at, change), Some(checked), WHOLE);
                let outcome = outcome.map_err(refused)?;
                // Also if nothing had to change: what was there may not be durable itself.
                let mark = match (is_recorded, is_state) {
                    (true, true) => self.journal.mark_of_states(),
                    (true, false) => self.journal.mark(),
                    (false, _) => Mark::default(),
                };
                Ok(Some((success(&outcome, counts), mark)))
            }
            Proposal::Later(ticket) => {
                (controller.waits, controller.counts) = (Some(ticket), counts);
                self.waiting.insert(ticket, Waiter::Command(conn));
                Ok(None)
            }
            Proposal::Refused => Err(command::STORE_FAILED),
        }
    }

    /// Answers a waiting command whose entry has come, or never will (`None`), once `mark` is
    /// durable.
    pub(super) fn answer_late(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        result: Option<Result<Outcome, Refusal>>,
        mark: Mark,
    ) {
        let Some(mut controller) = self.connections.take(conn) else { return };
        (controller.waits, controller.has_long_emit) = (None, false);
        let refused = match result {
            Some(Ok(outcome)) => {
                let body = success(&outcome, controller.counts);
                self.reply_sink().reply(conn, &mut controller, &body, mark);
                None
            }
            Some(Err(why)) => Some(refused(why)),
            None => Some(command::STORE_FAILED),
        };
        if let Some(refused) = refused {
            self.count_refused(net, &controller, &refused);
            self.reply_sink().refuse(conn, &mut controller, &refused, mark);
        }
        self.send_replies(net, conn);
        if controller.fault.is_none() {
            controller.hear(net, conn);
        }
        self.close_when_answered(net, conn, &mut controller);
        self.connections.put_back(conn, controller);
    }

    /// Whether there is room for another long emit. They outlive their back ends, so they are
    /// bounded separately.
    pub(super) fn has_room_for_long_emit(&self) -> bool {
        self.long_emits.len() < self.limits.control_connections
    }

    /// Reads the `waiting_for_room` connections again for which there is room now.
    pub(super) fn readmit(&mut self, net: &mut impl Net) {
        if !self.has_room_for_long_emit() {
            return;
        }
        let (is_full, is_flooded) = (!self.journal.has_room(), self.publish_pressure.is_some());
        let (connections, limits) = (&mut self.connections, &self.limits);
        self.waiting_for_room.retain(|conn| {
            let Some(controller) = connections.controller(*conn) else { return false };
            let is_early = match controller.wait {
                Wait::Disk => is_full,
                Wait::Browsers => is_flooded,
                Wait::Other => false,
            };
            if is_early || controller.is_behind(limits) {
                return true;
            }
            // A held one is read again, or closed, once its replies have been sent.
            if !controller.is_held && !controller.is_ended {
                controller.hear(net, *conn);
            }
            false
        });
    }

    /// Closes a connection that is ended, once it has all its answers.
    pub(super) fn close_when_answered(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
    ) {
        if !controller.is_ended || controller.is_waiting() || !controller.replies.is_empty() {
            return;
        }
        if net.queued(conn) == 0 {
            net.close(conn, controller.fault.unwrap_or(CloseReason::PeerClosed));
        } else {
            controller.hold(net, conn, &self.limits);
        }
    }

    /// Counts an error reply, and reports those that an operator may want to act on.
    pub(super) fn count_refused(
        &mut self,
        net: &mut impl Net,
        controller: &Controller,
        refused: &Refused,
    ) {
        self.metrics.count_refused(refused.code, 1);
        match refused.code {
            302 => self.metrics.store_failures += 1,
            305 | 306 => self.metrics.wrong_keys += 1,
            313 => self.metrics.over_limits += 1,
            _ => return,
        }
        let acts_in = controller.auth.and_then(|(ns, _)| self.hub.name(ns));
        // A wrong key concerns the namespace that was named: see `key_epoch`.
        if let (302 | 313, Some(name)) = (refused.code, acts_in) {
            self.refusal_tally.note(name);
        }
        self.report_soon(net.now());
    }

    pub(super) fn check_server_key(&self, key: &str) -> Result<(), Refused> {
        let is_right = jwt::same_key(key.as_bytes(), self.server_key.as_bytes());
        if is_right { Ok(()) } else { Err(command::INVALID_KEY) }
    }

    fn named(&self, name: &str) -> Result<NsId, Refused> {
        self.hub.namespace(name).ok_or(command::NO_NAMESPACE)
    }
}

fn new_key(net: &mut impl Net) -> Box<str> {
    let mut bytes = [0; 16];
    net.random(&mut bytes);
    Uuid::from_random(bytes).to_string().into()
}
