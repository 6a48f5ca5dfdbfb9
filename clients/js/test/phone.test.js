// fws.js when connections are lost and pages are hidden or shown, without a network.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World } = require('./world.js');

/** Collects the events that `disconnect` handlers get. */
function watch(fws) {
  const told = [];
  fws.on('disconnect', (event) => told.push({ ...event }));
  return told;
}

test('back-off doubles to its cap, with full jitter', async () => {
  for (const chance of [0.25, 0.999]) {
    const world = new World();
    world.chance = chance;
    new world.FWS('http://host/socket', 'demo', 't');
    await world.settle();
    for (const ceiling of [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]) {
      world.socket.drop();
      assert.deepEqual(world.timers(), [chance * ceiling]);
      const before = world.sockets.length;
      await world.pass(chance * ceiling);
      assert.equal(world.sockets.length, before + 1);
    }
  }
});

test('back-off restarts only after a connection that lasted', async () => {
  const world = new World();
  await world.connected();
  for (const ceiling of [500, 1000, 2000]) { // a server that closes each connection at once
    world.socket.drop();
    assert.deepEqual(world.timers(), [ceiling / 2]);
    await world.pass(ceiling / 2);
    world.socket.ready();
  }
  await world.pass(10000);
  world.socket.drop();
  assert.deepEqual(world.timers(), [250]);
});

test('a stopping server sets the reconnect time, and nothing dials earlier', async () => {
  const world = new World();
  await world.connected();
  world.socket.drop(1001, 'server going away, come back in 7250 ms');
  assert.deepEqual(world.timers(), [7250]);
  await world.pass(1250);
  world.hide();
  world.show();
  world.page('online');
  assert.deepEqual(world.timers(), [6000]);
  assert.equal(world.sockets.length, 1);
  await world.pass(6000);
  assert.equal(world.sockets.length, 2);
  world.socket.drop(); // the server is not back yet
  assert.deepEqual(world.timers(), [250]);
  await world.pass(250);
  world.socket.ready();
  // A page that is hidden at the reconnect time dials when it is shown.
  world.socket.drop(1001, 'server going away, come back in 3000 ms');
  world.hide();
  await world.pass(5000);
  assert.equal(world.sockets.length, 3);
  world.show();
  await world.settle();
  assert.equal(world.sockets.length, 4);
});

test('a clock that is set back does not lengthen the wait', async () => {
  const hour = 3600000;
  const world = new World();
  await world.connected();
  world.socket.drop(1001, 'server going away, come back in 7250 ms');
  await world.pass(1000);
  world.dateOff = -hour;
  world.show();
  assert.deepEqual(world.timers(), [7250]);
  await world.pass(2000);
  world.show();
  assert.deepEqual(world.timers(), [5250], 'showing the page again does not postpone it');
  await world.pass(5250);
  assert.equal(world.sockets.length, 2);
  world.socket.ready();
  // The old reconnect time has no effect on a page shown long after it.
  world.socket.drop();
  world.hide();
  world.show();
  await world.settle();
  assert.equal(world.sockets.length, 3);
});

test('a reconnect time is accepted only with code 1001, and is bounded', async () => {
  for (const [code, reason, wait] of [
    [1001, 'server going away, come back in 999999999 ms', 600000],
    [1001, 'server going away, come back in 0 ms', 0],
    [1001, 'server going away', 250],
    [1001, 'server going away, come back in 1e9 ms', 250],
    [1001, 'server going away, come back in -5 ms', 250],
    [3008, 'too slow, come back in 9000 ms', 250],
    [1006, undefined, 250],
  ]) {
    const world = new World();
    await world.connected();
    world.socket.drop(code, reason);
    assert.deepEqual(world.timers(), [wait]);
  }
});

