//! Whether the next command is handled. While the journal takes no more changes, because the disk
//! is slow or hangs, one tenant can use up all room for pending changes. So a command is examined
//! before it is consumed; it waits, with all behind it, only if it would be recorded or is too long
//! to be examined. Called by `control`.

use super::Switch;
use super::command::{self, Command};
use super::control::Controller;
use super::text;
use crate::codec::control;
use crate::edge::{ConnId, Net};

const WAITS: Next = Next::Waits(Wait::Disk);
/// The longest command that is examined: it fits into one read.
const SHORT_BYTES: usize = 16 * 1024;

/// What happens to the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is carried out: there is room, or it changes nothing.
    Heard,
    /// It is short and incomplete: the rest is read, and then it is examined.
    Half,
    /// It waits for room, or may have to.
    Waits(Wait),
}

/// Who can make the room that a command waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wait {
    /// The back end itself, or an emit that ends; or that has to be found out.
    #[default]
    Other,
    /// The disk.
    Disk,
    /// Browsers, by taking what was published.
    Browsers,
}

impl Switch {
    /// Decides what happens to the command at the start of this input.
    #[inline]
    pub(super) fn next(
        &mut self,
        net: &impl Net,
        controller: &Controller,
        decoder: &control::Decoder,
        input: &[u8],
    ) -> Next {
        let has_publish_pressure = self.has_publish_pressure(net)
            && !self.is_short_enough(net, decoder.next_length(input).unwrap_or(0));
        if has_publish_pressure {
            return Next::Waits(Wait::Browsers);
        }
        if controller.is_behind(&self.limits) || !self.has_room_for_long_emit() {
            return Next::Waits(Wait::Other);
        }
        match self.journal.has_room() {
            true => Next::Heard,
            false => self.next_while_full(net, controller, decoder, input),
        }
    }

    /// Stops reading the connection until there is room.
    pub(super) fn wait_for_room(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        wait: Wait,
    ) {
        controller.wait = wait;
        self.waiting_for_room.push(conn);
        controller.unhear(net, conn);
    }

    fn next_while_full(
        &self,
        net: &impl Net,
        controller: &Controller,
        decoder: &control::Decoder,
        input: &[u8],
    ) -> Next {
        let few = self.limits.control_frame_unauthenticated_bytes;
        let body_max = controller.auth.map_or(few, |_| self.limits.control_frame_bytes);
        let (head, arrived) = match decoder.is_midway() {
            true => (0, decoder.arrived()),
            false => (control::LENGTH_BYTES, &[][..]),
        };
        let Some(length) = decoder.next_length(input) else {
            // Part of a length, or a negative length: `commands` closes the connection for that.
            return if input.len() < head { Next::Half } else { Next::Heard };
        };
        if head > 0 && !(1..=body_max).contains(&length) {
            // As above: the length is out of bounds.
            return Next::Heard;
        }
        if length > few.min(SHORT_BYTES) {
            return WAITS;
        }
        let missing = length + 1 - arrived.len();
        let Some(rest) = input.get(head..head + missing) else { return Next::Half };
        match [arrived, rest].concat().split_last() {
            Some((0, body)) => self.next_of_body(self.is_authenticated(net, controller), body),
            _ => Next::Heard,
        }
    }

    fn next_of_body(&self, is_authenticated: bool, body: &[u8]) -> Next {
        let Ok(body) = text::of_body(body, None, self.limits.control_frame_bytes) else {
            return Next::Heard;
        };
        // A command that is refused for its content changes nothing.
        match command::parse(&body, None, is_authenticated, &self.limits) {
            Ok(command) if command.is_recorded() && self.has_right_key(&command) => WAITS,
            _ => Next::Heard,
        }
    }

    /// Whether the command needs no server key, or has the right one.
    fn has_right_key(&self, command: &Command<'_>) -> bool {
        command.server_key().is_none_or(|key| self.check_server_key(key).is_ok())
    }
}
