//! Exports, and the stores that they come from and go to (`docs/store.md`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::command::{fws, good};
use super::server::Dir;

pub const START: &str = r#"{"fws":"export","version":1}"#;
pub const END: &str = r#"{"fws":"end"}"#;

pub fn store(words: &[&str], data: &Path) -> Command {
    let mut command = fws(&["store"]);
    command.args(words).arg("--data").arg(data);
    command
}

/// Writes a file of lines between the first and last line of an export.
pub fn lines_in(dir: &Dir, name: &str, lines: &[String]) -> PathBuf {
    let path = dir.file(name);
    let lines: Vec<&str> =
        [START].into_iter().chain(lines.iter().map(String::as_str)).chain([END]).collect();
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

pub fn namespace(name: &str, key: &str) -> String {
    json!({ "kind": "namespace", "name": name, "key": key }).to_string()
}

pub fn state(namespace: &str, channel: &str, user: Option<&str>, data: &str) -> String {
    let [namespace, channel, user] = [json!(namespace), json!(channel), json!(user)];
    format!(
        "{{\"kind\":\"state\",\"namespace\":{namespace},\"channel\":{channel},\
         \"user\":{user},\"expires\":null,\"data\":{data}}}"
    )
}

pub fn import(path: &Path, data: &Path) -> String {
    good(store(&["import", path.to_str().unwrap()], data))
}

/// All files of a folder, with their contents.
pub fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap_or_default())).collect()
}

/// Asserts that the store's folder is unchanged, except for the lock.
#[track_caller]
pub fn same_store(before: &[(PathBuf, Vec<u8>)], data: &Path) {
    let without_lock = |files: &[(PathBuf, Vec<u8>)]| {
        files.iter().filter(|(path, _)| !path.ends_with("lock")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(without_lock(&contents(data)), without_lock(before));
}

pub fn namespace_line(name: &str, key: &str) -> String {
    format!(r#"{{"kind":"namespace","name":"{name}","key":"{key}"}}"#)
}
