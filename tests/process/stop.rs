//! Stopping and starting without a thundering herd: when each connection is closed, what it is
//! told, and how many are admitted at a time.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::common::browser::{Browser, Heard, back_ms, upgrade};
use crate::common::eventually;
use crate::common::http;
use crate::common::server::{Options, Server};
use crate::common::web::{Http, session, session_on};
use crate::common::wire::Wire;
use fws::hub::{Change, Hub};
use fws::journal::store::{Medium, Seal, StoreJournal, StoreMeta, Writer};
use fws::journal::{Journal, Recorder};
use fws::limits::{Limits, SyncPolicy};
use fws::sim::disk::{SimFile, SimFolder};
use fws::time::{Now, UnixMillis};
use rustix::process::{Signal, kill_process};
use serde_json::json;

/// When each browser was closed and when it may reconnect, in milliseconds since the signal.
fn told(browsers: Vec<Browser>, start: Instant) -> Vec<(u64, u64)> {
    let hear = |mut browser: Browser| {
        std::thread::spawn(move || {
            loop {
                match browser.next().unwrap() {
                    Heard::Close(1001, reason) => {
                        let at = start.elapsed().as_millis() as u64;
                        return (at, at + back_ms(&reason));
                    }
                    Heard::Text(_) | Heard::Ping => {}
                    other => panic!("{other:?}"),
                }
            }
        })
    };
    let threads: Vec<_> = browsers.into_iter().map(hear).collect();
    let mut told: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    told.sort_unstable();
    told
}

