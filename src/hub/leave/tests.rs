//! Crowds that leave: who gets deliveries meanwhile, and how much work one turn does.

use super::*;
use crate::edge::ConnId;
use crate::hub::{Change, Route, Undo};
use crate::limits::Limits;
use crate::publication::{Form, Publication};
use crate::time::UnixMillis;
use crate::uuid::Uuid;

const AT: UnixMillis = UnixMillis(1000);

/// The output of the hub.
#[derive(Default)]
struct Out {
    closed: Vec<(Route, CloseReason)>,
    delivered: Vec<Route>,
    /// The undos of all changes, and the mark to report.
    undos: Vec<Undo>,
    mark: u64,
}

impl Outbox for Out {
    fn deliver(&mut self, peer: Route, _: &Publication<'_>) {
        self.delivered.push(peer);
    }
    fn close(&mut self, peer: Route, reason: CloseReason) {
        self.closed.push((peer, reason));
    }
    fn mark(&self) -> u64 {
        self.mark
    }
    fn after_change(&mut self, undo: Undo) {
        self.undos.push(undo);
    }
}

struct World {
    hub: Hub,
    out: Out,
    ns: NsId,
    /// Each peer with its route.
    peers: Vec<(Route, PeerId)>,
}

impl World {
    fn new() -> World {
        let limits = Limits { connections_per_user: 100_000, ..Limits::default() };
        let mut hub = Hub::new(limits, AT);
        let mut out = Out::default();
        assert!(hub.declare("a", "k", &mut out).is_some());
        let ns = hub.namespace("a").unwrap();
        World { hub, out, ns, peers: Vec::new() }
    }

    fn apply(&mut self, change: Change<'_>) -> Outcome {
        self.hub.apply(AT, &change, None, &mut self.out).unwrap()
    }

    /// Connects `count` peers of one user, each subscribed to these channels.
    fn crowd(&mut self, count: usize, user: &str, channels: &[&str]) -> Vec<PeerId> {
        let mut one = |i: usize| {
            let cid = Uuid::from_random([i as u8; 16]);
            let conn = ConnId::new(self.peers.len() as u32, 0);
            let route = Route::of_socket(conn, Form::Raw);
            let peer = self.hub.connect(self.ns, user, cid, route).unwrap();
            self.peers.push((route, peer));
            for channel in channels {
                self.hub.subscribe(peer, channel, AT).unwrap();
            }
            peer
        };
        (0..count).map(&mut one).collect()
    }

    fn subscriptions(&self) -> usize {
        self.hub.peers.iter().map(|(_, peer)| peer.subscriptions.len()).sum()
    }

    fn emit(&mut self, channel: &str) -> Vec<PeerId> {
        let (ns, data) = (self.ns, "1".into());
        let channels = vec![channel.into()].into();
        self.apply(Change::Emit { ns, channels, data, user: None, except: None });
        let delivered = std::mem::take(&mut self.out.delivered);
        let peer = |route| self.peers.iter().find(|(other, _)| *other == route).unwrap().1;
        delivered.into_iter().map(peer).collect()
    }

    fn grant(&mut self, is_withdrawn: bool) {
        let (ns, channel, user) = (self.ns, "#vip".into(), "guest".into());
        self.apply(match is_withdrawn {
            true => Change::Revoke { ns, channel, user },
            false => Change::Grant { ns, channel, user },
        });
    }

    /// Grants or revokes, as a change that is not durable yet.
    fn grant_undurable(&mut self, is_withdrawn: bool) {
        self.out.mark += 1;
        self.grant(is_withdrawn);
    }

    fn undo(&mut self) {
        let undo = self.out.undos.pop().unwrap();
        self.hub.undo(undo, &mut Out::default());
        self.hub.check_invariants();
    }

    /// Checks that exactly these peers get deliveries of the channel and are counted.
    fn assert_receivers(&mut self, peers: &[PeerId]) {
        let (mut heard, mut expected) = (self.emit("#vip"), peers.to_vec());
        heard.sort_unstable();
        expected.sort_unstable();
        assert_eq!(heard, expected);
        assert_eq!(self.hub.presence(self.ns, "#vip").connections.len(), expected.len());
        self.hub.check_invariants();
    }

