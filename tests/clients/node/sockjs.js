// The real SockJS client library, used as the original fws.js uses it. Arguments:
// WebSocket address, control address, key of the namespace `demo`, transport.
'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const SockJS = require('sockjs-client');
const { BackEnd, Inbox, token, eventually } = require('./back_end.js');

const [ws, control, key, transport] = process.argv.slice(2);
const HARD = 'ü😀\u2028\u2029 %20+&#"\\/\u200b\ufeff\uffff<b>\t';

const opened = [];

/** What fws.js does with its SockJS connection: the same messages at the same moments. */
class Original {
  constructor(namespace, secret) {
    this.handlers = {};
    this.callbacks = {};
    this.clb = 0;
    this.closed = new Inbox();
    this.sock = new SockJS(`http://${ws}/socket`, null, { transports: [transport] });
    opened.push(this.sock);
    this.sock.onopen = () => {
      this.emit('auth', { i: namespace, s: secret });
      this.tell('connected');
    };
    this.sock.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.event === 'auth ok') {
        this.cid = message.data.cid;
        this.tell('auth', this.cid);
      } else if (message.event === 'callBackAnswer') {
        const callback = this.callbacks[message.clb];
        delete this.callbacks[message.clb];
        callback(message.data);
      } else {
        this.tell(message.event, message.data);
      }
    };
    this.sock.onclose = ({ code, reason, wasClean }) => this.closed.put({ code, reason, wasClean });
  }

  tell(name, data) { (this.handlers[name] || []).forEach((handler) => handler(data)); }

  on(name, handler) { (this.handlers[name] = this.handlers[name] || []).push(handler); }

  channel(name, handler) {
    this.emit('subscribe', name);
    this.on(name, handler);
  }

  emit(event, data, callback) {
    const message = { event, data };
    if (callback) {
      message.clb = this.clb += 1;
      this.callbacks[message.clb] = callback;
    }
    this.sock.send(JSON.stringify(message));
  }

  unsubscribe(name, callback) { this.emit('unsubscribe', name, callback); }

  off(name) {
    delete this.handlers[name];
    this.unsubscribe(name);
  }

  /** Connected and authenticated. */
  static async ready(user) {
    const fws = new Original('demo', token(key, user));
    const cids = new Inbox();
    fws.on('auth', cids.put);
    await cids.next('auth ok');
    return fws;
  }

  /** All that was sent before has been handled: this server answers `unsubscribe` in its turn. */
  async fence() {
    const answers = new Inbox();
    this.unsubscribe('nobody is here', answers.put);
    return answers.next('the answer to a callback');
  }
}

let backEnd;
test.before(async () => { backEnd = await BackEnd.connect(control, 'demo', key); });
test.after(() => {
  backEnd.close();
  opened.forEach((sock) => sock.close()); // those that a failed test has left open
});

