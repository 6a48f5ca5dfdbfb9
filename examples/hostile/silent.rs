//! Peers whose machine vanishes: they live in a network namespace whose link goes down.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::crowd::{Crowd, ReadMode};
use crate::machine::{Folder, must};
use crate::report::{Bounds, Findings, Report};
use crate::server::{Wants, back_end};
use crate::slow::Publisher;
use crate::stage::{Campaign, Field};
use crate::words::{CROWD, CROWD_KEY, SUBSCRIBED, emit, hello};
use crate::{Attack, Outcome, Run};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[Attack {
    name: "silent",
    about: "500 browsers, half of which are published to, and 20 back ends; their link goes down",
    run: Run::Alone(silent),
}];

/// Our end of the link, and the peers' end. Both vanish with the program.
const HERE: &str = "10.213.77.1";
const THERE: &str = "10.213.77.2/30";
/// Number of browsers, and of back ends.
const PEERS: usize = 500;
const BACK_ENDS: usize = 20;
/// Lets dead back ends be detected as soon as browsers, instead of after a minute.
const SOON: [&str; 4] =
    ["--limit", "control_keepalive_ms=8000", "--limit", "control_replies_ms=10000"];

/// A network namespace with a link into it, removed when dropped.
struct Link {
    space: String,
    name: String,
}

impl Link {
    fn new() -> Outcome<Link> {
        let id = std::process::id();
        let link = Link { space: format!("fws-hostile-{id}"), name: format!("fwsh{id}") };
        let there = format!("{}p", link.name);
        let (space, name) = (link.space.as_str(), link.name.as_str());
        must(&["ip", "netns", "add", space])?;
        must(&["ip", "link", "add", name, "type", "veth", "peer", "name", &there])?;
        must(&["ip", "link", "set", &there, "netns", space])?;
        must(&["ip", "address", "add", &format!("{HERE}/30"), "dev", name])?;
        must(&["ip", "link", "set", name, "up"])?;
        must(&["ip", "-n", space, "address", "add", THERE, "dev", &there])?;
        must(&["ip", "-n", space, "link", "set", &there, "up"])?;
        Ok(link)
    }

    fn cut(&self) -> Outcome<()> {
        must(&["ip", "-n", &self.space, "link", "set", &format!("{}p", self.name), "down"])
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // One that does not exist need not be removed.
        let _ = must(&["ip", "link", "del", &self.name]);
        let _ = must(&["ip", "netns", "del", &self.space]);
    }
}

/// The process of the peers, killed when dropped.
struct Peers(Child);

impl Drop for Peers {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn silent(campaign: &mut Campaign, attack: &Attack) -> Outcome<Report> {
    let link = Link::new()?;
    let flags = SOON.map(str::to_owned).to_vec();
    let wants = Wants { address: "0.0.0.0:0", flags, ..Wants::default() };
    let mut stage = campaign.stage(&wants, Folder::new()?)?;
    let report = stage.measure(attack, Bounds::DEFAULT, |field| go_silent(field, &link));
    campaign.leave(stage);
    report
}

fn go_silent(field: &Field, link: &Link) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let count = field.many(PEERS);
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &link.space]).arg(std::env::current_exe()?);
    let [web, control] = [field.web, field.control].map(|at| format!("{HERE}:{}", at.port()));
    command.args(["silent", &web, &control, &count.to_string()]);
    let mut peers = Peers(command.stdout(Stdio::piped()).spawn()?);
    let out = peers.0.stdout.take().ok_or("no pipe to the peers")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    if line.trim() != "ready" {
        return Err(format!("the peers did not connect: {line}").into());
    }
    let before = field.numbers()?.of("fws_peers", "");
    let back_ends =
        |field: &Field| -> Outcome<f64> { Ok(field.numbers()?.of("fws_connections", "control")) };
    let publisher = Publisher::start(field.control, emit("odd", 100), 20.0)?;
    let ours = back_ends(field)? - BACK_ENDS as f64;
    link.cut()?;
    // Half a second more for the interval between two looks.
    let (start, most) = (Instant::now(), Duration::from_millis(33_500));
    let mut times = Vec::new();
    while start.elapsed() < most + Duration::from_secs(7) && times.len() < count {
        let gone = (before - field.numbers()?.of("fws_peers", "")) as usize;
        times.resize(gone.min(count), start.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    let left = back_ends(field)? - ours;
    drop(publisher);
    let (first, last) = (times.first().copied(), times.last().copied().unwrap_or_default());
    findings.note(format!("the first was gone after {first:.1?}, the last after {last:.1?}"));
    let gone = times.iter().filter(|time| **time <= most).count();
    findings.expect(gone == count, format!("{gone} of {count} were gone within 33 s"));
    findings.expect(left == 0.0, format!("{left} of {BACK_ENDS} back ends were left then"));
    Ok(findings)
}

/// Runs the process in the network namespace: where to connect, and the number of browsers.
pub fn peers(args: Vec<String>) -> Outcome<()> {
    let [web, control, count] = &args[..] else { return Err("silent WEB CONTROL COUNT".into()) };
    let control = control.parse()?;
    let back_end = |_| back_end(control, CROWD, CROWD_KEY);
    let _back_ends = (0..BACK_ENDS).map(back_end).collect::<Outcome<Vec<_>>>()?;
    let mut crowd = Crowd::new(web.parse()?)?;
    crowd.gather(count.parse()?, ReadMode::KeepLast(512), Some(SUBSCRIBED), |number| {
        let channel = if number % 2 == 0 { "even" } else { "odd" };
        Rc::from(hello(CROWD, CROWD_KEY, &format!("silent-{number}"), &[channel]))
    })?;
    println!("ready");
    loop {
        crowd.pump(Duration::from_secs(1))?;
    }
}
