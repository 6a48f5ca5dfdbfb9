//! A store, or its whole folder, that is removed or replaced under a running server. The server
//! notices, takes back what is its own, and rewrites everything it knows.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::control::{Control, DONE, FULL, get, set};
use crate::common::eventually;
use crate::common::server::{Dir, Options, SERVER_KEY, Server, run_to_end};

/// Sends `change` while a store cannot be written, until it is accepted.
fn until_taken(control: &mut Control, change: &str) {
    eventually("the store accepts changes", || (control.ask(change) == DONE).then_some(()));
}

#[test]
fn a_removed_store_is_rewritten() {
    let server = Server::new();
    let folder = server.dir().file("data");
    let mut control = server.controller("demo");
    control.ok(&set("before", "1"));
    let lost = |control: &mut Control, path: &str| {
        assert_eq!(control.ask(&set(path, "2")), FULL, "the change is on no disk");
        until_taken(control, &set(path, "3"));
    };
    std::fs::remove_file(folder.join("store.redb")).unwrap();
    lost(&mut control, "removed");
    server.told("store.redb was removed while the server runs");
    // The removal is noticed even when no command arrives.
    std::fs::remove_file(folder.join("store.redb")).unwrap();
    eventually("it is there again", || folder.join("store.redb").exists().then_some(()));
    // A foreign file in its place is kept under another name.
    std::fs::write(folder.join("a backup"), "a backup").unwrap();
    std::fs::rename(folder.join("a backup"), folder.join("store.redb")).unwrap();
    lost(&mut control, "replaced");
    server.told("store.redb was replaced while the server runs");
    let strange = std::fs::read_to_string(folder.join("store.redb.strange")).unwrap();
    assert_eq!(strange, "a backup");
    // The next start finds everything.
    let server = Server::start_in(server.crash(), &Options::default());
    let mut control = server.controller("demo");
    for (channel, value) in [("before", "1"), ("removed", "3"), ("replaced", "3")] {
        assert_eq!(control.ask(&get(channel)), value, "{channel}");
    }
}

#[test]
fn a_recreated_data_folder_is_locked_again() {
    let server = Server::new();
    let folder = server.dir().file("data");
    let mut control = server.controller("demo");
    control.ok(&set("before", "1"));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(control.ask(&set("c", "2")), FULL, "there is no folder");
    server.told("data was removed while the server runs");
    std::fs::create_dir(&folder).unwrap();
    until_taken(&mut control, &set("c", "3"));
    // The new folder is locked as the former one was, so that no other process can use it.
    let holder = format!("is in use by process {}", server.pid().as_raw_nonzero());
    for command in
        [&["serve", "--ws", "127.0.0.1:0", "--control", "127.0.0.1:0"][..], &["store", "import"]]
    {
        let mut other = Command::new(Options::default().command(&Dir::new()).get_program());
        other.args(command).arg("--data").arg(&folder).env("FWS_SECRETKEY", SERVER_KEY);
        other.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (code, log) = run_to_end(other);
        assert!(code == Some(1) && log.contains(&holder), "{command:?}: {code:?}: {log}");
    }
    // The seal is there too, and records the batches since.
    let old = std::fs::read(folder.join("store.redb")).unwrap();
    control.ok(&set("c", "4"));
    let dir = server.crash();
    let new = std::fs::read(folder.join("store.redb")).unwrap();
    std::fs::write(folder.join("store.redb"), old).unwrap();
    let (code, log) = run_to_end(Options::default().command(&dir));
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("if this is a backup, remove store.seal"), "{log}");
    std::fs::write(folder.join("store.redb"), new).unwrap();
    let server = Server::start_in(dir, &Options::default());
    let mut control = server.controller("demo");
    assert_eq!(control.ask(&get("before")), "1");
    assert_eq!(control.ask(&get("c")), "4");
}

/// The other server locked it first: it keeps it until it stops, and its store is preserved.
#[test]
fn a_data_folder_taken_by_another_server_is_left_to_it() {
    let server = Server::new();
    let folder = server.dir().file("data");
    let mut control = server.controller("demo");
    control.ok(&set("c", "1"));
    // Frozen, since it would soon notice the loss of its folder.
    server.freeze();
    let elsewhere = Dir::new();
    std::fs::rename(&folder, elsewhere.file("before")).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&folder, elsewhere.file("data")).unwrap();
    let second = Server::start_in(elsewhere, &Options::default());
    let mut other = second.controller("demo");
    other.ok(&set("c", "\"theirs\""));
    server.thaw();
    assert_eq!(control.ask(&set("c", "2")), FULL, "the folder is another server's");
    let holder = format!("is in use by process {}", second.pid().as_raw_nonzero());
    server
        .told(&format!("the store still cannot be written (the data folder {}", folder.display()));
    server.told(&holder);
    other.ok(&set("d", "\"theirs\""));
    assert_eq!(control.ask(&get("c")), "1");
    second.stop();
    until_taken(&mut control, &set("c", "3"));
    assert!(folder.join("store.redb.strange").exists());
    let server = Server::start_in(server.crash(), &Options::default());
    assert_eq!(server.controller("demo").ask(&get("c")), "3");
    assert_eq!(server.controller("demo").ask(&get("d")), "null");
}

/// A store that replaces one that cannot be written for lack of space is not accepted: neither
/// another file under its name, nor other bytes in the same file.
#[test]
fn an_older_copy_put_in_place_on_a_full_disk_is_not_accepted() {
    type Put = fn(&Path, &[u8]);
    let beside: Put = |store, bytes| {
        std::fs::write(store.with_extension("backup"), bytes).unwrap();
        std::fs::rename(store.with_extension("backup"), store).unwrap();
    };
    let over: Put = |store, bytes| std::fs::write(store, bytes).unwrap();
    for put in [beside, over] {
        let dir = Dir::new();
        let server = Options::limits(&[("store_retry_ms", 2000)]).command(&dir);
        let mut command = Command::new("prlimit");
        command.arg("--fsize=3000000:").arg(server.get_program()).args(server.get_args());
        command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let server = Server::spawn(command, dir, false);
        let store = server.dir().file("data/store.redb");
        let mut control = server.controller("demo");
        control.ok(&set("a", "1"));
        let old = std::fs::read(&store).unwrap();
        control.ok(&set("a", "2"));
        let value = format!("\"{}\"", "x".repeat(20_000));
        let full = (0..300).find(|i| control.ask(&set(&format!("s{i}"), &value)) == FULL);
        put(&store, &old);
        let full = full.unwrap();
        let pid = server.pid().as_raw_nonzero().to_string();
        let grow = ["--fsize=unlimited:", "--pid", &pid];
        assert!(Command::new("prlimit").args(grow).status().unwrap().success());
        until_taken(&mut control, &set("b", "3"));
        let server = Server::start_in(server.crash(), &Options::default());
        let mut control = server.controller("demo");
        assert_eq!(control.ask(&get("a")), "2");
        assert_eq!(control.ask(&get("b")), "3");
        for i in 0..full {
            assert_eq!(control.ask(&get(&format!("s{i}"))), value, "state {i} of {full}");
        }
    }
}
