//! `fws stat` against a running server: once, live, as JSON, and without an admin listener.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::common::command::{bad, fws, good};
use crate::common::server::{Options, Server};
use serde_json::{Value, json};

/// A server with an admin listener, and its address.
fn server() -> (Server, String) {
    let mut options = Options::default();
    options.config["admin"] = json!("127.0.0.1:0");
    let server = Server::start(&options);
    let address = server.admin().to_string();
    (server, address)
}

#[test]
fn a_single_report_shows_the_metrics() {
    let (server, at) = server();
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("news");
    server.controller("demo").ok(r#"{"action":"emit","channel":"news","data":1}"#);
    let text = good(fws(&["stat", "--once", "--admin", &at]));
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.starts_with(&format!("fws {version} at {at}: ok\n")), "{text}");
    let has = |words: &[&str]| {
        let wanted = words.join(" ");
        let is_it = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.join(" ").contains(&wanted)
        };
        assert!(text.lines().any(is_it), "{words:?} in\n{text}");
    };
    has(&["WebSocket", "1"]);
    has(&["deliveries", "1", "-"]);
    has(&["publications", "1", "-"]);
    has(&["demo", "1", "-"]);
    assert!(!text.contains('\x1b'), "{text:?}");

    let mut command = fws(&["stat", "--once", "--json"]);
    command.env("FWS_LISTEN_ADMIN", &at);
    let object: Value = serde_json::from_str(&good(command)).unwrap();
    assert_eq!(object["fws_connections{kind=\"websocket\"}"], 1);
    assert_eq!(object["fws_namespace_deliveries_total{namespace=\"demo\"}"], 1);
    assert_eq!(object["fws_namespace_deliveries_total{other=\"true\"}"], 0);
}

#[test]
fn stat_repeats_until_the_server_stops() {
    let (server, at) = server();
    let mut child = fws(&["stat", "--admin", &at]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let heads = |line: &String| line.starts_with("fws ");
    assert!(lines.any(|line| heads(&line)) && lines.any(|line| heads(&line)));
    // Rates come with the second report.
    let deliveries = lines.find(|line| line.starts_with("deliveries")).unwrap();
    let rate = deliveries.split_whitespace().nth(2);
    assert_eq!(rate, Some("0"), "{deliveries}");
    server.stop();
    assert!(lines.all(|line| !line.contains('\x1b')));
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// What a terminal of this size is sent, up to the third report.
fn drawn(at: &str, term: &str, columns: u16, lines: u16) -> String {
    let fws = env!("CARGO_BIN_EXE_fws");
    let stat = format!("stty cols {columns} rows {lines}; exec {fws} stat --admin {at}");
    let mut script = std::process::Command::new("script");
    script.args(["-q", "-c", &stat, "/dev/null"]).env("TERM", term);
    let mut child = script.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    let text = |said: &[u8]| String::from_utf8_lossy(said).into_owned();
    while text(&said).matches("TRAFFIC").count() < 3 {
        let n = stdout.read(&mut piece).unwrap();
        assert_ne!(n, 0, "{}", text(&said));
        said.extend_from_slice(&piece[..n]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    text(&said)
}

/// What a terminal shows of this output, as xterm does: a character in the last column leaves the
/// cursor there, and clearing includes the cell under the cursor.
fn shown(said: &str, columns: usize, lines: usize) -> Vec<String> {
    let mut cells = vec![vec![' '; columns]; lines];
    let (mut row, mut column) = (0, 0);
    let mut rest = said;
    while let Some(c) = rest.chars().next() {
        let command = ["\x1b[H", "\x1b[?7l", "\x1b[?7h", "\x1b[K", "\x1b[J"]
            .into_iter()
            .find(|command| rest.starts_with(command));
        rest = &rest[command.map_or(c.len_utf8(), str::len)..];
        match command {
            Some("\x1b[H") => (row, column) = (0, 0),
            Some(clear @ ("\x1b[K" | "\x1b[J")) => {
                cells[row][column..].fill(' ');
                cells
                    .iter_mut()
                    .skip(row + 1)
                    .filter(|_| clear == "\x1b[J")
                    .for_each(|it| it.fill(' '));
            }
            Some(_) => {}
            None if c == '\r' => column = 0,
            None if c == '\n' => {
                row += 1;
                assert!(row < lines, "it scrolls: {said:?}");
            }
            None => {
                assert!(!c.is_control(), "{c:?} in {said:?}");
                cells[row][column] = c;
                column = (column + 1).min(columns - 1);
            }
        }
    }
    cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_string()).collect()
}

#[test]
fn small_and_dumb_terminals_are_supported() {
    let (_server, at) = server();
    for (columns, lines) in [(80, 24), (76, 24), (30, 12), (25, 5)] {
        let said = drawn(&at, "xterm", columns, lines);
        // The last report may be incomplete.
        let end = said.rfind("\x1b[H").unwrap();
        let shown = shown(&said[..end], columns.into(), lines.into());
        assert!(shown[0].contains("fws ") && shown[0].contains("ok"), "{shown:#?}");
        assert!(shown[1].starts_with("TRAFFIC ") && shown[1].contains(" in all"), "{shown:#?}");
        assert!(shown[2].starts_with("opened  "), "{shown:#?}");
        let is_cut = shown.last().unwrap().contains("lines more");
        assert_eq!(is_cut, columns < 80, "{shown:#?}");
    }
    for term in ["dumb", ""] {
        let said = drawn(&at, term, 40, 12);
        assert!(!said.contains('\x1b'), "{said:?}");
        assert!(said.lines().all(|line| line.chars().count() <= 40), "{said}");
    }
}

#[test]
fn a_missing_admin_listener_is_explained() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line = bad(fws(&["stat", "--admin", &free.to_string()]), 1);
    assert_eq!(
        line,
        format!(
            "no admin door at {free}: start the server with `fws serve --admin 127.0.0.1:8086`, \
             and say here with --admin where it is"
        )
    );
    let server = Server::new();
    let ws = server.ws.to_string();
    let line = bad(fws(&["stat", "--admin", &ws]), 1);
    let start = format!("{ws} is no admin door: it answers 404 when asked for /metrics; ");
    assert!(line.starts_with(&start), "{line}");
    let line = bad(fws(&["stat", "--admin", &server.control.to_string()]), 1);
    assert!(!line.is_empty());
    let line = bad(fws(&["stat", "--admn", "x"]), 2);
    assert!(line.contains("did you mean --admin"), "{line}");
}

#[test]
fn an_address_reachable_by_others_is_warned_about() {
    let ran = crate::common::command::run(fws(&["check", "--admin", "0.0.0.0:8086"]));
    assert_eq!(ran.code, Some(0));
    assert!(ran.err.contains("warning: admin: whoever reaches 0.0.0.0:8086 sees"), "{}", ran.err);
    for loopback in ["127.0.0.1:8086", "[::1]:8086"] {
        good(fws(&["check", "--admin", loopback]));
    }
    let ran = crate::common::command::run(fws(&["check", "--control", "10.0.0.5:8085"]));
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.err.contains("warning: control: keys are sent to 10.0.0.5:8085 in the clear"),
        "{}",
        ran.err
    );
    good(fws(&["check", "--control", "[::1]:8085"]));
    let line = bad(fws(&["check", "--admin", "127.0.0.1:8085"]), 2);
    assert_eq!(
        line,
        "admin: 127.0.0.1:8085 is taken by control (127.0.0.1:8085): choose another port"
    );
}
