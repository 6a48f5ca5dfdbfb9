//! The first checks, on which all others depend: something listens, TLS, the path, the origin, and
//! room for the headers of browsers.

use std::io::ErrorKind;

use super::answer::{HEAD, below, failed, first_line, refused};
use super::{Finding, Site, Verdict, streams};
use crate::client::{ClientError, Response, reach};
use crate::codec::{json, sockjs};

/// Timeout for an answer, in milliseconds.
pub(super) const ANSWER_MS: u64 = 5000;

/// The same for an answer over TLS: longer than servers wait for a plain-text request, so that a
/// port without TLS answers first.
const HANDSHAKE_MS: u64 = 7000;

/// Size of the cookies to try, in bytes: as many as a real site may have.
const COOKIE_BYTES: usize = 4096;

/// Allows compression, as browsers do. Sent only where compression is tested: other answers must be
/// readable, and we cannot decompress.
pub(super) const PACKED: &str = "Accept-Encoding: gzip, deflate\r\n";

/// Asks the server to close the connection after the answer.
pub(super) const CLOSE: &str = "Connection: close\r\n";

/// Request line and headers, as a browser sends them for a page of the site.
pub(super) fn head(site: &Site, method: &str, below: &str) -> String {
    let (host, origin) = (site.url.host(), &site.origin);
    let path = match format!("{}{below}", site.url.path) {
        path if path.is_empty() => "/".to_owned(),
        path => path,
    };
    let kind = if *origin == site.url.origin() { "same-origin" } else { "cross-site" };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fws-doctor/{}\r\nAccept: */*\r\n\
         Origin: {origin}\r\nSec-Fetch-Site: {kind}\r\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Sends a request and reads the head of the answer. `more`: further headers, each with its CRLF.
pub(super) fn ask(site: &Site, request: [&str; 2], more: &str) -> Result<Response, ClientError> {
    ask_within(site, request, more, ANSWER_MS)
}

fn ask_within(
    site: &Site,
    request: [&str; 2],
    more: &str,
    ms: u64,
) -> Result<Response, ClientError> {
    let [method, below] = request;
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    let request = head(site, method, below) + more + length + "\r\n";
    Response::ask(&site.address, request.as_bytes(), ms)
}

/// Whether anything listens.
pub(super) fn listens(site: &Site) -> Finding {
    let check = "connection";
    let place = if site.is_unix() { site.address.clone() } else { site.url.tcp() };
    match reach(&place) {
        Ok(()) => Finding::ok(check, format!("{place} accepts connections")),
        Err(ClientError::Connect(_, e)) => {
            let (says, advice) = match e.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::NotFound => (
                    format!("nothing listens at {place}"),
                    match site.is_unix() {
                        true => "start `fws serve`, or fix the path of its socket",
                        false => "start the proxy or `fws serve`, or fix the port in the URL",
                    },
                ),
                ErrorKind::TimedOut => (
                    format!("{place} does not answer at all"),
                    "look for a firewall on the way that drops the packets",
                ),
                _ if site.is_unix() => (
                    format!("no connection to {place}: {e}"),
                    "is it a socket, and may you open it? Check its permissions and its group",
                ),
                _ => (
                    format!("no connection to {place}: {e}"),
                    "is the name right? `getent hosts NAME` shows its address",
                ),
            };
            Finding::wrong(check, says, &[advice])
        }
        Err(e) => Finding::wrong(check, e.to_string(), &["check the network"]),
    }
}

/// Whether a browser would accept the certificate; and whether there is TLS at all, so that the
/// other checks can go on.
pub(super) fn tls(site: &mut Site) -> (Finding, bool) {
    let check = "tls";
    let error = match ask_within(site, ["GET", ""], CLOSE, HANDSHAKE_MS) {
        Err(error @ ClientError::Tls(_)) => error,
        // Any other error came after the handshake.
        _ => return (Finding::ok(check, "the certificate is valid for this name"), true),
    };
    if error.is_certificate() {
        site.address = site.url.address(false);
        let advice = "give the proxy a certificate for this name, with all intermediate ones; \
                      browsers fail to connect and do not say why";
        let says = format!("{error}; the rest is checked all the same");
        return (Finding::wrong(check, says, &[advice]), true);
    }
    let by_hand = format!(
        "by hand: openssl s_client -connect {}, or curl -v {}/info",
        site.url.tcp(),
        site.url
    );
    if error.to_string().contains("does not start") {
        let says = format!("{error}; install openssl, or look {by_hand}");
        return (Finding::unknown(check, says), false);
    }
    let advice = "is it a port for TLS? If not, write http:// in place of https://";
    (Finding::wrong(check, error.to_string(), &[advice, &by_hand]), false)
}

/// Whether our server answers under this path; and, if the URL has no path, whether it answers
/// under `/socket`, so that the other checks can go on.
pub(super) fn path(site: &mut Site) -> (Finding, bool) {
    let found = under(site);
    let is_there = found.verdict == Verdict::Ok;
    if is_there || !site.url.path.is_empty() {
        return (found, is_there);
    }
    let written = site.url.to_string();
    site.url.path = sockjs::PREFIX.into();
    let found = under(site);
    if found.verdict != Verdict::Ok {
        return (found, false);
    }
    let says = format!("no client finds the server with {written}: it is under {}", site.url.path);
    let advice = format!("let pages give {} to their client", site.url);
    (Finding::wrong(found.check, says, &[&advice]), true)
}

/// Whether the answer redirects to the same path with a trailing `/`.
fn adds_slash(site: &Site, response: &Response) -> bool {
    let to = response.header("location").unwrap_or_default();
    let place = |behind| str::trim_start_matches(behind, |c| c != '/');
    let path = to.split_once("://").map_or(to, |(_, behind)| place(behind));
    (300..400).contains(&response.status) && path.strip_suffix('/') == Some(&site.url.path)
}

/// Whether our server answers under exactly the URL's path.
fn under(site: &Site) -> Finding {
    let check = "path";
    let asked =
        ask(site, ["GET", ""], CLOSE).and_then(|response| match adds_slash(site, &response) {
            // Clients only request paths below this one, so the redirect does not matter.
            true => ask(site, ["GET", "/"], CLOSE),
            false => Ok(response),
        });
    let mut response = match asked {
        Ok(response) => response,
        Err(error) => return failed(site, check, &error),
    };
    if response.status != 200 {
        return refused(site, check, &mut response);
    }
    if let Err(error) = response.read_all(ANSWER_MS) {
        return failed(site, check, &error);
    }
    let text = response.text();
    if text == sockjs::GREETING && streams::is_another(site) {
        let says = "a SockJS server answers, but does not know `ping`: it is another one";
        let advice = "does the proxy still lead to the old server, such as the original? Check \
                      the port in its rule";
        return Finding::wrong(check, says, &[advice]);
    }
    if text == sockjs::GREETING {
        let place = if site.url.path.is_empty() { "/" } else { &site.url.path };
        let more = match site.url.is_socket {
            true => "; with /websocket behind it for clients without SockJS, and for no others",
            false => "",
        };
        return Finding::ok(check, format!("the server is found under {place}{more}"));
    }
    if is_info(&text) {
        return below(site, check);
    }
    let says = match first_line(&text).as_str() {
        "" => "something else answers there, with an empty page".to_owned(),
        line => format!("something else answers there: {line:?}"),
    };
    let advice = "is this the URL that pages give to their client, and is the rule for it in the \
                  part for this host name, before the one for everything else?";
    Finding::wrong(check, says, &[advice])
}

/// Whether the text is the server's answer to `/info`, which SockJS clients ask first.
fn is_info(text: &str) -> bool {
    json::members(text, &["websocket"]) == Ok(Some([Some("true")]))
}

/// Whether pages of the site may connect; and whether there was an answer at all, so that the other
/// checks can go on. Records the answer's date.
pub(super) fn origin(site: &mut Site) -> (Finding, bool) {
    let check = "origin";
    let mut response = match ask(site, ["GET", "/info"], CLOSE) {
        Ok(response) => response,
        Err(error) => return (failed(site, check, &error), false),
    };
    let date = response.header("date").and_then(crate::time::UnixMillis::from_http_date);
    site.date = date.map(|date| date.seconds());
    if response.status != 200 {
        return (refused(site, check, &mut response), false);
    }
    if let Err(error) = response.read_all(ANSWER_MS) {
        return (failed(site, check, &error), false);
    }
    if !is_info(&response.text()) {
        let says = format!("{}/info is not what the server says: {:?}", site.url.path, {
            first_line(&response.text())
        });
        let advice = "remove the cache, the filter or the other server that answers it";
        return (Finding::wrong(check, says, &[advice]), true);
    }
    let allowed: Vec<&str> = response.values("access-control-allow-origin").collect();
    let finding = match allowed.as_slice() {
        [one] if *one == site.origin => {
            Finding::ok(check, format!("pages of {} may connect", site.origin))
        }
        others => Finding::wrong(
            check,
            format!(
                "browsers want one Access-Control-Allow-Origin, {}, and get {others:?}",
                site.origin
            ),
            match others {
                ["*"] => &["the server sends * if there is no Origin: let the proxy forward that \
                            as it is, and set no CORS header itself"],
                _ => &["the server sends it: let the proxy neither add one nor change it"],
            },
        ),
    };
    (finding, true)
}

/// Whether a request with large cookies gets through.
pub(super) fn room(site: &Site) -> Finding {
    let check = "headers";
    let cookie = format!("Cookie: doctor={}\r\n{CLOSE}", "x".repeat(COOKIE_BYTES));
    match ask(site, ["GET", "/info"], &cookie) {
        Ok(response) if response.status == 200 => {
            Finding::ok(check, format!("{COOKIE_BYTES} bytes of cookies get through"))
        }
        Ok(mut response) => {
            let finding = refused(site, check, &mut response);
            let says = format!("with {COOKIE_BYTES} bytes of cookies: {}", finding.says);
            // The same request without cookies succeeded before, so the cookies are the cause.
            match response.status {
                400 => Finding::wrong(check, says, HEAD),
                _ => Finding { says, ..finding },
            }
        }
        Err(error) => failed(site, check, &error),
    }
}
