//! Bytes that make no sense, on both ports, and valid requests meant to harm.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::crowd::{Crowd, ReadMode};
use crate::report::{Bounds, Findings};
use crate::stage::Field;
use crate::words::{CROWD, CROWD_KEY, command, control_auth};
use crate::{Attack, Outcome, Run};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "control-garbage",
        about: "garbage at the control port: lengths, HTTP, TLS, deep JSON, wrong keys, noise",
        run: Run::Beside(control, Bounds::DEFAULT),
    },
    Attack {
        name: "strangers",
        about: "thousands of connections to the control port without a key; one with a key gets in",
        run: Run::Beside(unauthenticated, Bounds::DEFAULT),
    },
    Attack {
        name: "unread-replies",
        about: "60 back ends that ask for a state of 1 MB 2,000 times and read no reply",
        run: Run::Beside(unread, Bounds::DEFAULT),
    },
    Attack {
        name: "http-garbage",
        about: "invalid HTTP requests, each of which must get the right status, and noise",
        run: Run::Beside(http, Bounds::DEFAULT),
    },
    Attack {
        name: "sessions",
        about: "10,000 sessions over HTTP that nobody polls, and a flood of xhr_send to some",
        run: Run::Beside(sessions, Bounds::DEFAULT),
    },
];

/// The start of a TLS ClientHello.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and what follows";

/// Inputs for the control port, with and without `auth` before them, and whether a reply is due.
fn control_cases() -> Vec<(Vec<u8>, bool)> {
    let known = || control_auth(CROWD, CROWD_KEY);
    let with = |bytes: &[u8]| [&known()[..], bytes].concat();
    let mut cases = Vec::new();
    for length in [0, -1, -2, i32::MIN, i32::MAX, 16_385, 0x0100_0000] {
        cases.push((length.to_le_bytes().to_vec(), false));
        cases.push(([&length.to_le_bytes()[..], &[b'x'; 300]].concat(), false));
    }
    for length in [0, -1, i32::MIN, i32::MAX, 8_388_609] {
        cases.push((with(&i32::to_le_bytes(length)), true));
    }
    cases.extend([
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), false),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".to_vec(), false),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), false),
        (b"OPTIONS * HTTP/1.0\r\n\r\n".to_vec(), false),
        (TLS_HELLO.to_vec(), false),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), false),
        (b"*1\r\n$4\r\nPING\r\n".to_vec(), false),
        (b"\x05\x00\x00\x00hello!".to_vec(), false),
        (command("{"), true),
        (with(&command(&format!("\"{}", "\\".repeat(4_000_000)))), true),
        (with(&command("\u{feff}{}")), true),
        (with(b"\x02\x00\x00\x00{}x"), true),
    ]);
    let wrong = json!({ "action": "auth", "name": CROWD, "sKey": "a guess" }).to_string();
    cases.push((command(&wrong).repeat(5), true));
    let wrong = json!({ "action": "registerNameSpace", "name": "x", "key": "a guess" }).to_string();
    cases.push((command(&wrong).repeat(500), true));
    cases
}

fn control(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let cases = control_cases();
    for (bytes, is_answered) in &cases {
        let mut crowd = Crowd::new(field.control)?;
        let first: Rc<[u8]> = Rc::from(&bytes[..]);
        crowd.join(ReadMode::KeepLast(1 << 20), &first)?;
        let start = Instant::now();
        let is_closed = crowd.pump_until(Duration::from_secs(3), |crowd| crowd.open() == 0)?;
        let member = &crowd.members[0];
        let is_right = is_closed && member.got.is_empty() != *is_answered;
        if !is_right {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
            let got =
                String::from_utf8_lossy(&member.got[..member.got.len().min(100)]).into_owned();
            let took = start.elapsed();
            findings.faults.push(format!("{text:?}: closed {is_closed}, {took:.1?}, got {got:?}"));
        }
    }
    findings
        .note(format!("{} kinds of invalid input, each on a connection of its own", cases.len()));
    let (mut control, _) = field.back_end(CROWD, CROWD_KEY)?;
    let levels = |count: usize| "[".repeat(count) + "1" + &"]".repeat(count);
    for body in [levels(65), levels(2_000_000), "[".repeat(4_000_000), "{\"a\":".repeat(900_000)] {
        let (length, start) = (body.len(), Instant::now());
        let reply = control.ask(body.as_bytes())?;
        let is_deep = reply.contains("Nested too deep");
        findings.expect(is_deep, format!("{length} bytes: {reply} in {:.1?}", start.elapsed()));
    }
    noise(field, field.control, &mut findings)?;
    Ok(findings)
}

