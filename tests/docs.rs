//! The documents agree with the code: every text and code that a client can receive, and every
//! default that is named, is compared with the source. What the protocol document says beyond that
//! is tested by `tests/protocol/transcripts.rs`.

use std::fs;
use std::path::Path;

use fws::codec::sockjs::{self, CallbackError, SendError};
use fws::limits::Limits;
use fws::metrics::ERROR_CODES;
use fws::metrics::families;
use fws::reason::CloseReason;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns the code of a file without its tests.
fn source(path: &str) -> String {
    let text = read(path);
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_string()
}

/// Returns the protocol from this heading to the next of the same depth, or of one above.
fn part(heading: &str) -> String {
    part_of("docs/protocol.md", heading)
}

/// Returns a document from this heading to the next of the same depth, or of one above.
fn part_of(path: &str, heading: &str) -> String {
    let text = read(path);
    let depth = heading.split(' ').next().unwrap_or_default();
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let body = &text[start + 1 + heading.len()..];
    let ends =
        (2..=depth.len()).filter_map(|depth| body.find(&format!("\n{} ", "#".repeat(depth))));
    let end = ends.min().unwrap_or(body.len());
    body[..end].to_string()
}

/// Returns the cells of all table rows, without code marks.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    lines
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().trim_matches('`').to_string()).collect()
        })
        .collect()
}

/// Returns the string literal after each occurrence of `before`, and the code after the literal.
fn literals<'a>(code: &'a str, before: &str) -> Vec<(&'a str, &'a str)> {
    let behind = code.match_indices(before).map(|(at, _)| &code[at + before.len()..]);
    behind.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once('"')).collect()
}

/// Whether a text in the document matches the format, in which `{name}` stands for anything.
fn matches_format(told: &str, format: &str) -> bool {
    let mut rest = told;
    let mut pieces = format.split('{').map(|piece| piece.split_once('}').map_or(piece, |p| p.1));
    let begins = pieces.next().is_some_and(|first| {
        let behind = rest.strip_prefix(first);
        rest = behind.unwrap_or(rest);
        behind.is_some()
    });
    let goes_on = pieces.all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    });
    begins && goes_on && (rest.is_empty() || format.ends_with('}'))
}

#[test]
fn documented_texts_match_format_strings() {
    assert!(matches_format("Too many WHAT, at most MAX", "Too many {what}, at most {max}"));
    assert!(matches_format("Need auth", "Need auth"));
    assert!(!matches_format("Need auth now", "Need auth"));
    assert!(!matches_format("Too many WHAT, at least MAX", "Too many {what}, at most {max}"));
    assert!(!matches_format("Far too many WHAT, at most MAX", "Too many {what}, at most {max}"));
}

