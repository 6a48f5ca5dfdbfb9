//! What a switch is told at the start, and what of it may be another while the server runs.

use super::{Demo, Switch};
use crate::address::Proxies;
use crate::codec::sockjs;
use crate::edge::Net;
use crate::hub::{Declared, KeyRef, Outbox, Route, Row, Undo};
use crate::journal::Journal;
use crate::limits::Limits;
use crate::publication::Publication;
use crate::reason::CloseReason;
use crate::time::{Now, UnixMillis};
use crate::web::Service;

/// Places at which it is looked in one turn whether somebody is there: about 50 µs.
const COUNTED_PER_TURN: usize = 64;

/// What a switch is told at the start.
#[derive(Debug)]
pub struct Settings {
    /// All limits.
    pub limits: Limits,
    /// Opens `registerNameSpace`, `removeNameSpace` and `rotateKey`.
    pub server_key: String,
    /// The page to try the server with, if it is to be served.
    pub demo: Option<Demo>,
    /// How browsers are served.
    pub sockjs: SockJs,
    /// Proxies that are believed where they say whom they speak for.
    pub proxies: Proxies,
    /// The time at the start.
    pub now: Now,
    /// The same moment on the scale of entries and states; the date, unless an earlier run had
    /// another idea of it.
    pub at: UnixMillis,
}

/// What of SockJS can be switched, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SockJs {
    /// Whether answers set the cookie `JSESSIONID`, which some load balancers go by.
    pub cookie: bool,
    /// Whether `jsonp` is served: scripts of other sites then run in the page.
    pub jsonp: bool,
    /// Whether `htmlfile` is served.
    pub htmlfile: bool,
    /// The script that the iframe page loads, if it is not the server's own.
    pub script: Option<String>,
    /// Sites whose pages may connect; all may if there is none here.
    pub origins: Vec<String>,
}

impl Settings {
    /// These limits and this key for the operator, and of all else what there is without a
    /// configuration, from now on.
    pub fn new(limits: Limits, server_key: &str, now: Now) -> Settings {
        let (sockjs, proxies) = (SockJs::default(), Proxies::default());
        let (server_key, at) = (server_key.to_owned(), now.unix);
        Settings { limits, server_key, demo: None, sockjs, proxies, now, at }
    }
}

impl Default for SockJs {
    fn default() -> SockJs {
        SockJs { cookie: false, jsonp: true, htmlfile: true, script: None, origins: Vec::new() }
    }
}

impl Switch {
    /// Makes a namespace with a key that the configuration gives it, before the doors open; or
    /// gives it to the one that is there. Its key is not recorded: the configuration is the record
    /// of that. `None` if there is no room for it.
    pub fn declare(&mut self, name: &str, key: &str) -> Option<Declared> {
        struct Recorded<'a>(&'a mut dyn Journal);
        impl Outbox for Recorded<'_> {
            fn deliver(&mut self, _: Route, _: &Publication<'_>) {}
            fn close(&mut self, _: Route, _: CloseReason) {}
            fn changes<'a>(&mut self, key: KeyRef<'_>, row: &dyn Fn() -> Option<Row<'a>>) {
                self.0.changes(key, row);
            }
            fn changed(&mut self, undo: Undo) {
                self.0.changed(undo);
            }
        }
        self.hub.declare(name, key, &mut Recorded(&mut *self.journal))
    }

    /// From now on these limits hold, and browsers are served like this. What has begun goes on as
    /// it is: nobody is let go because there would be no room for them any more.
    pub fn reload(&mut self, limits: &Limits, sockjs: SockJs, now: Now) {
        if self.limits.connections_per_address == 0 && limits.connections_per_address > 0 {
            self.count_from = Some(0);
        }
        self.limits = limits.clone();
        self.hub.set_limits(limits.clone());
        self.journal.reload(limits);
        self.intake.reload();
        // Whoever waits may find room now, and nothing else may happen for long.
        self.is_releasing = true;
        // And what waits for the disk may be refused now: it is looked at again.
        for conn in &self.crowded {
            if let Some(controller) = self.seats.controller(*conn) {
                controller.waits_for_disk = false;
            }
        }
        self.shared.reload(limits);
        self.web.reload(vec![service(sockjs, limits)], limits.clone(), now);
    }

    /// Those who came when there was no cap on the connections of one address, and have not been
    /// counted yet, are: some in a turn.
    pub(super) fn count_in(&mut self, net: &impl Net) {
        let Some(from) = self.count_from else { return };
        let slots = from..from + COUNTED_PER_TURN;
        for slot in slots.clone() {
            let Some(conn) = self.seats.browser(slot) else {
                self.count_from = None;
                return;
            };
            if let Some(conn) = conn {
                self.web.count_in(net, conn);
            }
        }
        self.count_from = Some(slots.end);
    }

    /// From now on this key opens `registerNameSpace`, `removeNameSpace` and `rotateKey`.
    pub fn set_server_key(&mut self, key: &str) {
        key.clone_into(&mut self.server_key);
    }

    /// The configuration names a namespace no more (see [`crate::hub::Hub::undeclare`]).
    pub fn undeclare(&mut self, name: &str) -> bool {
        self.hub.undeclare(name)
    }
}

/// States shorter than this are not shared: what is queued for a connection anyway is the bound.
pub(super) const fn shared_bytes_min(limits: &Limits) -> usize {
    limits.answers_pause_bytes / 64
}

/// The one place where SockJS is served.
pub(super) fn service(options: SockJs, limits: &Limits) -> Service {
    let service = Service::new(sockjs::PREFIX, limits);
    let SockJs { cookie, jsonp, htmlfile, script, origins } = options;
    let script = script.unwrap_or(service.script);
    Service { cookie, jsonp, htmlfile, script, origins, ..service }
}
