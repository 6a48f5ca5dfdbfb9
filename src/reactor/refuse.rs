//! Doors when there is no room: newcomers hear so and go, instead of waiting in the kernel's queue
//! for nobody knows how long. Part of the reactor, which accepts.

use mio::Token;

use super::io::Slot;
use super::listener::Listener;
use super::stream::Stream;
use super::{Bounds, REPEAT_MS, Reactor};
use crate::edge::{Door, Handler};
use crate::frame::Frame;

/// So many may be on their way out at a time, beyond the connections there is room for: they have
/// descriptors too. Whoever comes when all of those are taken waits, for as long as this at most.
const TURNED_AWAY_MAX: usize = 8;
/// From the accept to the end of a connection that there is no room for, and from an expulsion to
/// the end of that, at most.
pub(super) const TURNED_AWAY_MS: u64 = 200;

impl Reactor {
    /// How many connections there are that were let in. Counted from the slots.
    pub(super) fn let_in(&self) -> usize {
        self.io.connections(self.others) - self.io.turned_away
    }

    /// Whether there is room for one who comes through that door. Counted from the slots, so that
    /// it cannot drift.
    pub(super) fn has_room(&self, door: Door) -> bool {
        let Bounds { connections, control_reserve, admin_connections, .. } = self.bounds;
        match door {
            Door::Web => self.let_in() < connections,
            Door::Control => self.let_in() < connections.saturating_add(control_reserve),
            Door::Admin => self.io.admins() < admin_connections,
        }
    }

    /// Whether one more can be turned away at this door.
    pub(super) fn can_refuse(&self, door: &Listener) -> bool {
        door.refusal.is_some() && self.io.turned_away < TURNED_AWAY_MAX
    }

    /// There is no room: said once when it comes to that, and again only after a tenth of the room
    /// was free.
    pub(super) fn tell_full(&mut self) {
        let now = self.io.now;
        if !self.is_full_told && self.full_again_at <= now.mono {
            let max = self.bounds.connections;
            let text = format_args!("full: {max} connections are open, there is no room for more");
            crate::log::warning(now.unix, text);
            self.is_full_told = true;
            self.full_again_at = now.mono.plus(REPEAT_MS);
        }
    }

    /// Tells a newcomer that there is no room. Its request is read and thrown away, because closing
    /// a socket with unread input would reset it, and these words would be lost.
    pub(super) fn refuse(&mut self, handler: &mut impl Handler, stream: Stream, words: Frame) {
        let conn = self.io.insert(stream, Door::Web);
        let registry = self.poll.registry();
        let Some(Slot::Peer(peer)) = self.io.slots.get_mut(conn) else { return };
        if let Err(error) = peer.stream.register(registry, Token(conn.index())) {
            self.io.free(conn);
            return self.starve(&error);
        }
        self.io.turn_away(conn, words, TURNED_AWAY_MS);
        handler.turned_away(self.io.now);
    }
}
