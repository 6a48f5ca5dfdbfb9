// The real SockJS client library in Node.js, over every transport that it has there, against the
// conformance server. Argument: its address.
'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const SockJS = require('sockjs-client');
const exchange = require('../exchange.js');
require('./back_end.js'); // the deadline of a script

const base = `http://${process.argv[2]}`;

const over = (transport) => new Promise((resolve, reject) => {
  exchange(SockJS, base, transport, false, (error, used) => {
    if (error) reject(error);
    else resolve(used);
  });
});

for (const transport of ['websocket', 'xhr-streaming', 'eventsource', 'xhr-polling']) {
  test(transport, async () => assert.equal(await over(transport), transport));
}

test('without WebSocket on the server another transport is used', async () => {
  const socket = new SockJS(`${base}/disabled_websocket_echo`);
  const got = await new Promise((resolve, reject) => {
    socket.onopen = () => socket.send('x');
    socket.onmessage = ({ data }) => resolve([data, socket.transport]);
    socket.onclose = ({ code, reason }) => reject(new Error(`closed: ${code} ${reason}`));
  });
  assert.deepEqual(got, ['x', 'xhr-streaming']);
  socket.close();
});

test('an answer of a quarter of a megabyte arrives complete over each transport', async () => {
  for (const transport of ['websocket', 'xhr-streaming', 'eventsource', 'xhr-polling']) {
    const socket = new SockJS(`${base}/amplify`, null, { transports: [transport] });
    const length = await new Promise((resolve, reject) => {
      socket.onopen = () => socket.send('18');
      socket.onmessage = ({ data }) => resolve(data.length);
      socket.onclose = ({ code, reason }) => reject(new Error(`closed: ${code} ${reason}`));
    });
    assert.equal(length, 1 << 18, transport);
    socket.close();
  }
});
