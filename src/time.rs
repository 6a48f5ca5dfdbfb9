//! Time as plain numbers. Owns the clock; nothing else in the crate may read one.
//!
//! Everything inside the server is told what time it is ([`Now`]), so a simulator can tell it
//! another one. Two scales: [`Millis`] never jumps and serves deadlines; [`UnixMillis`] is the
//! date, and serves what must mean the same after a restart (tokens, the life of a state).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds on the monotonic clock, from an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

/// Milliseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// Months as HTTP writes them, in a year that begins in March.
const MONTHS: [&str; 12] =
    ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];

impl Millis {
    /// The moment `ms` milliseconds later; the far end of time if that overflows.
    pub const fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(ms))
    }

    /// How long from `now` until this moment; zero if it has passed.
    pub fn after(self, now: Millis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0))
    }
}

impl UnixMillis {
    /// The moment `ms` milliseconds later; the far end of time if that overflows.
    pub const fn plus(self, ms: u64) -> UnixMillis {
        UnixMillis(self.0.saturating_add(ms))
    }

    /// Whole seconds since 1970, rounded down, as token claims count them (RFC 7519, 2).
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// `2026-11-23T22:19:08Z` (RFC 3339), for log lines.
    pub fn to_rfc3339(self) -> String {
        let (year, month, day) = self.civil();
        let (hour, minute, second) = self.time_of_day();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// `Sun, 06 Nov 1994 08:49:37 GMT`, as in the HTTP field `Date` (RFC 9110, 5.6.7).
    pub fn to_http_date(self) -> String {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        let (year, month, day) = self.civil();
        let (hour, minute, second) = self.time_of_day();
        let weekday = DAYS[(self.seconds() / 86_400 % 7) as usize];
        let month = MONTHS[(month as usize + 9) % 12];
        format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }

    /// Hour, minute and second.
    const fn time_of_day(self) -> (u64, u64, u64) {
        let second = self.seconds() % 86_400;
        (second / 3600, second / 60 % 60, second % 60)
    }

    /// Year, month and day. Computed in a calendar whose year begins in March: the leap day is then
    /// the last day of the year, and months follow a linear rule.
    const fn civil(self) -> (u64, u64, u64) {
        let shifted = self.seconds() / 86_400 + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        (year_of_era + era * 400 + (month <= 2) as u64, month, day)
    }

    /// Parses what [`UnixMillis::to_http_date`] writes, not the obsolete forms.
    pub fn from_http_date(text: &str) -> Option<UnixMillis> {
        let (_, date) = text.strip_suffix(" GMT")?.split_once(", ")?;
        let mut words = date.split([' ', ':']);
        let day: u64 = words.next()?.parse().ok()?;
        let month = words.next()?;
        let month_from_march = MONTHS.iter().position(|it| *it == month)? as u64;
        let year: u64 = words.next()?.parse().ok()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let (hour, minute, second) = (number()?, number()?, number()?);
        if !(1970..10_000).contains(&year) || day == 0 || day > 31 || second > 60 {
            return None;
        }
        // The reverse of [`UnixMillis::civil`].
        let year = year - u64::from(month_from_march >= 10);
        let (era, year_of_era) = (year / 400, year % 400);
        let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
        let seconds = days * 86_400 + (hour.min(23) * 60 + minute.min(59)) * 60 + second;
        Some(UnixMillis(seconds * 1000))
    }
}

/// One reading of both clocks, the same for everything in one turn of the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub mono: Millis,
    /// For dates.
    pub unix: UnixMillis,
}

/// The two clocks of the machine.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic scale starts now.
    #[allow(clippy::new_without_default)] // reading a clock is no default
    pub fn new() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Reads both clocks. A date before 1970 reads as 1970.
    pub fn now(&self) -> Now {
        self.at(&Stopwatch::start())
    }

    /// The same, if the stopwatch was started just now: it saves one reading.
    pub fn at(&self, watch: &Stopwatch) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mono = watch.0.saturating_duration_since(self.start);
        Now {
            mono: Millis(u64::try_from(mono.as_millis()).unwrap_or(u64::MAX)),
            unix: UnixMillis(u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Measures durations: for counters, and for the reactor, which leaves to the next turn what takes
/// too long. It may decide when something is done, never what is done; only [`Clock::at`] takes the
/// time of its start for that of a turn.
#[derive(Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Microseconds since the start.
    pub fn elapsed_us(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_formatted_as_in_rfc_3339() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_000, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_472_348_999, "2026-11-23T22:19:08Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(UnixMillis(unix).to_rfc3339(), text);
        }
    }

    #[test]
    fn http_dates_are_parsed_and_formatted() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 23:59:59 GMT", Some(951_868_799)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Non 1994 08:49:37 GMT", None),
            ("", None),
        ] {
            let found = UnixMillis::from_http_date(text).map(UnixMillis::seconds);
            assert_eq!(found, seconds, "{text}");
            if let Some(seconds) = seconds {
                assert_eq!(UnixMillis(seconds * 1000 + 999).to_http_date(), text);
            }
        }
    }

    #[test]
    fn time_arithmetic_saturates() {
        assert_eq!(Millis(5).plus(u64::MAX), Millis(u64::MAX));
        assert_eq!(Millis(5).after(Millis(9)), Duration::ZERO);
    }
}