test('a reconnect authenticates and subscribes to every channel again', async () => {
  const world = new World();
  const fws = await world.connected();
  const told = watch(fws);
  const got = [];
  fws.channel('a', (data) => got.push(data));
  fws.channel('a', (data) => got.push(data));
  fws.channel('b', (data) => got.push(data));
  world.socket.drop(1001, 'server going away');
  assert.deepEqual(told, [{ code: 1001, reason: 'server going away', willReconnect: true }]);
  assert.equal(fws.cid, null);
  fws.emit('while away', 1);
  await world.pass(1000);
  world.socket.ready({ cid: 'second' });
  assert.deepEqual(world.socket.sent.map(({ event, data }) => [event, event === 'auth' || data]), [
    ['auth', true], ['subscribe', 'a'], ['subscribe', 'b'], ['while away', 1],
  ]);
  world.socket.receive({ event: 'a', data: 7 });
  assert.deepEqual([got, fws.cid], [[7, 7], 'second']);
});

test('a connection attempt without an answer to auth times out', async () => {
  const world = new World();
  const fws = new world.FWS('http://host/socket', 'demo', 't');
  const told = watch(fws);
  await world.settle();
  const [first] = world.sockets;
  first.accept(); // without an answer to auth
  await world.pass(10000);
  assert.deepEqual(told, [{ code: 1006, reason: 'no connection in time', willReconnect: true }]);
  assert.ok(first.closedByClient);
  await world.pass(1000);
  assert.equal(world.sockets.length, 2);
  first.receive({ event: 'auth ok', data: { cid: 'late' } });
  assert.equal(fws.cid, null);
});

test('a socket that the page may not open is reported and retried', async () => {
  const world = new World();
  world.forbidden = 'mixed content';
  const told = watch(new world.FWS('http://host/socket', 'demo', 't'));
  await world.settle();
  assert.deepEqual(told, [{ code: 1006, reason: 'mixed content', willReconnect: true }]);
});

test('hidden: no dial, neither at construction nor after a loss, until shown', async () => {
  const world = new World();
  world.hide();
  let tokens = 0;
  const fws = new world.FWS('http://host/socket', 'demo', () => `token ${++tokens}`);
  await world.pass(60000);
  assert.deepEqual([world.sockets.length, tokens], [0, 0]);
  world.show();
  await world.settle();
  assert.deepEqual([world.sockets.length, tokens], [1, 1]);
  world.socket.ready();

  world.hide();
  world.page('online');
  world.page('pageshow');
  assert.deepEqual(world.socket.events(), ['auth']); // an open socket stays, unprobed
  world.socket.drop();
  await world.pass(600000);
  assert.equal(world.sockets.length, 1);
  world.show();
  await world.settle();
  assert.equal(world.sockets.length, 2);
  fws.close();
});

test('hidden while the token is fetched: no dial', async () => {
  const world = new World();
  let give;
  new world.FWS('http://host/socket', 'demo', (callback) => { give = callback; });
  world.hide();
  give('t');
  await world.pass(60000);
  assert.equal(world.sockets.length, 0);
  world.show();
  give('t');
  await world.settle();
  assert.equal(world.sockets.length, 1);
});

test('shown again or back online: dials without waiting for the back-off', async () => {
  const world = new World();
  world.chance = 0.999;
  new world.FWS('http://host/socket', 'demo', 't');
  await world.settle();
  for (const name of ['visibilitychange', 'pageshow', 'online']) {
    for (const ceiling of [500, 1000, 2000]) {
      world.socket.drop();
      await world.pass(ceiling);
    }
    world.socket.drop();
    const before = world.sockets.length;
    world.page(name);
    await world.settle();
    assert.equal(world.sockets.length, before + 1, name);
  }
  world.socket.drop();
  assert.deepEqual(world.timers(), [0.999 * 500]); // and the back-off restarts
  await world.pass(500);
  assert.equal(world.timers().length, 1); // the dial timeout; no second retry remains
});

test('shown again: the socket is probed, and stays if it answers', async () => {
  const world = new World();
  const fws = await world.connected();
  world.hide();
  world.show();
  world.page('pageshow'); // fires together with it: one probe is enough
  assert.deepEqual(world.socket.sent.slice(1), [{ event: 'ping', data: 1, clb: 1 }]);
  await world.pass(1999);
  world.socket.receive({ event: 'callBackAnswer', clb: 1, data: 1 });
  await world.pass(60000);
  assert.equal(world.sockets.length, 1);
  world.page('online');
  assert.equal(world.socket.sent.length, 3);
  assert.equal(fws.cid, 'cid');
});

