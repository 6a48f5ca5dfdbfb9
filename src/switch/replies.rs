//! Replies to back ends: their texts, and how they leave. Those that may leave by the end of a call
//! do so as one frame; one that reports or shows what is not durable yet waits for that.

use std::borrow::Cow;

use super::Switch;
use super::command::{self, Refused};
use super::control::{Answer, Controller};
use crate::codec::{control, json};
use crate::edge::{ConnId, Net};
use crate::frame::Frame;
use crate::hub::{KeyRef, NsId, Outcome, Presence, Refusal, StateKeyRef};
use crate::journal::Mark;
use crate::reason::CloseReason;

/// Bytes of replies that count as one message delivered, in the work of a turn.
pub(super) const WORK_BYTES: usize = 256;
/// Size of one connection in the answer to `channelInfo`, with a user name of ten bytes.
const MEMBER_BYTES: usize = 52;
/// The most memory allocated in advance for the next replies.
const BUFFER_BYTES: usize = 64 * 1024;

pub(super) const SUCCESS: &[u8] = b"{\"success\":true}";
/// The body of [`command::STORE_FAILED`], which replaces every reply that is lost.
const LOST: &[u8] = b"{\"success\":false,\"reason\":\"Error store, try latter...\",\"code\":302}";

/// The body of a reply. Most are [`SUCCESS`], which is not copied.
pub(super) type Body = Cow<'static, [u8]>;

/// A reply that waits for the disk.
#[derive(Debug)]
pub(super) enum PendingReply {
    /// [`SUCCESS`]
    Success,
    /// Any other result of a command.
    Said(Box<[u8]>),
    /// A refusal, which has been counted.
    Refusal(Box<[u8]>),
    /// What it reported or showed is lost: [`LOST`].
    Lost,
}

impl PendingReply {
    fn of(body: &[u8]) -> PendingReply {
        if body == SUCCESS { PendingReply::Success } else { PendingReply::Said(body.into()) }
    }

    /// Returns the bytes that are sent.
    pub fn body(&self) -> &[u8] {
        match self {
            PendingReply::Success => SUCCESS,
            PendingReply::Said(body) | PendingReply::Refusal(body) => body,
            PendingReply::Lost => LOST,
        }
    }
}

/// Takes replies: those that may leave go out with the next [`Switch::send_replies`], the others
/// wait for the disk.
pub(super) struct ReplySink<'a> {
    pub buffer: &'a mut Vec<u8>,
    pub pending_durable: &'a mut Vec<ConnId>,
    pub durable: Mark,
}

impl ReplySink<'_> {
    /// Adds a reply, or queues it until what it reports or shows is durable.
    #[inline]
    pub fn reply(&mut self, conn: ConnId, controller: &mut Controller, body: &[u8], mark: Mark) {
        if controller.replies.is_empty() && mark <= self.durable {
            return control::encode_into(self.buffer, body);
        }
        self.queue_reply(conn, controller, PendingReply::of(body), mark);
    }

    /// The same for a refusal.
    pub fn refuse(&mut self, conn: ConnId, controller: &mut Controller, why: &Refused, mark: Mark) {
        let body = refusal(why);
        if controller.replies.is_empty() && mark <= self.durable {
            return control::encode_into(self.buffer, &body);
        }
        self.queue_reply(conn, controller, PendingReply::Refusal(body.into()), mark);
    }

    /// Queues a reply until its mark is durable and all replies before it have left.
    fn queue_reply(
        &mut self,
        conn: ConnId,
        controller: &mut Controller,
        pending: PendingReply,
        mark: Mark,
    ) {
        if controller.replies.is_empty() {
            self.pending_durable.push(conn);
        }
        controller.replies_bytes += pending.body().len();
        controller.replies.push_back((mark, pending));
    }
}

