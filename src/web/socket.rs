//! Browsers over WebSocket, raw or with SockJS framing: reads frames, hands messages to the
//! application strictly one after another, sends heartbeats, and closes. A [`Socket`] is the whole
//! state of one, kept small: what only some need for a while is boxed.

mod beat;
mod deferred_messages;
mod read_ahead;

use std::mem;

use super::outlet::Way;
use super::pace::{Bucket, Pace};
use super::room_queue::RoomQueue;
use super::unauthenticated::{Unauthenticated, pause_bytes};
use super::{Application, Line, Message, Outlet, Parting, SessionId, Web};
use crate::codec::sockjs;
use crate::codec::ws::{self, Event, Side, WsError};
use crate::edge::{ConnId, Net};
use crate::limits::Limits;
use crate::publication::Form;
use crate::reason::CloseReason;
use crate::time::Millis;
use deferred_messages::DeferredMessages;

/// Why a connection is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It is read.
    No,
    /// Until the queued answers have been sent.
    Answers,
    /// Until its token bucket has tokens again.
    Pace,
    /// Until there is room for the answer to its message: it is queued in [`RoomQueue`].
    Room,
}

/// A WebSocket connection and its session.
#[derive(Debug)]
pub(super) struct Socket<P> {
    /// The application's state; `None` once it has been told of the end.
    pub peer: Option<P>,
    pub(super) reader: ws::Reader,
    /// Only while it is not read, or while a ping waits behind queued output.
    pub(super) unheard: Option<Box<Unheard>>,
    /// When the next ping is due, or the answer to the last one.
    beat_at: Millis,
    bucket: Bucket,
    /// The generation of the connection's slot.
    pub(super) generation: u32,
    /// Whether messages are plain, without SockJS framing.
    is_raw: bool,
    /// The output taken by the last beat, in `TAKEN_UNIT_BYTES`, modulo 256.
    taken_before: u8,
    /// A ping has been sent, and nothing has been received since.
    pub(super) awaits_answer: bool,
    pub(super) held: Held,
}

/// Extra state of a socket that is not read until its answers have been sent or there is room for
/// the next, or whose ping waits behind queued output.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    /// Messages that wait for room, or for answers to be sent: the rest of a SockJS frame, a raw
    /// message, and what has been read ahead.
    deferred: DeferredMessages,
    /// Bytes that may still be read ahead in search of a renewal, because the session has expired;
    /// `None` if it has not. At most the length of one WebSocket message, less the more messages
    /// already wait.
    read_ahead: Option<usize>,
    /// Output bytes that the kernel had taken at the last beat.
    taken_at_beat: Option<u32>,
}

/// A socket's environment while it is served.
#[derive(Debug)]
struct Around<'a, N, A> {
    net: &'a mut N,
    app: &'a mut A,
    conn: ConnId,
    limits: &'a Limits,
    pace: &'a Pace,
    unauthenticated: &'a mut Unauthenticated,
    room_queue: &'a mut RoomQueue,
    /// How often a browser was not read because it sent too fast.
    held_count: &'a mut u64,
}

impl Unheard {
    fn is_empty(&self) -> bool {
        self.deferred.bytes() == 0 && self.read_ahead.is_none() && self.taken_at_beat.is_none()
    }
}

impl<P> Socket<P> {
    fn new(conn: ConnId, form: Form, beat_at: Millis) -> Socket<P> {
        Socket {
            peer: None,
            reader: ws::Reader::default(),
            unheard: None,
            beat_at,
            bucket: Bucket::default(),
            generation: conn.generation,
            is_raw: form == Form::Raw,
            taken_before: 0,
            awaits_answer: false,
            held: Held::No,
        }
    }

    /// The wire form of its messages.
    pub(super) fn form(&self) -> Form {
        if self.is_raw { Form::Raw } else { Form::SockJs }
    }