test('shown again: a socket that does not answer is replaced after 2 s', async () => {
  const world = new World();
  const fws = await world.connected();
  const told = watch(fws);
  const got = [];
  fws.channel('news', (data) => got.push(data));
  await world.pass(0);
  const dead = world.socket;
  dead.receive({ event: 'callBackAnswer', clb: 1, data: 1 }); // the channel has no state
  world.show();
  dead.receive({ event: 'news', data: 'read before the network went' }); // proves nothing
  await world.pass(1999);
  assert.equal(world.sockets.length, 1);
  await world.pass(1);
  assert.deepEqual(told, [{ code: 1006, reason: 'no answer to a ping', willReconnect: true }]);
  assert.equal(world.sockets.length, 2);
  assert.ok(dead.closedByClient);
  dead.drop(1000); // events of the dead socket are ignored
  dead.receive({ event: 'news', data: 'ghost' });
  world.socket.ready();
  assert.deepEqual(world.socket.names('subscribe'), ['news']);
  assert.deepEqual([got, told.length], [['read before the network went'], 1]);
});

test('shown again: pending callbacks of the page do not evict that of the probe', async () => {
  const world = new World();
  const fws = await world.connected();
  world.show();
  for (let n = 0; n < 300; n++) fws.emit('x', n, () => {});
  await world.pass(2000);
  assert.equal(world.sockets.length, 2);
});

test('shown again: any incoming data is a sign of life', async () => {
  const world = new World();
  const fws = await world.connected();
  fws.on('news', () => {});
  world.show();
  for (let n = 0; n < 30; n++) { // a backlog before the answer
    await world.pass(1900);
    world.socket.receive(n % 2 ? { event: 'news', data: n } : 'not even JSON');
  }
  assert.equal(world.sockets.length, 1);
  await world.pass(1999);
  assert.equal(world.sockets.length, 1);
  await world.pass(1);
  assert.equal(world.sockets.length, 2);
});

test('shown again while a state is in flight: the probe allows 35 s of silence', async () => {
  const world = new World();
  const fws = await world.connected();
  const states = [];
  fws.channel('big', (data) => states.push(data));
  fws.channel('small', (data) => states.push(data));
  await world.pass(0);
  // One ping after all subscriptions tells when all states have arrived.
  assert.deepEqual(world.socket.events(), ['auth', 'subscribe', 'subscribe', 'ping']);
  world.show();
  await world.pass(34999);
  world.socket.receive({ event: 'big', data: 1 });
  await world.pass(34999);
  world.socket.receive({ event: 'small', data: 2 });
  world.socket.receive({ event: 'callBackAnswer', clb: 1, data: 1 });
  world.socket.receive({ event: 'callBackAnswer', clb: 2, data: 1 });
  assert.deepEqual([states, world.sockets.length, world.timers()], [[1, 2], 1, [60000]]); // alone
  world.show(); // nothing is in flight any more
  await world.pass(2000);
  assert.equal(world.sockets.length, 2);
  world.socket.ready();
  await world.pass(0);
  world.show();
  await world.pass(69999); // the last replacement was in vain: twice as long
  assert.equal(world.sockets.length, 2);
  await world.pass(1);
  assert.equal(world.sockets.length, 3);
});

test('shown again: a message as large as an earlier one may be in flight', async () => {
  for (const [length, wait] of [[40000, 2000], [400000, 20000], [4000000, 35000]]) {
    const world = new World();
    await world.connected();
    world.socket.receive({ event: 'news', data: 'x'.repeat(length - 26) });
    world.socket.receive({ event: 'news', data: 'small' });
    world.show();
    await world.pass(wait - 1);
    assert.equal(world.sockets.length, 1);
    await world.pass(1);
    assert.equal(world.sockets.length, 2);
  }
  const world = new World();
  const fws = await world.connected();
  fws.channel('news', () => {});
  await world.pass(0);
  world.socket.receive({ event: 'news', data: 'x'.repeat(400000) }); // a requested state
  world.socket.receive({ event: 'callBackAnswer', clb: 1, data: 1 });
  world.show();
  await world.pass(2000);
  assert.equal(world.sockets.length, 2);
});

