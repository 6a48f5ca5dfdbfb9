//! The server under test: starts the binary on free ports, collects its log, and stops it.

use super::browser::Browser;
use super::command::forget_settings;
use super::control::Control;
use super::http::request;
use super::{DEADLINE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// The server key of the tests.
pub const SERVER_KEY: &str = "the-server-key-of-the-tests";
/// The key of the namespace `demo`, the same as in the reference.
pub const DEMO_KEY: &str = "11111111-1111-4111-8111-111111111111";
/// The key of the namespace `other`.
pub const OTHER_KEY: &str = "22222222-2222-4222-8222-222222222222";

/// The key of one of the two namespaces.
pub fn key_of(namespace: &str) -> &'static str {
    match namespace {
        "demo" => DEMO_KEY,
        "other" => OTHER_KEY,
        name => panic!("no such namespace: {name}"),
    }
}

/// A temporary directory, removed when dropped.
pub struct Dir(PathBuf);

impl Dir {
    /// Makes an empty directory.
    pub fn new() -> Dir {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fws-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Dir(path)
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // A directory that stays behind does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How a server is started.
pub struct Options {
    /// The content of its configuration file.
    pub config: Value,
    /// `FWS_SECRETKEY`, if it is to be set.
    pub key: Option<String>,
    /// Whether to listen for back ends on `control.sock` in the directory too.
    pub unix: bool,
    /// The limit of open descriptors, if not that of this process.
    pub descriptors: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        let namespaces = json!({ "demo": DEMO_KEY, "other": OTHER_KEY });
        Options {
            config: json!({ "namespaces": namespaces }),
            key: Some(SERVER_KEY.into()),
            unix: false,
            descriptors: None,
        }
    }
}

impl Options {
    /// Default options with these limits.
    pub fn limits(limits: &[(&str, u64)]) -> Options {
        let mut options = Options::default();
        for (name, value) in limits {
            options.config["limits"][*name] = json!(value);
        }
        options
    }

    /// The command that starts a server with its files in this directory.
    pub fn command(&self, dir: &Dir) -> Command {
        let config = dir.file("config.json");
        std::fs::write(&config, self.config.to_string()).expect("a configuration file");
        // It holds keys; the server warns if others may read them.
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&config, private).expect("a file of our own");
        // The environment may name another binary with the same flags.
        let binary = std::env::var("FWS_TEST_BINARY").unwrap_or(env!("CARGO_BIN_EXE_fws").into());
        let mut command = match self.descriptors {
            None => Command::new(binary),
            // A limit is inherited, so set it in a shell in between.
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!(r#"ulimit -n {count} && exec "$0" "$@""#)).arg(binary);
                shell
            }
        };
        command.arg("serve").args(["--ws", "127.0.0.1:0"]).args(["--control", "127.0.0.1:0"]);
        command.arg("--data").arg(dir.file("data")).arg("--config").arg(config);
        if self.unix {
            command.arg("--control-unix").arg(dir.file("control.sock"));
        }
        forget_settings(&mut command);
        if let Some(key) = &self.key {
            command.env("FWS_SECRETKEY", key);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// Threads that read the log until it ends.
    readers: Vec<JoinHandle<()>>,
    /// The address for browsers.
    pub ws: SocketAddr,
    /// The address for back ends.
    pub control: SocketAddr,
    // Last, so that it outlives the process.
    dir: Dir,
}

impl Server {
    /// Starts a server with the namespaces `demo` and `other`.
    pub fn new() -> Server {
        Server::start(&Options::default())
    }

    /// Starts a server.
    pub fn start(options: &Options) -> Server {
        Server::start_in(Dir::new(), options)
    }

    /// Starts a server in a directory that may hold the files of an earlier one.
    pub fn start_in(dir: Dir, options: &Options) -> Server {
        let command = options.command(&dir);
        Server::spawn(command, dir, options.unix)
    }

