//! Parses the values of settings, from a flag, the environment or the file.

use std::path::PathBuf;

use super::StoreKind;
use crate::limits::SyncPolicy;

/// Longest path of a unix socket in bytes (`sun_path` of unix(7), less its final zero).
const UNIX_PATH_BYTES: usize = 107;

/// Longest time for which a state may be acknowledged and not on disk.
const SYNC_MS_MAX: u64 = 600_000;

pub(super) fn parse_bool(value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

/// Parses a value of a setting that may be off: the word `none` turns off what a weaker source has
/// set.
pub(super) fn unless_none<T>(
    value: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    (value != "none").then(|| parse(value)).transpose()
}

pub(super) fn parse_store(value: &str) -> Result<StoreKind, String> {
    match value {
        "redb" => Ok(StoreKind::Redb),
        "none" => Ok(StoreKind::None),
        _ => Err(format!("{value:?} is neither redb nor none")),
    }
}

/// Parses `always`, or a time such as `1s` or `250ms`.
pub(super) fn parse_sync(value: &str) -> Result<SyncPolicy, String> {
    if value == "always" {
        return Ok(SyncPolicy::Always);
    }
    let wrong = || format!("{value:?} is neither always nor a time such as 1s or 250ms");
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &value[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = is_number.then(|| digits.parse().ok()).flatten().ok_or_else(wrong)?;
    match number.saturating_mul(unit_ms) {
        ms @ 1..=SYNC_MS_MAX => Ok(SyncPolicy::Every(ms)),
        _ => Err(format!("{value}: a time between 1ms and {}s is needed", SYNC_MS_MAX / 1000)),
    }
}

/// Returns the unit of a limit, if its name ends in one.
pub(super) fn unit(limit: &str) -> &'static str {
    match limit.rsplit_once('_') {
        Some((_, "bytes")) => " of bytes",
        Some((_, "ms")) => " of milliseconds",
        _ => "",
    }
}

pub(super) fn parse_path(value: &str) -> Result<PathBuf, String> {
    match value {
        "" => Err("the path is empty".into()),
        _ if value.starts_with('~') => {
            Err(format!("{value:?}: only a shell writes ~ out, write it in full"))
        }
        _ if value.contains('\0') => Err("a path cannot hold a zero byte".into()),
        _ => Ok(PathBuf::from(value)),
    }
}

pub(super) fn parse_unix_path(value: &str) -> Result<PathBuf, String> {
    if value.len() > UNIX_PATH_BYTES {
        return Err(format!("the path is longer than {UNIX_PATH_BYTES} bytes"));
    }
    parse_path(value)
}
