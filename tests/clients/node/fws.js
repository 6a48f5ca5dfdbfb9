// Our own browser client against the real server. Arguments: WebSocket address, control address,
// key of the namespace `demo`.
'use strict';

const assert = require('node:assert/strict');
const net = require('node:net');
const test = require('node:test');
if (!globalThis.WebSocket) globalThis.WebSocket = require('ws'); // Node.js before version 22
const FWS = require('../../../clients/js/fws.js');
const { BackEnd, Inbox, token } = require('./back_end.js');

const [ws, control, key] = process.argv.slice(2);

let backEnd;
test.before(async () => { backEnd = await BackEnd.connect(control, 'demo', key); });
test.after(() => {
  backEnd.close();
  opened.forEach((fws) => fws.close()); // those that a failed test has left open
});

const opened = [];
function open(namespace, secret, address = ws) {
  const fws = new FWS(`http://${address}/socket`, namespace, secret);
  opened.push(fws);
  return fws;
}

const seconds = () => Math.floor(Date.now() / 1000);

/** An answer of the server to `emit`. */
async function ask(fws, event, data) {
  const answers = new Inbox();
  fws.emit(event, data, answers.put);
  return answers.next(`the answer to ${event}`);
}

test('channels, states, ping, unsubscribe, close', async () => {
  await backEnd.set('weather', { now: 'sun 😀\u2028' });
  const fws = open('demo', token(key, 5));
  const heard = new Inbox();
  fws.on('auth', (cid) => heard.put(['auth', cid === fws.cid]));
  fws.channel('weather', (data) => heard.put(['weather', data]));
  assert.deepEqual(await heard.next(), ['auth', true]);
  assert.deepEqual(await heard.next(), ['weather', { now: 'sun 😀\u2028' }]);
  await ask(fws, 'ping', 1);
  await backEnd.emit('weather', null);
  assert.deepEqual(await heard.next(), ['weather', null]);

  const answers = new Inbox();
  fws.unsubscribe('weather', answers.put);
  await answers.next('the answer to unsubscribe');
  assert.equal(await backEnd.countConnections('weather'), 0);
  fws.on('disconnect', (event) => heard.put(event));
  fws.close();
  const end = { code: 1000, reason: 'closed by the page', willReconnect: false };
  assert.deepEqual(await heard.next(), end);
  await backEnd.set('weather', null);
});

test('a refused subscription is reported, a granted one is not', async () => {
  const fws = open('demo', token(key, 'bob'));
  const heard = new Inbox();
  const refused = (reason) => heard.put({ reason });
  const join = () => fws.channel('#club', heard.put, refused);
  join();
  const { reason } = await heard.next('a refusal');
  assert.equal(typeof reason, 'string');
  assert.notEqual(reason, '');
  await backEnd.grant('#club', 'bob');
  await backEnd.set('#club', 'welcome');
  join();
  assert.equal(await heard.next(), 'welcome');
  await backEnd.revoke('#club', 'bob');
  await backEnd.set('#club', null);
  fws.close();
});

test('a token is renewed on the open connection before it ends', async () => {
  // 6 s: `expiresIn` is rounded to whole seconds, and 80 % of it must be before the expiry.
  let calls = 0;
  const fws = open('demo', () => {
    calls += 1;
    return token(key, 5, calls === 1 ? { exp: seconds() + 6 } : {});
  });
  const heard = new Inbox();
  fws.on('auth', heard.put);
  fws.on('disconnect', heard.put);
  fws.channel('renewal', heard.put);
  const cid = await heard.next();
  // A second connection, whose token expires at the same time, shows when that time has passed.
  const other = open('demo', token(key, 6, { exp: seconds() + 6 }));
  const ends = new Inbox();
  other.on('disconnect', ends.put);
  assert.deepEqual(await ends.next('the end of the other token'),
    { code: 3401, reason: 'token expired', willReconnect: false });
  await ask(fws, 'ping', 1);
  await backEnd.emit('renewal', 'same subscription');
  assert.equal(await heard.next(), 'same subscription'); // and nothing before it
  assert.deepEqual([calls, fws.cid], [2, cid]);
  fws.close();
});

test('after a refused token a function is asked for another; a fixed token ends it', async () => {
  const heard = new Inbox();
  const tokens = ['garbage', token(key, 5)];
  const fws = open('demo', async () => tokens.shift());
  fws.on('disconnect', heard.put);
  fws.on('auth', () => heard.put('auth'));
  assert.deepEqual(await heard.next(), { code: 3404, reason: 'invalid JWT', willReconnect: true });
  assert.equal(await heard.next(), 'auth');
  fws.close();

  const fixed = open('nobody', token(key, 5));
  const ends = new Inbox();
  fixed.on('disconnect', ends.put);
  const end = { code: 3404, reason: 'site id not registered', willReconnect: false };
  assert.deepEqual(await ends.next(), end);
});

/** A way to the server that lets so many bytes a second come back. */
async function slowly(bytes) {
  const [host, port] = ws.split(':');
  const proxy = net.createServer((page) => {
    const server = net.connect(Number(port), host);
    page.pipe(server);
    server.pause();
    const timer = setInterval(() => {
      const some = server.read(bytes / 20) || server.read();
      if (some) page.write(some);
    }, 50);
    const end = () => [page, server].forEach((socket) => socket.destroy());
    [page, server].forEach((socket) => socket.on('error', () => {}).on('close', end));
    page.on('close', () => clearInterval(timer));
  });
  await new Promise((resolve) => { proxy.listen(0, '127.0.0.1', resolve); });
  return proxy;
}

test('a page that is shown again waits for a large state that is arriving', async (t) => {
  await backEnd.set('large', 'x'.repeat(400000));
  const proxy = await slowly(100000);
  let show;
  globalThis.document = {
    hidden: false,
    addEventListener: (name, fn) => { show = fn; },
    removeEventListener: () => {},
  };
  t.after(() => {
    delete globalThis.document;
    proxy.close();
  });
  const fws = open('demo', token(key, 5), `127.0.0.1:${proxy.address().port}`);
  const heard = new Inbox();
  fws.on('disconnect', heard.put);
  fws.on('auth', () => setTimeout(show, 200));
  fws.channel('large', ({ length }) => heard.put(length));
  assert.equal(await heard.next(), 400000); // after 4 s, and nothing before it
  await backEnd.set('large', null);
  fws.close();
});
