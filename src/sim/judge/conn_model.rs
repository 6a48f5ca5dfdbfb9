//! Compares what is sent to a connection with what must be sent.

use super::expected::Expected;
use super::{ConnModel, Due, Role, Seen};
use crate::edge::{ConnId, Door};
use crate::publication::Form;

impl ConnModel {
    pub(in crate::sim) fn door(&self) -> Door {
        match self.role {
            Role::Controller(_) => Door::Control,
            _ => Door::Web,
        }
    }

    /// The id that the server gave a browser.
    pub(in crate::sim) fn cid(&self) -> Option<&String> {
        match &self.role {
            Role::Browser(browser) => browser.cid.as_ref(),
            _ => None,
        }
    }

    pub(super) fn expect(&mut self, expected: Expected) {
        if self.closing.is_none() {
            self.expected.push_back(Due { what: expected, after: 0, by: 0 });
        }
    }

    pub(super) fn message(&mut self, message: String) {
        self.expect(Expected::Message(message));
    }

    /// Whether this is a controller that has all its replies.
    pub(super) fn is_answered(&self) -> bool {
        let Role::Controller(controller) = &self.role else { return false };
        !controller.waits && controller.deferred.is_none() && self.expected.is_empty()
    }

    /// Decodes a frame of the server: one thing, several replies, or published messages.
    pub(super) fn see(&self, frame: &[u8]) -> Vec<Seen> {
        match &self.role {
            Role::Controller(_) => Seen::of_replies(frame),
            _ if frame.starts_with(b"HTTP/") => vec![Seen::of_response(frame)],
            _ => Seen::of_frames(frame),
        }
    }

    /// Compares something sent with what was expected. Returns the mark of what it promises.
    pub(super) fn sent(
        &mut self,
        conn: ConnId,
        seen: Seen,
        durable: u64,
        is_published: bool,
    ) -> u64 {
        let Some(Due { what: expected, after, .. }) = self.expected.pop_front() else {
            panic!("{conn:?} was sent {seen:?}, and nothing was expected");
        };
        assert!(after <= durable, "{conn:?}: {seen:?} left before {after} was durable");
        let is_publication = matches!(expected, Expected::Publication(_));
        assert_eq!(is_published, is_publication, "{conn:?}: {seen:?} counts as what it is not");
        let form = match &self.role {
            Role::Browser(browser) => browser.form,
            _ => Form::Raw,
        };
        match expected.meets(&seen, form) {
            Err(difference) => panic!("{conn:?}: {difference}"),
            Ok(None) => {}
            Ok(Some(cid)) => {
                if let Role::Browser(browser) = &mut self.role {
                    let cid = browser.cid.get_or_insert_with(|| cid.clone()) == &cid;
                    assert!(cid, "{conn:?} has another cid than before");
                }
            }
        }
        let is_refused = matches!(&seen, Seen::Reply(body) if body.ends_with("\"code\":302}"));
        self.wire.push_back(seen);
        if is_refused { 0 } else { after }
    }
}
