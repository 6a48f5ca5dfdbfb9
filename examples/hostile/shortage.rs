//! A machine that runs short: of descriptors, memory, or disk.

use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::crowd::{Crowd, ReadMode};
use crate::machine::{self, Folder, must};
use crate::report::{Bounds, Findings, Report};
use crate::server::Wants;
use crate::stage::{Campaign, Field};
use crate::words::{AUTHENTICATED, CROWD, CROWD_KEY, UPGRADE, auth};
use crate::{Attack, Outcome, Run};
use crate::{floods, garbage, isolation, leaving, slow, tokens, trickle};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "full",
        about: "room for 336 connections, and 2,000 browsers connect: a back end still gets in",
        run: Run::Alone(|campaign, attack| descriptors(campaign, attack, false)),
    },
    Attack {
        name: "descriptors",
        about: "the same with a descriptor limit lowered while the server runs, so accept fails",
        run: Run::Alone(|campaign, attack| descriptors(campaign, attack, true)),
    },
    Attack {
        name: "address-space",
        about: "all attacks at once, at a tenth of their size, in 256 MiB of address space",
        run: Run::Alone(address_space),
    },
    Attack {
        name: "full-disk",
        about: "the store's disk becomes full, and later has room again",
        run: Run::Alone(full_disk),
    },
];

fn descriptors(campaign: &mut Campaign, attack: &Attack, is_lowered: bool) -> Outcome<Report> {
    // In the end there must be room for all waiting connections, and for one after them.
    let descriptors = if is_lowered { 4000 } else { 400 };
    let mut stage = campaign.stage(&Wants { descriptors, ..Wants::default() }, Folder::new()?)?;
    let report = stage.measure(attack, Bounds::DEFAULT, |field| crowded(field, is_lowered));
    campaign.leave(stage);
    report
}

fn set_limit(field: &Field, count: &str) -> Outcome<()> {
    must(&["prlimit", &format!("--pid={}", field.pid), &format!("--nofile={count}")])
}

fn crowded(field: &Field, is_lowered: bool) -> Outcome<Findings> {
    let mut findings = Findings::default();
    // The cost of the healthy load alone.
    let usual = load(field, Duration::from_secs(3), || Ok(()))?;
    if is_lowered {
        // Just above what is open now: soon nothing can be accepted.
        set_limit(field, "180:4000")?;
    }
    let mut crowd = Crowd::new(field.web)?;
    let hello: Rc<[u8]> = Rc::from(auth(CROWD, CROWD_KEY, "greedy"));
    let polite: Rc<[u8]> = Rc::from(UPGRADE);
    for number in 0..2000 {
        let first = if number < 60 { &hello } else { &polite };
        crowd.join(ReadMode::KeepLast(512), first)?;
        if number % 50 == 0 {
            crowd.pump(Duration::from_millis(10))?;
        }
    }
    // Connections that are not accepted wait in the kernel, and so do their writes.
    crowd.pump(Duration::from_secs(2))?;
    let full = load(field, Duration::ZERO, || crowd.pump(Duration::from_secs(5)))?;
    let more = full - usual;
    findings.expect(more <= 5.0, format!("{full:.1} % of a core, {more:.1} more than before"));
    match field.back_end(CROWD, CROWD_KEY) {
        Ok((_, took)) => findings
            .expect(took < Duration::from_secs(1), format!("a back end got in within {took:.1?}")),
        Err(error) => findings.faults.push(format!("a back end did not get in: {error}")),
    }
    let told = crowd.heard(b"HTTP/1.1 503");
    // Without a free descriptor the admin port cannot accept either.
    let turned = match field.numbers() {
        Ok(numbers) => numbers.of("fws_connections_turned_away_total", "").to_string(),
        Err(error) => format!("({error})"),
    };
    let open = crowd.open();
    findings.note(format!("{open} of 2000 open, {told} were answered 503, {turned} turned away"));
    if is_lowered {
        set_limit(field, "4000:4000")?;
    } else {
        crowd.close_all();
    }
    let start = Instant::now();
    let mut newcomer = Crowd::new(field.web)?;
    newcomer.join(ReadMode::KeepLast(512), &hello)?;
    let heard = |crowd: &Crowd| crowd.heard(AUTHENTICATED) == 1;
    let is_in = newcomer.pump_until(Duration::from_secs(5), heard)?;
    let took = start.elapsed();
    let is_soon = is_in && took < Duration::from_secs(1);
    findings.expect(is_soon, format!("once there was room, a browser got in within {took:.1?}"));
    newcomer.close_all();
    crowd.close_all();
    Ok(findings)
}

