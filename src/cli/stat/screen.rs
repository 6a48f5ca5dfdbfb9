//! The screen of `fws stat`: one reading, and rates since the reading before.

use super::super::output::printable;
use crate::codec::prometheus::Sample;

/// Number of namespaces shown.
const NAMESPACES: usize = 3;

/// Widths in characters: label, value and rate of a row; a row; and two rows side by side, the
/// right one without a rate.
const LABEL: usize = 18;
const VALUE: usize = 12;
const RATE: usize = 11;
const ROW: usize = LABEL + 1 + VALUE + 1 + RATE;
const LEFT: usize = ROW + 3;
const BOTH: usize = LEFT + LABEL + 1 + VALUE;
/// With fewer columns the values do not fit.
const NARROWEST: usize = 20;

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub columns: usize,
    pub lines: usize,
}

/// All metrics at one moment.
pub(super) struct Reading(Vec<Sample>);

impl Reading {
    pub fn new(samples: Vec<Sample>) -> Reading {
        Reading(samples)
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// The sum of a metric over its labels; `None` if it is missing.
    fn sum(&self, name: &str) -> Option<f64> {
        self.named(name).next()?;
        Some(self.named(name).map(|sample| sample.value).sum())
    }

    fn of(&self, name: &str, label: &str, value: &str) -> f64 {
        self.named(name).find(|it| it.label(label) == Some(value)).map_or(0.0, |it| it.value)
    }

    /// Upper bounds and cumulative counts of a histogram's buckets.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let name = format!("{name}_bucket");
        let buckets = self.named(&name);
        buckets.filter_map(|it| Some((it.label("le")?.parse().ok()?, it.value))).collect()
    }
}

/// The previous reading, and how long ago it was in microseconds.
type Before<'a> = Option<(&'a Reading, u64)>;

/// The screen, at most `columns` wide: 23 lines with 80 columns, about 38 with fewer than 77.
pub(super) fn screen(address: &str, now: &Reading, before: Before<'_>, columns: usize) -> String {
    let (traffic, work) = (traffic(now, before), work(now, before));
    let (presence, store) = (presence(now), store(now));
    let namespaces = namespaces(now, before);
    let rows = match columns {
        BOTH.. => {
            let (left, right) = (format!("{traffic}\n{work}"), format!("{presence}\n{store}"));
            beside(&left, &right) + &namespaces
        }
        NARROWEST.. => narrow(&[traffic, presence, work, store, namespaces].join("\n"), columns),
        _ => "too narrow\n".into(),
    };
    headline(address, now, columns) + &rows
}

/// The lines that fit; the last one says how many are missing.
pub(super) fn cut(text: &str, size: Size) -> String {
    let count = text.lines().count();
    if count <= size.lines {
        return text.into();
    }
    let shown = size.lines.saturating_sub(1);
    let lines = text.lines().take(shown).map(|line| format!("{line}\n"));
    lines.chain([first(&format!("… {} lines more", count - shown), size.columns)]).collect()
}

/// Makes rows fit by dropping their rate, then the end of their label, but never part of a value: a
/// truncated number would be a wrong one.
fn narrow(rows: &str, columns: usize) -> String {
    let row = |line: &str| match columns {
        ROW.. => format!("{line}\n"),
        _ => {
            let label = first(line, LABEL.min(columns - VALUE - 1));
            let value: String = line.chars().skip(LABEL).take(1 + VALUE).collect();
            format!("{}\n", (label + &value).trim_end())
        }
    };
    rows.lines().map(row).collect()
}

fn first(text: &str, count: usize) -> String {
    text.chars().take(count).collect()
}

/// Two blocks side by side.
fn beside(left: &str, right: &str) -> String {
    let (left, right): (Vec<&str>, Vec<&str>) = (left.lines().collect(), right.lines().collect());
    let line = |at: usize| {
        let of = |lines: &[&str]| lines.get(at).copied().unwrap_or_default().to_owned();
        format!("{}\n", format!("{:<LEFT$}{}", of(&left), of(&right)).trim_end())
    };
    (0..left.len().max(right.len())).map(line).collect()
}

