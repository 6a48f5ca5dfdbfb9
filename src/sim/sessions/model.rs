//! The model of sessions over HTTP, much simpler than the server. Owns what each visitor is
//! expected to receive; knows no bytes of HTTP, only pieces of responses.

use std::collections::BTreeSet;

use super::Met;
use crate::codec::sockjs;
use crate::limits::Limits;
use crate::time::Millis;

/// Session names, each with a user of its own.
pub(super) const NAMES: [&str; 4] = ["one", "two", "%20three", "4"];
/// Channels that sessions subscribe to.
pub(super) const CHANNELS: [&str; 3] = ["a", "b", "c"];
/// Stands for the id of any connection.
const CID: &str = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

/// How a visitor receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Poll,
    Xhr,
    EventSource,
}

/// What a visitor sends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    Auth,
    BadAuth,
    Subscribe(usize),
    Unsubscribe(usize),
    Ping,
}

/// A piece of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Head(u16),
    Body(String),
    Chunk(String),
    End,
}

impl Piece {
    /// Replaces each connection id, which is random, by [`CID`].
    pub fn without_cid(self) -> Piece {
        let replace = |mut text: String| {
            const MARK: &str = r#"\"cid\":\""#;
            let marks: Vec<usize> = text.match_indices(MARK).map(|(at, _)| at).collect();
            for at in marks {
                let start = at + MARK.len();
                text.replace_range(start..start + CID.len(), CID);
            }
            text
        };
        match self {
            Piece::Body(text) => Piece::Body(replace(text)),
            Piece::Chunk(text) => Piece::Chunk(replace(text)),
            other => other,
        }
    }

    pub fn says_going_away(&self) -> bool {
        matches!(self, Piece::Body(text) | Piece::Chunk(text) if text.contains("c[1001,"))
    }
}

#[derive(Debug)]
struct Receiver {
    visitor: usize,
    kind: Kind,
    sent: usize,
    since: Millis,
}

#[derive(Debug)]
struct Session {
    receiver: Option<Receiver>,
    is_opened: bool,
    /// Messages that wait, as JSON strings, and how many of their bytes count as backlog.
    inbox: Vec<String>,
    backlog: usize,
    ended: Option<String>,
    is_end_told: bool,
    is_auth: bool,
    channels: BTreeSet<usize>,
    opened_at: Millis,
    alone_since: Millis,
    /// Bytes of the frames in its last response.
    answered: usize,
}

#[derive(Debug)]
pub(super) struct Model {
    limits: Limits,
    pub now: Millis,
    sessions: [Option<Session>; NAMES.len()],
    expected: Vec<Vec<Piece>>,
    /// Visitors whose connections the server has closed.
    closed: BTreeSet<usize>,
    going: Vec<usize>,
    pub met: Met,
}

fn quoted(message: &str) -> String {
    let mut out = Vec::new();
    sockjs::escape_into(&mut out, message);
    String::from_utf8(out).expect("escapes are ASCII")
}

impl Model {
    pub fn new(limits: Limits) -> Model {
        Model {
            limits,
            now: Millis(0),
            sessions: Default::default(),
            expected: vec![Vec::new(); super::VISITORS],
            closed: BTreeSet::new(),
            going: Vec::new(),
            met: Met::default(),
        }
    }

    pub fn take_expected(&mut self, visitor: usize) -> Vec<Piece> {
        std::mem::take(&mut self.expected[visitor])
    }

    pub fn take_closed(&mut self, visitor: usize) -> bool {
        self.closed.remove(&visitor)
    }

    pub fn is_waiting(&self, visitor: usize) -> bool {
        let receivers = self.sessions.iter().flatten().filter_map(|s| s.receiver.as_ref());
        receivers.into_iter().any(|receiver| receiver.visitor == visitor)
    }

    pub fn sessions(&self) -> usize {
        self.sessions.iter().flatten().count()
    }

    /// Returns how many channels and peers the hub must have.
    pub fn sizes(&self) -> (usize, usize) {
        let live = self.sessions.iter().flatten().filter(|session| session.ended.is_none());
        let channels: BTreeSet<usize> =
            live.clone().flat_map(|session| session.channels.iter().copied()).collect();
        (channels.len(), live.filter(|session| session.is_auth).count())
    }

    fn expect(&mut self, visitor: usize, piece: Piece) {
        self.expected[visitor].push(piece);
    }

    fn wrapped(kind: Kind, frame: &str) -> String {
        match kind {
            Kind::Poll | Kind::Xhr => format!("{frame}\n"),
            Kind::EventSource => format!("data: {}\r\n\r\n", frame.replace('%', "%25")),
        }
    }

    fn begin(&mut self, visitor: usize, kind: Kind) {
        self.expect(visitor, Piece::Head(200));
        match kind {
            Kind::Poll => {}
            Kind::Xhr => self.expect(visitor, Piece::Chunk("h".repeat(2048) + "\n")),
            Kind::EventSource => self.expect(visitor, Piece::Chunk("\r\n".into())),
        }
    }

