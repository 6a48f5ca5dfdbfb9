// What a SockJS client does with the conformance server, over one transport: the same in Node.js
// and in a page. Plain old JavaScript, because the oldest client is older than anything else.
(function (root, make) {
  'use strict';
  if (typeof module === 'object' && module.exports) module.exports = make();
  else root.exchange = make();
}(typeof self === 'undefined' ? this : self, function () {
  'use strict';

  var DEADLINE_MS = 20000;
  var BURST = 1000;

  /** Characters that JSON, HTML, scripts, forms and browsers like to lose. */
  function hardMessages() {
    var all = '';
    for (var code = 1; code < 0x3000; code += 1) all += String.fromCharCode(code);
    return ['a', '', 'ü😀', '%20%25%', '\u2028\u2029"\\', '</script><!--&amp;', '\ufff0\uffff\ufeff',
      'a\r\nb\n\ndata: c\r\n\r\n', all, 'x'.repeat ? 'x'.repeat(70000) : new Array(70001).join('x')];
  }

  function options(transport, isOld) {
    return isOld ? { protocols_whitelist: [transport] } : { transports: [transport] };
  }

  /** Opens a socket and calls back with an error or with what `talk` gave. */
  function session(SockJS, url, chosen, talk, done) {
    var socket = new SockJS(url, null, chosen);
    var timer = setTimeout(function () { end(new Error('no answer in time')); }, DEADLINE_MS);
    function end(error, result) {
      if (!timer) return;
      clearTimeout(timer);
      timer = null;
      socket.onmessage = socket.onclose = null;
      socket.close();
      done(error, result);
    }
    socket.onclose = function (event) {
      end(new Error('closed: ' + event.code + ' ' + event.reason));
    };
    talk(socket, end);
  }

  /** Sends all at once, and waits until all have come back, in order. */
  function echo(messages) {
    return function (socket, end) {
      var got = 0;
      socket.onopen = function () {
        for (var i = 0; i < messages.length; i += 1) socket.send(messages[i]);
      };
      socket.onmessage = function (event) {
        if (event.data !== messages[got]) {
          end(new Error('message ' + got + ' came back as ' + JSON.stringify(event.data)));
          return;
        }
        got += 1;
        if (got === messages.length) end(null, socket.transport || socket.protocol);
      };
    };
  }

  /** The server closes: code and reason reach the page. */
  function closed(socket, end) {
    socket.onclose = function (event) {
      var said = event.code + ' ' + event.reason;
      end(said === '3000 Go away!' ? null : new Error(said), said);
    };
  }

  /**
   * All of it; calls back with an error, or null and the name of the transport that was used.
   * `base` is the address of the server, `isOld` means a client of 0.3.
   */
  return function exchange(SockJS, base, transport, isOld, done) {
    var chosen = options(transport, isOld);
    var burst = [];
    for (var i = 0; i < BURST; i += 1) burst.push('message ' + i);
    session(SockJS, base + '/echo', chosen, echo(hardMessages()), function (error, used) {
      if (error) return done(error);
      return session(SockJS, base + '/echo', chosen, echo(burst), function (failure) {
        if (failure) return done(failure);
        return session(SockJS, base + '/close', chosen, closed, function (fault) {
          done(fault, used);
        });
      });
    });
  };
}));
