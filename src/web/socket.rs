//! Browsers over WebSocket, raw or in SockJS framing: frames in, messages out to the application
//! strictly one after the other, heartbeats, and the end.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::outlet::Way;
use super::pace::Bucket;
use super::{Application, Line, Link, Message, Outlet, Parting, Session, SessionId, Web};
use crate::codec::sockjs;
use crate::codec::ws::{self, Event, Side, WsError};
use crate::edge::{ConnId, Net};
use crate::publication::Form;
use crate::reason::CloseReason;
use crate::time::Millis;

/// Why a connection is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// It is.
    No,
    /// Until its answers have gone out.
    Answers,
    /// Until it has tokens again.
    Pace,
}

/// A connection that speaks WebSocket.
#[derive(Debug)]
pub(super) struct Socket {
    pub conn: ConnId,
    reader: ws::Reader,
    pub form: Form,
    /// A ping is out, and nothing has come since.
    awaits_answer: bool,
    held: Held,
    /// The next ping, or the end of the wait for an answer.
    beat_at: Millis,
    /// What it had taken at the last beat, while held.
    taken_at_beat: Option<u32>,
    bucket: Bucket,
    /// Messages of a SockJS array that wait behind those answers; at most as long as one WebSocket
    /// message.
    #[allow(clippy::box_collection)] // one word, because it is hardly ever there
    pending: Option<Box<VecDeque<String>>>,
}

impl Socket {
    fn new(conn: ConnId, form: Form, beat_at: Millis) -> Socket {
        Socket {
            conn,
            reader: ws::Reader::new(Side::Server),
            form,
            awaits_answer: false,
            held: Held::No,
            beat_at,
            taken_at_beat: None,
            bucket: Bucket::default(),
            pending: None,
        }
    }

    /// What it asked for and has not taken is no reason to cut it, but one to hear no more
    /// requests: TCP holds it back.
    fn hold(&mut self, net: &mut impl Net) {
        self.held = Held::Answers;
        net.pause(self.conn);
    }

    /// Tells a browser why it is let go (protocol parts 6 and 7): on SockJS in a `c[…]` frame,
    /// followed by an ordinary close, otherwise in the close frame itself.
    pub fn farewell(&self, net: &mut impl Net, parting: Parting) {
        let Some((code, text)) = parting.words() else { return };
        use CloseReason::{BrokenFraming, PeerClosed, WsProtocol, WsTooLarge, WsUtf8};
        let is_transport =
            matches!(parting.reason, BrokenFraming | WsProtocol | WsUtf8 | WsTooLarge | PeerClosed);
        match self.form {
            Form::SockJs if !is_transport => {
                let last = sockjs::close_text(code, &text);
                net.send(self.conn, ws::text_frame(last.as_bytes()));
                net.send(self.conn, ws::close_frame(1000, "Normal closure"));
            }
            _ => net.send(self.conn, ws::close_frame(code, &text)),
        }
    }
}

