//! A campaign against the release binary (`make hostile`): named attacks, a healthy load beside
//! each, and one table of measurements. Server, healthy load and attackers are three processes;
//! with two or more processors the server has one to itself. Anything that the machine lacks is an
//! error.

mod crowd;
mod floods;
mod garbage;
mod healthy;
mod isolation;
mod leaving;
mod machine;
mod processes;
mod report;
mod server;
mod shortage;
mod silent;
mod slow;
mod stage;
mod tokens;
mod trickle;
mod words;

use std::process::ExitCode;

use report::{Bounds, Findings, Report};
use stage::{Campaign, Field};

/// Any error ends an attack with a sentence.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// An attack: its name, what it does, and how it is run.
pub struct Attack {
    /// Its name, as in `make hostile ONLY=name`.
    pub name: &'static str,
    /// Its description in one line.
    pub about: &'static str,
    /// How it is run.
    pub run: Run,
}

/// How an attack is run.
#[derive(Clone, Copy)]
pub enum Run {
    /// On the server that most attacks share, within these bounds.
    Beside(fn(&Field) -> Outcome<Findings>, Bounds),
    /// On a server of its own.
    Alone(fn(&mut Campaign, &Attack) -> Outcome<Report>),
}

/// What the machine alone does to the figures.
const CONTROL: &[Attack] = &[Attack {
    name: "nothing",
    about: "no attack at all: what the machine's own noise does to the latencies",
    run: Run::Beside(nothing, Bounds::DEFAULT),
}];

fn nothing(field: &Field) -> Outcome<Findings> {
    std::thread::sleep(field.long(10));
    Ok(Findings::default())
}

/// All attacks, in the order of the campaign.
const ATTACKS: &[&[Attack]] = &[
    CONTROL,
    trickle::ATTACKS,
    slow::ATTACKS,
    silent::ATTACKS,
    floods::ATTACKS,
    leaving::ATTACKS,
    tokens::ATTACKS,
    isolation::ATTACKS,
    garbage::ATTACKS,
    shortage::ATTACKS,
    processes::ATTACKS,
];

const USAGE: &str = "usage: hostile --server BINARY [--only NAME]… [--smoke] [--first] \
    [--rounds N] | --list";

fn attacks() -> impl Iterator<Item = &'static Attack> {
    ATTACKS.iter().copied().flatten()
}

/// The command line.
#[derive(Default)]
struct Wishes {
    binary: String,
    only: Vec<String>,
    is_smoke: bool,
    is_first: bool,
    rounds: usize,
}

fn wishes(mut args: impl Iterator<Item = String>) -> Outcome<Wishes> {
    let mut wishes = Wishes { rounds: 1, ..Wishes::default() };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(USAGE);
        match arg.as_str() {
            "--server" => wishes.binary = value()?,
            "--only" => wishes.only.extend(value()?.split(',').map(str::to_owned)),
            "--rounds" => wishes.rounds = value()?.parse()?,
            "--first" => wishes.is_first = true,
            "--smoke" => wishes.is_smoke = true,
            _ => return Err(USAGE.into()),
        }
    }
    for name in &wishes.only {
        if !attacks().any(|attack| attack.name == name) {
            return Err(format!("there is no attack `{name}`; --list shows all").into());
        }
    }
    if wishes.binary.is_empty() { Err(USAGE.into()) } else { Ok(wishes) }
}

/// The attacks of a short run: those that take only seconds.
const SMOKE: &[&str] = &[
    "drip",
    "deaf",
    "pings",
    "resets",
    "sigterm",
    "tokens",
    "isolation",
    "leave-128",
    "control-garbage",
    "http-garbage",
    "address-space",
];

fn campaign(wishes: Wishes) -> Outcome<bool> {
    let chosen = |attack: &&Attack| match wishes.only.as_slice() {
        [] => !wishes.is_smoke || SMOKE.contains(&attack.name),
        only => only.iter().any(|name| name == attack.name),
    };
    let Wishes { binary, is_smoke, is_first, rounds, .. } = &wishes;
    let mut campaign = Campaign::new(binary, *is_smoke, *is_first, *rounds)?;
    for _ in 0..*rounds {
        for attack in attacks().filter(chosen) {
            campaign.attack(attack)?;
        }
    }
    campaign.end()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    let outcome = match args.peek().map(String::as_str) {
        Some("--list") => {
            for attack in attacks() {
                println!("{:<18} {}", attack.name, attack.about);
            }
            return ExitCode::SUCCESS;
        }
        // The other processes of the campaign run this program too.
        Some("healthy") => healthy::run(args.skip(1).collect()).map(|()| true),
        Some("spin") => machine::spin(),
        Some("silent") => silent::peers(args.skip(1).collect()).map(|()| true),
        _ => wishes(args).and_then(campaign),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostile: {error}");
            ExitCode::from(2)
        }
    }
}
