//! Commands of the control port: from a JSON body to a checked [`Command`], without side effects.
//! The order of the checks and the texts are the contract of protocol parts 3 and 4.

mod fields;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use hashbrown::HashSet;

use crate::codec::json::{self, JsonError, Raw};
use crate::limits::Limits;
use crate::uuid::Uuid;
use fields::{FIELD_BYTES, Fields, Params};

pub(super) use fields::{MemberScanner, scanner};

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub code: u16,
    pub reason: Cow<'static, str>,
}

impl Refused {
    pub const fn new(code: u16, reason: &'static str) -> Refused {
        Refused { code, reason: Cow::Borrowed(reason) }
    }

    fn invalid(argument: &str) -> Refused {
        Refused { code: 300, reason: format!("Invalid argument {argument}").into() }
    }
}

pub(super) const NOT_JSON: Refused = Refused::new(301, "Body is not JSON");
pub(super) const STORE_FAILED: Refused = Refused::new(302, "Error store, try latter...");
pub(super) const INVALID_SKEY: Refused = Refused::new(305, "Invalid sKey");
pub(super) const INVALID_KEY: Refused = Refused::new(306, "Invalid key");
pub(super) const NAME_TAKEN: Refused = Refused::new(309, "Name space is busy");
pub(super) const NEED_AUTH: Refused = Refused::new(311, "Need auth");
const INVALID_ACTION: Refused = Refused::new(312, "Invalid action...");
pub(super) const NO_NAMESPACE: Refused = Refused::new(404, "Name space not found");

