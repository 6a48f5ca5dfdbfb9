//! What the fake network tells the handler about one connection, as the reactor does.

use super::{FakeNet, Flushed, Phase};
use crate::edge::{ConnId, Handler, Net};

/// What a handler leaves if it asks for no more turns is shorter: a head that is not complete, or,
/// while the journal is full, a command of up to 16 KiB, and its length.
const TAIL_BYTES_MAX: usize = 16 * 1024 + 8;

impl FakeNet {
    /// A connection that is ready has its turn.
    pub fn read_for(&mut self, handler: &mut impl Handler, conn: ConnId) {
        let Some(input) = self.input(conn) else { return };
        if !input.is_empty() {
            self.give(handler, conn, input);
        }
        self.tell_end(handler, conn);
        self.tell_hang_up(handler, conn);
    }

    /// What a connection that is ready has sent: nothing while it is paused. `None` if it closes,
    /// for then that is discarded.
    pub fn input(&mut self, conn: ConnId) -> Option<Vec<u8>> {
        let socket = self.socket(conn)?;
        socket.is_on_ready = false;
        match socket.phase {
            Phase::Open if socket.is_paused => Some(Vec::new()),
            Phase::Open => Some(self.read_once(conn)),
            Phase::Flushing | Phase::Lingering => {
                self.discard(conn);
                None
            }
        }
    }

    /// Gives input to the handler, and keeps what it does not consume.
    pub fn give(&mut self, handler: &mut impl Handler, conn: ConnId, mut input: Vec<u8>) {
        let (result, filled) = (handler.received(self, conn, &mut input), input.len());
        if let Err(reason) = result {
            self.close(conn, reason);
        }
        // After an error the rest is discarded.
        let used = result.unwrap_or(filled);
        assert!(used <= filled);
        let Some(socket) = self.socket(conn) else { return };
        socket.consumed += used as u64;
        if socket.phase == Phase::Open {
            let is_to_go_on = socket.is_paused || socket.is_on_ready;
            assert!(is_to_go_on || filled - used < TAIL_BYTES_MAX, "a long tail is kept");
            socket.tail = input.split_off(used);
        }
    }

    /// Tells the handler once that the peer has ended its stream, all of which has been read.
    /// Returns whether it did.
    pub fn tell_end(&mut self, handler: &mut impl Handler, conn: ConnId) -> bool {
        let Some(socket) = self.socket(conn) else { return false };
        let is_at_end = socket.is_ended && !socket.is_end_told && !socket.is_paused;
        let is_told = socket.phase == Phase::Open && is_at_end && !socket.is_on_ready;
        if is_told {
            socket.is_end_told = true;
            handler.ended(self, conn);
        }
        is_told
    }

    /// Tells the handler that a paused connection has been closed by its peer. Returns whether it
    /// did.
    pub fn tell_hang_up(&mut self, handler: &mut impl Handler, conn: ConnId) -> bool {
        let Some(socket) = self.socket(conn) else { return false };
        let is_told = socket.phase == Phase::Open && socket.is_paused && socket.is_end_near;
        if is_told {
            handler.hung_up(self, conn);
        }
        is_told
    }

    /// Writes what is queued for a connection; tells the handler if it waits for that.
    pub fn flush_for(&mut self, handler: &mut impl Handler, conn: ConnId) {
        match self.flush(conn) {
            Flushed::Blocked => {}
            Flushed::More => self.mark_dirty(conn),
            Flushed::All if self.has_drained(conn) => handler.drained(self, conn),
            Flushed::All => {}
        }
    }

    /// Fires all timers that have expired.
    pub fn expire_for(&mut self, handler: &mut impl Handler) {
        self.wheel.advance(self.now.mono.0);
        while let Some((_, conn)) = self.wheel.pop_expired() {
            match self.timer_came(conn) {
                Some(Phase::Open) => handler.timed_out(self, conn),
                Some(Phase::Flushing | Phase::Lingering) => self.free(conn),
                None => {}
            }
        }
    }

    /// Some of the connections that have output, to write to in this turn.
    pub fn some_dirty(&mut self) -> Vec<ConnId> {
        let most = self.round().min(self.dirty.len());
        self.dirty.drain(..most).collect()
    }
}
