//! HTTP/1.1 on the web door: one request after the other, head and body, each answered before the
//! next is looked at (RFC 9112). What is ambiguous is refused and ends the connection.

use super::{Application, Line, SessionId, Web};
use super::{answers, origin};
use crate::codec::http::{
    self, BodyReader, CONTINUE, Head, HeadBounds, HttpError, Response, Upgrade,
};
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
    /// The request whose body is not all there.
    upload: Option<Box<Upload>>,
}

/// A request whose body arrives.
#[derive(Debug)]
struct Upload {
    head: Box<[u8]>,
    reader: BodyReader,
    body: Vec<u8>,
    /// Whether anybody wants to know what the body says.
    is_wanted: bool,
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

    /// The request did not come in time. A connection that was between two requests is closed
    /// without a word, as both sides may at any moment.
    pub fn send_timeout(&self, net: &mut impl Net, conn: ConnId) {
        if self.is_midway() {
            net.send(conn, Response::new(408).text("Request Timeout\n").close().encode());
        }
    }
}

/// Answers what is no request, and gives the reason to end the connection.
fn refuse(net: &mut impl Net, conn: ConnId, error: HttpError) -> CloseReason {
    net.send(conn, error.response().encode());
    CloseReason::BadHttp
}

impl<P> Web<P> {
    /// Answers the requests that are there, until one of them makes something else of the
    /// connection.
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
            if let Some(upload) = &mut http.upload {
                let out = upload.is_wanted.then_some(&mut upload.body);
                used += upload.reader.read(rest, out).map_err(|e| refuse(net, conn, e.into()))?;
                if !upload.reader.is_done() {
                    return Ok(used);
                }
                let Some(upload) = http.upload.take() else { return Ok(used) };
                let head = self.parse(&upload.head).map_err(|e| refuse(net, conn, e))?;
                self.request(net, app, conn, &head, &upload.body)?;
                continue;
            }
            // An empty line in front of a request is passed over (RFC 9112, 2.2).
            if rest.starts_with(b"\r\n") {
                (http.scanned, used) = (0, used + 2);
                continue;
            }
            let Some(head_end) = http::find_head_end(rest, http.scanned as usize) else {
                if rest.len() >= self.limits.http_head_bytes {
                    return Err(refuse(net, conn, HttpError::HeadTooLarge));
                }
                http.scanned = rest.len() as u32;
                return Ok(used);
            };
            if head_end > self.limits.http_head_bytes {
                return Err(refuse(net, conn, HttpError::HeadTooLarge));
            }
            http.scanned = 0;
            used += head_end;
            used += self.begin(net, app, conn, &rest[..head_end], &input[used..])?;
            if let Line::Http(http) = &self.lines[conn.index()]
                && http.upload.is_none()
                && net.queued(conn) >= self.limits.answers_pause_bytes
            {
                // Answers are not taken: neither are requests, before they are.
                net.pause(conn);
                return Ok(used);
            }
        }
        Ok(used)
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
        let reader = BodyReader::new(head.content, self.limits.http_body_bytes);
        let mut reader = reader.map_err(|e| refuse(net, conn, e.into()))?;
        if reader.is_done() {
            self.request(net, app, conn, &head, b"")?;
            return Ok(0);
        }
        let is_wanted = matches!(
            self.route(&head),
            Some((_, Route::Session { transport: Transport::XhrSend | Transport::JsonpSend, .. }))
        );
        let mut body = Vec::new();
        let used = reader
            .read(behind, is_wanted.then_some(&mut body))
            .map_err(|e| refuse(net, conn, e.into()))?;
        if reader.is_done() {
            self.request(net, app, conn, &head, &body)?;
            return Ok(used);
        }
        if head.expects_continue() && behind.is_empty() {
            net.send(conn, Frame::from(CONTINUE));
        }
        let upload = Upload { head: head_bytes.into(), reader, body, is_wanted };
        self.lines[conn.index()] = Line::Http(Http { scanned: 0, upload: Some(Box::new(upload)) });
        net.deadline(conn, Some(net.now().mono.plus(self.limits.http_body_ms as u64)));
        Ok(used)
    }

    /// The service that a request is for, and what it wants there; `None` if it is for none.
    fn route<'a>(&self, head: &Head<'a>) -> Option<(usize, Route<'a>)> {
        let path = head.path();
        self.services.iter().enumerate().find_map(|(at, service)| {
            let below = path.strip_prefix(service.prefix.as_str())?;
            let is_under = below.is_empty() || below.starts_with('/');
            is_under.then(|| (at, sockjs::route_under(&service.prefix, path)))
        })
    }

    /// Answers one request, whose body is all there.
    fn request<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        head: &Head<'_>,
        body: &[u8],
    ) -> Result<(), CloseReason> {
        // Whatever comes of it, the connection is between requests unless that says otherwise.
        self.lines[conn.index()] = Line::Http(Http::default());
        let outcome = match self.route(head) {
            None => {
                let response = app.page(net, head);
                self.respond(net, conn, head, response)?
            }
            Some((at, route)) if !answers::has(&self.services[at], &route) => {
                self.respond(net, conn, head, answers::not_found())?
            }
            Some((at, route)) if !origin::may_connect(head, &self.services[at], &route) => {
                net.send(conn, origin::refusal().answering(head).encode());
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
            self.next_request(net, conn);
        }
        Ok(())
    }

    /// The next request has its own time.
    fn next_request(&self, net: &mut impl Net, conn: ConnId) {
        net.deadline(conn, Some(net.now().mono.plus(self.limits.http_head_ms as u64)));
    }

    /// An answer that was waited for is through: the connection ends, or goes on with what came
    /// meanwhile.
    pub(super) fn release(&mut self, net: &mut impl Net, conn: ConnId, close: Option<CloseReason>) {
        self.lines[conn.index()] = Line::Http(Http::default());
        match close {
            Some(reason) => net.close(conn, reason),
            None => {
                self.next_request(net, conn);
                net.resume(conn);
            }
        }
    }

    /// The sender's answer, and its connection goes on.
    pub(super) fn release_sender(&mut self, net: &mut impl Net, conn: ConnId, id: SessionId) {
        let Line::Sender(of, reply) = std::mem::take(&mut self.lines[conn.index()]) else { return };
        debug_assert_eq!(of, id);
        net.send(conn, reply.frame);
        self.release(net, conn, reply.closes.then_some(CloseReason::Answered));
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
        &self,
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
        net.send(conn, response.encode());
        if is_last { Err(CloseReason::Answered) } else { Ok(Outcome::Answered) }
    }
}
