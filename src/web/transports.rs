//! The SockJS transports over HTTP: requests that receive from a session, requests that send to it,
//! and the timers of sessions.

use std::rc::Rc;

use super::addresses::fit;
use super::http::SenderReply;
use super::http_session::{HttpSession, HttpSessionId, Receiver, Reply};
use super::outlet::Way;
use super::unauthenticated::pause_bytes;
use super::uploads::payload;
use super::{
    Application, KeyRef, Line, Message, Outlet, Parting, Session, SessionId, Web, answers,
};
use crate::codec::http::{Head, LAST_CHUNK, Response};
use crate::codec::sockjs::{self, Envelope, Messages, Transport};
use crate::edge::{ConnId, Net};
use crate::frame::Frame;
use crate::publication::{chunk, stream_frame};
use crate::reason::CloseReason;
use crate::time::Now;

/// The most sending requests that wait for one session.
const SENDERS_MAX: usize = 64;

/// Service, name of the session, transport.
type Place<'a> = (usize, &'a str, Transport);

impl<P> Web<P> {
    /// Serves a transport request with the right method. Returns the answer, unless it has been
    /// sent or will come later.
    pub(super) fn transport<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head: &Head<'_>,
        place: Place<'_>,
        body: Option<&[u8]>,
    ) -> Option<Response> {
        let (_, _, transport) = place;
        match transport {
            Transport::XhrSend | Transport::JsonpSend => {
                self.send(net, app, conn, head, place, body)
            }
            _ => self.receive(net, app, conn, head, place),
        }
    }

    /// Serves a request that receives: it waits for output of the session.
    fn receive<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head: &Head<'_>,
        (at, name, transport): Place<'_>,
    ) -> Option<Response> {
        if name.len() > self.limits.name_bytes {
            return Some(answers::not_found());
        }
        let response = Response::new(200).answering(head);
        let service = &self.services[at];
        let response = answers::transport_headers(response, head, service, transport);
        let mut callback = String::new();
        if matches!(transport, Transport::Jsonp | Transport::HtmlFile) {
            match sockjs::parse_callback(head.query()) {
                Ok(name) => callback = name,
                Err(error) => {
                    let refusal = Response::new(500).text(error.text());
                    return Some(sockjs::never_cached(refusal));
                }
            }
        }
        let key = KeyRef(at as u16, name);
        let id = match self.names.get(&key).copied() {
            Some(id) => id,
            None if self.back_ms.is_some() => {
                return self.back_ms.map(super::drain::unavailable);
            }
            None if self.names.len() >= self.limits.sessions && !self.make_place(net, app) => {
                return Some(Response::new(503).text("too many sessions\n").close());
            }
            None => self.open_session(net, app, (conn, (at as u16, Rc::from(name)))),
        };
        let closes = response.closes();
        let envelope = match transport {
            Transport::XhrStreaming => Some(Envelope::Xhr),
            Transport::EventSource => Some(Envelope::EventSource),
            Transport::HtmlFile => Some(Envelope::HtmlFile),
            _ => None,
        };
        let Some(envelope) = envelope else {
            let callback = (transport == Transport::Jsonp).then(|| callback.into());
            let reply = Reply::Poll { response: Box::new(response), callback };
            self.attach(net, id, Receiver::new(conn, reply, closes));
            return None;
        };
        let is_chunked = response.is_chunked();
        let response = response.header("Content-Type", envelope.content_type());
        net.send(conn, response.encode_head(Some(net.now().unix)));
        let mut prelude = Vec::new();
        envelope.prelude_into(&mut prelude, &callback);
        net.send(conn, if is_chunked { chunk(prelude) } else { Frame::from(prelude) });
        let reply = Reply::Stream { envelope, is_chunked };
        self.attach(net, id, Receiver::new(conn, reply, closes || !is_chunked));
        None
    }

    fn open_session<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        (conn, key): (ConnId, super::Key),
    ) -> HttpSessionId {
        let service = usize::from(key.0);
        let session =
            Box::new(HttpSession::new(key.clone(), self.services[service].response_bytes));
        let id = self.sessions.insert(Session { peer: None, session });
        self.names.insert(key, id);
        let Some(Session { peer, session }) = self.sessions.get_mut(id) else { return id };
        let session_id = SessionId::of_http(id);
        match app.opened(&mut Outlet::new(net, session_id, Way::Http(session)), service) {
            Ok(opened) => *peer = Some(opened),
            Err(parting) => session.end(net, parting),
        }
        let goes_first = self.makes_more(app, conn, id);
        self.stand_in_line(app, id, goes_first);
        self.meet(net, app, session_id, goes_first);
        id
    }

    /// Attaches a receiver to its session. If there is one already, the new one is told so.
    fn attach(&mut self, net: &mut impl Net, id: HttpSessionId, receiver: Receiver) {
        let (now, beat_ms) = (net.now().mono, self.limits.heartbeat_ms as u64);
        let conn = receiver.conn;
        self.lines[conn.index()] = Line::Receiver(id, conn.generation);
        net.deadline(conn, None);
        let Some(session) = self.session(id) else { return };
        if !session.has_receiver() {
            net.note_input_bytes(conn, receiver.kept_bytes());
            session.attach(receiver);
            session.beat_at = now.plus(beat_ms);
            return self.mark_dirty(id);
        }
        let (code, text) = sockjs::STILL_OPEN;
        let frame = sockjs::close_text(code, text);
        match receiver.reply {
            Reply::Poll { response, callback } => {
                let callback = callback.as_deref();
                answers::send_http_session(net, conn, *response, callback, frame.into_bytes());
            }
            Reply::Stream { envelope, is_chunked } => {
                net.send(conn, stream_frame(envelope, is_chunked, &[frame.as_bytes()]));
                if is_chunked {
                    net.send(conn, Frame::from(LAST_CHUNK));
                }
            }
        }
        self.release(net, conn, receiver.closes.then_some(CloseReason::Answered), 0);
    }

    /// Serves a request that sends messages to the application.
    fn send<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head: &Head<'_>,
        (at, name, transport): Place<'_>,
        body: Option<&[u8]>,
    ) -> Option<Response> {
        let service = &self.services[at];
        let wrap = |response| answers::transport_headers(response, head, service, transport);
        let Some(body) = body else { return Some(wrap(answers::not_found())) };
        let decoded = payload(head, transport, body);
        let messages = match &decoded {
            Ok(payload) => sockjs::parse_body(payload),
            Err(error) => Err(*error),
        };
        let messages = match messages {
            Ok(messages) => messages,
            Err(error) => return Some(wrap(Response::new(500).text(error.text()))),
        };
        let Some(id) = self.names.get(&KeyRef(at as u16, name)).copied() else {
            return Some(wrap(answers::not_found()));
        };
        let most = self.limits.http_body_bytes;
        let is_full = self.sessions.get(id).is_none_or(|Session { session, .. }| {
            session.pending.len() >= most || session.senders.len() >= SENDERS_MAX
        });
        if is_full {
            // A well-behaved client sends again only after it has been answered.
            return Some(wrap(Response::new(503).text("too many messages wait\n").close()));
        }
        let done = match transport {
            Transport::JsonpSend => Response::new(200).text("ok"),
            // Some browsers report an answer without a type as broken XML.
            _ => Response::new(204).header("Content-Type", "text/plain; charset=UTF-8"),
        };
        let done = wrap(done);
        self.hear(net, app, id, messages);
        self.recount(id);
        self.relieve(net, app);
        let session = self.session(id)?;
        if session.pending.is_empty() {
            return Some(done);
        }
        // Answered when all its messages have been handled, but no later than a proxy waits.
        session.senders.push(conn);
        let done = done.answering(head);
        let closes = done.closes();
        let reply = SenderReply { frame: done.encode(Some(net.now().unix)), closes };
        net.note_input_bytes(conn, reply.frame.len());
        self.lines[conn.index()] = Line::Sender(id, Box::new(reply), conn.generation);
        net.deadline(conn, Some(net.now().mono.plus(self.limits.heartbeat_ms as u64)));
        None
    }

    /// Passes messages to the application while their answers are taken and they do not come too
    /// fast; the rest waits.
    fn hear<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: HttpSessionId,
        mut messages: Messages<'_>,
    ) {
        let (pace, now) = (self.pace, net.now().mono);
        loop {
            let pause_bytes = self.answers_max(app, id);
            let Some(session) = self.session(id).filter(|session| !session.has_ended()) else {
                return;
            };
            let is_too_fast = session.bucket.is_spent(&pace, now);
            if !session.pending.is_empty() || session.is_full(net, pause_bytes) || is_too_fast {
                if !messages.is_over() {
                    session.put_behind(&messages);
                    self.held += u64::from(is_too_fast);
                }
                break;
            }
            let rest = messages.rest();
            let Some(message) = messages.next() else { break };
            if self.puts_off(net, app, id, &message) {
                self.keep_pending(id, rest);
                break;
            }
            self.tell_session(net, app, id, &message);
        }
        self.mark_dirty(id);
    }

    /// Whether there is no room for the answer to a message. If so, none of the session's messages
    /// is handled until there is.
    fn puts_off<A: Application<Peer = P>>(
        &mut self,
        net: &impl Net,
        app: &A,
        id: HttpSessionId,
        message: &str,
    ) -> bool {
        let Some(Session { peer: Some(peer), session }) = self.sessions.get_mut(id) else {
            return false;
        };
        if app.has_room(net, peer, message) {
            return false;
        }
        session.waits_for_room = true;
        self.room_queue.push(SessionId::of_http(id));
        true
    }

    /// Replaces the waiting messages by what is left of them.
    fn keep_pending(&mut self, id: HttpSessionId, rest: &str) {
        if let Some(session) = self.session(id) {
            session.pending = rest.to_owned();
        }
    }

    /// There is room for the answer to a session's next message.
    pub(super) fn session_resumed(&mut self, id: HttpSessionId) {
        if let Some(session) = self.session(id) {
            session.waits_for_room = false;
            self.mark_dirty(id);
        }
    }

    /// There is room for a session's waiting output, or it is its turn to get it.
    pub(super) fn taker_resumed(&mut self, id: HttpSessionId) {
        if let Some(session) = self.session(id) {
            session.is_taker = false;
            self.mark_dirty(id);
        }
    }

    /// Passes one message to the application.
    fn tell_session<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: HttpSessionId,
        message: &str,
    ) {
        let Some(Session { peer: Some(peer), session }) = self.sessions.get_mut(id) else { return };
        session.bucket.take(&self.pace, net.now().mono, 1);
        let heard = if message.len() > app.bounds(peer).message_bytes {
            Err(Parting::from(CloseReason::WsTooLarge))
        } else {
            let was_authenticated = app.is_authenticated(peer);
            let mut outlet = Outlet::new(net, SessionId::of_http(id), Way::Http(session));
            let heard = app.message(&mut outlet, peer, Message::Text(message));
            self.unauthenticated.note(was_authenticated, app.is_authenticated(peer));
            heard
        };
        if let Err(parting) = heard {
            self.dismiss_session(net, app, id, parting);
        }
    }

    /// Serves a session that has changed: gives the receiver its output, handles waiting messages,
    /// and sets the timer.
    pub(super) fn serve<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: HttpSessionId,
    ) {
        loop {
            let has_turn = self.room_queue.has_turn(id);
            let Some(session) = self.session(id) else { return };
            if session.owes_much() && !has_turn && app.is_short(net) {
                if !std::mem::replace(&mut session.is_taker, true) {
                    self.room_queue.push_taker(SessionId::of_http(id));
                }
            } else {
                if has_turn {
                    self.room_queue.given = session.receiver_conn();
                }
                self.give(net, id);
            }
            if !self.go_on(net, app, id) {
                break;
            }
        }
        self.recount(id);
        let pause_bytes = self.answers_max(app, id);
        let Some(session) = self.session(id) else { return };
        session.unmark_dirty();
        if session.pending.is_empty() {
            let senders = std::mem::take(&mut session.senders);
            for conn in senders {
                self.release_sender(net, conn, id);
            }
        } else if session.is_full(net, pause_bytes)
            && let Some(receiver) = session.receiver_mut()
        {
            // `drained` is called only after a refusal by the kernel, or if it is paused.
            receiver.is_held = true;
            net.pause(receiver.conn);
        }
        self.schedule(net, app, id);
    }

    /// Gives the receiver the output that waits.
    pub(super) fn give(&mut self, net: &mut impl Net, id: HttpSessionId) {
        let Some(session) = self.session(id) else { return };
        let before = session.inbox_bytes();
        let finished = session.flush(net);
        let given = before - session.inbox_bytes();
        self.given += given;
        if let Some(finished) = finished {
            self.finish(net, id, finished);
        }
    }

    /// Handles messages that waited for the browser to take its answers, or for tokens. Returns
    /// whether any was handled.
    fn go_on<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: HttpSessionId,
    ) -> bool {
        let (pace, now) = (self.pace, net.now().mono);
        let mut has_heard = false;
        let must_wait = |session: &HttpSession, net: &_, pause_bytes| {
            let is_put_off = session.waits_for_room || session.is_taker;
            is_put_off || session.is_full(net, pause_bytes) || session.bucket.is_spent(&pace, now)
        };
        let pause_bytes = self.answers_max(app, id);
        let Some(session) =
            self.session(id).filter(|session| !must_wait(session, net, pause_bytes))
        else {
            return false;
        };
        if session.pending.is_empty() {
            return false;
        }
        if self.is_over(app, net.now(), id) {
            // A renewal may be behind the others. Without one, the deadline, now passed, ends it.
            return self.renew_session(net, app, id);
        }
        let text = self.session(id).map(|session| std::mem::take(&mut session.pending));
        let text = text.unwrap_or_default();
        let mut messages = Messages::resume(&text);
        loop {
            let rest = messages.rest();
            let Some(message) = messages.next() else { return has_heard };
            if self.puts_off(net, app, id, &message) {
                self.keep_pending(id, rest);
                return has_heard;
            }
            has_heard = true;
            self.tell_session(net, app, id, &message);
            let pause_bytes = self.answers_max(app, id);
            let Some(session) = self.session(id).filter(|session| !session.has_ended()) else {
                return true;
            };
            if must_wait(session, net, pause_bytes) {
                if !messages.is_over() {
                    self.keep_pending(id, messages.rest());
                }
                return true;
            }
        }
    }

    /// Sets the only timer of a session.
    fn schedule<A: Application<Peer = P>>(&mut self, net: &impl Net, app: &A, id: HttpSessionId) {
        let Some(Session { peer, session }) = self.sessions.get_mut(id) else { return };
        let alone_until = session.alone_until(self.limits.session_ms);
        let own = match (session.has_receiver(), session.is_alone()) {
            (true, _) => session.beat_at,
            (false, true) => alone_until,
            // An answer is in flight: `taken` tells the session when it has gone out.
            (false, false) => net.now().mono.plus(self.limits.heartbeat_ms as u64),
        };
        let own = session.lags_at(self.limits.backlog_soft_ms).map_or(own, |at| at.min(own));
        let deadline = peer.as_ref().and_then(|peer| app.deadline(peer, net.now()));
        let at = deadline.map_or(own, |at| at.min(own));
        let is_spent = session.bucket.is_spent(&self.pace, net.now().mono);
        let waiting = Some(session.pending.len()).filter(|bytes| *bytes > 0 && is_spent);
        let again = waiting.map(|bytes| session.bucket.again(&self.pace, bytes));
        let at = again.map_or(at, |again| again.min(at));
        if let Some(timer) = session.timer.take() {
            self.wheel.cancel(timer);
        }
        session.timer = Some(self.wheel.insert(at.0, id));
    }

    /// The timer of a session has expired.
    pub(super) fn session_timed_out<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: HttpSessionId,
    ) {
        let (now, beat_ms) = (net.now(), self.limits.heartbeat_ms as u64);
        let Some(Session { peer, session }) = self.sessions.get_mut(id) else { return };
        session.timer = None;
        let alone_until = session.alone_until(self.limits.session_ms);
        if session.is_alone() && alone_until <= now.mono {
            return self.destroy(net, app, id);
        }
        let lags_at = session.lags_at(self.limits.backlog_soft_ms);
        let lag = lags_at.filter(|at| *at <= now.mono).map(|_| CloseReason::Lagging.into());
        let over = lag.or_else(|| app.timed_out(peer.as_mut()?, now).err());
        if let Some(parting) = over {
            if lag.is_some() || !self.renew_session(net, app, id) {
                self.dismiss_session(net, app, id, parting);
            }
        } else if session.has_receiver() && session.beat_at <= now.mono {
            session.beat_at = now.mono.plus(beat_ms);
            self.beat(net, id);
        }
        self.mark_dirty(id);
    }

    /// Whether a session has expired.
    fn is_over<A: Application<Peer = P>>(
        &mut self,
        app: &mut A,
        now: Now,
        id: HttpSessionId,
    ) -> bool {
        let peer = self.sessions.get_mut(id).and_then(|session| session.peer.as_mut());
        peer.is_some_and(|peer| app.timed_out(peer, now).is_err())
    }

    /// Handles a waiting message that renews an expired session; returns whether there was one.
    fn renew_session<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: HttpSessionId,
    ) -> bool {
        let Some(Session { peer: Some(peer), session }) = self.sessions.get_mut(id) else {
            return false;
        };
        let now = net.now();
        let renews = |message: &str| app.renews(peer, message, now);
        let Some(message) = Messages::take(&mut session.pending, renews) else { return false };
        self.tell_session(net, app, id, &message);
        true
    }

    /// Sends a heartbeat to a receiver that has waited for long, or closes one that takes nothing.
    fn beat(&mut self, net: &mut impl Net, id: HttpSessionId) {
        let Some(session) = self.session(id) else { return };
        let Some(receiver) = session.receiver_mut() else { return };
        let queued = net.queued(receiver.conn);
        let taken = (queued > 0).then(|| net.taken(receiver.conn));
        if taken.is_some() && taken == receiver.taken_at_beat {
            // It took nothing for a whole interval. The session ends with the connection.
            return net.close(receiver.conn, CloseReason::NoHeartbeat);
        }
        receiver.taken_at_beat = taken;
        if queued == 0
            && let Some(finished) = session.beat(net)
        {
            self.finish(net, id, finished);
        }
    }

    /// All output queued for a receiver has gone to the kernel.
    pub(super) fn receiver_drained(&mut self, net: &mut impl Net, id: HttpSessionId) {
        let Some(receiver) = self.session(id).and_then(HttpSession::receiver_mut) else { return };
        if std::mem::take(&mut receiver.is_held) {
            net.resume(receiver.conn);
            self.mark_dirty(id);
        }
    }

    /// Ends a session over HTTP: the next request that receives from it is told why.
    pub(super) fn dismiss_session<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: HttpSessionId,
        parting: Parting,
    ) {
        let Some(Session { peer, session }) = self.sessions.get_mut(id) else { return };
        session.end(net, parting);
        if session.mark_dirty() {
            self.dirty.push_back(id);
        }
        let peer = peer.take();
        self.forget(app, peer);
        self.stand_in_line(app, id, true);
    }

    pub(super) fn session(&mut self, id: HttpSessionId) -> Option<&mut HttpSession> {
        self.sessions.get_mut(id).map(|entry| &mut *entry.session)
    }

    pub(super) fn mark_dirty(&mut self, id: HttpSessionId) {
        if self.session(id).is_some_and(HttpSession::mark_dirty) {
            self.dirty.push_back(id);
        }
    }

    /// The amount of waiting output at which a session's messages are no longer handled.
    fn answers_max<A: Application<Peer = P>>(&self, app: &A, id: HttpSessionId) -> usize {
        let peer = self.sessions.get(id).and_then(|session| session.peer.as_ref());
        pause_bytes(&self.limits, peer.is_none_or(|peer| app.is_authenticated(peer)))
    }

    /// Removes a session over HTTP. Requests that sent to it are answered: their messages were
    /// handled as far as there was a session to handle them.
    pub(super) fn destroy<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: HttpSessionId,
    ) {
        let Some(Session { peer, mut session }) = self.sessions.remove(id) else { return };
        // A session that was not ended by the server was left by its client.
        let reason = session.ended.map_or(CloseReason::PeerLost, |parting| parting.reason);
        self.http_sessions_closed[reason as usize] += 1;
        self.names.remove(&session.key);
        fit(&mut self.names);
        if self.names.is_empty() {
            self.unauthenticated.give_back_places();
        }
        self.bodies.bytes -= session.counted_bytes;
        session.clear_inbox(net);
        if let Some(timer) = session.timer.take() {
            self.wheel.cancel(timer);
        }
        self.forget(app, peer);
        for conn in session.senders {
            self.release_sender(net, conn, id);
        }
    }
}
