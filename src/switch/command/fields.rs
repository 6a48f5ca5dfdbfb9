//! The fields of a request of a back end, as raw JSON. [`command`](super) interprets them.

use super::{Refused, too_long};
use crate::codec::json::{self, JsonError, Members, Raw};
use crate::limits::Limits;

/// The fields of a request, raw.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub action: Option<Raw<'a>>,
    pub name: Option<Raw<'a>>,
    pub key: Option<Raw<'a>>,
    pub s_key: Option<Raw<'a>>,
    pub channel: Option<Raw<'a>>,
    pub channels: Option<Raw<'a>>,
    pub data: Option<Raw<'a>>,
    pub user: Option<Raw<'a>>,
    pub params: Option<Raw<'a>>,
    /// The members of `params`; `None` if there are none.
    pub given: Option<Params<'a>>,
}

/// The members of `params` that have a meaning.
#[derive(Clone, Copy, Default)]
pub(super) struct Params<'a> {
    pub user: Option<Raw<'a>>,
    pub except: Option<Raw<'a>>,
    pub count: Option<Raw<'a>>,
    pub ttl: Option<Raw<'a>>,
    pub emit: Option<Raw<'a>>,
    pub grace: Option<Raw<'a>>,
}

/// The longest raw field: a name of the largest `name_bytes`, each byte escaped, and its quotes.
pub(super) const FIELD_BYTES: usize = 6 * 65_535 + 2;

/// The names of [`Fields`].
const NAMES: &[&str; 9] =
    &["action", "name", "key", "sKey", "channel", "channels", "data", "userId", "params"];

/// The scan of a large request while it arrives.
pub(in crate::switch) type MemberScanner = json::MemberScanner<{ NAMES.len() }>;

/// A scan that has read nothing yet.
pub(in crate::switch) fn scanner() -> MemberScanner {
    MemberScanner::new(NAMES, json::DEPTH_MAX)
}

impl<'a> From<[Option<Raw<'a>>; NAMES.len()]> for Fields<'a> {
    fn from(found: [Option<Raw<'a>>; NAMES.len()]) -> Fields<'a> {
        let [action, name, key, s_key, channel, channels, data, user, params] = found;
        // Longer `params` are refused in any case.
        let given = params.filter(|raw| raw.get().len() <= FIELD_BYTES).map(Params::of);
        Fields { action, name, key, s_key, channel, channels, data, user, params, given }
    }
}

impl<'a> Fields<'a> {
    /// Reads the fields of a request.
    pub fn read(&mut self, body: &'a str) -> Result<(), JsonError> {
        self.take(body).ok_or_else(|| json::fault(body, json::DEPTH_MAX))
    }

    #[inline(always)]
    fn take(&mut self, body: &'a str) -> Option<()> {
        let mut members = Members::of(body, json::DEPTH_MAX)?;
        while members.go_on()? {
            let mut is_params = false;
            // Fast path: the most common keys, without whitespace or escapes.
            let field = match members.initial() {
                Some(b'a') if members.takes(br#""action":"#) => Some(&mut self.action),
                Some(b'c') if members.takes(br#""channel":"#) => Some(&mut self.channel),
                Some(b'd') if members.takes(br#""data":"#) => Some(&mut self.data),
                Some(b'p') if members.takes(br#""params":"#) => {
                    is_params = true;
                    None
                }
                _ => {
                    let key = members.key()?;
                    is_params = key.as_deref() == Some(b"params");
                    key.and_then(|key| self.named(&key))
                }
            };
            if is_params {
                self.take_params(&mut members)?;
                continue;
            }
            let value = members.value()?;
            if let Some(field) = field {
                *field = Some(value);
            }
        }
        members.is_over().then_some(())
    }

    /// Reads the value of `params` in place, in the same pass.
    #[inline(always)]
    fn take_params(&mut self, members: &mut Members<'a>) -> Option<()> {
        (self.params, self.given) = (Some("{}".into()), None);
        // Most requests have empty `params`.
        if !members.takes(b"{}") {
            let given = self.given.insert(Params::default());
            self.params = Some(members.object(|members| given.read(members))?);
        }
        Some(())
    }

    /// Returns the field with that name.
    fn named(&mut self, key: &[u8]) -> Option<&mut Option<Raw<'a>>> {
        Some(match key {
            b"action" => &mut self.action,
            b"channel" => &mut self.channel,
            b"data" => &mut self.data,
            b"name" => &mut self.name,
            b"key" => &mut self.key,
            b"sKey" => &mut self.s_key,
            b"channels" => &mut self.channels,
            b"userId" => &mut self.user,
            _ => return None,
        })
    }

    /// Only `data` and `channels` may be long: any other long field is refused without parsing it.
    pub fn check_lengths(&self, limits: &Limits) -> Result<(), Refused> {
        let Fields { action, name, key, s_key, channel, user, params, .. } = *self;
        let names = [("name", name), ("channel", channel), ("userId", user)];
        let others = [("action", action), ("key", key), ("sKey", s_key), ("params", params)];
        let names = names.map(|field| (field, limits.name_bytes));
        let others = others.map(|field| (field, FIELD_BYTES));
        for ((what, raw), max) in names.into_iter().chain(others) {
            if raw.is_some_and(|raw| raw.get().len() > FIELD_BYTES) {
                return Err(too_long(what, max));
            }
        }
        Ok(())
    }
}

impl<'a> Params<'a> {
    /// Reads the members of `params` in a request that is known to be JSON.
    fn of(raw: Raw<'a>) -> Params<'a> {
        let mut params = Params::default();
        if let Some(mut members) = Members::of(raw.get(), json::DEPTH_MAX) {
            params.read(&mut members);
        }
        params
    }

    /// Reads the members; a value that is not an object has none.
    #[inline(never)]
    fn read(&mut self, members: &mut Members<'a>) -> Option<()> {
        while members.go_on()? {
            let field = if members.takes(br#""userId":"#) {
                Some(&mut self.user)
            } else {
                members.key()?.and_then(|key| self.named(&key))
            };
            let value = members.value()?;
            if let Some(field) = field {
                *field = Some(value);
            }
        }
        Some(())
    }

    /// Returns the member with that name.
    fn named(&mut self, key: &[u8]) -> Option<&mut Option<Raw<'a>>> {
        Some(match key {
            b"userId" => &mut self.user,
            b"exceptCid" => &mut self.except,
            b"count" => &mut self.count,
            b"ttl" => &mut self.ttl,
            b"emit" => &mut self.emit,
            b"grace" => &mut self.grace,
            _ => return None,
        })
    }
}
