//! Names in the environment: ours, misspelt ones, and those that others set.

use super::nearest::within;
use super::{ConfigError, SETTINGS, at};

/// The variable of the server key; the original server reads the same one.
pub const SECRET_KEY: &str = "FWS_SECRETKEY";

/// The variable that names the configuration file.
pub const FILE: &str = "FWS_CONFIG_FILE";

/// The variable of a namespace's key, for the commands that act in one.
pub const NAMESPACE_KEY: &str = "FWS_NAMESPACE_KEY";

/// Rejects every name that begins like ours and is not one, unless others put it there.
pub fn check_names(environment: &[(String, String)]) -> Result<(), ConfigError> {
    let ours =
        || SETTINGS.iter().map(|setting| setting.variable).chain([SECRET_KEY, FILE, NAMESPACE_KEY]);
    for (name, _) in environment {
        if !name.starts_with("FWS_") || ours().any(|known| known == name) || is_foreign(name) {
            continue;
        }
        let near = match within(name, ours(), 2) {
            Some(near) => vec![near],
            None => ours().filter(|known| has_words(known, name)).collect(),
        };
        let hint = match &near[..] {
            [] => format!("there are {}", ours().collect::<Vec<_>>().join(", ")),
            near => format!("did you mean {}?", near.join(" or ")),
        };
        return Err(at(name, format!("there is no such variable ({hint})")));
    }
    Ok(())
}

/// Returns whether a name of ours has all words of another: `FWS_DATA` means `FWS_DATA_DIR`.
fn has_words(known: &str, name: &str) -> bool {
    let (known, name) = (&known["FWS_".len()..], &name["FWS_".len()..]);
    name.split('_').all(|word| !word.is_empty() && known.contains(word))
}

/// Returns whether others may set such a name: Kubernetes and container links, for a service or
/// container whose name begins with `fws` (`…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_WS`,
/// `…_PORT`, `…_PORT_8080_TCP`, `…_PORT_8080_TCP_ADDR`, `…_NAME`, `…_ENV_PATH`), and our own tests.
fn is_foreign(name: &str) -> bool {
    let is_of_port = |(_, rest): (&str, &str)| {
        let mut words = rest.split('_');
        let is_number = words.next().is_some_and(|word| word.parse::<u16>().is_ok());
        is_number && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    ["_SERVICE_HOST", "_PORT", "_NAME"].iter().any(|end| name.ends_with(end))
        || ["_SERVICE_PORT_", "_ENV_"].iter().any(|part| name.contains(part))
        || ["FWS_SIM_", "FWS_TEST_"].iter().any(|start| name.starts_with(start))
        || name.split_once("_PORT_").is_some_and(is_of_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> Result<(), ConfigError> {
        check_names(&[(name.into(), "tcp://10.0.0.1:8080".into())])
    }

    #[test]
    fn variables_of_other_programs_are_ignored() {
        for name in [
            "FWS_PORT",
            "FWS_PORT_8080_TCP",
            "FWS_PORT_8080_TCP_ADDR",
            "FWS_SERVICE_HOST",
            "FWS_SERVICE_PORT",
            "FWS_SERVICE_PORT_WS",
            "FWS_WS_PORT",
            "FWS_WS_SERVICE_HOST",
            "FWS_LISTEN_WS_PORT",
            "FWS_DEMO_PORT",
            "FWS_SIM_SEED",
            "FWS_SHOP_PORT_53_UDP_PROTO",
            "FWS_NAME",
            "FWS_ENV_PATH",
            "FWS_TEST_BINARY",
            "PATH",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn an_unknown_variable_is_an_error_that_lists_all_variables() {
        for name in ["FWS_LIMITS", "FWS_", "FWS_PORT_WS", "FWS_THEME", "FWS_PORT_8080_XYZ"] {
            let error = check(name).unwrap_err().to_string();
            let start = format!("{name}: there is no such variable (there are FWS_LISTEN_WS, ");
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn a_misspelled_variable_is_an_error_with_a_suggestion() {
        for (name, right) in [
            ("FWS_SECRET_KEY", "FWS_SECRETKEY"),
            ("FWS_SECRETKEYS", "FWS_SECRETKEY"),
            ("FWS_LISTEN_WSS", "FWS_LISTEN_WS"),
            ("FWS_LISTEN_CONTROL_UNX", "FWS_LISTEN_CONTROL_UNIX"),
            ("FWS_DATADIR", "FWS_DATA_DIR"),
            ("FWS_demo", "FWS_DEMO"),
            ("FWS_WS", "FWS_LISTEN_WS or FWS_LISTEN_WS_UNIX"),
            ("FWS_CONTROL", "FWS_LISTEN_CONTROL or FWS_LISTEN_CONTROL_UNIX"),
            ("FWS_DATA", "FWS_DATA_DIR"),
            ("FWS_CONFIG", "FWS_CONFIG_FILE"),
            ("FWS_KEY", "FWS_SECRETKEY or FWS_NAMESPACE_KEY"),
        ] {
            let error = check(name).unwrap_err().to_string();
            assert_eq!(error, format!("{name}: there is no such variable (did you mean {right}?)"));
        }
    }
}
