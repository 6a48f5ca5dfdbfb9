//! The configuration file: one JSON object. Owns its keys. Errors name the key and never show a
//! value that may be a secret.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hashbrown::HashSet;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Config, SETTINGS, Secret, Source, hint, nearest};

/// Longest file in bytes: a hundred thousand namespaces with their keys.
const BYTES_MAX: u64 = 16 << 20;

/// A configuration file as it was read.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    /// What is in it.
    pub text: String,
    /// Its permission bits.
    pub mode: u32,
}

impl ConfigFile {
    /// Reads it from disk, or from a pipe.
    ///
    /// # Errors
    /// Those of the file system; and text that is not UTF-8 or longer than 16 MiB.
    pub fn read(path: &Path) -> io::Result<ConfigFile> {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let text = io::read_to_string(file.take(BYTES_MAX + 1)).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => io::Error::new(e.kind(), "it is not UTF-8"),
            _ => e,
        })?;
        if text.len() as u64 > BYTES_MAX {
            let wrong = format!("it has more than {} MiB", BYTES_MAX >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
        }
        Ok(ConfigFile { text, mode })
    }

    /// Reads it from disk in a running server, which must not wait for the writer of a pipe.
    ///
    /// # Errors
    /// As [`ConfigFile::read`], and if it is not a regular file.
    pub fn read_again(path: &Path) -> io::Result<ConfigFile> {
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        ConfigFile::read(path)
    }
}

/// Keys of the original server's settings, and what to write instead.
const ORIGINAL: [(&str, &str); 6] = [
    ("secretKey", "write \"secret_key\""),
    ("hostWS", "write \"ws\": \"0.0.0.0:8080\""),
    ("portWS", "write \"ws\": \"0.0.0.0:8080\""),
    ("hostNET", "write \"control\": \"127.0.0.1:8085\""),
    ("portNET", "write \"control\": \"127.0.0.1:8085\", or \"control_unix\" with a path"),
    ("redis", "there is no Redis here: what is kept is in the folder \"data\""),
];

/// Keys that are not in [`SETTINGS`].
const MORE: [&str; 4] = ["secret_key", "namespaces", "sockjs", "limits"];

/// Keys inside `sockjs`.
const SOCKJS: [&str; 4] = ["cookie", "jsonp", "htmlfile", "script"];

/// An object as written: keys in order, duplicates not yet rejected.
struct Object(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Applies the file to the configuration. The error begins with the key.
pub fn apply(config: &mut Config, text: &str) -> Result<(), String> {
    // Some editors write a byte order mark, which is invisible.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (key, value) in members(text)? {
        let value = value.get();
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
            let text = match key.as_str() {
                "allow_origin" | "trusted_proxy"
                    if strings(value).is_ok_and(|it| it.is_empty()) =>
                {
                    continue;
                }
                "demo" => boolean(value),
                "allow_origin" | "trusted_proxy" => strings(value).map(|it| it.join(" ")),
                _ => string(value),
            };
            text.and_then(|text| config.set(setting, &text, Source::File))
        } else {
            match key.as_str() {
                "secret_key" => {
                    string(value).and_then(|text| config.set_secret_key(&text, Source::File))
                }
                "namespaces" => namespaces(config, value),
                "sockjs" => sockjs(config, value),
                "limits" => limits(config, value),
                _ => Err(unknown(&key)),
            }
        }
        .map_err(|wrong| format!("{key}: {wrong}"))?;
    }
    Ok(())
}

fn unknown(key: &str) -> String {
    if let Some((_, instead)) = ORIGINAL.iter().find(|(original, _)| *original == key) {
        return format!("this is a key of the original server; {instead}");
    }
    let ours = || SETTINGS.iter().map(|setting| setting.key).chain(MORE);
    let hint = match nearest(key, ours()) {
        Some(near) => hint(Some(near)),
        None => format!(" (there are {})", ours().collect::<Vec<_>>().join(", ")),
    };
    format!("there is no such key{hint}")
}

fn namespaces(config: &mut Config, value: &str) -> Result<(), String> {
    for (name, key) in members(value)? {
        let key = string(key.get())
            .and_then(|key| Ok(Secret::new(key)?))
            .map_err(|wrong| format!("{name:?}: {wrong}"))?;
        config.namespaces.push((name, key));
    }
    config.sources.push(("namespaces", Source::File));
    Ok(())
}

fn sockjs(config: &mut Config, value: &str) -> Result<(), String> {
    for (name, value) in members(value)? {
        let value = value.get();
        let switch = || boolean(value).map(|text| text == "true");
        match name.as_str() {
            "cookie" => switch().map(|value| config.sockjs.cookie = value),
            "jsonp" => switch().map(|value| config.sockjs.jsonp = value),
            "htmlfile" => switch().map(|value| config.sockjs.htmlfile = value),
            "script" if value == "null" => {
                config.sockjs.script = None;
                Ok(())
            }
            "script" => script(value).map(|address| config.sockjs.script = Some(address)),
            _ => Err(match nearest(&name, SOCKJS) {
                Some(near) => format!("there is no such key{}", hint(Some(near))),
                None => format!("there is no such key (there are {})", SOCKJS.join(", ")),
            }),
        }
        .map_err(|wrong| format!("{name}: {wrong}"))?;
    }
    config.sources.push(("sockjs", Source::File));
    Ok(())
}

/// Returns the address of a script, which is put into a page between quotes.
fn script(value: &str) -> Result<String, String> {
    let address = string(value)?;
    let is_whole = ["/", "http://", "https://"].iter().any(|start| address.starts_with(start));
    let is_plain = address.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>&'\\".contains(&b));
    match is_whole && is_plain {
        true => Ok(address),
        false => Err("must be a path, or an http address, that needs no escapes in HTML".into()),
    }
}

fn limits(config: &mut Config, value: &str) -> Result<(), String> {
    for (name, value) in members(value)? {
        config.set_limit(&name, value.get(), Source::File)?;
    }
    Ok(())
}

/// Returns the members of an object; a duplicate name is an error.
fn members(text: &str) -> Result<Vec<(String, Box<RawValue>)>, String> {
    // serde's message for a wrong type shows the value, which may be a key; those for wrong syntax
    // show positions only.
    let Object(members) = serde_json::from_str(text).map_err(|e| match e.is_data() {
        true => "must be an object, as in {\"name\": …}".to_string(),
        false => format!("this is not JSON: {e}"),
    })?;
    let mut names = HashSet::new();
    if let Some((name, _)) = members.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(format!("the key {name:?} comes twice"));
    }
    drop(names);
    Ok(members)
}

fn string(value: &str) -> Result<String, String> {
    serde_json::from_str(value).map_err(|_| "must be a string".into())
}

/// Parses a list of strings.
fn strings(value: &str) -> Result<Vec<String>, String> {
    serde_json::from_str(value).map_err(|_| "must be a list of strings, as in [\"…\"]".into())
}

fn boolean(value: &str) -> Result<String, String> {
    match value {
        "true" | "false" => Ok(value.into()),
        _ => Err("must be true or false, without quotes".into()),
    }
}
