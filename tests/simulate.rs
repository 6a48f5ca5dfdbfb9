//! Runs the simulation over many seeds, on all cores. `FWS_SIM_SEED=N` replays one seed and prints
//! its actions; `FWS_SIM_SEEDS=N` runs `N` seeds of `FWS_SIM_STEPS` steps each (`make sim`).
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

use std::fmt::Write;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fws::journal::{DelayedJournal, MemoryJournal, RollbackJournal};
use fws::limits::SyncPolicy;
use fws::reason::CloseReason;
use fws::sim::{Met, Misfortunes, Options, Report};
use fws::sim::{run, run_on_store, run_sessions, run_sessions_on_store};

/// Actions of a run on a journal without a disk.
const STEPS: usize = 200;
/// Number of those runs, each with its own seed.
const SEEDS: u64 = 256;
/// Actions of a run on the store, and number of those runs, by default.
const STORE_STEPS: u64 = 420;
const STORE_SEEDS: u64 = 48;
/// Number of seeds that are run twice: by default, and by `make sim`.
const TWICE: u64 = 8;
const SIM_TWICE: u64 = 32;

/// Limits that change during runs; some connection must have been judged by an earlier value.
const OUTLIVED: [&str; 12] = [
    "control_auth_ms",
    "control_frame_ms",
    "http_head_ms",
    "auth_ms",
    "heartbeat_ms",
    "heartbeat_answer_ms",
    "backlog_ms",
    "backlog_soft_ms",
    "stall_ms",
    "sessions_unauthenticated",
    "connections_per_address",
    "leaves_per_turn",
];

/// Steps after which each of them is certain to have happened.
const MANY_STEPS: u64 = 1_000_000;

/// On the delayed and the rollback journal, one proposal in this many fails.
const FAILS_ONE_IN: u64 = 12;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn options(seed: u64, is_verbose: bool) -> Options {
    Options { seed, steps: STEPS, is_verbose }
}

fn on_memory(seed: u64, is_verbose: bool) -> Report {
    run(options(seed, is_verbose), MemoryJournal::default())
}

fn on_delayed(seed: u64, is_verbose: bool) -> Report {
    run(options(seed, is_verbose), DelayedJournal::new(seed, FAILS_ONE_IN))
}

fn on_rollback(seed: u64, is_verbose: bool) -> Report {
    run(options(seed, is_verbose), RollbackJournal::new(seed, FAILS_ONE_IN))
}

/// Runs on the store: half of the seeds sync before they acknowledge, the others within a second.
fn on_store(seed: u64, is_verbose: bool) -> Report {
    let steps = number("FWS_SIM_STEPS").unwrap_or(STORE_STEPS) as usize;
    let sync = if seed.is_multiple_of(2) { SyncPolicy::Always } else { SyncPolicy::Every(1000) };
    run_on_store(Options { seed, steps, is_verbose }, sync)
}

/// Runs all the seeds that are asked for.
fn all<T: Send>(seeds: u64, run: fn(u64, bool) -> T) -> Vec<T> {
    if let Some(seed) = number("FWS_SIM_SEED") {
        return vec![run(seed, true)];
    }
    spread(number("FWS_SIM_SEEDS").unwrap_or(seeds), run)
}

/// Runs the seeds from 0 to below `seeds`, on all cores.
fn spread<T: Send>(seeds: u64, run: fn(u64, bool) -> T) -> Vec<T> {
    let next = AtomicU64::new(0);
    let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds);
    let work = || std::iter::from_fn(take).map(|seed| (seed, run(seed, false))).collect::<Vec<_>>();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(u64, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        // A run that panicked has printed its seed.
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_by_key(|(seed, _)| *seed);
    all.into_iter().map(|(_, report)| report).collect()
}

fn sum(reports: &[Report], count: impl Fn(&Report) -> u64) -> u64 {
    reports.iter().map(count).sum()
}

/// Checks that each kind of event has happened in some of the runs: a simulation in which nothing
/// happens finds nothing.
fn assert_rich(reports: &[Report]) {
    if reports.len() < SEEDS as usize {
        return;
    }
    let runs = reports.len() as u64;
    assert!(sum(reports, |report| report.commands) > 80 * runs, "few commands");
    let deliveries = sum(reports, |report| report.deliveries);
    assert!(deliveries > 16 * runs, "few deliveries: {deliveries} in {runs} runs");
    assert!(sum(reports, |report| report.browsers_held) > runs, "few were held back");
    assert!(sum(reports, |report| report.leaving_turns) > runs, "few left step by step");
    let long = sum(reports, |report| report.long_emits);
    assert!(long > runs / 4, "few emits took several turns: {long}");
    let floods = sum(reports, |report| report.floods);
    assert!(floods > runs / 16, "back ends hardly ever had to wait: {floods} times");
    let shortages = sum(reports, |report| report.shortages);
    assert!(shortages > runs / 16, "there was hardly ever no room for answers");
    let waits = sum(reports, |report| report.control_input_waits);
    assert!(waits > runs / 16, "large commands hardly ever had to wait: {waits} times");
    let evicted = sum(reports, |report| report.control_input_evicted);
    assert!(
        evicted > runs / 64,
        "large commands hardly ever made room for others: {evicted} times"
    );
    let renewed = sum(reports, |report| report.renewed);
    assert!(renewed > runs / 16, "tokens were hardly ever renewed behind answers: {renewed}");
    assert_full(reports);
    assert!(2 * sum(reports, |report| report.reloads) > runs, "limits were seldom changed");
    let often = ["control_auth_ms", "http_head_ms", "auth_ms", "heartbeat_ms", "leaves_per_turn"];
    assert_outlived(reports, &often);
    for reason in CloseReason::ALL {
        let count = sum(reports, |report| report.closed[*reason as usize]);
        assert!(count > 0, "nobody was closed for {reason}");
    }
}

