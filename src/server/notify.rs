//! Tells a service manager (sd_notify(3)) that the server is ready, alive, reloading or about to
//! stop. Does nothing if there is none. Called by the server's loop.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::time::Millis;

/// Longest status in characters: systemd discards a message longer than 4096 bytes, and with it the
/// news that the server is ready.
const STATUS_CHARS: usize = 1000;

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(super) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often to report that the loop turns, if that is asked for.
    watchdog_ms: Option<u64>,
    alive_at: Millis,
}

impl Notifier {
    /// Reads the variables that the service manager sets: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and
    /// `WATCHDOG_PID`.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Notifier {
        let address = variable("NOTIFY_SOCKET").and_then(|name| match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok(),
            _ => SocketAddr::from_pathname(name).ok(),
        });
        let socket = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            // A service manager that does not read must not hold up the loop.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        let number = |name: &str| -> Option<u64> { variable(name)?.to_str()?.parse().ok() };
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        // sd_watchdog_enabled(3) advises to notify at half of the time. The loop turns at least
        // every quarter of it, and notifies in the first turn after a quarter: at half, at worst.
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_ours && socket.is_some());
        Notifier {
            socket,
            watchdog_ms: watchdog.map(|microseconds| (microseconds / 4000).max(1)),
            alive_at: Millis(0),
        }
    }

    /// Returns how often [`Notifier::alive`] must be called at least, in milliseconds.
    pub fn wake_every(&self) -> Option<u64> {
        self.watchdog_ms
    }

    /// Reports that the listeners are open.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Notes that the loop has turned, and reports it when that is due.
    pub fn alive(&mut self, now: Millis) {
        if let Some(every) = self.watchdog_ms
            && self.alive_at <= now
        {
            self.alive_at = now.plus(every);
            self.tell("WATCHDOG=1");
        }
    }

    /// Reports that the configuration is being read again.
    pub fn reloading(&self) {
        self.tell("RELOADING=1");
    }

    /// Reports the end of a reload, with its outcome as the status of the service.
    pub fn reloaded(&self, outcome: &str) {
        let line = outcome.chars().filter(|c| !c.is_control());
        let line: String = line.take(STATUS_CHARS).collect();
        self.tell(&format!("READY=1\nSTATUS={line}"));
    }

    /// Reports that the server closes its connections.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            // A service manager that does not listen is no reason not to serve.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_that_does_not_listen_blocks_nothing() {
        let mut path = std::env::temp_dir();
        path.push(format!("fws-unread-{}", std::process::id()));
        let _unread = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(|name| (name == "NOTIFY_SOCKET").then(|| path.clone().into()));
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // More messages than the kernel queues for the socket.
            (0..5000).for_each(|_| notifier.ready());
            done.send(())
        });
        let is_done = is_done.recv_timeout(std::time::Duration::from_secs(10));
        std::fs::remove_file(&path).unwrap();
        assert!(is_done.is_ok(), "the notifier blocks");
    }

    #[test]
    fn the_service_manager_receives_states_and_watchdog_pings() {
        let mut path = std::env::temp_dir();
        path.push(format!("fws-notify-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).unwrap();
        let hear = || {
            let mut bytes = [0; 8192];
            let count = manager.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..count].to_vec()).unwrap()
        };
        let mut notifier = Notifier::new(|name| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into()),
            "WATCHDOG_USEC" => Some("30000000".into()),
            _ => None,
        });
        assert_eq!(notifier.wake_every(), Some(7500));
        notifier.ready();
        notifier.alive(Millis(5));
        notifier.alive(Millis(7504));
        notifier.alive(Millis(7505));
        notifier.reloading();
        notifier.reloaded("done");
        notifier.stopping();
        let heard: Vec<String> = (0..6).map(|_| hear()).collect();
        let reload = ["RELOADING=1", "READY=1\nSTATUS=done"];
        assert_eq!(heard[..3], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
        assert_eq!(
            (&heard[3..5], heard[5].as_str()),
            (&reload.map(String::from)[..], "STOPPING=1")
        );
        // systemd reads no more than 4096 bytes and discards longer messages.
        notifier.reloaded(&"é\n".repeat(100_000));
        let long = hear();
        assert!(long.starts_with("READY=1\nSTATUS=éé") && long.len() <= 4096, "{}", long.len());
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 8]).is_err(), "no message is sent twice");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn nothing_is_sent_without_a_notify_socket() {
        let mut notifier = Notifier::new(|name| match name {
            "WATCHDOG_USEC" => Some("1000000".into()),
            _ => None,
        });
        assert_eq!(notifier.wake_every(), None);
        notifier.ready();
        notifier.alive(Millis(5));
        let other = Notifier::new(|name| match name {
            "NOTIFY_SOCKET" => Some("@fws-nobody".into()),
            "WATCHDOG_USEC" => Some("1000000".into()),
            "WATCHDOG_PID" => Some("1".into()),
            _ => None,
        });
        assert_eq!(other.wake_every(), None, "the watchdog is for another process");
    }
}