    /// A visitor asks for the messages of a session.
    pub fn receive(&mut self, name: usize, visitor: usize, kind: Kind) {
        if self.sessions[name].is_none() {
            self.met.opened += 1;
            self.sessions[name] = Some(Session {
                receiver: None,
                is_opened: false,
                inbox: Vec::new(),
                backlog: 0,
                ended: None,
                is_end_told: false,
                is_auth: false,
                channels: BTreeSet::new(),
                opened_at: self.now,
                alone_since: self.now,
                answered: 0,
            });
        }
        let session = self.sessions[name].as_mut().expect("there is one now");
        if session.receiver.is_some() {
            self.met.seconds += 1;
            let frame = r#"c[2010,"Another connection still open"]"#;
            self.begin(visitor, kind);
            let text = Model::wrapped(kind, frame);
            match kind {
                Kind::Poll => self.expect(visitor, Piece::Body(text)),
                _ => {
                    self.expect(visitor, Piece::Chunk(text));
                    self.expect(visitor, Piece::End);
                }
            }
            return;
        }
        session.receiver = Some(Receiver { visitor, kind, sent: 0, since: self.now });
        if kind != Kind::Poll {
            self.begin(visitor, kind);
        }
        self.flush(name);
    }

    /// Gives the receiver of a session what there is for it.
    fn flush(&mut self, name: usize) {
        let limit = self.limits.stream_response_bytes;
        loop {
            let Some(session) = self.sessions[name].as_mut() else { return };
            let Some(receiver) = &session.receiver else { return };
            if receiver.sent >= limit {
                self.met.limited += 1;
                return self.end_stream(name, false);
            }
            let (visitor, kind) = (receiver.visitor, receiver.kind);
            let is_open = std::mem::replace(&mut session.is_opened, true);
            let frame = if !is_open {
                "o".to_owned()
            } else if !session.inbox.is_empty() {
                self.met.messages += session.inbox.len() as u64;
                session.backlog = 0;
                format!("a[{}]", std::mem::take(&mut session.inbox).join(","))
            } else if let Some(end) = &session.ended {
                end.clone()
            } else {
                return;
            };
            let is_end = frame.starts_with('c');
            let is_refusal = is_end && !frame.starts_with("c[3403");
            let closes = is_refusal && !std::mem::replace(&mut session.is_end_told, true);
            self.met.told += u64::from(is_end);
            let text = Model::wrapped(kind, &frame);
            if kind == Kind::Poll {
                return self.answer_poll(name, text, closes);
            }
            if let Some(receiver) = &mut session.receiver {
                receiver.sent += text.len();
            }
            self.expect(visitor, Piece::Chunk(text));
            if is_end {
                return self.end_stream(name, closes);
            }
        }
    }

    fn answer_poll(&mut self, name: usize, text: String, closes: bool) {
        let now = self.now;
        let Some(session) = self.sessions[name].as_mut() else { return };
        let Some(receiver) = session.receiver.take() else { return };
        // Without the newline.
        (session.alone_since, session.answered) = (now, text.len() - 1);
        self.expect(receiver.visitor, Piece::Head(200));
        self.expect(receiver.visitor, Piece::Body(text));
        if closes {
            self.closed.insert(receiver.visitor);
        }
    }

    fn end_stream(&mut self, name: usize, closes: bool) {
        let now = self.now;
        let Some(session) = self.sessions[name].as_mut() else { return };
        let Some(receiver) = session.receiver.take() else { return };
        (session.alone_since, session.answered) = (now, receiver.sent);
        self.expect(receiver.visitor, Piece::End);
        if closes {
            self.closed.insert(receiver.visitor);
        }
    }

