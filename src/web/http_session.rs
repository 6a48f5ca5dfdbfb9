//! A session over HTTP: requests attach to it, wait for output, and leave. Owns the output that
//! waits between two requests; refers to connections only by id.

use std::collections::VecDeque;

use super::answers;
use super::pace::Bucket;
use super::{Key, Parting};
use crate::arena::Id;
use crate::codec::http::{self, LAST_CHUNK, Response};
use crate::codec::sockjs::{self, Envelope, Messages};
use crate::edge::{ConnId, Net};
use crate::frame::{FRAME_COST_BYTES, Frame, Kind};
use crate::publication::{Form, Publication, array, stream_frame};
use crate::reason::CloseReason;
use crate::time::Millis;
use crate::wheel::Timer;

/// Kind of [`HttpSessionId`].
#[derive(Debug)]
pub(super) enum HttpSessionKind {}

/// Identifies one session over HTTP, for as long as it lives.
pub(super) type HttpSessionId = Id<HttpSessionKind>;

/// Output of up to this size never waits for room.
const LITTLE_BYTES: usize = 4096;

/// The shape of an answer to a receiver.
#[derive(Debug)]
pub(super) enum Reply {
    /// One frame in an answer of known length; for `jsonp` in a call of the callback.
    Poll { response: Box<Response>, callback: Option<Box<str>> },
    /// A streaming answer: frame after frame.
    Stream { envelope: Envelope, is_chunked: bool },
}

/// A request that waits for output of the session.
#[derive(Debug)]
pub(super) struct Receiver {
    pub conn: ConnId,
    pub reply: Reply,
    /// The connection closes after the answer.
    pub closes: bool,
    /// Bytes of frames sent so far, without chunk framing.
    pub sent: usize,
    /// Of those, the bytes that the browser asked for itself.
    asked: usize,
    /// It was given publications that had waited for a receiver.
    is_owed: bool,
    /// The output taken at the last beat, if more was queued then.
    pub taken_at_beat: Option<u32>,
    /// The connection is paused, so that `drained` is called.
    pub is_held: bool,
}

impl Receiver {
    pub fn new(conn: ConnId, reply: Reply, closes: bool) -> Receiver {
        let (taken_at_beat, is_owed, is_held) = (None, false, false);
        Receiver { conn, reply, closes, sent: 0, asked: 0, is_owed, taken_at_beat, is_held }
    }

    /// Memory of what the answer repeats from the request, held while it waits, in bytes.
    pub fn kept_bytes(&self) -> usize {
        match &self.reply {
            Reply::Poll { response, callback } => {
                response.kept_bytes() + callback.as_ref().map_or(0, |callback| callback.len())
            }
            Reply::Stream { .. } => 0,
        }
    }

    /// Sends a SockJS frame on a streaming answer.
    fn send_frame(&mut self, net: &mut impl Net, frame: &[u8]) {
        if let Reply::Stream { envelope, is_chunked } = self.reply {
            let frame = stream_frame(envelope, is_chunked, &[frame]);
            self.sent += payload_bytes(&frame, is_chunked);
            net.send(self.conn, frame);
        }
    }
}

/// The bytes of a frame that count towards the length of an answer.
fn payload_bytes(frame: &[u8], is_chunked: bool) -> usize {
    if is_chunked { http::chunk_payload_bytes(frame.len()) } else { frame.len() }
}

/// A finished answer, and what becomes of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub conn: ConnId,
    /// The reason to close the connection; `None` if it stays open.
    pub close: Option<CloseReason>,
    /// Bytes of the answer that the browser asked for itself.
    pub asked: usize,
    /// Bytes of the answer's frames.
    pub bytes: usize,
    /// Whether it includes publications that had waited.
    pub is_owed: bool,
}

