//! Clients that send as fast as they can, and clients that break off in the middle.

use std::rc::Rc;
use std::time::{Duration, Instant};

use fws::codec::ws::Opcode;

use crate::crowd::{Crowd, ReadMode};
use crate::report::{Bounds, Findings};
use crate::slow::Publisher;
use crate::stage::Field;
use crate::words::{
    AUTHENTICATED, CROWD, CROWD_KEY, SUBSCRIBED, UPGRADE, auth, emit, frame, hello,
};
use crate::{Attack, Outcome, Run};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "pings",
        about: "400 connections that send pings as fast as they can, half of them without auth",
        run: Run::Beside(
            |field| flood(field, &repeated(&frame(Opcode::Ping, b"are you there?"))),
            Bounds::DEFAULT,
        ),
    },
    Attack {
        name: "empty-frames",
        about: "the same with empty messages",
        run: Run::Beside(
            |field| flood(field, &repeated(&frame(Opcode::Text, b""))),
            Bounds::DEFAULT,
        ),
    },
    Attack {
        name: "fragments",
        about: "the same with messages in 60 fragments of one byte",
        run: Run::Beside(|field| flood(field, &repeated(&fragments())), Bounds::DEFAULT),
    },
    Attack {
        name: "subscribes",
        about: "400 browsers that subscribe to 100 states of 32 KiB each, and read none of them",
        run: Run::Beside(subscribes, Bounds::DEFAULT),
    },
    Attack {
        name: "resets",
        about: "10,000 resets in the middle of writes, in both directions",
        run: Run::Beside(resets, Bounds::DEFAULT),
    },
    Attack {
        name: "connects",
        about: "connections that are closed as soon as they are open, as fast as they can be made",
        run: Run::Beside(connects, Bounds::DEFAULT),
    },
];

/// Repeats the bytes until they fill 8 KiB.
fn repeated(bytes: &[u8]) -> Vec<u8> {
    bytes.repeat(8192 / bytes.len() + 1)
}

/// A message of 60 bytes, in one frame per byte.
fn fragments() -> Vec<u8> {
    let mut out = Vec::new();
    for at in 0..60 {
        let opcode = if at == 0 { Opcode::Text } else { Opcode::Continuation };
        let mut piece = frame(opcode, b"x");
        if at < 59 {
            piece[0] &= 0x7f;
        }
        out.extend(piece);
    }
    out
}

/// Repeats these bytes on all connections, as fast as the server reads.
fn flood(field: &Field, bytes: &[u8]) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let mut crowd = Crowd::new(field.web)?;
    let before = field.numbers()?;
    let half = field.many(200);
    crowd.gather(half, ReadMode::KeepLast(512), Some(b"\r\n\r\n"), |_| Rc::from(UPGRADE))?;
    crowd.gather(half, ReadMode::KeepLast(512), Some(AUTHENTICATED), |number| {
        Rc::from(auth(CROWD, CROWD_KEY, &format!("flood-{number}")))
    })?;
    let said = |crowd: &Crowd| crowd.members.iter().map(|member| member.said).sum::<u64>();
    let (bytes, start): (Rc<[u8]>, _) = (Rc::from(bytes), Instant::now());
    let already = said(&crowd);
    while start.elapsed() < field.long(13) {
        crowd.say_all(&bytes);
        crowd.pump(Duration::from_millis(5))?;
    }
    let megabytes = (said(&crowd) - already) as f64 / 1e6;
    let numbers = field.numbers()?;
    let held = numbers.of("fws_browsers_held_total", "") - before.of("fws_browsers_held_total", "");
    let read =
        numbers.of("fws_received_bytes_total", "") - before.of("fws_received_bytes_total", "");
    findings.note(format!(
        "{megabytes:.1} MB were sent, {:.1} MB read; senders were throttled {held} times",
        read / 1e6
    ));
    findings.expect(held > 0.0, "connections that send too fast are throttled".into());
    let known = crowd.members[half..].iter().filter(|member| member.is_open()).count();
    findings.expect(known == half, format!("{known} of {half} with auth are still there"));
    let late = numbers.closed("auth_timeout") - before.closed("auth_timeout");
    findings.note(format!("{late} of {half} without auth were closed for that"));
    // With FIN the server would first read all that is queued, at its pace: minutes.
    for at in 0..crowd.members.len() {
        crowd.reset(at);
    }
    Ok(findings)
}

