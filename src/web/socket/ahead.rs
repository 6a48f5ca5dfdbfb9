//! A WebSocket whose time is over while it is not read, because its answers have not gone out: it
//! may have said in time that it goes on, behind what waits. So a little is read ahead, and what
//! renews it is heard at once; all else waits in its order.

use super::{Around, Held, Socket};
use crate::edge::Net;
use crate::web::{Application, Message, Parting};

/// What has not been given to us when the time is over is given in the next turn.
const TURN_MS: u64 = 1;

impl<P> Socket<P> {
    /// Bytes that may still be read ahead; `None` if it is read in order, or not.
    pub(super) fn ahead(&self) -> Option<usize> {
        self.unheard.as_ref().and_then(|unheard| unheard.ahead)
    }

    /// So many bytes have been read, perhaps ahead.
    pub(super) fn has_read(&mut self, bytes: usize) {
        if let Some(left) = self.unheard.as_mut().and_then(|unheard| unheard.ahead.as_mut()) {
            *left = left.saturating_sub(bytes);
        }
    }

    /// Nothing is read ahead any more.
    fn end_ahead<A>(&mut self, around: &mut Around<'_, impl Net, A>) {
        if self.unheard.as_mut().and_then(|unheard| unheard.ahead.take()).is_some() {
            around.net.pause(around.conn);
        }
    }

    /// Whether its time is over, and it may have said that it goes on: what waits is not heard
    /// then, because that may stand behind it. The deadline, which has come, decides.
    pub(super) fn is_over<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> bool {
        let now = around.net.now();
        let Some(peer) = self.peer.as_mut().filter(|peer| around.app.is_known(peer)) else {
            return false;
        };
        let is_over = around.app.timed_out(peer, now).is_err();
        if is_over && self.ahead().is_none() {
            self.reschedule(around);
        }
        is_over
    }

    /// Its time is not over, or not any more: what has not been heard for that reason is.
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

    /// Hears what renews it, if that is among what waits: whether it was. Nothing is read ahead
    /// then, and all that was waits for its turn.
    pub(super) fn renew<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<bool, Parting> {
        let (Some(peer), Some(unheard)) = (&self.peer, &mut self.unheard) else {
            return Ok(false);
        };
        let now = around.net.now();
        let renews = |message: &str| around.app.renews(peer, message, now);
        let Some(message) = unheard.said.take(renews) else { return Ok(false) };
        self.end_ahead(around);
        self.tell(around, Message::Text(&message))?;
        self.reschedule(around);
        Ok(true)
    }

    /// Whether it goes on though its time is over, for a moment or because it has been renewed.
    pub(super) fn goes_on<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<bool, Parting> {
        let is_known = self.peer.as_ref().is_some_and(|peer| around.app.is_known(peer));
        if !is_known || !matches!(self.held, Held::Answers | Held::Room) {
            return Ok(false);
        }
        if self.ahead().is_some() || self.renew(around)? {
            return Ok(self.ahead().is_none());
        }
        // What waits is a message at most, or has been read ahead before.
        let Some(peer) = &self.peer else { return Ok(false) };
        let most = around.app.bounds(peer).message_bytes;
        let unheard = self.unheard.get_or_insert_default();
        unheard.ahead = Some((2 * most).saturating_sub(unheard.said.bytes()).min(most));
        around.net.resume(around.conn);
        around.net.deadline(around.conn, Some(around.net.now().mono.plus(TURN_MS)));
        Ok(true)
    }
}
