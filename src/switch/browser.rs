//! What the messages of browsers mean (protocol parts 7 to 9), over any transport. Events of one
//! browser are carried out strictly one after the other, so a `subscribe` right behind `auth`
//! always works. Called by the web door.

#[cfg(test)]
mod tests;

use super::answer_pressure::has_reserve;
use super::page::Demo;
use super::refusal_tally::RefusalTally;
use super::shared::SharedStates;
use crate::codec::http::{Head, Response};
use crate::codec::json;
use crate::codec::jwt::{self, Claims};
use crate::codec::ws::Bounds;
use crate::edge::Net;
use crate::hub::{Denied, Hub, Key, NsId, PeerId, StateKey};
use crate::limits::Limits;
use crate::publication::Publication;
use crate::reason::CloseReason;
use crate::time::{Millis, Now, UnixMillis};
use crate::uuid::Uuid;
use crate::web::{Application, Message, Outlet, Parting};

/// Longest `clb` that is echoed, in bytes: enough for a counter or a short string.
const CLB_BYTES: usize = 64;

const OK: &str = "{\"ok\":true}";

/// The expiry of a token that does not expire.
const NEVER: UnixMillis = UnixMillis(u64::MAX);

/// What the switch keeps of a browser, besides its transport and what the hub knows.
#[derive(Debug)]
pub(super) enum Browser {
    /// It has not authenticated, and must do so in time.
    Unauthenticated { auth_by: Millis },
    /// Its authenticated peer, and when its token expires: [`NEVER`] if the token does not say.
    Authenticated { peer: PeerId, expires: UnixMillis },
}

impl Browser {
    /// Returns its peer, if it has authenticated.
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Browser::Unauthenticated { .. } => None,
            Browser::Authenticated { peer, .. } => Some(*peer),
        }
    }

    /// Whether its token has expired, even if its deadline has not fired yet.
    fn has_expired(&self, now: Now) -> bool {
        matches!(self, Browser::Authenticated { expires, .. } if *expires <= now.unix)
    }
}

/// The part of the switch that browsers interact with.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub hub: &'a mut Hub,
    /// Encoded frames of large states on their way to subscribers.
    pub shared: &'a mut SharedStates,
    /// The namespaces whose refusals they were.
    pub refusal_tally: &'a mut RefusalTally,
    pub limits: &'a Limits,
    pub demo: Option<&'a Demo>,
    /// Queued answers take too much memory, or did until a moment ago.
    pub is_short: bool,
    /// Date at the zero of the monotonic clock.
    pub epoch: u64,
}

impl Application for Site<'_> {
    type Peer = Browser;

    fn opened(&mut self, outlet: &mut Outlet<'_, impl Net>, _: usize) -> Result<Browser, Parting> {
        let auth_by = outlet.now().mono.plus(self.limits.auth_ms as u64);
        Ok(Browser::Unauthenticated { auth_by })
    }

    fn message(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        browser: &mut Browser,
        message: Message<'_>,
    ) -> Result<(), Parting> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(bytes) => {
                str::from_utf8(bytes).map_err(|_| Parting::from(CloseReason::WsUtf8))?
            }
        };
        self.event(outlet, browser, text).map_err(Parting::from)
    }

    fn is_short(&self, net: &impl Net) -> bool {
        self.is_short || net.queue_memory().answers > self.limits.answers_bytes
    }

    /// Only an answer that shows a state can be too large.
    fn has_room(&self, net: &impl Net, browser: &Browser, message: &str) -> bool {
        !self.is_short(net) || !self.asks_for_much(net, browser, message)
    }

    fn bounds(&self, browser: &Browser) -> Bounds {
        let message_bytes = match browser {
            Browser::Authenticated { .. } => self.limits.message_bytes,
            Browser::Unauthenticated { .. } => self.limits.message_unauthenticated_bytes,
        };
        Bounds { message_bytes, fragments: self.limits.message_fragments }
    }

    fn is_authenticated(&self, browser: &Browser) -> bool {
        matches!(browser, Browser::Authenticated { .. })
    }

    fn deadline(&self, browser: &Browser, now: Now) -> Option<Millis> {
        match browser {
            Browser::Unauthenticated { auth_by } => Some(*auth_by),
            Browser::Authenticated { expires: NEVER, .. } => None,
            Browser::Authenticated { expires, .. } => {
                Some(now.mono.plus(expires.0.saturating_sub(now.unix.0)))
            }
        }
    }

    fn timed_out(&mut self, browser: &mut Browser, now: Now) -> Result<(), Parting> {
        match browser {
            Browser::Unauthenticated { auth_by } if *auth_by <= now.mono => {
                Err(CloseReason::AuthTimeout.into())
            }
            _ if browser.has_expired(now) => Err(CloseReason::TokenExpired.into()),
            _ => Ok(()),
        }
    }

    /// Whether this is an `auth` with a valid token of the same user. Any other `auth` is
    /// `Some(false)`, and no renewal behind it is heard.
    fn renews(&self, browser: &Browser, message: &str, now: Now) -> Option<bool> {
        let peer = browser.peer().filter(|peer| self.hub.verdict(*peer).is_none())?;
        let [event, data] = json::members(message, &["event", "data"]).ok()??;
        json::string(event?).filter(|event| event == "auth")?;
        let data = data.filter(|data| json::is_truthy(data))?;
        Some(self.named(data).is_ok_and(|(ns, token)| {
            let user = self.claims(ns, token, now).map(|claims| claims.user);
            user.is_ok_and(|user| self.hub.identity(peer) == Some((ns, user.as_str())))
        }))
    }

    fn closed(&mut self, browser: Browser) {
        if let Some(peer) = browser.peer() {
            self.hub.disconnect(peer);
        }
    }

    fn page(&mut self, net: &mut impl Net, head: &Head<'_>) -> Response {
        self.answer_demo(net, head)
    }
}

