//! Crowds that leave at once, or are disconnected.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::crowd::{Crowd, ReadMode};
use crate::report::{Bounds, Findings};
use crate::server::SERVER_KEY;
use crate::stage::Field;
use crate::words::{CROWD, CROWD_KEY, SUBSCRIBED, close_of, hello};
use crate::{Attack, Outcome, Run};

/// 10,000 connections with 128 channels each may take this much memory.
const CROWDED: Bounds = Bounds { memory_mib: 256.0, cpu_percent: f64::INFINITY, is_timed: true };

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "leave-128",
        about: "10,000 connections with 128 channels each that close at once",
        run: Run::Beside(leave, CROWDED),
    },
    Attack {
        name: "removed",
        about: "a namespace with 10,000 connections of 16 channels each is removed",
        run: Run::Beside(removed, CROWDED),
    },
    Attack {
        name: "withdrawn",
        about: "the grants of a private channel are withdrawn from the 10,000 connections in it",
        run: Run::Beside(withdrawn, CROWDED),
    },
];

/// The user of a connection: 60 connections each, of the 64 that a user may have.
fn user(number: usize) -> String {
    format!("user-{}", number / 60)
}

fn leave(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let mut crowd = Crowd::new(field.web)?;
    let count = field.many(10_000);
    let names: Vec<String> = (0..128).map(|channel| format!("channel-{channel}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let start = Instant::now();
    crowd.gather(count, ReadMode::KeepLast(512), Some(SUBSCRIBED), |number| {
        Rc::from(hello(CROWD, CROWD_KEY, &user(number), &names))
    })?;
    let open = crowd.open();
    findings
        .expect(open == count, format!("{open} of {count} connected in {:.1?}", start.elapsed()));
    crowd.pump(Duration::from_secs(1))?;
    let start = Instant::now();
    crowd.close_all();
    let gone = gone(field, 0.0)?;
    findings.expect(
        gone < Duration::from_secs(10),
        format!("all were gone {gone:.1?} after they had closed"),
    );
    findings.note(format!("closing them took the attacker {:.1?}", start.elapsed() - gone));
    Ok(findings)
}

/// Waits until only the healthy peers and `others` more are left.
fn gone(field: &Field, others: f64) -> Outcome<Duration> {
    let start = Instant::now();
    let healthy = crate::healthy::SUBSCRIBERS as f64;
    while field.numbers()?.of("fws_peers", "") > healthy + others {
        if start.elapsed() > Duration::from_secs(30) {
            return Err("after 30 s some peers are still there".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(start.elapsed())
}

fn removed(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let (mut control, _) = field.back_end(CROWD, CROWD_KEY)?;
    let mut ask = |action: &str| {
        let body = json!({ "action": action, "name": "doomed", "key": SERVER_KEY }).to_string();
        control.ask(body.as_bytes())
    };
    let reply: serde_json::Value = serde_json::from_str(&ask("registerNameSpace")?)?;
    let key = reply["secretKey"].as_str().ok_or_else(|| format!("{reply}"))?.to_owned();
    let mut crowd = Crowd::new(field.web)?;
    let count = field.many(10_000);
    let names: Vec<String> = (0..16).map(|channel| format!("channel-{channel}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    crowd.gather(count, ReadMode::KeepLast(512), Some(SUBSCRIBED), |number| {
        Rc::from(hello("doomed", &key, &user(number), &names))
    })?;
    let start = Instant::now();
    let reply = ask("removeNameSpace")?;
    findings.expect(reply.contains("true"), format!("{reply} after {:.1?}", start.elapsed()));
    crowd.pump_until(Duration::from_secs(15), |crowd| crowd.open() == 0)?;
    let (open, took) = (crowd.open(), start.elapsed());
    findings.expect(open == 0, format!("{open} of {count} are left after {took:.1?}"));
    let told = crowd
        .members
        .iter()
        .filter(|member| close_of(&member.got) == Some((3404, "site id not registered".into())));
    let told = told.count();
    findings.expect(told == count, format!("{told} of {count} were closed with 3404"));
    Ok(findings)
}

fn withdrawn(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let (mut control, _) = field.back_end(CROWD, CROWD_KEY)?;
    let count = field.many(10_000);
    let mut ask = |action: &str, user: &str| {
        let params = json!({ "userId": user, "count": true });
        let body = json!({ "action": action, "channel": "#secret", "params": params, "data": 1 });
        control.ask(body.to_string().as_bytes())
    };
    let users: Vec<String> = (0..count).step_by(60).map(user).collect();
    for user in &users {
        ask("subscribe", user)?;
    }
    let mut crowd = Crowd::new(field.web)?;
    crowd.gather(count, ReadMode::KeepLast(512), Some(SUBSCRIBED), |number| {
        Rc::from(hello(CROWD, CROWD_KEY, &user(number), &["#secret"]))
    })?;
    // One of them is enough: a message to all would be a load in itself.
    let last = &users[users.len() - 1];
    let reply = ask("emit", last)?;
    findings.expect(!reply.contains(":0}"), format!("before: {reply}"));
    let start = Instant::now();
    for user in &users {
        ask("unsubscribe", user)?;
    }
    findings.note(format!("{} grants were withdrawn in {:.1?}", users.len(), start.elapsed()));
    for user in &users {
        let reply = ask("emit", user)?;
        if !reply.contains(":0}") {
            findings.faults.push(format!("{user} afterwards: {reply}"));
        }
    }
    crowd.pump(Duration::from_millis(500))?;
    let open = crowd.open();
    findings.expect(open == count, format!("{open} of {count} are still connected"));
    crowd.close_all();
    Ok(findings)
}