impl Switch {
    /// Borrows the reply sink.
    pub(super) fn reply_sink(&mut self) -> ReplySink<'_> {
        let durable = self.journal.durable();
        ReplySink {
            buffer: &mut self.reply_buffer,
            pending_durable: &mut self.pending_durable,
            durable,
        }
    }

    /// Returns the bytes of all replies that wait for the disk.
    pub(super) fn pending_reply_bytes(&self) -> usize {
        let pending_durable =
            self.pending_durable.iter().filter_map(|conn| self.connections.look_at(*conn));
        pending_durable.map(|controller| controller.replies_bytes).sum()
    }

    /// Sends the answer to a command, or queues it.
    #[inline(always)]
    pub(super) fn say(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        answer: Result<Answer, Refused>,
    ) -> Result<(), CloseReason> {
        match answer {
            Ok(None) => {}
            Ok(Some((body, mark))) => self.reply_sink().reply(conn, controller, &body, mark),
            Err(refused) => return self.refuse(net, conn, controller, &refused),
        }
        Ok(())
    }

    /// Sends the refusal of a command, or queues it. An error closes the connection after that.
    pub(super) fn refuse(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        refused: &Refused,
    ) -> Result<(), CloseReason> {
        self.count_refused(net, controller, refused);
        // A refusal for a taken name or for a state shows what is recorded: it waits for the disk.
        // Others do not: no name goes before that is durable, and a key is known by what it opens.
        let mark = match refused.code {
            309 => self.journal.mark(),
            313 | 314 => self.journal.mark_of_states(),
            _ => Mark::default(),
        };
        self.reply_sink().refuse(conn, controller, refused, mark);
        match refused.code {
            301 => return Err(CloseReason::ControlJson),
            305 | 306 => controller.wrong_keys += 1,
            _ => return Ok(()),
        }
        if controller.wrong_keys >= self.limits.control_wrong_keys {
            return Err(CloseReason::WrongKeys);
        }
        Ok(())
    }

    /// Tells the waiting back ends that what was recorded between these marks is lost and undone.
    pub(super) fn lose(&mut self, net: &mut impl Net, from: Mark, upto: Mark) {
        let mut lost = 0;
        for conn in &self.pending_durable {
            let Some(controller) = self.connections.controller(*conn) else { continue };
            let acts_in = controller.auth.and_then(|(ns, _)| self.hub.name(ns));
            let is_lost = |mark: Mark| from < mark && mark <= upto;
            for (_, pending) in controller.replies.iter_mut().filter(|(mark, _)| is_lost(*mark)) {
                let is_news = !matches!(pending, PendingReply::Refusal(_));
                *pending = PendingReply::Lost;
                lost += u64::from(is_news);
                if let Some(name) = acts_in.filter(|_| is_news) {
                    self.refusal_tally.note(name);
                }
            }
            controller.replies_bytes =
                controller.replies.iter().map(|(_, pending)| pending.body().len()).sum();
        }
        self.metrics.store_failures += lost;
        self.metrics.count_refused(command::STORE_FAILED.code, lost);
        self.report_soon(net.now());
    }

    /// Removes a back end that has gone from all queues.
    pub(super) fn leave_lines(&mut self, conn: ConnId, controller: &Controller) {
        let is_another = |other: &ConnId| *other != conn;
        self.pending_durable.retain(is_another);
        self.waiting_for_room.retain(is_another);
        self.room_queue.retain(is_another);
        if let Some(ticket) = controller.waits {
            self.waiting.remove(&ticket);
        }
        if let Some(place) = controller.place {
            self.intake.leave(place);
        }
    }

    /// Returns the mark that a reply showing this state waits for.
    pub(super) fn mark_of(&self, ns: NsId, state_key: StateKeyRef<'_>) -> Mark {
        let number = self.hub.number(ns).unwrap_or_default();
        self.journal.mark_of(KeyRef::State { ns: number, state_key })
    }

    /// Makes a place when all connections are taken: of the back ends that are ended and wait only
    /// for the disk, the one that has waited longest is closed without its replies. Most of those
    /// have nobody left to read them. Returns whether there was one.
    pub(super) fn dismiss_ended(&mut self, net: &mut impl Net) -> bool {
        // Saves a search of all of `pending_durable` for each newcomer.
        if !self.may_be_ended {
            return false;
        }
        let connections = &self.connections;
        let may_go = |conn: &ConnId| {
            let controller = connections.look_at(*conn);
            controller.is_some_and(|it| it.is_ended && it.waits.is_none() && !it.has_long_emit)
        };
        let at = self.pending_durable.iter().position(may_go);
        self.may_be_ended = at.is_some();
        let Some(at) = at else { return false };
        let conn = self.pending_durable.remove(at);
        if let Some(controller) = self.connections.controller(conn) {
            (controller.replies, controller.replies_bytes) = Default::default();
            (controller.reply_room, controller.deferred) = (None, None);
            net.expel(conn, controller.fault.unwrap_or(CloseReason::Full));
        }
        true
    }

    /// Sends the replies that have become durable, within the budget of a turn.
    pub(super) fn release(&mut self, net: &mut impl Net) {
        let (durable, mut work) = (self.journal.durable(), 0);
        let mut pending_durable = std::mem::take(&mut self.pending_durable).into_iter();
        while work < self.limits.deliveries_per_turn
            && let Some(conn) = pending_durable.next()
        {
            let Some(mut controller) = self.connections.take(conn) else { continue };
            while controller.replies.front().is_some_and(|(mark, _)| *mark <= durable) {
                let Some((_, pending)) = controller.replies.pop_front() else { break };
                controller.replies_bytes -= pending.body().len();
                control::encode_into(&mut self.reply_buffer, pending.body());
            }
            work += self.reply_buffer.len().div_ceil(WORK_BYTES);
            self.send_replies(net, conn);
            if controller.replies.is_empty() {
                controller.reply_room = None;
            }
            if !controller.replies.is_empty() || self.still_wants(net, conn, &controller) {
                self.pending_durable.push(conn);
                self.may_be_ended |= controller.is_ended;
            }
            self.close_when_answered(net, conn, &mut controller);
            self.connections.put_back(conn, controller);
        }
        // The rest follow in the next turn.
        self.is_releasing = pending_durable.len() > 0;
        self.may_be_ended |= self.is_releasing;
        let seen = std::mem::replace(&mut self.pending_durable, pending_durable.collect());
        self.pending_durable.extend(seen);
        self.resume_waiting(net);
        self.readmit(net);
    }

    /// Sends the pending replies as one frame: clients read a reply as one piece (protocol part 2),
    /// and one write takes many.
    pub(super) fn send_replies(&mut self, net: &mut impl Net, conn: ConnId) {
        if self.reply_buffer.is_empty() {
            return;
        }
        // Copying states of megabytes takes time, too.
        self.work += self.reply_buffer.len() / WORK_BYTES;
        // The next replies get a buffer of the same size, up to a bound.
        let next = Vec::with_capacity(self.reply_buffer.len().min(BUFFER_BYTES));
        let frame = Frame::from(std::mem::replace(&mut self.reply_buffer, next));
        net.send(conn, frame);
    }
}

