//! Subscribers that do not read what they subscribed to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::crowd::{Crowd, ReadMode};
use crate::report::{Bounds, Findings};
use crate::stage::Field;
use crate::words::{AUTHENTICATED, CROWD, CROWD_KEY, control_auth, emit, hello};
use crate::{Attack, Outcome, Run};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "deaf",
        about: "1,000 subscribers that never read, while 10 MB/s are published to them",
        run: Run::Beside(|field| readers(field, 0), Bounds::DEFAULT),
    },
    Attack {
        name: "sips",
        about: "the same with subscribers that read a hundred bytes a second each",
        run: Run::Beside(|field| readers(field, 100), Bounds::DEFAULT),
    },
];

/// A back end on its own thread that publishes at a fixed rate until it is dropped.
pub struct Publisher {
    is_over: Arc<AtomicBool>,
    /// Number of messages handed to the kernel.
    pub sent: Arc<AtomicU64>,
}

impl Publisher {
    /// Starts publishing this frame so many times per second.
    pub fn start(control: SocketAddr, frame: Vec<u8>, per_second: f64) -> Outcome<Publisher> {
        let mut stream = TcpStream::connect(control)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(&control_auth(CROWD, CROWD_KEY))?;
        let mut replies = stream.try_clone()?;
        std::thread::spawn(move || {
            let mut piece = [0; 65_536];
            while matches!(replies.read(&mut piece), Ok(count) if count > 0) {}
        });
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let publisher = Publisher { is_over: Arc::clone(&is_over), sent: Arc::clone(&sent) };
        std::thread::spawn(move || {
            let start = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                let due = Duration::from_secs_f64(sent.load(Ordering::Relaxed) as f64 / per_second);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
                let mut rest = &frame[..];
                // A server under backpressure does not read; then writing takes longer.
                while !rest.is_empty() && !is_over.load(Ordering::Relaxed) {
                    match stream.write(rest) {
                        Ok(count) => rest = &rest[count..],
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
            // The thread that reads replies has another handle of this socket.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        Ok(publisher)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Size of a message.
const MESSAGE_BYTES: usize = 65_536;

fn readers(field: &Field, sip: usize) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let mut crowd = Crowd::new(field.web)?;
    let count = field.many(1000);
    let before = field.numbers()?;
    crowd.gather(count, ReadMode::Never, None, |number| {
        Rc::from(hello(CROWD, CROWD_KEY, &format!("deaf-{number}"), &["flood"]))
    })?;
    let (publisher, start) = (
        Publisher::start(field.control, emit("flood", MESSAGE_BYTES), 10e6 / MESSAGE_BYTES as f64)?,
        Instant::now(),
    );
    let (mut cut, mut took) = (0.0, Duration::ZERO);
    while start.elapsed() < Duration::from_secs(25) && cut < count as f64 {
        crowd.pump(Duration::from_millis(500))?;
        for at in (0..crowd.members.len()).filter(|_| sip > 0) {
            crowd.sip(at, sip / 2);
        }
        cut = field.numbers()?.closed("slow_consumer") - before.closed("slow_consumer");
        took = start.elapsed();
    }
    let sent = publisher.sent.load(Ordering::Relaxed);
    let megabytes = sent as f64 * MESSAGE_BYTES as f64 / 1e6;
    let rate = megabytes / start.elapsed().as_secs_f64();
    findings.note(format!("{megabytes:.0} MB were published, {rate:.1} MB/s"));
    findings.expect(
        cut >= count as f64 && took < Duration::from_secs(15),
        format!("{cut} of {count} were closed within {:.1} s", took.as_secs_f64()),
    );
    drop(publisher);
    // A subscriber that reads is served, whatever the others do.
    let mut reader = Crowd::new(field.web)?;
    let first: Rc<[u8]> = Rc::from(hello(CROWD, CROWD_KEY, "reader", &["flood"]));
    reader.gather(1, ReadMode::KeepLast(512), Some(AUTHENTICATED), |_| Rc::clone(&first))?;
    findings.expect(reader.open() == 1, "a subscriber that reads gets in and stays".into());
    reader.close_all();
    crowd.close_all();
    Ok(findings)
}
