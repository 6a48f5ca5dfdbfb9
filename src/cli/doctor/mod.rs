//! `fws doctor`: connects as a browser does, through every proxy on the way, and reports what is
//! wrong and how to fix it. Owns the order of the checks and the output; each check knows one thing
//! and the advice for it.

mod answer;
mod find;
mod sockets;
mod streams;
mod url;

use std::time::Duration;

use super::flags::{AT_CONFIG, AT_DATA, AT_WS_UNIX, Flag, KEY};
use super::output::{array, object, out, out_json, printable};
use super::session::{auth_message, namespace_key, origin, seconds};
use super::{Call, Command, Stop};
use crate::client::Address;
use crate::codec::{json, jwt};
use crate::keys;
use crate::time::Clock;
use url::Url;

/// Lifetime of a token made here, in seconds. The server's reply to it reveals the server's clock.
const TOKEN_SECONDS: u64 = 600;

/// The user in tokens made here.
const USER: &str = "doctor";

/// Clock difference that is not reported, in seconds: tokens lose as much of their lifetime.
const CLOCK_SECONDS: u64 = 2;

const ORIGIN: Flag = Flag {
    name: "origin",
    value: "ORIGIN",
    about: "the site of the page, as browsers name it (that of URL)",
};
const TOKEN: Flag = Flag {
    name: "token",
    value: "TOKEN",
    about: "a token from the site's back end (one made here)",
};
const WAIT: Flag = Flag {
    name: "wait",
    value: "SECONDS",
    about: "how long to test that idle connections stay open (no test)",
};
const WS_UNIX: Flag = Flag {
    name: AT_WS_UNIX.name,
    value: AT_WS_UNIX.value,
    about: "the server's unix socket, past every proxy (what URL names)",
};
const JSON: Flag = Flag { name: "json", value: "", about: "as one JSON object, at the end" };

pub(super) const COMMAND: Command = Command {
    name: "doctor",
    summary: "find what is wrong between browsers and the server",
    usage: &["URL [NAME] [OPTION…]"],
    about: "\
Connects to URL as a page in a browser does, through every proxy on the way. URL is
what the page gives to its client, such as https://example.org/socket. Prints one
line for each check: ok, wrong, or ? if it cannot tell; and below a wrong one, how
to fix it. It publishes nothing and joins no channel. With --ws-unix it connects
to a server's unix socket, without TLS, as a proxy for that URL would.

With a namespace NAME it authenticates too, with a token from the site's back end
or one that it signs with the key. That shows whether the clocks agree. With NAME
and --wait 60 it also finds proxies that close idle connections; heartbeats come
every 25 s. TLS needs the program openssl: without it https and wss are ?.

It looks at no page. If everything is ok and a page still does not connect, look
at its browser's console: does its Content-Security-Policy allow URL?

Exit code 0: nothing wrong was found; 1: something was; 2: wrong usage.",
    flags: &[ORIGIN, TOKEN, KEY, WAIT, WS_UNIX, JSON, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws doctor https://example.org/socket", "do browsers get through?"),
        ("fws doctor http://127.0.0.1:8080/socket shop --wait 60", "without the proxy, and longer"),
        ("fws doctor wss://example.org/socket --origin https://shop.example", "for another site"),
    ],
    run,
};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Wrong,
    Unknown,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Wrong => "wrong",
            Verdict::Unknown => "?",
        }
    }
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    says: String,
    /// What to do, one step per line; empty if nothing is wrong.
    advice: Vec<String>,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Ok, says: says.into(), advice: Vec::new() }
    }

    fn unknown(check: &'static str, says: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Unknown, says: says.into(), advice: Vec::new() }
    }

    fn wrong(check: &'static str, says: impl Into<String>, advice: &[&str]) -> Finding {
        let advice = advice.iter().map(|line| (*line).to_owned()).collect();
        Finding { check, verdict: Verdict::Wrong, says: says.into(), advice }
    }

    /// Lines for a person; control characters from the network are escaped.
    fn to_text(&self) -> String {
        let mut text =
            format!("{:<5}  {:<13}  {}\n", self.verdict.word(), self.check, printable(&self.says));
        for line in &self.advice {
            text.push_str(&format!("{:<22}{}\n", "       do:", printable(line)));
        }
        text
    }

    fn to_json(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Unknown => "cannot tell",
            verdict => verdict.word(),
        };
        object(&[
            ("check", json::quote(self.check)),
            ("verdict", json::quote(verdict)),
            ("says", json::quote(&self.says)),
            ("advice", array(self.advice.iter().map(|line| json::quote(line)))),
        ])
    }
}

/// The server to check, and the identity to use.
#[derive(Debug)]
struct Site {
    url: Url,
    address: Address,
    /// The origin of the page, and whether it was given by a flag.
    origin: String,
    is_origin_given: bool,
    /// `Date` of an HTTP answer, in seconds since 1970.
    date: Option<u64>,
    pass: Option<Pass>,
    /// How long to watch a silent connection, in seconds.
    wait: u64,
}

impl Site {
    /// Whether to connect to the server's unix socket.
    fn is_unix(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }
}

/// The namespace and token to authenticate with.
#[derive(Debug)]
struct Pass {
    namespace: String,
    token: String,
    /// When the token expires, in seconds since 1970.
    expires: Option<u64>,
    /// Where the signing key was found, if the token was made here.
    key_origin: Option<String>,
    /// The same token without an expiry, if it was made here.
    endless: Option<String>,
}

impl Pass {
    /// The auth message.
    fn message(&self) -> String {
        auth_message(&self.namespace, &self.token)
    }
}

/// The findings so far. Text output is printed as they are added.
struct Report {
    findings: Vec<Finding>,
    is_json: bool,
}

