//! HTTP/1.1 on the web listener: one request at a time, head and body, each answered before the
//! next is parsed (RFC 9112). Ambiguous input is refused and ends the connection.

use super::http_session::HttpSessionId;
use super::uploads::Upload;
use super::{Application, Line, Web};
use super::{answers, origin};
use crate::codec::http::{
    self, BodyReader, CONTINUE, Head, HeadBounds, HeaderRoom, HttpError, Response, Upgrade,
};
use crate::codec::proxy::{self, ProxyHeader};
use crate::codec::sockjs::{self, Route, Transport};
use crate::codec::ws;
use crate::edge::{ConnId, Net};
use crate::frame::Frame;
use crate::publication::Form;
use crate::reason::CloseReason;

/// A connection between requests, or inside one.
#[derive(Debug, Default)]
pub(super) struct Http {
    /// The generation of the connection's slot.
    pub generation: u32,
    /// Bytes of the input already searched for the end of the head.
    scanned: u32,
    /// No request has come yet.
    is_first: bool,
    /// The input may begin with a PROXY header: nothing has come yet, and the peer is trusted.
    may_introduce: bool,
    /// The request whose body is still arriving.
    pub upload: Option<Box<Upload>>,
}

/// The answer for a sender when all its messages have been handled.
#[derive(Debug)]
pub(super) struct SenderReply {
    pub frame: Frame,
    pub closes: bool,
}

/// The outcome of a request.
enum Outcome {
    /// It is answered, and the connection stays between requests.
    Answered,
    /// The connection has changed its state, or waits for an answer.
    Taken,
}

impl Http {
    /// Whether a request has begun and is incomplete.
    pub fn is_midway(&self) -> bool {
        self.scanned > 0 || self.upload.is_some()
    }

    /// A new connection, perhaps from a trusted proxy.
    pub fn new(conn: ConnId, is_proxy: bool) -> Http {
        Http { is_first: true, may_introduce: is_proxy, ..Http::between(conn) }
    }

    /// A connection between two requests.
    fn between(conn: ConnId) -> Http {
        Http { generation: conn.generation, ..Http::default() }
    }

    /// A connection whose request is complete up to its body.
    pub fn uploading(conn: ConnId, upload: Upload) -> Http {
        Http { upload: Some(Box::new(upload)), ..Http::between(conn) }
    }

    /// The request did not come in time. A connection idle between two requests is closed silently,
    /// as either side may do at any moment.
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

/// Answers a malformed request; returns the reason to close the connection.
fn refuse(net: &mut impl Net, conn: ConnId, error: HttpError) -> CloseReason {
    answers::send(net, conn, error.response());
    CloseReason::BadHttp
}

impl<P> Web<P> {
    /// Handles the first request of the input, and the next one when its answer has gone out. That
    /// is one per turn, so that other connections have theirs, and at most one answer waits for a
    /// client that takes none.
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
                // Some of it may have been valid before the error.
                self.bodies.bytes = self.bodies.bytes - before + upload.bytes();
                used += read.map_err(|e| refuse(net, conn, e.into()))?;
                if !upload.is_done() {
                    self.relieve(net, app);
                    return Ok(used);
                }
                let Some(upload) = self.take_upload(conn) else { return Ok(used) };
                let (head, body) = upload.into_parts();
                let mut room = HeaderRoom::default();
                let head = self.parse(&head, &mut room).map_err(|e| refuse(net, conn, e))?;
                self.request(net, app, conn, &head, body.as_deref())?;
                continue;
            }
            if http.may_introduce {
                match self.proxy_header(net, conn, rest)? {
                    Some(length) => used += length,
                    None => return Ok(used),
                }
                continue;
            }
            // Empty lines before a request are skipped (RFC 9112, 2.2).
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

