//! The protocol on the real binary: every transcript in `tests/transcripts/`, each control stream
//! in it also byte by byte and in one piece, and what a transcript cannot say.
//!
//! `FWS_CASE=NAME cargo test --test protocol` plays only the cases whose name contains NAME.

mod common;

use common::transcript::{Case, control_stream, parse, play, replay};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cases that play at a time.
const AT_A_TIME: usize = 4;

/// Byte by byte is one system call a byte: not for megabytes.
const SPLIT_BYTES: usize = 100_000;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// Plays every case of a file, and replays its control streams.
fn play_file(name: &str) {
    let path = directory().join(format!("{name}.txt"));
    let cases = parse(&std::fs::read_to_string(path).expect("the transcript is there"));
    assert!(!cases.is_empty(), "{name} has cases");
    let wanted = std::env::var("FWS_CASE").unwrap_or_default();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !case.name.contains(&wanted) {
                        continue;
                    }
                    if let Err(failure) = play_every_way(case) {
                        failures.lock().expect("a list").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("a list");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn play_every_way(case: &Case) -> Result<(), String> {
    play(case)?;
    let Some(stream) = control_stream(case) else { return Ok(()) };
    let how = |way| move |error| format!("case {}, {way}: {error}\n", case.name);
    replay(&stream, false).map_err(how("in one piece"))?;
    if stream.sent.len() <= SPLIT_BYTES {
        replay(&stream, true).map_err(how("byte by byte"))?;
    }
    Ok(())
}

macro_rules! transcripts {
    ($($name:ident)*) => {
        const TRANSCRIPTS: &[&str] = &[$(stringify!($name),)*];
        $(#[test] fn $name() { play_file(stringify!($name)); })*
    };
}

transcripts! {
    control_framing control_auth control_emit control_state control_grants
    http websocket browser_auth browser_messages subscribe private deliver presence
    php fws_js push ours_control ours_browser
}

#[test]
fn no_transcript_is_forgotten() {
    let files = std::fs::read_dir(directory()).expect("the directory is there");
    let mut names: Vec<String> = files
        .map(|file| file.expect("a file").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut known = TRANSCRIPTS.to_vec();
    known.sort();
    assert_eq!(names, known);
}
