//! Request bodies as they arrive: their minimum rate, and the memory kept for them and for the
//! messages in them that wait. If that is too much in total, those with the most, relative to their
//! allowance, are evicted. Called by `http`, and by `transports` for messages that wait and to
//! decode a body.

use std::borrow::Cow;

use super::answers;
use super::http_session::HttpSessionId;
use super::{Application, Http, Line, Parting, Session, Web, origin};
use crate::codec::http::{BodyError, BodyReader, Head, Response};
use crate::codec::sockjs::{self, Route, SendError, Transport};
use crate::edge::{ConnId, Net};
use crate::limits::{Limits, share};
use crate::reason::CloseReason;
use crate::time::Millis;

/// The time after the head before the minimum rate applies: a phone may send the body a second
/// later and lose the packet, which is retransmitted after one second, and two later.
const GRACE_MS: u64 = 4000;

/// Content types that `xhr_send` takes for JSON; others are refused. The last is of old Konquerors.
const SEND_TYPES: [&str; 6] =
    ["", "text/plain", "application/json", "application/xml", "text/xml", "t"];

const FORM_TYPE: &str = "application/x-www-form-urlencoded";

/// A request whose body is arriving.
#[derive(Debug)]
pub(super) struct Upload {
    /// The connection it arrives on.
    conn: ConnId,
    head: Box<[u8]>,
    reader: BodyReader,
    /// The body so far; `None` if it is discarded.
    body: Option<Vec<u8>>,
    /// The memory it may use, in bytes.
    most: usize,
    started: Millis,
    /// Bytes of the body received.
    got: u64,
}

impl Upload {
    /// Reads input; returns how many bytes belonged to the body.
    pub fn read(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let used = self.reader.read(input, self.body.as_mut())?;
        self.got += used as u64;
        Ok(used)
    }

    /// The memory in use, relative to what it may use.
    fn share(&self) -> u64 {
        share(self.bytes(), self.most)
    }

    pub fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// The memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.body.as_ref().map_or(0, Vec::capacity)
    }

    /// The head and the body.
    pub fn into_parts(self) -> (Box<[u8]>, Option<Vec<u8>>) {
        (self.head, self.body)
    }

    /// When the body must be complete, or more of it must have arrived.
    pub fn due(&self, limits: &Limits) -> Millis {
        let earned_ms = self.got.saturating_mul(1000) / limits.http_body_bytes_per_second as u64;
        let ms = (limits.http_body_ms as u64).min(GRACE_MS + earned_ms);
        self.started.plus(ms)
    }
}

/// The memory of all bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bodies {
    /// Bytes of arriving bodies, and of messages in them that wait.
    pub bytes: usize,
    /// Uploads and sessions ended because that was too much.
    pub evicted: u64,
}

/// The owner of some of that memory.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Conn(ConnId),
    Session(HttpSessionId),
}

impl<P> Web<P> {
    /// The longest body allowed for this request, and whether its content is kept: only if there is
    /// a session to receive it. Less is allowed if that has not authenticated.
    pub(super) fn body_wanted<A: Application<Peer = P>>(
        &self,
        app: &A,
        head: &Head<'_>,
    ) -> (usize, bool) {
        let most = self.limits.http_body_bytes;
        if head.method != "POST" {
            return (most, false);
        }
        let Some((at, route @ Route::Session { session, transport, .. })) = self.route(head) else {
            return (most, false);
        };
        if !origin::may_connect(head, &self.services[at], &route) {
            return (most, false);
        }
        let is_sender = matches!(transport, Transport::XhrSend | Transport::JsonpSend);
        let id = self.names.get(&super::KeyRef(at as u16, session));
        let Some(id) = id.filter(|_| is_sender) else {
            return (most, false);
        };
        (self.body_bytes(app, self.sessions.get(*id)), true)
    }

    /// The longest body allowed for that session.
    fn body_bytes<A: Application<Peer = P>>(&self, app: &A, session: Option<&Session<P>>) -> usize {
        let peer = session.and_then(|session| session.peer.as_ref());
        let most = self.limits.http_body_bytes;
        match peer.is_some_and(|peer| app.is_authenticated(peer)) {
            true => most,
            false => most.min(self.limits.http_body_unauthenticated_bytes),
        }
    }