/// Pseudo-random bytes on 2,000 connections.
fn noise(field: &Field, door: std::net::SocketAddr, findings: &mut Findings) -> Outcome<()> {
    let mut crowd = Crowd::new(door)?;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let count = field.many(2000);
    crowd.gather(count, ReadMode::KeepLast(512), None, |_| {
        let byte = |_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        (0..2000).map(byte).collect::<Vec<u8>>().into()
    })?;
    crowd.pump_until(Duration::from_secs(15), |crowd| crowd.open() == 0)?;
    let open = crowd.open();
    findings.expect(open == 0, format!("noise: {open} of {count} are left"));
    crowd.close_all();
    Ok(())
}

fn unauthenticated(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let mut crowd = Crowd::new(field.control)?;
    let empty: Rc<[u8]> = Rc::from(&b"\x10"[..]);
    let (mut longest, mut most) = (Duration::ZERO, 0.0_f64);
    let start = Instant::now();
    while start.elapsed() < field.long(8) {
        crowd.gather(field.many(1500) / 10, ReadMode::KeepLast(64), None, |_| Rc::clone(&empty))?;
        crowd.pump(Duration::from_millis(50))?;
        let (_, took) = field.back_end(CROWD, CROWD_KEY)?;
        longest = longest.max(took);
        most = most.max(field.numbers()?.of("fws_connections", "control"));
    }
    let count = crowd.members.len();
    findings.expect(
        most <= 70.0,
        format!("{count} connections without a key, at most {most} at a time"),
    );
    let is_soon = longest < Duration::from_secs(1);
    findings.expect(is_soon, format!("a back end with a key got in within {longest:.1?}"));
    crowd.close_all();
    Ok(findings)
}