/// A command with valid arguments. Texts are decoded; `data` is raw JSON.
#[derive(Debug, PartialEq)]
pub(super) enum Command<'a> {
    Ping,
    Register { name: Cow<'a, str>, key: Cow<'a, str> },
    Remove { name: Cow<'a, str>, key: Cow<'a, str> },
    Rotate { name: Cow<'a, str>, key: Cow<'a, str>, grace_ms: u64 },
    Auth { name: Cow<'a, str>, key: Cow<'a, str> },
    Emit { channels: Channels<'a>, data: &'a str, options: EmitOptions<'a> },
    Store { channel: Cow<'a, str>, data: &'a str, options: StoreOptions<'a>, is_push: bool },
    Get { channel: Cow<'a, str>, user: Option<Cow<'a, str>> },
    Info { channel: Cow<'a, str> },
    Grant { channel: Cow<'a, str>, user: Cow<'a, str>, is_withdrawn: bool },
    Disconnect { user: Cow<'a, str> },
}

impl Command<'_> {
    /// Whether it records anything when carried out, which the disk then has to keep.
    pub fn is_recorded(&self) -> bool {
        match self {
            Command::Register { .. }
            | Command::Remove { .. }
            | Command::Rotate { .. }
            | Command::Store { .. }
            | Command::Grant { .. } => true,
            Command::Ping
            | Command::Auth { .. }
            | Command::Emit { .. }
            | Command::Get { .. }
            | Command::Info { .. }
            | Command::Disconnect { .. } => false,
        }
    }

    /// Returns the server key that it gives, if it needs one.
    pub fn server_key(&self) -> Option<&str> {
        match self {
            Command::Register { key, .. }
            | Command::Remove { key, .. }
            | Command::Rotate { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Whether the reply tells how many were reached.
    pub fn counts(&self) -> bool {
        match self {
            Command::Emit { options, .. } => options.count,
            command => matches!(command, Command::Disconnect { .. }),
        }
    }
}

/// The channels of a message: almost always one.
#[derive(Debug, PartialEq)]
pub(super) enum Channels<'a> {
    One([Cow<'a, str>; 1]),
    Many(Vec<Cow<'a, str>>),
}

impl<'a> std::ops::Deref for Channels<'a> {
    type Target = [Cow<'a, str>];

    fn deref(&self) -> &[Cow<'a, str>] {
        match self {
            Channels::One(channel) => channel,
            Channels::Many(channels) => channels,
        }
    }
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct EmitOptions<'a> {
    pub user: Option<Cow<'a, str>>,
    pub except: Option<Uuid>,
    pub count: bool,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct StoreOptions<'a> {
    pub user: Option<Cow<'a, str>>,
    pub ttl_ms: Option<u64>,
    pub emit: bool,
}

/// Parses a request, from its scanner if it was scanned while it arrived.
pub(super) fn parse<'a>(
    body: &'a str,
    scanner: Option<&MemberScanner>,
    is_authenticated: bool,
    limits: &Limits,
) -> Result<Command<'a>, Refused> {
    let mut fields = Fields::default();
    let is_read = match scanner {
        Some(scanner) => {
            scanner.members(body).map(|found| fields = found.unwrap_or_default().into())
        }
        None => fields.read(body),
    };
    is_read.map_err(|error| match error {
        JsonError::Syntax => NOT_JSON,
        JsonError::Depth { max } => {
            let reason = format!("Nested too deep, at most {max} levels").into();
            Refused { code: 300, reason }
        }
    })?;
    if body.len() > FIELD_BYTES {
        fields.check_lengths(limits)?;
    }
    let action = fields.action.ok_or(Refused::new(300, "Need action"))?;
    let action = json::string(action).ok_or(INVALID_ACTION)?;
    fields.command(&action, is_authenticated, limits)
}

impl<'a> Fields<'a> {
    fn command(
        &self,
        action: &str,
        is_authenticated: bool,
        limits: &Limits,
    ) -> Result<Command<'a>, Refused> {
        match action {
            "emit" if is_authenticated => self.emit(limits),
            "set" | "push" if is_authenticated => self.store(action == "push", limits),
            "get" if is_authenticated => {
                let channel = self.channel(limits)?;
                let user = user_id(self.given().user, "params.userId", limits)?;
                Ok(Command::Get { channel, user })
            }
            "channelInfo" if is_authenticated => {
                Ok(Command::Info { channel: self.channel(limits)? })
            }
            "subscribe" if is_authenticated => self.grant(false, limits),
            "unsubscribe" if is_authenticated => self.grant(true, limits),
            "disconnect" if is_authenticated => {
                Ok(Command::Disconnect { user: self.needed_user(limits)? })
            }
            "ping" => Ok(Command::Ping),
            "registerNameSpace" => {
                let (name, key) = self.name_and_key(limits)?;
                Ok(Command::Register { name, key })
            }
            "removeNameSpace" => {
                let (name, key) = self.name_and_key(limits)?;
                Ok(Command::Remove { name, key })
            }
            "rotateKey" => self.rotate(limits),
            "auth" => self.auth(limits),
            "emit" | "set" | "push" | "get" | "channelInfo" | "subscribe" | "unsubscribe"
            | "disconnect" => Err(NEED_AUTH),
            _ => Err(INVALID_ACTION),
        }
    }

    fn grant(&self, is_withdrawn: bool, limits: &Limits) -> Result<Command<'a>, Refused> {
        // Any text is accepted here, even an empty one: it fails the next check.
        let channel = self.channel.and_then(json::text);
        let channel = channel.ok_or(Refused::new(300, "Need argument channel"))?;
        let channel = bounded(channel, "channel", limits)?;
        if !channel.starts_with('#') {
            return Err(Refused::new(343, "Private channel must begin with #"));
        }
        let user = self.needed_user(limits)?;
        Ok(Command::Grant { channel, user, is_withdrawn })
    }

    /// The arguments that go with the server key. A key that is not a string is a wrong key.
    fn name_and_key(&self, limits: &Limits) -> Result<(Cow<'a, str>, Cow<'a, str>), Refused> {
        let name = self.name.and_then(name_of).ok_or(Refused::new(300, "Need name"))?;
        let key = self.key.ok_or(Refused::new(300, "Need key"))?;
        Ok((bounded(name, "name", limits)?, json::string(key).ok_or(INVALID_KEY)?))
    }

    fn rotate(&self, limits: &Limits) -> Result<Command<'a>, Refused> {
        let (name, key) = self.name_and_key(limits)?;
        let grace_ms = seconds(self.given().grace, "params.grace", limits.grace_seconds)?;
        let grace_ms = grace_ms.unwrap_or(0);
        Ok(Command::Rotate { name, key, grace_ms })
    }

    fn auth(&self, limits: &Limits) -> Result<Command<'a>, Refused> {
        let need_name = Refused::new(300, "Need name - name space");
        let name = self.name.and_then(name_of).ok_or(need_name)?;
        let key = self.s_key.ok_or(Refused::new(300, "Need sKey - secret key"))?;
        // A name that is too long was never registered. A key that is not a string is a wrong key,
        // but that is reported only if the namespace exists.
        let key = json::string(key).unwrap_or_default();
        let name = bounded(name, "name", limits).map_err(|_| NO_NAMESPACE)?;
        Ok(Command::Auth { name, key })
    }

    fn emit(&self, limits: &Limits) -> Result<Command<'a>, Refused> {
        let channels = match (self.channel, self.channels) {
            (Some(_), Some(_)) => {
                return Err(Refused::new(300, "Need argument channel or channels, not both"));
            }
            (None, Some(raw)) => Channels::Many(channel_list(raw, limits)?),
            _ => Channels::One([self.channel(limits)?]),
        };
        let data = self.data.ok_or(Refused::new(300, "Need argument data"))?.get();
        check_emit_bytes(&channels, data, limits)?;
        let Params { user, except, count, .. } = self.given();
        let user = match user_id(user, "params.userId", limits)? {
            Some(user) => Some(user),
            // Beside `channel`, as in the first README of the original server.
            None => user_id(self.user, "userId", limits)?,
        };
        let except = match except.filter(|raw| !json::is_null(raw.get())) {
            None => None,
            Some(raw) => {
                let cid = json::string(raw).and_then(|text| Uuid::parse(&text));
                Some(cid.ok_or_else(|| Refused::invalid("params.exceptCid"))?)
            }
        };
        let count = count.is_some_and(|raw| json::is_truthy(raw.get()));
        let options = EmitOptions { user, except, count };
        Ok(Command::Emit { channels, data, options })
    }

    fn store(&self, is_push: bool, limits: &Limits) -> Result<Command<'a>, Refused> {
        let channel = self.channel(limits)?;
        let data = self.data.ok_or(Refused::new(300, "Need argument data"))?.get();
        let Params { user, ttl, emit, .. } = self.given();
        let options = StoreOptions {
            user: user_id(user, "params.userId", limits)?,
            ttl_ms: seconds(ttl, "params.ttl", limits.ttl_seconds)?,
            emit: emit.is_some_and(|raw| json::is_truthy(raw.get())),
        };
        Ok(Command::Store { channel, data, options, is_push })
    }

    #[inline]
    fn channel(&self, limits: &Limits) -> Result<Cow<'a, str>, Refused> {
        let need = Refused::new(300, "Need argument channel");
        bounded(self.channel.and_then(name_of).ok_or(need)?, "channel", limits)
    }

    fn needed_user(&self, limits: &Limits) -> Result<Cow<'a, str>, Refused> {
        if self.params.is_none_or(|raw| json::is_null(raw.get())) {
            return Err(Refused::new(300, "Need argument params"));
        }
        let need = Refused::new(300, "Need argument params.userId");
        match user_id(self.given().user, "params.userId", limits) {
            Ok(user) => user.ok_or(need),
            Err(refused) if refused.reason.starts_with("Invalid") => Err(need),
            Err(refused) => Err(refused),
        }
    }

    #[inline(always)]
    fn given(&self) -> Params<'a> {
        self.given.unwrap_or_default()
    }
}