test('subscribe right behind auth works every time; the state comes first', async () => {
  await backEnd.set('early', { state: HARD });
  for (let round = 0; round < 20; round++) {
    const fws = new Original('demo', token(key, 5));
    const heard = new Inbox();
    fws.on('connected', () => {
      fws.channel('early', (data) => heard.put(['early', data]));
      fws.channel(`plain ${round}`, (data) => heard.put(['plain', data]));
    });
    fws.on('auth', (cid) => heard.put(['auth', cid]));
    const [event, cid] = await heard.next();
    assert.equal(event, 'auth');
    assert.match(cid, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    assert.deepEqual(await heard.next(), ['early', { state: HARD }]);
    await fws.fence();
    await backEnd.emit('early', round);
    await backEnd.emit(`plain ${round}`, [round]);
    assert.deepEqual(await heard.next(), ['early', round]);
    assert.deepEqual(await heard.next(), ['plain', [round]]);
    fws.sock.close();
    assert.deepEqual((await fws.closed.next()).code, 1000);
  }
  await backEnd.set('early', null);
});

test('every value and every hard character arrives as it was published', async () => {
  const fws = await Original.ready('bob');
  const heard = new Inbox();
  fws.channel(HARD, heard.put);
  await fws.fence();
  let all = '';
  for (let code = 0; code < 0x3000; code += 1) all += String.fromCharCode(code);
  const values = [null, 0, false, '', [], {}, 1.5, -0.25, 'text', HARD, all, { [HARD]: [HARD] },
    'x'.repeat(200000)];
  for (const value of values) {
    await backEnd.emit(HARD, value);
    assert.deepEqual(await heard.next(), value);
  }
  fws.sock.close();
});

test('two channels, unsubscribe, off, and channel() twice', async () => {
  const fws = await Original.ready(5);
  const heard = new Inbox();
  await backEnd.set('two', 'state');
  fws.channel('one', (data) => heard.put(['one', data]));
  fws.channel('two', (data) => heard.put(['two', data]));
  fws.channel('three', (data) => heard.put(['three', data]));
  assert.deepEqual(await heard.next(), ['two', 'state']);
  fws.channel('two', (data) => heard.put(['two again', data]));
  assert.deepEqual(await heard.next(), ['two', 'state']); // the state again, to both handlers
  assert.deepEqual(await heard.next(), ['two again', 'state']);
  await backEnd.emit('two', 2); // but one message only
  assert.deepEqual(await heard.next(), ['two', 2]);
  assert.deepEqual(await heard.next(), ['two again', 2]);

  const answers = new Inbox();
  fws.unsubscribe('one', answers.put);
  fws.off('two');
  await answers.next('the answer to unsubscribe');
  await fws.fence();
  assert.equal(await backEnd.countConnections('one'), 0);
  assert.equal(await backEnd.countConnections('two'), 0);
  await backEnd.emit('one', 'nobody');
  await backEnd.emit('two', 'nobody');
  await backEnd.emit('three', 'end');
  assert.deepEqual(await heard.next(), ['three', 'end']);
  assert.deepEqual(heard.items, []);
  await backEnd.set('two', null);
  fws.sock.close();
});

test('events that the server does not know are ignored in silence', async () => {
  const fws = await Original.ready(5);
  const heard = new Inbox();
  fws.channel('news', heard.put);
  fws.emit('subscribeUser', 'ask');
  fws.emit('send', { event: 'x', data: { a: 1 } }, () => assert.fail('answered'));
  fws.emit('whatever', 1);
  fws.emit('noData');
  for (const nothing of [null, 0, false, '']) fws.emit('subscribe', nothing);
  fws.sock.send('no JSON');
  fws.sock.send('[]');
  fws.sock.send('null');
  await fws.fence();
  await backEnd.emit('news', 'still here');
  assert.equal(await heard.next(), 'still here');
  fws.sock.close();
});

test('user channels: each message reaches its user', async () => {
  const [first, second, other] = [
    await Original.ready(5), await Original.ready('5'), await Original.ready('bob')];
  await backEnd.set('@inbox', 'state of 5', 5);
  const heard = [new Inbox(), new Inbox(), new Inbox()];
  [first, second, other].forEach((fws, at) => fws.channel('@inbox', heard[at].put));
  await Promise.all([first, second, other].map((fws) => fws.fence()));
  await backEnd.emit('@inbox', 'to 5', '5');
  await backEnd.emit('@inbox', 'to bob', 'bob');
  await backEnd.emit('@inbox', 'to all', null);
  for (const inbox of heard.slice(0, 2)) {
    assert.equal(await inbox.next(), 'state of 5');
    assert.equal(await inbox.next(), 'to 5');
    assert.equal(await inbox.next(), 'to all');
  }
  assert.equal(await heard[2].next(), 'to bob');
  assert.equal(await heard[2].next(), 'to all');
  await backEnd.set('@inbox', null, 5);
  [first, second, other].forEach((fws) => fws.sock.close());
});

test('private channels: no message without a grant, nor after it is revoked', async () => {
  const fws = await Original.ready('bob');
  const heard = new Inbox();
  await backEnd.set('#team', 'secret');
  fws.channel('fence', (data) => heard.put(['fence', data]));
  const say = async (text) => {
    await fws.fence();
    await backEnd.emit('#team', text);
    await backEnd.emit('fence', text);
  };
  fws.channel('#team', (data) => heard.put(['#team', data]));
  fws.emit('subscribe', ['#team']);
  await say('not granted');
  assert.deepEqual(await heard.next(), ['fence', 'not granted']);
  await backEnd.grant('#team', 'bob');
  await say('granted, not subscribed');
  assert.deepEqual(await heard.next(), ['fence', 'granted, not subscribed']);
  fws.emit('subscribe', '#team');
  assert.deepEqual(await heard.next(), ['#team', 'secret']);
  await say('inside');
  assert.deepEqual(await heard.next(), ['#team', 'inside']);
  assert.deepEqual(await heard.next(), ['fence', 'inside']);
  await backEnd.revoke('#team', 'bob');
  await say('withdrawn');
  assert.deepEqual(await heard.next(), ['fence', 'withdrawn']);
  await backEnd.set('#team', null);
  fws.sock.close();
});

test('a refused auth reaches the close event with its code and text', async () => {
  const cases = [
    ['demo', 'garbage', 3404, 'invalid JWT'],
    ['demo', token('another key', 5), 3404, 'invalid JWT'],
    ['nobody', token(key, 5), 3404, 'site id not registered'],
    ['demo', undefined, 3002, 'not found s - param, auth string'],
    [undefined, token(key, 5), 3002, 'not found i - param, site id'],
  ];
  for (const [namespace, secret, code, reason] of cases) {
    const fws = new Original(namespace, secret);
    fws.on('auth', () => assert.fail('let in'));
    assert.deepEqual(await fws.closed.next(), { code, reason, wasClean: true });
  }
});

test('a connection that ends leaves its channels', async () => {
  const fws = await Original.ready(5);
  fws.channel('presence', () => {});
  await fws.fence();
  assert.equal(await backEnd.countConnections('presence'), 1);
  fws.sock.close();
  await eventually('it has left', async () => await backEnd.countConnections('presence') === 0);
});
