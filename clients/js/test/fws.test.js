// Messages that fws.js sends and receives, without a network:
// `node --test clients/js/test/*.test.js`.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { World } = require('./world.js');

test('dials the raw endpoint, authenticates, then announces', async () => {
  const world = new World();
  const fws = new world.FWS('http://host:8080/socket', 'demo', 'abc');
  const seen = [];
  fws.on('connected', () => seen.push(['connected', world.socket.sent.length]));
  fws.on('auth', (cid) => seen.push(['auth', cid, fws.cid]));
  await world.settle();
  assert.equal(world.socket.url, 'ws://host:8080/socket/websocket');
  world.socket.accept();
  assert.deepEqual(world.socket.sent, [{ event: 'auth', data: { i: 'demo', s: 'abc' } }]);
  world.socket.authOk({ cid: 'c-1' });
  assert.deepEqual(seen, [['connected', 1], ['auth', 'c-1', 'c-1']]);
});

test('urls: https, a trailing slash, a query, relative to the page', async () => {
  const world = new World();
  const urls = {
    'https://host/socket/': 'wss://host/socket/websocket',
    'http://host/socket?a=1': 'ws://host/socket/websocket?a=1',
    'wss://host/socket': 'wss://host/socket/websocket',
    '/socket': 'wss://page.example/socket/websocket',
  };
  for (const [url, expected] of Object.entries(urls)) {
    new world.FWS(url, 'demo', 't');
    await world.settle();
    assert.equal(world.socket.url, expected);
  }
  assert.throws(() => new world.FWS('http://[', 'demo', 't'), { name: 'TypeError' });
});

test('subscribes after the answer to auth, whenever channel() was called', async () => {
  const world = new World();
  const fws = new world.FWS('http://host/socket', 'demo', 't');
  const got = [];
  fws.channel('early', ({ ...data }) => got.push(['early', data]));
  fws.on('connected', () => fws.channel('onConnected', () => {}));
  fws.on('auth', () => fws.channel('onAuth', () => {}));
  await world.settle();
  world.socket.accept();
  assert.deepEqual(world.socket.events(), ['auth']);
  world.socket.authOk();
  assert.deepEqual(world.socket.names('subscribe'), ['early', 'onConnected', 'onAuth']);
  fws.channel('late', (data) => got.push(['late', data]));
  assert.equal(world.socket.names('subscribe')[3], 'late');
  world.socket.receive({ event: 'late', data: 0 });
  world.socket.receive({ event: 'early', data: { ü: '😀\u2028' } });
  assert.deepEqual(got, [['late', 0], ['early', { ü: '😀\u2028' }]]);
});

test('two handlers of a channel are called once each; a repeated one counts once', async () => {
  const world = new World();
  const fws = await world.connected();
  const got = [];
  const first = (data) => got.push(`first ${data}`);
  fws.channel('news', first);
  fws.channel('news', (data) => got.push(`second ${data}`));
  fws.channel('news', first);
  assert.deepEqual(world.socket.names('subscribe'), ['news', 'news', 'news']);
  world.socket.receive({ event: 'news', data: 1 });
  assert.deepEqual(got.sort(), ['first 1', 'second 1']);
});

test('numbers and strings name the same channel', async () => {
  const world = new World();
  const fws = await world.connected();
  const got = [];
  fws.channel(5, (data) => got.push(data));
  world.socket.receive({ event: '5', data: 'a' });
  world.socket.receive({ event: 5, data: 'b' });
  assert.deepEqual(got, ['a', 'b']);
});

test('a channel may have the name of a client event', async () => {
  const world = new World();
  const fws = await world.connected();
  const got = [];
  fws.on('disconnect', () => got.push('disconnect handler'));
  fws.on('news', (data) => got.push(`on ${data}`));
  fws.channel('disconnect', (data) => got.push(`channel ${data}`));
  world.socket.receive({ event: 'disconnect', data: 1 });
  world.socket.receive({ event: 'news', data: 2 });
  assert.deepEqual(got, ['channel 1', 'on 2']);
});

test('invalid messages are ignored', async () => {
  const world = new World();
  const fws = await world.connected();
  fws.channel('null', () => assert.fail('called'));
  for (const text of ['', 'x', 'null', '5', '[]', '{}', '{"event":"toString"}', '"null"']) {
    world.socket.receive(text);
  }
  fws.emit('still', 'alive');
  assert.deepEqual(world.socket.names('still'), ['alive']);
});