#[test]
fn a_stop_spreads_disconnects_and_reconnects_evenly() {
    let limits = [("drain_ms", 4000), ("admissions_per_second", 50), ("admissions_burst", 1000)];
    let server = Server::start(&Options::limits(&limits));
    let crowd: Vec<Browser> =
        (1..=200).map(|i| server.browser("demo", &format!(r#"{{"i":{i}}}"#))).collect();
    let start = Instant::now();
    server.terminate();
    let told = told(crowd, start);
    let exit = Instant::now();
    server.exited();
    assert!(exit.elapsed() < Duration::from_secs(2), "the server waits for no client");
    assert!(start.elapsed() < Duration::from_millis(4200), "{:?}", start.elapsed());
    // Over three of the four seconds: the last one is for closing handshakes.
    for (quarter, from) in [0, 750, 1500, 2250].into_iter().enumerate() {
        let count = told.iter().filter(|(at, _)| (from..from + 750).contains(at)).count();
        assert!((30..75).contains(&count), "{count} in quarter {quarter}: {told:?}");
    }
    // No reconnect before the server can be back, nor more per second than are admitted.
    let mut back: Vec<u64> = told.iter().map(|(_, back)| *back).collect();
    back.sort_unstable();
    assert!(back[0] >= 3700, "{back:?}");
    for second in (back[0]..back[199]).step_by(1000) {
        let count = back.iter().filter(|at| (second..second + 1000).contains(*at)).count();
        assert!(count <= 60, "{count} of them in one second: {back:?}");
    }
    assert!((3500..5000).contains(&(back[199] - back[0])), "{back:?}");
}

#[test]
fn a_stop_disconnects_any_number_of_back_ends() {
    // More than are closed in one turn, with a drain time longer than this test waits.
    let server = Server::start(&Options::limits(&[("drain_ms", 60_000)]));
    let back_ends: Vec<_> = (0..200).map(|_| server.controller("demo")).collect();
    server.terminate();
    server.exited();
    drop(back_ends);
}

#[test]
fn back_ends_are_served_until_the_last_browser_leaves() {
    let server = Server::start(&Options::limits(&[("drain_ms", 4000)]));
    let mut crowd: Vec<Browser> =
        (1..=40).map(|i| server.browser("demo", &format!(r#"{{"i":{i}}}"#))).collect();
    crowd.iter_mut().for_each(|browser| browser.subscribe("c"));
    let mut control = server.controller("demo");
    server.terminate();
    crowd[0].expect_going_away();
    let emit = r#"{"action":"emit","channel":"c","data":"last","params":{"count":true}}"#;
    let count = control.ask(emit);
    let (first, last) = (r#"{"success":true,"count":"#, crowd.last_mut().unwrap());
    let count: usize = count.strip_prefix(first).unwrap().trim_end_matches('}').parse().unwrap();
    assert!((10..40).contains(&count), "{count} were still connected");
    last.expect(r#"{"event":"c","data":"last"}"#);
    last.expect_going_away();
    control.expect_closed();
    server.exited();
}

#[test]
fn a_second_signal_stops_the_server_at_once() {
    let server = Server::new();
    let mut crowd: Vec<Browser> =
        (1..=100).map(|i| server.browser("demo", &format!(r#"{{"i":{i}}}"#))).collect();
    let start = Instant::now();
    // Signals that arrive together count as one.
    server.freeze();
    server.terminate();
    kill_process(server.pid(), Signal::INT).unwrap();
    server.thaw();
    // One is closed every fifty milliseconds; after six, a signal counts as another one.
    crowd[..6].iter_mut().for_each(|browser| assert!(browser.expect_going_away() > 0));
    server.terminate();
    server.ended();
    assert!(start.elapsed() < Duration::from_millis(3000), "{:?}", start.elapsed());
}

#[test]
fn requests_during_a_stop_get_retry_after() {
    let server = Server::start(&Options::limits(&[("drain_ms", 4000)]));
    // Browsers that make the stop take its time; they connected first, and are closed first.
    let crowd: Vec<Browser> =
        (1..=20).map(|i| server.browser("demo", &format!(r#"{{"i":{i}}}"#))).collect();
    let mut poll = Http::connect(server.ws);
    poll.raw(format!("POST /socket/{}/xhr HTTP/1.1\r\nHost: h\r\n\r\n", session()));
    assert_eq!(poll.answer().body, "o\n");
    let mut half = Http::connect(server.ws);
    half.raw("GET /socket/in");
    let mut late = Wire::tcp(server.ws);
    late.write_all(b"GET /socket HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut newcomer = Http::connect(server.ws);
    newcomer.raw("GET /socket HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(newcomer.answer().status, 200);
    server.terminate();
    let mut crowd = crowd.into_iter();
    crowd.next().unwrap().expect_going_away();
    // During the stop, open connections are answered, but no new session is opened.
    newcomer.raw(format!("POST /socket/{}/xhr HTTP/1.1\r\nHost: h\r\n\r\n", session()));
    let answer = newcomer.answer();
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert_eq!((answer.status, &*answer.body), (503, "The server is stopping\n"));
    assert!((1..10).contains(&seconds), "{seconds}");
    late.write_all(upgrade("/socket/websocket", &[]).as_bytes()).unwrap();
    let rest = String::from_utf8(late.read_rest().unwrap()).unwrap();
    let second = rest.split("HTTP/1.1 ").nth(2).expect("two answers");
    assert!(second.starts_with("503 ") && second.contains("Retry-After: "), "{rest}");
    let answer = half.answer();
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
    server.exited();
}

/// Between two polls a client has no request to answer: the next one that comes is told.
#[test]
fn a_poll_that_arrives_during_a_stop_is_told_when_to_reconnect() {
    let server = Server::start(&Options::limits(&[("drain_ms", 4000)]));
    let crowd: Vec<Browser> =
        (1..=60).map(|i| server.browser("demo", &format!(r#"{{"i":{i}}}"#))).collect();
    let ids = [7, 8].map(|user| session_on(server.ws, user, "c"));
    let mut polls = [(); 2].map(|()| Http::connect(server.ws));
    let poll = |http: &mut Http, id: &str| http.send(&format!("POST /socket/{id}/xhr"), &[], "");
    let mut control = server.controller("demo");
    let mut emit = |data: &str| {
        control.ok(&json!({ "action": "emit", "channel": "c", "data": data }).to_string());
    };
    emit("before");
    for (http, id) in polls.iter_mut().zip(&ids) {
        poll(http, id);
        assert!(http.answer().body.contains("before"));
    }
    server.terminate();
    let mut crowd = crowd.into_iter();
    crowd.next().unwrap().expect_going_away();
    // What was published since the last poll comes first.
    poll(&mut polls[0], &ids[0]);
    emit("meanwhile");
    assert!(polls[0].answer().body.contains("meanwhile"));
    for (http, id) in polls.iter_mut().zip(&ids).rev() {
        poll(http, id);
    }
    assert!(polls[1].answer().body.contains("meanwhile"));
    poll(&mut polls[1], &ids[1]);
    for http in &mut polls {
        let told = http.answer().body;
        let reason = told.strip_prefix("c[1001,\"").and_then(|rest| rest.strip_suffix("\"]\n"));
        assert!(back_ms(reason.unwrap_or_else(|| panic!("{told}"))) >= 1000, "{told}");
    }
    server.exited();
}

#[test]
fn a_poll_waiting_for_memory_is_told_when_to_reconnect() {
    let limits = [("answers_bytes", 1_000_000), ("kernel_send_bytes", 16_384), ("drain_ms", 2000)];
    let mut options = Options::limits(&limits);
    options.config["admin"] = json!("127.0.0.1:0");
    let server = Server::start(&options);
    let mut control = server.controller("demo");
    let say = |action: &str, channel: &str, bytes: usize| {
        json!({ "action": action, "channel": channel, "data": "x".repeat(bytes) }).to_string()
    };
    control.ok(&say("set", "big", 3_000_000));
    let id = session_on(server.ws, 1, "c");
    control.ok(&say("emit", "c", 9000));
    let mut stuck = server.browser("demo", r#"{"i":2}"#);
    stuck.say(r#"{"event":"subscribe","data":"big"}"#);
    eventually("the answer budget is full", || {
        let page = http::request(server.admin(), "GET /metrics", &[]).ok()?.body;
        page.contains("\nfws_shortages_total 1\n").then_some(())
    });
    let mut poll = Http::connect(server.ws);
    poll.send(&format!("POST /socket/{id}/xhr"), &[], "");
    poll.expect_silence();
    server.terminate();
    let told = poll.answer().body;
    assert!(told.starts_with(r#"c[1001,"server going away, come back in "#), "{told}");
}

#[test]
fn new_connections_are_admitted_at_the_configured_rate() {
    let mut options = Options::default();
    options.config["admin"] = json!("127.0.0.1:0");
    options.config["limits"] = json!({ "admissions_per_second": 5, "admissions_burst": 10 });
    let server = Server::start(&options);
    let ask = || http::request(server.ws, "GET /socket/info", &[]).unwrap();
    let start = Instant::now();
    let answers: Vec<_> = (0..60).map(|_| ask()).collect();
    let most = 10 + 1 + start.elapsed().as_millis() / 200;
    let (inside, outside): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 200);
    assert!(inside.len() >= 10 && inside.len() as u128 <= most, "{} of {most}", inside.len());
    assert!(outside.iter().all(|a| a.status == 503 && a.body == "Too many come at once\n"));
    // Retries are spread: as many in each second as will be admitted.
    let seconds: Vec<usize> =
        outside.iter().map(|a| a.header("retry-after").unwrap().parse().unwrap()).collect();
    assert!(seconds.iter().all(|second| (1..=11).contains(second)), "{seconds:?}");
    let same = (1..=11).map(|n| seconds.iter().filter(|second| **second == n).count()).max();
    assert!(same.is_some_and(|count| count <= 11), "{seconds:?}");
    // Back ends are admitted all the same, and after a while browsers too.
    assert_eq!(server.control().ask(r#"{"action":"ping"}"#), r#"{"success":true}"#);
    eventually("it is admitted", || (ask().status == 200).then_some(()));
    let counted = server.metric(r#"fws_connections_turned_away_total{reason="crowd"}"#) as usize;
    assert!(counted >= outside.len(), "{counted} of {}", outside.len());
    let alive = || Browser::open(server.ws, "/socket/websocket", &[], &[]).ok();
    drop(eventually("a WebSocket is admitted", alive));
}

/// A disk that delays each batch by this time, and hangs for ever when the seal is synced.
struct HangingDisk(SimFolder, Duration);

impl Medium for HangingDisk {
    type Backend = SimFile;

    fn open(&self) -> std::io::Result<SimFile> {
        self.0.open()
    }
    fn open_next(&self) -> std::io::Result<SimFile> {
        self.0.open_next()
    }
    fn install_next(&self) -> std::io::Result<()> {
        self.0.install_next()
    }
    fn is_in_place(&self) -> std::io::Result<()> {
        std::thread::park_timeout(self.1);
        Ok(())
    }
    fn seal(&self, seal: &Seal) -> std::io::Result<()> {
        self.0.seal(seal)
    }
    fn sync_seal(&self) -> std::io::Result<()> {
        loop {
            std::thread::park();
        }
    }
}

/// So long that a batch never ends.
const FOREVER: Duration = Duration::from_secs(3600);

/// Sets a state and closes the store on a disk on which each batch takes this time and the final
/// sync never ends. Returns how many acknowledged states are lost, and how long the close took.
fn close_stuck(
    sync: SyncPolicy,
    batch: Duration,
    is_urged: &mut dyn FnMut() -> bool,
) -> (usize, Duration) {
    let (start, limits) = (UnixMillis(1_800_000_000_000), Limits::default());
    let meta = StoreMeta { key: [7; 32], term: 1, batch: 0, clock: (start, start) };
    let folder = SimFolder::new(SimFile::default());
    let writer = Writer::create(folder.open().unwrap(), &meta).unwrap();
    let (opened, wake) = ((meta, Ok(writer)), Box::new(|| ()));
    let mut journal =
        StoreJournal::start(HangingDisk(folder, batch), opened, sync, &limits, wake).unwrap();
    let mut hub = Hub::new(limits, start);
    hub.declare("a", "k", &mut Recorder(&mut journal)).unwrap();
    let set = Change::Set {
        ns: hub.namespace("a").unwrap(),
        channel: "c".into(),
        user: None,
        data: "1".into(),
        ttl_ms: None,
        emit: false,
    };
    hub.apply(start, &set, None, &mut Recorder(&mut journal)).unwrap();
    let (began, now) = (Instant::now(), Now { unix: start, ..Now::default() });
    let unkept = journal.close(&hub, start, now, is_urged);
    (unkept, began.elapsed())
}

#[test]
fn a_stop_waits_once_for_a_hanging_disk() {
    let every = SyncPolicy::Every(1000);
    let close = |batch| close_stuck(every, batch, &mut || false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| close(FOREVER));
        let (unkept, took) = close(Duration::from_secs(6));
        assert!(unkept == 0 && took < Duration::from_secs(13), "{unkept} {took:?}");
        let (unkept, took) = other.join().unwrap();
        assert!(unkept == 1 && took < Duration::from_secs(13), "{unkept} {took:?}");
    });
}

#[test]
fn a_second_signal_waits_only_for_acknowledged_changes() {
    let mut asked = 0;
    let mut is_urged = || {
        asked += 1;
        asked == 2
    };
    let (unkept, took) = close_stuck(SyncPolicy::Always, FOREVER, &mut is_urged);
    assert!(unkept == 0 && took < Duration::from_secs(5), "{took:?}");
    // A slow disk may yet recover, and this one does.
    let (every, batch) = (SyncPolicy::Every(1000), Duration::from_secs(2));
    let (unkept, took) = close_stuck(every, batch, &mut || true);
    assert!(unkept == 0 && took >= batch, "{unkept} {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