impl<P> Web<P> {
    /// A connection has been upgraded, and told so. Its session begins; whether it goes on.
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
        let socket = Socket::new(conn, form, net.now().mono.plus(beat_ms));
        let id = self.sessions.insert(Session { peer: None, link: Link::Socket(socket) });
        self.raw_sockets += usize::from(form == Form::Raw);
        self.lines[conn.index()] = Line::Socket(id);
        let opened = app.opened(&mut Outlet::new(net, id, Way::Socket(conn, form)), service);
        match opened {
            Ok(peer) => {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.peer = Some(peer);
                }
                self.reschedule_socket(net, app, id);
                self.meet(net, app, id);
            }
            Err(parting) => self.dismiss(net, app, id, parting),
        }
    }

    fn reschedule_socket<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &A,
        id: SessionId,
    ) {
        if let Some(Session { peer: Some(peer), link: Link::Socket(socket) }) =
            self.sessions.get_mut(id)
        {
            let deadline = app.deadline(peer, net.now());
            let at = deadline.map_or(socket.beat_at, |at| at.min(socket.beat_at));
            let now = net.now().mono;
            let again = match socket.held {
                Held::Pace => Some(socket.bucket.wait(&self.pace, now).unwrap_or(now)),
                Held::No | Held::Answers => None,
            };
            net.deadline(socket.conn, Some(again.map_or(at, |again| again.min(at))));
        }
    }

    pub(super) fn socket_received<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        input: &mut [u8],
    ) -> Result<usize, Parting> {
        let Some(Session { peer: Some(_), link: Link::Socket(socket) }) = self.sessions.get_mut(id)
        else {
            // It has been dismissed.
            return Ok(input.len());
        };
        if socket.awaits_answer {
            // Any byte shows that somebody is there.
            socket.awaits_answer = false;
            socket.beat_at = net.now().mono.plus(self.limits.heartbeat_ms as u64);
            self.reschedule_socket(net, app, id);
        }
        // Out of the socket meanwhile, because a message may lie in the reader.
        let Some(Session { link: Link::Socket(socket), .. }) = self.sessions.get_mut(id) else {
            return Ok(input.len());
        };
        let mut reader = std::mem::replace(&mut socket.reader, ws::Reader::new(Side::Server));
        let used = self.frames(net, app, id, &mut reader, input);
        if let Some(Session { link: Link::Socket(socket), .. }) = self.sessions.get_mut(id) {
            socket.reader = reader;
        }
        used
    }

    fn frames<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        reader: &mut ws::Reader,
        input: &mut [u8],
    ) -> Result<usize, Parting> {
        let mut used = 0;
        let now = net.now().mono;
        loop {
            let pause_bytes = self.pause_bytes(app, id);
            let Some(Session { peer: Some(peer), link: Link::Socket(socket) }) =
                self.sessions.get_mut(id)
            else {
                return Ok(input.len());
            };
            socket.bucket.take(&self.pace, now, reader.take_frames());
            if net.queued(socket.conn) >= pause_bytes {
                socket.hold(net);
                return Ok(used);
            }
            if socket.bucket.wait(&self.pace, now).is_some() {
                self.hold_pace(net, app, id);
                return Ok(used);
            }
            let conn = socket.conn;
            // Each error has its words.
            let broken = |error: WsError| Parting {
                told: Some((error.close_code(), error.close_text())),
                reason: error.into(),
                back_ms: None,
            };
            let step = reader.read(&mut input[used..], &app.bounds(peer)).map_err(broken)?;
            used += step.consumed;
            match step.event {
                None => {
                    socket.bucket.take(&self.pace, now, reader.take_frames());
                    return Ok(used);
                }
                Some(Event::Text(text)) => self.socket_text(net, app, id, text)?,
                Some(Event::Binary(bytes)) => self.socket_binary(net, app, id, bytes)?,
                Some(Event::Ping(payload)) => net.send(conn, ws::pong_frame(payload)),
                Some(Event::Pong(_)) => {}
                Some(Event::Close(said)) => {
                    let (code, reason) = said.unwrap_or((1000, ""));
                    net.send(conn, ws::close_frame(code, reason));
                    net.close(conn, CloseReason::PeerClosed);
                    return Ok(used);
                }
            }
        }
    }

    /// It speaks too fast: it is not read until its time has come.
    fn hold_pace<A: Application<Peer = P>>(&mut self, net: &mut impl Net, app: &A, id: SessionId) {
        let Some(Session { link: Link::Socket(socket), .. }) = self.sessions.get_mut(id) else {
            return;
        };
        socket.held = Held::Pace;
        net.pause(socket.conn);
        self.held += 1;
        self.reschedule_socket(net, app, id);
    }

    /// Gives the application one message.
    fn tell<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        message: Message<'_>,
    ) -> Result<(), Parting> {
        let Some(Session { peer: Some(peer), link: Link::Socket(socket) }) =
            self.sessions.get_mut(id)
        else {
            return Ok(());
        };
        let mut outlet = Outlet::new(net, id, Way::Socket(socket.conn, socket.form));
        app.message(&mut outlet, peer, message)?;
        if outlet.is_rescheduled {
            self.reschedule_socket(net, app, id);
        }
        self.get_to_know(app, id);
        Ok(())
    }

    /// One text: one message, or on SockJS any number of them.
    fn socket_text<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        text: &str,
    ) -> Result<(), Parting> {
        let is_raw = matches!(self.sessions.get(id),
            Some(Session { link: Link::Socket(socket), .. }) if socket.form == Form::Raw);
        if is_raw {
            return self.tell(net, app, id, Message::Text(text));
        }
        let broken = |_| Parting::from(CloseReason::BrokenFraming);
        let mut messages = sockjs::parse_messages(text).map_err(broken)?;
        let mut count = 0;
        while let Some(message) = messages.next() {
            self.tell(net, app, id, Message::Text(&message))?;
            let pause_bytes = self.pause_bytes(app, id);
            let Some(Session { link: Link::Socket(socket), .. }) = self.sessions.get_mut(id) else {
                return Ok(());
            };
            // The frame itself has been paid for.
            socket.bucket.take(&self.pace, net.now().mono, usize::from(count > 0));
            count += 1;
            if net.queued(socket.conn) >= pause_bytes {
                let rest: VecDeque<String> = messages.map(Cow::into_owned).collect();
                socket.pending = (!rest.is_empty()).then(|| Box::new(rest));
                socket.hold(net);
                return Ok(());
            }
        }
        Ok(())
    }

    fn socket_binary<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        bytes: &[u8],
    ) -> Result<(), Parting> {
        let is_raw = matches!(self.sessions.get(id),
            Some(Session { link: Link::Socket(socket), .. }) if socket.form == Form::Raw);
        if is_raw {
            return self.tell(net, app, id, Message::Binary(bytes));
        }
        let text = str::from_utf8(bytes).map_err(|_| Parting::from(CloseReason::WsUtf8))?;
        self.socket_text(net, app, id, text)
    }

    /// All that was queued for it has gone to the kernel: it is heard again.
    pub(super) fn socket_drained<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
    ) -> Result<(), Parting> {
        while let Some(Session { link: Link::Socket(socket), .. }) = self.sessions.get_mut(id)
            && let Some(message) = socket.pending.as_mut().and_then(|rest| rest.pop_front())
        {
            let conn = socket.conn;
            socket.bucket.take(&self.pace, net.now().mono, 1);
            self.tell(net, app, id, Message::Text(&message))?;
            if net.queued(conn) >= self.pause_bytes(app, id) {
                return Ok(());
            }
        }
        if let Some(Session { link: Link::Socket(socket), .. }) = self.sessions.get_mut(id) {
            socket.pending = None;
            if socket.held == Held::Answers {
                socket.held = Held::No;
                net.resume(socket.conn);
            }
        }
        Ok(())
    }

    /// A deadline has come.
    pub(super) fn socket_timed_out<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
    ) -> Result<(), Parting> {
        let Some(Session { peer: Some(peer), link: Link::Socket(socket) }) =
            self.sessions.get_mut(id)
        else {
            return Ok(());
        };
        let now = net.now();
        app.timed_out(peer, now)?;
        let was_too_fast = socket.held == Held::Pace;
        if was_too_fast && socket.bucket.wait(&self.pace, now.mono).is_none() {
            socket.held = Held::No;
            net.resume(socket.conn);
        }
        if socket.beat_at <= now.mono {
            let taken = Some(net.taken(socket.conn));
            if was_too_fast {
                // Its pongs stand behind what it said too fast.
                socket.beat_at = now.mono.plus(self.limits.heartbeat_ms as u64);
            } else if socket.held == Held::Answers {
                // It is not read, so its pongs are not heard: what it takes shows that it lives.
                if taken == socket.taken_at_beat {
                    return Err(CloseReason::NoHeartbeat.into());
                }
                socket.taken_at_beat = taken;
                socket.beat_at = now.mono.plus(self.limits.heartbeat_ms as u64);
            } else if socket.awaits_answer {
                return Err(CloseReason::NoHeartbeat.into());
            } else {
                net.send(socket.conn, ws::ping_frame(b""));
                socket.awaits_answer = true;
                socket.beat_at = now.mono.plus(self.limits.heartbeat_answer_ms as u64);
            }
        }
        self.reschedule_socket(net, app, id);
        Ok(())
    }
}
