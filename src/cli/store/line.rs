//! The lines of an export, one JSON object each. The first and last lines mark its beginning and
//! end; between them come the namespaces, each before its contents.

use std::borrow::Cow;

use crate::codec::json;
use crate::time::UnixMillis;

/// Version of this format.
const VERSION: i64 = 1;
/// The last millisecond of the year 9999.
const DATE_MAX: u64 = 253_402_300_799_999;

/// One line. Dates are wall-clock times. Not `Debug`: it may hold a key.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// The first line.
    Start,
    /// The last line.
    End,
    /// A namespace.
    Namespace(Namespace<'a>),
    /// A user's right to subscribe to a private channel.
    Grant { namespace: Cow<'a, str>, channel: Cow<'a, str>, user: Cow<'a, str> },
    /// A state.
    State {
        namespace: Cow<'a, str>,
        channel: Cow<'a, str>,
        user: Option<Cow<'a, str>>,
        expires: Option<UnixMillis>,
        data: Cow<'a, str>,
    },
}

/// As [`crate::hub::Row::Namespace`].
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Namespace<'a> {
    pub name: Cow<'a, str>,
    pub key: Option<Cow<'a, str>>,
    pub replaces: Option<Cow<'a, str>>,
    pub old_key: Option<(Cow<'a, str>, UnixMillis)>,
}

impl Namespace<'_> {
    /// A copy that owns its texts.
    pub fn into_owned(self) -> Namespace<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Namespace {
            name: own(self.name),
            key: self.key.map(own),
            replaces: self.replaces.map(own),
            old_key: self.old_key.map(|(key, until)| (own(key), until)),
        }
    }
}

const NAMES: [&str; 13] = [
    "fws",
    "version",
    "kind",
    "name",
    "key",
    "old_key",
    "old_key_ends",
    "replaces",
    "namespace",
    "channel",
    "user",
    "expires",
    "data",
];

impl Line<'_> {
    /// Appends the line, with its line end.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object { out, is_empty: true };
        match self {
            Line::Start => object.text("fws", "export").raw("version", &VERSION.to_string()),
            Line::End => object.text("fws", "end"),
            Line::Namespace(Namespace { name, key, replaces, old_key }) => {
                object.text("kind", "namespace").text("name", name).optional("key", key.as_ref());
                if let Some((old_key, ends)) = old_key {
                    object.text("old_key", old_key).raw("old_key_ends", &ends.0.to_string());
                }
                if let Some(replaces) = replaces {
                    object.text("replaces", replaces);
                }
                &mut object
            }
            Line::Grant { namespace, channel, user } => object
                .text("kind", "grant")
                .text("namespace", namespace)
                .text("channel", channel)
                .text("user", user),
            Line::State { namespace, channel, user, expires, data } => {
                let expires = expires.map_or("null".into(), |date| date.0.to_string());
                object
                    .text("kind", "state")
                    .text("namespace", namespace)
                    .text("channel", channel)
                    .optional("user", user.as_ref())
                    .raw("expires", &expires)
                    .raw("data", data)
            }
        };
        out.extend_from_slice(b"}\n");
    }

    /// Parses a line without its line end.
    ///
    /// # Errors
    /// What is wrong with it. Contains no key and no data.
    pub fn parse(text: &str) -> Result<Line<'_>, String> {
        let members = json::members_within(text, &NAMES, json::DEPTH_MAX + 1)
            .map_err(|e| format!("this is {e}"))?;
        let members = members.ok_or("this is no JSON object")?;
        let fields = Fields(members);
        if fields.get("fws").is_some() {
            return fields.frame();
        }
        match &*fields.text("kind")? {
            "namespace" => fields.namespace(),
            "grant" => Ok(Line::Grant {
                namespace: fields.text("namespace")?,
                channel: fields.text("channel")?,
                user: fields.text("user")?,
            }),
            "state" => Ok(Line::State {
                namespace: fields.text("namespace")?,
                channel: fields.text("channel")?,
                user: fields.optional("user")?,
                expires: match fields.needed("expires")? {
                    "null" => None,
                    _ => Some(fields.date("expires")?),
                },
                data: match fields.needed("data")? {
                    "null" => return Err("data is null, which is no state".into()),
                    data => data.into(),
                },
            }),
            kind => Err(format!("there is no kind {kind:?}")),
        }
    }
}