    /// Runs turns until no peer is leaving; checks that each turn keeps its budget.
    fn run_until_idle(&mut self, steps: usize) -> usize {
        let mut turns = 0;
        while self.hub.is_leaving() {
            assert_eq!(self.hub.next_end(), Some(UnixMillis(0)), "no turn is due");
            let (closed, left) = (self.out.closed.len(), self.subscriptions());
            self.hub.reap(steps, &mut self.out);
            let closed = self.out.closed.len() - closed;
            assert!(closed <= steps.div_ceil(LET_GO_STEPS), "{closed} closed in one turn");
            let left = left - self.subscriptions();
            assert!(
                left + closed * LET_GO_STEPS <= steps + LET_GO_STEPS,
                "{left} left in one turn"
            );
            self.hub.check_invariants();
            turns += 1;
        }
        turns
    }
}

#[test]
fn a_crowd_that_disconnects_at_once_is_removed_in_steps() {
    let mut world = World::new();
    let names: Vec<String> = (0..128).map(|i| i.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let crowd = world.crowd(100, "guest", &names);
    let stays = world.crowd(1, "other", &["7"]);
    crowd.iter().for_each(|peer| world.hub.disconnect(*peer));
    assert_eq!(world.hub.sizes(), [1, 128, 1, 1, 0], "gone for all queries");
    assert_eq!(world.subscriptions(), 12_801, "no step was taken");
    let presence = world.hub.presence(world.ns, "7");
    assert_eq!((presence.users, presence.connections.len()), (1, 1));
    assert_eq!(world.emit("7"), stays);
    assert_eq!(world.hub.identity(crowd[0]), None);
    assert!(world.hub.subscribe(crowd[0], "7", AT).is_err());
    let turns = world.run_until_idle(1000);
    assert_eq!(turns, 13);
    assert_eq!(world.hub.sizes(), [1, 1, 1, 1, 0]);
}

#[test]
fn new_subscriptions_remove_those_of_disconnected_peers() {
    let mut world = World::new();
    for _ in 0..50 {
        // No turn runs: only new subscriptions take steps.
        for peer in world.crowd(10, "guest", &["a", "b", "c"]) {
            world.hub.disconnect(peer);
        }
        assert!(world.subscriptions() <= 60, "{} are left", world.subscriptions());
    }
}

#[test]
fn a_removed_namespace_is_gone_at_once_and_its_peers_close_in_steps() {
    let mut world = World::new();
    let crowd = world.crowd(200, "guest", &["a", "b", "c"]);
    let (ns, channel) = (world.ns, "a".into());
    let data = "1".into();
    world.apply(Change::Set { ns, channel, user: None, data, ttl_ms: None, emit: false });
    assert_eq!(world.apply(Change::Remove { ns }), Outcome::Reached(200));
    assert_eq!(world.hub.sizes()[..4], [0; 4]);
    // Its name is free again, and its former peers get no deliveries of the new one.
    world.apply(Change::Register { name: "a".into(), key: "k".into() });
    world.ns = world.hub.namespace("a").unwrap();
    let new = world.crowd(1, "guest", &["a"]);
    assert_eq!(world.emit("a"), new);
    assert_eq!(world.hub.verdict(crowd[3]), Some(CloseReason::NamespaceRemoved));
    assert!(world.hub.subscribe(crowd[3], "a", AT).is_err());
    world.hub.disconnect(crowd[5]);
    assert!(world.run_until_idle(64) > 50);
    assert_eq!(world.out.closed.len(), 199);
    assert!(world.out.closed.iter().all(|(_, why)| *why == CloseReason::NamespaceRemoved));
    assert_eq!(world.hub.sizes(), [1, 1, 1, 1, 0]);
    // A namespace removed while the previous one is still being swept is not forgotten.
    world.crowd(100, "guest", &["a"]);
    assert!(world.hub.declare("b", "k", &mut world.out).is_some());
    let (first, second) = (world.ns, world.hub.namespace("b").unwrap());
    world.ns = second;
    world.crowd(100, "guest", &["a"]);
    world.apply(Change::Remove { ns: first });
    world.hub.reap(64, &mut world.out);
    world.apply(Change::Remove { ns: second });
    world.run_until_idle(64);
    assert_eq!(world.hub.sizes(), [0; 5]);
    assert_eq!(world.out.closed.len(), 199 + 201);
}

#[test]
fn a_user_with_many_connections_is_disconnected_in_steps() {
    let mut world = World::new();
    let crowd = world.crowd(200, "guest", &["a"]);
    let disconnect = Change::Disconnect { ns: world.ns, user: "guest".into() };
    assert_eq!(world.apply(disconnect.clone()), Outcome::Reached(200));
    assert_eq!(world.apply(disconnect), Outcome::Reached(0));
    assert_eq!(world.hub.sizes()[2..4], [0, 0]);
    // The same user may connect again, and counts as another.
    let again = world.crowd(1, "guest", &["a"]);
    assert_eq!(world.emit("a"), again);
    assert_eq!(world.hub.verdict(crowd[0]), Some(CloseReason::Disconnected));
    world.run_until_idle(64);
    assert_eq!(world.out.closed.len(), 200);
    assert_eq!(world.hub.sizes(), [1, 1, 1, 1, 0]);
}

#[test]
fn revoking_a_grant_of_many_connections_takes_effect_at_once() {
    let mut world = World::new();
    world.grant(false);
    let crowd = world.crowd(500, "guest", &["#vip", "a"]);
    assert_eq!(world.emit("#vip").len(), 500);
    world.grant(true);
    assert_eq!(world.subscriptions(), 1000, "no step was taken");
    assert_eq!(world.emit("#vip"), []);
    assert_eq!(world.hub.presence(world.ns, "#vip").connections.len(), 0);
    assert!(world.hub.subscribe(crowd[1], "#vip", AT).is_err());
    // After another grant, only connections that subscribe again get deliveries.
    world.grant(false);
    assert_eq!(world.emit("#vip"), []);
    world.hub.subscribe(crowd[1], "#vip", AT).unwrap();
    world.hub.subscribe(crowd[490], "#vip", AT).unwrap();
    assert_eq!(world.emit("#vip"), [crowd[1], crowd[490]]);
    world.hub.reap(100, &mut world.out);
    world.hub.disconnect(crowd[2]);
    world.hub.disconnect(crowd[499]);
    world.hub.unsubscribe(crowd[3], "#vip");
    let newcomer = world.crowd(1, "guest", &["#vip"]);
    world.run_until_idle(100);
    let mut heard = world.emit("#vip");
    heard.sort_unstable();
    let mut expected = vec![crowd[1], crowd[490], newcomer[0]];
    expected.sort_unstable();
    assert_eq!(heard, expected);
    assert_eq!(world.subscriptions(), 498 + 3 + world.emit("none").len());
}

#[test]
fn revoked_subscriptions_do_not_count_against_the_limit() {
    let mut world = World::new();
    world.grant(false);
    let names: Vec<String> = (0..127).map(|i| i.to_string()).collect();
    let crowd = world.crowd(1, "guest", &["#vip"]);
    for name in &names {
        world.hub.subscribe(crowd[0], name, AT).unwrap();
    }
    assert!(world.hub.subscribe(crowd[0], "one more", AT).is_err());
    world.grant(true);
    world.hub.subscribe(crowd[0], "one more", AT).unwrap();
    world.run_until_idle(100);
    assert_eq!(world.subscriptions(), 128);
}

#[test]
fn undoing_a_revocation_restores_the_subscriptions() {
    let mut world = World::new();
    world.grant(false);
    let crowd = world.crowd(5, "guest", &["#vip"]);
    world.grant_undurable(true);
    world.assert_receivers(&[]);
    // Until the revocation is durable no peer has left, and no turn is due for it.
    world.hub.reap(100, &mut world.out);
    assert!(!world.hub.is_leaving());
    assert_eq!(world.subscriptions(), 5);
    assert!(world.hub.subscribe(crowd[0], "#vip", AT).is_err());
    // Peers that leave by themselves are gone.
    world.hub.unsubscribe(crowd[1], "#vip");
    world.hub.disconnect(crowd[2]);
    world.undo();
    world.assert_receivers(&[crowd[0], crowd[3], crowd[4]]);
    // Once it is durable, they leave as well.
    world.grant_undurable(true);
    world.hub.keep(world.out.mark);
    assert!(world.hub.is_leaving());
    world.run_until_idle(1);
    assert_eq!(world.subscriptions(), 0);
}

/// A world in which none of this is durable: revoked from the first three, granted, the first and
/// the fourth subscribed, revoked, granted, the first subscribed.
fn back_and_forth() -> (World, Vec<PeerId>) {
    let mut world = World::new();
    world.grant(false);
    let mut crowd = world.crowd(3, "guest", &["#vip"]);
    world.grant_undurable(true);
    world.grant_undurable(false);
    world.hub.subscribe(crowd[0], "#vip", AT).unwrap();
    crowd.extend(world.crowd(1, "guest", &["#vip"]));
    world.assert_receivers(&[crowd[0], crowd[3]]);
    world.grant_undurable(true);
    world.assert_receivers(&[]);
    world.grant_undurable(false);
    world.hub.subscribe(crowd[0], "#vip", AT).unwrap();
    world.assert_receivers(&crowd[..1]);
    (world, crowd)
}

#[test]
fn grants_and_revocations_are_undone_one_by_one() {
    let (mut world, crowd) = back_and_forth();
    world.undo();
    world.assert_receivers(&[]);
    world.undo();
    world.assert_receivers(&[crowd[0], crowd[3]]);
    world.undo();
    world.assert_receivers(&[]);
    world.undo();
    // Peers that subscribed by the undone grant are out.
    world.assert_receivers(&crowd[..3]);
    world.hub.keep(world.out.mark);
    world.run_until_idle(100);
    world.assert_receivers(&crowd[..3]);
    assert_eq!(world.subscriptions(), 3);
}

#[test]
fn durable_revocations_stay_when_later_ones_are_undone() {
    for (certain, heard) in [(0, 0..3), (1, 0..0), (2, 0..1), (3, 0..0), (4, 0..1)] {
        for steps in [0, 1, 100] {
            let (mut world, crowd) = back_and_forth();
            world.hub.keep(certain);
            world.hub.reap(steps, &mut world.out);
            (certain..4).for_each(|_| world.undo());
            world.hub.keep(world.out.mark);
            world.run_until_idle(100);
            let mut heard = crowd[heard.clone()].to_vec();
            heard.extend(crowd.get(3).filter(|_| certain == 2));
            world.assert_receivers(&heard);
            assert_eq!(world.subscriptions(), heard.len(), "{certain} are durable");
        }
    }
}

#[test]
fn peers_that_resubscribe_and_leave_again_are_forgotten_early() {
    let mut world = World::new();
    world.grant(false);
    let stays = world.crowd(1, "guest", &["#vip"])[0];
    world.grant_undurable(true);
    world.grant_undurable(false);
    for _ in 0..50 {
        let peer = world.crowd(1, "guest", &["#vip"])[0];
        world.hub.disconnect(peer);
        world.hub.subscribe(stays, "#vip", AT).unwrap();
        world.hub.unsubscribe(stays, "#vip");
    }
    let withdrawn = world.hub.leaving.withdrawn.values();
    assert_eq!(withdrawn.map(|it| it.readmitted.len()).sum::<usize>(), 0);
    world.assert_receivers(&[]);
    world.hub.subscribe(stays, "#vip", AT).unwrap();
    world.undo();
    world.undo();
    world.assert_receivers(&[]);
}

#[test]
fn many_revocations_that_become_durable_at_once_take_many_turns() {
    let mut world = World::new();
    world.grant(false);
    let peer = world.crowd(2, "guest", &["#vip"])[0];
    for _ in 0..1000 {
        world.grant_undurable(true);
        world.grant_undurable(false);
        world.hub.subscribe(peer, "#vip", AT).unwrap();
    }
    world.hub.keep(world.out.mark);
    // Each revocation examines both connections.
    let turns = world.run_until_idle(100);
    assert!((20..40).contains(&turns), "{turns} turns");
    world.assert_receivers(&[peer]);
}

/// A model of a private channel and one user: who subscribed by which grant.
#[derive(Default)]
struct Private {
    /// The grants by which each has subscribed without leaving since, in order.
    members: BTreeMap<PeerId, Vec<u64>>,
    /// The grant in force, and how many there have been.
    grant: Option<u64>,
    grants: u64,
    /// Changes that are not durable: each grant given, or revoked.
    uncertain: VecDeque<(u64, bool)>,
}

impl Private {
    fn change(&mut self, is_withdrawn: bool) {
        self.grants += u64::from(!is_withdrawn);
        let grant = self.grant.unwrap_or(self.grants);
        self.grant = (!is_withdrawn).then_some(grant);
        self.uncertain.push_back((grant, is_withdrawn));
    }

    fn subscribe(&mut self, id: PeerId) {
        let by = self.members.entry(id).or_default();
        if by.last() != self.grant.as_ref() {
            by.extend(self.grant);
        }
    }

    /// The first change that is not durable becomes so.
    fn keep(&mut self) {
        if let Some((grant, true)) = self.uncertain.pop_front() {
            self.members.values_mut().for_each(|by| by.retain(|it| *it > grant));
            self.members.retain(|_, by| !by.is_empty());
        }
    }

    /// The last change is undone.
    fn undo(&mut self) {
        let (grant, is_withdrawn) = self.uncertain.pop_back().unwrap();
        self.grant = is_withdrawn.then_some(grant);
        if !is_withdrawn {
            self.members.values_mut().for_each(|by| by.retain(|it| *it != grant));
            self.members.retain(|_, by| !by.is_empty());
        }
    }

    fn receivers(&self) -> Vec<PeerId> {
        let receives = |(_, by): &(&PeerId, &Vec<u64>)| by.last() == self.grant.as_ref();
        self.members.iter().filter(receives).map(|(id, _)| *id).collect()
    }
}

#[test]
fn deliveries_match_a_model_of_grants_revocations_and_undos() {
    let mut random = 7_u64;
    let mut draw = |below: usize| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (random >> 33) as usize % below
    };
    for _ in 0..200 {
        let (mut world, mut private, mut crowd) =
            (World::new(), Private::default(), Vec::<PeerId>::new());
        for _ in 0..100 {
            let one = (!crowd.is_empty()).then(|| draw(crowd.len()));
            match (draw(10), one) {
                (0..3, _) => {
                    let is_withdrawn = private.grant.is_some();
                    world.grant_undurable(is_withdrawn);
                    private.change(is_withdrawn);
                }
                (3..6, Some(one)) => {
                    let done = world.hub.subscribe(crowd[one], "#vip", AT);
                    assert_eq!(done.is_ok(), private.grant.is_some());
                    done.into_iter().for_each(|_| private.subscribe(crowd[one]));
                }
                (6, Some(one)) => {
                    let id = crowd[one];
                    match draw(3) {
                        0 => world.hub.disconnect(crowd.swap_remove(one)),
                        _ => drop(world.hub.unsubscribe(id, "#vip")),
                    }
                    private.members.remove(&id);
                }
                (7, _) => {
                    (0..draw(1 + private.uncertain.len())).for_each(|_| private.keep());
                    world.hub.keep(world.out.mark - private.uncertain.len() as u64);
                }
                (8, _) if draw(4) == 0 => {
                    while !private.uncertain.is_empty() {
                        world.undo();
                        private.undo();
                        world.assert_receivers(&private.receivers());
                        world.hub.reap(draw(3), &mut world.out);
                    }
                    world.hub.keep(world.out.mark);
                }
                (9, _) if draw(10) == 0 => {
                    let (ns, user) = (world.ns, "guest".into());
                    world.apply(Change::Disconnect { ns, user });
                    crowd.drain(..).for_each(|id| drop(private.members.remove(&id)));
                }
                _ if crowd.len() < 4 => crowd.extend(world.crowd(1, "guest", &[])),
                _ => {}
            }
            world.hub.reap(draw(5), &mut world.out);
            world.assert_receivers(&private.receivers());
        }
        (0..private.uncertain.len()).for_each(|_| private.keep());
        world.hub.keep(world.out.mark);
        world.run_until_idle(100);
        world.assert_receivers(&private.receivers());
        assert_eq!(world.subscriptions(), private.members.len());
        assert!(world.hub.leaving.is_calm());
    }
}
