//! A session over HTTP: requests attach to it, wait for what it has to say, and leave. Owns what
//! waits for the browser between two of them; never knows a connection but by its id.

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

/// Kind of [`PolledId`].
#[derive(Debug)]
pub(super) enum PolledKind {}

/// One session over HTTP, for as long as it lives.
pub(super) type PolledId = Id<PolledKind>;

/// An answer of so many bytes never waits for room.
const LITTLE_BYTES: usize = 4096;

/// How an answer to a receiver looks.
#[derive(Debug)]
pub(super) enum Reply {
    /// One frame, in one answer with a length; with a callback if it is `jsonp`.
    Poll { response: Box<Response>, callback: Option<Box<str>> },
    /// Frame after frame.
    Stream { envelope: Envelope, is_chunked: bool },
}

/// A request that waits for what the session has to say.
#[derive(Debug)]
pub(super) struct Receiver {
    pub conn: ConnId,
    pub reply: Reply,
    /// The connection ends with the answer.
    pub closes: bool,
    /// Bytes of frames so far, less what they are wrapped in as chunks.
    pub sent: usize,
    /// Those of what the browser asked for itself.
    asked: usize,
    /// Some of what it was given at once was published.
    is_owed: bool,
    /// What it had taken at the last beat, when more was queued for it.
    pub taken_at_beat: Option<u32>,
    /// It is not read, so that we hear when all has gone out.
    pub is_held: bool,
}

impl Receiver {
    pub fn new(conn: ConnId, reply: Reply, closes: bool) -> Receiver {
        let (taken_at_beat, is_owed, is_held) = (None, false, false);
        Receiver { conn, reply, closes, sent: 0, asked: 0, is_owed, taken_at_beat, is_held }
    }

    /// Memory for what it repeats of its request while it waits, in bytes.
    pub fn kept_bytes(&self) -> usize {
        match &self.reply {
            Reply::Poll { response, callback } => {
                response.kept_bytes() + callback.as_ref().map_or(0, |callback| callback.len())
            }
            Reply::Stream { .. } => 0,
        }
    }

    /// Sends a frame of SockJS on an answer that goes on.
    fn send_frame(&mut self, net: &mut impl Net, frame: &[u8]) {
        if let Reply::Stream { envelope, is_chunked } = self.reply {
            let frame = stream_frame(envelope, is_chunked, &[frame]);
            self.sent += payload_bytes(&frame, is_chunked);
            net.send(self.conn, frame);
        }
    }
}

/// What of a frame counts against the length of an answer.
fn payload_bytes(frame: &[u8], is_chunked: bool) -> usize {
    if is_chunked { http::chunk_payload_bytes(frame.len()) } else { frame.len() }
}

/// What an answer has come to, and what becomes of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub conn: ConnId,
    /// The reason to close it, if it does not go on.
    pub close: Option<CloseReason>,
    /// Bytes of it that the browser asked for itself.
    pub asked: usize,
    /// Bytes of its frames.
    pub bytes: usize,
    /// Some of it was published.
    pub is_owed: bool,
}

/// One session.
#[derive(Debug)]
pub(super) struct Polled {
    pub key: Key,
    receiver: Option<Receiver>,
    /// What waits for a receiver: strings of a JSON array ([`Form::Item`]).
    inbox: VecDeque<(Frame, Kind)>,
    inbox_bytes: usize,
    /// Bytes of publications in the inbox.
    published: usize,
    /// Those of them that came when there was no receiver, but for one in front; of each as many as
    /// count.
    backlog: usize,
    /// That is too much, and has been since then behind an answer that is on its way.
    pub over_since: Option<Millis>,
    /// The browser has been told that the session is open.
    is_opened: bool,
    /// It is over, and every further receiver is told so.
    pub ended: Option<Parting>,
    /// Somebody has been told so.
    is_end_told: bool,
    is_given_up: bool,
    /// Bytes after which an answer that goes on ends.
    response_bytes: usize,
    /// Messages that came behind more answers than the browser has taken, or too fast: what is
    /// left of all arrays, as one ([`Messages::rest`]).
    pub pending: String,
    /// The first of them waits for room for its answer.
    pub is_hungry: bool,
    /// The receiver waits for room for what is there.
    pub is_taker: bool,
    /// How many bytes of those the door has counted.
    pub counted_bytes: usize,
    /// Connections whose messages are among those, and which get their answers when all is done.
    pub senders: Vec<ConnId>,
    /// The connection on which its last answer is still on its way.
    pub taking: Option<ConnId>,
    /// When it was last left without a receiver.
    pub alone_since: Millis,
    /// How long the last answer, if it was a large one, was on its way, and at most still may be.
    pub took_ms: u64,
    /// How long a slow link may still need for it: so much later the browser can ask again.
    pub link_ms: u64,
    /// When the receiver is told that we are still there.
    pub beat_at: Millis,
    pub timer: Option<Timer>,
    pub bucket: Bucket,
    is_dirty: bool,
}

impl Polled {
    pub fn new(key: Key, response_bytes: usize) -> Polled {
        Polled {
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
            is_hungry: false,
            is_taker: false,
            counted_bytes: 0,
            senders: Vec::new(),
            taking: None,
            alone_since: Millis(0),
            took_ms: 0,
            link_ms: 0,
            beat_at: Millis(0),
            timer: None,
            bucket: Bucket::default(),
            is_dirty: false,
        }
    }

