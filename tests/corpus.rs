//! Replays the inputs that fuzzing has found worth keeping (`fuzz/corpus`), target by target, so
//! that what a fuzzer once broke stays fixed without one.

use std::fs;
use std::path::Path;

macro_rules! targets {
    ($($name:ident: $target:path;)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name), $target);
        })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    browser_messages: fws::sim::fuzz_browser;
    commands: fws::sim::fuzz_commands;
    control_frames: fws::codec::control::fuzz_frames;
    http_body: fws::codec::http::fuzz_body;
    http_connection: fws::web::fuzz_connection;
    http_head: fws::codec::http::fuzz_head;
    introduction: fws::codec::proxy::fuzz_introduction;
    json_members: fws::codec::json::fuzz_members;
    metrics_text: fws::codec::prometheus::fuzz_text;
    server: fws::sim::fuzz_server;
    sockjs_messages: fws::codec::sockjs::fuzz_messages;
    sockjs_requests: fws::web::fuzz_sockjs;
    store_recovery: fws::sim::fuzz_store_recovery;
    token: fws::codec::jwt::fuzz_token;
    ws_reader: fws::codec::ws::fuzz_reader;
}

/// Gives a target every file of its folder; a file that makes it panic is named.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut count = 0;
    for file in files {
        let path = file.expect("a folder can be read to its end").path();
        let input = fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let result = std::panic::catch_unwind(|| target(&input));
        assert!(result.is_ok(), "{} breaks {name}", path.display());
        count += 1;
    }
    assert!(count > 0, "{folder:?} is empty");
}

#[test]
fn every_fuzz_target_is_replayed() {
    let mut files: Vec<String> =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets"))
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
    files.sort();
    assert_eq!(files, NAMES);
}
