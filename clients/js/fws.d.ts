// Types of fws.js; the calls are documented there and in README.md.

declare class FWS {
  /** Connects at once, or as soon as the page is shown if it is hidden. */
  constructor(url: string, namespace: string, token: FWS.Token);

  /** The server's id of this connection; null while there is none. */
  readonly cid: string | null;

  on(event: 'connected', fn: () => void): void;
  on(event: 'auth', fn: (cid: string) => void): void;
  on(event: 'disconnect', fn: (event: FWS.Disconnect) => void): void;
  on(event: string, fn: (data: any) => void): void;
  channel(name: string, fn: (data: any) => void, refused?: (reason: string) => void): void;
  off(name: string): void;
  unsubscribe(name: string, fn?: (answer?: any) => void): void;
  emit(event: string, data: any, fn?: (answer?: any) => void): boolean;
  close(): void;
}

// For `import { FWS }` when it is compiled to `require`.
import Client = FWS;

declare namespace FWS {
  export { Client as FWS };

  /** The auth token, or a function that returns it or a Promise of it, or passes it on. */
  export type Token = string | ((done: (token: string) => void) => string | Promise<string> | void);

  export interface Disconnect {
    /** Close code of the server; 1006 if the connection was lost, 1000 after `close()`. */
    code: number;
    reason: string;
    /** False if this client has stopped. */
    willReconnect: boolean;
  }
}

export = FWS;
export as namespace FWS;
