//! HTTP/1.1 on the web door: one request after the other, head and body, each answered before the
//! next is looked at (RFC 9112). What is ambiguous is refused and ends the connection.

use super::polled::PolledId;
use super::uploads::Upload;
use super::{Application, Line, Web};
use super::{answers, origin};
use crate::codec::http::{
    self, BodyReader, CONTINUE, Head, HeadBounds, HttpError, Response, Upgrade,
};
use crate::codec::proxy::{self, Introduction};
use crate::codec::sockjs::{self, Route, Transport};
use crate::codec::ws;
use crate::edge::{ConnId, Net};
use crate::frame::Frame;
use crate::publication::Form;
use crate::reason::CloseReason;

/// A connection between requests, or inside one.
#[derive(Debug, Default)]
pub(super) struct Http {
    /// Bytes of the input in which the end of the head is known not to begin.
    scanned: u32,
    /// Nothing has been asked yet.
    is_first: bool,
    /// What comes may begin with an introduction: nothing has come yet, and the peer is believed.
    may_introduce: bool,
    /// The request whose body is not all there.
    pub upload: Option<Box<Upload>>,
}

/// The answer that a sender gets when all that it sent has been heard.
#[derive(Debug)]
pub(super) struct SenderReply {
    pub frame: Frame,
    pub closes: bool,
}

/// What a request has come to.
enum Outcome {
    /// It is answered, and the connection goes on.
    Answered,
    /// The connection is something else now, or waits for an answer.
    Taken,
}

impl Http {
    /// Whether a request has begun and is not all there.
    pub fn is_midway(&self) -> bool {
        self.scanned > 0 || self.upload.is_some()
    }

    /// A connection has come, perhaps by a proxy that is believed.
    pub fn new(is_proxy: bool) -> Http {
        Http { is_first: true, may_introduce: is_proxy, ..Http::default() }
    }

    /// A request has come, and its body is on its way.
    pub fn uploading(upload: Upload) -> Http {
        Http { upload: Some(Box::new(upload)), ..Http::default() }
    }

    /// The request did not come in time. A connection that was between two requests is closed
    /// without a word, as both sides may at any moment.
    pub fn time_out(&self, net: &mut impl Net, conn: ConnId) -> CloseReason {
        let is_half = self.is_midway();
        if is_half {
            answers::send(net, conn, Response::new(408).text("Request Timeout\n").close());
        }
        match is_half || self.is_first {
            true => CloseReason::HalfRequest,
            false => CloseReason::Answered,
        }
    }
}

/// Answers what is no request, and gives the reason to end the connection.
fn refuse(net: &mut impl Net, conn: ConnId, error: HttpError) -> CloseReason {
    answers::send(net, conn, error.response());
    CloseReason::BadHttp
}

