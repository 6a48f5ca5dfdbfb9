//! Invariants of the web listener between two calls; for simulators, fuzzers and tests.

use super::{LINES_KEPT, Line, Session, Web};
use crate::publication::Form;

impl<P> Web<P> {
    /// Checks all invariants; for tests.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check_invariants(&self) {
        for (id, Session { peer, session }) in self.sessions.iter() {
            assert_eq!(self.names.get(&session.key), Some(&id));
            session.check_invariants(peer.is_some());
            if let Some(conn) = session.receiver_conn() {
                let line = &self.lines[conn.index()];
                assert!(matches!(line, Line::Receiver(of, _) if *of == id), "not its receiver's");
            }
            if let Some(conn) = session.in_flight {
                let line = &self.lines[conn.index()];
                assert!(
                    matches!(line, Line::AnswerInFlight(of, _) if of.id == Some(id)),
                    "not what it takes"
                );
            }
            assert!(session.has_timer() || self.dirty.contains(&id), "never looked at");
            for sender in &session.senders {
                let line = &self.lines[sender.index()];
                assert!(matches!(line, Line::Sender(of, ..) if *of == id), "not its sender's");
            }
        }
        assert_eq!(self.names.len(), self.sessions.len());
        let (mut raw, mut sockjs) = (0, 0);
        for line in &self.lines {
            match line {
                Line::None | Line::Http(_) | Line::AnswerInFlight(..) => {}
                Line::Receiver(id, _) | Line::Sender(id, ..) => {
                    assert!(self.sessions.contains(*id), "{id:?} is gone");
                }
                Line::Socket(socket) => {
                    socket.check_invariants();
                    *if socket.form() == Form::Raw { &mut raw } else { &mut sockjs } += 1;
                }
            }
        }
        assert_eq!((raw, sockjs), (self.raw_sockets, self.sockjs_sockets));
        let is_needed = !matches!(self.lines.last(), Some(Line::None));
        assert!(is_needed || self.is_shrinking, "places that nobody needs");
        let room = 2 * (2 * self.lines.len() + LINES_KEPT);
        let is_much = self.lines.capacity() > room && !self.is_shrinking;
        assert!(!is_much, "memory of those who have gone");
        self.wheel.check_invariants();
        self.check_unauthenticated();
        let bodies = self.lines.iter().map(|line| match line {
            Line::Http(http) => http.upload.as_ref().map_or(0, |upload| upload.bytes()),
            _ => 0,
        });
        let pending = self.sessions.iter().map(|(_, entry)| entry.session.pending_bytes());
        assert_eq!(bodies.chain(pending).sum::<usize>(), self.bodies.bytes);
        self.addresses.check_invariants(|slot| self.conn(slot).is_some());
    }

    /// Checks that nothing is kept when all connections and sessions have gone.
    ///
    /// # Panics
    /// If anything is kept.
    pub fn check_drained(&self) {
        assert!(self.lines.is_empty() && self.lines.capacity() < LINES_KEPT, "lines are kept");
        assert_eq!(self.sessions() + self.unauthenticated(), 0, "sessions that are counted");
        let kept = [self.sessions.len(), self.names.len(), self.wheel.len(), self.dirty.len()];
        assert_eq!(kept, [0; 4], "sessions, their names, their deadlines, and those that changed");
        self.check_nobody_waits();
    }
}
