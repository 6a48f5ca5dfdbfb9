//! The simulation, over many seeds. `FWS_SIM_SEED=N` replays one seed and prints what it does;
//! `FWS_SIM_SEEDS=N` runs so many.

use fws::journal::{HastyJournal, LateJournal, MemoryJournal};
use fws::reason::CloseReason;
use fws::sim::{Met, Options, Report, run, run_sessions};

/// Actions of a run.
const STEPS: usize = 140;

/// One proposal in so many fails on the late journal.
const FAILS_ONE_IN: u64 = 12;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn on_memory(seed: u64, is_verbose: bool) -> Report {
    run(Options { seed, steps: STEPS, is_verbose }, MemoryJournal::new(1))
}

fn on_late(seed: u64, is_verbose: bool) -> Report {
    let journal = LateJournal::new(1, seed, FAILS_ONE_IN);
    run(Options { seed, steps: STEPS, is_verbose }, journal)
}

fn on_hasty(seed: u64, is_verbose: bool) -> Report {
    let journal = HastyJournal::new(1, seed, FAILS_ONE_IN);
    run(Options { seed, steps: STEPS, is_verbose }, journal)
}

/// Runs all seeds that are asked for.
fn all(run: fn(u64, bool) -> Report) -> Vec<Report> {
    match number("FWS_SIM_SEED") {
        Some(seed) => vec![run(seed, true)],
        None => (0..number("FWS_SIM_SEEDS").unwrap_or(256)).map(|seed| run(seed, false)).collect(),
    }
}

/// What the runs have in common must have been met in some of them: a simulation that meets
/// nothing finds nothing.
fn assert_rich(reports: &[Report]) {
    if reports.len() < 256 {
        return;
    }
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    let runs = reports.len() as u64;
    assert!(sum(|report| report.commands) > 80 * runs, "few commands");
    assert!(sum(|report| report.deliveries) > 20 * runs, "few deliveries");
    assert!(sum(|report| report.browsers_held) > runs, "few were held back");
    assert!(sum(|report| report.leaving_turns) > runs, "few left step by step");
    assert!(sum(|report| report.floods) > runs / 16, "back ends hardly ever had to wait");
    assert!(2 * sum(|report| report.reloads) > runs, "limits were seldom changed");
    for reason in CloseReason::ALL {
        let count: u64 = reports.iter().map(|report| report.closed[*reason as usize]).sum();
        assert!(count > 0, "nobody was closed for {reason}");
    }
}

#[test]
fn memory_journal() {
    assert_rich(&all(on_memory));
}

#[test]
fn late_journal() {
    assert_rich(&all(on_late));
}

#[test]
fn hasty_journal() {
    assert_rich(&all(on_hasty));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..8 {
        assert_eq!(on_memory(seed, false), on_memory(seed, false));
        assert_eq!(on_late(seed, false), on_late(seed, false));
        assert_eq!(on_hasty(seed, false), on_hasty(seed, false));
    }
    assert_ne!(on_memory(1, false), on_memory(2, false));
}

/// Sessions over HTTP on both journals: attach, leave, expire, second receivers.
#[test]
fn sessions_over_http() {
    let seeds = match number("FWS_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FWS_SIM_SEEDS").unwrap_or(256),
    };
    let count = seeds.end - seeds.start;
    let mut sum = Met::default();
    for seed in seeds {
        let on_memory = run_sessions(seed, STEPS, MemoryJournal::new(1));
        run_sessions(seed, STEPS, LateJournal::new(1, seed, 0));
        if seed < 8 {
            assert_eq!(on_memory, run_sessions(seed, STEPS, MemoryJournal::new(1)), "seed {seed}");
        }
        sum.opened += on_memory.opened;
        sum.expired += on_memory.expired;
        sum.aborted += on_memory.aborted;
        sum.seconds += on_memory.seconds;
        sum.told += on_memory.told;
        sum.limited += on_memory.limited;
        sum.messages += on_memory.messages;
    }
    if count >= 256 {
        assert!(sum.opened > 6 * count && sum.expired > 3 * count, "{sum:?}");
        assert!(sum.aborted > count / 2 && sum.seconds > 3 * count, "{sum:?}");
        assert!(sum.told > 3 * count && sum.limited > count / 2, "{sum:?}");
        assert!(sum.messages > 20 * count, "{sum:?}");
    }
}