impl<P> Web<P> {
    /// Answers the first of the requests that are there, and the next one when that answer has gone
    /// out: one in a turn, so that others have theirs, and no more than one answer waits for
    /// whoever takes none.
    pub(super) fn http_received<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        input: &[u8],
    ) -> Result<usize, CloseReason> {
        let mut used = 0;
        while let Line::Http(http) = &mut self.lines[conn.index()] {
            let rest = &input[used..];
            if !rest.is_empty() && net.queued(conn) > 0 {
                net.pause(conn);
                return Ok(used);
            }
            if let Some(upload) = &mut http.upload {
                let before = upload.bytes();
                let read = upload.read(rest);
                // Some of it may have come before what is wrong.
                self.bodies.bytes = self.bodies.bytes - before + upload.bytes();
                used += read.map_err(|e| refuse(net, conn, e.into()))?;
                if !upload.is_done() {
                    self.relieve(net, app);
                    return Ok(used);
                }
                let Some(upload) = self.take_upload(conn) else { return Ok(used) };
                let (head, body) = upload.into_parts();
                let head = self.parse(&head).map_err(|e| refuse(net, conn, e))?;
                self.request(net, app, conn, &head, body.as_deref())?;
                continue;
            }
            if http.may_introduce {
                match self.introduction(net, conn, rest)? {
                    Some(length) => used += length,
                    None => return Ok(used),
                }
                continue;
            }
            // An empty line in front of a request is passed over (RFC 9112, 2.2).
            if rest.starts_with(b"\r\n") {
                (http.scanned, used) = (0, used + 2);
                continue;
            }
            if !http::may_be_request(rest) {
                return Err(refuse(net, conn, HttpError::Malformed));
            }
            let Some(head_end) = self.head_end(net, conn, rest)? else { return Ok(used) };
            let (head, behind) = rest.split_at(head_end);
            used += head_end + self.begin(net, app, conn, head, behind)?;
        }
        Ok(used)
    }

    /// Where the head of the next request ends, if all of it is there.
    fn head_end(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &[u8],
    ) -> Result<Option<usize>, CloseReason> {
        let Line::Http(http) = &mut self.lines[conn.index()] else { return Ok(None) };
        let most = self.limits.http_head_bytes;
        let scanned = std::mem::take(&mut http.scanned) as usize;
        let end = http::find_head_end(input, scanned);
        if let Some(end) = end.filter(|end| *end <= most) {
            return Ok(Some(end));
        }
        // With such a line the end of the head may never come.
        if http::has_bare_end(&input[..input.len().min(most)], scanned) {
            return Err(refuse(net, conn, HttpError::Malformed));
        }
        if end.is_some() || input.len() >= most {
            return Err(refuse(net, conn, HttpError::HeadTooLarge));
        }
        http.scanned = input.len() as u32;
        if scanned == 0 && !http.is_first && !matches!(input, [] | [b'\r', ..]) {
            // It has begun behind a pause, and has its own time from then on; an empty line in
            // front of it, of which there may be any number, has not.
            self.next_request(net, conn, 0);
        }
        Ok(None)
    }

    /// What stands at the start of a connection by a proxy that is believed. Returns how long
    /// it is, if all of it is there.
    fn introduction(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &[u8],
    ) -> Result<Option<usize>, CloseReason> {
        let Line::Http(http) = &mut self.lines[conn.index()] else { return Ok(None) };
        match proxy::introduction(input, self.limits.http_head_bytes) {
            Introduction::None => {
                *http = Http::new(false);
                Ok(Some(0))
            }
            Introduction::Incomplete => {
                http.scanned = input.len() as u32;
                Ok(None)
            }
            Introduction::Whole { length, source } => {
                *http = Http::new(false);
                self.introduced(net, conn, source)?;
                Ok(Some(length))
            }
            Introduction::Malformed => Err(refuse(net, conn, HttpError::Malformed)),
        }
    }

    fn parse<'a>(&self, head: &'a [u8]) -> Result<Head<'a>, HttpError> {
        let bounds = HeadBounds {
            headers: self.limits.http_headers,
            target_bytes: self.limits.http_target_bytes,
        };
        http::parse_head(head, &bounds)
    }

    /// A head is complete. Carries the request out if its body is as well; returns how much of
    /// what came behind the head was body.
    fn begin<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head_bytes: &[u8],
        behind: &[u8],
    ) -> Result<usize, CloseReason> {
        let head = self.parse(head_bytes).map_err(|e| refuse(net, conn, e))?;
        self.requested(net, conn, &head)?;
        let (bytes_max, is_wanted) = self.body_wanted(app, &head);
        let reader = BodyReader::new(head.content, bytes_max);
        let mut reader = reader.map_err(|e| refuse(net, conn, e.into()))?;
        let mut body = (is_wanted || reader.is_done()).then(Vec::new);
        let used = reader.read(behind, body.as_mut()).map_err(|e| refuse(net, conn, e.into()))?;
        if reader.is_done() {
            self.request(net, app, conn, &head, body.as_deref())?;
            return Ok(used);
        }
        if head.expects_continue() && behind.is_empty() {
            net.send(conn, Frame::from(CONTINUE));
        }
        self.begin_upload(net, app, conn, (head_bytes, reader, body, bytes_max), used);
        Ok(used)
    }

    /// The service that a request is for, and what it wants there; `None` if it is for none.
    pub(super) fn route<'a>(&self, head: &Head<'a>) -> Option<(usize, Route<'a>)> {
        let path = head.path();
        self.services.iter().enumerate().find_map(|(at, service)| {
            let below = path.strip_prefix(service.prefix.as_str())?;
            let is_under = below.is_empty() || below.starts_with('/');
            is_under.then(|| (at, sockjs::route_under(&service.prefix, path)))
        })
    }

    /// Answers one request, whose body is all there; `None` if nobody wanted to know what it says.
    fn request<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head: &Head<'_>,
        body: Option<&[u8]>,
    ) -> Result<(), CloseReason> {
        // Whatever comes of it, the connection is between requests unless that says otherwise.
        self.lines[conn.index()] = Line::Http(Http::default());
        let outcome = match self.route(head).filter(|_| A::HAS_SESSIONS) {
            None => {
                let response = app.page(net, head);
                self.respond(net, conn, head, response)?
            }
            Some((at, route)) if !answers::has(&self.services[at], &route) => {
                self.respond(net, conn, head, answers::not_found())?
            }
            Some((at, route)) if !origin::may_connect(head, &self.services[at], &route) => {
                answers::send(net, conn, origin::refusal().answering(head));
                return Err(CloseReason::OriginRefused);
            }
            Some((at, Route::RawWebSocket)) => self.upgrade(net, app, conn, head, Form::Raw, at)?,
            Some((at, Route::Session { transport: Transport::WebSocket, .. })) => {
                self.upgrade(net, app, conn, head, Form::SockJs, at)?
            }
            Some((at, Route::Session { session, transport, .. })) => {
                let (method, allow) = answers::method_of(transport);
                if head.method == "OPTIONS" && allow.contains("OPTIONS") {
                    self.respond(net, conn, head, sockjs::preflight(head, "OPTIONS, POST"))?
                } else if head.method != method {
                    self.respond(net, conn, head, answers::not_allowed(allow))?
                } else {
                    match self.transport(net, app, conn, head, (at, session, transport), body) {
                        Some(response) => self.respond(net, conn, head, response)?,
                        None => Outcome::Taken,
                    }
                }
            }
            Some((at, route)) => {
                let (service, pages) = (&self.services[at], &self.pages[at]);
                let response = answers::answer(net, head, service, pages, &route);
                self.respond(net, conn, head, response)?
            }
        };
        if matches!(outcome, Outcome::Answered) {
            self.next_request(net, conn, 0);
        }
        Ok(())
    }

    /// The next request has its own time, from when the answer before has arrived.
    fn next_request(&self, net: &mut impl Net, conn: ConnId, link_ms: u64) {
        let ms = self.limits.http_head_ms as u64 + link_ms;
        net.deadline(conn, Some(net.now().mono.plus(ms)));
    }

    /// An answer that was waited for is through, and may be on a slow link for so long yet: the
    /// connection ends, or goes on with what came meanwhile.
    pub(super) fn release(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        close: Option<CloseReason>,
        link_ms: u64,
    ) {
        self.lines[conn.index()] = Line::Http(Http::default());
        match close {
            Some(reason) => net.close(conn, reason),
            None => {
                self.next_request(net, conn, link_ms);
                net.resume(conn);
            }
        }
    }

    /// The session does not owe this one an answer any more.
    pub(super) fn forget_sender(&mut self, id: PolledId, conn: ConnId) {
        if let Some(polled) = self.polled(id) {
            polled.senders.retain(|sender| *sender != conn);
        }
    }

    /// The sender's answer, and its connection goes on.
    pub(super) fn release_sender(&mut self, net: &mut impl Net, conn: ConnId, id: PolledId) {
        let Line::Sender(of, reply) = std::mem::take(&mut self.lines[conn.index()]) else { return };
        debug_assert_eq!(of, id);
        net.keeps(conn, 0);
        net.send(conn, reply.frame);
        self.release(net, conn, reply.closes.then_some(CloseReason::Answered), 0);
    }

    /// Makes a WebSocket of the connection, or says why not.
    fn upgrade<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head: &Head<'_>,
        form: Form,
        service: usize,
    ) -> Result<Outcome, CloseReason> {
        if head.method != "GET" {
            return self.respond(net, conn, head, answers::not_allowed("GET"));
        }
        let upgrade = http::upgrade(head);
        let Upgrade::Accept { key } = upgrade else {
            let refusal = upgrade.refusal().unwrap_or_else(|| Response::new(400));
            return self.respond(net, conn, head, refusal.close());
        };
        if let Some(back_ms) = self.back_ms {
            return self.respond(net, conn, head, super::drain::unavailable(back_ms));
        }
        net.send(conn, http::switching_protocols(key));
        if form == Form::SockJs {
            net.send(conn, ws::text_frame(sockjs::OPEN.as_bytes()));
        }
        self.open_socket(net, app, conn, form, service);
        Ok(Outcome::Taken)
    }

    /// Sends a response, and ends the connection if either side wants that.
    fn respond(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        head: &Head<'_>,
        response: Response,
    ) -> Result<Outcome, CloseReason> {
        // A handshake that is refused may have frames behind it: they are no requests.
        let is_handshake = head.list_has("connection", "upgrade");
        let response = if is_handshake { response.close() } else { response };
        let response = response.answering(head);
        let is_last = response.closes();
        answers::send(net, conn, response);
        let close = is_last.then_some(CloseReason::Answered);
        if self.page_takes_time(net, conn, close) {
            return Ok(Outcome::Taken);
        }
        close.map_or(Ok(Outcome::Answered), Err)
    }
}
