//! What must hold of the web door between two calls; for simulators, fuzzers and tests.

use super::{Line, Link, Web};
use crate::publication::Form;

impl<P> Web<P> {
    /// Checks all that must hold; for tests.
    ///
    /// # Panics
    /// If anything does not hold.
    pub fn check_invariants(&self) {
        let (mut polled_count, mut raw) = (0, 0);
        for (id, session) in self.sessions.iter() {
            match &session.link {
                Link::Socket(socket) => {
                    raw += usize::from(socket.form == Form::Raw);
                    let line = &self.lines[socket.conn.index()];
                    assert!(matches!(line, Line::Socket(of) if *of == id), "{line:?}");
                }
                Link::Polled(polled) => {
                    polled_count += 1;
                    assert_eq!(self.names.get(&polled.key), Some(&id));
                    polled.check_invariants(session.peer.is_some());
                    if let Some(conn) = polled.receiver_conn() {
                        let line = &self.lines[conn.index()];
                        assert!(matches!(line, Line::Receiver(of) if *of == id), "{line:?}");
                    }
                    assert!(polled.has_timer() || self.dirty.contains(&id), "never looked at");
                    for sender in &polled.senders {
                        let line = &self.lines[sender.index()];
                        assert!(matches!(line, Line::Sender(of, _) if *of == id), "{line:?}");
                    }
                }
            }
        }
        assert_eq!(self.names.len(), polled_count);
        assert_eq!(raw, self.raw_sockets);
        for line in &self.lines {
            if let Line::Receiver(id) | Line::Sender(id, _) | Line::Socket(id) = line {
                assert!(self.sessions.get(*id).is_some(), "{line:?} of nobody");
            }
        }
        self.wheel.check_invariants();
        self.check_strangers();
        let bodies = self.lines.iter().map(|line| match line {
            Line::Http(http) => http.upload.as_ref().map_or(0, |upload| upload.bytes()),
            _ => 0,
        });
        let pending = self.sessions.iter().map(|(_, session)| match &session.link {
            Link::Polled(polled) => polled.pending_bytes(),
            Link::Socket(_) => 0,
        });
        assert_eq!(bodies.chain(pending).sum::<usize>(), self.bodies.bytes);
        let is_open = |slot: usize| !matches!(self.lines.get(slot), None | Some(Line::None));
        self.addresses.check_invariants(is_open);
    }
}
