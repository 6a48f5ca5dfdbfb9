//! Browsers over WebSocket, raw or in SockJS framing (protocol parts 6 to 9): frames in, events
//! carried out strictly one after the other, so that a `subscribe` right behind `auth` works every
//! time.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::{Link, Switch};
use crate::codec::ws::{self, Bounds, Event, Side, WsError};
use crate::codec::{json, jwt, sockjs};
use crate::edge::{ConnId, Net};
use crate::hub::{Denied, Key, PeerId, Place};
use crate::journal::Journal;
use crate::limits::Limits;
use crate::publication::{Form, Publication, message_frame};
use crate::reason::CloseReason;
use crate::time::{Millis, Now, UnixMillis};
use crate::uuid::Uuid;

/// Longest `clb` that is given back, in bytes: a counter or a short string.
const CLB_BYTES: usize = 64;

/// A connection that speaks WebSocket.
#[derive(Debug)]
pub(super) struct Browser {
    reader: ws::Reader,
    pub form: Form,
    /// Who it proved to be.
    pub peer: Option<PeerId>,
    /// Its id, from the first auth on.
    cid: Option<Uuid>,
    /// When its token ends.
    expires: Option<UnixMillis>,
    /// It must have authenticated by then.
    auth_by: Millis,
    /// The next ping, or the end of the wait for an answer.
    beat_at: Millis,
    /// A ping is out, and nothing has come since.
    awaits_answer: bool,
    /// It is not read until its answers have gone out.
    is_held: bool,
    /// What was queued at the last beat, while held.
    queued_at_beat: usize,
    /// Messages of a SockJS array that wait behind those answers; at most as long as one WebSocket
    /// message.
    #[allow(clippy::box_collection)] // one word, because it is hardly ever there
    pending: Option<Box<VecDeque<String>>>,
}

impl Browser {
    pub fn new(form: Form, now: Millis, limits: &Limits) -> Browser {
        Browser {
            reader: ws::Reader::new(Side::Server),
            form,
            peer: None,
            cid: None,
            expires: None,
            auth_by: now.plus(limits.auth_ms as u64),
            beat_at: now.plus(limits.heartbeat_ms as u64),
            awaits_answer: false,
            is_held: false,
            queued_at_beat: 0,
            pending: None,
        }
    }

    /// When it must be looked at next.
    pub fn deadline(&self, now: Now) -> Millis {
        let auth = self.peer.is_none().then_some(self.auth_by);
        let end = self.expires.map(|end| now.mono.plus(end.0.saturating_sub(now.unix.0)));
        [auth, end].into_iter().flatten().fold(self.beat_at, Millis::min)
    }

    /// What it asked for and has not taken is no reason to cut it, but one to hear no more
    /// requests: TCP holds it back.
    fn hold(&mut self, net: &mut impl Net, conn: ConnId) {
        self.is_held = true;
        net.pause(conn);
    }

    fn send(&self, net: &mut impl Net, conn: ConnId, message: &str) {
        net.send(conn, message_frame(self.form, message));
    }

    /// `{"event":"callBackAnswer","clb":N,"data":X}` for those who asked for an answer.
    fn answer(&self, net: &mut impl Net, conn: ConnId, clb: Option<&str>, data: &str) {
        if let Some(clb) = clb {
            let message = format!("{{\"event\":\"callBackAnswer\",\"clb\":{clb},\"data\":{data}}}");
            self.send(net, conn, &message);
        }
    }

    fn refuse(&self, net: &mut impl Net, conn: ConnId, clb: Option<&str>, reason: &str) {
        self.answer(net, conn, clb, &format!("{{\"ok\":false,\"reason\":\"{reason}\"}}"));
    }
}

const OK: &str = "{\"ok\":true}";

