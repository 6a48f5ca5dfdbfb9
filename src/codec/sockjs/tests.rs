//! Tests of the paths, frames and headers of SockJS.

use super::*;
use crate::codec::http::{HeadBounds, HttpError};

fn parse_head(input: &[u8]) -> Result<Head<'_>, HttpError> {
    let bounds = HeadBounds { headers: 64, target_bytes: 2048 };
    crate::codec::http::parse_head(input, Box::leak(Box::default()), &bounds)
}

fn route(path: &str) -> Route<'_> {
    route_under(PREFIX, path)
}

fn escaped(message: &str) -> String {
    let mut out = Vec::new();
    escape_into(&mut out, message);
    String::from_utf8(out).unwrap()
}

fn messages(text: &str) -> Result<Vec<String>, Broken> {
    Ok(parse_messages(text)?.map(Cow::into_owned).collect())
}

#[test]
fn request_paths_are_routed() {
    for (path, expected) in [
        ("", Route::Greeting),
        ("/", Route::Greeting),
        ("/info", Route::Info),
        ("/info/", Route::Info),
        ("/websocket", Route::RawWebSocket),
        ("/websocket/", Route::RawWebSocket),
        ("/chunking_test", Route::ChunkingTest),
        ("/iframe.html", Route::Iframe),
        ("/iframe-1.0.3.html", Route::Iframe),
        ("/iframe-0.1.2-dev_x.html/", Route::Iframe),
    ] {
        assert_eq!(route(&format!("/socket{path}")), expected, "{path}");
        assert_eq!(route_under("/echo", &format!("/echo{path}")), expected, "{path}");
    }
    let nowhere = [
        "X",
        "x/info",
        "//",
        "///",
        "/./.",
        "/a./a",
        "/a/a.",
        "/nope",
        "/info//",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/",
        "/a/b/nope",
        "/a.b/c/xhr",
        "/a/c.d/xhr",
        "/a//xhr",
        "//b/xhr",
        "/a/b/xhr//",
        "/a/b/c/xhr",
        "/a/b/XHR",
        "/iframe.htm",
        "/iframe",
        "/IFRAME.HTML",
        "/iframe.HTML",
        "/iframe.xml",
        "/iframe-/.html",
        "/iframe-A.html",
        "/Info",
    ];
    for path in nowhere {
        assert_eq!(route(&format!("/socket{path}")), Route::NotFound, "{path}");
    }
    for path in ["/", "", "socket", "/Socket", "/sock", "*", "/a/socket/info"] {
        assert_eq!(route(path), Route::NotFound, "{path}");
    }
}

#[test]
fn session_paths_have_a_server_a_session_and_a_transport() {
    for (name, transport) in [
        ("websocket", Transport::WebSocket),
        ("xhr", Transport::Xhr),
        ("xhr_streaming", Transport::XhrStreaming),
        ("xhr_send", Transport::XhrSend),
        ("eventsource", Transport::EventSource),
        ("htmlfile", Transport::HtmlFile),
        ("jsonp", Transport::Jsonp),
        ("jsonp_send", Transport::JsonpSend),
    ] {
        let expected = Route::Session { server: "123", session: "%20_a", transport };
        assert_eq!(route(&format!("/socket/123/%20_a/{name}")), expected);
        assert_eq!(route(&format!("/socket/123/%20_a/{name}/")), expected);
    }
}

