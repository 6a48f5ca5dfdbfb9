//! Explains unexpected answers: who sent them, as far as their text shows, and what to do about it.
//! A test compares the texts expected from our server with its source.

use super::{Finding, Site};
use crate::client::{ClientError, Response};
use crate::codec::http::HttpError;
use crate::codec::sockjs;

/// Advice for proxies that do not forward `Upgrade`.
pub(super) const UPGRADE: &[&str] = &[
    "nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header \
     Connection \"upgrade\";",
    "Apache: a2enmod proxy_wstunnel, or from 2.4.47 on ProxyPass … upgrade=websocket",
    "HAProxy in mode http and Caddy's reverse_proxy forward it by themselves: look for another \
     proxy before or behind them, and for HTTP/2 towards the server",
];

/// Advice for proxies that buffer answers.
pub(super) const BUFFERING: &[&str] = &[
    "nginx: proxy_buffering off; and no gzip for this path",
    "Caddy: no encode for this path, and no response_buffers",
    "Apache: ProxyPass … flushpackets=on, and SetEnv no-gzip 1",
    "HAProxy: no compression, no http-buffer-request and no cache for this path",
];

/// Advice for proxies that close idle connections.
pub(super) const TIMEOUT: &[&str] = &[
    "its timeout must be longer than the 25 s between two heartbeats (heartbeat_ms): 60 s or more",
    "nginx: proxy_read_timeout 60s; HAProxy: timeout server, client and tunnel 60s",
    "Apache: ProxyTimeout 60; a cloud load balancer: its idle timeout",
];

const PATH: &[&str] = &[
    "nginx: location /socket { proxy_pass http://…; } without a path behind the address",
    "Caddy: handle /socket* and not handle_path; Apache: the same path on both sides of ProxyPass",
    "HAProxy: no http-request replace-path or set-path for it",
];

const NO_RULE: &[&str] = &[
    "is this the URL of the server's /socket? The proxy needs a rule for it and all below it",
    "if the proxy has one: is it in the part for this host name?",
];

const UNREACHED: &[&str] = &[
    "is `fws serve` running, and does the proxy name the address that it prints as ws?",
    "a unix socket: the proxy must be in the server's group; for HAProxy write group in its global \
     part, and no chroot",
];

const FULL: &[&str] =
    &["raise the limit connections and the descriptor limit (see docs/operations.md, Sizing)"];

const CROWD: &[&str] = &[
    "nginx: limit_req and limit_conn answer like this: exempt this path, because a browser that \
     reconnects makes several requests",
    "HAProxy, a load balancer: check whether it has marked the server as down, and why",
];

const ADDRESS: &[&str] = &[
    "if it is a proxy's: let it send X-Forwarded-For, and name it with fws serve --trusted-proxy",
    "if it is yours: raise the limit connections_per_address",
];

const PROXY: &[&str] = &[
    "a proxy that uses the PROXY protocol (HAProxy: send-proxy-v2) must be named with \
     `fws serve --trusted-proxy`",
    "let the proxy speak HTTP/1.1 to the server, not HTTP/2",
];

pub(super) const HEAD: &[&str] = &[
    "use fewer or smaller cookies on this host, or another host name for the server",
    "raise the limits http_head_bytes and http_headers; nginx: large_client_header_buffers; \
     HAProxy: tune.bufsize; Apache: LimitRequestFieldSize",
];

const HOST: &[&str] = &[
    "let the proxy forward exactly one Host: nginx: proxy_set_header Host $host; Apache: \
     ProxyPreserveHost On",
    "does the proxy know this name? Check server_name, ServerName or the site's address",
];

const LOGIN: &[&str] = &["remove the password check from this path: the token identifies the user"];

const OTHER: &[&str] =
    &["check the log of whatever answers at this address, and its rule for this path"];

/// Explains the answers with which our server refuses because it is full.
fn unavailable(text: &str, wrong: &impl Fn(String, &[&str]) -> Finding) -> Option<Finding> {
    let is_ours = |words: &str| text == words;
    if is_ours("The server is full")
        || is_ours("too many sessions")
        || is_ours("too much is being sent")
    {
        return Some(wrong(format!("503 {text}: there is no room for one more"), FULL));
    }
    if is_ours("Too many come at once") || is_ours("The server is stopping") {
        let says = format!("503 {text}: the server runs, but accepts nobody at this moment");
        return Some(wrong(says, &["try again after the seconds in its Retry-After"]));
    }
    None
}

