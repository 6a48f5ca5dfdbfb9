// Real clients through a real proxy: subscribes over every transport, and hears what is emitted.
// Arguments: base URL, control address, key of the namespace `demo`.
'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const WebSocket = require('ws');
const SockJS = require('sockjs-client');
const { BackEnd, Inbox, token } = require('./back_end.js');

const [base, control, key] = process.argv.slice(2);

let backEnd;
test.before(async () => { backEnd = await BackEnd.connect(control, 'demo', key); });
test.after(() => backEnd.close());

/** Opens a socket, subscribes, and takes three messages, one after the other. */
async function hear(socket, channel) {
  const heard = new Inbox();
  socket.onmessage = ({ data }) => heard.put(JSON.parse(data));
  socket.onclose = ({ code, reason }) => heard.put({ event: `closed: ${code} ${reason}` });
  socket.onerror = () => {}; // a close follows
  const say = (message) => socket.send(JSON.stringify(message));
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    setTimeout(() => reject(new Error('it does not open')), 10000).unref();
  });
  say({ event: 'auth', data: { i: 'demo', s: token(key, 5) } });
  assert.equal((await heard.next('auth ok')).event, 'auth ok');
  say({ event: 'subscribe', data: channel, clb: 1 });
  assert.deepEqual((await heard.next('the answer')).data, { ok: true });
  for (const data of [1, 'ü😀\u2028', 'x'.repeat(300000)]) {
    await backEnd.emit(channel, data);
    assert.deepEqual(await heard.next('a message'), { event: channel, data });
  }
  socket.close();
}

test('raw WebSocket', () => hear(new WebSocket(`${base.replace(/^http/, 'ws')}/websocket`), 'raw'));
for (const transport of ['websocket', 'xhr-streaming', 'eventsource', 'xhr-polling']) {
  test(`SockJS ${transport}`, () => (
    hear(new SockJS(base, null, { transports: [transport] }), transport)
  ));
}