/// The raw members of a line, in the order of [`NAMES`].
struct Fields<'a>([Option<&'a str>; NAMES.len()]);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        NAMES.iter().position(|known| *known == name).and_then(|i| self.0[i])
    }

    fn needed(&self, name: &str) -> Result<&'a str, String> {
        self.get(name).ok_or_else(|| format!("{name} is missing"))
    }

    fn text(&self, name: &str) -> Result<Cow<'a, str>, String> {
        json::string(self.needed(name)?).ok_or_else(|| format!("{name} is no text"))
    }

    fn optional(&self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        match self.needed(name)? {
            "null" => Ok(None),
            _ => self.text(name).map(Some),
        }
    }

    fn date(&self, name: &str) -> Result<UnixMillis, String> {
        let number = self.needed(name)?.parse().ok().filter(|ms| (0..=DATE_MAX).contains(ms));
        number
            .map(UnixMillis)
            .ok_or_else(|| format!("{name} is no date in milliseconds since 1970"))
    }

    fn frame(&self) -> Result<Line<'a>, String> {
        match &*self.text("fws")? {
            "end" => Ok(Line::End),
            "export" => match self.get("version").and_then(json::integer) {
                Some(VERSION) => Ok(Line::Start),
                _ => Err(format!("this version knows exports of version {VERSION} alone")),
            },
            _ => Err("this is no line of an export".into()),
        }
    }

    fn namespace(&self) -> Result<Line<'a>, String> {
        let old_key = match self.get("old_key") {
            None | Some("null") => None,
            Some(_) => Some((self.text("old_key")?, self.date("old_key_ends")?)),
        };
        let replaces = match self.get("replaces") {
            None | Some("null") => None,
            Some(_) => Some(self.text("replaces")?),
        };
        let (name, key) = (self.text("name")?, self.optional("key")?);
        Ok(Line::Namespace(Namespace { name, key, replaces, old_key }))
    }
}

/// Writes a JSON object member by member.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl<'o> Object<'o> {
    fn name(&mut self, name: &str) {
        self.out.push(if self.is_empty { b'{' } else { b',' });
        self.is_empty = false;
        json::quote_into(self.out, name);
        self.out.push(b':');
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Object<'o> {
        self.name(name);
        json::quote_into(self.out, value);
        self
    }

    fn optional(&mut self, name: &str, value: Option<&Cow<'_, str>>) -> &mut Object<'o> {
        match value {
            Some(value) => self.text(name, value),
            None => self.raw(name, "null"),
        }
    }

    /// Replaces line ends with blanks, so that a line stays one: JSON allows them only between
    /// tokens, where any white space means the same.
    fn raw(&mut self, name: &str, value: &str) -> &mut Object<'o> {
        self.name(name);
        let blank = |byte: u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte };
        self.out.extend(value.bytes().map(blank));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &Line<'_>) -> String {
        let mut out = Vec::new();
        line.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn written_lines_parse_back_to_the_same_values() {
        let namespace = |old_key, replaces: Option<&'static str>| {
            let (name, key) = ("a:\n\"é\0".into(), Some("k".into()));
            Line::Namespace(Namespace { name, key, replaces: replaces.map(Into::into), old_key })
        };
        let state = |user: Option<&'static str>, expires, data: &'static str| Line::State {
            namespace: "n".into(),
            channel: "@c d".into(),
            user: user.map(Into::into),
            expires,
            data: data.into(),
        };
        for line in [
            Line::Start,
            Line::End,
            namespace(None, None),
            namespace(Some(("o".into(), UnixMillis(7))), Some("r")),
            Line::Grant { namespace: "n".into(), channel: "#".into(), user: "".into() },
            state(None, None, "{\"a\": [1.0, 12345678901234567890123, \"\\ud800\"]}"),
            state(Some(""), Some(UnixMillis(1)), "1e400"),
        ] {
            let text = written(&line);
            let text = text.strip_suffix('\n').unwrap();
            assert!(!text.contains('\n'), "{text}");
            assert!(Line::parse(text) == Ok(line), "{text}");
        }
        let spread = written(&state(None, None, "[1,\r\n2]"));
        assert!(spread.ends_with(",\"data\":[1,  2]}\n"), "{spread}");
    }

    #[test]
    fn an_invalid_line_is_refused_with_a_reason() {
        let state = r#"{"kind":"state","namespace":"n","channel":"c","user":null,"expires":null"#;
        for (text, wrong) in [
            ("", "this is not JSON"),
            ("[]", "this is no JSON object"),
            ("{}", "kind is missing"),
            (r#"{"kind":5}"#, "kind is no text"),
            (r#"{"kind":"x"}"#, "there is no kind \"x\""),
            (r#"{"fws":"import"}"#, "this is no line of an export"),
            (r#"{"fws":"export","version":2}"#, "this version knows exports of version 1 alone"),
            (r#"{"kind":"namespace","name":"n"}"#, "key is missing"),
            (
                r#"{"kind":"namespace","name":"n","key":"k","old_key":"o"}"#,
                "old_key_ends is missing",
            ),
            (state, "this is not JSON"),
            (&format!("{state}}}"), "data is missing"),
            (&format!("{state},\"data\":null}}"), "data is null, which is no state"),
            (
                &format!("{state},\"expires\":-1,\"data\":1}}"),
                "expires is no date in milliseconds since 1970",
            ),
            (
                &format!("{state},\"expires\":\"1\",\"data\":1}}"),
                "expires is no date in milliseconds since 1970",
            ),
            (&format!("{state},\"user\":5,\"data\":1}}"), "user is no text"),
        ] {
            assert_eq!(Line::parse(text).err().as_deref(), Some(wrong), "{text}");
        }
    }
}