    /// Starts a server with a command made for this directory; `unix`: it has a unix socket too.
    pub fn spawn(mut command: Command, dir: Dir, unix: bool) -> Server {
        let mut child = command.spawn().expect("the binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, readers) = drain(&mut child, Arc::clone(&log));
        let doors = wait_for_doors(&lines, unix);
        let Some((ws, control)) = doors else {
            // The log says more than a missed deadline.
            let _ = child.kill();
            let status = child.wait();
            panic!("no doors, {status:?}: {:#?}", log.lock().expect("a log"));
        };
        Server { child, log, readers, ws, control, dir }
    }

    /// A new control connection, over TCP.
    pub fn control(&self) -> Control {
        Control::tcp(self.control)
    }

    /// A new control connection that has authenticated for a namespace.
    pub fn controller(&self, namespace: &str) -> Control {
        let mut control = self.control();
        control.auth(namespace);
        control
    }

    /// A new raw WebSocket, authenticated with this token payload.
    pub fn browser(&self, namespace: &str, payload: &str) -> Browser {
        let mut browser = Browser::raw(self.ws);
        browser.auth(namespace, payload);
        browser
    }

    /// The same for any namespace, given its key.
    pub fn browser_of(&self, namespace: &str, key: &str, payload: &str) -> Browser {
        let mut browser = Browser::raw(self.ws);
        browser.auth_with(namespace, &super::token::token(payload, key));
        browser
    }

    /// Its directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The path of its unix control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.file("control.sock")
    }

    /// All lines of the log read so far, from both streams. Lines after those with the addresses
    /// may still be on their way; the log is complete once the server has been seen to end.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("a log").clone()
    }

    /// Waits for a log line that contains these words, and returns the first.
    #[track_caller]
    pub fn told(&self, words: &str) -> String {
        let has = |line: &String| line.contains(words);
        eventually(&format!("it says {words:?}"), || self.log().into_iter().find(has))
    }

    /// The address of its admin port.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        let line = self.told("listening admin=");
        let address =
            line.split_once("admin=").and_then(|(_, address)| address.trim().parse().ok());
        address.unwrap_or_else(|| panic!("no address: {line}"))
    }

