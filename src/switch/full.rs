//! Whether the next command is heard, and which is while the journal takes no more changes, because
//! the disk does not keep up, or hangs: one tenant can have all that may wait for it. So a command
//! is looked at before it is consumed, and only one that would be recorded waits, or is too long to
//! look at, with what stands behind it. Called by `control`.

use super::Switch;
use super::command::{self, Command};
use super::control::Controller;
use super::text;
use crate::codec::control;
use crate::edge::{ConnId, Net};

const WAITS: Next = Next::Waits { for_disk: true };
/// A command of no more bytes than that is looked at: all of it fits into a read.
const SHORT_BYTES: usize = 16 * 1024;

/// What becomes of the next command while there is no room for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It changes nothing, and is carried out.
    Heard,
    /// Not all of it is here, and it is short: the rest is read, and then it is looked at.
    Half,
    /// It waits for room, or may have to: for that alone which the disk makes, or not.
    Waits { for_disk: bool },
}

impl Switch {
    /// What becomes of the command at the start of this input, as far as there is room.
    #[inline]
    pub(super) fn next(
        &mut self,
        net: &impl Net,
        controller: &Controller,
        decoder: &control::Decoder,
        input: &[u8],
    ) -> Next {
        let is_flooded = self.is_flooded(net)
            && !self.is_short_enough(net, decoder.next_length(input).unwrap_or(0));
        if is_flooded || controller.is_behind(&self.limits) || !self.has_room_to_spread() {
            return Next::Waits { for_disk: false };
        }
        match self.journal.has_room() {
            true => Next::Heard,
            false => self.next_while_full(net, controller, decoder, input),
        }
    }

    /// It is not heard until there is room.
    pub(super) fn wait_for_room(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        for_disk: bool,
    ) {
        controller.waits_for_disk = for_disk;
        self.crowded.push(conn);
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
            // Half of a length, or a negative one, for which it is closed.
            return if input.len() < head { Next::Half } else { Next::Heard };
        };
        if head > 0 && !(1..=body_max).contains(&length) {
            // As above.
            return Next::Heard;
        }
        if length > few.min(SHORT_BYTES) {
            return WAITS;
        }
        let missing = length + 1 - arrived.len();
        let Some(rest) = input.get(head..head + missing) else { return Next::Half };
        match [arrived, rest].concat().split_last() {
            Some((0, body)) => self.next_of_body(self.is_somebody(net, controller), body),
            _ => Next::Heard,
        }
    }

    fn next_of_body(&self, is_somebody: bool, body: &[u8]) -> Next {
        let Ok(body) = text::of_body(body, None, self.limits.control_frame_bytes) else {
            return Next::Heard;
        };
        // What is refused for what it says changes nothing.
        match command::parse(&body, None, is_somebody, &self.limits) {
            Ok(command) if command.is_recorded() && self.has_right_key(&command) => WAITS,
            _ => Next::Heard,
        }
    }

    /// Whether it does not need the server key, or has it.
    fn has_right_key(&self, command: &Command<'_>) -> bool {
        command.server_key().is_none_or(|key| self.check_server_key(key).is_ok())
    }
}