#[test]
fn messages_are_escaped_as_by_the_original_server() {
    // The case deliver.sockjs of the recorded transcripts.
    let message =
        r#"{"event":"sj","data":{"t":"é☃😀"#.to_owned() + "\u{2028}\u{200c}" + r#"\"\\"}}"#;
    let mut out = Vec::new();
    message_into(&mut out, &message);
    let expected =
        r#"a["{\"event\":\"sj\",\"data\":{\"t\":\"é☃\ud83d\ude00\u2028\u200c\\\"\\\\\"}}"]"#;
    assert_eq!(String::from_utf8(out).unwrap(), expected);

    assert_eq!(escaped(""), r#""""#);
    assert_eq!(escaped("plain / text\u{7f}"), "\"plain / text\u{7f}\"");
    assert_eq!(escaped("\0\u{1}\u{8}\t\n\u{b}\u{c}\r\u{1f}"), {
        r#""\u0000\u0001\b\t\n\u000b\f\r\u001f""#
    });
    assert_eq!(escaped("\u{fff0}\u{ffff}\u{10000}\u{10ffff}"), {
        r#""\ufff0\uffff\ud800\udc00\udbff\udfff""#
    });
}

#[test]
fn exactly_the_characters_of_some_ranges_are_escaped() {
    for character in '\0'..=char::MAX {
        let text = character.to_string();
        let found = escaped(&text);
        assert_eq!(from_str::<String>(&found).unwrap(), text);
        let must = matches!(character, '\0'..='\u{1f}' | '"' | '\\' | '\u{200c}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}' | '\u{fff0}'..);
        assert_eq!(found.contains('\\'), must, "{:x}", character as u32);
        assert!(must || found == format!("\"{text}\""));
        assert!(!must || !found.contains(char::is_uppercase), "{found}");
    }
}

#[test]
fn close_frames_have_a_code_and_a_reason() {
    assert_eq!(close_text(3000, "Go away!"), r#"c[3000,"Go away!"]"#);
    assert_eq!(close_text(3002, "a \"b\" é\u{2028}"), "c[3002,\"a \\\"b\\\" é\\u2028\"]");
}

#[test]
fn clients_send_one_string_or_an_array_of_strings() {
    let strings = |list: &[&str]| Ok(list.iter().map(|text| text.to_string()).collect());
    for (text, expected) in [
        ("", strings(&[])),
        ("[]", strings(&[])),
        (r#"["a"]"#, strings(&["a"])),
        (r#""a""#, strings(&["a"])),
        (r#" [ "a" , "b,]" , "" ] "#, strings(&["a", "b,]", ""])),
        (r#"["\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"]"#, strings(&["\"\\/\u{8}\u{c}\n\r\té😀"])),
        (r#"["é☃😀"]"#, strings(&["é☃😀"])),
        // Silently ignored: the cases array_of_objects, number and object of the transcripts.
        (r#"[{"event":"auth"}]"#, strings(&[])),
        (r#"[1,"a",null,["x"],{"y":"]"},true,-1e999,"b"]"#, strings(&["a", "b"])),
        ("5", strings(&[])),
        ("{}", strings(&[])),
        ("null", strings(&[])),
        // The case not_json.
        ("hello", Err(Broken)),
        (" ", Err(Broken)),
        (r#"["a"#, Err(Broken)),
        (r#"["a",]"#, Err(Broken)),
        (r#"[,"a"]"#, Err(Broken)),
        (r#"["a" "b"]"#, Err(Broken)),
        (r#"["a"]]"#, Err(Broken)),
        (r#""a" "b""#, Err(Broken)),
        ("[\"a\nb\"]", Err(Broken)),
        (r#"["\x41"]"#, Err(Broken)),
    ] {
        assert_eq!(messages(text), expected, "{text}");
    }
    let deep = format!("[{}{},\"a\"]", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(messages(&deep), strings(&["a"]));
}

#[test]
fn messages_without_escapes_are_not_copied() {
    let text = r#"["no escape", "an \"escape\""]"#;
    let found: Vec<_> = parse_messages(text).unwrap().collect();
    assert!(matches!(found[0], Cow::Borrowed("no escape")));
    assert!(matches!(&found[1], Cow::Owned(text) if text == "an \"escape\""));
}

#[test]
fn lone_surrogates_become_replacement_characters() {
    for (text, expected) in [
        (r#"["\ud800"]"#, "\u{fffd}"),
        (r#"["é\udc00\ud83dx\ud83d\ude00\ud7ff"]"#, "é\u{fffd}\u{fffd}x😀\u{d7ff}"),
        (r#"["\ud800\ud800\udc00"]"#, "\u{fffd}\u{10000}"),
        (r#"["\ud800\n"]"#, "\u{fffd}\n"),
    ] {
        assert_eq!(messages(text), Ok(vec![expected.to_owned()]), "{text}");
    }
}

#[test]
fn the_info_response_has_the_fields_that_clients_expect() {
    assert_eq!(
        info_body(u32::MAX, true, false),
        r#"{"websocket":true,"origins":["*:*"],"cookie_needed":false,"entropy":4294967295}"#
    );
    assert!(info_body(0, false, true).starts_with(r#"{"websocket":false,"#));
}

#[test]
fn responses_have_the_headers_of_the_original_server() {
    let encode = |response: Response| String::from_utf8(response.encode(None).to_vec()).unwrap();
    let plain = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let answer = encode(allow_origin(never_cached(Response::new(200)), &plain));
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\n\
         Cache-Control: no-store, no-cache, no-transform, must-revalidate, max-age=0\r\n\
         Access-Control-Allow-Origin: *\r\nVary: Origin\r\nContent-Length: 0\r\n\r\n"
    );
    let asked = parse_head(
        b"OPTIONS /socket/info HTTP/1.1\r\nHost: a\r\nOrigin: null\r\n\
          Access-Control-Request-Headers: x-one, x-two\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        encode(preflight(&asked, "OPTIONS, GET")),
        "HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: null\r\n\
         Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n\
         Access-Control-Allow-Headers: x-one, x-two\r\n\
         Cache-Control: public, max-age=31536000\r\nExpires: Thu, 31 Dec 2037 23:55:55 GMT\r\n\
         Access-Control-Allow-Methods: OPTIONS, GET\r\nAccess-Control-Max-Age: 31536000\r\n\r\n"
    );
    let empty = b"GET / HTTP/1.1\r\nHost: a\r\nAccess-Control-Request-Headers:\r\n\r\n";
    let answer = encode(allow_origin(Response::new(200), &parse_head(empty).unwrap()));
    assert!(!answer.contains("Allow-Headers"));
    // Only a preflight echoes any number of headers: other responses may be queued.
    for (bytes, is_short) in [(ECHO_BYTES, true), (ECHO_BYTES + 1, false)] {
        let names = "x".repeat(bytes);
        for (method, is_echoed) in [("OPTIONS", true), ("POST", is_short)] {
            let head = format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nAccess-Control-Request-Headers: {names}\r\n\r\n"
            );
            let head = parse_head(head.as_bytes()).unwrap();
            let answer = encode(allow_origin(Response::new(200), &head));
            assert_eq!(answer.contains(&format!("Allow-Headers: {names}\r\n")), is_echoed);
        }
    }
}

#[test]
fn the_fuzz_target_passes_on_random_texts() {
    let pieces = ["[", "]", "\"", "a", "\\", ",", " ", "1", "{}", "\\u", "d83d", "é😀", "null"];
    let mut seed = 3u32;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..seed % 9 + 1 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.push_str(pieces[(seed >> 8) as usize % pieces.len()]);
        }
        fuzz_messages(text.as_bytes());
    }
    fuzz_messages(r#"["\ud800",[1],"x"]"#.as_bytes());
}
