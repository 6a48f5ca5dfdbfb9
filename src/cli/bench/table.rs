//! Figures of a run, for a person and for a program.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::load::{Action, Figure, Outcome, Plan, Protocol, Unit, Workload};

fn name<T: PartialEq>(all: &[(&'static str, T)], value: T) -> &'static str {
    all.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

/// A headline and a line for each figure.
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

/// What was done, so that it can be done again.
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

/// A figure with its unit, as short as it is known.
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

/// One object: what was done, and every figure.
pub(super) fn json(plan: &Plan, outcome: &Outcome) -> String {
    let mut object = Map::new();
    object.insert("workload".into(), name(&Workload::ALL, plan.workload).into());
    object.insert("to".into(), name(&Protocol::ALL, plan.protocol).into());
    if plan.workload == Workload::Control {
        object.insert("command".into(), name(&Action::ALL, plan.action).into());
    }
    object.insert("bytes".into(), plan.bytes.into());
    object.insert("in_flight".into(), plan.in_flight.into());
    if matches!(plan.workload, Workload::Rate | Workload::Slow) {
        object.insert("per_second".into(), plan.per_second.into());
    }
    object.insert("warm_up_seconds".into(), rounded(plan.warm_up_ms as f64 / 1000.0));
    if plan.protocol.is_ours() {
        object.insert("namespace".into(), plan.namespace.as_str().into());
    }
    for figure in &outcome.0 {
        let name = format!("{}{}", figure.name, figure.unit.suffix());
        object.insert(name, rounded(figure.value));
    }
    Value::Object(object).to_string() + "\n"
}

/// To a thousandth; a whole number without a point.
fn rounded(value: f64) -> Value {
    let value = (value * 1000.0).round() / 1000.0;
    if value.fract() == 0.0 { (value as i64).into() } else { value.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_in_words() {
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
