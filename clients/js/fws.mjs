// fws.js as an ES module: `import { FWS } from './fws.mjs'`. To bundlers and Node.js that file is a
// CommonJS module, to a browser a script that leaves a global behind.
import * as script from './fws.js';

export const FWS = script['default'] || globalThis.FWS;
export default FWS;
