//! The origins whose pages may connect. A browser states in `Origin` which page a request comes
//! from, and no page can change that. Other clients can send anything, so this keeps out only the
//! pages of other sites. Called by `http` for every request to a service.

use super::Service;
use crate::codec::http::{Head, Response};
use crate::codec::sockjs::{Route, Transport};

/// Whether the page behind this request may connect.
///
/// Browsers send `Origin` with every WebSocket handshake, every sending request, and every other
/// request to another origin. A `GET` to the page's own origin has none, but `Sec-Fetch-Site`
/// unless the browser is old. Such requests alone achieve nothing: a session that has not sent has
/// no user.
pub(super) fn may_connect(head: &Head<'_>, service: &Service, route: &Route<'_>) -> bool {
    if service.origins.is_empty() {
        return true;
    }
    match route {
        Route::Greeting | Route::NotFound | Route::ChunkingTest => return true,
        // Its requests come from the server's own origin, whichever site embeds it.
        Route::Iframe | Route::IframeScript => return false,
        Route::Info | Route::RawWebSocket | Route::Session { .. } => {}
    }
    if head.has("origin") {
        let origin = head.only("origin");
        return origin.is_some_and(|origin| service.origins.iter().any(|known| known == origin));
    }
    let is_socket = matches!(
        route,
        Route::RawWebSocket | Route::Session { transport: Transport::WebSocket, .. }
    );
    let is_own = !head.has("sec-fetch-site") || head.only("sec-fetch-site") == Some("same-origin");
    head.method == "GET" && !is_socket && is_own
}

/// 403; the connection is closed.
pub(super) fn refusal() -> Response {
    Response::new(403).text("Origin not allowed\n").close()
}
