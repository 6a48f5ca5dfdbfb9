//! The flags of `fws bench`, as a plan for the load generator, and its run.

use std::io::{IsTerminal, Write, stderr};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use super::table::{members, text};
use super::*;
use crate::address::ListenAddress;
use crate::cli::output::{out, out_json};
use crate::cli::session;
use crate::client::{self, Address};
use crate::demo;
use crate::load::{self, Action, Plan, Protocol, Workload};

pub(super) fn run(call: &Call) -> Result<(), Stop> {
    let plan = plan(call)?;
    plan.check().map_err(|fault| Stop::Usage(fault.to_string()))?;
    let is_terminal = stderr().is_terminal();
    let mut show = |line: &str| {
        if is_terminal {
            // The run does not depend on the progress line.
            let _ = stderr().write_all(format!("\r{line}\x1b[K").as_bytes());
        }
    };
    let result = load::run(&plan, &mut show);
    show("");
    let outcome = result.map_err(|fault| Stop::Failed(format!("{fault}{}", absence(&plan))))?;
    let is_json = call.flag(JSON.name).is_some();
    if is_json { out_json(&members(&plan, &outcome)) } else { out(&text(&plan, &outcome)) }
}

/// Names the server addresses at which nothing listens: a likely reason for a failed run.
fn absence(plan: &Plan) -> String {
    let is_gone = |at: &&ListenAddress| {
        let at = match at {
            ListenAddress::Ip(at) => Address::Tcp(at.to_string()),
            ListenAddress::Unix(path) => Address::Unix(path.clone()),
        };
        client::reach(&at).is_err()
    };
    let places = match plan.workload {
        Workload::Control => vec![&plan.control],
        Workload::Idle | Workload::Churn => vec![&plan.ws],
        _ if plan.protocol.is_one_port() => vec![&plan.ws],
        _ => vec![&plan.ws, &plan.control],
    };
    let gone = places.into_iter().find(is_gone);
    gone.map_or_else(String::new, |at| format!("; nobody listens at {at}"))
}

fn plan(call: &Call) -> Result<Plan, Stop> {
    let [word] = call.words()?;
    let workload = one_of(&Workload::ALL, "WORKLOAD", word)?;
    let protocol = one_of(&Protocol::ALL, "--to", call.flag(TO.name).unwrap_or("fws"))?;
    let action = one_of(&Action::ALL, "--command", call.flag(COMMAND_FLAG.name).unwrap_or("set"))?;
    let config = call.client_config()?;
    let namespace = call.flag(NAMESPACE.name).unwrap_or(demo::NAMESPACE);
    let key = match protocol.is_ours() {
        true => session::namespace_key(call, &config, namespace)?.key.expose().to_owned(),
        false => String::new(),
    };
    let subscribers = number(call, SUBSCRIBERS, 1000)?;
    let in_flight = match workload {
        Workload::Unicast | Workload::Control => 64,
        Workload::Churn => 200,
        _ => 16,
    };
    Ok(Plan {
        workload,
        protocol,
        ws: place(call, [&AT_WS, &AT_WS_UNIX], config.ws_unix.as_deref(), config.ws)?,
        control: place(
            call,
            [&AT_CONTROL, &AT_CONTROL_UNIX],
            config.control_unix.as_deref(),
            Some(config.control),
        )?,
        namespace: namespace.to_owned(),
        key,
        origin: session::origin(call)?.map(str::to_owned),
        subscribers,
        bytes: number(call, BYTES, 128)?,
        in_flight: number(call, IN_FLIGHT, in_flight)?,
        per_second: number(call, PER_SECOND, 50)?,
        connections: number(call, CONNECTIONS, 1)?,
        action,
        stalled: number(call, STALLED, subscribers.div_ceil(100))?,
        has_own_channel: call.flag(OWN.name).is_some(),
        warm_up_ms: milliseconds(call, WARM_UP, 1.0)?,
        measure_ms: milliseconds(call, SECONDS, 3.0)?,
        pid: match call.flag(PID.name) {
            None => None,
            Some(pid) => Some(pid.parse().map_err(|_| no_number(PID, pid))?),
        },
    })
}

fn one_of<T: Copy>(all: &[(&str, T)], what: &str, name: &str) -> Result<T, Stop> {
    let found = all.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(known, _)| *known).collect();
        Stop::Usage(format!("{what}: {name:?} is none of {}", names.join(", ")))
    })
}

/// A numeric flag, from 1 to 10,000,000.
fn number(call: &Call, flag: Flag, default: usize) -> Result<usize, Stop> {
    let Some(text) = call.flag(flag.name) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=10_000_000).contains(number));
    number.ok_or_else(|| no_number(flag, text))
}

/// A flag in seconds, from 0.05 to a day.
fn milliseconds(call: &Call, flag: Flag, default: f64) -> Result<u64, Stop> {
    let Some(text) = call.flag(flag.name) else { return Ok((default * 1000.0) as u64) };
    let seconds = text.parse::<f64>().ok().filter(|it| (0.05..=86_400.0).contains(it));
    let seconds = seconds.ok_or_else(|| {
        Stop::Usage(format!("--{}: {text:?} is not a number from 0.05 to 86400", flag.name))
    })?;
    Ok((seconds * 1000.0) as u64)
}

fn no_number(flag: Flag, text: &str) -> Stop {
    Stop::Usage(format!("--{}: {text:?} is not a number from 1 to 10000000", flag.name))
}

/// Where to connect: from a flag (its host may be a name or a number), or from the configuration.
fn place(
    call: &Call,
    flags: [&Flag; 2],
    unix: Option<&Path>,
    configured: Option<SocketAddr>,
) -> Result<ListenAddress, Stop> {
    let name = flags[0].name;
    let at = match (session::door(call, flags, unix)?, configured) {
        (Some(at), _) => at,
        (None, Some(configured)) => Address::to_reach(configured),
        (None, None) => {
            return Err(Stop::Usage(format!("say with --{name} where that port is")));
        }
    };
    let text = match at {
        Address::Unix(path) => return Ok(ListenAddress::Unix(path)),
        at => at.to_string(),
    };
    let wrong = |why: String| Stop::Usage(format!("--{name}: {text}: {why}"));
    let found = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    let found: Vec<SocketAddr> = found.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().map(ListenAddress::Ip).ok_or_else(|| wrong("no such host".into()))
}
