// Types of fws.js; what each call does stands there and in README.md.

declare class FWS {
  /** Connects at once (if the page is hidden: when it is shown). */
  constructor(url: string, namespace: string, token: FWS.Token);

  /** Id of this connection as the server knows it; null while there is none. */
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

// `import { FWS }` of a compiler that makes `require` of it.
import Client = FWS;

declare namespace FWS {
  export { Client as FWS };

  /** The auth token, or a function that returns one, or a Promise of one, or passes one on. */
  export type Token = string | ((done: (token: string) => void) => string | Promise<string> | void);

  export interface Disconnect {
    /** Close code of the server; 1006 when the connection was lost, 1000 after `close()`. */
    code: number;
    reason: string;
    /** False: this client has stopped. */
    willReconnect: boolean;
  }
}

export = FWS;
export as namespace FWS;
