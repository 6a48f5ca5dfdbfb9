//! Tests of the JSON grammar, and of how strings, numbers and truthiness are interpreted.

use super::oracle::elements;
use super::*;

fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    members(text, &[name]).unwrap().unwrap()[0]
}

#[test]
fn member_values_are_returned_as_written() {
    let text = " {\"data\" :\t{ \"n\": 1.0e+2, \"big\": 12345678901234567890123 } ,\"x\":1 }\n";
    let [x, data, absent] = members(text, &["x", "data", "absent"]).unwrap().unwrap();
    assert_eq!(data, Some("{ \"n\": 1.0e+2, \"big\": 12345678901234567890123 }"));
    assert_eq!((x, absent), (Some("1"), None));
    assert_eq!(member(r#"{"a": "\ud800" }"#, "a"), Some(r#""\ud800""#));
    assert_eq!(member(r#"{"a": 1e400 }"#, "a"), Some("1e400"));
    assert_eq!(member(r#"{"a":null}"#, "a"), Some("null"));
}

#[test]
fn member_names_are_compared_decoded_and_the_last_duplicate_wins() {
    assert_eq!(member(r#"{"a":1,"\u0061":2}"#, "a"), Some("2"));
    assert_eq!(member(r#"{"\u0061":2,"a":1}"#, "a"), Some("1"));
    assert_eq!(member(r#"{"A":1,"a ":2,"":3}"#, "a"), None);
    assert_eq!(member(r#"{"ключ":1}"#, "ключ"), Some("1"));
}

#[test]
fn members_not_asked_for_are_skipped() {
    for name in ["hasOwnProperty", "__proto__", r"\ud800", "$serde_json::private::RawValue"] {
        let text = format!(r#"{{"{name}":{{"a":1}},"a":2,"{name}":[]}}"#);
        assert_eq!(member(&text, "a"), Some("2"), "{name}");
    }
}

#[test]
fn values_other_than_objects_have_no_members() {
    for text in ["null", " 5 ", "1e400", r#""\ud800""#, r#""{""#, "true", "[{}]", "[]"] {
        assert_eq!(members(text, &["a"]), Ok(None), "{text}");
    }
    assert_eq!(members("{}", &["a"]), Ok(Some([None])));
}

#[test]
fn invalid_json_is_a_syntax_error() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "{}}",
        "{} x",
        "{}\0",
        "\u{feff}{}",
        "{a:1}",
        "{'a':1}",
        "nul",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":+1}"#,
        r#"{"a":.5}"#,
        r#"{"a":NaN}"#,
        r#"{"a":"\x"}"#,
        "{\"a\":\"\n\"}",
        r#"{"a":"}"#,
        "[1,]",
        r#"{1:1}"#,
        r#"{"a":[}"#,
        "\u{a0}{}",
        "-",
        "\"",
    ] {
        assert_eq!(members(text, &["a"]), Err(JsonError::Syntax), "{text}");
    }
}

#[test]
fn nesting_is_limited_and_uses_no_stack() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let deep = Err(JsonError::Depth { max: DEPTH_MAX });
    assert_eq!(members(&nested(DEPTH_MAX), &["a"]), Ok(None));
    assert_eq!(members(&nested(DEPTH_MAX + 1), &["a"]), deep);
    assert_eq!(members(&"[".repeat(4_000_000), &["a"]), deep);
    assert_eq!(members(&"{\"a\":".repeat(1_000_000), &["a"]), deep);
    // Neither siblings nor brackets in strings count.
    let wide = format!("{{\"a\":[{}0]}}", "[{}],".repeat(1000));
    assert!(member(&wide, "a").is_some());
    for escape in ["", r"\n", r#"\""#, r"\\"] {
        let brackets = "[".repeat(1000);
        let quoted = format!(r#"{{"a":"{escape}{brackets}{escape}","b":"{brackets}"}}"#);
        assert!(member(&quoted, "a").is_some(), "{escape}");
        let hidden = format!(r#"{{"a":"{escape}","b":{brackets}}}"#);
        assert_eq!(members(&hidden, &["a"]), deep, "{escape}");
    }
    // All elements of a text of the maximum depth are found.
    assert_eq!(elements(&nested(2 * DEPTH_MAX + 1)).map(|found| found.len()), Some(1));
    assert_eq!(elements(&nested(2 * DEPTH_MAX + 2)), None);
    assert_eq!(elements(&nested(1_000_000)), None);
}

#[test]
fn strings_are_decoded() {
    assert!(matches!(string(r#""plain é""#), Some(Cow::Borrowed("plain é"))));
    assert_eq!(string(r#""\u0041\/\n\ud83d\ude00""#).as_deref(), Some("A/\n😀"));
    assert_eq!(string(r#""""#).as_deref(), Some(""));
    for raw in [r#""\ud800""#, r#""\ude00x""#, "5", "null", "[]", r#""a"b""#, "\"", ""] {
        assert_eq!(string(raw), None, "{raw}");
    }
}

#[test]
fn numbers_become_text_as_in_javascript() {
    for (raw, as_text) in [
        ("5", "5"),
        ("-7", "-7"),
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e9", "0"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("1.0", "1"),
        ("1e3", "1000"),
        ("1.5E1", "15"),
        ("-2.50", "-2.5"),
        ("0.1", "0.1"),
        ("1e20", "100000000000000000000"),
        ("1.2345678901234567891e20", "123456789012345680000"),
        ("9007199254740993.0", "9007199254740992"),
        ("1e-6", "0.000001"),
        ("0.0000015", "0.0000015"),
        ("123.456789012345678", "123.45678901234568"),
        // Exactly half-way between two texts that both parse back to the number: what Node prints.
        ("34263149503957.812", "34263149503957.812"),
        ("34263149503957.8125", "34263149503957.812"),
        ("-677699369567617.25", "-677699369567617.2"),
        ("1003020515000410.25", "1003020515000410.2"),
        ("562949953421312.25", "562949953421312.2"),
        ("562949953421312.75", "562949953421312.8"),
        ("829607399.17578125", "829607399.1757812"),
        ("185358.435791015625", "185358.43579101562"),
        ("96867.411376953125", "96867.41137695312"),
        ("0.5", "0.5"),
        ("2.5", "2.5"),
        ("0.000030517578125", "0.000030517578125"),
        ("9007199254740993.0", "9007199254740992"),
        ("295147905179352825856.0", "295147905179352830000"),
        (r#""007""#, "007"),
        (r#""""#, ""),
    ] {
        assert_eq!(text(raw).as_deref(), Some(as_text), "{raw}");
    }
    for raw in ["1e21", "9e-7", "1e400", "-1e22", "null", "true", "[5]", "{}", "01", "+1", ".5"] {
        assert_eq!(text(raw), None, "{raw}");
    }
    assert!(matches!(text("5"), Some(Cow::Borrowed("5"))));
}

#[test]
fn integers_are_read_from_numbers_and_strings_of_digits() {
    for (raw, value) in [
        ("10", 10),
        ("10.0", 10),
        ("1e1", 10),
        ("-3", -3),
        ("-0", 0),
        (r#""10""#, 10),
        (r#""007""#, 7),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("9007199254740991.0", (1 << 53) - 1),
        ("0.0", 0),
    ] {
        assert_eq!(integer(raw), Some(value), "{raw}");
    }
    for raw in [
        "1.5",
        "1e-1",
        "9223372036854775808",
        "1e17",
        "9007199254740993.0",
        "1e400",
        r#""""#,
        r#""-1""#,
        r#""1.0""#,
        r#"" 1""#,
        r#""x""#,
        "null",
        "true",
        "[1]",
        "01",
        r#""99999999999999999999""#,
        "",
    ] {
        assert_eq!(integer(raw), None, "{raw}");
    }
}

#[test]
fn truthiness_is_as_in_javascript() {
    for raw in ["null", "false", r#""""#, "0", "-0", "0.00", "0e10", "-0E-3", "1e-400"] {
        assert!(!is_truthy(raw), "{raw}");
    }
    for raw in ["true", "1", "-1", "0.1", r#""0""#, r#""false""#, "[]", "{}", "1e400"] {
        assert!(is_truthy(raw), "{raw}");
    }
    assert!(is_null("null") && !is_null("0") && !is_null(r#""null""#));
}

#[test]
fn arrays_are_split_into_their_elements() {
    assert_eq!(elements("[]"), Some(vec![]));
    assert_eq!(elements(r#"[ 1.0 , "a,b",[2, 3] ]"#), Some(vec!["1.0", r#""a,b""#, "[2, 3]"]));
    for raw in ["{}", "null", "5", r#""[]""#, "[1", "[1,]", "[] []", ""] {
        assert_eq!(elements(raw), None, "{raw}");
    }
}

#[test]
fn only_characters_that_json_requires_are_escaped() {
    let mut out = b"x".to_vec();
    quote_into(&mut out, "\"\\/\n\t\u{1}\u{7f}é😀\u{2028}");
    let expected = "x\"\\\"\\\\/\\n\\t\\u0001\u{7f}é😀\u{2028}\"";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn the_fuzz_target_accepts_any_input() {
    for text in [
        r#"{"action":"emit","data":[1,-0.0,"\u00e9\n",{"i":null}],"i":1e2,"i":"x"}"#,
        r#"{"data":"\ud800","i":1e400}"#,
        "[1]",
        "{",
        "\u{feff}{}",
        r#"{"i":-9e15}"#,
    ] {
        fuzz_members(text.as_bytes());
    }
    fuzz_members(b"\xff");
}

#[test]
fn mutated_texts_are_read_as_serde_json_reads_them() {
    let seeds = [
        r#"{"action":"emit","data":[1,-0.0,"\u00e9\n",{"i":null}],"i":1e2,"i":"x"}"#,
        r#" { "i" : [ true , false,null ] , "d\u0061ta" : {"a":{"b":[[],{}]}} } "#,
        r#"["\ud83d\ude00","\ud800",0.5E-7,-10,"a long string of more than 32 bytes, é"]"#,
    ];
    let parts = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "\\ud800",
        "0",
        "1",
        "-",
        ".",
        "e",
        "+",
        " ",
        "\n",
        "\0",
        "\u{7f}",
        "é",
        "\u{2028}",
        "true",
        "null",
        "\"i\":",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        "\u{c}",
        "\"\"",
        "{}",
        "x",
    ];
    let mut random = 1_u64;
    let mut draw = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for _ in 0..30_000 {
        let mut text: Vec<char> = seeds[draw(seeds.len())].chars().collect();
        for _ in 0..=draw(4) {
            let from = draw(text.len() + 1);
            let to = from + draw(3).min(text.len() - from);
            text.splice(from..to, parts[draw(parts.len())].chars());
        }
        fuzz_members(String::from_iter(text).as_bytes());
    }
}
