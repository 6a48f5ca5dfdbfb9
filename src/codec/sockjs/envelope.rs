//! How the HTTP transports wrap SockJS frames, and their preludes. Stateless. No message can break
//! out of a script that a browser runs.

use super::{LARGE, count};

/// The head of an `htmlfile` page, in two parts; the name of the callback goes between them.
const HTMLFILE_HEAD: [&str; 2] = [
    "<!doctype html>\n<html><head>\n  \
     <meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\" />\n  \
     <meta http-equiv=\"Content-Type\" content=\"text/html; charset=UTF-8\" />\n\
     </head><body><h2>Don't panic!</h2>\n  <script>\n    document.domain = document.domain;\n    \
     var c = parent.",
    ";\n    c.start();\n    function p(d) {c.message(d);};\n    \
     window.onload = function() {c.stop();};\n  </script>",
];

/// Old browsers render nothing of a page before this many bytes have arrived.
const HTMLFILE_HEAD_BYTES: usize = 1024;

/// Old browsers pass nothing of a response to scripts before this many bytes have arrived.
const XHR_PRELUDE_BYTES: usize = 2048;

/// The page for transports inside an iframe, in two parts; the URL of the script goes between them.
/// The text is fixed: `sockjs-protocol` compares it.
const IFRAME: [&str; 2] = [
    "<!DOCTYPE html>\n<html>\n<head>\n  \
     <meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\" />\n  \
     <meta http-equiv=\"Content-Type\" content=\"text/html; charset=UTF-8\" />\n  <script src=\"",
    "\"></script>\n  <script>\n    document.domain = document.domain;\n    \
     SockJS.bootstrap_iframe();\n  </script>\n</head>\n<body>\n  <h2>Don't panic!</h2>\n  \
     <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>\n</body>\n</html>",
];

/// The format of a streaming response: one frame after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// `xhr_streaming`: a frame is a line.
    Xhr,
    /// `eventsource`: a frame is an event.
    EventSource,
    /// `htmlfile`: a frame is a script element.
    HtmlFile,
}

impl Envelope {
    /// All formats, in the order of their numbers.
    pub const ALL: [Envelope; 3] = [Envelope::Xhr, Envelope::EventSource, Envelope::HtmlFile];

    /// Returns the `Content-Type` of the response.
    pub const fn content_type(self) -> &'static str {
        match self {
            Envelope::Xhr => "application/javascript; charset=UTF-8",
            // Browsers accept no other type; it is always UTF-8.
            Envelope::EventSource => "text/event-stream",
            Envelope::HtmlFile => "text/html; charset=UTF-8",
        }
    }

    /// Appends what precedes the first frame. `callback` has been validated ([`parse_callback`])
    /// and is used by `htmlfile` only.
    pub fn prelude_into(self, out: &mut Vec<u8>, callback: &str) {
        match self {
            Envelope::Xhr => {
                out.resize(out.len() + XHR_PRELUDE_BYTES, b'h');
                out.push(b'\n');
            }
            Envelope::EventSource => out.extend_from_slice(b"\r\n"),
            Envelope::HtmlFile => {
                let start = out.len();
                for part in [HTMLFILE_HEAD[0], callback, HTMLFILE_HEAD[1]] {
                    out.extend_from_slice(part.as_bytes());
                }
                let end = out.len().max(start + HTMLFILE_HEAD_BYTES);
                out.resize(end, b' ');
                out.extend_from_slice(b"\r\n\r\n");
            }
        }
    }

    /// Appends a SockJS frame in its envelope. The frame may come in parts; none may end inside a
    /// character.
    pub fn frame_into<'a>(self, out: &mut Vec<u8>, frame: &[&'a [u8]]) {
        match self {
            Envelope::Xhr => {
                frame.iter().for_each(|part| out.extend_from_slice(part));
                out.push(b'\n');
            }
            Envelope::EventSource => {
                out.extend_from_slice(b"data: ");
                for part in frame.iter().filter(|part| part.len() > LARGE) {
                    out.reserve_exact(part.len() + 2 * count(part, |byte| byte == b'%') + 8);
                }
                // The client decodes percent escapes in every event. Frames contain no line breaks.
                let pieces = |part: &&'a [u8]| part.split_inclusive(|byte| *byte == b'%');
                for piece in frame.iter().flat_map(pieces) {
                    out.extend_from_slice(piece);
                    if piece.ends_with(b"%") {
                        out.extend_from_slice(b"25");
                    }
                }
                out.extend_from_slice(b"\r\n\r\n");
            }
            Envelope::HtmlFile => {
                out.extend_from_slice(b"<script>\np(");
                script_string_into(out, frame);
                out.extend_from_slice(b");\n</script>\r\n");
            }
        }
    }
}