/// One session over HTTP.
#[derive(Debug)]
pub(super) struct HttpSession {
    pub key: Key,
    receiver: Option<Receiver>,
    /// Output that waits for a receiver: strings of a JSON array ([`Form::Item`]).
    inbox: VecDeque<(Frame, Kind)>,
    inbox_bytes: usize,
    /// Bytes of publications in the inbox.
    published: usize,
    /// Of those, what counts as backlog: publications that came while there was no receiver and
    /// something else waited, each up to a quarter of `backlog_bytes`.
    backlog: usize,
    /// Since when the backlog behind an answer in flight has been too large.
    pub over_since: Option<Millis>,
    /// The browser has been sent the open frame.
    is_opened: bool,
    /// The session has ended, and every further receiver is told so.
    pub ended: Option<Parting>,
    /// A receiver has been told so.
    is_end_told: bool,
    is_given_up: bool,
    /// Bytes after which a streaming answer ends.
    response_bytes: usize,
    /// Messages that wait, because the browser does not take its answers, sends too fast, or there
    /// is no room: the rest of all received arrays, joined ([`Messages::rest`]).
    pub pending: String,
    /// The first waiting message needs room for its answer.
    pub waits_for_room: bool,
    /// The receiver waits for room for its output.
    pub is_taker: bool,
    /// The bytes of waiting messages that are counted in `Web::bodies`.
    pub counted_bytes: usize,
    /// Connections whose messages wait; each is answered when all have been handled.
    pub senders: Vec<ConnId>,
    /// The connection on which the last answer is still in flight.
    pub in_flight: Option<ConnId>,
    /// When it was last left without a receiver.
    pub alone_since: Millis,
    /// How long the last answer, if it was large, was in flight, plus what the kernel still needs.
    pub took_ms: u64,
    /// How long a slow link may still need for it: the next request may be that much later.
    pub link_ms: u64,
    /// When the receiver is due a heartbeat.
    pub beat_at: Millis,
    pub timer: Option<Timer>,
    pub bucket: Bucket,
    is_dirty: bool,
}

impl HttpSession {
    pub fn new(key: Key, response_bytes: usize) -> HttpSession {
        HttpSession {
            key,
            receiver: None,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            published: 0,
            backlog: 0,
            over_since: None,
            is_opened: false,
            ended: None,
            is_end_told: false,
            is_given_up: false,
            response_bytes,
            pending: String::new(),
            waits_for_room: false,
            is_taker: false,
            counted_bytes: 0,
            senders: Vec::new(),
            in_flight: None,
            alone_since: Millis(0),
            took_ms: 0,
            link_ms: 0,
            beat_at: Millis(0),
            timer: None,
            bucket: Bucket::default(),
            is_dirty: false,
        }
    }