fn traffic(now: &Reading, before: Before<'_>) -> String {
    let mut text = row("TRAFFIC", "in all", "a second");
    for (name, label, form) in [
        ("fws_connections_opened_total", "opened", count as fn(f64) -> String),
        ("fws_connections_closed_total", "closed", count),
        ("fws_commands_total", "commands", count),
        ("fws_commands_refused_total", "refused commands", count),
        ("fws_publications_total", "publications", count),
        ("fws_deliveries_total", "deliveries", count),
        ("fws_received_bytes_total", "received", bytes),
        ("fws_sent_bytes_total", "sent", bytes),
    ] {
        let total = now.sum(name).unwrap_or_default();
        let rate = rate(now, before, name).map_or("-".into(), form);
        text += &row(label, &form(total), &rate);
    }
    text + &row("waiting to be sent", &bytes(now.sum("fws_queued_bytes").unwrap_or_default()), "")
}

/// Connections and what they hold.
fn presence(now: &Reading) -> String {
    let mut text = row("CONNECTIONS", "now", "");
    for (kind, label) in [
        ("control", "back ends"),
        ("websocket", "WebSocket"),
        ("sockjs_websocket", "SockJS, WebSocket"),
        ("session", "SockJS, HTTP"),
        ("http", "HTTP connections"),
    ] {
        text += &row(label, &count(now.of("fws_connections", "kind", kind)), "");
    }
    for (name, label) in [
        ("fws_peers", "authenticated"),
        ("fws_users", "users"),
        ("fws_channels", "channels"),
        ("fws_namespaces", "namespaces"),
        ("fws_states", "states"),
    ] {
        text += &row(label, &count(now.sum(name).unwrap_or_default()), "");
    }
    text
}

fn headline(address: &str, now: &Reading, columns: usize) -> String {
    let version = now.named("fws_build_info").find_map(|it| it.label("version"));
    let is_set = |name: &str| now.sum(name).is_some_and(|value| value > 0.0);
    let health = match () {
        () if is_set("fws_draining") => "draining",
        () if is_set("fws_store_failing") => "STORE FAILING",
        () => "ok",
    };
    let fws = format!("fws {} at {address}", printable(version.unwrap_or("?")));
    let line = format!("{fws}: {health}");
    // The health must not be cut off.
    let is_short = line.chars().count() <= columns;
    first(&if is_short { line } else { format!("{health}: {fws}") }, columns) + "\n"
}

/// The event loop and the process.
fn work(now: &Reading, before: Before<'_>) -> String {
    let mut text = String::from("WORK\n");
    for (share, label) in [(0.5, "half of the turns"), (0.99, "99 %"), (0.999, "99.9 %")] {
        text += &row(label, &quantile(now, before, "fws_turn_seconds", share), "");
    }
    if let Some(memory) = now.sum("process_resident_memory_bytes") {
        text += &row("memory", &bytes(memory), "");
    }
    if let Some(fds) = now.sum("process_open_fds") {
        text += &row("descriptors", &count(fds), "");
    }
    if let Some(cpu) = now.sum("process_cpu_seconds_total") {
        let share = rate(now, before, "process_cpu_seconds_total");
        let share = share.map_or("-".into(), |share| format!("{:.0} %", share * 100.0));
        text += &row("processor time", &format!("{cpu:.1} s"), &share);
    }
    text
}

fn store(now: &Reading) -> String {
    let Some(last) = now.sum("fws_store_last_batch_seconds") else { return "NO STORE\n".into() };
    let of = |name| now.sum(name).unwrap_or_default();
    [
        "STORE\n".to_owned(),
        row("batches", &count(of("fws_store_batch_seconds_count")), ""),
        row("the last took", &format!("{:.1} ms", last * 1e3), ""),
        row("not on disk", &count(of("fws_store_pending_changes")), ""),
        row("for", &format!("{:.1} s", of("fws_store_lag_seconds")), ""),
        row("file", &bytes(of("fws_store_file_bytes")), ""),
    ]
    .concat()
}