test('subscriptions while a state is in flight: one more ping after it', async () => {
  const world = new World();
  const fws = await world.connected();
  const answer = (clb) => world.socket.receive({ event: 'callBackAnswer', clb, data: 1 });
  fws.channel('a', () => {});
  await world.pass(0);
  fws.channel('b', () => {});
  fws.channel('c', () => {});
  await world.pass(0);
  assert.equal(world.socket.names('ping').length, 1);
  answer(1);
  await world.pass(0);
  assert.deepEqual(world.socket.events().slice(-3), ['subscribe', 'subscribe', 'ping']);
  world.show();
  answer(2); // all states have arrived: the next one comes soon,
  await world.pass(2000);
  assert.equal(world.sockets.length, 2); // or never
});

test('shown again: each vain replacement doubles the wait, until one answers', async () => {
  const world = new World();
  await world.connected();
  for (const wait of [2000, 4000, 8000, 16000, 32000, 64000, 64000]) {
    const before = world.sockets.length;
    world.show();
    await world.pass(wait - 1);
    assert.equal(world.sockets.length, before);
    await world.pass(1);
    assert.equal(world.sockets.length, before + 1);
    world.socket.ready();
  }
  world.show();
  const { clb } = world.socket.sent[1];
  world.socket.receive({ event: 'callBackAnswer', clb, data: 1 });
  const before = world.sockets.length;
  world.show();
  await world.pass(2000);
  assert.equal(world.sockets.length, before + 1);
});

test('shown again: an answered ping ends the doubling, also that after the subscribes', async () => {
  const world = new World();
  const fws = await world.connected();
  fws.channel('news', () => {});
  await world.pass(0);
  world.socket.receive({ event: 'news', data: 'x'.repeat(4000000) });
  world.socket.answer();
  for (let loss = 0; loss < 7; loss++) { // each network takes the states, and goes silent
    await world.pass(60000 + 34999);
    const before = world.sockets.length;
    await world.pass(1);
    assert.equal(world.sockets.length, before + 1);
    world.socket.ready();
    await world.pass(0);
    world.socket.answer();
  }
});

test('shown again: no wait for a message is longer than 70 s', async () => {
  const world = new World();
  const fws = await world.connected();
  fws.channel('big', () => {});
  await world.pass(0);
  for (const wait of [35000, 70000, 70000, 70000, 70000, 70000, 70000]) {
    const before = world.sockets.length;
    world.show();
    await world.pass(wait - 1);
    assert.equal(world.sockets.length, before);
    await world.pass(1);
    assert.equal(world.sockets.length, before + 1);
    world.socket.ready();
    await world.pass(0);
  }
  // Nobody shows the page: the ping waits for the state, and the answer no longer than before.
  const before = world.sockets.length;
  await world.pass(180000 + 69999);
  assert.equal(world.sockets.length, before);
  await world.pass(1);
  assert.equal(world.sockets.length, before + 1);
});

test('a page suspended during a probe first reads what has arrived', async () => {
  const world = new World();
  await world.connected();
  world.show();
  world.now += 60000; // no timer has run; the answer is queued behind the first
  await world.pass(0);
  world.socket.receive({ event: 'callBackAnswer', clb: 1, data: 1 });
  await world.pass(60000);
  assert.equal(world.sockets.length, 1);
});