#[test]
fn every_control_error_is_documented_with_its_code() {
    let table = rows(&part("## 3. Control port: replies and errors"));
    let files = ["command", "control", "publish_batch", "replies", "text"];
    let code = files.map(|file| source(&format!("src/switch/{file}.rs"))).concat();

    // `Refused::new(CODE, "TEXT")`: code and text must be in one row.
    let fixed: Vec<(&str, &str)> = code
        .match_indices("Refused::new(")
        .filter_map(|(at, call)| code[at + call.len()..].split_once(','))
        .filter(|(number, _)| number.parse::<u16>().is_ok())
        .filter_map(|(number, rest)| {
            let (text, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
            Some((number, text))
        })
        .collect();
    assert!(fixed.len() >= 15, "the source has another form than expected: {fixed:?}");
    for (number, text) in fixed {
        let found = table.iter().any(|row| row[0] == number && row[1] == text);
        assert!(found, "{number} {text:?} is not in the table of errors");
    }

    // `reason = format!("TEXT")`, with the code somewhere near: only the text is checked.
    let mut made = literals(&code, "let reason = format!(");
    made.extend(literals(&code, "reason: format!("));
    assert!(made.len() >= 5, "the source has another form than expected: {made:?}");
    for (text, _) in made {
        let found = table.iter().any(|row| row.len() > 1 && matches_format(&row[1], text));
        assert!(found, "{text:?} is not in the table of errors");
    }

    // And the table promises nothing that the source does not have.
    for row in table.iter().filter(|row| row[0].parse::<u16>().is_ok()) {
        let start = row[1].split(['W', 'M']).next().unwrap_or_default();
        assert!(code.contains(&format!("\"{start}")), "{:?} is not in the source", row[1]);
    }
}

#[test]
fn every_subscribe_refusal_is_documented() {
    let events = part("## 7. WebSocket port: events");
    let code = source("src/switch/browser.rs");
    let mut reasons = literals(&code, "refuse(outlet, clb, ");
    reasons.extend(literals(&code, "refuse(outlet, clb, &format!("));
    reasons.extend(literals(&code, "let reason = format!("));
    assert!(reasons.len() >= 5, "the source has another form than expected: {reasons:?}");
    for (text, _) in reasons {
        let found = rows(&events).iter().any(|row| matches_format(&row[0], text));
        assert!(found, "{text:?} is not documented");
    }
}

#[test]
fn every_close_code_is_documented_and_no_other() {
    let table = rows(&part("## 10. How connections end"));
    let told: Vec<(u16, &str)> = table
        .iter()
        .filter_map(|row| Some((row.first()?.parse().ok()?, row.get(1)?.as_str())))
        .collect();
    for reason in CloseReason::ALL {
        if let Some((code, text)) = reason.told() {
            assert!(told.contains(&(code, text)), "{code} {text:?} ({reason}) is not documented");
        }
    }
    for entry in told {
        let is_there = CloseReason::ALL.iter().any(|reason| reason.told() == Some(entry));
        assert!(is_there, "{entry:?} is no close code of ours");
    }
}

#[test]
fn http_texts_and_statuses_are_documented() {
    let http = part("## 5. WebSocket port: HTTP") + &part("## 6. WebSocket port: connections");
    let (code, reason) = sockjs::STILL_OPEN;
    let texts = [
        SendError::Payload.text().to_owned(),
        SendError::Broken.text().to_owned(),
        CallbackError::Missing.text().to_owned(),
        CallbackError::Invalid.text().to_owned(),
        sockjs::close_text(code, reason),
        sockjs::GREETING.trim_end().to_owned(),
        sockjs::NOT_FOUND.trim_end().to_owned(),
        format!("/socket/{}", sockjs::IFRAME_SCRIPT),
    ];
    for text in texts {
        assert!(http.contains(&format!("`{text}`")), "{text:?} is not documented");
    }
    let code = read("src/codec/http.rs");
    let statuses =
        code.split("pub const fn status").nth(1).and_then(|rest| rest.split("pub fn").next());
    let rows = rows(&part("## 5. WebSocket port: HTTP"));
    let mut count = 0;
    for status in statuses.unwrap_or_default().split("=> ").skip(1).filter_map(|rest| rest.get(..3))
    {
        let is_documented = rows.iter().any(|row| row.get(1).is_some_and(|cell| cell == status));
        assert!(is_documented, "status {status} is not documented");
        count += 1;
    }
    assert!(count >= 6, "the source has another form than expected");
}

#[test]
fn documented_limits_exist_with_the_documented_defaults() {
    let defaults = Limits::default();
    let table = rows(&part("## 11. Limits"));
    let named: Vec<_> = table.iter().filter(|row| row[0].contains('_')).collect();
    assert!(named.len() >= 25, "the table of limits has another form than expected");
    for row in table.iter().filter(|row| row[0] != "limit") {
        let default = defaults.get(&row[0]).map(|value| value.to_string());
        assert_eq!(default.as_ref(), Some(&row[1]), "limit {}", row[0]);
    }
    // Anything in code marks that looks like a limit, by its unit, must be one.
    for path in ["docs/protocol.md", "docs/operations.md", "docs/security.md", "README.md"] {
        for word in read(path).split('`').skip(1).step_by(2) {
            let is_name = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let has_unit =
                ["_ms", "_bytes", "_seconds", "_items"].iter().any(|u| word.ends_with(u));
            let is_metric = word.starts_with("fws_") || word.starts_with("process_");
            let is_name = is_name && !is_metric;
            assert!(!(is_name && has_unit) || defaults.get(word).is_some(), "{path}: {word}");
        }
    }
}

#[test]
fn every_documented_error_code_is_counted() {
    let table = rows(&part("## 3. Control port: replies and errors"));
    let mut told: Vec<u16> = table.iter().filter_map(|row| row[0].parse().ok()).collect();
    told.dedup();
    assert_eq!(told, ERROR_CODES);
}

#[test]
fn every_metric_is_documented_with_its_kind_and_no_other() {
    let table = part_of("docs/operations.md", "## Metrics");
    let told: Vec<Vec<String>> =
        rows(&table).into_iter().filter(|row| row[0].contains('_')).collect();
    let known: Vec<[&str; 2]> =
        families::ALL.iter().map(|family| [family.name, family.kind.word()]).collect();
    let told: Vec<[&str; 2]> = told.iter().map(|row| [row[0].as_str(), row[1].as_str()]).collect();
    assert_eq!(told, known);
    for family in families::ALL {
        assert!(table.contains(&format!("| {}", family.help)), "{}: {}", family.name, family.help);
    }
}

/// Checks the operator's table of how connections end.
#[test]
fn every_close_reason_is_explained_to_operators_and_no_other() {
    let table = rows(&part_of("docs/operations.md", "### How connections end"));
    let table = &table[1..];
    for reason in CloseReason::ALL {
        let row = table.iter().find(|row| row[0] == reason.label());
        let row = row.unwrap_or_else(|| panic!("{reason} is not explained"));
        let told = reason.told().map_or(String::new(), |(code, text)| format!("{code} {text}"));
        assert!(row[1].starts_with(&told) && told.is_empty() == row[1].is_empty(), "{row:?}");
        assert!(!row[2].is_empty() && !row[3].is_empty(), "{row:?}");
    }
    for row in table {
        let is_there = CloseReason::ALL.iter().any(|reason| reason.label() == row[0]);
        assert!(is_there, "{} is no reason", row[0]);
    }
}

/// Returns all code that answers browsers over HTTP, without its tests.
fn answering_code() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = vec!["src/codec/http.rs".to_owned()];
    for folder in ["web", "switch", "reactor", "server"] {
        for file in fs::read_dir(root.join(folder)).expect("a folder") {
            let name = file.expect("a file").file_name().to_string_lossy().into_owned();
            let is_code = name.ends_with(".rs") && name != "fuzz.rs" && name != "tests.rs";
            paths.extend(is_code.then(|| format!("src/{folder}/{name}")));
        }
    }
    let without_tests = |path: &String| {
        let text = read(path);
        text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
    };
    paths.iter().map(without_tests).collect()
}

