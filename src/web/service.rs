//! What the web door serves, and where. Made by whoever opens the door.

use crate::limits::Limits;

/// One place where SockJS is served, and how.
#[derive(Clone, Debug)]
pub struct Service {
    /// The path that everything is under, as `/socket`.
    pub prefix: String,
    /// Whether WebSockets are served.
    pub websocket: bool,
    /// Whether answers set the cookie `JSESSIONID`, which some load balancers go by.
    pub cookie: bool,
    /// Whether `jsonp` and `jsonp_send` are served.
    pub jsonp: bool,
    /// Whether `htmlfile` is served.
    pub htmlfile: bool,
    /// The script that the iframe page loads: a path, or an `http` address.
    pub script: String,
    /// Bytes of frames after which an answer that goes on ends; the session goes on in the next.
    pub response_bytes: usize,
    /// Whether raw WebSockets are pinged.
    pub raw_heartbeat: bool,
    /// Sites whose pages may connect, each as browsers write it in `Origin`; all may if there is
    /// none here.
    pub origins: Vec<String>,
}

impl Service {
    /// All transports under this prefix, and the page with the script that the server has itself.
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
