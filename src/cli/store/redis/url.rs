//! The URL of a Redis. Pure.

use std::path::PathBuf;

use super::resp::Target;
use crate::client::Address;

const PORT: u16 = 6379;

/// Parses `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, `unix:///PATH` or
/// `redis+unix:///PATH`; user, password and path may be percent-encoded.
pub(super) fn parse(url: &str) -> Option<Target> {
    let path = url.strip_prefix("unix://").or_else(|| url.strip_prefix("redis+unix://"));
    if let Some(path) = path {
        let path = Some(PathBuf::from(plain(path)?)).filter(|path| path.is_absolute())?;
        let place = Address::Unix(path);
        return Some(Target { place, user: None, password: None, database: 0 });
    }
    let rest = url.strip_prefix("redis://")?;
    let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (who, host) = place.rsplit_once('@').unwrap_or(("", place));
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    let given = |text: &str| match text {
        "" => Some(None),
        text => plain(text).map(Some),
    };
    Some(Target {
        place: Address::Tcp(with_port(host)?),
        user: given(user)?,
        password: given(password)?,
        database: if database.is_empty() { 0 } else { database.parse().ok()? },
    })
}

/// `HOST:PORT`, with the default port if there is none.
fn with_port(text: &str) -> Option<String> {
    let end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, behind) = text.split_at_checked(end)?;
    let port = match behind {
        "" => PORT,
        _ => behind.strip_prefix(':')?.parse().ok()?,
    };
    (!host.is_empty()).then(|| format!("{host}:{port}"))
}

fn plain(text: &str) -> Option<String> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        rest = behind;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        out.push(digit(digits[0])? << 4 | digit(digits[1])?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_and_malformed_ones_refused() {
        for (url, place, database, user, password) in [
            ("redis://localhost", "localhost:6379", 0, None, None),
            ("redis://10.0.0.1:7/2", "10.0.0.1:7", 2, None, None),
            ("redis://:pa%3Ass@h/", "h:6379", 0, None, Some("pa:ss")),
            ("redis://me:p@ss@h:1", "h:1", 0, Some("me"), Some("p@ss")),
            ("redis://[::1]:8", "[::1]:8", 0, None, None),
            ("unix:///run/a%20b.sock", "/run/a b.sock", 0, None, None),
            ("redis+unix:///r", "/r", 0, None, None),
        ] {
            let target = parse(url).unwrap();
            let at = match &target.place {
                Address::Tcp(at) => at.clone(),
                Address::Unix(path) => path.display().to_string(),
                Address::Tls { .. } => unreachable!(),
            };
            assert_eq!((at.as_str(), target.database), (place, database), "{url}");
            let who = (target.user.as_deref(), target.password.as_deref());
            assert_eq!(who, (user, password), "{url}");
        }
        for wrong in [
            "",
            "localhost",
            "redis:",
            "redis://",
            "redis://:6379",
            "redis://h:x",
            "redis://h/x",
            "redis://h/-1",
            "redis://[::1",
            "rediss://h",
            "http://h",
            "unix://r",
            "redis://%zz@h",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
