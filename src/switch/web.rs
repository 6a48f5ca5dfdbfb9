//! HTTP on the WebSocket port (protocol part 6): requests until one of them is an upgrade. The
//! SockJS transports over HTTP have their place in [`sockjs::Route`]; they answer 404 until they
//! are there.

use super::browser::Browser;
use super::{Role, Switch};
use crate::codec::http::{self, Content, Head, HttpError, Response, Upgrade};
use crate::codec::sockjs::{self, Route, Transport};
use crate::codec::{jwt, ws};
use crate::edge::{ConnId, Net};
use crate::journal::Journal;
use crate::publication::Form;
use crate::reason::CloseReason;

const JSON: &str = "application/json; charset=UTF-8";

/// How long the token of a guest of the demo page is good.
const DEMO_TOKEN_SECONDS: u64 = 600;

/// What `--demo` serves beside the protocol.
#[derive(Debug)]
pub struct Demo {
    /// The page at `/`.
    pub page: String,
    /// The namespace whose tokens `/demo/token` gives out.
    pub namespace: String,
}

/// A connection that has not become anything else yet.
#[derive(Debug, Default)]
pub(super) struct Http {
    /// Bytes of the input in which the end of the head is known not to begin.
    scanned: u16,
}

impl<J: Journal> Switch<J> {
    /// Answers the requests that are there; the role is another one after an upgrade.
    pub(super) fn http_received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        mut http: Http,
        input: &[u8],
    ) -> Result<(Role, usize), CloseReason> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let Some(head_end) = http::find_head_end(rest, usize::from(http.scanned)) else {
                if rest.len() >= self.limits.http_head_bytes {
                    return Err(refuse(net, conn, HttpError::HeadTooLarge));
                }
                http.scanned = rest.len() as u16;
                return Ok((Role::Http(http), used));
            };
            if head_end > self.limits.http_head_bytes {
                return Err(refuse(net, conn, HttpError::HeadTooLarge));
            }
            used += head_end;
            http.scanned = 0;
            let head = http::parse_head(&rest[..head_end]).map_err(|e| refuse(net, conn, e))?;
            if let Some(browser) = self.request(net, conn, &head)? {
                return Ok((Role::Browser(browser), used));
            }
            // The next request has its own time.
            net.deadline(conn, Some(net.now().mono.plus(self.limits.http_head_ms as u64)));
            if net.queued(conn) >= self.limits.answers_pause_bytes {
                // Answers are not taken: neither are requests, before they are.
                net.pause(conn);
                return Ok((Role::Http(http), used));
            }
        }
    }

    /// Answers one request, or makes a browser of the connection.
    fn request(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        head: &Head<'_>,
    ) -> Result<Option<Browser>, CloseReason> {
        let form = match sockjs::route(head.path()) {
            Route::RawWebSocket => Form::Raw,
            Route::Session { transport: Transport::WebSocket, .. } => Form::SockJs,
            route => {
                let response = self.answer(net, head, &route);
                return self.respond(net, conn, head, response).map(|()| None);
            }
        };
        if head.method != "GET" {
            return self.respond(net, conn, head, not_allowed("GET")).map(|()| None);
        }
        let upgrade = http::upgrade(head);
        let Upgrade::Accept { key } = upgrade else {
            let refusal = upgrade.refusal().unwrap_or_else(|| Response::new(400));
            return self.respond(net, conn, head, refusal.close()).map(|()| None);
        };
        net.send(conn, http::switching_protocols(key));
        if form == Form::SockJs {
            net.send(conn, ws::text_frame(sockjs::OPEN.as_bytes()));
        }
        let browser = Browser::new(form, net.now().mono, &self.limits);
        net.deadline(conn, Some(browser.deadline(net.now())));
        Ok(Some(browser))
    }

    /// The answer to a request that opens no WebSocket.
    fn answer(&self, net: &mut impl Net, head: &Head<'_>, route: &Route<'_>) -> Response {
        match (head.method, route) {
            ("GET", Route::Greeting) => Response::new(200).text(sockjs::GREETING),
            ("GET", Route::Info) => {
                let mut entropy = [0; 4];
                net.random(&mut entropy);
                let body = sockjs::info_body(u32::from_le_bytes(entropy), true, false);
                let response = Response::new(200).body(JSON, body);
                sockjs::allow_origin(sockjs::never_cached(response), head)
            }
            ("OPTIONS", Route::Info) => sockjs::preflight(head, "OPTIONS, GET"),
            (_, Route::Greeting) => not_allowed("GET"),
            (_, Route::Info) => not_allowed("OPTIONS, GET"),
            _ => self.answer_demo(net, head),
        }
    }

    /// The page to try the server with; not found without `--demo`.
    fn answer_demo(&self, net: &mut impl Net, head: &Head<'_>) -> Response {
        let not_found = || Response::new(404).text(sockjs::NOT_FOUND);
        let Some(demo) = &self.demo else { return not_found() };
        match (head.method, head.path()) {
            ("GET" | "HEAD", "/") => Response::new(200)
                .header("Cache-Control", "no-cache")
                .body("text/html; charset=UTF-8", demo.page.as_str()),
            ("GET", "/demo/token") => {
                let now = net.now();
                let ns = self.hub.namespace(&demo.namespace);
                let key = ns.and_then(|ns| self.hub.keys(ns, self.at(now)).next());
                let Some(key) = key else { return not_found() };
                // A page that comes back for a new token stays who it was.
                let said = head.query().and_then(|query| query.strip_prefix("guest="));
                let guest = said.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
                    let mut bytes = [0; 4];
                    net.random(&mut bytes);
                    u32::from_le_bytes(bytes)
                });
                let expires = now.unix.seconds() + DEMO_TOKEN_SECONDS;
                let token = jwt::sign(&format!("guest-{guest}"), key, Some(expires));
                let namespace = &demo.namespace;
                let body =
                    format!(r#"{{"namespace":"{namespace}","guest":{guest},"token":"{token}"}}"#);
                let response = Response::new(200).body(JSON, body);
                sockjs::never_cached(response)
            }
            (_, "/" | "/demo/token") => not_allowed("GET"),
            _ => not_found(),
        }
    }

    /// Sends a response, and ends the connection if either side wants that.
    fn respond(
        &self,
        net: &mut impl Net,
        conn: ConnId,
        head: &Head<'_>,
        response: Response,
    ) -> Result<(), CloseReason> {
        // A body that nothing reads would be taken for the next request.
        let has_body = !matches!(head.content, Content::None | Content::Length(0));
        let response = if has_body { response.close() } else { response };
        let response = response.answering(head);
        let is_last = response.closes();
        net.send(conn, response.encode());
        if is_last { Err(CloseReason::Answered) } else { Ok(()) }
    }
}

fn not_allowed(allow: &'static str) -> Response {
    Response::new(405).header("Allow", allow)
}

/// Answers what is no request, and gives the reason to end the connection.
fn refuse(net: &mut impl Net, conn: ConnId, error: HttpError) -> CloseReason {
    net.send(conn, error.response().encode());
    CloseReason::BadHttp
}

/// The head did not come in time. A connection that was between two requests is closed without a
/// word, as both sides may at any moment.
pub(super) fn send_timeout(net: &mut impl Net, conn: ConnId, http: &Http) {
    if http.scanned > 0 {
        net.send(conn, Response::new(408).text("Request Timeout\n").close().encode());
    }
}