/// The namespaces with the most deliveries since the last reading, or in total at the first one.
fn namespaces(now: &Reading, before: Before<'_>) -> String {
    let deliveries = "fws_namespace_deliveries_total";
    let mut rows: Vec<(f64, f64, &str)> = now
        .named(deliveries)
        .filter_map(|it| Some((it.label("namespace")?, it.value)))
        .map(|(name, total)| {
            let was = before.map_or(0.0, |(was, _)| was.of(deliveries, "namespace", name));
            ((total - was).max(0.0), total, name)
        })
        .collect();
    rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(b.2)));
    rows.truncate(NAMESPACES);
    if rows.is_empty() {
        return String::new();
    }
    let mut text = row("NAMESPACES", "deliveries", "a second");
    for (since, total, name) in rows {
        let rate = before.filter(|(_, us)| *us > 0);
        let rate = rate.map_or("-".into(), |(_, us)| count(since * 1e6 / us as f64));
        text += &row(&first(&printable(name), LABEL), &count(total), &rate);
    }
    text
}

fn row(label: &str, value: &str, rate: &str) -> String {
    let line = format!("{label:<LABEL$} {value:>VALUE$} {rate:>RATE$}");
    format!("{}\n", line.trim_end())
}

/// Growth of a counter per second; 0 if it has shrunk, as after a restart.
fn rate(now: &Reading, before: Before<'_>, name: &str) -> Option<f64> {
    let (before, us) = before.filter(|(_, us)| *us > 0)?;
    let (total, was) = (now.sum(name)?, before.sum(name)?);
    Some((total - was).max(0.0) * 1e6 / us as f64)
}

/// The upper bound of a quantile since the last reading, or in total at the first one.
fn quantile(now: &Reading, before: Before<'_>, name: &str, share: f64) -> String {
    let mut buckets = now.buckets(name);
    let was = before.map(|(before, _)| before.buckets(name)).unwrap_or_default();
    for (bucket, (_, count)) in buckets.iter_mut().zip(was) {
        bucket.1 -= count;
    }
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    match buckets.iter().find(|(_, count)| total > 0.0 && *count >= total * share) {
        Some((bound, _)) if bound.is_finite() => format!("<= {} ms", bound * 1e3),
        Some(_) => "> 1000 ms".into(),
        None => "-".into(),
    }
}

/// `1234`, `56.7 k`, `8.90 M`: up to four digits.
fn count(value: f64) -> String {
    match value {
        v if v < 10_000.0 && v.fract() == 0.0 => format!("{v}"),
        v if v < 10_000.0 => format!("{v:.1}"),
        v if v < 1e6 => format!("{:.1} k", v / 1e3),
        v if v < 1e9 => format!("{:.2} M", v / 1e6),
        v => format!("{:.2} G", v / 1e9),
    }
}

