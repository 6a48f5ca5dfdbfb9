//! The effective configuration as text and as JSON, without keys.

use std::path::PathBuf;

use super::{Config, SockJs, Source};
use crate::limits::Limits;
use crate::log::printable;

impl Config {
    /// Returns every setting with its value and source, and every limit with its value, source,
    /// meaning and default; many lines. Names and paths are escaped for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = match &self.file {
            Some(path) => {
                let path = path.display().to_string();
                format!("configuration file: {}\n\n", printable(&path))
            }
            None => "configuration file: none\n\n".to_string(),
        };
        for (key, value) in self.settings() {
            text.push_str(&format!("{key:<13} {:<22} {}\n", printable(&value), self.source(key)));
        }
        text.push_str("\nlimits:\n");
        let values = self.limits.values().into_iter().zip(Limits::default().values());
        for ((name, _, _, meaning), (value, default)) in Limits::TABLE.iter().zip(values) {
            let changed = value != default;
            let source = match self.limit_source(name) {
                Source::Default if changed => "fitted".to_string(),
                source => source.to_string(),
            };
            let note = if changed { format!(" (default {default})") } else { String::new() };
            text.push_str(&format!("{name:<36} {value:<10} {source:<8}{meaning}{note}\n"));
        }
        text
    }

    /// Returns one JSON object: `ws`, `ws_unix`, `control`, `control_unix`, `admin`, `data`,
    /// `store`, `sync`, `demo`, `allow_origin`, `trusted_proxy`, `namespaces` (their names),
    /// `secret_key` (`"set"` or `"not set"`), `sockjs`, `limits`.
    pub fn to_json(&self) -> String {
        let names: Vec<String> = self.namespaces.iter().map(|(name, _)| quoted(name)).collect();
        let limits: Vec<String> = Limits::TABLE
            .iter()
            .zip(self.limits.values())
            .map(|((name, ..), value)| format!("\"{name}\":{value}"))
            .collect();
        format!(
            "{{\"ws\":{},\"ws_unix\":{},\"control\":\"{}\",\"control_unix\":{},\"admin\":{},\
             \"data\":{},\"store\":\"{}\",\"sync\":\"{}\",\"demo\":{},\"allow_origin\":[{}],\
             \"trusted_proxy\":[{}],\"secret_key\":\"{}\",\"namespaces\":[{}],\"sockjs\":{},\
             \"limits\":{{{}}}}}",
            self.ws.map_or("null".into(), |ws| format!("\"{ws}\"")),
            path(&self.ws_unix).map_or("null".into(), |path| quoted(&path)),
            self.control,
            path(&self.control_unix).map_or("null".into(), |path| quoted(&path)),
            self.admin.map_or("null".into(), |admin| format!("\"{admin}\"")),
            quoted(&self.data.to_string_lossy()),
            self.store,
            self.sync,
            self.demo,
            self.allow_origin.iter().map(|site| quoted(site)).collect::<Vec<_>>().join(","),
            self.proxies.names().map(|name| quoted(&name)).collect::<Vec<_>>().join(","),
            self.key_is(),
            names.join(","),
            self.sockjs_json(),
            limits.join(","),
        )
    }

    /// Returns every setting but the limits, with its value as text; not that of a key.
    pub(crate) fn settings(&self) -> [(&'static str, String); 14] {
        let names: Vec<&str> = self.namespaces.iter().map(|(name, _)| name.as_str()).collect();
        [
            ("ws", self.ws.map_or("none".into(), |ws| ws.to_string())),
            ("ws_unix", path(&self.ws_unix).unwrap_or("not set".into())),
            ("control", self.control.to_string()),
            ("control_unix", path(&self.control_unix).unwrap_or("not set".into())),
            ("admin", self.admin.map_or("not set".into(), |admin| admin.to_string())),
            ("data", self.data.to_string_lossy().into_owned()),
            ("store", self.store.to_string()),
            ("sync", self.sync.to_string()),
            ("demo", self.demo.to_string()),
            (
                "allow_origin",
                match &self.allow_origin[..] {
                    [] => "any".into(),
                    sites => sites.join(", "),
                },
            ),
            (
                "trusted_proxy",
                match self.proxies.is_empty() {
                    true => "none".into(),
                    false => self.proxies.names().collect::<Vec<_>>().join(", "),
                },
            ),
            // Without one, the first start makes it there.
            ("secret_key", self.secret_key.as_ref().map_or("in the data folder", |_| "set").into()),
            ("namespaces", if names.is_empty() { "none".into() } else { names.join(", ") }),
            ("sockjs", self.sockjs_json()),
        ]
    }

    fn sockjs_json(&self) -> String {
        let SockJs { cookie, jsonp, htmlfile, script } = &self.sockjs;
        let script = script.as_ref().map_or("null".into(), |script| quoted(script));
        format!(
            "{{\"cookie\":{cookie},\"jsonp\":{jsonp},\"htmlfile\":{htmlfile},\"script\":{script}}}"
        )
    }

    fn key_is(&self) -> &'static str {
        if self.secret_key.is_some() { "set" } else { "not set" }
    }
}

fn path(path: &Option<PathBuf>) -> Option<String> {
    path.as_ref().map(|path| path.to_string_lossy().into_owned())
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