test('a handler that throws does not prevent the others from running', async () => {
  const world = new World();
  const fws = await world.connected();
  const got = [];
  fws.channel('news', () => { throw new Error('mine'); });
  fws.channel('news', (data) => got.push(data));
  world.socket.receive({ event: 'news', data: 1 });
  assert.deepEqual(got, [1]);
  await world.pass(0);
  assert.deepEqual(world.thrown, ['mine']);
});

test('off and unsubscribe leave the channel, and a reconnect does not undo them', async () => {
  const world = new World();
  const fws = await world.connected();
  const got = [];
  fws.channel('a', (data) => got.push(data));
  fws.on('a', (data) => got.push(data));
  fws.channel('b', (data) => got.push(data));
  const answers = [];
  fws.off('a');
  fws.unsubscribe('b', (answer) => answers.push(answer));
  assert.deepEqual(world.socket.sent.slice(-2), [
    { event: 'unsubscribe', data: 'a' },
    { event: 'unsubscribe', data: 'b', clb: 1 },
  ]);
  world.socket.receive({ event: 'callBackAnswer', clb: 1, data: { ok: true } });
  world.socket.receive({ event: 'a', data: 1 });
  world.socket.receive({ event: 'b', data: 1 });
  world.socket.drop();
  await world.pass(1000);
  world.socket.ready();
  assert.deepEqual(world.socket.events(), ['auth']);
  assert.deepEqual([got, answers.length], [[], 1]);
});

test('emit numbers its callbacks and calls each once', async () => {
  const world = new World();
  const fws = await world.connected();
  const got = [];
  assert.equal(fws.emit('x', { a: 1 }), true);
  fws.emit('y', null, (data) => got.push(['y', data]));
  fws.emit('z', 0, (data) => got.push(['z', data]));
  assert.deepEqual(world.socket.sent.slice(1), [
    { event: 'x', data: { a: 1 } },
    { event: 'y', data: null, clb: 1 },
    { event: 'z', data: 0, clb: 2 },
  ]);
  world.socket.receive({ event: 'callBackAnswer', clb: 2, data: 'two' });
  world.socket.receive({ event: 'callBackAnswer', clb: 2, data: 'again' });
  world.socket.receive({ event: 'callBackAnswer', clb: 9, data: 'nobody' });
  world.socket.receive({ event: 'callBackAnswer', clb: 1, data: null });
  assert.deepEqual(got, [['z', 'two'], ['y', null]]);
});

test('emit before the connection is queued, up to a limit', async () => {
  const world = new World();
  const fws = new world.FWS('http://host/socket', 'demo', 't');
  const dropped = [];
  for (let n = 0; n < 256; n++) assert.equal(fws.emit('n', n), true);
  assert.equal(fws.emit('n', 256, (data) => dropped.push(data)), false);
  await world.pass(0);
  assert.deepEqual(dropped, [undefined]);
  world.socket.ready();
  assert.equal(world.socket.names('n').length, 256);
  assert.equal(world.socket.names('n')[255], 255);
});

test('a message that cannot be serialized does not lose the other queued ones', async () => {
  const world = new World();
  const fws = new world.FWS('http://host/socket', 'demo', 't');
  const loop = {};
  loop.loop = loop;
  fws.emit('before', 1);
  fws.emit('loop', loop);
  fws.emit('behind', 2);
  await world.settle();
  world.socket.ready();
  assert.deepEqual(world.socket.events(), ['auth', 'before', 'behind']);
  await world.pass(0);
  assert.match(world.thrown[0], /circular/, 'the error is reported');
});

test('callbacks of a lost connection get undefined; too many evict the oldest', async () => {
  const world = new World();
  const fws = await world.connected();
  const got = [];
  for (let n = 0; n < 257; n++) fws.emit('x', n, (data) => got.push([n, data]));
  assert.deepEqual(got, [[0, undefined]]);
  world.socket.drop();
  assert.equal(got.length, 257);
  assert.ok(got.every(([, data]) => data === undefined));
});

test('a refused channel calls its callback, and is retried on the next connection', async () => {
  const world = new World();
  const fws = await world.connected();
  const reasons = [];
  fws.channel('#team', () => {}, (reason) => reasons.push(reason));
  fws.channel('#mine', () => {}, () => assert.fail('it was not refused'));
  assert.deepEqual(world.socket.sent.slice(-2), [
    { event: 'subscribe', data: '#team', clb: 1 },
    { event: 'subscribe', data: '#mine', clb: 2 },
  ]);
  const answer = (clb, data) => world.socket.receive({ event: 'callBackAnswer', clb, data });
  answer(1, { ok: false, reason: 'no grant' });
  answer(2, { ok: true });
  assert.deepEqual(reasons, ['no grant']);
  world.socket.drop();
  await world.pass(1000);
  world.socket.ready();
  answer(3, { ok: false, reason: 'still' });
  assert.deepEqual(world.socket.names('subscribe'), ['#team', '#mine']);
  world.socket.drop(); // the missing answer to 4 is no refusal
  await world.pass(0);
  assert.deepEqual([reasons, world.thrown], [['no grant', 'still'], []]);
});

