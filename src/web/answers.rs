//! Answers that need no session: the greeting, the info, the iframe page and its script, CORS
//! preflights, 404 and 405.

use sha1::{Digest, Sha1};

use super::Service;
use crate::codec::http::{Head, Response};
use crate::codec::sockjs::{self, Envelope, Route, Transport};
use crate::edge::{ConnId, Net};
use crate::frame::Frame;

const JSON: &str = "application/json; charset=UTF-8";
const HTML: &str = "text/html; charset=UTF-8";
const SCRIPT: &str = "application/javascript; charset=UTF-8";

/// The script that the iframe page loads by default: built in, so that the page needs no other
/// server.
const IFRAME_SCRIPT: &str = include_str!("../../clients/js/iframe.js");

/// A text that is fixed while the server runs, shared by all answers, and its `ETag`.
#[derive(Debug)]
struct Page {
    text: Frame,
    etag: String,
    /// Adds the caching headers.
    cached: fn(Response) -> Response,
}

impl Page {
    fn new(text: String, cached: fn(Response) -> Response) -> Page {
        let hash = Sha1::digest(text.as_bytes());
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Page { text: Frame::from(text.into_bytes()), etag: format!("\"{hex}\""), cached }
    }

    fn answer(&self, head: &Head<'_>, content_type: &str) -> Response {
        // An intermediary that compresses the page makes the tag weak (RFC 9110, 13.1.2).
        let is_ours = |tag: &[u8]| {
            let strong = tag.strip_prefix(b"W/").unwrap_or(tag);
            strong == self.etag.as_bytes() || tag == b"*"
        };
        let is_known = head.elements("if-none-match").any(is_ours);
        let response = match is_known {
            true => Response::new(304),
            false => Response::new(200).shared(content_type, &self.text),
        };
        (self.cached)(response).header("ETag", &self.etag)
    }
}

/// The static pages of a service.
#[derive(Debug)]
pub(super) struct Pages {
    iframe: Page,
    script: Page,
}

impl Pages {
    pub fn new(service: &Service) -> Pages {
        Pages {
            // Its URL contains the client's version, and SockJS asks for a year.
            iframe: Page::new(sockjs::iframe_page(&service.script), sockjs::cached_for_a_year),
            // Cached iframe pages refer to this URL without a version: it must stay fresh.
            script: Page::new(IFRAME_SCRIPT.to_owned(), sockjs::cached_for_an_hour),
        }
    }
}

/// The method of a transport, and the methods that a 405 lists, in the order of the original SockJS
/// server.
pub(super) fn method_of(transport: Transport) -> (&'static str, &'static str) {
    match transport {
        Transport::WebSocket | Transport::EventSource | Transport::HtmlFile | Transport::Jsonp => {
            ("GET", "GET")
        }
        Transport::JsonpSend => ("POST", "POST"),
        Transport::Xhr | Transport::XhrStreaming | Transport::XhrSend => ("POST", "POST, OPTIONS"),
    }
}

/// Whether a service offers that route.
pub(super) fn has(service: &Service, route: &Route<'_>) -> bool {
    match route {
        Route::NotFound | Route::ChunkingTest => false,
        Route::RawWebSocket => service.websocket,
        Route::Session { transport, .. } => match transport {
            Transport::WebSocket => service.websocket,
            Transport::Jsonp | Transport::JsonpSend => service.jsonp,
            Transport::HtmlFile => service.htmlfile,
            _ => true,
        },
        Route::Greeting | Route::Info | Route::Iframe | Route::IframeScript => true,
    }
}

/// Answers a request for anything but a transport.
pub(super) fn answer(
    net: &mut impl Net,
    head: &Head<'_>,
    service: &Service,
    pages: &Pages,
    route: &Route<'_>,
) -> Response {
    match (head.method, route) {
        ("GET", Route::Greeting) => Response::new(200).text(sockjs::GREETING),
        ("GET", Route::Info) => {
            let mut entropy = [0; 4];
            net.random(&mut entropy);
            let entropy = u32::from_le_bytes(entropy);
            let body = sockjs::info_body(entropy, service.websocket, service.cookie);
            let response = Response::new(200).body(JSON, body);
            sockjs::allow_origin(sockjs::never_cached(response), head)
        }
        ("OPTIONS", Route::Info) => sockjs::preflight(head, "OPTIONS, GET"),
        ("GET", Route::Iframe) => pages.iframe.answer(head, HTML),
        ("GET", Route::IframeScript) => pages.script.answer(head, SCRIPT),
        (_, Route::Info) => not_allowed("OPTIONS, GET"),
        (_, Route::Greeting | Route::Iframe | Route::IframeScript) => not_allowed("GET"),
        _ => not_found(),
    }
}

/// Sends a response, dated now.
pub(super) fn send(net: &mut impl Net, conn: ConnId, response: Response) {
    let (frame, body) = response.frames(Some(net.now().unix));
    net.send(conn, frame);
    if let Some(body) = body {
        net.send(conn, body);
    }
}

/// Sends a SockJS frame as the answer to a poll: as a line, or as a call for `jsonp`.
pub(super) fn send_http_session(
    net: &mut impl Net,
    conn: ConnId,
    response: Response,
    callback: Option<&str>,
    mut frame: Vec<u8>,
) {
    match callback {
        Some(callback) => {
            let mut call = Vec::with_capacity(frame.len() + frame.len() / 8 + 32);
            sockjs::jsonp_into(&mut call, callback, &[&frame]);
            frame = call;
        }
        None => frame.push(b'\n'),
    }
    send(net, conn, response.body(Envelope::Xhr.content_type(), frame));
}

/// 405.
pub(super) fn not_allowed(allow: &'static str) -> Response {
    Response::new(405).header("Allow", allow)
}

/// 404.
pub(super) fn not_found() -> Response {
    Response::new(404).text(sockjs::NOT_FOUND)
}

/// Adds the headers common to a transport's answers: no caching, and CORS where scripts read them.
/// The cookie repeats the client's, or has a dummy value.
pub(super) fn transport_headers(
    response: Response,
    head: &Head<'_>,
    service: &Service,
    transport: Transport,
) -> Response {
    let mut response = sockjs::never_cached(response);
    if service.cookie {
        let own = head.header("cookie").and_then(|cookies| {
            let mut pairs = cookies.split(';').map(|pair| pair.trim().split_once('='));
            pairs.find_map(|pair| pair.filter(|(name, _)| *name == "JSESSIONID"))
        });
        let value = own.map_or("dummy", |(_, value)| value);
        response = response.header("Set-Cookie", &format!("JSESSIONID={value}; path=/"));
    }
    match transport {
        Transport::Xhr | Transport::XhrStreaming | Transport::XhrSend | Transport::EventSource => {
            sockjs::allow_origin(response, head)
        }
        _ => response,
    }
}
