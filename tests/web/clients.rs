//! Real clients against the real binary: the SockJS library from npm, used as the original `fws.js`
//! uses it, and over every transport against the conformance server; our own `fws.js` in Node.js
//! and in Chromium; and the PHP client's requests and parsing. Owns child processes only; the
//! checks are in `tests/clients/` and `clients/js/test/`.

use crate::common::browser::Browser;
use crate::common::server::{DEMO_KEY, Options, SERVER_KEY, Server};
use crate::common::web::Conformance;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A path in this repository.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a script to its end, which each script bounds by its own deadline, and returns its output.
/// Panics with that output unless it succeeds.
#[track_caller]
fn run<S: AsRef<OsStr>>(tool: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let output = match Command::new(tool).args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("`{tool}` is missing: run scripts/setup")
        }
        Err(error) => panic!("{tool}: {error}"),
    };
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tool}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Runs a script of `tests/clients` in Node.js.
#[track_caller]
fn run_node(script: &str, arguments: &[&str]) {
    assert!(
        here("tests/clients/node_modules/.installed").exists(),
        "the npm packages are missing: run scripts/setup"
    );
    let script = here("tests/clients").join(script);
    run("node", [script.as_os_str()].into_iter().chain(arguments.iter().map(OsStr::new)));
}

/// Runs the PHP script against an address.
#[track_caller]
fn run_php(address: &str) {
    let script = here("tests/clients/php/client.php");
    let arguments = [address, SERVER_KEY, DEMO_KEY].map(OsStr::new);
    run("php", [script.as_os_str()].into_iter().chain(arguments));
}

#[test]
fn our_client_passes_its_unit_tests() {
    let tests = ["fws.test.js", "module.test.js", "phone.test.js"]
        .map(|name| here("clients/js/test").join(name));
    run("node", [PathBuf::from("--test")].into_iter().chain(tests));
}

#[test]
fn our_client_works_in_node() {
    let server = Server::new();
    run_node("node/fws.js", &[&server.ws.to_string(), &server.control.to_string(), DEMO_KEY]);
}

#[test]
fn sockjs_client_works_with_the_server() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    for transport in ["websocket", "xhr-streaming", "eventsource", "xhr-polling"] {
        run_node("node/sockjs.js", &[&ws, &control, DEMO_KEY, transport]);
    }
}

#[test]
fn sockjs_client_works_over_every_transport_in_node() {
    let server = Conformance::new();
    run_node("node/transports.js", &[&server.address.to_string()]);
}

#[test]
fn sockjs_clients_work_over_every_transport_in_chromium() {
    assert!(Path::new("/usr/bin/chromium").exists(), "Chromium is missing: run scripts/setup");
    let server = Conformance::new();
    run_node("chromium/transports.js", &[&server.address.to_string()]);
}

#[test]
fn php_client_works_over_tcp() {
    let server = Server::new();
    run_php(&format!("tcp://{}", server.control));
}

#[test]
fn php_client_works_over_a_unix_socket() {
    let server = Server::start(&Options { unix: true, ..Options::default() });
    run_php(&format!("unix://{}", server.socket().display()));
}

#[test]
fn demo_page_works_in_chromium() {
    assert!(Path::new("/usr/bin/chromium").exists(), "Chromium is missing: run scripts/setup");
    run_node("chromium/demo.js", &[env!("CARGO_BIN_EXE_fws")]);
}

/// All code blocks of a language in a document, joined.
fn code(document: &str, language: &str) -> String {
    let text = std::fs::read_to_string(here(document)).expect("a document");
    let fence = format!("\n```{language}\n");
    let blocks = text.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks.map(|block| format!("{block}\n")).collect()
}

/// The back ends shown in the documents work: each publishes, and the token that it prints last is
/// valid.
#[test]
fn documented_back_ends_publish_and_make_valid_tokens() {
    let server = Server::new();
    let folder = server.dir().file("fws-data/keys");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("shop"), format!("{DEMO_KEY}\n")).expect("a key");
    let mut browser = server.browser("demo", r#"{"i":"reader"}"#);
    browser.subscribe("news");
    let php = code("README.md", "php") + "echo token('5', $key, 3600);";
    for (tool, name, text) in [
        ("php", "PHP", php),
        ("node", "Node.js", code("docs/protocol.md", "js")),
        ("python3", "Python", code("docs/protocol.md", "python")),
    ] {
        assert!(text.contains("fws-data/keys/shop") && text.contains("8085"), "{name}: {text}");
        let keys = format!("{}/shop", folder.display());
        let text = text.replace("fws-data/keys/shop", &keys).replace("'shop'", "'demo'");
        let text = text.replace("8085", &server.control.port().to_string());
        let script = server.dir().file(tool);
        std::fs::write(&script, text).expect("a script");
        let said = run(tool, [&script]);
        let heard = browser.hear().replace(": ", ":");
        let published = format!(r#"{{"event":"news","data":{{"text":"from {name}"}}}}"#);
        assert_eq!(heard, published, "{name}");
        let token = said.lines().last().unwrap_or_default();
        Browser::raw(server.ws).auth_with("demo", token);
    }
}

#[test]
fn the_documented_node_back_end_reports_a_lost_connection() {
    let server = Server::new();
    let text = code("docs/protocol.md", "js");
    let (class, _) = text.split_once("async function main").expect("a part that can be copied");
    let rest = "
        const fws = new Fws(PORT, '127.0.0.1');
        const say = (error) => console.log(error.message);
        fws.socket.on('connect', () => {
            fws.call({ action: 'ping' }).catch(say);
            fws.socket.destroy();
        });
        fws.socket.on('close', () => fws.call({ action: 'ping' }).catch(say));
    ";
    let rest = rest.replace("PORT", &server.control.port().to_string());
    let script = server.dir().file("gone.js");
    std::fs::write(&script, format!("{class}{rest}")).expect("a script");
    assert_eq!(run("node", [&script]), "the connection is gone\n".repeat(2));
}
