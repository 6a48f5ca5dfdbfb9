// Shared by the scripts beside this file: a control connection (protocol parts 2 to 4), tokens
// (part 8), and waits with a deadline.
'use strict';

const crypto = require('node:crypto');
const net = require('node:net');

const DEADLINE_MS = 15000; // of one wait; long, because a busy machine is no fault
const SCRIPT_MS = 90000; // of a whole script

setTimeout(() => {
  console.error('the script took too long');
  process.exit(1);
}, SCRIPT_MS).unref();

/** A controller: one request at a time, as back ends do it. */
class BackEnd {
  static async connect(address, namespace, key) {
    const [host, port] = address.split(':');
    const backEnd = new BackEnd(net.connect(Number(port), host));
    await backEnd.must({ action: 'auth', name: namespace, sKey: key });
    return backEnd;
  }

  constructor(socket) {
    this.socket = socket;
    this.buffer = Buffer.alloc(0);
    this.waiting = [];
    socket.on('data', (piece) => this.received(piece));
    socket.on('close', () => this.waiting.splice(0).forEach(({ reject }) => {
      reject(new Error('the control connection was closed'));
    }));
    socket.on('error', () => {}); // a close follows
  }

  received(piece) {
    this.buffer = Buffer.concat([this.buffer, piece]);
    while (this.buffer.length >= 5) {
      const length = this.buffer.readInt32LE(0);
      if (this.buffer.length < length + 5) return;
      const reply = JSON.parse(this.buffer.toString('utf8', 4, 4 + length));
      this.buffer = this.buffer.subarray(length + 5);
      this.waiting.shift().resolve(reply);
    }
  }

  ask(request) {
    const body = Buffer.from(JSON.stringify(request));
    const head = Buffer.alloc(4);
    head.writeInt32LE(body.length);
    this.socket.write(Buffer.concat([head, body, Buffer.alloc(1)]));
    const reply = new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
    return within(reply, `reply to ${body}`);
  }

  async must(request) {
    const reply = await this.ask(request);
    if (reply.success !== true) {
      throw new Error(`${JSON.stringify(request)}: ${JSON.stringify(reply)}`);
    }
    return reply;
  }

  emit(channel, data, userId) {
    return this.must({ action: 'emit', channel, data, params: { userId } });
  }

  set(channel, data, userId) {
    return this.must({ action: 'set', channel, data, params: { userId } });
  }

  grant(channel, userId) {
    return this.must({ action: 'subscribe', channel, params: { userId } });
  }

  revoke(channel, userId) {
    return this.must({ action: 'unsubscribe', channel, params: { userId } });
  }

  /** Connections in a channel; an empty one may be told as `false` (protocol part 4). */
  async countConnections(channel) {
    const info = await this.ask({ action: 'channelInfo', channel });
    return info === false ? 0 : info.countConnection;
  }

  close() { this.socket.destroy(); }
}

/** A token for a user; `claims` such as `exp` beside it. */
function token(key, user, claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ typ: 'JWT', alg: 'HS256' })}.${part({ i: user, ...claims })}`;
  return `${text}.${crypto.createHmac('sha256', key).update(text).digest('base64url')}`;
}

/** Fails if the promise does not settle in time. */
function within(promise, what) {
  let timer;
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`in vain: ${what}`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Things that arrive, in their order, to be taken one by one. */
class Inbox {
  constructor() {
    this.items = [];
    this.takers = [];
    this.put = this.put.bind(this);
  }

  put(item) {
    const taker = this.takers.shift();
    if (taker) taker(item);
    else this.items.push(item);
  }

  next(what = 'the next item') {
    if (this.items.length) return Promise.resolve(this.items.shift());
    return within(new Promise((resolve) => this.takers.push(resolve)), what);
  }
}

/** Asks again until it is so: for what the server does in its own time. */
async function eventually(what, attempt) {
  const start = Date.now();
  while (!await attempt()) {
    if (Date.now() - start > DEADLINE_MS) throw new Error(`in vain: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

module.exports = { BackEnd, Inbox, token, within, eventually };
