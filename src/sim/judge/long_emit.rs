//! Emits to several channels that take several turns: the switch decides which part goes out when,
//! but not to whom, nor in which order.

use std::collections::{BTreeSet, VecDeque};

use super::changes::{Outcome, following, lost, refusal};
use super::expected::Expected;
use super::{Due, Judge, Pending};
use crate::edge::ConnId;
use crate::hub::Change;
use crate::sim::intent::{Command, Emit};
use crate::sim::record::{Refusal, need_auth};
use crate::sim::tape::{Item, Place};

/// Emits that are counted remember the connections that they have reached, together up to this
/// fraction of all permitted subscriptions; beyond that they run one after the other.
const REACHED_PART: usize = 4;

/// The rest of a long emit.
#[derive(Debug)]
pub(super) struct LongEmit {
    conn: ConnId,
    space: u32,
    emit: Emit,
    channels: VecDeque<String>,
    reached: BTreeSet<ConnId>,
}

impl Judge {
    /// A back end has asked for a long emit.
    pub(super) fn begin_long_emit(&mut self, conn: ConnId, space: u32, emit: &Emit) {
        let mut channels = VecDeque::new();
        for channel in &emit.channels {
            if !channels.contains(channel) {
                channels.push_back(channel.clone());
            }
        }
        assert!(channels.len() > 1, "one channel is handed out at once");
        if let Some(controller) = self.controller(conn) {
            controller.waits = true;
        }
        let (emit, reached) = (emit.clone(), BTreeSet::new());
        self.long_emits.push_back(LongEmit { conn, space, emit, channels, reached });
    }

    /// The next part of the first long emit was proposed.
    pub(super) fn continue_long_emits(&mut self, (items, i): (&[Item], usize)) {
        let Item::Proposed { at, change, place } = &items[i] else { return };
        // The server checks for a flood before it goes on.
        self.note_flood();
        self.end_long_emits();
        let mut long_emit = self.long_emits.pop_front().expect("only long emits are proposed here");
        let Change::Emit { channels, .. } = change else { panic!("{change:?} is not asked for") };
        let part = long_emit.channels.drain(..channels.len()).collect();
        let command = Command::Emit(Emit { channels: part, ..long_emit.emit.clone() });
        let (conn, space) = (long_emit.conn, Some(long_emit.space));
        let key = self.recognize(change, &command, space);
        let mut pending = Pending { conn, command, space, key, change: change.clone(), of: None };
        match place {
            Place::Refused => self.continue_long_emit(long_emit, Err(lost()), 0),
            Place::Later(ticket) => {
                pending.of = Some(Box::new(long_emit));
                self.pending.insert(ticket.0, pending);
            }
            Place::Now => {
                self.applied += 1;
                let result = self.apply(&pending, at.0, following(items, i));
                self.continue_long_emit(long_emit, result, 0);
            }
        }
    }

    /// A part has gone out or failed: queues the rest behind the other emits, or replies.
    pub(super) fn continue_long_emit(
        &mut self,
        mut long_emit: LongEmit,
        result: Result<Outcome, Refusal>,
        after: u64,
    ) {
        long_emit.reached.extend(&self.reached);
        if result.is_ok() && !long_emit.channels.is_empty() {
            // One after the other if too many connections would have to be remembered.
            let remembered = |long_emit: &LongEmit| match long_emit.emit.is_counted {
                true => long_emit.reached.len(),
                false => 0,
            };
            let reached =
                remembered(&long_emit) + self.long_emits.iter().map(remembered).sum::<usize>();
            return match reached > self.limits.subscriptions / REACHED_PART {
                true => self.long_emits.push_front(long_emit),
                false => self.long_emits.push_back(long_emit),
            };
        }
        let result = result.map(|_| Outcome::Count(long_emit.reached.len()));
        if let Some(controller) = self.controller(long_emit.conn) {
            controller.waits = false;
        }
        self.reply_to(long_emit.conn, &Command::Emit(long_emit.emit), result, after);
    }

    /// Ends the emits whose namespace is gone; their error replies may leave at any time.
    pub(super) fn end_long_emits(&mut self) {
        let (spaces, long_emits) = (&self.record.spaces, std::mem::take(&mut self.long_emits));
        let (left, over): (VecDeque<_>, VecDeque<_>) =
            long_emits.into_iter().partition(|long_emit| spaces.contains_key(&long_emit.space));
        self.long_emits = left;
        for long_emit in over {
            if let Some(controller) = self.controller(long_emit.conn) {
                controller.waits = false;
            }
            let what = Expected::Reply(refusal(need_auth()));
            if let Some(line) = self.lines.get_mut(&long_emit.conn).filter(|l| l.closing.is_none())
            {
                line.expected.push_back(Due { what, after: 0, by: u64::MAX });
            }
        }
    }

    /// Whether proposals or emits are pending.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty() || !self.long_emits.is_empty()
    }
}