/// Sends `{"event":"callBackAnswer","clb":N,"data":X}` to a browser that asked for an answer.
fn answer(outlet: &mut Outlet<'_, impl Net>, clb: Option<&str>, data: &str) {
    if let Some(clb) = clb {
        outlet.send(
            &["{\"event\":\"callBackAnswer\",\"clb\":", clb, ",\"data\":", data, "}"].concat(),
        );
    }
}

fn refuse(outlet: &mut Outlet<'_, impl Net>, clb: Option<&str>, reason: &str) {
    answer(outlet, clb, &format!("{{\"ok\":false,\"reason\":\"{reason}\"}}"));
}

impl Site<'_> {
    /// Returns the time on the scale of entries and states.
    pub fn at(&self, now: Now) -> UnixMillis {
        UnixMillis(self.epoch.saturating_add(now.mono.0))
    }

    /// Whether this subscribes to a channel with a large state.
    fn asks_for_much(&self, net: &impl Net, browser: &Browser, text: &str) -> bool {
        let Some((ns, user)) = browser.peer().and_then(|peer| self.hub.identity(peer)) else {
            return false;
        };
        let members = json::members(text, &["event", "data"]);
        let Ok(Some([Some(event), Some(data)])) = members else { return false };
        if json::string(event).is_none_or(|event| event != "subscribe") {
            return false;
        }
        let Some(channel) = json::text(data) else { return false };
        let user = channel.starts_with('@').then_some(user);
        let state = self.hub.state(ns, &channel, user, self.at(net.now()));
        let bytes = state.map_or(0, |state| state.len());
        self.shared.is_worth(bytes) && !has_reserve(self.limits, net, bytes)
    }

    /// Carries out one event. What is not an event, and unknown events, are ignored silently:
    /// clients in the field send them.
    fn event(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        browser: &mut Browser,
        text: &str,
    ) -> Result<(), CloseReason> {
        if let Some(reason) = browser.peer().and_then(|peer| self.hub.verdict(peer)) {
            // It is about to be disconnected for this reason; what it says no longer counts.
            return Err(reason);
        }
        let members = json::members(text, &["event", "data", "clb"]);
        let Ok(Some([Some(event), data, clb])) = members else { return Ok(()) };
        let Some(event) = json::string(event) else { return Ok(()) };
        let is_id = |raw: &&str| raw.starts_with(['"', '-']) || raw.as_bytes()[0].is_ascii_digit();
        let clb = clb.filter(|raw| raw.len() <= CLB_BYTES).filter(is_id);
        if event == "ping" {
            answer(outlet, clb, OK);
            return Ok(());
        }
        let data = data.filter(|data| json::is_truthy(data));
        match (&*event, data) {
            ("auth", Some(data)) => self.auth(outlet, browser, data)?,
            // The deadline may not have fired: the date was set, or the machine was suspended.
            ("subscribe", Some(_)) if browser.has_expired(outlet.now()) => {
                return Err(CloseReason::TokenExpired);
            }
            ("subscribe", Some(data)) => self.subscribe(outlet, browser, data, clb),
            ("unsubscribe", Some(data)) => {
                if let (Some(peer), Some(channel)) = (browser.peer(), json::text(data)) {
                    self.hub.unsubscribe(peer, &channel);
                }
                answer(outlet, clb, OK);
            }
            ("subscribe" | "unsubscribe", None) => {
                refuse(outlet, clb, "channel has no name");
            }
            _ => {}
        }
        Ok(())
    }

    /// Authenticates the browser, with the checks in the order of protocol part 7.
    fn auth(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        browser: &mut Browser,
        data: &str,
    ) -> Result<(), CloseReason> {
        let (ns, token) = self.named(data)?;
        let proved = self.prove(outlet, browser, ns, token);
        if let (Err(_), Some(name)) = (proved, self.hub.name(ns)) {
            self.refusal_tally.note(name);
        }
        proved
    }

    /// Finds the namespace that an `auth` names, and its token.
    fn named<'a>(&self, data: &'a str) -> Result<(NsId, &'a str), CloseReason> {
        let [token, name] = json::members(data, &["s", "i"]).ok().flatten().unwrap_or_default();
        let token = token.ok_or(CloseReason::AuthWithoutToken)?;
        let name = name.ok_or(CloseReason::AuthWithoutNamespace)?;
        let ns = json::text(name).and_then(|name| self.hub.namespace(&name));
        Ok((ns.ok_or(CloseReason::UnknownNamespace)?, token))
    }

    /// Verifies a token with the keys of that namespace that are valid now.
    fn claims(&self, ns: NsId, token: &str, now: Now) -> Result<Claims, CloseReason> {
        let token = json::string(token).ok_or(CloseReason::InvalidToken)?;
        let keys = self.hub.keys(ns, self.at(now));
        let claims = jwt::verify(&token, keys, now.unix.seconds());
        let claims = claims.ok().filter(|claims| claims.user.len() <= self.limits.name_bytes);
        claims.ok_or(CloseReason::InvalidToken)
    }

    /// Makes the browser the user that the token names, in that namespace.
    fn prove(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        browser: &mut Browser,
        ns: NsId,
        token: &str,
    ) -> Result<(), CloseReason> {
        let now = outlet.now();
        let claims = self.claims(ns, token, now)?;
        let former = browser.peer();
        let cid = former.and_then(|peer| self.hub.cid(peer)).unwrap_or_else(|| {
            let mut bytes = [0; 16];
            outlet.random(&mut bytes);
            Uuid::from_random(bytes)
        });
        let peer = match former {
            Some(peer) if self.hub.identity(peer) == Some((ns, claims.user.as_str())) => peer,
            _ => {
                // A different user from now on: the subscriptions of the former one end.
                if let Some(former) = former {
                    self.hub.disconnect(former);
                }
                let peer = self.hub.connect(ns, &claims.user, cid, outlet.session());
                peer.ok_or(CloseReason::UserFull)?
            }
        };
        let expires = claims.expires.map_or(NEVER, |end| UnixMillis(end.saturating_mul(1000)));
        *browser = Browser::Authenticated { peer, expires };
        outlet.reschedule();
        let left = claims.expires.map_or(String::new(), |end| {
            // Rounded down: these whole seconds are certain to be left.
            format!(",\"expiresIn\":{}", end.saturating_mul(1000).saturating_sub(now.unix.0) / 1000)
        });
        outlet.send(&format!("{{\"event\":\"auth ok\",\"data\":{{\"cid\":\"{cid}\"{left}}}}}"));
        Ok(())
    }

    /// Subscribes to a channel and sends its state. Old clients learn nothing else; those that gave
    /// a `clb` are told whether it worked, and why not.
    fn subscribe(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        browser: &Browser,
        data: &str,
        clb: Option<&str>,
    ) {
        let Some(peer) = browser.peer() else { return refuse(outlet, clb, "need auth") };
        let max = self.limits.name_bytes;
        let channel = match json::text(data) {
            Some(channel) if channel.len() > max => {
                let reason = format!("channel name is too long, at most {max} bytes");
                return refuse(outlet, clb, &reason);
            }
            Some(channel) => channel,
            None => return refuse(outlet, clb, "channel is not a string"),
        };
        let at = self.at(outlet.now());
        let owner = self.hub.identity(peer).map(|(ns, user)| {
            (self.hub.number(ns).unwrap_or_default(), channel.starts_with('@').then(|| user.into()))
        });
        match self.hub.subscribe(peer, &channel, at) {
            Ok(state) => {
                answer(outlet, clb, OK);
                let Some(state) = state else { return };
                let publication = Publication::new(&channel, state);
                if let Some((ns, user)) = owner.filter(|_| self.shared.is_worth(state.len())) {
                    let key = Key::State {
                        ns,
                        state_key: StateKey { channel: (&*channel).into(), user },
                    };
                    self.shared.lend(&key, &publication);
                    publication.frame(outlet.form());
                    self.shared.keep(key, &publication, outlet.now().mono);
                }
                outlet.send_publication(&publication);
            }
            Err(Denied::NoGrant) => refuse(outlet, clb, "no grant"),
            Err(Denied::TooManyChannels(max)) => {
                refuse(outlet, clb, &format!("too many channels, at most {max}"));
            }
            Err(Denied::TooManySubscriptions(max)) => {
                refuse(outlet, clb, &format!("too many subscriptions in all, at most {max}"));
            }
            Err(Denied::Share(max)) => {
                let most = format!("too many subscriptions in all, at most {max}");
                refuse(outlet, clb, &format!("{most}: what is left is for others"));
            }
            Err(Denied::Gone) => refuse(outlet, clb, "need auth"),
        }
    }
}
