//! `fws store` on damaged stores: what is detected, what is exported, and how to recover.

use std::fs;
use std::path::Path;

use crate::common::command::{bad, good, run};
use crate::common::export::{
    END, START, contents, import, lines_in, namespace_line, same_store, state, store,
};
use crate::common::server::{Dir, Server};

/// Flips a bit in each occurrence of this text in the store.
fn flip(data: &Path, text: &str) {
    let path = data.join("store.redb");
    let mut bytes = fs::read(&path).unwrap();
    let places: Vec<usize> = bytes
        .windows(text.len())
        .enumerate()
        .filter(|(_, window)| *window == text.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    fs::write(&path, bytes).unwrap();
}

fn many_lines() -> Vec<String> {
    let mut lines =
        vec![namespace_line("first", "key-of-first"), namespace_line("second", "key-2")];
    for name in ["first", "second"] {
        lines.extend((0..200).map(|i| {
            let data = format!("\"data-{name}-{i:03} {}\"", "x".repeat(i));
            state(name, &format!("channel {i:03}"), None, &data)
        }));
    }
    lines
}

#[test]
fn the_intact_rows_of_a_damaged_store_are_exported() {
    let dir = Dir::new();
    let data = dir.file("data");
    let lines = many_lines();
    import(&lines_in(&dir, "in", &lines), &data);
    flip(&data, "data-second-123");
    let damaged = format!("the store {} is damaged: ", data.join("store.redb").display());
    let before = contents(&data);
    for words in [&["check"][..], &["export"]] {
        let line = bad(store(words, &data), 1);
        assert!(line.starts_with(&damaged) && line.contains("export --damaged"), "{line}");
        assert!(!line.contains("key-of"), "{line}");
    }
    let ran = run(store(&["export", "--damaged"], &data));
    assert_eq!(ran.err, "fws: rows left out, because they are not as they were written: 1\n");
    let lost = lines.iter().position(|line| line.contains("data-second-123")).unwrap();
    let mut expected = lines.clone();
    expected.remove(lost);
    let saved: Vec<&str> = ran.out.lines().collect();
    assert_eq!((ran.code, saved[0], saved[saved.len() - 1]), (Some(0), START, END));
    assert_eq!(saved[1..saved.len() - 1], expected);
    same_store(&before, &data);

    // The recovery that the messages recommend.
    let file = dir.file("saved");
    fs::write(&file, &ran.out).unwrap();
    import(&file, &dir.file("new"));
    assert_eq!(good(store(&["export"], &dir.file("new"))), ran.out);
    let line = bad(store(&["import", file.to_str().unwrap()], &data), 1);
    assert!(line.starts_with(&damaged) && line.contains("A copy is in "), "{line}");
}

#[test]
fn rows_of_a_lost_namespace_are_kept_together() {
    let dir = Dir::new();
    let data = dir.file("data");
    import(&lines_in(&dir, "in", &many_lines()), &data);
    flip(&data, "key-of-first");
    let ran = run(store(&["export", "--damaged"], &data));
    let said = "fws: rows left out, because they are not as they were written: 1\n\
                fws: 1 namespace lost, of which there are rows: see lost-NUMBER\n";
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), said));
    let namespaces: Vec<&str> =
        ran.out.lines().filter(|line| line.contains("\"kind\":\"namespace\"")).collect();
    let lost = r#"{"kind":"namespace","name":"lost-1","key":null}"#;
    assert_eq!(namespaces, [&namespace_line("second", "key-2"), lost]);
    let states = ran.out.lines().filter(|line| line.contains("\"namespace\":\"lost-1\""));
    assert_eq!(states.count(), 200);
    let file = dir.file("saved");
    fs::write(&file, &ran.out).unwrap();
    assert_eq!(import(&file, &dir.file("new")), "imported 2 namespaces, 0 grants, 400 states\n");
}

#[test]
fn a_damaged_store_can_be_exported_after_a_crash() {
    let server = Server::new();
    let mut control = server.controller("demo");
    for i in 0..50 {
        control.ok(&format!(
            r#"{{"action":"set","channel":"c{i:02}","data":"value-{i:02}","params":{{}}}}"#
        ));
    }
    let dir = server.crash();
    let data = dir.file("data");
    flip(&data, "value-17");
    let line = bad(store(&["check"], &data), 1);
    assert!(line.contains("is damaged: "), "{line}");
    let ran = run(store(&["export", "--damaged"], &data));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let values = ran.out.lines().filter(|line| line.contains("\"value-")).count();
    assert_eq!((values, ran.out.contains("value-17")), (49, false), "{ran:?}");
}

#[test]
fn a_file_that_is_not_a_store_is_reported() {
    let dir = Dir::new();
    let data = dir.file("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("store.redb"), "nothing of ours").unwrap();
    let line = bad(store(&["check"], &data), 1);
    assert!(line.contains(" is damaged: "), "{line}");
    let line = bad(store(&["export", "--damaged"], &data), 1);
    assert!(line.starts_with("nothing can be read of the store "), "{line}");
}
