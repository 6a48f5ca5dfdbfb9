//! How many sessions there are and were, for whoever looks into the web door. Numbers alone, each
//! known without a search. Changes nothing.

use super::{Bodies, Line, Web};
use crate::publication::Kinds;
use crate::reason::CloseReason;

/// How many sessions there are, by how they are carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Raw WebSockets.
    pub raw: usize,
    /// WebSockets of SockJS.
    pub sockjs: usize,
    /// Sessions over HTTP, those that nobody asks for included.
    pub polled: usize,
}

impl<P> Web<P> {
    /// How many sessions there are, of any kind.
    pub fn sessions(&self) -> usize {
        self.raw_sockets + self.sockjs_sockets + self.sessions.len()
    }

    /// How many sessions there are, of each kind.
    pub fn ways(&self) -> Ways {
        let (raw, sockjs) = (self.raw_sockets, self.sockjs_sockets);
        Ways { raw, sockjs, polled: self.sessions.len() }
    }

    /// What kinds of sessions there are.
    pub fn kinds(&self) -> Kinds {
        let Ways { raw, sockjs, polled } = self.ways();
        Kinds { raw: raw > 0, sockjs: sockjs > 0, polled: polled > 0 }
    }

    /// What is kept of bodies of requests.
    pub fn bodies(&self) -> Bodies {
        self.bodies
    }

    /// How often somebody was held back for speaking too fast.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// How many sessions over HTTP have ended, by [`CloseReason`]: also those of which nobody asked
    /// to be told so.
    pub fn parted(&self) -> &[u64; CloseReason::ALL.len()] {
        &self.parted
    }

    /// What the application knows of the sessions that live.
    pub fn peers(&self) -> impl Iterator<Item = &P> {
        let sockets = self.lines.iter().filter_map(|line| match line {
            Line::Socket(socket) => socket.peer.as_ref(),
            _ => None,
        });
        sockets.chain(self.sessions.iter().filter_map(|(_, session)| session.peer.as_ref()))
    }
}