    /// The body of a request has begun and is incomplete.
    pub(super) fn begin_upload<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        (head, reader, body, body_max): (&[u8], BodyReader, Option<Vec<u8>>, usize),
        got: usize,
    ) {
        // If the body is discarded, only the head uses memory.
        let most = if body.is_some() { body_max } else { self.limits.http_head_bytes };
        let (started, got) = (net.now().mono, got as u64);
        let upload = Upload { conn, head: head.into(), reader, body, most, started, got };
        net.deadline(conn, Some(upload.due(&self.limits)));
        self.bodies.bytes += upload.bytes();
        self.lines[conn.index()] = Line::Http(Http::uploading(conn, upload));
        self.relieve(net, app);
    }

    /// Removes an upload that is complete or given up.
    pub(super) fn take_upload(&mut self, conn: ConnId) -> Option<Box<Upload>> {
        let Line::Http(http) = &mut self.lines[conn.index()] else { return None };
        let upload = http.upload.take()?;
        self.bodies.bytes -= upload.bytes();
        Some(upload)
    }

    /// Updates the memory counted for a session's waiting messages.
    pub(super) fn recount(&mut self, id: HttpSessionId) {
        let Some(Session { session, .. }) = self.sessions.get_mut(id) else { return };
        let bytes = session.pending_bytes();
        let counted = std::mem::replace(&mut session.counted_bytes, bytes);
        self.bodies.bytes = self.bodies.bytes - counted + bytes;
    }

    /// If too much memory is in use, evicts the largest until a quarter is free, so that the search
    /// costs little for each byte received before. The largest are those with the most relative to
    /// their allowance: before `auth` that is small, so whoever exhausts it goes first.
    pub(super) fn relieve<A: Application<Peer = P>>(&mut self, net: &mut impl Net, app: &mut A) {
        if self.bodies.bytes <= self.limits.bodies_bytes {
            return;
        }
        let uploads = self.lines.iter().filter_map(|line| match line {
            Line::Http(http) => {
                http.upload.as_ref().map(|upload| (upload.share(), Owner::Conn(upload.conn)))
            }
            _ => None,
        });
        let sessions = self.sessions.iter().filter_map(|(id, entry)| {
            let bytes = entry.session.counted_bytes;
            let most = || self.body_bytes(app, Some(entry));
            (bytes > 0).then(|| (share(bytes, most()), Owner::Session(id)))
        });
        let mut owners: Vec<(u64, Owner)> = uploads.chain(sessions).collect();
        owners.sort_unstable_by_key(|(share, _)| std::cmp::Reverse(*share));
        let enough = self.limits.bodies_bytes - self.limits.bodies_bytes / 4;
        for (_, owner) in owners {
            if self.bodies.bytes <= enough {
                return;
            }
            self.bodies.evicted += 1;
            match owner {
                Owner::Conn(conn) => {
                    let response = Response::new(503).text("too much is being sent\n").close();
                    answers::send(net, conn, response);
                    net.close(conn, CloseReason::Full);
                    self.take_upload(conn);
                }
                Owner::Session(id) => {
                    // The protocol says 3008. What counts is that there is no room, as above.
                    let told = CloseReason::SlowConsumer.told();
                    let parting = Parting { told, ..CloseReason::Full.into() };
                    self.dismiss_session(net, app, id, parting);
                    self.recount(id);
                }
            }
        }
    }
}

/// Extracts the JSON from the body of a sending request.
pub(super) fn payload<'a>(
    head: &Head<'_>,
    transport: Transport,
    body: &'a [u8],
) -> Result<Cow<'a, [u8]>, SendError> {
    let content_type = head.header("content-type").unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    let content_type = content_type.to_ascii_lowercase();
    if transport == Transport::JsonpSend && content_type == FORM_TYPE {
        return sockjs::form_field(body, b"d").map(Cow::Owned).ok_or(SendError::Payload);
    }
    if SEND_TYPES.contains(&content_type.as_str()) {
        return Ok(Cow::Borrowed(body));
    }
    Err(SendError::Payload)
}