impl<J: Journal> Switch<J> {
    pub(super) fn browser_received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        browser: &mut Browser,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        if browser.awaits_answer {
            // Any byte shows that somebody is there.
            browser.awaits_answer = false;
            browser.beat_at = net.now().mono.plus(self.limits.heartbeat_ms as u64);
            net.deadline(conn, Some(browser.deadline(net.now())));
        }
        // Out of the browser meanwhile, because a message may lie in the reader.
        let mut reader = std::mem::replace(&mut browser.reader, ws::Reader::new(Side::Server));
        let used = self.frames(net, conn, browser, &mut reader, input);
        browser.reader = reader;
        used
    }

    fn frames(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        browser: &mut Browser,
        reader: &mut ws::Reader,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        // Each error has its words; `farewell` knows only the kind.
        let broken = |net: &mut _, error: WsError| {
            Net::send(net, conn, ws::close_frame(error.close_code(), error.close_text()));
            CloseReason::from(error)
        };
        let mut used = 0;
        loop {
            if net.queued(conn) >= self.limits.answers_pause_bytes {
                browser.hold(net, conn);
                return Ok(used);
            }
            let message_bytes = match browser.peer {
                Some(_) => self.limits.message_bytes,
                None => self.limits.message_unauthenticated_bytes,
            };
            let bounds = Bounds { message_bytes, fragments: self.limits.message_fragments };
            let step = reader.read(&mut input[used..], &bounds);
            let step = step.map_err(|error| broken(net, error))?;
            used += step.consumed;
            match step.event {
                None => return Ok(used),
                Some(Event::Text(text)) => self.message(net, conn, browser, text)?,
                Some(Event::Binary(bytes)) => {
                    let text =
                        std::str::from_utf8(bytes).map_err(|_| broken(net, WsError::Utf8))?;
                    self.message(net, conn, browser, text)?;
                }
                Some(Event::Ping(payload)) => net.send(conn, ws::pong_frame(payload)),
                Some(Event::Pong(_)) => {}
                Some(Event::Close(said)) => {
                    let (code, reason) = said.unwrap_or((1000, ""));
                    net.send(conn, ws::close_frame(code, reason));
                    net.close(conn, CloseReason::PeerClosed);
                    return Ok(used);
                }
            }
        }
    }

    /// One WebSocket message: one event, or on SockJS any number of them.
    fn message(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        browser: &mut Browser,
        text: &str,
    ) -> Result<(), CloseReason> {
        if browser.form == Form::Raw {
            return self.event(net, conn, browser, text);
        }
        let mut messages = sockjs::parse_messages(text).map_err(|_| CloseReason::BrokenFraming)?;
        while let Some(message) = messages.next() {
            self.event(net, conn, browser, &message)?;
            if net.queued(conn) >= self.limits.answers_pause_bytes {
                let rest: VecDeque<String> = messages.map(Cow::into_owned).collect();
                browser.pending = (!rest.is_empty()).then(|| Box::new(rest));
                browser.hold(net, conn);
                return Ok(());
            }
        }
        Ok(())
    }

    /// All that was queued for it has gone to the kernel: it is heard again.
    pub(super) fn browser_drained(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        browser: &mut Browser,
    ) -> Result<(), CloseReason> {
        while let Some(message) = browser.pending.as_mut().and_then(|rest| rest.pop_front()) {
            self.event(net, conn, browser, &message)?;
            if net.queued(conn) >= self.limits.answers_pause_bytes {
                return Ok(());
            }
        }
        browser.pending = None;
        if std::mem::take(&mut browser.is_held) {
            net.resume(conn);
        }
        Ok(())
    }

    /// What is no event, and events that nobody knows, are passed over in silence: clients in the
    /// field send them.
    fn event(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        browser: &mut Browser,
        text: &str,
    ) -> Result<(), CloseReason> {
        let members = json::members(text, &["event", "data", "clb"]);
        let Ok(Some([Some(event), data, clb])) = members else { return Ok(()) };
        let Some(event) = json::string(event) else { return Ok(()) };
        let is_id = |raw: &&str| raw.starts_with(['"', '-']) || raw.as_bytes()[0].is_ascii_digit();
        let clb = clb.filter(|raw| raw.len() <= CLB_BYTES).filter(is_id);
        if event == "ping" {
            browser.answer(net, conn, clb, OK);
            return Ok(());
        }
        let data = data.filter(|data| json::is_truthy(data));
        match (&*event, data) {
            ("auth", Some(data)) => self.auth(net, conn, browser, data)?,
            ("subscribe", Some(data)) => self.subscribe(net, conn, browser, data, clb),
            ("unsubscribe", Some(data)) => {
                if let (Some(peer), Some(channel)) = (browser.peer, json::text(data)) {
                    self.hub.unsubscribe(peer, &channel);
                }
                browser.answer(net, conn, clb, OK);
            }
            ("subscribe" | "unsubscribe", None) => {
                browser.refuse(net, conn, clb, "channel has no name");
            }
            _ => {}
        }
        Ok(())
    }

    /// Who are you? The checks in the order of protocol part 7.
    fn auth(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        browser: &mut Browser,
        data: &str,
    ) -> Result<(), CloseReason> {
        let [token, name] = json::members(data, &["s", "i"]).ok().flatten().unwrap_or_default();
        let token = token.ok_or(CloseReason::AuthWithoutToken)?;
        let name = name.ok_or(CloseReason::AuthWithoutNamespace)?;
        let ns = json::text(name).and_then(|name| self.hub.namespace(&name));
        let ns = ns.ok_or(CloseReason::UnknownNamespace)?;
        let token = json::string(token).ok_or(CloseReason::InvalidToken)?;
        let now = net.now();
        let keys: Vec<&str> = self.hub.keys(ns, self.at(now)).collect();
        let claims = jwt::verify(&token, &keys, now.unix.seconds());
        let claims = claims.map_err(|_| CloseReason::InvalidToken)?;
        if claims.user.len() > self.limits.name_bytes {
            return Err(CloseReason::InvalidToken);
        }
        let cid = *browser.cid.get_or_insert_with(|| {
            let mut bytes = [0; 16];
            net.random(&mut bytes);
            Uuid::from_random(bytes)
        });
        let is_same = browser.peer.and_then(|peer| self.hub.identity(peer))
            == Some((ns, claims.user.as_str()));
        if !is_same {
            // Somebody else from now on: what the former user heard is over.
            if let Some(former) = browser.peer.take() {
                self.hub.disconnect(former);
            }
            let peer = self.hub.connect(ns, &claims.user, cid).ok_or(CloseReason::UserFull)?;
            self.link(peer, Link { conn, form: browser.form });
            browser.peer = Some(peer);
        }
        browser.expires = claims.expires.map(|end| UnixMillis(end.saturating_mul(1000)));
        net.deadline(conn, Some(browser.deadline(now)));
        let left = claims.expires.map_or(String::new(), |end| {
            // Whole seconds that are certain to be left.
            format!(",\"expiresIn\":{}", end.saturating_mul(1000).saturating_sub(now.unix.0) / 1000)
        });
        let message = format!("{{\"event\":\"auth ok\",\"data\":{{\"cid\":\"{cid}\"{left}}}}}");
        browser.send(net, conn, &message);
        Ok(())
    }

    fn link(&mut self, peer: PeerId, link: Link) {
        if self.links.len() <= peer.index() {
            self.links.resize(peer.index() + 1, link);
        }
        self.links[peer.index()] = link;
    }

    /// Joins a channel and sends its state. Old clients learn nothing else; those that gave a
    /// `clb` are told whether it worked, and why not.
    fn subscribe(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        browser: &Browser,
        data: &str,
        clb: Option<&str>,
    ) {
        let refuse = |net: &mut _, reason: &str| browser.refuse(net, conn, clb, reason);
        let Some(peer) = browser.peer else { return refuse(net, "need auth") };
        let max = self.limits.name_bytes;
        let channel = match json::text(data) {
            Some(channel) if channel.len() > max => {
                return refuse(net, &format!("channel name is too long, at most {max} bytes"));
            }
            Some(channel) => channel,
            None => return refuse(net, "channel is not a string"),
        };
        let at = self.at(net.now());
        let owner = self.hub.identity(peer).map(|(ns, user)| {
            (self.hub.number(ns).unwrap_or_default(), channel.starts_with('@').then(|| user.into()))
        });
        match self.hub.subscribe(peer, &channel, at) {
            Ok(state) => {
                browser.answer(net, conn, clb, OK);
                let Some(state) = state else { return };
                let publication = Publication::new(&channel, &state);
                if let Some((ns, user)) = owner.filter(|_| self.shared.is_worth(state.len())) {
                    let key = Key::State { ns, place: Place { channel: (&*channel).into(), user } };
                    self.shared.lend(&key, &publication);
                    publication.frame(browser.form);
                    self.shared.keep(key, &publication, net.now().mono);
                }
                net.send(conn, publication.frame(browser.form).clone());
            }
            Err(Denied::NoGrant) => refuse(net, "no grant"),
            Err(Denied::TooManyChannels(max)) => {
                refuse(net, &format!("too many channels, at most {max}"));
            }
            Err(Denied::Gone) => refuse(net, "need auth"),
        }
    }

    /// A deadline of a browser has come; returns the reason if it is the end.
    pub(super) fn browser_timed_out(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        browser: &mut Browser,
    ) -> Option<CloseReason> {
        let now = net.now();
        if browser.expires.is_some_and(|end| end <= now.unix) {
            return Some(CloseReason::TokenExpired);
        }
        if browser.peer.is_none() && browser.auth_by <= now.mono {
            return Some(CloseReason::AuthTimeout);
        }
        if browser.beat_at <= now.mono {
            let queued = net.queued(conn);
            if browser.is_held {
                // It is not read, so its pongs are not heard: what it takes shows that it lives.
                if queued == browser.queued_at_beat {
                    return Some(CloseReason::NoHeartbeat);
                }
                browser.queued_at_beat = queued;
                browser.beat_at = now.mono.plus(self.limits.heartbeat_ms as u64);
            } else if browser.awaits_answer {
                return Some(CloseReason::NoHeartbeat);
            } else {
                net.send(conn, ws::ping_frame(b""));
                browser.awaits_answer = true;
                browser.beat_at = now.mono.plus(self.limits.heartbeat_answer_ms as u64);
            }
        }
        net.deadline(conn, Some(browser.deadline(now)));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_browser_stays_small() {
        assert!(size_of::<Browser>() <= 144, "{}", size_of::<Browser>());
    }
}
