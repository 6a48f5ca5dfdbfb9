//! Faulty servers, each in a thread that ends with its last client or with the test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What a topic server does wrong, by default to the last subscriber.
#[derive(Clone)]
pub enum Misbehaviour {
    Loses,
    Doubles,
    Swaps,
    Closes,
    /// A byte after the number is changed.
    Garbles,
    /// Neither this nor any later message is delivered, only a ping now and then.
    Pings,
    /// The first subscriber gets neither this nor any later message.
    Forgets,
    /// Everything stalls for this long.
    Stalls(Duration),
    /// It stops the bench process for this long.
    Freezes(Arc<Mutex<Option<Pid>>>, Duration),
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// Serves a publisher, which connects first, and two subscribers; misbehaves at message `at`.
pub fn topics(misbehaviour: Misbehaviour, at: u64) -> SocketAddr {
    let (listener, address) = listen();
    spawn(move || serve(&listener, &misbehaviour, at));
    address
}

fn serve(listener: &TcpListener, misbehaviour: &Misbehaviour, at: u64) {
    let mut publisher = open(listener);
    let mut subscribers = [open(listener), open(listener)];
    let topics = subscribers.each_mut().map(|subscriber| {
        let topic = message(subscriber).unwrap().strip_prefix(b"sub ").unwrap().to_vec();
        subscriber.write_all(b"\x81\x02ok").unwrap();
        topic
    });
    let mut held = Vec::new();
    for number in 0.. {
        let Some(text) = message(&mut publisher) else { return };
        let (topic, data) = text.strip_prefix(b"pub ").unwrap().split_at(topics[0].len());
        let frame = [&[0x81, u8::try_from(data.len() - 1).unwrap()], &data[1..]].concat();
        let [first, second] = &mut subscribers;
        let mut others = frame.clone();
        match misbehaviour {
            Misbehaviour::Forgets if number >= at => {
                let _ = second.write_all(&frame);
                continue;
            }
            _ if number != at => others.extend(std::mem::take(&mut held)),
            Misbehaviour::Loses if topics[0] != topics[1] => continue,
            Misbehaviour::Loses => others.clear(),
            Misbehaviour::Doubles => others.extend(&frame),
            Misbehaviour::Swaps => held = std::mem::take(&mut others),
            Misbehaviour::Closes => return,
            Misbehaviour::Garbles => others[2 + 13] = b'?',
            Misbehaviour::Pings => return ping(&mut subscribers),
            Misbehaviour::Forgets => unreachable!("met above"),
            Misbehaviour::Stalls(time) => sleep(*time),
            Misbehaviour::Freezes(bench, time) => freeze(bench, *time),
        }
        // They may be gone by now, once they have seen enough.
        for (to, frame, own) in [(first, &frame, &topics[0]), (second, &others, &topics[1])] {
            let _ = if own == topic { to.write_all(frame) } else { Ok(()) };
        }
    }
}

fn ping(subscribers: &mut [TcpStream]) {
    while subscribers.iter_mut().all(|it| it.write_all(b"\x89\x00").is_ok()) {
        sleep(Duration::from_millis(200));
    }
}

fn freeze(bench: &Mutex<Option<Pid>>, time: Duration) {
    let pid = bench.lock().unwrap().unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    sleep(time);
    kill_process(pid, Signal::CONT).unwrap();
}

/// Accepts a WebSocket whose key is the bench's constant one.
fn open(listener: &TcpListener) -> TcpStream {
    let mut stream = listener.accept().unwrap().0;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let accept = "HTTP/1.1 101 S\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(accept.as_bytes()).unwrap();
    stream
}

/// A short client message, whose mask is all zeros; `None` if the client is gone.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 6];
        stream.read_exact(&mut head).ok()?;
        assert_eq!(&head[2..], &[0; 4]);
        let mut text = vec![0; usize::from(head[1] & 0x7f)];
        stream.read_exact(&mut text).ok()?;
        if head[0] == 0x81 {
            return Some(text);
        }
    }
}

/// Sleeps once, a quarter of a second after the first call.
struct Nap {
    begin: Option<Instant>,
    time: Duration,
}

impl Nap {
    fn new(time: Duration) -> Nap {
        Nap { begin: None, time }
    }

    fn look(&mut self) {
        let begin = *self.begin.get_or_insert_with(Instant::now);
        if begin.elapsed() > Duration::from_millis(250) {
            sleep(std::mem::take(&mut self.time));
        }
    }
}

/// A Redis for one client that sets values of 32 bytes; stalls once for this long.
pub fn commands(stall: Duration) -> SocketAddr {
    let (listener, address) = listen();
    spawn(move || {
        let (mut stream, mut nap) = (listener.accept().unwrap().0, Nap::new(stall));
        let head = "*3\r\n$3\r\nSET\r\n$9\r\nkey000000\r\n$32\r\n".len();
        let mut command = vec![0; head + 32 + 2];
        while stream.read_exact(&mut command).is_ok() {
            nap.look();
            let _ = stream.write_all(b"+OK\r\n");
        }
    });
    address
}

/// A topic server for visits; stalls once for this long.
pub fn visits(stall: Duration) -> SocketAddr {
    let (listener, address) = listen();
    spawn(move || {
        let mut nap = Nap::new(stall);
        loop {
            let mut visitor = open(&listener);
            nap.look();
            message(&mut visitor).unwrap();
            let _ = visitor.write_all(b"\x81\x02ok");
        }
    });
    address
}

/// A proxy to a control port for one client, which applies `change` to replies from the third on,
/// until one has changed.
pub fn replies(to: SocketAddr, change: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let (listener, address) = listen();
    spawn(move || {
        let mut client = listener.accept().unwrap().0;
        let mut server = TcpStream::connect(to).unwrap();
        let (mut from, mut on) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        spawn(move || {
            let _ = std::io::copy(&mut from, &mut on);
            let _ = on.shutdown(std::net::Shutdown::Both);
        });
        let mut is_changed = false;
        for number in 0.. {
            let mut reply = vec![0; 4];
            if server.read_exact(&mut reply).is_err() {
                return;
            }
            let length = u32::from_le_bytes([reply[0], reply[1], reply[2], reply[3]]);
            reply.resize(4 + length as usize + 1, 0);
            server.read_exact(&mut reply[4..]).unwrap();
            if number >= 3 && !is_changed {
                let changed = change(&reply);
                is_changed = changed != reply;
                reply = changed;
            }
            let _ = client.write_all(&reply);
        }
    });
    address
}