    /// Checks all invariants; for tests.
    pub(super) fn check_invariants(&self) {
        assert!(!self.reader.keeps_given(), "a message that has been heard");
        let is_held = self.held != Held::No;
        assert!(is_held || self.awaits_answer || self.unheard.is_none(), "memory for nothing");
        assert!(!is_held || !self.awaits_answer, "an answer is awaited that is not heard");
        let is_behind = matches!(self.held, Held::Answers | Held::Room);
        let waits =
            |unheard: &Unheard| unheard.deferred.bytes() > 0 || unheard.read_ahead.is_some();
        let waits = self.unheard.as_deref().is_some_and(waits);
        assert!(is_behind || !waits, "something waits behind nothing");
    }

    /// Memory for its input, in bytes: an incomplete message, and messages that wait.
    fn kept_bytes(&self) -> usize {
        let unheard = self.unheard.as_ref().map_or(0, |unheard| unheard.deferred.kept_bytes());
        self.reader.kept_bytes() + unheard
    }

    /// Stops reading requests while too many answers are queued. Answers that it asked for are no
    /// reason to close it: TCP holds it back.
    fn hold(&mut self, net: &mut impl Net, conn: ConnId) {
        self.held = Held::Answers;
        net.pause(conn);
    }

    /// Tells the browser why it is closed (protocol part 10): on SockJS in a `c[…]` frame followed
    /// by a normal close, otherwise in the close frame itself.
    fn farewell(&self, net: &mut impl Net, conn: ConnId, parting: Parting) {
        let Some((code, text)) = parting.words() else { return };
        use CloseReason::{BrokenFraming, PeerClosed, WsProtocol, WsTooLarge, WsUtf8};
        let is_transport =
            matches!(parting.reason, BrokenFraming | WsProtocol | WsUtf8 | WsTooLarge | PeerClosed);
        match self.form() {
            Form::SockJs if !is_transport => {
                let last = sockjs::close_text(code, &text);
                net.send(conn, ws::text_frame(last.as_bytes()));
                net.send(conn, ws::close_frame(1000, "Normal closure"));
            }
            _ => net.send(conn, ws::close_frame(code, &text)),
        }
    }

    /// Sets the connection's only deadline.
    fn reschedule<A: Application<Peer = P>>(&self, around: &mut Around<'_, impl Net, A>) {
        // How much input waits is no longer known: checking too early does no harm.
        let again = (self.held == Held::Pace).then(|| self.bucket.again(around.pace, 0));
        self.wake(around, again);
    }

    /// As `reschedule`; the socket is to be read again at `again` if that comes first.
    fn wake<A: Application<Peer = P>>(
        &self,
        around: &mut Around<'_, impl Net, A>,
        again: Option<Millis>,
    ) {
        let Some(peer) = &self.peer else { return };
        let deadline = around.app.deadline(peer, around.net.now());
        let at = deadline.map_or(self.beat_at, |at| at.min(self.beat_at));
        around.net.deadline(around.conn, Some(again.map_or(at, |again| again.min(at))));
    }

