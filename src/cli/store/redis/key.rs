//! Parses keys of the original server, if they are unambiguous (reference part 10). Pure.

use hashbrown::HashSet;

/// How to read a colon that may be part of a channel's name or follow a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colon {
    /// Unknown: such a key is ambiguous.
    /// It separates user and channel.
    Unknown,
    /// It is part of the channel's name.
    InChannel,
    /// It stands between user and channel.
    BehindUser,
}

/// The meaning of a state's key, without the common prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// The key of this state.
    State { namespace: &'a str, user: Option<&'a str>, channel: &'a str },
    /// No such namespace exists.
    Orphan,
    /// The namespace exists, and the channel has no name, which no client can ask for.
    Nameless,
    /// More than one reading is possible: which, in words.
    Ambiguous(String),
}

/// Parses `NAMESPACE:CHANNEL` or `NAMESPACE:USER:CHANNEL`.
pub(super) fn meaning<'a>(
    rest: &'a str,
    namespaces: &HashSet<String>,
    colon: Colon,
) -> Meaning<'a> {
    let mut homes = splits(rest).filter(|(namespace, _)| namespaces.contains(*namespace));
    match (homes.next(), homes.next()) {
        (None, _) => match rest.strip_suffix(':') {
            Some(namespace) if namespaces.contains(namespace) => Meaning::Nameless,
            _ => Meaning::Orphan,
        },
        (Some((one, _)), Some((two, _))) => {
            Meaning::Ambiguous(format!("it may be of namespace {one:?} or {two:?}"))
        }
        (Some((namespace, place)), None) => place_of(namespace, place, colon),
    }
}

fn place_of<'a>(namespace: &'a str, place: &'a str, colon: Colon) -> Meaning<'a> {
    let of = |user, channel| Meaning::State { namespace, user, channel };
    let mut users = splits(place).filter(|(_, channel)| channel.starts_with('@'));
    if let (Some((user, channel)), None) = (users.next(), users.next()) {
        return of(Some(user), channel);
    }
    let mut users = splits(place);
    match (users.next(), users.next(), colon) {
        (None, ..) | (.., Colon::InChannel) => of(None, place),
        (Some((user, channel)), None, Colon::BehindUser) => of(Some(user), channel),
        (Some((user, channel)), ..) => Meaning::Ambiguous(format!(
            "it may be of channel {place:?}, or of user {user:?} in {channel:?} (see --colon)"
        )),
    }
}

/// The two sides of each colon, where neither is empty.
fn splits(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let sides = text.match_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
    sides.filter(|(one, two)| !one.is_empty() && !two.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unambiguous_keys_are_interpreted() {
        let names = ["shop", "a", "a:b", "b c"].map(String::from).into_iter().collect();
        let meaning_of = |rest, colon| match meaning(rest, &names, colon) {
            Meaning::State { namespace, user, channel } => {
                format!("{namespace}|{}|{channel}", user.unwrap_or("-"))
            }
            Meaning::Orphan => "orphan".into(),
            Meaning::Nameless => "nameless".into(),
            Meaning::Ambiguous(_) => "?".into(),
        };
        for (rest, unknown, channel, user) in [
            ("shop:news", "shop|-|news", "shop|-|news", "shop|-|news"),
            ("shop:#vip", "shop|-|#vip", "shop|-|#vip", "shop|-|#vip"),
            ("shop:@cart", "shop|-|@cart", "shop|-|@cart", "shop|-|@cart"),
            ("shop:5:@cart", "shop|5|@cart", "shop|5|@cart", "shop|5|@cart"),
            ("shop:t:5:@cart", "shop|t:5|@cart", "shop|t:5|@cart", "shop|t:5|@cart"),
            ("shop:5:@cart:x", "shop|5|@cart:x", "shop|5|@cart:x", "shop|5|@cart:x"),
            ("shop:5:@a:@b", "?", "shop|-|5:@a:@b", "?"),
            ("shop:1:x", "?", "shop|-|1:x", "shop|1|x"),
            ("shop:1:2:x", "?", "shop|-|1:2:x", "?"),
            ("shop:x:", "shop|-|x:", "shop|-|x:", "shop|-|x:"),
            ("shop::x", "shop|-|:x", "shop|-|:x", "shop|-|:x"),
            ("b c:x", "b c|-|x", "b c|-|x", "b c|-|x"),
            ("a:x", "a|-|x", "a|-|x", "a|-|x"),
            ("a:b:c", "?", "?", "?"),
            ("a:b:@c", "?", "?", "?"),
            ("nope:x", "orphan", "orphan", "orphan"),
            ("shop", "orphan", "orphan", "orphan"),
            ("shop:", "nameless", "nameless", "nameless"),
            ("nope:", "orphan", "orphan", "orphan"),
            ("", "orphan", "orphan", "orphan"),
        ] {
            assert_eq!(meaning_of(rest, Colon::Unknown), unknown, "{rest}");
            assert_eq!(meaning_of(rest, Colon::InChannel), channel, "{rest}");
            assert_eq!(meaning_of(rest, Colon::BehindUser), user, "{rest}");
        }
    }
}