/// Explains an answer other than the expected one.
pub(super) fn refused(site: &Site, check: &'static str, response: &mut Response) -> Finding {
    // The start is enough if the rest does not come.
    let _ = response.read_all(super::find::ANSWER_MS);
    let text = response.text();
    let text = text.trim();
    let is_ours = |words: &str| text == words;
    let wrong = |says: String, advice: &[&str]| Finding::wrong(check, says, advice);
    if is_ours("Not a valid websocket request") && check == "path" {
        return below(site, check);
    }
    if is_ours("Not a valid websocket request") {
        let says = "the request reached the server without Upgrade or Connection: something on \
                    the way removes them";
        return wrong(says.into(), UPGRADE);
    }
    if is_ours("Origin not allowed") {
        return origin(site, check);
    }
    // The answer at `/` has more lines.
    if text.lines().next() == Some(sockjs::NOT_FOUND.trim()) {
        let says = format!("the server knows no {}: its paths begin with /socket", site.url.path);
        return wrong(says, PATH);
    }
    if let Some(finding) = unavailable(text, &wrong) {
        return finding;
    }
    if is_ours("Too many connections from your address") {
        let says = "the server has too many connections from one address, which it takes for yours";
        return wrong(says.into(), ADDRESS);
    }
    if is_ours(&HttpError::Host.to_string()) {
        return wrong("the server got no Host, or two, or an invalid one".into(), HOST);
    }
    if is_ours(&HttpError::Malformed.to_string()) {
        return wrong("the server got something that is not a request".into(), PROXY);
    }
    if text.contains("plain HTTP request was sent to HTTPS port") {
        return wrong("TLS is expected here".into(), &["write https:// in place of http://"]);
    }
    from_others(site, check, response, text)
}

/// Explains an answer that is not from our server.
fn from_others(site: &Site, check: &'static str, response: &Response, text: &str) -> Finding {
    let wrong = |says: String, advice: &[&str]| Finding::wrong(check, says, advice);
    let said = format!("{}{}", response.status, by(response));
    match response.status {
        300..=399 => {
            let to = response.header("location").unwrap_or("nowhere").to_owned();
            let advice = "give browsers the URL it leads to: a WebSocket follows no redirects";
            wrong(format!("{said}: redirects to {to}"), &[advice])
        }
        401 | 407 => wrong(format!("{said}: asks for a password"), LOGIN),
        403 => wrong(
            format!("{said}: forbidden, and not by the server itself"),
            &["look for a rule, a firewall or a list of addresses in the proxy"],
        ),
        404 => wrong(format!("{said}: there is no {}", site.url.path), NO_RULE),
        408 => wrong(
            format!("{said}: the request came too slowly"),
            &["check the network between the proxy and the server"],
        ),
        413 | 414 | 431 => wrong(format!("{said}: the request is too large"), HEAD),
        421 => wrong(format!("{said}: the wrong host for this address"), HOST),
        429 => wrong(
            format!("{said}: too many requests"),
            &["exempt this path from the proxy's rate limit: a browser that reconnects makes \
               several requests"],
        ),
        502 | 504 => wrong(format!("{said}: the proxy does not reach the server"), UNREACHED),
        // The path itself was answered before, so the server was reachable.
        503 if check != "path" => {
            wrong(format!("{said}: not from the server itself, which was reached before"), CROWD)
        }
        503 => wrong(
            format!(
                "{said}: not from the server itself: the proxy has none to send to, or a limit"
            ),
            &[UNREACHED, CROWD].concat(),
        ),
        _ => wrong(format!("{said}: {}", first_line(text)), OTHER),
    }
}

/// The URL's path is the server's, but below the one that pages give to their client.
pub(super) fn below(site: &Site, check: &'static str) -> Finding {
    let path = &site.url.path;
    let says = format!("{path} is below the server's path, which ends with /socket");
    Finding::wrong(check, says, &["give the URL that ends there: clients add the rest themselves"])
}

/// The page's origin is not allowed.
pub(super) fn origin(site: &Site, check: &'static str) -> Finding {
    let origin = &site.origin;
    let says = format!("pages of {origin} may not connect");
    let advice = match origin.as_str() {
        "null" => "no list can allow a page without an origin, as in a sandbox: give it one".into(),
        _ => format!("`fws serve --allow-origin {origin}`, beside the allowed sites"),
    };
    let guessed = "or name the site of your pages with --origin";
    let lines = [advice.as_str(), guessed];
    Finding::wrong(check, says, if site.is_origin_given { &lines[..1] } else { &lines })
}

/// Explains why there was no answer.
pub(super) fn failed(site: &Site, check: &'static str, error: &ClientError) -> Finding {
    let place = if site.is_unix() { site.address.to_string() } else { site.url.host() };
    match error {
        ClientError::Silence => Finding::wrong(
            check,
            format!("{place} accepts connections but does not answer"),
            &["is it the port for browsers? Does the proxy wait for a server that hangs?"],
        ),
        ClientError::Lost => Finding::wrong(
            check,
            format!("{place} closes without an answer"),
            &["is it the port for browsers? The control port closes like this, and a TLS port may"],
        ),
        ClientError::Foreign(what) => Finding::wrong(
            check,
            format!("{place} is not such a server: {what}"),
            &["is the port right? Where TLS is spoken the URL begins with https://"],
        ),
        e => Finding::wrong(check, e.to_string(), OTHER),
    }
}

/// The `Server` header of an answer, as ` from NAME`. Our own server sends none.
fn by(response: &Response) -> String {
    response.header("server").map_or(String::new(), |server| format!(" from {server}"))
}

/// The first line of a text, at most 80 characters.
pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(80).collect()
}
