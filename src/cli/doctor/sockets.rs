//! Checks of WebSockets: whether they open, whether frames get through without delay, and whether a
//! token is accepted.

use super::answer::{UPGRADE, failed, refused};
use super::find::{ANSWER_MS, head};
use super::{CLOCK_SECONDS, Finding, Pass, Site, session, time};
use crate::client::{ClientError, Message, Response, Socket};
use crate::codec::{json, jwt};
use crate::time::{Clock, Stopwatch};

/// A request that the server answers without a token.
pub(super) const PING: &str = r#"{"event":"ping","clb":1}"#;

/// Contained in the answer to [`PING`].
pub(super) const ANSWER: &str = "callBackAnswer";

/// Whether a raw WebSocket opens and passes frames.
pub(super) fn raw(site: &Site) -> Finding {
    carries(site, "websocket", "/websocket", None)
}

/// The same for SockJS over WebSocket, where the server sends the first frame.
pub(super) fn sockjs(site: &Site) -> Finding {
    match session() {
        Ok(session) => carries(site, "sockjs", &format!("/{session}/websocket"), Some("o")),
        Err(error) => failed(site, "sockjs", &error),
    }
}

fn carries(site: &Site, check: &'static str, below: &str, first: Option<&str>) -> Finding {
    let watch = Stopwatch::start();
    let mut socket = match open(site, below) {
        Ok(Ok(socket)) => socket,
        Ok(Err(mut response)) => return not_opened(site, check, &mut response),
        Err(error) => return failed(site, check, &error),
    };
    let opened = time(watch.elapsed_us());
    let message = match first {
        None => PING.to_owned(),
        Some(_) => format!("[{}]", json::quote(PING)),
    };
    let said = first.map_or(Ok(None), |_| socket.next_within(ANSWER_MS));
    let is_greeted = match (&said, first) {
        (Ok(Some(Message::Text(text))), Some(first)) => text == first,
        (_, first) => first.is_none(),
    };
    let watch = Stopwatch::start();
    let answer = match said {
        Ok(_) if is_greeted => {
            socket.send(message.as_bytes()).and_then(|()| socket.next_within(ANSWER_MS))
        }
        said => said,
    };
    match answer {
        Ok(Some(Message::Text(text))) if text.contains(ANSWER) => Finding::ok(
            check,
            format!("opens in {opened}, answers in {}", time(watch.elapsed_us())),
        ),
        Ok(Some(Message::Closed(code, reason))) => Finding::wrong(
            check,
            format!("opens, and is closed with {code} {reason}"),
            &["the table of close codes in docs/operations.md says what that means"],
        ),
        _ => Finding::wrong(
            check,
            "opens, but no frame gets through",
            &["let the proxy forward bytes as they come after the 101: no buffering, no \
               inspection"],
        ),
    }
}

fn open(site: &Site, below: &str) -> Result<Result<Socket, Response>, ClientError> {
    Socket::open(&site.address, &head(site, "GET", below))
}

fn not_opened(site: &Site, check: &'static str, response: &mut Response) -> Finding {
    match response.status {
        101 => Finding::wrong(
            check,
            "the answer to the upgrade violates RFC 6455",
            &["remove the cache or the filter that has made it"],
        ),
        // The same server, or its proxy, answered plain requests just before.
        200..=299 | 404 | 405 | 426 | 501 => Finding::wrong(
            check,
            format!("{} in place of 101: something on the way takes no upgrades", response.status),
            UPGRADE,
        ),
        _ => refused(site, check, response),
    }
}

/// Whether the token is accepted, and what the reply tells of the clocks; and whether we are
/// authenticated.
pub(super) fn auth(site: &Site) -> (Vec<Finding>, bool) {
    let date = site.date;
    let Some(pass) = &site.pass else {
        let says = "no namespace was named: `fws doctor URL NAME` tries a token";
        return (vec![Finding::unknown("token", says), by_date(date)], false);
    };
    let reply = open(site, "/websocket").and_then(|opened| match opened {
        Ok(mut socket) => {
            socket.send(pass.message().as_bytes())?;
            socket.next_within(ANSWER_MS)
        }
        Err(response) => Err(ClientError::Foreign(format!("it answers HTTP {}", response.status))),
    });
    let now = Clock::new().now().unix.seconds();
    match reply {
        Ok(Some(Message::Text(text))) if text.contains("\"auth ok\"") => {
            let token = Finding::ok("token", format!("good for namespace {}", pass.namespace));
            (vec![token, by_token(pass, &text, now, date)], true)
        }
        Ok(Some(Message::Closed(code, reason))) => {
            (vec![not_taken(site, pass, code, &reason, now), by_date(date)], false)
        }
        Ok(_) => (vec![failed(site, "token", &ClientError::Silence), by_date(date)], false),
        Err(error) => (vec![failed(site, "token", &error), by_date(date)], false),
    }
}