fn unread(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let (mut control, _) = field.back_end(CROWD, CROWD_KEY)?;
    let state = "s".repeat(1_000_000);
    let set = format!(r#"{{"action":"set","channel":"large","data":"{state}"}}"#);
    control.ask(set.as_bytes())?;
    let mut crowd = Crowd::new(field.control)?;
    let count = field.many(60);
    let first: Rc<[u8]> = control_auth(CROWD, CROWD_KEY).into();
    crowd.gather(count, ReadMode::Never, None, |_| Rc::clone(&first))?;
    let gets: Rc<[u8]> = command(r#"{"action":"get","channel":"large"}"#).repeat(2000).into();
    crowd.say_all(&gets);
    crowd.pump(field.long(15))?;
    let open = crowd.open();
    findings.note(format!("{open} of {count} are still open; each asked 2000 times"));
    crowd.close_all();
    control.ask(br#"{"action":"set","channel":"large","data":null}"#)?;
    Ok(findings)
}

/// Requests, and the expected status.
fn http_cases() -> Vec<(Vec<u8>, &'static str)> {
    let get = |target: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: x\r\n{more}\r\n").into_bytes()
    };
    let many = "A: b\r\n".repeat(65);
    let post = |more: &str| format!("POST /socket/a/b/xhr_send HTTP/1.1\r\nHost: x\r\n{more}");
    vec![
        // Empty lines before a request are skipped: the connection is still between requests.
        (b"\r\n\r\n\r\n\r\n".to_vec(), ""),
        (b"nonsense\r\n\r\n".to_vec(), "400"),
        (b"GET /socket HTTP/1.1\n\n".to_vec(), "400|408"),
        (b"GET /socket HTTP/1.1\r\n\r\n".to_vec(), "400"),
        (b"GET /socket HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".to_vec(), "400"),
        (b"GET /socket HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(), "505"),
        (get("/socket", "A : b\r\n"), "400"),
        (get("/socket", "A: b\0c\r\n"), "400"),
        (get("/socket", "A: b\r\n folded\r\n"), "400"),
        (get("/socket", &many), "431"),
        (get("/socket", &format!("A: {}\r\n", "b".repeat(8200))), "431"),
        (get(&format!("/{}", "a".repeat(2100)), ""), "414"),
        (get("/socket", "Expect: a miracle\r\n"), "417"),
        (get("/socket/websocket", ""), "400"),
        (post("Content-Length: -1\r\n\r\n").into(), "400"),
        (post("Content-Length: +5\r\n\r\nhello").into(), "400"),
        (post("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello").into(), "400"),
        (post("Content-Length: 99999999999999999999999\r\n\r\n").into(), "400|413"),
        (post("Content-Length: 65537\r\n\r\n").into(), "413"),
        (post("Transfer-Encoding: gzip\r\n\r\n").into(), "501"),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello").into(), "400"),
        (post("Transfer-Encoding: chunked\r\n\r\nzz\r\n").into(), "400"),
        (post("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n").into(), "400|413"),
        (TLS_HELLO.to_vec(), "400|408"),
    ]
}

fn http(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let cases = http_cases();
    let mut crowd = Crowd::new(field.web)?;
    for (bytes, _) in &cases {
        crowd.join(ReadMode::KeepLast(4096), &Rc::from(&bytes[..]))?;
    }
    crowd.pump_until(Duration::from_secs(7), |crowd| crowd.open() == 0)?;
    for (member, (bytes, due)) in crowd.members.iter().zip(&cases) {
        let got = String::from_utf8_lossy(&member.got).into_owned();
        let status = got.split(' ').nth(1).unwrap_or_default();
        if !due.split('|').any(|due| due == status) || member.is_open() {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
            let open = member.is_open();
            findings.faults.push(format!("{text:?}: {status:?}, not {due}; open: {open}"));
        }
    }
    findings.note(format!("{} kinds of invalid requests", cases.len()));
    noise(field, field.web, &mut findings)?;
    Ok(findings)
}

fn sessions(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let mut crowd = Crowd::new(field.web)?;
    let (count, lines) = (field.many(10_000), field.many(200));
    let request = |path: String, body: &str| {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        (head + body).into_bytes()
    };
    let open = |name: usize| request(format!("/socket/0/flood-{name}/xhr"), "");
    crowd.gather(lines, ReadMode::KeepLast(4096), Some(b"o\n"), |number| open(number).into())?;
    for name in lines..count {
        crowd.say(name % lines, &open(name).into());
        if name % 1000 == 0 {
            crowd.pump(Duration::from_millis(50))?;
        }
    }
    crowd.pump(Duration::from_secs(1))?;
    let most = field.numbers()?.of("fws_connections", "session");
    findings.note(format!("{most} of {count} sessions at once"));
    let text = json!(vec![r#"{"event":"nothing"}"#; 50]).to_string();
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < field.long(8) {
        for line in 0..lines {
            let name = count - 1 - line;
            let path = format!("/socket/0/flood-{name}/xhr_send");
            // A connection that is throttled has not yet sent all of its last request.
            if crowd.members[line].is_idle() {
                crowd.say(line, &request(path, &text).into());
                sent += 1;
            }
        }
        crowd.pump(Duration::from_millis(20))?;
        // Connections that were closed are opened again.
        let missing = lines.saturating_sub(crowd.open());
        if missing > 0 {
            let mut fresh = Crowd::new(field.web)?;
            std::mem::swap(&mut crowd, &mut fresh);
            fresh.close_all();
            crowd.gather(lines, ReadMode::KeepLast(4096), Some(b"o\n"), |number| {
                open(count + sent + number).into()
            })?;
        }
    }
    findings.note(format!("{sent} xhr_send requests with 50 messages each"));
    crowd.close_all();
    Ok(findings)
}
