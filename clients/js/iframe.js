// Runs in the hidden iframe of a SockJS client: makes the requests to this server that the page
// around it may not make itself, and passes the answers on. The server serves it beside its iframe
// page, so that no other server is needed. It supports all versions of sockjs-client 1.x and
// 0.3.x, which need nothing else of it.
(function (global) {
  'use strict';

  var parentOrigin;
  var windowId;
  var isOld; // sockjs-client 0.3.x: its messages are plain text
  var facade = null;

  function post(type, data) {
    if (global.parent === global) return;
    var text = isOld ? windowId + type + (data || '')
      : JSON.stringify({ windowId: windowId, type: type, data: data || '' });
    global.parent.postMessage(text, '*');
  }

  /** Sends the first message in both forms: the client's version is not yet known. */
  function hello() {
    isOld = false;
    post('s');
    isOld = true;
    post('s');
    isOld = undefined;
  }

  function request(method, url, body, onprogress, ondone) {
    var xhr = new XMLHttpRequest();
    xhr.open(method, url, true);
    xhr.onreadystatechange = function () {
      if (xhr.readyState === 3 && onprogress && xhr.status === 200) onprogress(xhr.responseText);
      if (xhr.readyState === 4) ondone(xhr.status, xhr.responseText);
    };
    if (body !== null) xhr.setRequestHeader('Content-Type', 'text/plain');
    xhr.send(body);
    return function () {
      xhr.onreadystatechange = null;
      xhr.abort();
    };
  }

  function addQuery(url, query) {
    return url + (url.indexOf('?') === -1 ? '?' : '&') + query;
  }

  /** Makes one request after the other; each returns one or more frames. */
  function xhrReceiver(suffix) {
    return function (url, onframe, onend) {
      var used = 0;
      function lines(text) {
        for (;;) {
          var end = text.indexOf('\n', used);
          if (end === -1) return;
          var line = text.slice(used, end);
          used = end + 1;
          if (line) onframe(line);
        }
      }
      return request('POST', url + suffix, null, lines, function (status, text) {
        if (status === 200) lines(text);
        onend(status === 200);
      });
    };
  }

  function eventSourceReceiver(url, onframe, onend) {
    var source = new EventSource(url + '/eventsource');
    function stop() {
      source.onmessage = source.onerror = null;
      source.close();
    }
    source.onmessage = function (event) { onframe(decodeURI(event.data)); };
    source.onerror = function () {
      var isLost = source.readyState === 2;
      stop();
      onend(!isLost);
    };
    return stop;
  }

  function htmlFileReceiver(url, onframe, onend) {
    var name = 'fws' + Math.random().toString(36).slice(2);
    var frame = document.createElement('iframe');
    function stop() {
      if (!frame) return;
      delete global[name];
      var gone = frame;
      frame = null;
      // Later, because a script of that frame is running.
      setTimeout(function () { gone.parentNode.removeChild(gone); }, 0);
    }
    function end(isGood) {
      if (!frame) return;
      stop();
      onend(isGood);
    }
    global[name] = {
      start: function () {},
      message: function (data) { if (frame) onframe(data); },
      stop: function () { end(true); }
    };
    frame.style.display = 'none';
    frame.onerror = function () { end(false); };
    // A page that failed to load has not called `stop`.
    frame.onload = function () { end(false); };
    frame.src = addQuery(url + '/htmlfile', 'c=' + name);
    document.body.appendChild(frame);
    return stop;
  }

  var RECEIVERS = {
    'xhr-streaming': xhrReceiver('/xhr_streaming'),
    'xhr-polling': xhrReceiver('/xhr'),
    eventsource: eventSourceReceiver,
    htmlfile: htmlFileReceiver
  };

  /** A session: keeps receiving, and sends the messages given to it in order. */
  function Facade(receiver, url) {
    var waiting = [];
    var abortSend = null;
    var abortReceive = null;
    var isOver = false;

    function end(code, reason) {
      if (isOver) return;
      stop();
      post('c', JSON.stringify([code, reason]));
    }

    function stop() {
      isOver = true;
      if (abortSend) abortSend();
      if (abortReceive) abortReceive();
      abortSend = abortReceive = null;
    }

    function receive() {
      abortReceive = receiver(url, function (frame) {
        if (!isOver) post('t', frame);
      }, function (isGood) {
        abortReceive = null;
        if (isOver) return;
        if (isGood) receive();
        else end(1006, 'All transports failed');
      });
    }

    function flush() {
      if (abortSend || isOver || !waiting.length) return;
      var body = '[' + waiting.join(',') + ']';
      waiting = [];
      abortSend = request('POST', url + '/xhr_send', body, null, function (status) {
        abortSend = null;
        if (status === 200 || status === 204) flush();
        else end(1006, 'Sending error: ' + status);
      });
    }

    this.send = function (message) {
      waiting.push(message);
      flush();
    };
    this.close = stop;
    receive();
  }

  /** The request for /info, if the client's page may not make it itself. */
  function InfoFacade(url) {
    var began = Date.now();
    // 0.3.x gives the server's URL, 1.x that of /info.
    var address = isOld ? url + '/info' : url;
    var abort = request('GET', address, null, null, function (status, text) {
      var info;
      try { if (status === 200) info = JSON.parse(text); } catch (ignored) { info = undefined; }
      post('t', (isOld ? 'm' : '') + JSON.stringify([info, Date.now() - began]));
    });
    this.send = function () {};
    this.close = abort;
  }

  function isOurs(url) {
    var link = document.createElement('a');
    link.href = url;
    return link.protocol === global.location.protocol && link.host === global.location.host;
  }

  function start(data) {
    var parts = JSON.parse(data);
    var transport = parts[1];
    var url = parts[2];
    if (!isOurs(url) || !isOurs(parts[3])) {
      throw new Error('an iframe of ' + global.location.host + ' does not talk to ' + url);
    }
    // 0.3.x names the transport with a prefix `iframe-`, or by its class.
    var name = String(transport).replace(/^(w-)?iframe-/, '');
    if (/info/.test(name)) return new InfoFacade(url);
    if (!RECEIVERS[name]) throw new Error('no such transport: ' + transport);
    return new Facade(RECEIVERS[name], url);
  }

  function onmessage(event) {
    if (event.source !== global.parent || typeof event.data !== 'string') return;
    if (parentOrigin === undefined) parentOrigin = event.origin;
    if (event.origin !== parentOrigin) return;
    var type;
    var data;
    if (event.data.slice(0, windowId.length) === windowId) {
      type = event.data.charAt(windowId.length);
      data = event.data.slice(windowId.length + 1);
    } else {
      var message;
      try { message = JSON.parse(event.data); } catch (ignored) { return; }
      if (!message || message.windowId !== windowId) return;
      type = message.type;
      data = message.data;
    }
    if (type === 's') {
      isOld = event.data.charAt(0) !== '{';
      facade = start(data);
    } else if (type === 'm' && facade) {
      facade.send(data);
    } else if (type === 'c') {
      if (facade) facade.close();
      facade = null;
    }
  }

  global.SockJS = {
    bootstrap_iframe: function () {
      windowId = global.location.hash.slice(1);
      global.addEventListener('message', onmessage, false);
      hello();
    }
  };
})(window);