/// Appends a frame as `jsonp` expects it: a call of the callback, which has been validated
/// ([`parse_callback`]). The comment in front prevents the callback name from being taken for the
/// signature of another file type.
pub fn jsonp_into(out: &mut Vec<u8>, callback: &str, frame: &[&[u8]]) {
    out.extend_from_slice(b"/**/");
    out.extend_from_slice(callback.as_bytes());
    out.push(b'(');
    script_string_into(out, frame);
    out.extend_from_slice(b");\r\n");
}

/// Appends a frame as a string in a script inside HTML. `<`, `>` and `&` are special in the HTML
/// around the script, and U+2028 and U+2029 end a line of the script; all are escaped.
fn script_string_into(out: &mut Vec<u8>, frame: &[&[u8]]) {
    out.push(b'"');
    frame.iter().for_each(|part| script_part_into(out, part));
    out.push(b'"');
}

fn script_part_into(out: &mut Vec<u8>, part: &[u8]) {
    if part.len() > LARGE {
        let quotes = count(part, |byte| matches!(byte, b'"' | b'\\'));
        let marks = count(part, |byte| matches!(byte, b'<' | b'>' | b'&' | 0..0x20));
        let threes = count(part, |byte| byte == 0xE2);
        out.reserve_exact(part.len() + quotes + 5 * marks + 3 * threes + 16);
    }
    let mut rest = part;
    let is_special =
        |byte: &u8| matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0..0x20) || *byte == 0xE2;
    while let Some(at) = rest.iter().position(is_special) {
        out.extend_from_slice(&rest[..at]);
        let (escaped, count): (&[u8], usize) = match &rest[at..] {
            [b'"', ..] => (b"\\\"", 1),
            [b'\\', ..] => (b"\\\\", 1),
            [b'<', ..] => (b"\\u003c", 1),
            [b'>', ..] => (b"\\u003e", 1),
            [b'&', ..] => (b"\\u0026", 1),
            [0xE2, 0x80, 0xA8, ..] => (b"\\u2028", 3),
            [0xE2, 0x80, 0xA9, ..] => (b"\\u2029", 3),
            [0xE2, ..] => (&[0xE2], 1),
            [byte, ..] => {
                out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                (b"", 1)
            }
            [] => break,
        };
        out.extend_from_slice(escaped);
        rest = &rest[at + count..];
    }
    out.extend_from_slice(rest);
}

/// Why a query has no usable callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackError {
    /// The query has none.
    Missing,
    /// It has characters outside `a-zA-Z0-9-_.`.
    Invalid,
}

impl CallbackError {
    /// Returns the body of the 500 response.
    pub const fn text(self) -> &'static str {
        match self {
            CallbackError::Missing => "\"callback\" parameter required",
            CallbackError::Invalid => "invalid \"callback\" parameter",
        }
    }
}

