//! The Prometheus text format, version 0.0.4: written for the admin listener, read by `fws stat`.
//! Pure. A number that was read may be anything, NaN and infinities included.

use std::fmt::{Display, Write};

use crate::metrics::{BUCKETS_US, Durations, Family};

/// The `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text under construction.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric; its samples follow.
    pub fn begin(&mut self, family: &Family) {
        let Family { name, kind, help } = family;
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
    }

    /// Adds a sample of the metric begun last.
    pub fn sample(&mut self, family: &Family, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(family.name);
        self.labels(labels);
        let _ = writeln!(self.0, " {value}");
    }

    /// Adds a metric with a single sample without labels.
    pub fn single(&mut self, family: &Family, value: impl Display) {
        self.begin(family);
        self.sample(family, &[], value);
    }

    /// Adds a complete histogram, in seconds.
    pub fn histogram(&mut self, family: &Family, durations: &Durations) {
        self.begin(family);
        let name = family.name;
        let mut sum = 0;
        for (count, bound) in durations.counts.iter().zip(BUCKETS_US) {
            sum += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{}\"}} {sum}", seconds(bound));
        }
        let total = durations.count();
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {total}");
        let _ = writeln!(self.0, "{name}_sum {}", seconds(durations.sum_us));
        let _ = writeln!(self.0, "{name}_count {total}");
    }

    /// Returns the text.
    pub fn finish(self) -> String {
        self.0
    }

    fn labels(&mut self, labels: &[(&str, &str)]) {
        for (at, (name, value)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            self.0.push_str(name);
            self.0.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
    }
}

/// Converts microseconds to seconds, as exactly as `f64` can.
pub fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// One line of the format.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name; for a histogram, that of the metric with `_bucket`, `_sum` or `_count` appended.
    pub name: String,
    /// Names and values of the labels.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// Returns the value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// Parses the samples of a text, in order; `None` if a line is invalid.
pub fn parse(text: &str) -> Option<Vec<Sample>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = line.find(|c| !is_of_name(c)).filter(|end| *end > 0)?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, behind) = rest.split_once("=\"")?;
            let (value, behind) = quoted(behind)?;
            labels.push((label.to_owned(), value));
            rest = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.strip_prefix(' ')?.split(' ').next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Parses a label value up to its closing quote; returns it and the text after the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    None
}

/// Fuzz target: parses a text, writes the result and parses that again.
///
/// # Panics
/// If the two results differ.
pub fn fuzz_text(data: &[u8]) {
    let Some(samples) = str::from_utf8(data).ok().and_then(parse) else { return };
    for sample in samples {
        let labels: Vec<(&str, &str)> =
            sample.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut text = Exposition(sample.name.clone());
        text.labels(&labels);
        let written = format!("{} {}", text.finish(), sample.value);
        let read = parse(&written).and_then(|samples| samples.into_iter().next());
        let is_same = |again: &Sample| {
            // NaN is not equal to itself.
            let is_value = again.value.to_string() == sample.value.to_string();
            is_value && (&again.name, &again.labels) == (&sample.name, &sample.labels)
        };
        // Label names are not validated, so a line with strange ones may not be parsed again.
        let is_strange = |(name, _): &(&str, &str)| name.contains(['"', '=', '}', ',', '\n', '\r']);
        assert!(labels.iter().any(is_strange) || read.as_ref().is_some_and(is_same), "{written}");
        for (name, _) in labels {
            assert!(sample.label(name).is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::families;

    #[test]
    fn label_values_survive_with_any_characters() {
        for name in ["shop", "a\"b", "a\\", "a\nb\\n", "}", "é\u{1F600}\r\t", "", "a\",x=\"1"] {
            let mut text = Exposition::default();
            text.begin(&families::NS_STATES);
            text.sample(&families::NS_STATES, &[("namespace", name), ("x", "y")], 17);
            let text = text.finish();
            assert_eq!(text.lines().count(), 3, "{text}");
            let samples = parse(&text).unwrap();
            assert_eq!(samples.len(), 1);
            assert_eq!(samples[0].label("namespace"), Some(name));
            assert_eq!(
                (samples[0].name.as_str(), samples[0].value),
                ("fws_namespace_states", 17.0)
            );
        }
    }

    #[test]
    fn the_exposition_is_in_the_prometheus_text_format() {
        let mut text = Exposition::default();
        text.single(&families::DRAINING, 0);
        let mut durations = Durations::default();
        for us in [0, 100, 101, 4000, 2_000_000] {
            durations.record(us);
        }
        text.histogram(&families::TURNS, &durations);
        let text = text.finish();
        assert!(text.starts_with(
            "# HELP fws_draining 1 while the server is stopping, else 0.\n\
             # TYPE fws_draining gauge\nfws_draining 0\n# HELP fws_turn_seconds "
        ));
        for line in [
            "# TYPE fws_turn_seconds histogram",
            "fws_turn_seconds_bucket{le=\"0.0001\"} 2",
            "fws_turn_seconds_bucket{le=\"0.00025\"} 3",
            "fws_turn_seconds_bucket{le=\"0.005\"} 4",
            "fws_turn_seconds_bucket{le=\"1\"} 4",
            "fws_turn_seconds_bucket{le=\"+Inf\"} 5",
            "fws_turn_seconds_sum 2.004201",
            "fws_turn_seconds_count 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(parse(&text).is_some());
    }

    #[test]
    fn malformed_expositions_are_not_parsed() {
        for text in ["x", "{a=\"b\"} 1", "x{a=\"b} 1", "x{a=\"b\" 1", "x one", "x{a} 1", "<html>"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let sample = &parse("# x\n\nx_total{a=\"b\",} +Inf 1234\n").unwrap()[0];
        assert!(sample.value.is_infinite() && sample.labels.len() == 1);
    }
}