    /// The value of a metric of its admin port, by its name and labels.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let page = request(self.admin(), "GET /metrics", &[]).unwrap().body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    /// Its exit status, if it has ended; its log is complete then.
    #[track_caller]
    fn status(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child")?;
        let is_read = || self.readers.iter().all(JoinHandle::is_finished).then_some(());
        eventually("its log is read to the end", is_read);
        Some(status)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Replaces its configuration file.
    pub fn rewrite(&self, config: &Value) {
        std::fs::write(self.dir().file("config.json"), config.to_string()).expect("a file of ours");
    }

    /// Replaces its configuration file, and reloads it.
    pub fn reload_with(&self, config: &Value) -> Vec<String> {
        self.rewrite(config);
        self.reload()
    }

    /// Sends SIGHUP, waits until the log states the result, and returns the log lines of this
    /// reload.
    pub fn reload(&self) -> Vec<String> {
        let told = self.log().len();
        kill_process(self.pid(), Signal::HUP).expect("a process of ours");
        let is_end = |line: &String| {
            ["reload: done", "reload: nothing"].iter().any(|end| line.contains(end))
        };
        let has_ended = || self.log()[told..].iter().any(is_end).then_some(());
        eventually("the result is logged", has_ended);
        self.log()[told..].to_vec()
    }

    /// Asserts that the same process still serves both ports.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        assert_eq!(self.child.try_wait().expect("a child"), None, "{:#?}", self.log());
        let mut control = self.control();
        control.auth("demo");
        assert_eq!(control.ask(r#"{"action":"ping"}"#), r#"{"success":true}"#);
        let mut browser = self.browser("demo", r#"{"i":"alive"}"#);
        browser.nothing();
    }

    /// Kills it, as in a crash, and returns its directory.
    pub fn crash(mut self) -> Dir {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
        std::mem::replace(&mut self.dir, Dir::new())
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("a child");
    }

    /// Stops the process until `thaw`: what arrives meanwhile is handled in one turn.
    pub fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("a child");
        // SIGSTOP is delivered before every thread has stopped.
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_still = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a task").path().join("stat"));
            stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, it)| it.starts_with('T')))
        };
        super::eventually("the process is stopped", || {
            std::fs::read_dir(&tasks).expect("Linux tells").all(is_still).then_some(())
        });
    }

    /// Continues the process.
    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("a child");
    }

    /// Its peak memory so far.
    pub fn peak_memory_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("Linux tells how a process is");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB")).expect("a peak in kB");
        peak.parse::<usize>().expect("a number") * 1024
    }

    /// Waits until it has ended, and returns its directory. Panics if the exit code is not 0.
    #[track_caller]
    pub fn exited(mut self) -> Dir {
        let status = eventually("it ends", || self.status());
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
        std::mem::replace(&mut self.dir, Dir::new())
    }

    /// Its exit code, if it has ended.
    pub fn exit_code(&mut self) -> Option<Option<i32>> {
        self.status().map(|status| status.code())
    }

    /// Waits until it has ended, in any way.
    #[track_caller]
    pub fn ended(mut self) {
        eventually("it ends", || self.child.try_wait().expect("a child"));
    }

    /// Sends SIGTERM, and waits for exit code 0.
    #[track_caller]
    pub fn stop(self) -> Dir {
        self.terminate();
        self.exited()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended already, as the test intended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end; returns exit code and output. Panics if it does not end.
#[track_caller]
pub fn run_to_end(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.spawn().expect("the binary starts");
    let log = Arc::new(Mutex::new(Vec::new()));
    let (lines, _) = drain(&mut child, Arc::clone(&log));
    let start = Instant::now();
    // The channel closes when both streams have ended.
    while let Ok(_line) = lines.recv_timeout(DEADLINE.saturating_sub(start.elapsed())) {}
    let status = child.try_wait().expect("a child");
    let _ = child.kill();
    let status = status.or_else(|| child.wait().ok());
    let log = log.lock().expect("a log").join("\n");
    (status.and_then(|status| status.code()), log)
}

/// A command whose data folder is a file system of `size` MB in a mount namespace of its own.
pub fn on_small_disk(options: &Options, dir: &Dir, size: u32) -> Command {
    on_disk(options, dir, size, "true")
}

/// The same; runs a shell command before the server, with the data folder as `$0`.
pub fn on_disk(options: &Options, dir: &Dir, size: u32, before: &str) -> Command {
    let server = options.command(dir);
    let mount = dir.file("data");
    std::fs::create_dir_all(&mount).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    let mounted = format!(r#"mount -t tmpfs -o size={size}m none "$0" && {before} && exec "$@""#);
    command.arg(mounted).arg(&mount);
    command.arg(server.get_program()).args(server.get_args());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Fills the disk, and returns the file that does.
pub fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    while std::io::Write::write_all(&mut file, &[0; 1]).is_ok() {}
    path
}

/// The permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("the file is there").permissions().mode() & 0o777
}

/// Reads both streams of a child until they end, so that it never blocks on a full pipe.
fn drain(
    child: &mut Child,
    log: Arc<Mutex<Vec<String>>>,
) -> (Receiver<String>, Vec<JoinHandle<()>>) {
    let (sender, receiver) = channel();
    let out = child.stdout.take().map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>);
    let err = child.stderr.take().map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>);
    let read = |stream: Box<dyn std::io::Read + Send>| {
        let (log, sender) = (Arc::clone(&log), sender.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                log.lock().expect("a log").push(line.clone());
                // The receiver is gone once the addresses are known.
                let _ = sender.send(line);
            }
        })
    };
    let readers = [out, err].into_iter().flatten().map(read).collect();
    (receiver, readers)
}

/// Reads the log up to the lines with the addresses.
fn wait_for_doors(lines: &Receiver<String>, unix: bool) -> Option<(SocketAddr, SocketAddr)> {
    let (mut ws, mut control, mut socket) = (None, None, !unix);
    let start = Instant::now();
    while ws.is_none() || control.is_none() || !socket {
        let line = lines.recv_timeout(DEADLINE.saturating_sub(start.elapsed())).ok()?;
        let Some((_, doors)) = line.split_once("listening ") else { continue };
        for door in doors.split_whitespace() {
            if let Some(address) = door.strip_prefix("ws=") {
                ws = address.parse().ok();
            } else if door.starts_with("control=unix:") {
                socket = true;
            } else if let Some(address) = door.strip_prefix("control=") {
                control = address.parse().ok();
            }
        }
    }
    Some((ws?, control?))
}