    /// Handles received bytes; returns how many were consumed.
    fn received<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        input: &mut [u8],
    ) -> Result<usize, Parting> {
        if self.peer.is_none() {
            // It has been dismissed: its input is discarded.
            return Ok(input.len());
        }
        if self.awaits_answer {
            // Any byte shows that the peer is alive.
            self.awaits_answer = false;
            self.forget_beat();
            self.beat_at = around.net.now().mono.plus(around.limits.heartbeat_ms as u64);
            self.reschedule(around);
        }
        // Moved out of the socket meanwhile, because a message may borrow from the reader.
        let mut reader = mem::take(&mut self.reader);
        let used = self.frames(around, &mut reader, input);
        // Freed now and not with the next input, which may never come.
        reader.forget_given();
        self.reader = reader;
        if used.is_ok() && self.read_ahead().is_some() {
            self.renew(around)?;
        }
        used
    }

    fn frames<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        reader: &mut ws::Reader,
        input: &mut [u8],
    ) -> Result<usize, Parting> {
        let (mut used, conn, now) = (0, around.conn, around.net.now().mono);
        loop {
            let Some(peer) = &self.peer else { return Ok(input.len()) };
            let bounds = around.app.bounds(peer);
            let Some(most) = self.may_read(around, input.len() - used) else { return Ok(used) };
            // Each error has its own close code and text.
            let broken = |error: WsError| Parting {
                told: Some((error.close_code(), error.close_text())),
                reason: error.into(),
                back_ms: None,
            };
            let piece = &mut input[used..used + most];
            let step = reader.read(Side::Server, piece, &bounds).map_err(broken)?;
            used += step.consumed;
            self.bucket.take(around.pace, now, step.frames);
            self.has_read(if step.event.is_none() { most } else { step.consumed });
            match step.event {
                None if self.read_ahead() == Some(0) => {}
                None => return Ok(used),
                Some(Event::Text(text)) => self.text(around, text)?,
                Some(Event::Binary(bytes)) => self.binary(around, bytes)?,
                Some(Event::Ping(payload)) => around.net.send(conn, ws::pong_frame(payload)),
                Some(Event::Pong(_)) => {}
                Some(Event::Close(said)) => {
                    let (code, reason) = said.unwrap_or((1000, ""));
                    around.net.send(conn, ws::close_frame(code, reason));
                    around.net.close(conn, CloseReason::PeerClosed);
                    return Ok(used);
                }
            }
        }
    }

    /// How many of the available bytes may be read now; `None` if it is not to be read.
    fn may_read<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        there: usize,
    ) -> Option<usize> {
        let is_spent = self.bucket.is_spent(around.pace, around.net.now().mono);
        let is_full = self.peer.as_ref().is_some_and(|peer| around.is_full(peer));
        match self.read_ahead() {
            Some(left) if left > 0 && !is_spent => return Some(left.min(there)),
            Some(_) => around.net.pause(around.conn),
            None if self.held != Held::No => {}
            None if is_full => self.hold(around.net, around.conn),
            None if is_spent => self.hold_pace(around, there),
            None => return Some(there),
        }
        None
    }

    /// It sends too fast: stops reading until it has tokens again.
    fn hold_pace<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        waiting: usize,
    ) {
        self.held = Held::Pace;
        around.net.pause(around.conn);
        *around.held_count += 1;
        self.wake(around, Some(self.bucket.again(around.pace, waiting)));
    }

    /// Whether there is no room for the answer to a message. If so, the message waits, with
    /// everything behind it, and nothing is handled meanwhile.
    fn puts_off<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        message: &str,
    ) -> bool {
        let Some(peer) = &self.peer else { return false };
        if around.app.has_room(around.net, peer, message) {
            return false;
        }
        self.held = Held::Room;
        around.net.put_off(around.conn, true);
        around.room_queue.push(SessionId::of_socket(around.conn, self.form()));
        true
    }

    /// Passes one message to the application.
    fn tell<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        message: Message<'_>,
    ) -> Result<(), Parting> {
        let form = self.form();
        let Some(peer) = &mut self.peer else { return Ok(()) };
        let now = around.net.now();
        let (was_authenticated, before) =
            (around.app.is_authenticated(peer), around.app.deadline(peer, now));
        let id = SessionId::of_socket(around.conn, form);
        let mut outlet = Outlet::new(around.net, id, Way::Socket(around.conn, form));
        let heard = around.app.message(&mut outlet, peer, message);
        let is_rescheduled = outlet.is_rescheduled;
        around.unauthenticated.note(was_authenticated, around.app.is_authenticated(peer));
        let after = around.app.deadline(peer, now);
        heard?;
        // Only an earlier deadline is set at once. A later one is set when the current one passes:
        // most that authenticate are gone by then, or are due for a ping anyway.
        if is_rescheduled && after.is_some_and(|after| before.is_none_or(|at| after < at)) {
            self.reschedule(around);
        }
        Ok(())
    }

    /// Handles one text frame: one message, or on SockJS any number of them, each costing a token.
    fn text<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        text: &str,
    ) -> Result<(), Parting> {
        if self.is_raw {
            return self.hear(around, Message::Text(text));
        }
        let messages = sockjs::parse_messages(text).map_err(|_| CloseReason::BrokenFraming)?;
        for (at, message) in messages.enumerate() {
            // The frame has paid for the first one.
            self.bucket.take(around.pace, around.net.now().mono, usize::from(at > 0));
            self.hear(around, Message::Text(&message))?;
        }
        Ok(())
    }

    /// Passes a message to the application, unless there is no room for its answer, or it is behind
    /// one that waits for room, or behind answers that have not been sent: then it waits.
    fn hear<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        message: Message<'_>,
    ) -> Result<(), Parting> {
        let is_behind = self.held != Held::No;
        if is_behind || message.as_text().is_some_and(|text| self.puts_off(around, text)) {
            self.unheard.get_or_insert_default().deferred.push(message);
            return Ok(());
        }
        self.tell(around, message)?;
        if self.peer.as_ref().is_some_and(|peer| around.is_full(peer)) {
            self.hold(around.net, around.conn);
        }
        Ok(())
    }

    fn binary<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
        bytes: &[u8],
    ) -> Result<(), Parting> {
        if self.is_raw {
            return self.hear(around, Message::Binary(bytes));
        }
        self.text(around, str::from_utf8(bytes).map_err(|_| CloseReason::WsUtf8)?)
    }

    /// There is room for the answer to its message.
    fn resumed<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<(), Parting> {
        if self.held != Held::Room {
            return Ok(());
        }
        self.held = Held::Answers;
        around.net.put_off(around.conn, false);
        self.drained(around)
    }

    /// All queued output has gone to the kernel: reads on.
    fn drained<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<(), Parting> {
        match self.held {
            Held::Room => Ok(()),
            Held::Answers => self.catch_up(around),
            Held::No | Held::Pace => {
                let is_behind = self.stands_behind();
                self.forget_beat();
                if self.awaits_answer && is_behind {
                    // The ping went out too, behind as much as the kernel buffers for one peer.
                    let patience_ms = around.patience_ms(usize::MAX);
                    self.beat_at = self.beat_at.max(around.net.now().mono.plus(patience_ms));
                    self.reschedule(around);
                }
                Ok(())
            }
        }
    }

    /// Its answers have been sent, or there is room for the next: handles the messages that wait,
    /// then reads on.
    fn catch_up<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<(), Parting> {
        if self.is_over(around) {
            return Ok(());
        }
        self.held = Held::No;
        let unheard = self.unheard.take().unwrap_or_default();
        let mut messages = unheard.deferred.iter();
        while self.held == Held::No
            && let Some(message) = messages.next()
        {
            self.hear(around, message)?;
        }
        match self.held {
            Held::No => around.net.resume(around.conn),
            _ => self.unheard.get_or_insert_default().deferred.append(messages),
        }
        Ok(())
    }
}