test('visible and idle: pinged once a minute, and replaced without an answer', async () => {
  const world = new World();
  const fws = await world.connected();
  const told = watch(fws);
  const pings = () => world.socket.names('ping').length;
  for (let minute = 1; minute <= 10; minute++) {
    assert.deepEqual(world.timers(), [60000]); // the only timer
    await world.pass(59999);
    assert.equal(pings(), minute - 1);
    await world.pass(1);
    assert.equal(pings(), minute);
    world.socket.answer();
  }
  for (let n = 0; n < 10; n++) { // received data makes a ping needless
    await world.pass(59999);
    world.socket.receive({ event: 'news', data: n });
  }
  assert.deepEqual([pings(), world.timers()], [10, [60000]]);
  await world.pass(60000 + 34999); // a large message may be in flight
  assert.deepEqual([pings(), world.sockets.length, told], [11, 1, []]);
  world.socket.receive({ event: 'news', data: 'large' });
  await world.pass(34999);
  assert.equal(world.sockets.length, 1);
  await world.pass(1);
  assert.deepEqual(told, [{ code: 1006, reason: 'no answer to a ping', willReconnect: true }]);
  assert.equal(world.sockets.length, 2);
  world.socket.ready();
  fws.close();
  assert.deepEqual(world.timers(), []);
});

test('visible and idle: pages that got the same message ping at different times', async () => {
  for (const [chance, wait] of [[0, 54000], [0.5, 60000], [1, 66000]]) {
    const world = new World();
    world.chance = chance;
    await world.connected();
    assert.deepEqual(world.timers().map(Math.round), [wait]);
  }
});

test('idle: a hidden page sends no ping and has no timer', async () => {
  const world = new World();
  await world.connected();
  world.hide();
  assert.deepEqual(world.timers(), []);
  world.socket.receive({ event: 'news', data: 1 });
  await world.pass(3600000);
  assert.deepEqual([world.socket.events(), world.timers()], [['auth'], []]);
  world.show();
  world.socket.answer();
  assert.deepEqual(world.timers(), [60000]);
  world.socket.drop(); // a lost connection leaves no timer but the retry
  assert.deepEqual(world.timers(), [250]);
  await world.pass(250);
  world.hide(); // before authentication
  world.socket.ready();
  assert.deepEqual(world.timers(), []);
});

test('idle while a state is in flight: the next ping waits three minutes', async () => {
  const world = new World();
  const fws = await world.connected();
  await world.pass(50000);
  fws.channel('big', () => {});
  await world.pass(179999);
  assert.equal(world.socket.names('ping').length, 1); // after the subscribe
  await world.pass(1 + 34999);
  assert.deepEqual([world.socket.names('ping').length, world.sockets.length], [2, 1]);
  await world.pass(1);
  assert.equal(world.sockets.length, 2);
});

test('shown again during an idle ping: the answer has 2 s from then on', async () => {
  const world = new World();
  await world.connected();
  await world.pass(60000 + 10000);
  world.page('online');
  await world.pass(1000);
  world.page('pageshow'); // does not restart the probe
  await world.pass(999);
  assert.deepEqual([world.sockets.length, world.socket.names('ping').length], [1, 1]);
  await world.pass(1);
  assert.equal(world.sockets.length, 2);
});

test('shown again during a dial: the dial goes on', async () => {
  const world = new World();
  new world.FWS('http://host/socket', 'demo', 't');
  await world.settle();
  world.page('pageshow'); // as every page does when it has loaded
  await world.pass(5000);
  assert.equal(world.sockets.length, 1);
});

test('back online during a dial: the next one comes soon', async () => {
  const world = new World();
  new world.FWS('http://host/socket', 'demo', 't');
  await world.settle();
  for (const ceiling of [500, 1000, 2000, 4000, 8000, 16000]) {
    world.socket.drop();
    await world.pass(ceiling);
  }
  world.page('online');
  world.socket.drop(); // it was begun without a network
  assert.deepEqual(world.timers(), [250]);
});

test('token: a returned string, a Promise or a callback', async () => {
  const sources = [
    () => 'fresh',
    () => Promise.resolve('fresh'),
    (callback) => { callback('fresh'); },
    async () => 'fresh',
    // A function that uses the callback may return anything, as an arrow function does.
    ...[1, true, null, {}, ['x']].map((value) => (callback) => {
      Promise.resolve().then(() => callback('fresh'));
      return value;
    }),
  ];
  for (const source of sources) {
    const world = new World();
    await world.connected(source);
    assert.equal(world.socket.sent[0].data.s, 'fresh');
  }
});

