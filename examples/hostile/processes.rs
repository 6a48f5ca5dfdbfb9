//! How the server ends: SIGTERM with many connections, and SIGKILL.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::crowd::{Crowd, ReadMode};
use crate::healthy::Healthy;
use crate::machine::Folder;
use crate::report::{Findings, Report};
use crate::server::{Server, Wants, back_end};
use crate::stage::Campaign;
use crate::words::{CROWD, CROWD_KEY, SUBSCRIBED, close_of, hello};
use crate::{Attack, Outcome, Run};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "sigterm",
        about: "SIGTERM with 10,000 connections: each is told 1001, and exit code 0 within 10 s",
        run: Run::Alone(sigterm),
    },
    Attack {
        name: "kill",
        about: "kill -9 while states are set, and a restart: all that was acknowledged is there",
        run: Run::Alone(kill),
    },
];

fn sigterm(campaign: &mut Campaign, attack: &Attack) -> Outcome<Report> {
    let mut findings = Findings::default();
    let mut stage = campaign.stage(&Wants::default(), Folder::new()?)?;
    // It would be disconnected too.
    stage.healthy = None;
    let field = stage.field();
    let mut crowd = Crowd::new(field.web)?;
    let count = field.many(10_000);
    crowd.gather(count, ReadMode::KeepLast(512), Some(SUBSCRIBED), |number| {
        let user = format!("user-{}", number / 60);
        Rc::from(hello(CROWD, CROWD_KEY, &user, &["news"]))
    })?;
    stage.server.signal(Signal::TERM)?;
    let start = Instant::now();
    let mut status = None;
    let mut ended = Duration::ZERO;
    while status.is_none() && start.elapsed() < Duration::from_secs(20) {
        crowd.pump(Duration::from_millis(20))?;
        status = stage.server.ended()?;
        ended = start.elapsed();
    }
    crowd.pump(Duration::from_millis(200))?;
    let told = crowd.members.iter();
    let told = told.filter(|member| close_of(&member.got).is_some_and(|(code, _)| code == 1001));
    let told = told.count();
    findings.expect(told == count, format!("{told} of {count} were told 1001"));
    let code = status.and_then(|status| status.code());
    let is_good = code == Some(0) && ended <= Duration::from_millis(10_500);
    findings.expect(is_good, format!("exit code {code:?} after {ended:.1?}"));
    let mut times: Vec<Duration> =
        crowd.members.iter().filter_map(|member| Some(member.end?.1 - start)).collect();
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    findings.note(format!(
        "10 % were closed after {:.1?}, 50 % after {:.1?}, 90 % after {:.1?}",
        at(10),
        at(50),
        at(90)
    ));
    Ok(Report::of(attack, findings))
}

fn kill(campaign: &mut Campaign, attack: &Attack) -> Outcome<Report> {
    let mut findings = Findings::default();
    let (mut stage, rounds) = (campaign.stage(&Wants::default(), Folder::new()?)?, 5);
    let (mut written, mut slowest) = (0_u64, Duration::ZERO);
    for round in 0..rounds {
        let (control, is_over) = (stage.server.control, AtomicBool::new(false));
        // Sets increasing numbers, and returns the last one that was acknowledged.
        let acknowledged = std::thread::scope(|scope| -> Outcome<u64> {
            let setter = scope.spawn(|| -> u64 {
                let Ok(mut control) = back_end(control, CROWD, CROWD_KEY) else { return written };
                let mut last = written;
                while !is_over.load(Ordering::Relaxed) {
                    let body = format!(
                        r#"{{"action":"set","channel":"n-{}","data":{}}}"#,
                        (last + 1) % 100,
                        last + 1
                    );
                    match control.ask(body.as_bytes()) {
                        Ok(reply) if reply.contains("true") => last += 1,
                        _ => break,
                    }
                }
                last
            });
            std::thread::sleep(Duration::from_millis(700 + 150 * round));
            stage.server.signal(Signal::KILL)?;
            is_over.store(true, Ordering::Relaxed);
            setter.join().map_err(|_| "the setter ended in a panic".into())
        })?;
        findings.expect(
            acknowledged > written,
            format!("{} sets acknowledged", acknowledged - written),
        );
        written = acknowledged;
        while stage.server.ended()?.is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let start = Instant::now();
        stage.healthy = None;
        stage.server = Server::start(campaign.binary(), &Wants::default(), &stage.folder)?;
        slowest = slowest.max(start.elapsed());
        stage.healthy = Some(Healthy::start(stage.server.web, stage.server.control)?);
        let mut control = stage.server.back_end(CROWD, CROWD_KEY)?;
        for number in written.saturating_sub(99)..=written {
            let body = format!(r#"{{"action":"get","channel":"n-{}"}}"#, number % 100);
            let got = control.ask(body.as_bytes())?.parse::<u64>().unwrap_or(0);
            // The next number may be stored although its reply was lost.
            if number > 0 && got < number {
                findings.faults.push(format!("{number} was acknowledged, but the state is {got}"));
            }
        }
    }
    findings.note(format!("{rounds} kills; it served again within {slowest:.1?}"));
    campaign.leave(stage);
    Ok(Report::of(attack, findings))
}
