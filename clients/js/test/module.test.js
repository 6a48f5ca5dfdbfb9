// Loading fws.js by `require`, by `import`, by its package name and as a browser does; and whether
// its type declarations match the client.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('node:test');
const { pathToFileURL } = require('node:url');

const here = (name) => path.join(__dirname, '..', name);
const FWS = require('../fws.js');
const manifest = require('../package.json');

test('import and require give the same class, by path and by name', async () => {
  for (const name of ['../fws.mjs', manifest.name, `${manifest.name}/fws.mjs`]) {
    const module = await import(name);
    assert.equal(module.FWS, FWS, name);
    assert.equal(module.default, FWS, name);
  }
  assert.equal((await import('../fws.js')).default, FWS);
  assert.equal(require(manifest.name), FWS);
  // What TypeScript, or Babel for Jest, compiles `import { FWS }` to for CommonJS.
  assert.equal(require(manifest.name).FWS, FWS);
  assert.equal(globalThis.FWS, undefined);
});

// Both load the file as a module that exports nothing; only a browser has `self`.
for (const who of ['a browser', 'a package of modules']) {
  test(`${who} imports it`, async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'fws-module-'));
    try {
      for (const name of ['fws.js', 'fws.mjs']) fs.copyFileSync(here(name), path.join(folder, name));
      fs.writeFileSync(path.join(folder, 'package.json'), '{"type":"module"}');
      if (who === 'a browser') globalThis.self = globalThis;
      const module = await import(pathToFileURL(path.join(folder, 'fws.mjs')));
      assert.equal(module.FWS.name, 'FWS');
      assert.equal(module.FWS, globalThis.FWS);
    } finally {
      delete globalThis.self;
      delete globalThis.FWS;
      fs.rmSync(folder, { recursive: true });
    }
  });
}

test('the types declare exactly the methods of the client', () => {
  const types = fs.readFileSync(here('fws.d.ts'), 'utf8');
  const [, body] = /declare class FWS \{\n([^]*?)\n\}/.exec(types);
  const typed = new Map();
  for (const [, name, parameters] of body.matchAll(/^ {2}(\w+)\((.*)\)(?::|;)/gm)) {
    const names = parameters.split(/, (?=\w+\??:)/).map((it) => /^\w*/.exec(it)[0]).filter(Boolean);
    typed.set(name, names.length);
  }
  const isPublic = (name) => !name.startsWith('_');
  const calls = Object.getOwnPropertyNames(FWS.prototype).filter(isPublic);
  assert.deepEqual([...typed.keys()].sort(), calls.sort());
  for (const name of calls) {
    const call = name === 'constructor' ? FWS : FWS.prototype[name];
    assert.equal(typed.get(name), call.length, name);
  }
  assert.match(body, /readonly cid: string \| null;/);
  for (const name of manifest.files) assert.ok(fs.existsSync(here(name)), name);
  const cargo = fs.readFileSync(here('../../Cargo.toml'), 'utf8');
  assert.equal(manifest.version, /^version = "(.*)"/m.exec(cargo)[1]);
});