impl<N: Net, A: Application> Around<'_, N, A> {
    /// Whether so much output waits for the socket that it is not read.
    fn is_full(&self, peer: &A::Peer) -> bool {
        let most = pause_bytes(self.limits, self.app.is_authenticated(peer));
        self.net.queued(self.conn) >= most
    }
}

impl<P> Web<P> {
    /// The socket of a connection; `None` for a stale id.
    pub(super) fn socket(&self, conn: ConnId) -> Option<&Socket<P>> {
        match self.lines.get(conn.index())? {
            Line::Socket(socket) if socket.generation == conn.generation => Some(socket),
            _ => None,
        }
    }

    /// Begins the session of a connection that has been upgraded and told so.
    pub(super) fn open_socket<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        form: Form,
        service: usize,
    ) {
        let is_beating = form != Form::Raw || self.services[service].raw_heartbeat;
        let beat_ms = if is_beating { self.limits.heartbeat_ms as u64 } else { u64::MAX };
        let mut socket = Socket::new(conn, form, net.now().mono.plus(beat_ms));
        let id = SessionId::of_socket(conn, form);
        let opened = app.opened(&mut Outlet::new(net, id, Way::Socket(conn, form)), service);
        let parting = opened.map(|peer| socket.peer = Some(peer)).err();
        match form {
            Form::Raw => self.raw_sockets += 1,
            _ => self.sockjs_sockets += 1,
        }
        self.lines[conn.index()] = Line::Socket(socket);
        if let Some(parting) = parting {
            return self.dismiss_socket(net, app, conn, parting);
        }
        self.serve_socket(net, app, conn, |socket, around| {
            socket.reschedule(around);
            Ok(())
        });
        self.meet(net, app, id, false);
    }

    /// Runs an operation on a socket, and dismisses the socket if it fails.
    fn serve_socket<T: Default, N: Net, A: Application<Peer = P>>(
        &mut self,
        net: &mut N,
        app: &mut A,
        conn: ConnId,
        serve: impl FnOnce(&mut Socket<P>, &mut Around<'_, N, A>) -> Result<T, Parting>,
    ) -> T {
        let Some(Line::Socket(socket)) = self.lines.get_mut(conn.index()) else {
            return T::default();
        };
        let mut around = Around {
            net,
            app,
            conn,
            limits: &self.limits,
            pace: &self.pace,
            unauthenticated: &mut self.unauthenticated,
            room_queue: &mut self.room_queue,
            held_count: &mut self.held,
        };
        let before = socket.kept_bytes();
        let served = serve(socket, &mut around);
        let kept = socket.kept_bytes();
        if kept != before {
            around.net.note_input_bytes(conn, kept);
        }
        served.unwrap_or_else(|parting| {
            self.dismiss_socket(net, app, conn, parting);
            T::default()
        })
    }

    pub(super) fn socket_received<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        input: &mut [u8],
    ) -> usize {
        let all = input.len();
        let used = |socket: &mut Socket<P>, around: &mut Around<'_, _, A>| {
            socket.received(around, input).map(Some)
        };
        // A dismissed socket keeps no input.
        self.serve_socket(net, app, conn, used).unwrap_or(all)
    }

    pub(super) fn socket_drained<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
    ) {
        self.serve_socket(net, app, conn, |socket, around| socket.drained(around));
    }

    pub(super) fn socket_resumed<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
    ) {
        if self.socket(conn).is_some() {
            self.serve_socket(net, app, conn, |socket, around| socket.resumed(around));
        }
    }

    pub(super) fn socket_timed_out<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
    ) {
        self.serve_socket(net, app, conn, |socket, around| socket.timed_out(around));
    }

    /// Ends a socket's session: the browser is told why, and receives nothing more.
    pub(super) fn dismiss_socket<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        parting: Parting,
    ) {
        let Some(Line::Socket(socket)) = self.lines.get_mut(conn.index()) else { return };
        if socket.generation != conn.generation {
            return;
        }
        if parting.reason.is_slow() {
            net.drop_published(conn);
        }
        socket.farewell(net, conn, parting);
        let peer = socket.peer.take();
        self.forget(app, peer);
        net.close(conn, parting.reason);
    }

    /// The connection of a socket is closed.
    pub(super) fn socket_closed<A: Application<Peer = P>>(
        &mut self,
        app: &mut A,
        socket: Socket<P>,
    ) {
        match socket.form() {
            Form::Raw => self.raw_sockets -= 1,
            _ => self.sockjs_sockets -= 1,
        }
        self.forget(app, socket.peer);
    }
}
