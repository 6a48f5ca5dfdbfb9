//! The sites whose pages may connect. A browser says in `Origin` which page a request comes from,
//! and no page can change that; other clients may say what they like, so this keeps strangers'
//! pages out and nobody else. Called by `http` in front of every request for a service.

use super::Service;
use crate::codec::http::{Head, Response};
use crate::codec::sockjs::{Route, Transport};

/// Whether the page behind this request may connect.
///
/// Browsers name the page at every WebSocket and at every request that sends, and at every other
/// request to a site that is not the page's own. What a page asks of its own site with `GET` has no
/// `Origin`, but `Sec-Fetch-Site` where the browser is not an old one. Nobody gets anywhere with
/// such requests alone: a session that has not sent has no user.
pub(super) fn may_connect(head: &Head<'_>, service: &Service, route: &Route<'_>) -> bool {
    if service.origins.is_empty() {
        return true;
    }
    match route {
        Route::Greeting | Route::NotFound | Route::ChunkingTest => return true,
        // Its requests come from our own site, whoever has it in a frame.
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

/// 403. Nothing more is heard on that connection.
pub(super) fn refusal() -> Response {
    Response::new(403).text("Origin not allowed\n").close()
}