/// A name is a non-empty string, or a number.
#[inline]
fn name_of(raw: Raw<'_>) -> Option<Cow<'_, str>> {
    json::text(raw).filter(|name| !name.is_empty())
}

#[inline]
fn bounded<'a>(name: Cow<'a, str>, what: &str, limits: &Limits) -> Result<Cow<'a, str>, Refused> {
    if name.len() <= limits.name_bytes {
        return Ok(name);
    }
    Err(too_long(what, limits.name_bytes))
}

fn too_long(what: &str, max: usize) -> Refused {
    let reason = format!("Argument {what} is too long, at most {max} bytes").into();
    Refused { code: 300, reason }
}

/// Parses a user id; absent and null mean all users. The number 0, false and "" once did, too, and
/// sent to everybody what was meant for one user: they are refused.
#[inline(always)]
fn user_id<'a>(
    raw: Option<Raw<'a>>,
    what: &str,
    limits: &Limits,
) -> Result<Option<Cow<'a, str>>, Refused> {
    raw.filter(|raw| !json::is_null(raw.get())).map(|raw| user(raw, what, limits)).transpose()
}

fn user<'a>(raw: Raw<'a>, what: &str, limits: &Limits) -> Result<Cow<'a, str>, Refused> {
    let is_usable = json::is_truthy(raw.get());
    let user = name_of(raw).filter(|_| is_usable).ok_or_else(|| Refused::invalid(what))?;
    bounded(user, what, limits)
}