/// Checks the operator's table of HTTP answers.
#[test]
fn every_refusal_over_http_is_explained_to_operators_and_no_other() {
    let table = rows(&part_of("docs/operations.md", "### What is answered over HTTP"));
    let table = &table[1..];
    let code = answering_code();
    let text_of = |raw: &str| raw.trim_end_matches("\\n").to_owned();
    // `Response::new(STATUS) … .text("TEXT")`
    let mut known: Vec<(String, String)> = Vec::new();
    for answer in code.split("Response::new(").skip(1) {
        let status = answer.get(..3).unwrap_or_default();
        if !status.starts_with(['4', '5']) {
            continue;
        }
        let text = answer.split_once(".text(\"").and_then(|(_, rest)| rest.split_once('"'));
        known.extend(text.map(|(text, _)| (status.to_owned(), text_of(text))));
    }
    assert!(known.len() >= 8, "the source has another form than expected: {known:?}");
    // `HttpError::NAME => "TEXT"`; the compiler ensures that each has a status.
    let errors = literals(&code, "HttpError::Malformed => ");
    assert_eq!(errors.len(), 1, "the source has another form than expected");
    let display = code.split("HttpError::Malformed => \"").nth(1).unwrap_or_default();
    let display = format!("x => \"{}", display.split("})").next().unwrap_or_default());
    known.extend(literals(&display, " => ").into_iter().map(|(text, _)| {
        let row = table.iter().find(|row| row[1] == text);
        (row.map_or(String::new(), |row| row[0].clone()), text.to_owned())
    }));
    for text in [SendError::Payload.text(), SendError::Broken.text()] {
        known.push(("500".into(), text.into()));
    }
    for text in [CallbackError::Missing.text(), CallbackError::Invalid.text()] {
        known.push(("500".into(), text.into()));
    }
    known.push(("404".into(), sockjs::NOT_FOUND.trim_end().into()));
    for (status, text) in &known {
        let found = table.iter().any(|row| row[0] == *status && row[1] == *text);
        assert!(found, "{status} {text:?} is not explained");
    }
    for row in table.iter().filter(|row| !row[1].is_empty()) {
        assert!(known.iter().any(|(_, text)| *text == row[1]), "{row:?} is not in the source");
    }
    let statuses: Vec<&str> = table.iter().map(|row| row[0].as_str()).collect();
    for status in code.split("pub const fn status").nth(1).unwrap_or_default().split("=> ") {
        let status = status.get(..3).filter(|status| status.parse::<u16>().is_ok());
        assert!(status.is_none_or(|status| statuses.contains(&status)), "{status:?}");
    }
}

