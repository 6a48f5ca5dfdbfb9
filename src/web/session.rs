//! Session ids, each of which says how its session is reached.

use std::fmt;

use super::http_session::HttpSessionId;
use crate::edge::ConnId;
use crate::publication::Form;

/// Bits of the slot; the kind is above them. The limits allow fewer connections and sessions than
/// would need another bit.
const SLOT_BITS: u32 = 30;
const SLOT: u32 = (1 << SLOT_BITS) - 1;

const RAW: u32 = 0;
const SOCKJS: u32 = 1;
const POLLED: u32 = 2;

/// Identifies one session for as long as it lives. The id of a WebSocket session contains its
/// connection, so that a publication needs no lookup.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId {
    /// The kind, and the slot of the connection or of the session over HTTP.
    place: u32,
    /// The generation of the slot.
    generation: u32,
}

/// How a session is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Over a WebSocket, raw or in SockJS framing.
    Socket(ConnId, Form),
    /// Over HTTP requests.
    Http(HttpSessionId),
}

impl SessionId {
    /// The id of no session.
    pub const NOWHERE: SessionId =
        SessionId { place: POLLED << SLOT_BITS | SLOT, generation: u32::MAX };

    /// The id of a WebSocket's session, the only one of its connection.
    pub fn of_socket(conn: ConnId, form: Form) -> SessionId {
        let kind = if form == Form::Raw { RAW } else { SOCKJS };
        SessionId::new(kind, conn.slot, conn.generation)
    }

    /// The id of a session over HTTP.
    pub(super) fn of_http(id: HttpSessionId) -> SessionId {
        SessionId::new(POLLED, id.slot, id.generation)
    }

    fn new(kind: u32, slot: u32, generation: u32) -> SessionId {
        debug_assert!(slot <= SLOT, "more than a billion of one kind");
        SessionId { place: kind << SLOT_BITS | slot & SLOT, generation }
    }

    /// How it is reached.
    #[inline]
    pub(super) fn link(self) -> Link {
        let slot = self.place & SLOT;
        match self.place >> SLOT_BITS {
            RAW => Link::Socket(ConnId::new(slot, self.generation), Form::Raw),
            SOCKJS => Link::Socket(ConnId::new(slot, self.generation), Form::SockJs),
            _ => Link::Http(HttpSessionId::new(slot, self.generation)),
        }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.link().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn a_session_id_tells_how_its_session_is_reached() {
        assert_eq!(size_of::<SessionId>(), 8);
        for (slot, generation) in [(0, 0), (7, u32::MAX), (SLOT, 3)] {
            let conn = ConnId::new(slot, generation);
            for form in [Form::Raw, Form::SockJs] {
                assert_eq!(SessionId::of_socket(conn, form).link(), Link::Socket(conn, form));
            }
            let id = HttpSessionId::new(slot, generation);
            assert_eq!(SessionId::of_http(id).link(), Link::Http(id));
        }
    }

    #[test]
    fn no_limit_needs_more_slots_than_a_session_id_can_hold() {
        let highest = |name| Limits::TABLE.iter().find(|row| row.0 == name).unwrap().2;
        // Back ends and the few connections beyond the limits need slots, too.
        assert!(highest("connections") + highest("control_connections") < SLOT as usize / 2);
        assert!(highest("sessions") < SLOT as usize / 2);
    }
}