fn channel_list<'a>(raw: Raw<'a>, limits: &Limits) -> Result<Vec<Cow<'a, str>>, Refused> {
    let (mut items, max) = (Vec::new(), limits.channels_per_emit);
    let is_list = json::each_element(raw.get(), |item| {
        items.push(item);
        items.len() <= max
    });
    if is_list.is_none() || items.is_empty() {
        return Err(Refused::invalid("channels"));
    }
    if items.len() > max {
        let reason = format!("Too many channels, at most {max}").into();
        return Err(Refused { code: 300, reason });
    }
    let mut names = HashSet::with_capacity(items.len());
    let mut channels = Vec::with_capacity(items.len());
    for raw in items {
        let name = name_of(raw.into()).ok_or_else(|| Refused::invalid("channels"))?;
        let name = bounded(name, "channels", limits)?;
        // A name given twice counts once.
        if names.insert(name.clone()) {
            channels.push(name);
        }
    }
    Ok(channels)
}

/// Bounds an emit to several channels: each gets a message of its own, and all are queued before
/// any is sent. A message to a single channel is no longer than its command.
fn check_emit_bytes(channels: &[Cow<'_, str>], data: &str, limits: &Limits) -> Result<(), Refused> {
    if channels.len() < 2 {
        return Ok(());
    }
    let max = limits.emit_bytes;
    // With many channels this may exceed 32 bits.
    let bytes = channels.iter().map(|channel| (channel.len() + data.len()) as u64).sum::<u64>();
    if bytes <= max as u64 {
        return Ok(());
    }
    let reason = format!("Too much data for so many channels, at most {max} bytes in all").into();
    Err(Refused { code: 300, reason })
}

/// Converts a time in seconds to milliseconds. Absent, null, false, "" and 0 mean none.
#[inline(always)]
fn seconds(raw: Option<Raw<'_>>, what: &str, max: usize) -> Result<Option<u64>, Refused> {
    match raw {
        None => Ok(None),
        Some(raw) => time(raw, what, max),
    }
}

fn time(raw: Raw<'_>, what: &str, max: usize) -> Result<Option<u64>, Refused> {
    if !json::is_truthy(raw.get()) {
        return Ok(None);
    }
    match json::integer(raw.get()).and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(0) => Ok(None),
        Some(seconds) if seconds <= max as u64 => Ok(Some(seconds * 1000)),
        _ => Err(Refused::invalid(what)),
    }
}
