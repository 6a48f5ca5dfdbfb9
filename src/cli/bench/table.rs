//! The figures of a run, as a table or as JSON.

use std::fmt::Write;

use crate::cli::output::number;
use crate::codec::json::quote;
use crate::load::{Action, Figure, Outcome, Plan, Protocol, Unit, Workload};

fn name<T: PartialEq>(all: &[(&'static str, T)], value: T) -> &'static str {
    all.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

/// A headline, then one line per figure.
pub(super) fn text(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = headline(plan);
    for figure in &outcome.0 {
        let (value, unit) = words(figure);
        let label = figure.name.replace("99_9", "99.9").replace('_', " ");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {label:<28} {value:>14}{unit}");
    }
    text
}

/// Describes the run well enough to repeat it.
fn headline(plan: &Plan) -> String {
    let (workload, to) = (name(&Workload::ALL, plan.workload), name(&Protocol::ALL, plan.protocol));
    let command = match plan.workload {
        Workload::Control => format!(" {}", name(&Action::ALL, plan.action)),
        _ => String::new(),
    };
    let pace = match plan.workload {
        Workload::Rate | Workload::Slow => format!(", {} a second", plan.per_second),
        Workload::Idle => String::new(),
        _ => format!(", {} in flight", plan.in_flight),
    };
    let (bytes, seconds) = (plan.bytes, plan.warm_up_ms as f64 / 1000.0);
    format!("{workload}{command} to {to}, {bytes} bytes{pace}, after {seconds} s of warm-up\n")
}

/// A figure with its unit, without digits that are not significant.
fn words(figure: &Figure) -> (String, &'static str) {
    let value = figure.value;
    match figure.unit {
        Unit::Count => (grouped(value), ""),
        Unit::PerSecond => (grouped(value), " a second"),
        Unit::Seconds => (format!("{value:.2}"), " s"),
        Unit::Micros if value >= 10_000.0 => (format!("{:.1}", value / 1000.0), " ms"),
        Unit::Micros if value >= 100.0 => (format!("{:.2}", value / 1000.0), " ms"),
        Unit::Micros => (format!("{value:.2}"), " µs"),
        Unit::Bytes if value.abs() >= 1e7 => (format!("{:.1}", value / 1_048_576.0), " MiB"),
        Unit::Bytes => (grouped(value), " bytes"),
        Unit::Cores => (format!("{:.2}", value), " cores"),
    }
}

/// `1,234,567`
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value <= -0.5 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The plan and every figure, as JSON members.
pub(super) fn members(plan: &Plan, outcome: &Outcome) -> Vec<(String, String)> {
    let rounded = |value: f64| number((value * 1000.0).round() / 1000.0);
    let is_paced = matches!(plan.workload, Workload::Rate | Workload::Slow);
    let is_control = plan.workload == Workload::Control;
    let named = [
        ("workload", Some(quote(name(&Workload::ALL, plan.workload)))),
        ("to", Some(quote(name(&Protocol::ALL, plan.protocol)))),
        ("command", is_control.then(|| quote(name(&Action::ALL, plan.action)))),
        ("bytes", Some(plan.bytes.to_string())),
        ("in_flight", Some(plan.in_flight.to_string())),
        ("per_second", is_paced.then(|| plan.per_second.to_string())),
        ("warm_up_seconds", Some(rounded(plan.warm_up_ms as f64 / 1000.0))),
        ("namespace", plan.protocol.is_ours().then(|| quote(&plan.namespace))),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let figures = outcome
        .0
        .iter()
        .map(|figure| (format!("{}{}", figure.name, figure.unit.suffix()), rounded(figure.value)));
    named.chain(figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_their_units() {
        let words = |value, unit| {
            let figure = Figure { name: String::new(), value, unit };
            let (value, unit) = words(&figure);
            value + unit
        };
        assert_eq!(words(1_234_567.4, Unit::PerSecond), "1,234,567 a second");
        assert_eq!(words(-1234.0, Unit::Bytes), "-1,234 bytes");
        assert_eq!(words(999.0, Unit::Count), "999");
        assert_eq!(words(3.456, Unit::Micros), "3.46 µs");
        assert_eq!(words(345.6, Unit::Micros), "0.35 ms");
        assert_eq!(words(34_560.0, Unit::Micros), "34.6 ms");
        assert_eq!(words(20_971_520.0, Unit::Bytes), "20.0 MiB");
    }
}