#[inline]
pub(super) fn success(outcome: &Outcome, counts: bool) -> Body {
    let body = match outcome {
        Outcome::Key(key) => format!("{{\"success\":true,\"secretKey\":\"{key}\"}}"),
        Outcome::Reached(count) if counts => format!("{{\"success\":true,\"count\":{count}}}"),
        Outcome::Done | Outcome::Reached(_) => return Cow::Borrowed(SUCCESS),
    };
    Cow::Owned(body.into_bytes())
}

pub(super) fn refused(refusal: Refusal) -> Refused {
    match refusal {
        Refusal::NameTaken => command::NAME_TAKEN,
        Refusal::Gone => command::NEED_AUTH,
        Refusal::NoNamespace => command::NO_NAMESPACE,
        Refusal::NotAList => Refused::new(314, "State is not a list"),
        Refusal::StateTooLarge(max) => {
            Refused { code: 313, reason: format!("State is too large, at most {max} bytes").into() }
        }
        Refusal::TooMany(what, max) => {
            Refused { code: 313, reason: format!("Too many {what}, at most {max}").into() }
        }
        Refusal::Share(what, max) => {
            let rest = "what is left is for other name spaces";
            Refused { code: 313, reason: format!("Too many {what}, at most {max}: {rest}").into() }
        }
    }
}

/// `{"success":false,"reason":TEXT,"code":NUMBER}` (protocol part 3).
pub(super) fn refusal(refused: &Refused) -> Vec<u8> {
    let mut out = b"{\"success\":false,\"reason\":".to_vec();
    json::quote_into(&mut out, &refused.reason);
    out.extend_from_slice(format!(",\"code\":{}}}", refused.code).as_bytes());
    out
}

/// `{"countUser":2,"countConnection":3,"connId_UserId":{"CID":"1",…}}` (protocol part 4), refused
/// if longer than `max` bytes: long names full of escapes could make gigabytes.
pub(super) fn info(presence: &Presence<'_>, max: usize) -> Result<Vec<u8>, Refused> {
    let (users, connections) = (presence.users, presence.connections.len());
    let mut out =
        format!("{{\"countUser\":{users},\"countConnection\":{connections},\"connId_UserId\":{{")
            .into_bytes();
    out.reserve((MEMBER_BYTES * connections).min(max));
    for (i, (cid, user)) in presence.connections.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",\"" } else { b"\"" });
        out.extend_from_slice(&cid.text());
        out.extend_from_slice(b"\":");
        json::quote_into(&mut out, user);
        if out.len() > max {
            let reason = format!("Answer is too large, at most {max} bytes");
            return Err(Refused { code: 313, reason: reason.into() });
        }
    }
    out.extend_from_slice(b"}}");
    Ok(out)
}

#[cfg(test)]
pub(super) mod tests;