    /// The end of the next request's head, if it has arrived.
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
        // After a bare line end, the end of the head may never come.
        if http::has_bare_end(&input[..input.len().min(most)], scanned) {
            return Err(refuse(net, conn, HttpError::Malformed));
        }
        if end.is_some() || input.len() >= most {
            return Err(refuse(net, conn, HttpError::HeadTooLarge));
        }
        http.scanned = input.len() as u32;
        if scanned == 0 && !http.is_first && !matches!(input, [] | [b'\r', ..]) {
            // A request that begins after a pause has a time limit of its own. Empty lines in front
            // of it do not begin it: there may be any number of them.
            self.next_request(net, conn, 0);
        }
        Ok(None)
    }

    /// Handles the PROXY header at the start of a connection from a trusted proxy. Returns its
    /// length, 0 if there is none, or `None` if it is incomplete.
    fn proxy_header(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &[u8],
    ) -> Result<Option<usize>, CloseReason> {
        let Line::Http(http) = &mut self.lines[conn.index()] else { return Ok(None) };
        match proxy::parse(input, self.limits.http_head_bytes) {
            ProxyHeader::None => {
                *http = Http::new(conn, false);
                Ok(Some(0))
            }
            ProxyHeader::Incomplete => {
                http.scanned = input.len() as u32;
                Ok(None)
            }
            ProxyHeader::Whole { length, source } => {
                *http = Http::new(conn, false);
                self.note_proxy_header(net, conn, source)?;
                Ok(Some(length))
            }
            ProxyHeader::Malformed => Err(refuse(net, conn, HttpError::Malformed)),
        }
    }

    fn parse<'a, 'input: 'a>(
        &self,
        head: &'input [u8],
        room: &'a mut HeaderRoom<'input>,
    ) -> Result<Head<'a>, HttpError> {
        let bounds = HeadBounds {
            headers: self.limits.http_headers,
            target_bytes: self.limits.http_target_bytes,
        };
        http::parse_head(head, room, &bounds)
    }

    /// A head is complete. Handles the request if its body is complete as well; returns how many
    /// bytes behind the head were body.
    fn begin<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head_bytes: &[u8],
        behind: &[u8],
    ) -> Result<usize, CloseReason> {
        let mut room = HeaderRoom::default();
        let head = self.parse(head_bytes, &mut room).map_err(|e| refuse(net, conn, e))?;
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

    /// The service that a request is for, and the route below it; `None` if it is for no service.
    pub(super) fn route<'a>(&self, head: &Head<'a>) -> Option<(usize, Route<'a>)> {
        let path = head.path();
        self.services.iter().enumerate().find_map(|(at, service)| {
            let below = path.strip_prefix(service.prefix.as_str())?;
            let is_under = below.is_empty() || below.starts_with('/');
            is_under.then(|| (at, sockjs::route_under(&service.prefix, path)))
        })
    }

    /// Handles a request whose body is complete; `body` is `None` if it was discarded.
    fn request<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head: &Head<'_>,
        body: Option<&[u8]>,
    ) -> Result<(), CloseReason> {
        // Between requests, unless one of the branches below changes that.
        self.lines[conn.index()] = Line::Http(Http::between(conn));
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

    /// Starts the time limit of the next request, after the last answer can have arrived.
    fn next_request(&self, net: &mut impl Net, conn: ConnId, link_ms: u64) {
        let ms = self.limits.http_head_ms as u64 + link_ms;
        net.deadline(conn, Some(net.now().mono.plus(ms)));
    }

    /// A delayed answer has been sent, and may need `link_ms` more on a slow link: closes the
    /// connection, or goes on with input that has arrived meanwhile.
    pub(super) fn release(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        close: Option<CloseReason>,
        link_ms: u64,
    ) {
        self.lines[conn.index()] = Line::Http(Http::between(conn));
        match close {
            Some(reason) => net.close(conn, reason),
            None => {
                self.next_request(net, conn, link_ms);
                net.resume(conn);
            }
        }
    }

    /// Removes a sender from those that the session must answer.
    pub(super) fn forget_sender(&mut self, id: HttpSessionId, conn: ConnId) {
        if let Some(http_session) = self.session(id) {
            http_session.senders.retain(|sender| *sender != conn);
        }
    }

    /// Answers a sender, if this is one, although some of its messages have not been handled.
    pub(super) fn answer_sender(&mut self, net: &mut impl Net, conn: ConnId) {
        if let Line::Sender(id, ..) = self.lines[conn.index()] {
            self.forget_sender(id, conn);
            self.release_sender(net, conn, id);
        }
    }

    /// Sends a sender its answer; the connection goes on.
    pub(super) fn release_sender(&mut self, net: &mut impl Net, conn: ConnId, id: HttpSessionId) {
        let Line::Sender(of, reply, _) = std::mem::take(&mut self.lines[conn.index()]) else {
            return;
        };
        debug_assert_eq!(of, id);
        net.note_input_bytes(conn, 0);
        net.send(conn, reply.frame);
        self.release(net, conn, reply.closes.then_some(CloseReason::Answered), 0);
    }

    /// Upgrades the connection to a WebSocket, or refuses to.
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

    /// Sends a response, and closes the connection if either side wants that.
    fn respond(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        head: &Head<'_>,
        response: Response,
    ) -> Result<Outcome, CloseReason> {
        // Frames may follow a refused handshake: they are not requests.
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
