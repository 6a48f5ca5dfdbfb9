//! Read-ahead on a WebSocket whose session expires while it is not read, because its answers have
//! not been sent. It may have sent a renewal in time, behind the messages that wait. So a bounded
//! amount is read ahead, and a renewal is handled at once; all else waits in order.

use super::{Around, Held, Socket};
use crate::edge::Net;
use crate::web::{Application, Parting};

/// How long to read ahead: input not delivered before the expiry is delivered in the next turn.
const TURN_MS: u64 = 1;

impl<P> Socket<P> {
    /// Bytes that may still be read ahead; `None` if it is read in order, or not at all.
    pub(super) fn read_ahead(&self) -> Option<usize> {
        self.unheard.as_ref().and_then(|unheard| unheard.read_ahead)
    }

    /// Counts bytes that have been read, perhaps ahead.
    pub(super) fn has_read(&mut self, bytes: usize) {
        if let Some(left) = self.unheard.as_mut().and_then(|unheard| unheard.read_ahead.as_mut()) {
            *left = left.saturating_sub(bytes);
        }
    }

    /// Stops reading ahead.
    fn end_ahead<A>(&mut self, around: &mut Around<'_, impl Net, A>) {
        if self.unheard.as_mut().and_then(|unheard| unheard.read_ahead.take()).is_some() {
            around.net.pause(around.conn);
        }
    }

    /// Whether the session has expired. Its waiting messages are not handled then, because a
    /// renewal may be behind them; the deadline, which has passed, decides.
    pub(super) fn is_over<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> bool {
        let now = around.net.now();
        let Some(peer) = self.peer.as_mut().filter(|peer| around.app.is_authenticated(peer)) else {
            return false;
        };
        let is_over = around.app.timed_out(peer, now).is_err();
        if is_over && self.read_ahead().is_none() {
            self.reschedule(around);
        }
        is_over
    }

    /// The session has not expired, or not any more: handles messages held back because it had.
    pub(super) fn is_in_time<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<(), Parting> {
        self.end_ahead(around);
        match self.held {
            Held::Answers if around.net.queued(around.conn) == 0 => self.catch_up(around),
            _ => Ok(()),
        }
    }

    /// Handles a renewal, if there is one among the waiting messages; returns whether there was.
    /// Reading ahead ends then, and the messages read ahead wait in order.
    pub(super) fn renew<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<bool, Parting> {
        let (Some(peer), Some(unheard)) = (&self.peer, &mut self.unheard) else {
            return Ok(false);
        };
        let now = around.net.now();
        let renews = |message: &str| around.app.renews(peer, message, now);
        let Some(said) = unheard.deferred.take(renews) else { return Ok(false) };
        self.end_ahead(around);
        said.iter().try_for_each(|message| self.tell(around, message))?;
        self.reschedule(around);
        Ok(true)
    }

    /// Whether an expired session continues, for a moment or because it has been renewed.
    pub(super) fn goes_on<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<bool, Parting> {
        let is_authenticated =
            self.peer.as_ref().is_some_and(|peer| around.app.is_authenticated(peer));
        if !is_authenticated || !matches!(self.held, Held::Answers | Held::Room) {
            return Ok(false);
        }
        if self.read_ahead().is_some() || self.renew(around)? {
            return Ok(self.read_ahead().is_none());
        }
        // What waits is one message at most, or has been read ahead before.
        let Some(peer) = &self.peer else { return Ok(false) };
        let most = around.app.bounds(peer).message_bytes;
        let unheard = self.unheard.get_or_insert_default();
        unheard.read_ahead = Some((2 * most).saturating_sub(unheard.deferred.bytes()).min(most));
        around.net.resume(around.conn);
        around.net.deadline(around.conn, Some(around.net.now().mono.plus(TURN_MS)));
        Ok(true)
    }
}
