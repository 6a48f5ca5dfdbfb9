//! Slow senders: a header at one byte per second, incomplete frames on both ports.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::crowd::{Crowd, End, ReadMode};
use crate::report::{Bounds, Findings};
use crate::stage::Field;
use crate::words::{AUTHENTICATED, CROWD, CROWD_KEY, UPGRADE, auth, control_auth};
use crate::{Attack, Outcome, Run};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "drip",
        about: "10,000 connections that send a header at a byte a second, replaced when closed",
        run: Run::Beside(drip, Bounds::DEFAULT),
    },
    Attack {
        name: "half-frames",
        about: "10,000 incomplete frames at both ports, with and without auth, a byte a second",
        run: Run::Beside(half_frames, Bounds::DEFAULT),
    },
];

/// A connection is closed when its head takes more than 5 s, and another one replaces it.
fn drip(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let mut crowd = Crowd::new(field.web)?;
    // A replacement starts at the beginning while the others are in the middle of a header: so
    // every byte must be valid anywhere in it.
    let first: Rc<[u8]> = Rc::from(&b"GET /socket/websocket HTTP/1.1\r\nHost: a\r\nX-Drip: "[..]);
    let byte: Rc<[u8]> = Rc::from(&b"x"[..]);
    let count = field.many(10_000);
    crowd.gather(count, ReadMode::KeepLast(512), None, |_| Rc::clone(&first))?;
    let end = Instant::now() + field.long(15).max(Duration::from_secs(8));
    let mut next = Instant::now();
    while Instant::now() < end {
        crowd.say_all(&byte);
        next += Duration::from_secs(1);
        crowd.pump(next.saturating_duration_since(Instant::now()))?;
        let missing = count - crowd.open();
        crowd.gather(missing, ReadMode::KeepLast(512), None, |_| Rc::clone(&first))?;
    }
    let ended: Vec<_> = crowd
        .members
        .iter()
        .filter_map(|member| Some((member, member.end?.1 - member.since)))
        .collect();
    let longest = ended.iter().map(|(_, life)| *life).max().unwrap_or_default();
    let told = ended.iter().filter(|(member, _)| member.got.starts_with(b"HTTP/1.1 408")).count();
    findings.note(format!("{} connections, {} were closed", crowd.members.len(), ended.len()));
    let many = ended.len() >= count;
    findings.expect(many && longest < Duration::from_secs(8), format!("longest life {longest:?}"));
    findings.expect(told == ended.len(), format!("{told} of {} were answered 408", ended.len()));
    crowd.close_all();
    Ok(findings)
}

/// The header of a masked text message of `bytes`, and one byte of its payload.
fn half_message(bytes: u16) -> Vec<u8> {
    let [high, low] = bytes.to_be_bytes();
    vec![0x81, 0xfe, high, low, 1, 2, 3, 4, b'x']
}

/// A control frame header for `bytes`, and the first byte of its body.
fn half_frame(bytes: u32) -> Vec<u8> {
    let mut out = bytes.to_le_bytes().to_vec();
    out.push(b'{');
    out
}

fn half_frames(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let one: Rc<[u8]> = Rc::from(&b"x"[..]);
    let (mut back_ends, mut browsers) = (Crowd::new(field.control)?, Crowd::new(field.web)?);
    // Authenticated back ends: only 64 may be waiting to authenticate.
    back_ends.at_a_time = 30;
    let mut first = control_auth(CROWD, CROWD_KEY);
    first.extend(half_frame(8_388_608));
    let first: Rc<[u8]> = first.into();
    let known = field.many(900);
    back_ends.gather(known, ReadMode::KeepLast(64), Some(b"true}\0"), |_| Rc::clone(&first))?;
    let first: Rc<[u8]> = half_frame(16_000).into();
    back_ends.gather(field.many(64), ReadMode::KeepLast(64), None, |_| Rc::clone(&first))?;
    let half = field.many(9000) / 2;
    let mut first = UPGRADE.to_vec();
    first.extend(half_message(4000));
    let strange: Rc<[u8]> = first.into();
    browsers.gather(half, ReadMode::KeepLast(512), Some(b"\r\n\r\n"), |_| Rc::clone(&strange))?;
    browsers.gather(half, ReadMode::KeepLast(512), Some(AUTHENTICATED), |number| {
        let mut first = auth(CROWD, CROWD_KEY, &format!("half-{number}"));
        first.extend(half_message(16_000));
        first.into()
    })?;
    let end = Instant::now() + Duration::from_secs(14);
    while Instant::now() < end {
        back_ends.say_all(&one);
        browsers.say_all(&one);
        back_ends.pump(Duration::from_millis(500))?;
        browsers.pump(Duration::from_millis(500))?;
    }
    let lives = back_ends.members.iter().filter_map(|member| Some(member.end?.1 - member.since));
    let longest = lives.max().unwrap_or_default();
    let left = back_ends.open();
    findings.expect(
        left == 0 && longest < Duration::from_secs(12),
        format!("incomplete frames of back ends: {left} left, longest life {longest:?}"),
    );
    let unauthenticated = browsers.members[..half].iter().filter(|member| member.is_open()).count();
    findings
        .expect(unauthenticated == 0, format!("{unauthenticated} browsers without auth are left"));
    let known = browsers.members[half..].iter().filter(|member| member.is_open()).count();
    let reset =
        browsers.members.iter().filter(|member| matches!(member.end, Some((End::Reset, _))));
    findings.note(format!(
        "{known} of {half} authenticated browsers with half a message are left, {} were reset",
        reset.count()
    ));
    browsers.close_all();
    Ok(findings)
}