    /// Sends a message to the client of a session.
    fn say(&mut self, name: usize, message: &str, is_published: bool) {
        let limit = self.limits.stream_response_bytes;
        let Some(session) = self.sessions[name].as_mut() else { return };
        let item = quoted(message);
        let is_ready = session.is_opened && session.inbox.is_empty() && session.ended.is_none();
        if let Some(receiver) = &mut session.receiver
            && receiver.kind != Kind::Poll
            && is_ready
            && receiver.sent < limit
        {
            let text = Model::wrapped(receiver.kind, &format!("a[{item}]"));
            receiver.sent += text.len();
            let visitor = receiver.visitor;
            self.met.messages += 1;
            return self.expect(visitor, Piece::Chunk(text));
        }
        if is_published && !session.inbox.is_empty() && session.receiver.is_none() {
            session.backlog += item.len().min(self.limits.backlog_bytes / 4);
        }
        session.inbox.push(item);
        let is_late = session.alone_since.plus(self.limits.backlog_ms as u64) <= self.now;
        if is_published && session.backlog > self.limits.backlog_bytes && is_late {
            session.inbox.clear();
            self.end(name, r#"c[3008,"too slow"]"#);
        }
    }

    fn end(&mut self, name: usize, frame: &str) {
        if let Some(session) = self.sessions[name].as_mut()
            && session.ended.is_none()
        {
            session.ended = Some(frame.to_owned());
            session.channels.clear();
        }
    }

    /// A visitor sends messages to a session.
    pub fn send(&mut self, name: usize, visitor: usize, said: &[Said]) {
        let Some(session) = &self.sessions[name] else {
            self.expect(visitor, Piece::Head(404));
            self.expect(visitor, Piece::Body(sockjs::NOT_FOUND.into()));
            return;
        };
        if session.ended.is_none() {
            for what in said {
                self.hear(name, *what);
            }
        }
        self.expect(visitor, Piece::Head(204));
        self.flush(name);
    }

    fn hear(&mut self, name: usize, said: Said) {
        let Some(session) = self.sessions[name].as_mut() else { return };
        if session.ended.is_some() {
            return;
        }
        let answer = |clb: u32, data: &str| {
            format!(r#"{{"event":"callBackAnswer","clb":{clb},"data":{data}}}"#)
        };
        let ok = r#"{"ok":true}"#;
        let message = match said {
            Said::Auth => {
                session.is_auth = true;
                format!(r#"{{"event":"auth ok","data":{{"cid":"{CID}"}}}}"#)
            }
            Said::BadAuth => return self.end(name, r#"c[3404,"invalid JWT"]"#),
            Said::Subscribe(channel) if session.is_auth => {
                session.channels.insert(channel);
                answer(1, ok)
            }
            Said::Subscribe(_) => answer(1, r#"{"ok":false,"reason":"need auth"}"#),
            Said::Unsubscribe(channel) => {
                session.channels.remove(&channel);
                answer(2, ok)
            }
            Said::Ping => answer(3, ok),
        };
        self.say(name, &message, false);
    }

    /// Publishes a message to the subscribed sessions.
    pub fn publish(&mut self, channel: usize, data: &str) {
        let message = format!(r#"{{"event":"{}","data":"{data}"}}"#, CHANNELS[channel]);
        for name in 0..NAMES.len() {
            let is_meant = self.sessions[name]
                .as_ref()
                .is_some_and(|session| session.channels.contains(&channel));
            if is_meant {
                self.say(name, &message, true);
                self.flush(name);
            }
        }
    }

    /// A back end disconnects a user.
    pub fn disconnect(&mut self, name: usize) {
        if self.sessions[name].as_ref().is_some_and(|session| session.is_auth) {
            self.end(name, r#"c[3403,"disconnected by the site"]"#);
            self.flush(name);
        }
    }

    /// The connection of a visitor is gone.
    pub fn cut(&mut self, visitor: usize) {
        self.expected[visitor].clear();
        self.closed.remove(&visitor);
        for session in &mut self.sessions {
            let receiver = session.as_ref().and_then(|session| session.receiver.as_ref());
            if receiver.is_some_and(|receiver| receiver.visitor == visitor) {
                *session = None;
                self.met.aborted += 1;
            }
        }
    }

    /// Handles the deadlines that have passed.
    pub fn time_passes(&mut self) {
        let (now, limits) = (self.now, self.limits.clone());
        for name in 0..NAMES.len() {
            let Some(session) = self.sessions[name].as_mut() else { continue };
            let link_ms = limits.link_ms(session.answered);
            let alone_until = session.alone_since.plus(limits.session_ms as u64 + link_ms);
            if session.receiver.is_none() && alone_until <= now {
                self.sessions[name] = None;
                self.met.expired += 1;
                continue;
            }
            let auth_by = session.opened_at.plus(limits.auth_ms as u64);
            if session.ended.is_none() && !session.is_auth && auth_by <= now {
                self.end(name, r#"c[3408,"no auth in time"]"#);
                self.flush(name);
                continue;
            }
            let Some(receiver) = &mut session.receiver else { continue };
            if receiver.since.plus(limits.heartbeat_ms as u64) > now {
                continue;
            }
            receiver.since = now;
            let text = Model::wrapped(receiver.kind, "h");
            if receiver.kind == Kind::Poll {
                self.answer_poll(name, text, false);
                continue;
            }
            receiver.sent += text.len();
            let visitor = receiver.visitor;
            self.expect(visitor, Piece::Chunk(text));
            self.flush(name);
        }
    }

    /// Stops the server: waiting receivers are to be told.
    pub fn stop(&mut self) {
        let receivers = self.sessions.iter().flatten().filter_map(|s| s.receiver.as_ref());
        self.going = receivers.map(|receiver| receiver.visitor).collect();
        self.sessions = Default::default();
    }

    /// How often a visitor is told that the server stops.
    pub fn told_to_go(&self, visitor: usize) -> usize {
        self.going.iter().filter(|other| **other == visitor).count()
    }
}