/// Checks that resources with a total limit ran out, and were refused to leave a share to others.
fn assert_full(reports: &[Report]) {
    for what in ["too many subscriptions", "Too many grants", "Too many states"]
        .into_iter()
        .chain(["Too many bytes of states"])
    {
        for of in ["limit", "share"] {
            let name = format!("{what} in all: {of}");
            let count = sum(reports, |report| report.full.get(&name).copied().unwrap_or(0));
            assert!(count > reports.len() as u64 / 64, "seldom {name}: {count}");
        }
    }
}

/// Checks that these limits were changed while deadlines by them ran.
fn assert_outlived(reports: &[Report], names: &[&str]) {
    for name in names {
        let count = sum(reports, |report| report.outlived.get(name).copied().unwrap_or(0));
        assert!(count > 0, "nobody outlived a value of {name}");
    }
}

#[test]
fn memory_journal() {
    assert_rich(&all(SEEDS, on_memory));
}

#[test]
fn delayed_journal() {
    assert_rich(&all(SEEDS, on_delayed));
}

#[test]
fn rollback_journal() {
    assert_rich(&all(SEEDS, on_rollback));
}

/// The whole server on its store, through crashes and restarts.
#[test]
fn whole_server() {
    let began = Instant::now();
    let reports = all(STORE_SEEDS, on_store);
    tell(&reports, began);
    if reports.len() < STORE_SEEDS as usize {
        return;
    }
    let met = |count: fn(&Misfortunes) -> u64| sum(&reports, |report| count(&report.misfortunes));
    let runs = reports.len() as u64;
    for (count, what) in [
        (met(|met| met.kills), "kills"),
        (met(|met| met.power_cuts), "power cuts"),
        (met(|met| met.halves), "batches cut short"),
        (met(|met| met.half_starts), "starts cut short"),
        (met(|met| met.full_starts), "starts on a full disk"),
        (met(|met| met.full), "full disks"),
        (met(|met| met.broken), "broken disks"),
        (met(|met| met.failures), "failures of the store"),
        (met(|met| met.recoveries), "recoveries of it"),
        (met(|met| met.hangs), "disks that hang"),
        (met(|met| met.snapshots), "snapshots beside a server"),
    ] {
        assert!(count > runs / 4, "{count} {what} in {runs} runs are few");
    }
    // Only where a server was killed between a batch and its seal.
    assert!(met(|met| met.no_snapshots) > 0, "no snapshot was ever given up");
    assert!(met(|met| met.batches) > 10 * runs, "few batches");
    let waited = sum(&reports, |report| report.waited);
    let beside = sum(&reports, |report| report.heard_beside);
    assert!(waited > runs / 2, "few waited for a disk that hung: {waited}");
    assert!(beside > runs, "few were heard beside: {beside}");
    if runs * number("FWS_SIM_STEPS").unwrap_or(STORE_STEPS) >= MANY_STEPS {
        assert_outlived(&reports, &OUTLIVED);
    }
}

/// Prints what was run and how fast, for `make sim`.
fn tell(reports: &[Report], began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    let hours = sum(reports, |report| report.simulated_ms) as f64 / 3_600_000.0;
    let steps = number("FWS_SIM_STEPS").unwrap_or(STORE_STEPS) * reports.len() as u64;
    let trace = reports.iter().fold(0, |hash: u64, report| hash.rotate_left(1) ^ report.trace);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "whole server: {} seeds, {steps} steps, {hours:.0} hours in {seconds:.1} s: {:.1} \
         simulated hours and {:.0} steps per second; trace {trace:016x}",
        reports.len(),
        hours / seconds,
        steps as f64 / seconds,
    );
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let seeds = number("FWS_SIM_SEEDS").map_or(TWICE, |seeds| seeds.min(SIM_TWICE));
    spread(seeds, |seed, _| {
        for run in [on_memory, on_delayed, on_rollback, on_store] {
            assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
        }
    });
    assert_ne!(on_memory(1, false), on_memory(2, false));
}

fn sessions(seed: u64, _: bool) -> Met {
    let on_memory = run_sessions(seed, STEPS, MemoryJournal::default());
    run_sessions(seed, STEPS, DelayedJournal::new(seed, 0));
    run_sessions_on_store(seed, STEPS);
    if seed < TWICE {
        assert_eq!(on_memory, run_sessions(seed, STEPS, MemoryJournal::default()), "seed {seed}");
    }
    on_memory
}

/// Sessions over HTTP on three journals: attach, leave, expire, second receivers.
#[test]
fn sessions_over_http() {
    let met = all(SEEDS, sessions);
    let runs = met.len() as u64;
    if runs < SEEDS {
        return;
    }
    let sum = |count: fn(&Met) -> u64| met.iter().map(count).sum::<u64>();
    assert!(sum(|met| met.opened) > 6 * runs && sum(|met| met.expired) > 3 * runs);
    assert!(sum(|met| met.aborted) > runs / 2 && sum(|met| met.seconds) > 3 * runs);
    assert!(sum(|met| met.told) > 3 * runs && sum(|met| met.limited) > runs / 2);
    assert!(sum(|met| met.messages) > 20 * runs);
}