/// Returns the callback name in a query, `c=NAME` or `callback=NAME`: it goes into a script.
///
/// # Errors
/// [`CallbackError`].
pub fn parse_callback(query: Option<&str>) -> Result<String, CallbackError> {
    let query = query.unwrap_or_default().as_bytes();
    let found = form_field(query, b"c").filter(|name| !name.is_empty());
    let name = found.or_else(|| form_field(query, b"callback")).unwrap_or_default();
    if name.is_empty() {
        return Err(CallbackError::Missing);
    }
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if !name.iter().all(is_allowed) {
        return Err(CallbackError::Invalid);
    }
    // The name is ASCII only.
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Returns the first field with this name in a form (`application/x-www-form-urlencoded`), decoded;
/// `None` if there is none. A `%` not followed by two hexadecimal digits stands for itself.
pub fn form_field(form: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut fields = form.split(|byte| *byte == b'&');
    fields.find_map(|field| {
        let value = field.strip_prefix(name)?.strip_prefix(b"=")?;
        let mut out = Vec::with_capacity(value.len());
        let mut rest = value;
        while let Some((first, behind)) = rest.split_first() {
            let digit = |byte: &u8| (*byte as char).to_digit(16);
            let decoded = match (first, behind) {
                (b'%', [high, low, ..]) => digit(high).zip(digit(low)),
                _ => None,
            };
            (rest, _) = match decoded {
                Some((high, low)) => (&behind[2..], out.push((high << 4 | low) as u8)),
                None if *first == b'+' => (behind, out.push(b' ')),
                None => (behind, out.push(*first)),
            };
        }
        Some(out)
    })
}

/// Returns the page for transports inside an iframe. `script` is a URL that needs no escaping
/// inside quotes.
pub fn iframe_page(script: &str) -> String {
    [IFRAME[0], script, IFRAME[1]].concat()
}

#[cfg(test)]
mod tests {
    use super::super::{EncodedLen, escape_into};
    use super::*;

    fn wrapped(envelope: Envelope, frame: &str) -> String {
        let mut out = Vec::new();
        envelope.frame_into(&mut out, &[frame.as_bytes()]);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_counted_length_is_the_encoded_length() {
        let messages = [
            String::new(),
            "plain".repeat(100),
            "\"\\".repeat(300),
            "<&>%".repeat(300),
            "\u{fffd}\u{2028}\u{ffff}".repeat(300),
            "😀".repeat(300),
            "é".repeat(300),
        ];
        for message in messages {
            let (mut string, mut event, mut script) = (Vec::new(), Vec::new(), Vec::new());
            escape_into(&mut string, &message);
            Envelope::EventSource.frame_into(&mut event, &[&string]);
            script_part_into(&mut script, &string[1..string.len() - 1]);
            let written = EncodedLen::of(&message);
            assert_eq!(written.string + 2, string.len(), "{message}");
            assert_eq!(written.event + 2 + b"data: \r\n\r\n".len(), event.len(), "{message}");
            assert_eq!(written.script, script.len(), "{message}");
            assert!(written.script <= EncodedLen::FACTOR_MAX * message.len());
        }
        // Control characters are counted as the longest of their escapes.
        assert_eq!(EncodedLen::of("\n\u{1f}").script, 14);
    }

    #[test]
    fn frames_are_wrapped_for_each_transport() {
        let frame = r#"a["%20\n"]"#;
        assert_eq!(wrapped(Envelope::Xhr, frame), "a[\"%20\\n\"]\n");
        assert_eq!(wrapped(Envelope::EventSource, frame), "data: a[\"%2520\\n\"]\r\n\r\n");
        assert_eq!(wrapped(Envelope::EventSource, "%%"), "data: %25%25\r\n\r\n");
        let script = "<script>\np(\"a[\\\"%20\\\\n\\\"]\");\n</script>\r\n";
        assert_eq!(wrapped(Envelope::HtmlFile, frame), script);
        let mut out = Vec::new();
        jsonp_into(&mut out, "cb", &[frame.as_bytes()]);
        assert_eq!(out, b"/**/cb(\"a[\\\"%20\\\\n\\\"]\");\r\n");
    }

    #[test]
    fn frames_cannot_break_out_of_a_script() {
        let frame = "a[\"</script><!--&amp;\u{2028}\u{2029}\u{20ac}\u{e9}\n\0\"]";
        let mut out = Vec::new();
        script_string_into(&mut out, &[frame.as_bytes()]);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\n', '\0']), "{text}");
        assert!(text.contains("\\u003c/script\\u003e\\u003c!--\\u0026amp;\\u2028\\u2029\u{20ac}"));
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), frame);
    }

    #[test]
    fn preludes_are_long_enough_for_old_browsers() {
        for envelope in Envelope::ALL {
            let mut out = Vec::new();
            envelope.prelude_into(&mut out, "callback");
            let least = match envelope {
                Envelope::Xhr => 2049,
                Envelope::EventSource => 2,
                Envelope::HtmlFile => 1025,
            };
            assert!(out.len() >= least && out.ends_with(b"\n"));
        }
    }

    #[test]
    fn callback_parameters_must_be_names() {
        for (query, name) in [
            ("c=cb", Ok("cb")),
            ("x=1&c=%63allback&y", Ok("callback")),
            ("callback=a.b-c_D9", Ok("a.b-c_D9")),
            ("c=&callback=x", Ok("x")),
            ("", Err(CallbackError::Missing)),
            ("cc=x", Err(CallbackError::Missing)),
            ("c=", Err(CallbackError::Missing)),
            ("c=%20", Err(CallbackError::Invalid)),
            ("c=abc(", Err(CallbackError::Invalid)),
            ("c=a+b", Err(CallbackError::Invalid)),
            ("c=%", Err(CallbackError::Invalid)),
            ("c=%E9", Err(CallbackError::Invalid)),
        ] {
            assert_eq!(parse_callback(Some(query)), name.map(str::to_owned), "{query}");
        }
        assert_eq!(parse_callback(None), Err(CallbackError::Missing));
    }

    #[test]
    fn form_fields_are_decoded() {
        let field = |form: &str| form_field(form.as_bytes(), b"d").map(|v| v.len());
        assert_eq!(form_field(b"p=p&d=%5B%22x+%2B%22%5D", b"d").unwrap(), b"[\"x +\"]");
        assert_eq!(form_field(b"d=%zz%4", b"d").unwrap(), b"%zz%4");
        assert_eq!((field("d="), field("p=p"), field(""), field("d")), (Some(0), None, None, None));
    }
}
