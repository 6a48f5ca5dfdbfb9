// The demo page in a real browser: Chromium, headless, against the real server, which this script
// starts, stops, freezes and kills. Argument: path of the `fws` binary. With FWS_TEST_SCREENSHOTS=DIR
// it leaves pictures of the page there.
'use strict';

const assert = require('node:assert/strict');
const { execFile, spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { chromium } = require('playwright-core');

const [binary] = process.argv.slice(2);
const CHROMIUM = '/usr/bin/chromium';
const DEADLINE_MS = 20000; // of one wait
const SCRIPT_MS = 120000; // of all
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'fws-demo-'));

// Nothing of the machine's own configuration, and `fws` is the binary under test.
const environment = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('FWS_')));
environment.PATH = `${path.dirname(binary)}:${environment.PATH}`;

/** Two ports that are free now: the server must come back on its own, so they are chosen here. */
async function freePorts() {
  const listeners = [net.createServer(), net.createServer()];
  for (const listener of listeners) await once(listener.listen(0, '127.0.0.1'), 'listening');
  const addresses = listeners.map((listener) => `127.0.0.1:${listener.address().port}`);
  for (const listener of listeners) await once(listener.close(), 'close');
  return addresses;
}

/** The server under test, always on the same two ports. */
const server = {
  ws: '',
  control: '',
  child: null,

  async start() {
    if (!this.ws) [this.ws, this.control] = await freePorts();
    const flags = ['serve', '--demo', '--ws', this.ws, '--control', this.control];
    const child = spawn(binary, [...flags, '--data', path.join(folder, 'data')],
      { env: environment, stdio: ['ignore', 'ignore', 'pipe'] });
    this.child = child;
    const waiting = new Set([`listening ws=${this.ws}`, `listening control=${this.control}`]);
    const log = [];
    await new Promise((resolve, reject) => {
      const late = () => reject(new Error(`no doors:\n${log.join('\n')}`));
      const timer = setTimeout(late, DEADLINE_MS);
      readline.createInterface({ input: child.stderr }).on('line', (line) => {
        log.push(line);
        waiting.forEach((door) => line.includes(door) && waiting.delete(door));
        if (waiting.size) return;
        clearTimeout(timer);
        resolve();
      });
      child.on('exit', () => reject(new Error(`the server ended:\n${log.join('\n')}`)));
    });
  },

  async kill() {
    const end = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill('SIGKILL');
    await end;
  },

  freeze() { this.child.kill('SIGSTOP'); },
  thaw() { this.child.kill('SIGCONT'); },
};

/** Runs a command line as a user would who has copied it. */
function shell(command) {
  return new Promise((resolve, reject) => {
    const options = { env: environment, cwd: folder, timeout: DEADLINE_MS };
    execFile('/bin/sh', ['-c', command], options, (error, stdout, stderr) => {
      if (error) reject(new Error(`${command}: ${error.message}\n${stderr}`));
      else resolve(stdout);
    });
  });
}

/** What a user sees and does. */
class Page {
  constructor(page) {
    this.page = page;
    this.requests = [];
    this.errors = [];
    this.dials = 0;
    page.setDefaultTimeout(DEADLINE_MS);
    page.on('request', (request) => this.requests.push(request.url()));
    page.on('pageerror', (error) => this.errors.push(error.message));
    page.on('websocket', () => { this.dials += 1; });
  }

  open() { return this.page.goto(`http://${server.ws}/`); }

  status(text) { return this.page.locator('#status', { hasText: text }).waitFor(); }

  command() { return this.page.locator('#command').innerText(); }

  /** Publishes with the command that the page shows, the value replaced. */
  async publish(json) {
    const command = await this.command();
    assert.ok(command.includes(`'"hello"'`), command);
    await shell(command.replace(`'"hello"'`, () => `'${json}'`));
  }

  /** Waits until the newest message is this one. */
  async newest(channel, text) {
    const item = this.page.locator('#messages li').first();
    await item.getByText(channel, { exact: true }).waitFor();
    await item.getByText(text, { exact: true }).waitFor();
    return item;
  }

  count() { return this.page.locator('#messages li').count(); }

  /** With the keyboard alone. */
  async watch(name) {
    await this.page.getByLabel('Watch another channel').focus();
    await this.page.keyboard.type(name);
    await this.page.keyboard.press('Enter');
    const shown = name.trim();
    await this.page.getByRole('button', { name: `Stop watching ${shown}`, exact: true }).waitFor();
  }

  async leave(name) {
    const chip = this.page.getByRole('button', { name: `Stop watching ${name}`, exact: true });
    await chip.focus();
    await this.page.keyboard.press('Enter');
    await chip.waitFor({ state: 'detached' });
  }

