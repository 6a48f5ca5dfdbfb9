//! What goes on while the journal takes no more changes, because the disk does not keep up, or
//! hangs: one tenant can have all that may wait for it. So the next command of a back end is looked
//! at before it is consumed: only one that changes something waits, and what stands behind it.
//! Called by `control`.

use super::Switch;
use super::command::{self, Command};
use super::control::Controller;
use super::text;
use crate::codec::control;

/// What becomes of the next command while there is no room for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It changes nothing, and is carried out.
    Heard,
    /// Not all of it is here, and it is short: the rest is read, and then it is looked at.
    Half,
    /// It waits for room, or may have to.
    Waits,
}

impl Switch {
    /// What becomes of the command at the start of this input.
    pub(super) fn next_while_full(
        &self,
        controller: &Controller,
        decoder: &control::Decoder,
        input: &[u8],
    ) -> Next {
        if decoder.is_midway() {
            return Next::Waits;
        }
        let few = self.limits.control_frame_unauthenticated_bytes;
        let Some(length) = decoder.next_length(input) else { return Next::Half };
        match control::Decoder::new().next(input, few) {
            _ if length > few => Next::Waits,
            Ok(control::Decoded { body: Some(body), .. }) => {
                self.next_of_body(controller.auth.is_some(), body)
            }
            Ok(_) => Next::Half,
            // It is closed for it.
            Err(_) => Next::Heard,
        }
    }

    fn next_of_body(&self, is_authenticated: bool, body: &[u8]) -> Next {
        let Ok(body) = text::of_body(body, None, self.limits.control_frame_bytes) else {
            return Next::Heard;
        };
        match command::parse(&body, None, is_authenticated, &self.limits) {
            Ok(
                Command::Ping
                | Command::Auth { .. }
                | Command::Emit { .. }
                | Command::Get { .. }
                | Command::Info { .. },
            ) => Next::Heard,
            _ => Next::Waits,
        }
    }
}