test('any number of refused channels call their callbacks', async () => {
  const world = new World();
  const fws = await world.connected();
  const told = [];
  for (let n = 0; n < 1000; n++) fws.channel(`#${n}`, () => {}, () => told.push(n));
  for (let n = 0; n < 300; n++) fws.emit('x', n, () => {});
  world.socket.sent.filter(({ event }) => event === 'subscribe').forEach(({ clb }) => {
    world.socket.receive({ event: 'callBackAnswer', clb, data: { ok: false, reason: 'no' } });
  });
  assert.deepEqual(told, [...Array(1000).keys()]);
});

test('handlers registered again on every connection do not accumulate', async () => {
  const world = new World();
  const fws = new world.FWS('http://host/socket', 'demo', 't');
  const got = [];
  let once = false;
  fws.on('auth', () => {
    fws.channel('news', (data) => got.push(data));
    fws.channel('news', () => {});
    fws.on('news', (data) => got.push(data));
    fws.on('news', (data) => got.push(data));
    if (!once) fws.channel('first', (data) => got.push(data));
    once = true;
  });
  for (let round = 0; round < 3; round++) {
    await world.pass(1000);
    world.socket.ready();
    assert.deepEqual(world.socket.names('subscribe').sort(), ['first', 'news']);
    got.length = 0;
    world.socket.receive({ event: 'news', data: 1 });
    world.socket.receive({ event: 'first', data: 2 });
    assert.deepEqual(got, [1, 1, 1, 2]);
    world.socket.drop();
  }
});

test('nested registrations in handlers do not accumulate', async () => {
  const world = new World();
  const fws = new world.FWS('http://host/socket', 'demo', 't');
  const got = [];
  let round = 0;
  fws.on('connected', () => {
    round += 1;
    fws.on('auth', () => {
      fws.channel('news', (data) => got.push(data));
      fws.channel(`room-${round}`, (data) => got.push(data));
    });
    fws.on('disconnect', () => got.push('gone'));
  });
  for (let n = 1; n <= 4; n++) {
    await world.pass(1000);
    world.socket.ready();
    assert.deepEqual(world.socket.names('subscribe').sort(), ['news', `room-${n}`]);
    got.length = 0;
    for (const event of ['news', `room-${n}`]) world.socket.receive({ event, data: event });
    world.socket.drop();
    assert.deepEqual(got, ['news', `room-${n}`, 'gone']);
  }
});

test('a handler registered once by another survives its own registrations', async () => {
  const world = new World();
  const fws = new world.FWS('http://host/socket', 'demo', 't');
  let isFirst = true;
  let calls = 0;
  fws.on('connected', () => {
    if (!isFirst) return;
    isFirst = false;
    fws.on('auth', () => {
      calls += 1;
      fws.on(`to-${calls}`, () => {});
    });
  });
  for (let n = 1; n <= 4; n++) {
    await world.pass(1000);
    world.socket.ready();
    assert.equal(calls, n);
    world.socket.drop();
  }
  assert.equal(fws._events.size, 3, 'only the last of the to-N handlers is left');
});

test('registering other names on every connection leaves the old channels', async () => {
  const world = new World();
  const fws = new world.FWS('http://host/socket', 'demo', 't');
  const got = [];
  let round = 0;
  const put = (data) => got.push(data);
  fws.channel('room-1', (data) => got.push(`page ${data}`)); // the page's own: it stays
  fws.on('auth', () => {
    round += 1;
    fws.channel('news', put);
    fws.channel(`room-${round}`, (data) => got.push(`room ${data}`));
    fws.channel(`more-${round}`, put);
    fws.on(`event-${round}`, put);
  });
  for (let n = 1; n <= 3; n++) {
    await world.pass(1000);
    world.socket.ready();
    assert.deepEqual(world.socket.names('subscribe').sort(),
      [...new Set([`more-${n}`, 'news', 'room-1', `room-${n}`])].sort());
    got.length = 0;
    for (const event of ['room-1', `event-${n}`, `event-${n - 1}`]) {
      world.socket.receive({ event, data: event });
    }
    assert.deepEqual(got, ['page room-1', ...(n === 1 ? ['room room-1'] : []), `event-${n}`]);
    world.socket.drop();
  }
});