/// Checks the operator's table of error codes.
#[test]
fn every_error_code_is_explained_to_operators() {
    let table = rows(&part_of("docs/operations.md", "### What the control port answers"));
    let told: Vec<u16> = table.iter().filter_map(|row| row[0].parse().ok()).collect();
    assert_eq!(told, ERROR_CODES);
    assert!(table.iter().all(|row| row.len() == 3 && row.iter().all(|cell| !cell.is_empty())));
}

/// Checks that names in `docs/security.md` are those of limits, metrics or reasons.
#[test]
fn every_name_in_the_threat_model_exists() {
    let (limits, text) = (Limits::default(), read("docs/security.md"));
    let mut count = 0;
    for word in text.split('`').skip(1).step_by(2) {
        let is_name = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if !is_name || !word.contains('_') || word == "_" {
            continue;
        }
        let is_there = limits.get(word).is_some()
            || families::ALL.iter().any(|family| family.name == word)
            || CloseReason::ALL.iter().any(|reason| reason.label() == word);
        assert!(is_there, "{word} is not there");
        count += usize::from(limits.get(word).is_some());
    }
    assert!(count >= 40, "only {count} limits are named");
    // Each flag that is named must exist.
    for word in text.split('`').skip(1).step_by(2).filter(|word| word.starts_with("--")) {
        let flag = word.trim_start_matches('-');
        let code = read("src/cli/flags.rs") + &read("src/cli/doctor/mod.rs");
        assert!(code.contains(&format!("name: \"{flag}\"")), "{word} is no flag");
    }
}

/// Checks that the texts by which the doctor recognizes our server are really ours.
#[test]
fn texts_that_the_doctor_recognises_are_really_ours() {
    let (code, ours) = (source("src/cli/doctor/answer.rs"), answering_code());
    let words = literals(&code, "is_ours(");
    assert!(words.len() >= 5, "the source has another form than expected: {words:?}");
    for (text, _) in words {
        let is_there = [format!("\"{text}\""), format!("\"{text}\\n\"")];
        assert!(is_there.iter().any(|text| ours.contains(text)), "{text:?} is not ours");
    }
}

#[test]
fn every_link_has_a_target() {
    let folders =
        ["protocol", "store", "operations", "security"].map(|name| format!("docs/{name}.md"));
    for path in ["README.md", "CONTRIBUTING.md"].into_iter().chain(folders.iter().map(|it| &**it)) {
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        for link in read(path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { Path::new(path).into() } else { folder.join(file) };
            let text = read(&target.to_string_lossy());
            let heads = text.lines().filter(|line| line.starts_with('#')).map(|line| {
                let kept = |c: &char| c.is_alphanumeric() || " -".contains(*c);
                let head = line.trim_start_matches('#').trim().to_lowercase();
                head.chars().filter(kept).collect::<String>().replace(' ', "-")
            });
            let is_there = anchor.is_empty() || heads.into_iter().any(|head| head == anchor);
            assert!(is_there, "{path}: {link}");
        }
    }
}
