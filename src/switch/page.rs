//! The demo page, which the browsers' port serves beside the protocol. Nothing without `--demo`.

use super::browser::Site;
use crate::codec::http::{Head, Response};
use crate::codec::{jwt, sockjs};
use crate::edge::Net;
use crate::frame::Frame;

const JSON: &str = "application/json; charset=UTF-8";

/// What a person is told who opens the port of a server without the page.
const FOR_PERSONS: &str = "\
This is fws, a push server: clients connect under /socket; with --demo there is a page here.
";

/// How long the token of a demo guest is valid.
const DEMO_TOKEN_SECONDS: u64 = 600;

/// What `--demo` serves beside the protocol.
#[derive(Debug)]
pub struct Demo {
    /// The page at `/`.
    pub page: Frame,
    /// The namespace whose tokens `/demo/token` gives out.
    pub namespace: String,
}

impl Site<'_> {
    /// Answers a request for the demo. Without `--demo` that is 404, with an explanation at `/`.
    pub(super) fn answer_demo(&self, net: &mut impl Net, head: &Head<'_>) -> Response {
        let not_found = || Response::new(404).text(sockjs::NOT_FOUND);
        let Some(demo) = self.demo else {
            return match head.path() {
                "/" => Response::new(404).text(&[sockjs::NOT_FOUND, FOR_PERSONS].concat()),
                _ => not_found(),
            };
        };
        match (head.method, head.path()) {
            ("GET" | "HEAD", "/") => Response::new(200)
                .header("Cache-Control", "no-cache")
                .shared("text/html; charset=UTF-8", &demo.page),
            ("GET", "/demo/token") => {
                let now = net.now();
                let ns = self.hub.namespace(&demo.namespace);
                let key = ns.and_then(|ns| self.hub.keys(ns, self.at(now)).next());
                let Some(key) = key else { return not_found() };
                // A page that asks for a new token stays the same guest.
                let said = head.query().and_then(|query| query.strip_prefix("guest="));
                let guest = said.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
                    let mut bytes = [0; 4];
                    net.random(&mut bytes);
                    u32::from_le_bytes(bytes)
                });
                let expires = now.unix.seconds() + DEMO_TOKEN_SECONDS;
                let token = jwt::sign(&format!("guest-{guest}"), key, Some(expires));
                let namespace = &demo.namespace;
                let body =
                    format!(r#"{{"namespace":"{namespace}","guest":{guest},"token":"{token}"}}"#);
                sockjs::never_cached(Response::new(200).body(JSON, body))
            }
            (_, "/") => Response::new(405).header("Allow", "GET, HEAD"),
            (_, "/demo/token") => Response::new(405).header("Allow", "GET"),
            _ => not_found(),
        }
    }
}
