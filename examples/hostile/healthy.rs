//! The healthy load: 100 subscribers and a back end that publishes 100 messages a second, in a
//! process of higher priority than the attackers; and the campaign's end of the pipe to it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fws::codec::ws::Opcode;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

use crate::words::{self, HEALTHY, HEALTHY_KEY};
use crate::{Outcome, machine};

/// Number of subscribers.
pub const SUBSCRIBERS: usize = 100;
/// Interval between two messages.
const BEAT: Duration = Duration::from_millis(10);
/// The poll token of the back end's connection.
const BACK_END: Token = Token(SUBSCRIBERS);

/// Measurements since the previous query.
#[derive(Clone, Copy, Default)]
pub struct Latency {
    /// Deliveries.
    pub count: u64,
    /// Milliseconds from the publisher to the subscriber.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// Messages that subscribers missed.
    pub lost: u64,
    /// Subscribers that the server disconnected.
    pub cut: u64,
}

/// The process, as the campaign sees it.
pub struct Healthy {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Healthy {
    /// Starts the process; returns when all subscribers are connected.
    pub fn start(web: SocketAddr, control: SocketAddr) -> Outcome<Healthy> {
        let program = std::env::current_exe()?;
        let mut command = machine::on_processor(1, true, &program.to_string_lossy());
        command.args(["healthy", &web.to_string(), &control.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(asks), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipe to the healthy load".into());
        };
        let mut healthy = Healthy { child, asks, answers: BufReader::new(out) };
        let line = healthy.line()?;
        if line.trim() == "ready" {
            return Ok(healthy);
        }
        Err(format!("the healthy load did not start: {line}").into())
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() { Err("the healthy load ended".into()) } else { Ok(line) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its measurements since the previous query.
    pub fn measured(&mut self) -> Outcome<Latency> {
        self.asks.write_all(b"measured\n")?;
        let value: Value = serde_json::from_str(&self.line()?)?;
        let number = |name: &str| value[name].as_f64().unwrap_or(f64::NAN);
        Ok(Latency {
            count: number("count") as u64,
            p50: number("p50"),
            p99: number("p99"),
            p999: number("p999"),
            max: number("max"),
            lost: number("lost") as u64,
            cut: number("cut") as u64,
        })
    }
}

impl Drop for Healthy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the process; its arguments are the addresses of the web and control ports.
pub fn run(args: Vec<String>) -> Outcome<()> {
    let [web, control] = &args[..] else { return Err("healthy WEB CONTROL".into()) };
    let mut load = Load::new(web.parse()?, control.parse()?)?;
    println!("ready");
    let (sender, questions) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut next = Instant::now();
    loop {
        load.pump(next.saturating_duration_since(Instant::now()))?;
        if Instant::now() >= next {
            load.publish();
            next += BEAT;
            // Beats missed because of the machine are not made up for.
            next = next.max(Instant::now());
        }
        match questions.try_recv() {
            Ok(_) => println!("{}", load.answer()),
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

/// One subscriber.
struct Subscriber {
    stream: TcpStream,
    got: Vec<u8>,
    next: Option<u64>,
    is_cut: bool,
}

struct Load {
    poll: Poll,
    events: Events,
    subscribers: Vec<Subscriber>,
    back_end: TcpStream,
    waiting: VecDeque<u8>,
    start: Instant,
    number: u64,
    micros: Vec<u32>,
    lost: u64,
    piece: Vec<u8>,
}

impl Load {
    fn new(web: SocketAddr, control: SocketAddr) -> Outcome<Load> {
        let poll = Poll::new()?;
        let mut subscribers = Vec::new();
        for number in 0..SUBSCRIBERS {
            let user = format!("healthy-{number}");
            let hello = words::hello(HEALTHY, HEALTHY_KEY, &user, &["beat"]);
            let mut stream = std::net::TcpStream::connect(web)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(&hello)?;
            greeted(&mut stream, words::SUBSCRIBED)?;
            let mut stream = nonblocking(stream)?;
            poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
            subscribers.push(Subscriber { stream, got: Vec::new(), next: None, is_cut: false });
        }
        let mut stream = std::net::TcpStream::connect(control)?;
        stream.set_nodelay(true)?;
        stream.write_all(&words::control_auth(HEALTHY, HEALTHY_KEY))?;
        greeted(&mut stream, b"{\"success\":true}\0")?;
        let mut back_end = nonblocking(stream)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut back_end, BACK_END, interest)?;
        Ok(Load {
            poll,
            events: Events::with_capacity(1024),
            subscribers,
            back_end,
            waiting: VecDeque::new(),
            start: Instant::now(),
            number: 0,
            micros: Vec::new(),
            lost: 0,
            piece: vec![0; 65_536],
        })
    }

    fn micros_now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn publish(&mut self) {
        let data = format!("[{},{}]", self.number, self.micros_now());
        let body = format!(r#"{{"action":"emit","channel":"beat","data":{data}}}"#);
        self.waiting.extend(words::command(&body));
        self.number += 1;
        self.write();
    }

    fn write(&mut self) {
        while !self.waiting.is_empty() {
            match self.back_end.write(self.waiting.make_contiguous()) {
                Ok(count) => drop(self.waiting.drain(..count)),
                // The rest waits, and counts towards the latency.
                Err(_) => return,
            }
        }
    }

    fn pump(&mut self, time: Duration) -> Outcome<()> {
        match self.poll.poll(&mut self.events, Some(time)) {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        let tokens: Vec<Token> = self.events.iter().map(|event| event.token()).collect();
        for token in tokens {
            if token == BACK_END {
                self.write();
                // The replies are not checked.
                while matches!(self.back_end.read(&mut self.piece), Ok(count) if count > 0) {}
            } else {
                self.hear(token.0);
            }
        }
        Ok(())
    }

    fn hear(&mut self, at: usize) {
        loop {
            let subscriber = &mut self.subscribers[at];
            match subscriber.stream.read(&mut self.piece) {
                Ok(0) => return subscriber.is_cut = true,
                Ok(count) => subscriber.got.extend_from_slice(&self.piece[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return subscriber.is_cut = true,
            }
            let now = self.micros_now();
            let got = std::mem::take(&mut self.subscribers[at].got);
            let (frames, used) = words::frames(&got);
            for (opcode, payload) in frames {
                match opcode {
                    1 => self.message(at, payload, now),
                    8 => self.subscribers[at].is_cut = true,
                    9 => {
                        let pong = words::frame(Opcode::Pong, payload);
                        // A few bytes; if the socket has no room, the server will find the
                        // connection dead.
                        let _ = self.subscribers[at].stream.write(&pong);
                    }
                    _ => {}
                }
            }
            self.subscribers[at].got = got[used..].to_vec();
        }
    }

    /// Checks a message: `{"event":"beat","data":[NUMBER,MICROS]}`.
    fn message(&mut self, at: usize, payload: &[u8], now: u64) {
        let text = String::from_utf8_lossy(payload);
        let data = text.split_once("\"data\":[").and_then(|(_, data)| data.split_once(']'));
        let parts = data.and_then(|(data, _)| data.split_once(','));
        let Some((number, sent)) = parts else { return };
        let (Ok(number), Ok(sent)) = (number.parse::<u64>(), sent.parse::<u64>()) else { return };
        let next = &mut self.subscribers[at].next;
        self.lost += next.map_or(0, |next| number.abs_diff(next));
        *next = Some(number + 1);
        self.micros.push(u32::try_from(now.saturating_sub(sent)).unwrap_or(u32::MAX));
    }

    fn answer(&mut self) -> Value {
        let mut micros = std::mem::take(&mut self.micros);
        micros.sort_unstable();
        let at = |part: f64| {
            let place = (micros.len() as f64 * part) as usize;
            let micros = micros.get(place.min(micros.len().saturating_sub(1)));
            micros.map_or(f64::MAX, |micros| f64::from(*micros) / 1000.0)
        };
        json!({
            "count": micros.len(),
            "p50": at(0.5),
            "p99": at(0.99),
            "p999": at(0.999),
            "max": at(1.0),
            "lost": std::mem::take(&mut self.lost),
            "cut": self.subscribers.iter().filter(|subscriber| subscriber.is_cut).count(),
        })
    }
}

/// Reads until the input ends with `end`.
fn greeted(stream: &mut std::net::TcpStream, end: &[u8]) -> Outcome<()> {
    let (mut got, mut piece) = (Vec::new(), [0; 1024]);
    while !got.ends_with(end) {
        match stream.read(&mut piece)? {
            0 => return Err(String::from_utf8_lossy(&got).into()),
            count => got.extend_from_slice(&piece[..count]),
        }
    }
    Ok(())
}

fn nonblocking(stream: std::net::TcpStream) -> Outcome<TcpStream> {
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}
