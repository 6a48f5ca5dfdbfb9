//! What is reported as kept survives a power cut under its name: the folder of each new file is
//! synced, after the file.

use crate::common::command::fws;
use crate::common::server::{Dir, Options, Server};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a library that records what a program syncs.
fn sync_recorder(dir: &Dir) -> PathBuf {
    let library = dir.file("syncs.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/syncs.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    #[cfg(target_pointer_width = "32")]
    compiler.arg("-m32");
    assert!(compiler.status().unwrap().success(), "{compiler:?}");
    library
}

/// The same command, recording its syncs in a file.
fn with_recorder(mut command: Command, library: &Path, notes: &Path) -> Command {
    command.env("LD_PRELOAD", library).env("SYNCS", notes);
    command
}

#[test]
fn new_files_and_their_folders_are_synced() {
    let (tools, dir) = (Dir::new(), Dir::new());
    let library = sync_recorder(&tools);
    let (started, registered, exported) =
        (tools.file("started"), tools.file("registered"), tools.file("exported"));
    let was_synced = |notes: &Path, path: &Path| {
        let paths = std::fs::read_to_string(notes).unwrap();
        assert!(paths.lines().any(|it| Path::new(it) == path), "{}: {paths}", path.display());
    };
    // The server makes its folder and its key.
    let options = Options { key: None, ..Options::default() };
    let command = with_recorder(options.command(&dir), &library, &started);
    let server = Server::spawn(command, dir, false);
    let data = server.dir().file("data");
    was_synced(&started, data.parent().unwrap());
    was_synced(&started, &data);
    let control = server.control.to_string();
    let register = fws(&["register", "shop", "--control", &control]);
    let mut register = with_recorder(register, &library, &registered);
    assert!(register.arg("--data").arg(&data).status().unwrap().success());
    was_synced(&registered, &data);
    was_synced(&registered, &data.join("keys"));
    let dir = server.stop();
    let backup = dir.file("backup.jsonl");
    let mut export = with_recorder(fws(&["store", "export"]), &library, &exported);
    assert!(export.arg(&backup).arg("--data").arg(&data).status().unwrap().success());
    assert!(backup.exists());
    // The file under its first name, and its folder once it has its own.
    let synced = std::fs::read_to_string(&exported).unwrap();
    let [file, folder] = synced.lines().collect::<Vec<_>>()[..] else { panic!("{synced}") };
    assert!(file.starts_with(folder) && file.ends_with("-backup.jsonl"), "{synced}");
    assert_eq!(Path::new(folder), backup.parent().unwrap());
}
