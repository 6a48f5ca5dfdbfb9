//! Parsing of requests, and refusals.

use super::*;

fn refusal(body: &str, is_authenticated: bool) -> (u16, String) {
    match parse(body, None, is_authenticated, &Limits::default()) {
        Err(refused) => (refused.code, refused.reason.into_owned()),
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn checks_run_in_the_order_of_the_reference() {
    for (body, is_authenticated, code, reason) in [
        ("5", true, 300, "Need action"),
        ("null", true, 300, "Need action"),
        (r#"{"action":["get"]}"#, true, 312, "Invalid action..."),
        (r#"{"action":"nope"}"#, false, 312, "Invalid action..."),
        (r#"{"action":"get"}"#, false, 311, "Need auth"),
        (r#"{"action":"emit"}"#, true, 300, "Need argument channel"),
        (r#"{"action":"emit","channel":"c"}"#, true, 300, "Need argument data"),
        (r#"{"action":"subscribe","channel":"c"}"#, true, 343, "Private channel must begin with #"),
        (r##"{"action":"subscribe","channel":"#c"}"##, true, 300, "Need argument params"),
        (
            r##"{"action":"subscribe","channel":"#c","params":{}}"##,
            true,
            300,
            "Need argument params.userId",
        ),
        (r#"{"action":"registerNameSpace","key":"k"}"#, false, 300, "Need name"),
        (r#"{"action":"registerNameSpace","name":"n"}"#, false, 300, "Need key"),
        (r#"{"action":"registerNameSpace","name":"n","key":["k"]}"#, false, 306, "Invalid key"),
        (r#"{"action":"auth","sKey":"k"}"#, false, 300, "Need name - name space"),
        (r#"{"action":"auth","name":"n"}"#, false, 300, "Need sKey - secret key"),
        (
            r#"{"action":"emit","channel":"c","data":1,"params":{"userId":0}}"#,
            true,
            300,
            "Invalid argument params.userId",
        ),
        (
            r#"{"action":"set","channel":"c","data":1,"params":{"ttl":1.5}}"#,
            true,
            300,
            "Invalid argument params.ttl",
        ),
    ] {
        assert_eq!(refusal(body, is_authenticated), (code, reason.to_string()), "{body}");
    }
    assert_eq!(parse("{", None, true, &Limits::default()), Err(NOT_JSON));
}

#[test]
fn a_field_is_found_however_its_key_is_written() {
    let get = |channel: &'static str| Ok(Command::Get { channel: channel.into(), user: None });
    for body in [
        r#"{"action":"get","channel":"c","params":{}}"#,
        r#" { "action" : "get" , "channel" : "c" } "#,
        r#"{"\u0061ction":"get","chann\u0065l":"c"}"#,
        r#"{"action":"set","channel":"d","action":"get", "channel":"c"}"#,
        r#"{"channel" :"d","channel":"c","actio":"set","\ud800":1,"":2,"action":"get"}"#,
    ] {
        assert_eq!(parse(body, None, true, &Limits::default()), get("c"), "{body}");
    }
    for body in [
        r#"{"action":"get","channel":"c",}"#,
        r#"{,"action":"get","channel":"c"}"#,
        r#"{"action":"get""channel":"c"}"#,
        r#"{"action":"get","channel":}"#,
        r#"{"action":"get","channel":"#,
        r#"{"action":"get"} {}"#,
        r#"{"action":"#,
        r#"{"action""#,
        "{",
    ] {
        assert_eq!(parse(body, None, true, &Limits::default()), Err(NOT_JSON), "{body}");
    }
}

#[test]
fn the_last_of_duplicate_params_counts() {
    let get = |user: Option<&'static str>| {
        Ok(Command::Get { channel: "c".into(), user: user.map(Into::into) })
    };
    for (params, expected) in [
        (r#""params":{"userId":"a"}"#, get(Some("a"))),
        (r#""params":{"userId":"a","x":[{}],"userId":"b"}"#, get(Some("b"))),
        (r#""params" : { "x":{"userId":"b"} , "user\u0049d" : 5 } "#, get(Some("5"))),
        (r#""params":{"userId":"a"},"params":{"ttl":5}"#, get(None)),
        (r#""params":{"userId":"a"},"params":{}"#, get(None)),
        (r#""params":{"userId":"a"},"param\u0073":["userId"]"#, get(None)),
        (r#""params":5,"param\u0073":{"userId":"a"}"#, get(Some("a"))),
        (r#""params":{"userId":"a"},"params":{"userId":"b""#, Err(NOT_JSON)),
        (r#""params":{"userId":"a",}"#, Err(NOT_JSON)),
        (r#""params":{"userId":"a"}}"#, Err(NOT_JSON)),
        (r#""params":{}}"#, Err(NOT_JSON)),
        (r#""params":{"#, Err(NOT_JSON)),
        (r#""params":"#, Err(NOT_JSON)),
    ] {
        let body = format!(r#"{{"action":"get",{params},"channel":"c"}}"#);
        let mut scanner = scanner();
        scanner.read(body.as_bytes());
        for scanner in [None, Some(&scanner)] {
            let found = parse(&body, scanner, true, &Limits::default());
            assert_eq!(found, expected, "{body}");
        }
    }
    for (depth, is_refused) in [(62, false), (63, true)] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let body = format!(r#"{{"action":"ping","params":{{"x":{open}{close}}}}}"#);
        let found = parse(&body, None, true, &Limits::default());
        assert_eq!(found.is_err(), is_refused, "{depth}");
    }
}

#[test]
fn a_large_request_parses_the_same_however_it_is_fragmented() {
    let data = format!("[{}1]", "[\"\\n\",-0.5e7,{\"a\":null}],".repeat(1000));
    for body in [
        format!(r#"{{"action":"emit","channel":"c","data":{data},"params":{{"count":1}}}}"#),
        format!(r#" {{"data":{data},"\u0061ction":"get","channel" : 5 , "action":"set"}} "#),
        format!(r#"{{"action":"emit","channel":"c","data":{data}"#),
        format!(r#"{{"action":"emit","channel":"c","data":{data}}}]"#),
        format!("{}1{}", "[".repeat(65), "]".repeat(65)),
        data,
    ] {
        let limits = Limits::default();
        let whole = parse(&body, None, true, &limits);
        for piece in [1, 1000, 65_536] {
            let mut scanner = scanner();
            for end in (0..body.len()).step_by(piece).chain([body.len()]) {
                scanner.read(&body.as_bytes()[..end]);
            }
            assert_eq!(parse(&body, Some(&scanner), true, &limits), whole);
        }
    }
}

#[test]
fn overlong_fields_are_refused() {
    let long = "x".repeat(FIELD_BYTES);
    for (field, max) in [
        ("channel", 255),
        ("name", 255),
        ("userId", 255),
        ("key", FIELD_BYTES),
        ("sKey", FIELD_BYTES),
        ("params", FIELD_BYTES),
    ] {
        let body = format!(r#"{{"action":"emit","data":1,"{field}":"{long}"}}"#);
        let refused = parse(&body, None, true, &Limits::default()).unwrap_err();
        assert_eq!(refused.reason, format!("Argument {field} is too long, at most {max} bytes"));
    }
    let channels = "5,".repeat(FIELD_BYTES);
    let body = format!(r#"{{"action":"emit","data":1,"channels":[{channels}{{}}]}}"#);
    let refused = parse(&body, None, true, &Limits::default()).unwrap_err();
    assert_eq!(refused.reason, "Too many channels, at most 1000");
}

#[test]
fn params_that_are_no_object_are_empty() {
    for params in ["null", "[]", "\"x\"", "5", "{}"] {
        let body = format!(r#"{{"action":"get","channel":5,"params":{params}}}"#);
        let command = parse(&body, None, true, &Limits::default()).unwrap();
        assert_eq!(command, Command::Get { channel: "5".into(), user: None });
    }
}

#[test]
fn seconds_are_whole_and_bounded() {
    for (raw, ms) in [
        ("null", Ok(None)),
        ("0", Ok(None)),
        ("\"\"", Ok(None)),
        ("\"0\"", Ok(None)),
        ("\"10\"", Ok(Some(10_000))),
        ("10", Ok(Some(10_000))),
        ("-1", Err(())),
        ("true", Err(())),
        ("[10]", Err(())),
        ("101", Err(())),
        ("1e300", Err(())),
    ] {
        assert_eq!(seconds(Some(raw.into()), "t", 100).map_err(|_| ()), ms, "{raw}");
    }
}

#[test]
fn the_total_bytes_of_an_emit_to_many_channels_are_bounded() {
    let emit = |channels: usize, bytes: usize| {
        let channels: Vec<String> = (0..channels).map(|number| format!("c{number}")).collect();
        let data = "x".repeat(bytes - 2);
        let body = serde_json::json!({"action": "emit", "channels": channels, "data": data});
        parse(&body.to_string(), None, true, &Limits::default()).map(|_| ())
    };
    let max = Limits::default().emit_bytes;
    for (channels, bytes) in [(1, 2 * max), (2, max / 2 - 2), (1000, 8192)] {
        assert_eq!(emit(channels, bytes), Ok(()), "{channels} {bytes}");
    }
    for (channels, bytes) in [(2, max / 2 - 1), (1000, 8400), (1000, 4_294_968)] {
        let reason = "Too much data for so many channels, at most 8388608 bytes in all".into();
        assert_eq!(emit(channels, bytes), Err(Refused { code: 300, reason }));
    }
}
