// SockJS clients in a real browser, over every transport that it has there, against the conformance
// server from a page of another origin. Argument: address of that server.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { chromium } = require('playwright-core');

const base = `http://${process.argv[2]}`;
const SCRIPT_MS = 180000; // of all
const here = (name) => path.join(__dirname, '..', name);

/** The newest client; and the oldest that can be had, which speaks as all of 0.3 do. */
const NEW = here('node_modules/sockjs-client/dist/sockjs.min.js');
const OLD = process.env.FWS_OLD_SOCKJS
  || here('node_modules/shoe/node_modules/sockjs-client/sockjs.js');

const SCRIPTS = { '/exchange.js': here('exchange.js'), '/new.js': NEW, '/old.js': OLD };

/** Pages with a client in them, of another origin than the server. */
async function servePages() {
  const server = http.createServer((request, response) => {
    const file = SCRIPTS[request.url];
    if (file) {
      response.writeHead(200, { 'Content-Type': 'text/javascript; charset=UTF-8' });
      response.end(fs.readFileSync(file));
    } else if (SCRIPTS[`${request.url}.js`]) {
      response.writeHead(200, { 'Content-Type': 'text/html; charset=UTF-8' });
      response.end(`<!doctype html><meta charset="utf-8"><body>
        <script src="${request.url}.js"></script><script src="/exchange.js"></script>`);
    } else {
      response.writeHead(404);
      response.end();
    }
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return server;
}

/** Runs one client over one transport in a page of its own; gives the transport that was used. */
async function over(browser, origin, page, transport) {
  const isOld = page === '/old';
  const tab = await browser.newPage();
  const problems = [];
  tab.on('pageerror', (error) => problems.push(error.message));
  await tab.goto(origin + page);
  const result = await tab.evaluate(([server, name, old]) => new Promise((resolve) => {
    exchange(SockJS, server, name, old, (error, used) => {
      resolve({ error: error && error.message, used });
    });
  }), [base, transport, isOld]);
  await tab.close();
  assert.equal(result.error, null, `${page} over ${transport}: ${result.error} ${problems}`);
  assert.equal(result.used, transport);
}

/** The iframe page needs nobody else, and is refused nothing that it needs. */
async function iframeIsOurs(browser) {
  const tab = await browser.newPage();
  const asked = [];
  tab.on('request', (request) => asked.push(new URL(request.url()).origin));
  await tab.goto(`${base}/echo/iframe.html`);
  assert.deepEqual([...new Set(asked)], [base]);
  assert.equal(await tab.evaluate(() => typeof SockJS.bootstrap_iframe), 'function');
  await tab.close();
}

async function main() {
  setTimeout(() => {
    console.error('the script took too long');
    process.exit(1);
  }, SCRIPT_MS).unref();
  const pages = await servePages();
  const origin = `http://localhost:${pages.address().port}`;
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  try {
    await iframeIsOurs(browser);
    for (const transport of ['websocket', 'xhr-streaming', 'eventsource', 'xhr-polling',
      'iframe-eventsource', 'iframe-htmlfile', 'iframe-xhr-polling', 'jsonp-polling']) {
      await over(browser, origin, '/new', transport);
      console.log(`new: ${transport}`);
    }
    for (const transport of ['websocket', 'xhr-streaming', 'iframe-eventsource',
      'iframe-htmlfile', 'xhr-polling', 'iframe-xhr-polling', 'jsonp-polling']) {
      await over(browser, origin, '/old', transport);
      console.log(`old: ${transport}`);
    }
  } finally {
    await browser.close();
    pages.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