test('token: a failing function is called again, with back-off', async () => {
  const failures = {
    'no token: mine': () => { throw new Error('mine'); },
    'no token: later': () => Promise.reject(new Error('later')),
    'no token: the token function gave none': (callback) => { callback(undefined); },
    'no token: the token function gave none ': () => Promise.resolve(''),
    'no token in time': () => {},
  };
  for (const [reason, fails] of Object.entries(failures)) {
    const wait = reason === 'no token in time' ? 10000 : 0;
    const world = new World();
    let calls = 0;
    const fws = new world.FWS('http://host/socket', 'demo', (callback) => {
      calls += 1;
      return calls === 1 ? fails(callback) : 'good';
    });
    const told = watch(fws);
    await world.pass(wait);
    assert.deepEqual(told, [{ code: 1006, reason: reason.trim(), willReconnect: true }]);
    await world.pass(250);
    assert.equal(calls, 2);
    world.socket.ready();
    assert.equal(world.socket.sent[0].data.s, 'good');
  }
});

test('token: a late one is not used', async () => {
  const world = new World();
  const give = [];
  const fws = new world.FWS('http://host/socket', 'demo', (callback) => { give.push(callback); });
  await world.pass(10000); // the attempt times out,
  await world.pass(1000); // and the function is called again
  assert.equal(give.length, 2);
  give[0]('late');
  await world.settle();
  assert.equal(world.sockets.length, 0);
  give[1]('in time');
  await world.settle();
  world.socket.ready({ expiresIn: 10 });
  await world.pass(8000);
  world.socket.drop();
  give[2]('renewed after the connection was lost');
  await world.settle();
  assert.deepEqual(world.sockets[0].names('auth').map(({ s }) => s), ['in time']);
  fws.close();
});

test('token: renewed after 80 % of its lifetime, on the open connection', async () => {
  const world = new World();
  let calls = 0;
  const fws = await world.connected(() => `token ${++calls}`, { expiresIn: 600 });
  let auths = 0;
  fws.on('auth', () => { auths += 1; });
  fws.channel('news', () => {});
  const sent = () => world.socket.sent.filter(({ event }) => event !== 'ping');
  await world.passAlive(479999);
  assert.equal(calls, 1);
  await world.pass(1);
  assert.deepEqual(sent().slice(2), [
    { event: 'auth', data: { i: 'demo', s: 'token 2' } },
  ]);
  world.socket.authOk({ expiresIn: 100 });
  assert.equal(sent().length, 3); // no second subscribe,
  assert.equal(auths, 0); // no second auth event
  await world.passAlive(80000);
  assert.equal(sent()[3].data.s, 'token 3');
  assert.equal(world.sockets.length, 1);
});

test('token: renewed for another user, every channel is subscribed again', async () => {
  const world = new World();
  const token = (user) => `x.${Buffer.from(JSON.stringify({ i: user })).toString('base64url')}.y`;
  const users = [7, '7', '~~~?', '~~?~', '~~?~']; // the last ones use - and _ of base64url
  assert.match(token('~~~?') + token('~~?~'), /-.*_|_.*-/);
  const fws = await world.connected(() => token(users.shift()), { expiresIn: 100 });
  fws.channel('news', () => {});
  for (const subscribes of [1, 2, 3, 3]) {
    await world.passAlive(80000);
    world.socket.authOk({ expiresIn: 100 });
    assert.equal(world.socket.names('subscribe').length, subscribes);
  }
});

test('token: large user ids that JavaScript rounds to one number are different users', async () => {
  const world = new World();
  const token = (id) => `x.${Buffer.from(`{"i": ${id},"exp":1}`).toString('base64url')}.y`;
  const ids = ['9007199254740992', '9007199254740993', '9007199254740993', '1.5', '1.5'];
  assert.equal(Number(ids[0]), Number(ids[1]));
  const fws = await world.connected(() => token(ids.shift()), { expiresIn: 100 });
  fws.channel('news', () => {});
  for (const subscribes of [2, 2, 3, 3]) {
    await world.passAlive(80000);
    world.socket.authOk({ expiresIn: 100 });
    assert.equal(world.socket.names('subscribe').length, subscribes);
  }
});

