//! Origins ("sites"), as browsers write them in `Origin`. They are compared byte by byte, so one
//! that no browser would write is an error here, rather than one that can never connect.

use std::net::Ipv6Addr;

/// Parses one or more, separated by commas or white space.
///
/// # Errors
/// An origin that no browser would write.
pub fn parse_all(text: &str) -> Result<Vec<String>, String> {
    let words = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
    words.map(|word| parse(word).map(|()| word.to_owned())).collect()
}

/// Checks that a page may have this origin. Browsers write `null` for a page that has none.
///
/// # Errors
/// An origin that no browser would write.
pub fn check_page(text: &str) -> Result<(), String> {
    if text == "null" { Ok(()) } else { parse(text) }
}

fn parse(text: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{text:?} {what}"));
    if text == "*" {
        return wrong("is no site: pages of any may connect when none is named");
    }
    if text == "null" {
        return wrong(
            "is no site: browsers send it for any page that is sandboxed or opened from a file, \
             so it would let in everybody's. Give the page an origin (allow-same-origin)",
        );
    }
    let Some((scheme, place)) = text.split_once("://").filter(|(scheme, _)| !scheme.is_empty())
    else {
        return wrong("is not written as browsers do, as in https://shop.example");
    };
    if place.is_empty() || place.contains(['/', '?', '#', '@', '*', '"', '\\']) {
        return wrong("must be a scheme, a host and perhaps a port, as in https://shop.example");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()) {
        return wrong("must be in lower case, and a name in other letters as xn--…");
    }
    if !is_usual_place(place) {
        return wrong("has a port or an IPv6 address that is not written as browsers do");
    }
    let is_usual = |scheme_: &str, port: &str| scheme == scheme_ && place.ends_with(port);
    if is_usual("https", ":443") || is_usual("http", ":80") {
        return wrong("must be written without the usual port, as browsers do");
    }
    Ok(())
}

/// Whether an IPv6 address, and the port if there is one, are as browsers write them.
fn is_usual_place(place: &str) -> bool {
    let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((ip, port))) if is_usual_ip(ip) => (ip, port),
        Some(_) => return false,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let is_number = |text: &str| text.parse::<u16>().is_ok_and(|port| port.to_string() == text);
    !host.is_empty() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_number))
}

/// Whether browsers write that address so: short, and all of it in hexadecimal digits.
fn is_usual_ip(text: &str) -> bool {
    let is_short = |ip: Ipv6Addr| ip.to_string() == text || ip.to_ipv4_mapped().is_some();
    !text.contains('.') && text.parse().is_ok_and(is_short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_that_no_browser_sends_are_refused() {
        let good =
            "https://shop.example, http://localhost:3000 capacitor://localhost\nhttp://[::1]";
        assert_eq!(parse_all(good).unwrap().len(), 4);
        assert_eq!(parse_all(" "), Ok(Vec::new()));
        assert_eq!(check_page("null").and_then(|()| check_page("https://shop.example")), Ok(()));
        assert!(check_page("shop.example").is_err() && check_page("").is_err());
        for (text, part) in [
            ("*", "any may connect"),
            ("null", "would let in everybody's"),
            ("https://shop.example null", "would let in everybody's"),
            ("shop.example", "as browsers do"),
            ("https://", "a host"),
            ("https://shop.example/", "a host"),
            ("https://*.shop.example", "a host"),
            ("https://Shop.example", "lower case"),
            ("https://sh\u{f6}p.example", "xn--"),
            ("https://shop.example:443", "usual port"),
            ("http://shop.example:80", "usual port"),
            ("https://[::1]:443", "usual port"),
            ("https://[0:0::1]", "IPv6 address"),
            ("https://[abc]", "IPv6 address"),
            ("https://[::ffff:1.2.3.4]", "IPv6 address"),
            ("https://shop.example:", "has a port"),
            ("https://shop.example:0443", "has a port"),
            ("https://shop.example:65536", "has a port"),
            ("https://shop.example:+44", "has a port"),
            ("https://::1", "IPv6 address"),
            ("https://[::1", "IPv6 address"),
            ("https://[::1]x", "has a port"),
            ("https://:444", "has a port"),
        ] {
            let error = parse_all(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
