//! Socket activation: listeners that a service manager opened before the start, as systemd does
//! (sd_listen_fds(3)). Names decide which is which, and no client is refused during a restart.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::common::browser::Browser;
use crate::common::control::{Control, DONE, PING};
use crate::common::server::{Dir, Options, Server, run_to_end};
use crate::common::{eventually, http};

/// The command of a server that is passed two sockets: a shell gets them as standard streams.
fn handed(dir: &Dir, options: &Options, names: &str, sockets: [OwnedFd; 2]) -> Command {
    handed_by(dir, options, names, "LISTEN_PID=$$", sockets)
}

fn handed_by(
    dir: &Dir,
    options: &Options,
    names: &str,
    pid: &str,
    [one, two]: [OwnedFd; 2],
) -> Command {
    let server = options.command(dir);
    let mut command = Command::new("sh");
    let script = format!(
        r#"exec 3<&0 4<&1 </dev/null >/dev/null
        LISTEN_FDS=2 {pid} LISTEN_FDNAMES={names} exec "$0" "$@""#
    );
    command.arg("-c").arg(script).arg(server.get_program()).args(server.get_args());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::from(one)).stdout(Stdio::from(two)).stderr(Stdio::piped());
    command
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn socket_names_decide_which_listener_is_which() {
    let (control, web) = (listen(), listen());
    let addresses = (web.local_addr().unwrap(), control.local_addr().unwrap());
    let dir = Dir::new();
    let command = handed(&dir, &Options::default(), "control:web", [control.into(), web.into()]);
    let mut server = Server::spawn(command, dir, false);
    assert_eq!((server.ws, server.control), addresses);
    let log = server.log().join("\n");
    assert!(log.contains("2 sockets were handed over"), "{log}");
    assert_eq!(log.matches("listening ").count(), 2, "no other is opened: {log}");
    assert!(!log.contains("keys are sent to"), "{log}");
    server.assert_alive();
    server.stop();
}

#[test]
fn a_public_control_socket_from_the_manager_is_warned_of() {
    let control = TcpListener::bind("0.0.0.0:0").unwrap();
    let dir = Dir::new();
    let sockets = [control.into(), listen().into()];
    let command = handed(&dir, &Options::default(), "control:web", sockets);
    let server = Server::spawn(command, dir, false);
    let log = server.log().join("\n");
    assert!(log.contains("warning: control: keys are sent to 0.0.0.0:"), "{log}");
    server.stop();
}

#[test]
fn unnamed_sockets_are_told_apart_by_their_kind() {
    let dir = Dir::new();
    let path = dir.file("handed.sock");
    let (unix, web) = (UnixListener::bind(&path).unwrap(), listen());
    let ws = web.local_addr().unwrap();
    let command = handed(&dir, &Options::default(), "", [unix.into(), web.into()]);
    let mut server = Server::spawn(command, dir, true);
    assert_eq!(server.ws, ws);
    let mut control = Control::unix(&path);
    control.auth("demo");
    assert_eq!(control.ask(PING), DONE);
    // The configured control port is served too.
    server.assert_alive();
    let _dir = server.stop();
    assert!(path.exists(), "the manager that opened the socket owns its file");
}

#[test]
fn no_connection_is_refused_during_a_restart() {
    let (control, web) = (listen(), listen());
    let (ws, back) = (web.local_addr().unwrap(), control.local_addr().unwrap());
    let options = Options::limits(&[("drain_ms", 500)]);
    let start = |dir: Dir| {
        let sockets = [control.try_clone().unwrap().into(), web.try_clone().unwrap().into()];
        let command = handed(&dir, &options, "control:web", sockets);
        Server::spawn(command, dir, false)
    };
    let server = start(Dir::new());
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    server.terminate();
    browser.expect_going_away();
    // One connects while the server drains, one while there is no server.
    let mut early = Control::tcp(back);
    early.send(PING);
    let dir = server.exited();
    let mut late = Control::tcp(back);
    late.send(PING);
    let waiting = std::thread::spawn(move || Browser::raw(ws));
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(ws).unwrap()).collect();
    let server = start(dir);
    assert_eq!(late.recv(), DONE);
    assert_eq!(early.recv(), DONE);
    waiting.join().unwrap().auth("demo", r#"{"i":1}"#);
    drop(idle);
    server.stop();
}

#[test]
fn a_socket_that_is_no_listener_is_refused_in_one_line() {
    let dir = Dir::new();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let command = handed(&dir, &Options::default(), "web:control", [listen().into(), udp.into()]);
    let (code, said) = run_to_end(command);
    let line = "socket 1 that was handed over (\"control\") is neither TCP nor a unix stream";
    assert!(code == Some(1) && said.ends_with(line), "{said}");
    // A connected socket, as inetd would pass with `nowait`.
    let door = listen();
    let connected = TcpStream::connect(door.local_addr().unwrap()).unwrap();
    let dir = Dir::new();
    let command =
        handed(&dir, &Options::default(), "web:control", [connected.into(), listen().into()]);
    let (code, said) = run_to_end(command);
    let line = "socket 0 that was handed over (\"web\") does not listen";
    assert!(code == Some(1) && said.ends_with(line), "{said}");
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let (control, web) = (listen(), listen());
    let theirs = web.local_addr().unwrap();
    let left_alone = |pid: &str, why: &str| {
        let dir = Dir::new();
        let sockets = [control.try_clone().unwrap().into(), web.try_clone().unwrap().into()];
        let command = handed_by(&dir, &Options::default(), "control:web", pid, sockets);
        let mut server = Server::spawn(command, dir, false);
        assert_ne!(server.ws, theirs);
        let log = server.log().join("\n");
        assert!(
            log.contains(&format!("warning: LISTEN_FDS is \"2\", but LISTEN_PID {why}")),
            "{log}"
        );
        server.assert_alive();
        server
    };
    left_alone("", "is not set").stop();
    let server = left_alone("LISTEN_PID=1", "is \"1\"");
    let status = eventually("it serves", || {
        http::request(server.ws, "GET /socket/info", &[]).ok().map(|answer| answer.status)
    });
    assert_eq!(status, 200);
}