/// Queued states are no reason to close a connection; they must not take memory either.
fn subscribes(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let (mut control, _) = field.back_end(CROWD, CROWD_KEY)?;
    let state = "s".repeat(32_768);
    for channel in 0..100 {
        let body = format!(r#"{{"action":"set","channel":"state-{channel}","data":"{state}"}}"#);
        control.ask(body.as_bytes())?;
    }
    let names: Vec<String> = (0..100).map(|channel| format!("state-{channel}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut crowd = Crowd::new(field.web)?;
    let count = field.many(400);
    crowd.gather(count, ReadMode::Never, None, |number| {
        Rc::from(hello(CROWD, CROWD_KEY, &format!("asks-{number}"), &names))
    })?;
    crowd.pump(field.long(10))?;
    let queued = field.numbers()?.of("fws_queued_bytes", "") / 1_048_576.0;
    findings.note(format!(
        "{queued:.1} MiB are queued for {count} browsers that asked for 3.2 MiB each"
    ));
    let open = crowd.open();
    findings.expect(open == count, format!("{open} of {count} are still there"));
    crowd.close_all();
    for channel in 0..100 {
        let body = format!(r#"{{"action":"set","channel":"state-{channel}","data":null}}"#);
        control.ask(body.as_bytes())?;
    }
    Ok(findings)
}

fn resets(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let count = field.many(10_000);
    let small = Publisher::start(field.control, emit("torn", 16_384), 50.0)?;
    let large = Publisher::start(field.control, emit("torn-large", 4_000_000), 2.0)?;
    let half: Rc<[u8]> = Rc::from(&[0x81, 0xfe, 0x3e, 0x80, 1, 2, 3, 4, b'x', b'y'][..]);
    let (mut done, mut in_large, mut bytes) = (0, 0, 0);
    while done < count {
        let mut crowd = Crowd::new(field.web)?;
        let wave = 200.min(count - done);
        crowd.gather(wave, ReadMode::KeepLast(512), Some(SUBSCRIBED), |number| {
            let user = format!("torn-{number}");
            Rc::from(hello(CROWD, CROWD_KEY, &user, &["torn"]))
        })?;
        // Too small a window for 4 MB, which also exceed the kernel's send buffer.
        crowd.window = Some(4096);
        let first: Rc<[u8]> = Rc::from(hello(CROWD, CROWD_KEY, "large", &["torn-large"]));
        crowd.gather(4, ReadMode::Never, None, |_| Rc::clone(&first))?;
        for at in 0..wave {
            crowd.say(at, &half);
        }
        let heard = |at: usize, crowd: &Crowd| crowd.members[at].heard > 1000;
        crowd.pump_until(Duration::from_secs(5), |crowd| {
            (0..wave).filter(|at| heard(*at, crowd)).count() * 2 > wave
        })?;
        bytes += crowd.members.iter().map(|member| member.heard).sum::<u64>();
        for at in 0..crowd.members.len() {
            crowd.reset(at);
        }
        done += wave;
        in_large += 4;
    }
    drop((small, large));
    findings.note(format!(
        "{done} resets within messages of 16 KiB, {in_large} within 4 MB; {:.0} MB were read",
        bytes as f64 / 1e6
    ));
    Ok(findings)
}

fn connects(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let empty: Rc<[u8]> = Rc::from(&b"G"[..]);
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < field.long(10) {
        let mut crowd = Crowd::new(field.web)?;
        crowd.gather(2000, ReadMode::KeepLast(512), None, |_| Rc::clone(&empty))?;
        for at in 0..crowd.members.len() {
            match at % 2 {
                0 => crowd.reset(at),
                _ => crowd.close(at),
            }
        }
        count += crowd.members.len();
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    findings.note(format!("{count} connections, {rate:.0} a second"));
    Ok(findings)
}
