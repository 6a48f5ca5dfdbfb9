//! Standard streams that are closed, full or unread, and SIGPIPE: none of them stops or blocks the
//! server.

use std::io::{PipeReader, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::control::{Control, DONE, PING};
use crate::common::server::{Dir, Options};
use crate::common::{DEADLINE, eventually};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// A server whose output is not read: the tests reach it only by its unix socket.
struct UnreadServer {
    child: Child,
    control: Control,
    dir: Dir,
}

impl UnreadServer {
    fn start(dir: Dir, mut command: Command) -> UnreadServer {
        let child = command.spawn().unwrap();
        let socket = dir.file("control.sock");
        eventually("it listens", || UnixStream::connect(&socket).ok());
        let mut control = Control::unix(&socket);
        control.auth("demo");
        UnreadServer { child, control, dir }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reloads it with another limit, which it logs.
    fn reload(&mut self, session_ms: u64) {
        let config = Options::limits(&[("session_ms", session_ms)]).config.to_string();
        std::fs::write(self.dir.file("config.json"), config).unwrap();
        self.signal(Signal::HUP);
    }

    /// Makes it log much, and checks that it still answers commands.
    fn check_while_logging(&mut self) {
        for n in 0..300 {
            self.reload(5000 + n % 2);
            let start = Instant::now();
            assert_eq!(self.control.ask(PING), DONE);
            assert!(start.elapsed() < Duration::from_secs(5), "it waits for a reader of its log");
        }
    }

    #[track_caller]
    fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = eventually("it ends", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for UnreadServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn options() -> Options {
    Options { unix: true, ..Options::default() }
}

/// The command of a server, with these shell redirections of its standard streams.
fn redirected(dir: &Dir, streams: &str) -> Command {
    let server = options().command(dir);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(r#"exec "$0" "$@" {streams}"#));
    command.arg(server.get_program()).args(server.get_args());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[test]
fn closed_or_full_standard_streams_do_not_stop_the_server() {
    for streams in [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2</dev/null"] {
        let dir = Dir::new();
        let command = redirected(&dir, streams);
        let mut server = UnreadServer::start(dir, command);
        server.check_while_logging();
        server.stop();
    }
}

/// Reads until this text appears.
fn read_to(pipe: &mut PipeReader, text: &str) -> String {
    let (mut all, mut some) = (String::new(), [0; 65_536]);
    while !all.contains(text) {
        let deadline = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&deadline));
        assert_eq!(ready, Ok(1), "{text} never comes: {all}");
        let count = pipe.read(&mut some).unwrap();
        assert!(count > 0, "{text} never comes");
        all += &String::from_utf8_lossy(&some[..count]);
    }
    all
}

#[test]
fn an_unread_log_pipe_does_not_block_the_server() {
    let (mut ours, mut theirs) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&theirs, true).unwrap();
    while theirs.write(&[b'x'; 4096]).is_ok() {}
    // The child shares this setting, and must work without it.
    rustix::io::ioctl_fionbio(&theirs, false).unwrap();
    let dir = Dir::new();
    let mut command = options().command(&dir);
    command.stdout(Stdio::from(theirs.try_clone().unwrap())).stderr(Stdio::from(theirs));
    let mut server = UnreadServer::start(dir, command);
    server.check_while_logging();
    // The log lines since the start are lost; their number is logged when the pipe is read again.
    let mut some = [0; 65_536];
    ours.read_exact(&mut some).unwrap();
    server.reload(4000);
    let told = read_to(&mut ours, "session_ms is 4000");
    let lost = told.split_once("fws: warning: ").unwrap().1;
    let lost: u64 = lost.split_once(" lines of the log are lost").unwrap().0.parse().unwrap();
    assert!(lost > 300, "{told}");
    assert_eq!(told.matches("are lost").count(), 1, "{told}");
    server.stop();
}

#[test]
fn log_lines_lost_to_a_full_disk_are_counted_afterwards() {
    let dir = Dir::new();
    let log = dir.file("log");
    let lines = || std::fs::read_to_string(&log).unwrap();
    let mut command = options().command(&dir);
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut server = UnreadServer::start(dir, command);
    let pid = Pid::from_child(&server.child);
    let bound = |bytes| {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).unwrap();
    };
    // There is room for part of the next line only.
    bound(Some(lines().len() as u64 + 30));
    server.check_while_logging();
    bound(None);
    server.reload(4000);
    let told = eventually("it is logged", || Some(lines()).filter(|told| told.contains("is 4000")));
    let lost = told.split_once("\nfws: warning: ").expect(&told).1;
    let lost: u64 = lost.split_once(" lines of the log are lost").unwrap().0.parse().unwrap();
    assert!(lost > 300, "{told}");
    assert_eq!(told.matches("are lost").count(), 1, "{told}");
    server.stop();
}

#[test]
fn sigpipe_is_ignored() {
    let dir = Dir::new();
    let mut command = options().command(&dir);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = UnreadServer::start(dir, command);
    server.signal(Signal::PIPE);
    assert_eq!(server.control.ask(PING), DONE);
    server.stop();
}
