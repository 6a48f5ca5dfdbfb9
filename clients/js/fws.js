/**
 * Browser client of Fire Web Socket: one file, no dependencies, no build step.
 *
 *     const fws = new FWS('https://push.example.org/socket', 'shop', token);
 *     fws.channel('news', (data) => show(data));
 *
 * The API is that of the original fws.js. New here: it reconnects and subscribes again, detects
 * dead connections on phones that sleep, and accepts a function in place of the token.
 *
 * It owns one WebSocket, its timers, and the page's handlers. It never publishes (only back ends
 * can), never dials while the page is hidden, and stores no messages. Works as a classic script
 * (global `FWS`) and as a CommonJS module; needs ES2017. The ES module is fws.mjs.
 */
(function (root, define) {
  const FWS = define();
  if (typeof module === 'object' && module.exports) module.exports = FWS.FWS = FWS;
  else root.FWS = FWS;
}(typeof self === 'undefined' ? this || globalThis : self, function () {
  'use strict';

  const BACKOFF_MS = 500; // maximum of the first, random wait; doubles with each failure
  const BACKOFF_CAP_MS = 30000;
  const STABLE_MS = 10000; // a connection that lived this long resets the back-off
  const DIAL_MS = 10000; // limit for getting a token, and again from dialling to `auth ok`
  const IDLE_MS = 60000; // silence after which a visible page sends a ping
  const IDLE_STATES_MS = 180000; // the same while states are being received
  const IDLE_JITTER = 0.2; // ±10 % of these two: many clients receive the same message at once
  const PROBE_MS = 2000; // silence after a ping before the link is given up, once the page is shown
  const PROBE_MAX_MS = 35000; // the same while states are being received; servers wait 33 s
  const DOUBLINGS_MAX = 5; // of these two limits,
  const PROBE_CAP_MS = 70000; // to no more than this
  const PACE = 20; // speed of a slow network, in characters per millisecond
  const RENEW_AT = 0.8; // fraction of a token's life after which it is renewed
  const BACK_MAX_MS = 600000; // longest delay that a server may ask for
  const TIMER_MAX_MS = 0x7fffffff; // maximum of setTimeout
  const QUEUE_MAX = 256; // calls of `emit` that may wait for a connection
  const ANSWERS_MAX = 256; // callbacks that may wait for an answer

  /** Code of `disconnect` when no close frame came (RFC 6455, 7.4.1). */
  const LOST = 1006;
  /** Code of `disconnect` when the server stops. */
  const GOING_AWAY = 1001;
  /** The server refuses this token or user: reconnecting is useless without a new token. */
  const REFUSED = [3002, 3401, 3403, 3404];
  /** Events of `on` that this client raises; a message with such a name does not call handlers. */
  const OWN_EVENTS = ['connected', 'auth', 'disconnect'];

  /**
   * The argument of `disconnect` handlers.
   * @typedef {Object} Disconnect
   * @property {number} code close code of the server; 1006 if the connection was lost or never
   *   opened; 1000 after `close()`
   * @property {string} reason text that comes with the code
   * @property {boolean} willReconnect false if this client has stopped
   */

  class FWS {
    /**
     * Connects at once, or as soon as the page is shown if it is hidden.
     *
     * @param {string} url like `https://host/socket`; may be relative to the page
     * @param {string} namespace
     * @param {string|function} token the auth token, or a function that gets one: it is called
     *   before each connection and before the token in use expires; it returns a string or a
     *   Promise of one, or calls its argument with one
     * @throws {TypeError} if the url is invalid
     */
    constructor(url, namespace, token) {
      const at = new URL(url, typeof location === 'undefined' ? undefined : location.href);
      at.protocol = at.protocol.replace(/^http/, 'ws');
      at.pathname = at.pathname.replace(/\/*$/, '/websocket');

      /** The server's id of this connection; null while there is none. */
      this.cid = null;
      this._url = at.href;
      this._namespace = namespace;
      this._token = token;
      /** Handlers of `on` and of `channel`: name → array of entries, which is never mutated. */
      this._events = new Map();
      this._channels = new Map();
      /** Calls of `emit` that wait for a connection. */
      this._queue = [];
      this._clb = 0;
      /** The current connection or attempt, or null: all state of one WebSocket. */
      this._link = null;
      this._round = 0; // counts links
      this._failures = 0; // of connections, in a row
      this._unanswered = 0; // probes in a row
      this._largest = 0; // length of the largest message received while no states were awaited
      this._retry = null; // timer of the next dial
      this._backAt = 0; // earliest time at which the server wants us back,
      this._back = 0; // and the delay until then: the clock may be set meanwhile
      this._caller = null; // own-event handler that owns what is registered now,
      this._running = null; // and the entry that is being called
      this._closed = false;
      this._wake = this._wake.bind(this);
      pageEvents('addEventListener', this._wake);
      this._dial();
    }

    /**
     * Calls `fn(data)` for each message of that event. On every connection there are also
     * `connected` (the socket is open), `auth` (gets the connection id) and `disconnect` (gets a
     * {@link Disconnect}). Handlers that a handler of these three registers with `on` or
     * `channel`, directly or through them, replace those it registered the time before.
     */
    on(event, fn) {
      this._add(this._events, String(event), fn);
    }

    /**
     * Subscribes, again after every reconnect, and calls `fn(data)` with the channel's state, if
     * it has one, and then with each message. A repeated call makes the server send the state
     * again, to all handlers of the channel. A function is registered only once.
     *
     * @param {string} name
     * @param {function} fn
     * @param {function(string)} [refused] called with the reason if the server refuses, as it does
     *   for a `#` channel without a grant; the next connection tries again
     */
    channel(name, fn, refused) {
      const entry = this._add(this._channels, String(name), fn, refused);
      if (this._link && this._link.ready) this._subscribe(this._link, String(name), [entry]);
    }

    /** Leaves a channel, and removes all handlers of that name, also those of `on`. */
    off(name) {
      this.unsubscribe(name);
      this._events.delete(String(name));
    }

    /**
     * Leaves a channel.
     * @param {string} name
     * @param {function} [fn] called when the server has answered; with undefined if there is no
     *   connection, and thus nothing to leave
     */
    unsubscribe(name, fn) {
      this._channels.delete(String(name));
      if (this._link && this._link.ready) this._send(this._link, 'unsubscribe', String(name), fn);
      else if (fn) later(fn);
    }

    /**
     * Sends a message to the server; queues it until there is a connection.
     * @param {string} event
     * @param {*} data
     * @param {function} [fn] called once: with the server's answer, or with undefined if the
     *   connection ends without one, or if 256 later calls wait for theirs
     * @returns {boolean} false if dropped: too many messages wait, or `close()` was called
     */
    emit(event, data, fn) {
      const kept = !this._closed && this._queue.length < QUEUE_MAX;
      if (this._link && this._link.ready) this._send(this._link, event, data, fn);
      else if (kept) this._queue.push([event, data, fn]);
      else if (fn) later(fn);
      return kept;
    }

    /** Closes for good. Calls `disconnect` handlers if there was a connection or an attempt. */
    close() {
      this._stop();
      if (this._link) this._lost(this._link, 1000, 'closed by the page');
    }

    // One link: a connection, from dialling to its end.

    _dial() {
      clearTimeout(this._retry);
      if (this._closed || this._link || hidden()) return; // _wake dials when the page is shown
      this._backAt = 0;
      const link = {
        socket: null,
        user: null, // user in the last token sent
        ready: false, // `auth ok` has arrived, and subscriptions are sent
        subscriber: null, // user for whom they were sent
        since: 0, // time of `auth ok`
        answers: new Map(), // clb → callback of the page
        own: new Map(), // clb → callback of this client
        limit: null, // timer: token or dialling takes too long
        idle: null, // timer: silence
        probe: null, // timer: answer to a ping is missing
        patient: false, // `probe` is one without a hint of trouble
        states: null, // timer: ping after subscribes; set until its answer has come
        more: false, // subscribed again since that ping
        renewal: null, // timer: next token
      };
      this._link = link;
      this._round += 1;
      this._limit(link, 'no token in time');
      this._newToken().then(
        (token) => this._open(link, token),
        (error) => this._lost(link, LOST, 'no token: ' + (error && error.message || error)));
    }

    _open(link, token) {
      if (this._link !== link) return; // given up while waiting for the token
      if (hidden()) {
        this._lost(link, LOST, 'page hidden');
        return;
      }
      this._limit(link, 'no connection in time');
      let socket;
      try {
        socket = new WebSocket(this._url);
      } catch (error) { // forbidden by the page's security policy
        this._lost(link, LOST, error.message);
        return;
      }
      link.socket = socket;
      socket.onopen = () => {
        this._auth(link, token);
        this._announce('connected');
      };
      socket.onmessage = (event) => {
        this._received(link, event.data);
        if (this._link !== link) return;
        if (link.probe) this._listen(link); // a sign of life
        else this._watch(link);
      };
      socket.onclose = (event) => this._lost(link, event.code, event.reason);
      socket.onerror = () => {}; // a close follows; Node.js throws errors without a handler
    }

    _auth(link, token) {
      link.user = userOf(token);
      this._send(link, 'auth', { i: this._namespace, s: token });
    }

    _authenticated(link, data) {
      this._renewIn(link, data.expiresIn);
      if (link.ready) { // a renewed token: the subscriptions remain,
        if (link.user !== link.subscriber) this._subscribeAll(link); // unless the user has changed
        return;
      }
      clearTimeout(link.limit);
      link.since = Date.now();
      this.cid = data.cid;
      this._announce('auth', data.cid);
      if (this._link !== link) return; // closed by a handler
      link.ready = true; // not earlier: what the handlers subscribed to is sent once, here
      this._subscribeAll(link);
      this._queue.splice(0).forEach((waiting) => call(() => this._send(link, ...waiting)));
    }

    _subscribeAll(link) {
      link.subscriber = link.user;
      this._channels.forEach((entries, name) => this._subscribe(link, name, entries));
    }

    _received(link, text) {
      let message;
      try {
        message = JSON.parse(text);
      } catch (error) {
        return;
      }
      if (!link.states) this._largest = Math.max(this._largest, text.length);
      if (!message || typeof message !== 'object') return;
      if (message.event === 'auth ok') {
        this._authenticated(link, message.data || {});
      } else if (message.event === 'callBackAnswer') {
        this._answer(link, message.clb, message.data);
      } else {
        const name = String(message.event);
        const others = OWN_EVENTS.includes(name) ? [] : this._events.get(name) || [];
        (this._channels.get(name) || []).concat(others)
          .forEach((entry) => call(entry.fn, message.data));
      }
    }

    /** Ends the link; the only way to do so. */
    _lost(link, code, reason) {
      if (this._link !== link) return;
      this._link = null;
      this.cid = null;
      [link.limit, link.idle, link.probe, link.states, link.renewal].forEach(clearTimeout);
      if (link.socket) {
        link.socket.onopen = link.socket.onmessage = link.socket.onclose = null;
        link.socket.close();
      }
      if (link.ready && Date.now() - link.since >= STABLE_MS) this._failures = 0;
      if (REFUSED.includes(code) && typeof this._token !== 'function') this._stop();
      link.answers.forEach((fn) => call(fn));
      const willReconnect = !this._closed;
      this._announce('disconnect', { code, reason, willReconnect });
      if (this._closed) return;
      const back = backIn(code, reason);
      if (back !== null) { // the server stops, and assigned us a time to reconnect
        this._failures = 0;
        this._back = back;
        this._backAt = Date.now() + back;
        this._retry = setTimeout(() => this._dial(), back);
        return;
      }
      const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_MS * 2 ** this._failures);
      this._failures += 1;
      this._retry = setTimeout(() => this._dial(), Math.random() * ceiling);
    }

    _stop() {
      this._closed = true;
      clearTimeout(this._retry);
      pageEvents('removeEventListener', this._wake);
      this._queue.splice(0).forEach((waiting) => waiting[2] && later(waiting[2]));
    }

    // Hidden pages and dead connections.

    /** The page is shown, or the network is back: timers and sockets may have been frozen. */
    _wake() {
      if (this._link) this._watch(this._link); // does nothing while hidden
      if (this._closed || hidden()) return;
      if (this._link) {
        if (this._link.ready) this._probe(this._link, false);
        else this._failures = 0; // if this attempt is lost, the next one comes soon
      } else if (Date.now() >= this._backAt) {
        this._failures = 0;
        this._dial();
      } else { // a page that is shown still waits for its assigned time
        clearTimeout(this._retry);
        const left = Math.min(this._back, this._backAt - Date.now());
        this._back = left; // the delay goes on from here, even if the clock was set
        this._backAt = Date.now() + left;
        this._retry = setTimeout(() => this._dial(), left);
      }
    }

    /**
     * Schedules a ping after silence. A page is not told when its network goes silent, and
     * scripts cannot see the server's pings, so a visible page must ask.
     */
    _watch(link) {
      clearTimeout(link.idle);
      if (!link.ready || link.probe || hidden()) return;
      const wait = link.states ? IDLE_STATES_MS : IDLE_MS;
      link.idle = setTimeout(() => this._probe(link, true),
        wait * (1 + (Math.random() - 0.5) * IDLE_JITTER));
    }

    /**
     * Sends a ping: a socket can look open long after its network has gone, and only an answer
     * proves that it is alive. `patient`: nothing hints that it is dead. If the page is shown
     * during a patient probe, the wait is cut to the usual one.
     */
    _probe(link, patient) {
      const isAsked = link.probe;
      if (isAsked && !link.patient) return;
      clearTimeout(link.idle);
      link.patient = patient;
      this._listen(link);
      if (isAsked) return;
      this._send(link, 'ping', 1, () => {
        clearTimeout(link.probe);
        link.probe = null;
        this._unanswered = 0;
      }, link.own);
    }

    /**
     * Gives the link up unless a message arrives in time. A message is not seen before it is
     * complete, so there is time for one as large as any before, or for awaited states, doubled
     * after each failed probe up to a cap: nobody waits longer for a network that is dead. A
     * patient probe waits at least as long as for states. The wait has two halves: if the page was
     * frozen or busy in the first, messages that came meanwhile are handled in the second.
     */
    _listen(link) {
      clearTimeout(link.probe);
      const message = Math.max(PROBE_MS, Math.min(PROBE_MAX_MS, this._largest / PACE));
      const doubled = (link.states ? PROBE_MAX_MS : message) * 2 ** this._unanswered;
      const grown = Math.min(PROBE_CAP_MS, doubled);
      const wait = link.patient ? Math.max(PROBE_MAX_MS, grown) : grown;
      link.probe = setTimeout(() => {
        link.probe = setTimeout(() => {
          this._unanswered = Math.min(DOUBLINGS_MAX, this._unanswered + 1);
          this._lost(link, LOST, 'no answer to a ping');
          this._dial();
        }, wait / 2);
      }, wait / 2);
    }

    /** Sends a ping after the subscribes: its answer comes after all their states. */
    _expect(link) {
      link.more = true;
      if (link.states) return;
      link.states = setTimeout(() => {
        link.more = false;
        this._send(link, 'ping', 1, () => {
          link.states = null;
          this._unanswered = 0; // the network carries even the states
          if (link.more) this._expect(link);
        }, link.own);
      });
      this._watch(link);
    }

    _limit(link, reason) {
      clearTimeout(link.limit);
      link.limit = setTimeout(() => this._lost(link, LOST, reason), DIAL_MS);
    }

    // Tokens.

    _newToken() {
      return new Promise((resolve, reject) => {
        if (typeof this._token !== 'function') {
          resolve(this._token);
          return;
        }
        const check = (token) => {
          if (typeof token === 'string' && token) resolve(token);
          else reject(new Error('the token function gave none'));
        };
        const answer = this._token(check);
        if (answer && typeof answer.then === 'function') answer.then(check, reject);
        else if (typeof answer === 'string') check(answer);
      });
    }

    /** Sends a new token on the open connection before the one in use expires. */
    _renewIn(link, seconds) {
      clearTimeout(link.renewal);
      if (typeof this._token !== 'function' || !(seconds >= 1)) return;
      const end = Date.now() + seconds * 1000;
      link.renewal = setTimeout(() => {
        this._newToken().then(
          (token) => { if (this._link === link) this._auth(link, token); },
          () => { if (this._link === link) this._renewIn(link, (end - Date.now()) / 1000); });
      }, Math.min(TIMER_MAX_MS, seconds * 1000 * RENEW_AT));
    }

    // Handlers and messages.

    _add(handlers, name, fn, refused) {
      const entry = { fn, refused, by: this._caller, round: this._round };
      const mine = (other) => other.by && other.by === entry.by;
      const old = (other) => mine(other) && other.round !== entry.round && other !== this._running;
      const known = handlers.get(name) || [];
      if (entry.by && !known.some(mine)) { // the handler may have registered other names before
        handlers.forEach((entries, other) => {
          const rest = entries.filter((one) => !old(one));
          if (rest.length) handlers.set(other, rest);
          else handlers.delete(other);
        });
      }
      const others = known.filter((one) => one.fn !== fn && !old(one));
      handlers.set(name, others.concat(entry));
      return entry;
    }

    /** Calls the handlers of one of this client's own events, and notes what they register. */
    _announce(name, value) {
      (this._events.get(name) || []).forEach((entry) => {
        const outer = [this._caller, this._running];
        this._caller = entry.by || entry.fn; // nested handlers are new functions each time
        this._running = entry; // which is not replaced by what it registers
        call(entry.fn, value);
        [this._caller, this._running] = outer;
      });
    }

    _subscribe(link, name, entries) {
      const asking = entries.filter((entry) => entry.refused);
      this._send(link, 'subscribe', name, asking.length && ((answer) => {
        if (!answer || answer.ok !== false) return;
        asking.forEach((entry) => call(entry.refused, answer.reason));
      }), link.own);
      this._expect(link);
    }

    /** The server answers everything in `own`, but perhaps not what the page asks. */
    _send(link, event, data, fn, answers = link.answers) {
      const message = { event, data };
      if (fn) {
        this._clb += 1;
        message.clb = this._clb;
        answers.set(message.clb, fn);
      }
      link.socket.send(JSON.stringify(message));
      if (link.answers.size > ANSWERS_MAX) this._answer(link, link.answers.keys().next().value);
    }

    _answer(link, clb, data) {
      const fn = link.answers.get(clb) || link.own.get(clb);
      link.answers.delete(clb);
      link.own.delete(clb);
      if (fn) call(fn, data);
    }
  }

  /** The delay in the close reason of a stopping server, in milliseconds; null without one. */
  function backIn(code, reason) {
    const told = code === GOING_AWAY && /, come back in (\d{1,9}) ms$/.exec(reason);
    return told ? Math.min(BACK_MAX_MS, Number(told[1])) : null;
  }

  /** What tells the user of a token from others, as text; null if it is not a token. */
  function userOf(token) {
    try {
      const payload = atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'));
      const user = JSON.parse(payload).i;
      // Beyond 2^53 several ids are parsed to the same number.
      const isExact = typeof user !== 'number' || Number.isSafeInteger(user);
      return isExact ? String(user) : String(payload.match(/"i"\s*:[^,}]*/g));
    } catch (error) {
      return null;
    }
  }

  function hidden() {
    return typeof document !== 'undefined' && document.hidden;
  }

  function pageEvents(addOrRemove, fn) {
    if (typeof document !== 'undefined') document[addOrRemove]('visibilitychange', fn);
    if (typeof self === 'undefined' || !self[addOrRemove]) return;
    self[addOrRemove]('pageshow', fn);
    self[addOrRemove]('online', fn);
  }

  /** Calls a function; an exception is rethrown later, so that other callbacks still run. */
  function call(fn, value) {
    try {
      fn(value);
    } catch (error) {
      setTimeout(() => { throw error; });
    }
  }

  function later(fn) {
    setTimeout(fn);
  }

  return FWS;
}));