test('token: a failed renewal is retried before the expiry', async () => {
  const world = new World();
  let calls = 0;
  await world.connected(() => {
    calls += 1;
    return calls === 2 ? Promise.reject(new Error('down')) : `token ${calls}`;
  }, { expiresIn: 100 });
  await world.passAlive(80000);
  assert.deepEqual(world.socket.names('auth').length, 1);
  await world.passAlive(16000);
  assert.equal(world.socket.names('auth')[1].s, 'token 3');
});

test('token: no renewal without expiresIn, of a fixed token, or after close()', async () => {
  const never = [[() => 't', {}], ['t', { expiresIn: 10 }], [() => 't', { expiresIn: 0.5 }]];
  for (const [token, data] of never) {
    const world = new World();
    await world.connected(token, data);
    assert.deepEqual(world.timers(), [60000]); // only the idle ping
  }
  const world = new World();
  const fws = await world.connected(() => 't', { expiresIn: 1e12 }); // more than a timer can wait
  assert.deepEqual(world.timers(), [60000, 0x7fffffff]);
  fws.close();
  assert.deepEqual(world.timers(), []);
});

test('a refused token: a function is asked again, a fixed one ends the client', async () => {
  const refusals = [[3404, 'invalid JWT'], [3401, 'token expired'], [3002, 'not found s - param']];
  for (const [code, reason] of refusals) {
    const world = new World();
    let calls = 0;
    const told = watch(await world.connected(() => `token ${++calls}`));
    world.socket.drop(code, reason);
    assert.deepEqual(told, [{ code, reason, willReconnect: true }]);
    await world.pass(250);
    world.socket.ready();
    assert.equal(world.socket.sent[0].data.s, 'token 2');

    const fixed = new World();
    const fws = await fixed.connected('only');
    const end = watch(fws);
    const answers = [];
    fws.emit('x', 1, (data) => answers.push(data));
    fixed.socket.drop(code, reason);
    assert.deepEqual(end, [{ code, reason, willReconnect: false }]);
    fixed.page('online');
    await fixed.pass(600000);
    assert.deepEqual([fixed.sockets.length, fixed.listening(), answers], [1, 0, [undefined]]);
    assert.equal(fws.emit('x', 1), false);
  }
});

test('close() is final and leaves nothing behind', async () => {
  const world = new World();
  const fws = await world.connected(() => 't', { expiresIn: 600 });
  const told = watch(fws);
  fws.channel('news', () => assert.fail('called'));
  world.show(); // a probe is under way
  const { socket } = world;
  fws.close();
  fws.close();
  socket.receive({ event: 'news', data: 1 });
  socket.drop();
  world.show();
  await world.pass(600000);
  assert.deepEqual(told, [{ code: 1000, reason: 'closed by the page', willReconnect: false }]);
  assert.ok(socket.closedByClient);
  assert.deepEqual([world.sockets.length, world.timers(), world.listening()], [1, [], 0]);
});

test('close() works in a handler of each event', async () => {
  for (const event of ['connected', 'auth', 'disconnect']) {
    const world = new World();
    const fws = new world.FWS('http://host/socket', 'demo', 't');
    fws.on(event, () => fws.close());
    const answers = [];
    fws.emit('waits', 1, (answer) => answers.push(answer));
    fws.channel('news', () => {});
    await world.settle();
    world.socket.accept();
    world.socket.authOk();
    world.socket.drop();
    await world.pass(600000);
    assert.deepEqual([world.sockets.length, world.timers(), world.listening()], [1, [], 0], event);
    const reached = event === 'disconnect' ? ['auth', 'subscribe', 'waits'] : ['auth'];
    assert.deepEqual([world.socket.events(), answers], [reached, [undefined]], event);
  }
});