/// CPU use of the server while `run` runs and for `time` after it, in percent.
fn load(field: &Field, time: Duration, run: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let (worked, start) = (machine::seconds(field.pid)?, Instant::now());
    run()?;
    std::thread::sleep(time);
    Ok((machine::seconds(field.pid)? - worked) / start.elapsed().as_secs_f64() * 100.0)
}

/// The attacks that run at once: all that share the server.
const MIX: &[&[Attack]] = &[
    trickle::ATTACKS,
    slow::ATTACKS,
    floods::ATTACKS,
    leaving::ATTACKS,
    tokens::ATTACKS,
    isolation::ATTACKS,
    garbage::ATTACKS,
];

fn address_space(campaign: &mut Campaign, attack: &Attack) -> Outcome<Report> {
    let wants = Wants { address_space: Some(262_144), ..Wants::default() };
    let mut stage = campaign.stage(&wants, Folder::new()?)?;
    let bounds = Bounds { memory_mib: 256.0, is_timed: false, ..Bounds::DEFAULT };
    let report = stage.measure(attack, bounds, |field| {
        let field = Field { scale: field.scale * 0.1, ..*field };
        let runs = MIX.iter().copied().flatten().filter_map(|attack| match attack.run {
            Run::Beside(run, _) => Some(run),
            Run::Alone(_) => None,
        });
        let threads: Vec<_> = runs.map(|run| std::thread::spawn(move || run(&field))).collect();
        let mut findings = Findings::default();
        let count = threads.len();
        for thread in threads {
            let found = thread.join().map_err(|_| "an attack ended in a panic")?;
            // Attacks that run together may miss their own expectations, so faults are only noted.
            let faults = found.map_or_else(|error| vec![error.to_string()], |found| found.faults);
            faults.into_iter().for_each(|fault| findings.note(format!("(not judged) {fault}")));
        }
        let peak = machine::memory(field.pid, "VmPeak")? >> 20;
        findings.note(format!("{count} attacks at once; at most {peak} MiB of address space"));
        Ok(findings)
    });
    campaign.leave(stage);
    report
}

/// Writes until the disk is full.
fn fill(path: &Path) -> Outcome<()> {
    let mut file = std::fs::File::create(path)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0; 1]).is_ok() {}
    Ok(())
}

fn full_disk(campaign: &mut Campaign, attack: &Attack) -> Outcome<Report> {
    let mut stage = campaign.stage(&Wants::default(), Folder::of_size(16)?)?;
    let filler = stage.folder.path().join("filler");
    let report = stage.measure(attack, Bounds::DEFAULT, |field| {
        let mut findings = Findings::default();
        let (mut control, _) = field.back_end(CROWD, CROWD_KEY)?;
        let mut set = |number: usize, bytes: usize| {
            let data = "d".repeat(bytes);
            let channel = format!("disk-{number}");
            let body = json!({ "action": "set", "channel": channel, "data": data });
            control.ask(body.to_string().as_bytes())
        };
        let reply = set(0, 1000)?;
        findings.expect(reply.contains("true"), format!("with room: {reply}"));
        fill(&filler)?;
        let refused = (1..200).find_map(|number| match set(number, 30_000) {
            Ok(reply) if reply.contains("true") => None,
            other => Some((number, other)),
        });
        let text = match refused {
            Some((number, Ok(reply))) if reply.contains(":302") => {
                Ok(format!("disk full: set {number} was answered {reply}"))
            }
            other => Err(format!("disk full: {other:?}")),
        };
        findings.expect(text.is_ok(), text.unwrap_or_else(|text| text));
        let failing = field.numbers()?.of("fws_store_failing", "");
        findings.expect(failing == 1.0, format!("fws_store_failing {failing}"));
        std::thread::sleep(Duration::from_secs(3));
        std::fs::remove_file(&filler)?;
        let start = Instant::now();
        while !set(0, 2000)?.contains("true") && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = start.elapsed();
        let is_soon = took < Duration::from_secs(3);
        findings.expect(is_soon, format!("once there was room, a set succeeded after {took:.1?}"));
        Ok(findings)
    });
    campaign.leave(stage);
    report
}
