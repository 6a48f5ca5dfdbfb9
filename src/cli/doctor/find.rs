//! What must be there before anything is said: somebody who listens, TLS, the path, a site that
//! may connect, and room for what browsers send along.

use super::answer::{HEAD, below, failed, first_line, refused};
use super::{Finding, Site, Url};
use crate::client::{ClientError, Visit, reach};
use crate::codec::{json, sockjs};

/// Time for an answer, in milliseconds.
pub(super) const ANSWER_MS: u64 = 5000;

/// The same where it may be that no TLS is spoken: longer than servers wait for a plain request.
const HANDSHAKE_MS: u64 = 7000;

/// Cookies that a site may well have, in bytes.
const COOKIE_BYTES: usize = 4096;

/// First line and headers of a request, as a browser sends them for a page of the site.
pub(super) fn head(site: &Site, method: &str, below: &str) -> String {
    let (path, host, origin) = (&site.url.path, site.url.host(), &site.origin);
    let kind = if *origin == site.url.origin() { "same-origin" } else { "cross-site" };
    format!(
        "{method} {path}{below} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fws-doctor/{}\r\nAccept: \
         */*\r\nAccept-Encoding: gzip, deflate\r\nOrigin: {origin}\r\nSec-Fetch-Site: {kind}\r\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// A request and the head of its answer. `more` are further headers, each with its line end.
pub(super) fn ask(site: &Site, request: [&str; 2], more: &str) -> Result<Visit, ClientError> {
    ask_within(site, request, more, ANSWER_MS)
}

fn ask_within(site: &Site, request: [&str; 2], more: &str, ms: u64) -> Result<Visit, ClientError> {
    let [method, below] = request;
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    let request = head(site, method, below) + more + length + "\r\n";
    Visit::ask(&site.address, request.as_bytes(), ms)
}

/// Whether anybody listens.
pub(super) fn listens(url: &Url) -> Finding {
    let (place, check) = (url.tcp(), "connection");
    match reach(&place) {
        Ok(()) => Finding::ok(check, format!("{place} takes connections")),
        Err(ClientError::Connect(_, e)) => {
            let (says, advice) = match e.kind() {
                std::io::ErrorKind::ConnectionRefused => (
                    format!("nothing listens at {place}"),
                    "start the proxy or `fws serve`, or mend the port in the URL",
                ),
                std::io::ErrorKind::TimedOut => (
                    format!("{place} does not answer at all"),
                    "look for a firewall on the way that drops what it does not like",
                ),
                _ => (
                    format!("no connection to {place}: {e}"),
                    "is the name right? Ask with `getent hosts NAME` for its address",
                ),
            };
            Finding::wrong(check, says, &[advice])
        }
        Err(e) => Finding::wrong(check, e.to_string(), &["look at the network"]),
    }
}

/// Whether TLS would do for a browser; and whether there is any, so that the rest can be seen.
pub(super) fn tls(site: &mut Site) -> (Finding, bool) {
    let check = "tls";
    let error = match ask_within(site, ["GET", ""], "Connection: close\r\n", HANDSHAKE_MS) {
        Err(error @ ClientError::Tls(_)) => error,
        // Whatever else has happened, it has happened behind the handshake.
        _ => return (Finding::ok(check, "the certificate is good for this name"), true),
    };
    if error.is_certificate() {
        site.address = site.url.address(false);
        let advice = "give the proxy a certificate for this name, with all that stand between it \
                      and its root; browsers say nothing and do not connect";
        let says = format!("{error}; the rest is looked at all the same");
        return (Finding::wrong(check, says, &[advice]), true);
    }
    let by_hand = format!(
        "by hand: openssl s_client -connect {}, or curl -v {}/info",
        site.url.tcp(),
        site.url
    );
    let advice = "is it a port for TLS? If not, write http:// in place of https://";
    let missing = "install openssl, or look from a machine that has it";
    let first = if error.to_string().contains("does not start") { missing } else { advice };
    (Finding::wrong(check, error.to_string(), &[first, &by_hand]), false)
}

/// Whether a server of ours answers under this path.
pub(super) fn path(site: &Site) -> Finding {
    let check = "path";
    let mut visit = match ask(site, ["GET", ""], "Connection: close\r\n") {
        Ok(visit) => visit,
        Err(error) => return failed(site, check, &error),
    };
    if visit.status != 200 {
        return refused(site, check, &mut visit);
    }
    if let Err(error) = visit.read_all(ANSWER_MS) {
        return failed(site, check, &error);
    }
    let text = visit.text();
    if text == sockjs::GREETING {
        return Finding::ok(check, format!("the server is found under {}", site.url.path));
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

/// Whether the server says of itself what SockJS clients ask first.
fn is_info(text: &str) -> bool {
    json::members(text, &["websocket"]) == Ok(Some([Some("true")]))
}

/// Whether pages of the site may connect; and the date that the answer has, in seconds since 1970.
pub(super) fn origin(site: &Site) -> (Finding, Option<u64>) {
    let check = "origin";
    let mut visit = match ask(site, ["GET", "/info"], "Connection: close\r\n") {
        Ok(visit) => visit,
        Err(error) => return (failed(site, check, &error), None),
    };
    let date = visit.header("date").and_then(crate::time::UnixMillis::from_http_date);
    let date = date.map(|date| date.seconds());
    if visit.status != 200 {
        return (refused(site, check, &mut visit), date);
    }
    if let Err(error) = visit.read_all(ANSWER_MS) {
        return (failed(site, check, &error), date);
    }
    if !is_info(&visit.text()) {
        let says = format!("{}/info is not what the server says: {:?}", site.url.path, {
            first_line(&visit.text())
        });
        let advice = "take the cache, the filter or the other server away that answers it";
        return (Finding::wrong(check, says, &[advice]), date);
    }
    let allowed: Vec<&str> = visit.values("access-control-allow-origin").collect();
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
            &["the server sends it: let the proxy neither add one nor change it"],
        ),
    };
    (finding, date)
}

/// Whether cookies get through that a site may well have.
pub(super) fn room(site: &Site) -> Finding {
    let check = "headers";
    let cookie = format!("Cookie: doctor={}\r\nConnection: close\r\n", "x".repeat(COOKIE_BYTES));
    match ask(site, ["GET", "/info"], &cookie) {
        Ok(visit) if visit.status == 200 => {
            Finding::ok(check, format!("{COOKIE_BYTES} bytes of cookies get through"))
        }
        Ok(mut visit) => {
            let finding = refused(site, check, &mut visit);
            let says = format!("with {COOKIE_BYTES} bytes of cookies: {}", finding.says);
            // Without cookies the same was answered just now, whatever a proxy calls it.
            match visit.status {
                400 => Finding::wrong(check, says, HEAD),
                _ => Finding { says, ..finding },
            }
        }
        Err(error) => failed(site, check, &error),
    }
}
