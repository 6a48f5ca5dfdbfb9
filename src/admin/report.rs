//! The page of all metrics, made on request.

use super::Pages;
use crate::codec::prometheus::{Exposition, seconds};
use crate::edge::{Net, TurnedAway};
use crate::hub::Tally;
use crate::metrics::{Family, families as f};
use crate::reason::CloseReason;

/// One value of a namespace.
type Count = fn(&Tally) -> u64;

impl Pages<'_> {
    /// Returns all metrics, as text.
    pub(super) fn report(&self, net: &impl Net) -> String {
        let mut text = Exposition::default();
        text.begin(&f::BUILD);
        text.sample(&f::BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.connections(&mut text);
        self.traffic(&mut text);
        self.hub(&mut text);
        self.namespaces(&mut text);
        self.store(&mut text, net);
        self.process(&mut text, net);
        text.finish()
    }

    fn connections(&self, text: &mut Exposition) {
        let census = self.switch.census();
        let labelled = |text: &mut Exposition, family: &Family, label, samples: &[(&str, u64)]| {
            text.begin(family);
            for (value, count) in samples {
                text.sample(family, &[(label, value)], count);
            }
        };
        let kinds = [
            ("control", census.control as u64),
            ("websocket", census.ways.raw as u64),
            ("sockjs_websocket", census.ways.sockjs as u64),
            ("session", census.ways.http as u64),
            ("http", census.http as u64),
        ];
        labelled(text, &f::CONNECTIONS, "kind", &kinds);
        let metrics = self.switch.metrics();
        let web = metrics.web_opened;
        let doors = [("control", metrics.opened - web), ("web", web)];
        labelled(text, &f::OPENED, "door", &doors);
        let count = |reason: &CloseReason| (reason.label(), metrics.closed[*reason as usize]);
        let reasons: Vec<(&str, u64)> = CloseReason::ALL.iter().map(count).collect();
        labelled(text, &f::CLOSED, "reason", &reasons);
        let count = |why: TurnedAway| (why.label(), metrics.turned_away[why as usize]);
        labelled(text, &f::TURNED_AWAY, "reason", &TurnedAway::ALL.map(count));
        let http_sessions_closed = self.switch.http_sessions_closed();
        let count = |reason: &CloseReason| (reason.label(), http_sessions_closed[*reason as usize]);
        let reasons: Vec<(&str, u64)> = CloseReason::ALL.iter().map(count).collect();
        labelled(text, &f::SESSIONS_CLOSED, "reason", &reasons);
        text.single(&f::HELD, metrics.browsers_held);
        text.single(&f::STRANGERS, census.unauthenticated);
        text.single(&f::BODIES, census.bodies.bytes);
        text.single(&f::BODIES_EVICTED, census.bodies.evicted);
        text.single(&f::FLOODS, metrics.floods);
        text.single(&f::SHORTAGES, metrics.shortages);
        text.single(&f::REPLIES_OWED, census.pending_reply_bytes);
        text.single(&f::CONTROL_INPUT, census.control_input);
        text.single(&f::CONTROL_INPUT_WAITS, census.control_input_waits);
        text.single(&f::CONTROL_INPUT_EVICTED, census.control_input_evicted);
    }

    fn traffic(&self, text: &mut Exposition) {
        let metrics = self.switch.metrics();
        text.single(&f::COMMANDS, metrics.commands);
        text.single(&f::LONG_EMITS, metrics.long_emits);
        text.begin(&f::REFUSED);
        for (code, count) in &metrics.refused {
            text.sample(&f::REFUSED, &[("code", &code.to_string())], count);
        }
        text.single(&f::WRONG_KEYS, metrics.wrong_keys);
        text.single(&f::PUBLICATIONS, metrics.publications);
        text.single(&f::DELIVERIES, metrics.deliveries);
    }

    fn hub(&self, text: &mut Exposition) {
        let [namespaces, channels, users, peers, states] = self.switch.hub().sizes();
        let (grants, states_bytes) = self.switch.hub().grants_and_states_bytes();
        for (family, value) in [
            (&f::NAMESPACES, namespaces),
            (&f::CHANNELS, channels),
            (&f::USERS, users),
            (&f::PEERS, peers),
            (&f::STATES, states),
            (&f::STATES_BYTES, states_bytes),
            (&f::GRANTS, grants),
        ] {
            text.single(family, value);
        }
    }

    /// Each namespace in one of the first places, and the sum of all others: what is left of the
    /// total, without a look at any of them. It contains the counts of namespaces that are gone,
    /// and a reload does not change `metrics_namespaces`: so its counters never go down.
    fn namespaces(&self, text: &mut Exposition) {
        let hub = self.switch.hub();
        let metrics = self.switch.metrics();
        let [.., peers, states] = hub.sizes();
        let total = Tally {
            publications: metrics.publications,
            deliveries: metrics.deliveries,
            peers,
            states,
        };
        let named: Vec<(&str, Tally)> =
            hub.tallies(self.switch.limits().metrics_namespaces).collect();
        let counts: [(&Family, Count); 4] = [
            (&f::NS_PUBLICATIONS, |tally| tally.publications),
            (&f::NS_DELIVERIES, |tally| tally.deliveries),
            (&f::NS_PEERS, |tally| tally.peers as u64),
            (&f::NS_STATES, |tally| tally.states as u64),
        ];
        for (family, count) in counts {
            text.begin(family);
            let mut rest = count(&total);
            for (name, tally) in &named {
                rest = rest.saturating_sub(count(tally));
                text.sample(family, &[("namespace", name)], count(tally));
            }
            // A label of its own: a namespace may well be called `other`.
            text.sample(family, &[("other", "true")], rest);
        }
    }

    fn store(&self, text: &mut Exposition, net: &impl Net) {
        let Some(store) = self.switch.journal().meters(net.now()) else { return };
        text.single(&f::STORE_FAILING, u64::from(store.is_failing));
        text.single(&f::STORE_FAILURES, store.failures);
        text.single(&f::STORE_REFUSED, store.refused_changes);
        text.single(&f::STORE_PENDING_CHANGES, store.pending_changes);
        text.single(&f::STORE_PENDING_BYTES, store.pending_bytes);
        text.single(&f::STORE_LAG, store.lag_ms as f64 / 1e3);
        text.histogram(&f::STORE_BATCHES, &store.batches);
        text.single(&f::STORE_LAST, seconds(store.last_batch_us));
        text.single(&f::STORE_FILE, store.file_bytes);
        text.single(&f::STORE_CONTENT, store.content_bytes);
    }

    fn process(&self, text: &mut Exposition, net: &impl Net) {
        let meters = net.meters();
        text.single(&f::DRAINING, u64::from(meters.is_draining));
        text.single(&f::SOCKETS, meters.sockets);
        text.single(&f::RECEIVED, meters.received_bytes);
        text.single(&f::SENT, meters.sent_bytes);
        text.single(&f::QUEUED_BYTES, meters.queued_bytes);
        text.single(&f::QUEUED_FRAMES, meters.queued_frames);
        text.single(&f::INPUT, meters.input_bytes);
        text.single(&f::INPUT_EVICTED, meters.input_evicted);
        text.single(&f::KEPT_BYTES, meters.kept_bytes);
        text.single(&f::ANSWERS_BYTES, meters.answers_bytes);
        text.single(&f::BLOCKED, meters.watched);
        text.histogram(&f::TURNS, &meters.turns);
        text.single(&f::STOOD_STILL, meters.stood_still_ms as f64 / 1e3);
        let process = net.process();
        for (family, value) in [
            (&f::RESIDENT, process.resident_bytes),
            (&f::OPEN_FDS, process.open_fds),
            (&f::MAX_FDS, process.max_fds),
        ] {
            if let Some(value) = value {
                text.single(family, value);
            }
        }
        if let Some(ms) = process.cpu_ms {
            text.single(&f::CPU, ms as f64 / 1e3);
        }
        text.single(&f::STARTED, self.started.unix.seconds());
    }
}
