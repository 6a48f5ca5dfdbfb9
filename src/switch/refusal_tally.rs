//! The log line about refusals, with the first few namespaces concerned, so that a failing site can
//! be found. It names existing namespaces only, never text made up by a stranger.

use std::fmt;

use super::Switch;
use crate::log;
use crate::time::Now;

/// Interval between two log lines about refusals.
pub(super) const REPORT_MS: u64 = 10_000;
/// The most namespaces named; of others the line says only that there are some.
const NAMES_MAX: usize = 4;

/// Namespaces, each with its number of refusals.
#[derive(Debug, Default)]
pub(super) struct RefusalTally {
    names: Vec<(Box<str>, u64)>,
    has_others: bool,
}

impl RefusalTally {
    /// Counts one more refusal for this namespace.
    pub fn note(&mut self, name: &str) {
        if let Some((_, count)) = self.names.iter_mut().find(|(known, _)| **known == *name) {
            *count += 1;
        } else if self.names.len() < NAMES_MAX {
            self.names.push((name.into(), 1));
        } else {
            self.has_others = true;
        }
    }
}

/// `; namespace "shop" 3, "other" 1, and others`; nothing if there are none.
impl fmt::Display for RefusalTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, count)) in self.names.iter().enumerate() {
            let before = if i == 0 { "; namespace" } else { "," };
            write!(f, "{before} {name:?} {count}")?;
        }
        f.write_str(if self.has_others { ", and others" } else { "" })
    }
}

impl Switch {
    /// Schedules the next line, if none is scheduled yet.
    pub(super) fn report_soon(&mut self, now: Now) {
        self.report_at.get_or_insert(now.mono.plus(REPORT_MS));
    }

    /// Logs one line about what was refused and why, at most every ten seconds.
    pub(super) fn report(&mut self, now: Now) {
        let Some(at) = self.report_at else { return };
        if now.mono < at {
            return;
        }
        self.report_at = None;
        let refusals = self.metrics.refusals_since(&self.reported);
        self.reported = self.metrics.refusals();
        let refusal_tally = std::mem::take(&mut self.refusal_tally);
        if !refusals.is_empty() {
            log::warning(now.unix, format_args!("refused: {refusals}{refusal_tally}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_names_are_listed_with_their_counts() {
        let mut refusal_tally = RefusalTally::default();
        assert_eq!(refusal_tally.to_string(), "");
        for name in ["a", "b\n", "a", "c"] {
            refusal_tally.note(name);
        }
        assert_eq!(refusal_tally.to_string(), "; namespace \"a\" 2, \"b\\n\" 1, \"c\" 1");
        for i in 0..1000 {
            refusal_tally.note(&i.to_string());
        }
        let told = "; namespace \"a\" 2, \"b\\n\" 1, \"c\" 1, \"0\" 1, and others";
        assert_eq!((refusal_tally.to_string().as_str(), refusal_tally.names.capacity()), (told, 4));
    }
}