impl Report {
    /// Adds a finding; returns whether the checks that depend on it make sense.
    fn add(&mut self, finding: Finding) -> Result<bool, Stop> {
        if !self.is_json {
            out(&finding.to_text())?;
        }
        let is_good = finding.verdict != Verdict::Wrong;
        self.findings.push(finding);
        Ok(is_good)
    }

    /// Adds a finding that comes with its own verdict on whether the other checks make sense.
    fn add_base(&mut self, (finding, is_there): (Finding, bool)) -> Result<bool, Stop> {
        self.add(finding).map(|_| is_there)
    }

    fn finish(self, url: &Url) -> Result<(), Stop> {
        let wrong = self.findings.iter().filter(|it| it.verdict == Verdict::Wrong).count();
        if self.is_json {
            let checks = array(self.findings.iter().map(Finding::to_json));
            let url = json::quote(&url.to_string());
            out_json(&[("url", url), ("ok", (wrong == 0).to_string()), ("checks", checks)])?;
        }
        match wrong {
            0 => Ok(()),
            1 => Err(Stop::Failed("one thing is wrong".into())),
            count => Err(Stop::Failed(format!("{count} things are wrong"))),
        }
    }
}

fn run(call: &Call) -> Result<(), Stop> {
    let mut site = site(call)?;
    let mut report = Report { findings: Vec::new(), is_json: call.flag(JSON.name).is_some() };
    examine(&mut site, &mut report)?;
    report.finish(&site.url)
}

/// Runs the checks; skips those whose prerequisites failed.
fn examine(site: &mut Site, report: &mut Report) -> Result<(), Stop> {
    if !enter(site, report)? {
        report.add(Finding::unknown("rest", "not checked: it builds on what is above"))?;
        return Ok(());
    }
    report.add(find::room(site))?;
    let has_socket = report.add(sockets::raw(site))?;
    report.add(sockets::sockjs(site))?;
    for stream in &streams::STREAMS {
        report.add(stream.check(site))?;
    }
    report.add(streams::polling(site))?;
    let mut may_stay = has_socket;
    if has_socket {
        let (findings, is_in) = sockets::auth(site);
        for finding in findings {
            report.add(finding)?;
        }
        may_stay = is_in;
    }
    for finding in streams::silence(site, has_socket, may_stay) {
        report.add(finding)?;
    }
    Ok(())
}

/// Runs the first checks; returns whether the others make sense.
fn enter(site: &mut Site, report: &mut Report) -> Result<bool, Stop> {
    if !report.add(find::listens(site))? {
        return Ok(false);
    }
    if site.url.is_tls && !site.is_unix() && !report.add_base(find::tls(site))? {
        return Ok(false);
    }
    Ok(report.add_base(find::path(site))? && report.add_base(find::origin(site))?)
}

/// The target, from the command line.
fn site(call: &Call) -> Result<Site, Stop> {
    let (url, namespace) = match call.words.as_slice() {
        [url] => (url, None),
        [url, namespace] => (url, Some(namespace.as_str())),
        _ => return Err(call.misused()),
    };
    let url = Url::parse(url).map_err(|e| Stop::Usage(format!("{url:?} {e}")))?;
    let origin = origin(call)?.map(str::to_owned);
    let pass = match namespace {
        Some(namespace) => Some(pass(call, namespace)?),
        None if call.flag(TOKEN.name).or_else(|| call.flag(KEY.name)).is_some() => {
            return Err(Stop::Usage(
                "--token and --key need the namespace behind the URL, as in `fws doctor URL shop`"
                    .into(),
            ));
        }
        None => None,
    };
    Ok(Site {
        address: match call.flag(WS_UNIX.name) {
            Some(path) => Address::Unix(path.into()),
            None => url.address(true),
        },
        date: None,
        is_origin_given: origin.is_some(),
        origin: origin.unwrap_or_else(|| url.origin()),
        url,
        pass,
        wait: seconds(call, WAIT.name)?.unwrap_or_default(),
    })
}

/// The token of the flag, or one made here.
fn pass(call: &Call, namespace: &str) -> Result<Pass, Stop> {
    let namespace = namespace.to_owned();
    if let Some(token) = call.flag(TOKEN.name) {
        let expires = sockets::claim(token, "exp");
        return Ok(Pass {
            namespace,
            token: token.into(),
            expires,
            key_origin: None,
            endless: None,
        });
    }
    let config = call.client_config()?;
    let key = namespace_key(call, &config, &namespace)?;
    let expires = Some(Clock::new().now().unix.seconds().saturating_add(TOKEN_SECONDS));
    let token = jwt::sign(USER, key.key.expose(), expires);
    let endless = Some(jwt::sign(USER, key.key.expose(), None));
    Ok(Pass { namespace, token, expires, key_origin: Some(key.origin), endless })
}

/// A random SockJS session path.
fn session() -> Result<String, crate::client::ClientError> {
    let mut bytes = [0; 8];
    keys::random(&mut bytes).map_err(crate::client::ClientError::Random)?;
    Ok(format!("000/{:016x}", u64::from_be_bytes(bytes)))
}

/// A duration for a person, in milliseconds.
fn time(us: u64) -> String {
    format!("{} ms", Duration::from_micros(us).as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_followed_by_its_remedies() {
        let finding = Finding::wrong("path", "it says \u{1b}[2J", &["this", "or that"]);
        let text = "wrong  path           it says \\u{1b}[2J\n       do:            this\n       \
                    do:            or that\n";
        assert_eq!(finding.to_text(), text);
        let json = Finding::unknown("clock", "?").to_json();
        assert!(json.contains(r#""verdict":"cannot tell""#), "{json}");
    }
}