fn not_taken(site: &Site, pass: &Pass, code: u16, reason: &str, now: u64) -> Finding {
    let wrong = |says: String, advice: &[&str]| Finding::wrong("token", says, advice);
    if reason == "site id not registered" {
        let advice = format!("`fws register {}`, or mend the name", pass.namespace);
        return wrong(format!("the server has no namespace {:?}", pass.namespace), &[&advice]);
    }
    if reason != "invalid JWT" {
        let advice = "the table of close codes in docs/operations.md says what that means";
        return wrong(format!("{code} {reason}"), &[advice]);
    }
    let clocks = "set the clocks of the back end and of the server by NTP";
    if let Some(at) = pass.expires.filter(|at| *at <= now) {
        let says = format!("refused: by our clock it expired {} s ago", now - at);
        return wrong(says, &["let the back end make a new one, with more time", clocks]);
    }
    if let Some(at) = claim(&pass.token, "nbf").filter(|at| *at > now) {
        let says = format!("refused: by our clock it is good only in {} s", at - now);
        return wrong(says, &[clocks]);
    }
    if is_good_without_end(site, pass) {
        let says = "refused, and one without an end is good: the server's clock is far ahead";
        return wrong(says.into(), &[clocks]);
    }
    match &pass.key_origin {
        Some(origin) => {
            let says = format!("refused: it is not signed with a key of {:?}", pass.namespace);
            wrong(says, &[&format!("give the right key; the one used is from {origin}")])
        }
        None => {
            let check = format!("`fws token --check TOKEN {}` says what", pass.namespace);
            let says = "refused: signed with another key, or not made as it must be";
            wrong(says.into(), &[&check, clocks])
        }
    }
}

/// Whether the same token without an expiry is accepted. False for tokens not made here.
fn is_good_without_end(site: &Site, pass: &Pass) -> bool {
    let Some(endless) = &pass.endless else { return false };
    let pass = Pass {
        namespace: pass.namespace.clone(),
        token: endless.clone(),
        expires: None,
        key_origin: None,
        endless: None,
    };
    let Ok(Ok(mut socket)) = open(site, "/websocket") else { return false };
    let reply = socket.send(pass.message().as_bytes()).and_then(|()| socket.next_within(ANSWER_MS));
    matches!(reply, Ok(Some(Message::Text(text))) if text.contains("\"auth ok\""))
}

/// Compares the server's clock by the lifetime it reports for the token.
fn by_token(pass: &Pass, reply: &str, now: u64, date: Option<u64>) -> Finding {
    let left = json::members(reply, &["data"]).ok().flatten().and_then(|[data]| {
        let [left] = json::members(data?, &["expiresIn"]).ok()??;
        u64::try_from(json::integer(left?)?).ok()
    });
    let (Some(left), Some(expires)) = (left, pass.expires) else { return by_date(date) };
    let issued = claim(&pass.token, "iat").filter(|at| *at > now.saturating_add(CLOCK_SECONDS));
    if let Some(at) = issued {
        let says = format!("the back end's clock is {} s ahead of ours", at - now);
        return Finding::wrong("clock", says, &["set it by NTP"]);
    }
    clocks(expires.saturating_sub(left), now, "the server's clock", Finding::wrong)
}

/// Compares a clock by the `Date` header, which is most often a proxy's.
fn by_date(date: Option<u64>) -> Finding {
    match date {
        None => Finding::unknown(
            "clock",
            "no answer has a date; with a token that has an exp it can be seen",
        ),
        Some(date) => {
            let now = Clock::new().now().unix.seconds();
            // A difference does not show that tokens fail, so it is not reported as a fault.
            let told = |check, says: String, _: &[&str]| Finding::unknown(check, says);
            clocks(date, now, "the clock of whoever sets Date there", told)
        }
    }
}

/// Compares a clock with ours, both in seconds since 1970.
fn clocks(
    theirs: u64,
    ours: u64,
    whose: &str,
    off: impl Fn(&'static str, String, &[&str]) -> Finding,
) -> Finding {
    let seconds = theirs.abs_diff(ours);
    let way = if theirs > ours { "ahead of" } else { "behind" };
    if seconds <= CLOCK_SECONDS {
        return Finding::ok("clock", format!("{whose} agrees with ours, within {CLOCK_SECONDS} s"));
    }
    let advice = "set both clocks by NTP: tokens end by the server's, and there is no leeway";
    off("clock", format!("{whose} is {seconds} s {way} ours"), &[advice])
}

/// A time claim of a token, valid or not, in seconds since 1970.
pub(super) fn claim(token: &str, name: &str) -> Option<u64> {
    let (_, payload) = jwt::inspect(token)?;
    let [at] = json::members(&payload, &[name]).ok()??;
    json::number(at?).map(|at| at as u64)
}