  /** As when the user goes to another tab and comes back: a headless page is always in front. */
  setHidden(hidden) {
    return this.page.evaluate((value) => {
      Object.defineProperty(document, 'hidden', { configurable: true, value });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
  }

  /** Calls back when the client's back-off ends, and it would dial if the page were not hidden. */
  nextAttempt() {
    return this.page.evaluate(() => new Promise((resolve) => {
      fws._dial = () => {
        delete fws._dial; // the method of the class again
        fws._dial();
        resolve();
      };
    }));
  }

  /** The server has handled what the page has sent so far. */
  settled() {
    return this.page.evaluate(() => new Promise((resolve) => fws.emit('ping', 1, resolve)));
  }

  picture(name) {
    const directory = process.env.FWS_TEST_SCREENSHOTS;
    if (!directory) return undefined;
    return this.page.screenshot({ path: path.join(directory, `${name}.png`), fullPage: true });
  }
}

async function publishAndWatch(page) {
  await page.open();
  await page.status('Live');
  await page.picture('empty');
  const command = await page.command();
  assert.match(command, /(^|\/)fws emit demo news '"hello"'/);
  await page.settled();
  await shell(command); // to the letter, as copied
  await page.newest('news', 'hello');

  await page.page.getByLabel('Watch another channel').fill('   ');
  await page.page.keyboard.press('Enter'); // nothing to watch
  await page.watch('orders '); // as the keyboard of a phone writes it
  await page.settled();
  assert.match(await page.command(), / emit demo orders /);
  const chips = page.page.getByRole('button', { name: /^Stop watching/ });
  assert.equal(await chips.count(), 2);
  await page.publish('{"id":4711,"sum":19.5}');
  await page.newest('orders', '{ "id": 4711, "sum": 19.5 }');

  const hard = `ü 😀 "q" 'a' <b> $& %20`;
  await page.watch(hard);
  await page.settled();
  await page.publish('"<img src=x onerror=document.title=1>"');
  const item = await page.newest(hard, '<img src=x onerror=document.title=1>');
  assert.equal(await item.locator('img, b').count(), 0);

  await page.watch('#team');
  await page.newest('#team', /^Refused: /);
  await page.leave('#team');
  await page.leave(hard);
  await page.picture('messages');
}

async function leaveAChannel(page) {
  await page.watch('gone');
  await page.settled();
  const toGone = await page.command();
  await page.leave('gone');
  await page.settled();
  await shell(toGone);
  await page.publish('"after"'); // to `orders`, the last one that is left
  await page.newest('orders', 'after');
  assert.equal(await page.page.locator('#messages .tag', { hasText: 'gone' }).count(), 0);
}

async function surviveARestart(page) {
  await server.kill();
  await page.status('Reconnecting');
  await page.picture('reconnecting');
  await server.start();
  await page.status('Live');
  await page.settled();
  await page.publish('"back again"');
  await page.newest('orders', 'back again');
  const count = await page.count();
  await page.publish('"once"');
  await page.newest('orders', 'once');
  assert.equal(await page.count(), count + 1);
}

async function doNotDialWhileHidden(page) {
  const { dials } = page;
  await page.setHidden(true);
  const attempt = page.nextAttempt();
  await page.settled(); // so the line above has been run
  await server.kill();
  await page.status('Reconnecting');
  await attempt;
  await server.start();
  assert.equal(page.dials, dials);
  await page.setHidden(false);
  await page.status('Live');
  assert.equal(page.dials, dials + 1);
}

async function replaceADeadSocket(page) {
  const { dials } = page;
  await page.setHidden(false); // shown again, and the server answers: nothing happens
  await page.settled();
  server.freeze();
  await page.setHidden(false);
  await page.status('Reconnecting'); // no close has come: the probe found it out
  assert.equal(page.dials, dials);
  server.thaw();
  await page.status('Live');
  assert.equal(page.dials, dials + 1);
  await page.settled();
  await page.publish('"on a new socket"');
  await page.newest('orders', 'on a new socket');
}

async function main() {
  await server.start();
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  try {
    const page = new Page(await browser.newPage());
    const steps = [publishAndWatch, leaveAChannel, surviveARestart, doNotDialWhileHidden,
      replaceADeadSocket];
    for (const step of steps) {
      await step(page).catch((error) => {
        error.message = `${step.name}: ${error.message}`;
        throw error;
      });
      console.log(`ok: ${step.name}`);
    }
    assert.deepEqual(page.errors, []);
    const outside = page.requests.filter((url) => !/^(data:|http:\/\/127\.0\.0\.1:)/.test(url));
    assert.deepEqual(outside, []);
  } finally {
    await browser.close();
  }
}

setTimeout(() => {
  console.error('the script took too long');
  process.exit(1);
}, SCRIPT_MS).unref();
process.on('exit', () => {
  if (server.child) server.child.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
});
main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