    /// Marks the session as changed; returns whether it was not marked before.
    pub fn mark_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.is_dirty, true)
    }

    /// Clears the mark: the session is being served.
    pub fn unmark_dirty(&mut self) {
        self.is_dirty = false;
    }

    pub fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    pub fn has_receiver(&self) -> bool {
        self.receiver.is_some()
    }

    /// Whether no receiver waits and no answer is in flight.
    pub fn is_alone(&self) -> bool {
        self.receiver.is_none() && self.in_flight.is_none()
    }

    pub fn receiver_conn(&self) -> Option<ConnId> {
        self.receiver.as_ref().map(|receiver| receiver.conn)
    }

    pub fn receiver_mut(&mut self) -> Option<&mut Receiver> {
        self.receiver.as_mut()
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Attaches a receiver; there must be none.
    pub fn attach(&mut self, receiver: Receiver) {
        debug_assert!(self.receiver.is_none());
        // A client that asks again has received the answer in flight, or has given it up.
        self.in_flight = None;
        self.receiver = Some(receiver);
    }

    /// Ends the session. Waiting output still goes first, unless the browser was too slow for it:
    /// then it is dropped, even if the session had ended before.
    pub fn end(&mut self, net: &mut impl Net, parting: Parting) {
        if self.ended.is_none() {
            self.ended = Some(parting);
            self.pending = String::new();
        }
        if parting.reason.is_slow() {
            self.clear_inbox(net);
            if let Some(receiver) = &self.receiver {
                net.drop_published(receiver.conn);
            }
        }
    }

    /// Drops the output that waits for a receiver.
    pub fn clear_inbox(&mut self, net: &mut impl Net) {
        for (item, kind) in std::mem::take(&mut self.inbox) {
            net.remove_outside(&item, kind);
        }
        (self.inbox_bytes, self.published, self.backlog, self.over_since) = (0, 0, 0, None);
    }

    /// Too much was published to the session: it is given no more publications.
    pub fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// Bytes of output that wait for a receiver.
    pub fn inbox_bytes(&self) -> usize {
        self.inbox_bytes
    }

    /// Bytes of publications that wait for a receiver.
    pub fn published(&self) -> usize {
        self.published
    }

    /// The form in which a message is encoded now: for a streaming answer that can take it, or else
    /// for the inbox.
    pub fn form(&self) -> Form {
        let is_ready = self.is_opened && self.inbox.is_empty() && self.ended.is_none();
        match &self.receiver {
            Some(Receiver { reply: Reply::Stream { envelope, is_chunked }, sent, .. })
                if is_ready && *sent < self.response_bytes =>
            {
                Form::Stream { envelope: *envelope, is_chunked: *is_chunked }
            }
            _ => Form::Item,
        }
    }

    /// Sends a message that the browser asked for.
    pub fn send(&mut self, net: &mut impl Net, frame: impl FnOnce(Form) -> Frame) {
        let form = self.form();
        if let (Form::Stream { is_chunked, .. }, Some(receiver)) = (form, &mut self.receiver) {
            let frame = frame(form);
            let bytes = payload_bytes(&frame, is_chunked);
            (receiver.sent, receiver.asked) = (receiver.sent + bytes, receiver.asked + bytes);
            return net.send(receiver.conn, frame);
        }
        let item = frame(Form::Item);
        self.inbox_bytes += item.len();
        net.add_outside(&item, Kind::Asked);
        self.inbox.push_back((item, Kind::Asked));
    }

    /// Sends a message that somebody else published. Returns true if too much waits: more than
    /// `backlog_max` bytes of publications behind the first frame, each counting for a quarter of
    /// that at most. While there is a receiver nothing counts: it gets all as soon as it is served,
    /// as with output not yet offered to a socket. On a streaming answer the `Net` decides.
    pub fn publish(
        &mut self,
        net: &mut impl Net,
        publication: &Publication<'_>,
        backlog_max: usize,
    ) -> bool {
        if self.is_given_up {
            return false;
        }
        let form = self.form();
        if let (Form::Stream { is_chunked, .. }, Some(receiver)) = (form, &mut self.receiver) {
            let frame = publication.frame(form).clone();
            receiver.sent += payload_bytes(&frame, is_chunked);
            return net.publish(receiver.conn, frame);
        }
        let item = publication.frame(Form::Item).clone();
        self.inbox_bytes += item.len();
        self.published += item.len();
        if !self.inbox.is_empty() && self.receiver.is_none() {
            self.backlog += item.len().min(backlog_max / 4);
        }
        net.add_outside(&item, Kind::Published);
        self.inbox.push_back((item, Kind::Published));
        self.receiver.is_none() && self.backlog > backlog_max
    }

    /// Whether the receiver must be served in this turn: it waits for a frame, or its answer has
    /// reached its full length.
    pub fn is_answer_due(&self) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| {
            let is_poll = matches!(receiver.reply, Reply::Poll { .. });
            is_poll || receiver.sent >= self.response_bytes
        })
    }

    /// Whether the receiver is due more than a little output. It is encoded for this receiver
    /// alone, however many others get the same.
    pub fn owes_much(&self) -> bool {
        self.receiver.is_some() && self.inbox_bytes > LITTLE_BYTES
    }

    /// Appends messages to those that wait.
    pub fn put_behind(&mut self, messages: &Messages<'_>) {
        if !self.pending.is_empty() {
            self.pending.push(',');
        }
        self.pending.push_str(messages.rest());
    }

    /// Memory of messages that wait to be handled, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending.capacity()
    }

    /// Whether so much output waits that no more of its messages are handled.
    pub fn is_full(&self, net: &impl Net, answers_pause_bytes: usize) -> bool {
        let waiting = self.inbox_bytes + self.inbox.len() * FRAME_COST_BYTES;
        let queued = self.receiver.as_ref().map_or(0, |receiver| net.queued(receiver.conn));
        waiting + queued >= answers_pause_bytes
    }

    /// Gives the receiver the output that waits. If that ends the answer, returns what becomes of
    /// its connection.
    pub fn flush(&mut self, net: &mut impl Net) -> Option<Finished> {
        match self.receiver.as_ref()?.reply {
            Reply::Poll { .. } => {
                let frame = self.next_frame(net)?;
                Some(self.answer_poll(net, frame))
            }
            Reply::Stream { .. } => self.flush_stream(net),
        }
    }

    /// Sends the receiver a heartbeat and nothing else: there may be no room for the output that
    /// waits.
    pub fn beat(&mut self, net: &mut impl Net) -> Option<Finished> {
        match self.receiver.as_mut()? {
            Receiver { reply: Reply::Poll { .. }, .. } => {
                Some(self.answer_poll(net, sockjs::HEARTBEAT.into()))
            }
            receiver => {
                receiver.send_frame(net, sockjs::HEARTBEAT.as_bytes());
                None
            }
        }
    }

    /// The next frame that waits, if any; a session that has ended always has one.
    fn next_frame(&mut self, net: &mut impl Net) -> Option<Vec<u8>> {
        if !std::mem::replace(&mut self.is_opened, true) {
            return Some(sockjs::OPEN.into());
        }
        if !self.inbox.is_empty() {
            let frame = array(self.inbox.iter().map(|(item, _)| item));
            if let Some(receiver) = &mut self.receiver {
                receiver.asked += self.inbox_bytes - self.published;
                receiver.is_owed |= self.published > 0;
            }
            self.clear_inbox(net);
            return Some(frame);
        }
        let parting = self.ended?;
        let (code, text) = parting.words().unwrap_or((1000, "Normal closure".into()));
        Some(sockjs::close_text(code, &text).into_bytes())
    }

    fn answer_poll(&mut self, net: &mut impl Net, frame: Vec<u8>) -> Finished {
        let close = self.reason_to_close(&frame);
        let Some(Receiver { conn, reply, closes, asked, is_owed, .. }) = self.receiver.take()
        else {
            unreachable!("only a receiver is answered")
        };
        let bytes = frame.len();
        if let Reply::Poll { response, callback } = reply {
            net.note_input_bytes(conn, 0);
            let response = if close.is_some() { response.close() } else { *response };
            answers::send_http_session(net, conn, response, callback.as_deref(), frame);
        }
        let close = close.or(closes.then_some(CloseReason::Answered));
        Finished { conn, close, asked, bytes, is_owed }
    }

    fn flush_stream(&mut self, net: &mut impl Net) -> Option<Finished> {
        let limit = self.response_bytes;
        let mut close = None;
        let mut is_over = false;
        while self.receiver.as_ref()?.sent < limit && !is_over {
            let Some(frame) = self.next_frame(net) else { break };
            is_over = frame.starts_with(b"c");
            close = close.or(self.reason_to_close(&frame));
            self.receiver.as_mut()?.send_frame(net, &frame);
        }
        if !is_over && self.receiver.as_ref()?.sent < limit {
            return None;
        }
        let Receiver { conn, reply, closes, asked, is_owed, sent: bytes, .. } =
            self.receiver.take()?;
        if matches!(reply, Reply::Stream { is_chunked: true, .. }) {
            net.send(conn, Frame::from(LAST_CHUNK));
        }
        let close = close.or(closes.then_some(CloseReason::Answered));
        Some(Finished { conn, close, asked, bytes, is_owed })
    }

    /// The first receiver told of an end that is not ordinary is closed with its reason, so that
    /// it is counted once.
    fn reason_to_close(&mut self, frame: &[u8]) -> Option<CloseReason> {
        let reason = self.ended?.reason;
        let is_first = frame.starts_with(b"c") && !std::mem::replace(&mut self.is_end_told, true);
        (is_first && !reason.is_ordinary()).then_some(reason)
    }

    /// Checks all invariants; for tests.
    pub fn check_invariants(&self, has_peer: bool) {
        let bytes: usize = self.inbox.iter().map(|(item, _)| item.len()).sum();
        assert_eq!(bytes, self.inbox_bytes);
        let published = self.inbox.iter().filter(|(_, kind)| *kind == Kind::Published);
        assert_eq!(published.map(|(item, _)| item.len()).sum::<usize>(), self.published);
        assert!(self.backlog <= self.published);
        assert!(self.over_since.is_none() || self.backlog > 0, "over, with nothing behind");
        assert_eq!(has_peer, self.ended.is_none(), "over, and not over");
    }
}