fn bytes(value: f64) -> String {
    let (kib, mib, gib) = (1024.0, 1024.0 * 1024.0, 1024.0 * 1024.0 * 1024.0);
    match value {
        v if v < kib => format!("{v:.0} B"),
        v if v < mib => format!("{:.1} KiB", v / kib),
        v if v < gib => format!("{:.1} MiB", v / mib),
        v => format!("{:.2} GiB", v / gib),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::prometheus::parse;

    fn reading(text: &str) -> Reading {
        Reading::new(parse(text).unwrap())
    }

    #[test]
    fn rates_and_quantiles_cover_the_time_since_the_last_reading() {
        let text = |deliveries: u32, fast: u32, slow: u32| {
            format!(
                "fws_build_info{{version=\"1.2.3\"}} 1\nfws_draining 0\nfws_store_failing 0\n\
                 fws_connections{{kind=\"websocket\"}} 12345\nfws_deliveries_total {deliveries}\n\
                 fws_turn_seconds_bucket{{le=\"0.0001\"}} {fast}\n\
                 fws_turn_seconds_bucket{{le=\"0.005\"}} {}\n\
                 fws_turn_seconds_bucket{{le=\"+Inf\"}} {}\n\
                 fws_namespace_deliveries_total{{namespace=\"sh\\nop\"}} {deliveries}\n",
                fast + slow,
                fast + slow
            )
        };
        let (before, now) = (reading(&text(100, 50, 0)), reading(&text(1100, 100, 50)));
        let first = screen("here:1", &before, None, 80);
        assert!(first.starts_with("fws 1.2.3 at here:1: ok\nTRAFFIC "), "{first}");
        let assert_has = |text: &str, words: &[&str]| {
            let wanted = words.join(" ");
            let found = text.lines().any(|line| {
                let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
                line.contains(&wanted)
            });
            assert!(found, "{words:?} in\n{text}");
        };
        assert_has(&first, &["WebSocket", "12.3 k"]);
        assert_has(&first, &["deliveries", "100", "-"]);
        assert_has(&first, &["99 %", "<= 0.1 ms"]);
        let second = screen("here:1", &now, Some((&before, 2_000_000)), 80);
        assert_has(&second, &["deliveries", "1100", "500"]);
        assert_has(&second, &["half of the turns", "<= 0.1 ms"]);
        assert_has(&second, &["99 %", "<= 5 ms"]);
        assert_has(&second, &["sh\\nop", "1100", "500"]);
        assert!(second.lines().all(|line| line.chars().count() <= 80));
        assert!(second.lines().count() <= 23);
    }

    #[test]
    fn a_small_window_shows_no_truncated_values() {
        let now = reading(
            "fws_deliveries_total 123456\nfws_connections{kind=\"websocket\"} 12345\n\
             fws_store_last_batch_seconds 0.0015\n\
             fws_namespace_deliveries_total{namespace=\"shop\"} 123456\n",
        );
        let at = "an.address.as.long.as.some:8086";
        for columns in 0..=80 {
            let text = screen(at, &now, Some((&now, 1_000_000)), columns);
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns.max(10), "{columns}: {text}");
            let rows: Vec<Vec<&str>> =
                text.lines().map(|line| line.split_whitespace().collect()).collect();
            let assert_row = |words: &[&str]| {
                assert!(rows.iter().any(|row| row.starts_with(words)), "{columns}: {text}");
            };
            match columns {
                ..20 => assert_row(&["too", "narrow"]),
                20..43 => assert!(rows.iter().any(|row| row.ends_with(&["123.5", "k"])), "{text}"),
                _ => assert_row(&["deliveries", "123.5", "k", "0"]),
            }
            let values = ["12.3 k", "1.5 ms"];
            assert!(columns < 20 || values.iter().all(|it| text.contains(it)), "{columns}: {text}");
        }
        let health = |columns| screen(at, &now, None, columns).lines().next().map(String::from);
        assert_eq!(health(30).unwrap(), "ok: fws ? at an.address.as.lon");
        let text = screen(at, &now, None, 50);
        let low = cut(&text, Size { columns: 50, lines: 10 });
        assert_eq!(low.lines().count(), 10);
        assert_eq!(
            low.lines().last().unwrap(),
            format!("… {} lines more", text.lines().count() - 9)
        );
        assert_eq!(cut(&text, Size { columns: 50, lines: 99 }), text);
        assert_eq!(cut(&text, Size { columns: 5, lines: 1 }), "… 38 ");
    }

    #[test]
    fn the_first_line_states_the_health() {
        let health =
            |text: &str| screen("a", &reading(text), None, 80).lines().next().map(String::from);
        assert_eq!(health("fws_store_failing 1\n").unwrap(), "fws ? at a: STORE FAILING");
        assert_eq!(
            health("fws_store_failing 1\nfws_draining 1\n").unwrap(),
            "fws ? at a: draining"
        );
    }

    #[test]
    fn numbers_are_abbreviated() {
        assert_eq!(
            [0.0, 9999.0, 0.25, 1e4, 2.5e7, 3e12].map(count).join(" "),
            "0 9999 0.2 10.0 k 25.00 M 3000.00 G"
        );
        assert_eq!([0.0, 1024.0, 5e6, 5e9].map(bytes).join(" "), "0 B 1.0 KiB 4.8 MiB 4.66 GiB");
    }
}
