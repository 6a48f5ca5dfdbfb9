//! What the web listener serves, and where. Set by the code that opens the listener.

use crate::limits::Limits;

/// One path prefix under which SockJS is served, and its options.
#[derive(Clone, Debug)]
pub struct Service {
    /// The path prefix, such as `/socket`.
    pub prefix: String,
    /// Whether WebSockets are served.
    pub websocket: bool,
    /// Whether answers set the cookie `JSESSIONID`, which some load balancers use.
    pub cookie: bool,
    /// Whether `jsonp` and `jsonp_send` are served.
    pub jsonp: bool,
    /// Whether `htmlfile` is served.
    pub htmlfile: bool,
    /// The script that the iframe page loads: a path or an `http` URL.
    pub script: String,
    /// Bytes of frames after which a streaming answer ends; the session continues in the next one.
    pub response_bytes: usize,
    /// Whether raw WebSockets are pinged.
    pub raw_heartbeat: bool,
    /// Origins whose pages may connect, as browsers write them in `Origin`; if empty, all may.
    pub origins: Vec<String>,
}

impl Service {
    /// Offers all transports under this prefix, and the built-in iframe script.
    pub fn new(prefix: &str, limits: &Limits) -> Service {
        Service {
            prefix: prefix.to_owned(),
            websocket: true,
            cookie: false,
            jsonp: true,
            htmlfile: true,
            script: format!("{prefix}/{}", crate::codec::sockjs::IFRAME_SCRIPT),
            response_bytes: limits.stream_response_bytes,
            raw_heartbeat: true,
            origins: Vec::new(),
        }
    }
}
