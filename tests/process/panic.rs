//! A panic, which no input may cause, ends the process with a line that names its place, and a
//! supervisor restarts it. The server here runs in the test binary, with a journal that panics.

use std::process::{Command, Stdio};

use crate::common::server::{Dir, Options, Server};
use fws::config::{Config, ConfigFile};
use fws::hub::{Change, Hub, Undo};
use fws::journal::{Event, Journal, Mark, MemoryJournal, Proposal};
use fws::time::{Now, UnixMillis};

/// Panics when a state is set, with the state's data in its message.
struct PanickingJournal(MemoryJournal);

impl Journal for PanickingJournal {
    fn propose(&mut self, at: UnixMillis, change: &Change<'_>) -> Proposal {
        if let Change::Set { data, .. } = &change {
            panic!("cannot keep {data}");
        }
        self.0.propose(at, change)
    }

    fn after_change(&mut self, undo: Undo) {
        self.0.after_change(undo);
    }

    fn commit(&mut self, hub: &Hub, at: UnixMillis, now: Now) {
        self.0.commit(hub, at, now);
    }

    fn poll(&mut self) -> Option<Event> {
        self.0.poll()
    }

    fn mark(&self) -> Mark {
        self.0.mark()
    }

    fn durable(&self) -> Mark {
        self.0.durable()
    }
}

/// The environment variable with the configuration file that makes the test below a server.
const CONFIG_VARIABLE: &str = "FWS_TEST_PANIC_CONFIG";

/// Does nothing unless the other test runs it in a process of its own.
#[test]
fn serve_until_it_panics() {
    let Ok(file) = std::env::var(CONFIG_VARIABLE) else { return };
    let flags = [("config", file.as_str()), ("ws", "127.0.0.1:0"), ("control", "127.0.0.1:0")];
    let config = Config::load(&flags, &[], ConfigFile::read).unwrap();
    let journal = PanickingJournal(MemoryJournal::default());
    fws::server::run_with(config, journal, &|| Err("no other".into())).unwrap();
}

#[test]
fn a_panic_logs_one_line_with_its_place_and_ends_the_process() {
    let dir = Dir::new();
    let mut options = Options::default();
    options.config["data"] = dir.file("data").to_string_lossy().into();
    drop(options.command(&dir));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "panic::serve_until_it_panics", "--nocapture"]);
    command.env(CONFIG_VARIABLE, dir.file("config.json"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Server::spawn(command, dir, false);
    let mut control = server.controller("demo");
    control.send(r#"{"action":"set","channel":"c","data":"a tenant's data"}"#);
    control.expect_closed();
    let code = crate::common::eventually("it ends", || server.exit_code());
    assert_eq!(code, Some(101));
    let line = server.told("error: panic at tests/process/panic.rs:");
    assert!(line.ends_with("; this is a fault of fws, please report it"), "{line}");
    let log = server.log().join("\n");
    assert!(!log.contains("a tenant's data"), "{log}");
}