    /// Notes that something has changed; whether that is news.
    pub fn mark_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.is_dirty, true)
    }

    /// All that has changed will be looked at now.
    pub fn unmark_dirty(&mut self) {
        self.is_dirty = false;
    }

    pub fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    pub fn has_receiver(&self) -> bool {
        self.receiver.is_some()
    }

    /// Whether nobody waits for what it has to say, or takes it.
    pub fn is_alone(&self) -> bool {
        self.receiver.is_none() && self.taking.is_none()
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

    /// A receiver comes; there is none.
    pub fn attach(&mut self, receiver: Receiver) {
        debug_assert!(self.receiver.is_none());
        // Whoever asks again has given up what was on its way, or has it.
        self.taking = None;
        self.receiver = Some(receiver);
    }

    /// It ends. What is on its way still comes first, unless it was too much: that goes, even if it
    /// is over already.
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

    /// Drops what waits for a receiver.
    pub fn clear_inbox(&mut self, net: &mut impl Net) {
        for (item, kind) in std::mem::take(&mut self.inbox) {
            net.unkeep(&item, kind);
        }
        (self.inbox_bytes, self.published, self.backlog, self.over_since) = (0, 0, 0, None);
    }

    /// Too much was published to it: nothing more is.
    pub fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// Bytes that wait for a receiver.
    pub fn inbox_bytes(&self) -> usize {
        self.inbox_bytes
    }

    /// Bytes of publications that wait for a receiver.
    pub fn published(&self) -> usize {
        self.published
    }

    /// The form in which a message is said now: on an answer that goes on and can take it, or for
    /// the inbox.
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

    /// Says a message that was asked for.
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
        net.keep(&item, Kind::Asked);
        self.inbox.push_back((item, Kind::Asked));
    }

    /// Says a message that somebody else sent. Returns whether that was too much: more than
    /// `backlog_max` bytes of such wait behind the first, of each a quarter of that at most. While
    /// a receiver is there, it gets all that waits, as soon as it is its turn: that is no more held
    /// against it than against a socket what has not been offered to it.
    pub fn publish(
        &mut self,
        net: &mut impl Net,
        publication: &Publication<'_>,
        backlog_max: usize,
    ) -> bool {
        let form = self.form();
        if let (Form::Stream { is_chunked, .. }, Some(receiver)) = (form, &mut self.receiver) {
            let frame = publication.frame(form).clone();
            receiver.sent += payload_bytes(&frame, is_chunked);
            return net.publish(receiver.conn, frame);
        }
        if self.is_given_up {
            return false;
        }
        let item = publication.frame(Form::Item).clone();
        self.inbox_bytes += item.len();
        self.published += item.len();
        if !self.inbox.is_empty() && self.receiver.is_none() {
            self.backlog += item.len().min(backlog_max / 4);
        }
        net.keep(&item, Kind::Published);
        self.inbox.push_back((item, Kind::Published));
        self.receiver.is_none() && self.backlog > backlog_max
    }

    /// Whether the receiver is to be looked at in this turn: it waits for a frame, or has had all
    /// that it gets.
    pub fn is_answer_due(&self) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| {
            let is_poll = matches!(receiver.reply, Reply::Poll { .. });
            is_poll || receiver.sent >= self.response_bytes
        })
    }

    /// Whether what the receiver is to be given is more than a little. It is a frame of its own,
    /// however many others get the same.
    pub fn owes_much(&self) -> bool {
        self.receiver.is_some() && self.inbox_bytes > LITTLE_BYTES
    }

    /// These wait behind all that wait.
    pub fn put_behind(&mut self, messages: &Messages<'_>) {
        if !self.pending.is_empty() {
            self.pending.push(',');
        }
        self.pending.push_str(messages.rest());
    }

    /// Memory for what the browser sent and waits to be heard, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending.capacity()
    }

    /// Whether it has so much to take that nothing more is asked on its behalf.
    pub fn is_full(&self, net: &impl Net, answers_pause_bytes: usize) -> bool {
        let waiting = self.inbox_bytes + self.inbox.len() * FRAME_COST_BYTES;
        let queued = self.receiver.as_ref().map_or(0, |receiver| net.queued(receiver.conn));
        waiting + queued >= answers_pause_bytes
    }

    /// Gives the receiver what there is. Returns what becomes of its connection if that was all
    /// that it gets.
    pub fn flush(&mut self, net: &mut impl Net) -> Option<Finished> {
        match self.receiver.as_ref()?.reply {
            Reply::Poll { .. } => {
                let frame = self.next_frame(net)?;
                Some(self.answer_poll(net, frame))
            }
            Reply::Stream { .. } => self.flush_stream(net),
        }
    }

    /// The receiver is told that we are there, and nothing else: for what waits there may be no
    /// room.
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

    /// The next frame that waits, if there is one; of a session that is over there always is.
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
            net.keeps(conn, 0);
            let response = if close.is_some() { response.close() } else { *response };
            answers::send_polled(net, conn, response, callback.as_deref(), frame);
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

    /// The first who is told of an end that an operator may want to hear of is closed for that
    /// reason, so that it is counted once.
    fn reason_to_close(&mut self, frame: &[u8]) -> Option<CloseReason> {
        let reason = self.ended?.reason;
        let is_first = frame.starts_with(b"c") && !std::mem::replace(&mut self.is_end_told, true);
        (is_first && !reason.is_ordinary()).then_some(reason)
    }

    /// Checks all that must hold; for tests.
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
