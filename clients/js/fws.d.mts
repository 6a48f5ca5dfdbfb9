import FWS = require('./fws.js');

export { FWS };
export default FWS;
