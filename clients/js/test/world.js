// A page without a browser: fws.js runs in it with a WebSocket, a document, a clock, timers and
// random numbers that the test controls. Nothing here touches a network or waits.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');

const SOURCE = path.join(__dirname, '..', 'fws.js');

class World {
  constructor() {
    this.now = 1700000000000;
    this.dateOff = 0; // how far the wall clock has been set; timers do not follow it
    this.chance = 0.5; // what Math.random returns
    this.sockets = []; // every socket ever opened
    this.thrown = []; // errors that reached the top of a timer
    this._timers = new Map();
    this._nextTimer = 1;
    this._listeners = new Map();
    const world = this;

    class FakeSocket {
      constructor(url) {
        if (world.forbidden) throw new Error(world.forbidden);
        this.url = url;
        this.open = false;
        this.closedByClient = false;
        this.sent = [];
        world.sockets.push(this);
      }
      send(text) {
        if (!this.open) throw new Error('InvalidStateError');
        this.sent.push(JSON.parse(text));
      }
      close() { this.closedByClient = true; }
      // Actions of the network and the server:
      accept() { this.open = true; this.onopen({}); }
      receive(message) {
        const data = typeof message === 'string' ? message : JSON.stringify(message);
        if (this.onmessage) this.onmessage({ data });
      }
      authOk(data) { this.receive({ event: 'auth ok', data: { cid: 'cid', ...data } }); }
      ready(data) { this.accept(); this.authOk(data); }
      answer() { // answers all unanswered pings
        const isOpen = ({ event, answered }) => event === 'ping' && !answered;
        this.sent.filter(isOpen).forEach((ping) => {
          Object.defineProperty(ping, 'answered', { value: true });
          this.receive({ event: 'callBackAnswer', clb: ping.clb, data: { ok: true } });
        });
      }
      drop(code = 1006, reason = '') { if (this.onclose) this.onclose({ code, reason }); }
      events() { return this.sent.map((message) => message.event); }
      names(event) {
        return this.sent.filter((message) => message.event === event).map(({ data }) => data);
      }
    }

    const target = {
      addEventListener: (name, fn) => {
        if (!this._listeners.has(name)) this._listeners.set(name, new Set());
        this._listeners.get(name).add(fn);
      },
      removeEventListener: (name, fn) => this._listeners.get(name).delete(fn),
    };
    this.document = { hidden: false, ...target };
    const globals = {
      ...target,
      document: this.document,
      location: { href: 'https://page.example/shop/' },
      URL,
      atob,
      WebSocket: FakeSocket,
      setTimeout: (fn, ms = 0) => this._setTimeout(fn, ms),
      clearTimeout: (id) => this._timers.delete(id),
      chance: () => this.chance,
      clock: () => this.now + this.dateOff,
    };
    globals.self = globals;
    vm.createContext(globals);
    vm.runInContext('Math.random = chance; Date.now = clock;', globals);
    vm.runInContext(fs.readFileSync(SOURCE, 'utf8'), globals, { filename: SOURCE });
    this.FWS = globals.FWS;
  }

  get socket() { return this.sockets[this.sockets.length - 1]; }

  _setTimeout(fn, ms) {
    const id = this._nextTimer++;
    this._timers.set(id, { fn, at: this.now + ms, id });
    return id;
  }

  /** Milliseconds until each pending timer, the next one first. */
  timers() {
    return [...this._timers.values()].map(({ at }) => at - this.now).sort((a, b) => a - b);
  }

  listening() {
    return [...this._listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }

  /** Lets promises settle. */
  async settle() {
    for (let turns = 0; turns < 10; turns++) await Promise.resolve();
  }

  /** Advances the clock and runs the timers that become due, in order. */
  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await this.settle();
      const [next] = [...this._timers.values()]
        .filter(({ at }) => at <= end)
        .sort((a, b) => a.at - b.at || a.id - b.id);
      if (!next) break;
      this.now = Math.max(this.now, next.at); // timers of a suspended page run late
      this._timers.delete(next.id);
      try {
        next.fn();
      } catch (error) {
        this.thrown.push(error.message);
      }
    }
    this.now = end;
    await this.settle();
  }

  /** The same on a working network: pings are answered. */
  async passAlive(ms) {
    const end = this.now + ms;
    while (this.now < end) {
      await this.pass(Math.min(1000, end - this.now));
      this.socket.answer();
    }
  }

  page(name) {
    (this._listeners.get(name) || []).forEach((fn) => fn({ type: name }));
  }

  hide() { this.document.hidden = true; this.page('visibilitychange'); }
  show() { this.document.hidden = false; this.page('visibilitychange'); }

  /** A client with an authenticated connection. */
  async connected(token = 'token', data) {
    const fws = new this.FWS('http://host:8080/socket', 'demo', token);
    await this.settle();
    this.socket.ready(data);
    return fws;
  }
}

module.exports = { World };
