//! Names in the environment: ours, those that are nearly ours, and those that others put there.

use super::nearest::within;
use super::{ConfigError, SETTINGS, at};

/// Names the server key; the original server reads the same variable.
pub const SECRET_KEY: &str = "FWS_SECRETKEY";

/// Names the configuration file.
pub const FILE: &str = "FWS_CONFIG_FILE";

/// The key of a namespace, for the commands that act in one.
pub const NAMESPACE_KEY: &str = "FWS_NAMESPACE_KEY";

/// Refuses a name that is one of ours with up to two letters wrong.
pub fn check_names(environment: &[(String, String)]) -> Result<(), ConfigError> {
    let ours =
        || SETTINGS.iter().map(|setting| setting.variable).chain([SECRET_KEY, FILE, NAMESPACE_KEY]);
    for (name, _) in environment {
        if !name.starts_with("FWS_") || ours().any(|known| known == name) || is_injected(name) {
            continue;
        }
        if let Some(near) = within(name, ours(), 2) {
            return Err(at(name, format!("there is no such variable (did you mean {near}?)")));
        }
    }
    Ok(())
}

/// Whether Kubernetes or a container link puts such names there, for a service or container whose
/// name begins with `fws`: `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_NAME`, `…_PORT`,
/// `…_PORT_8080_TCP`, `…_PORT_8080_TCP_ADDR`.
fn is_injected(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST") || name.ends_with("_PORT") || name.contains("_PORT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> Result<(), ConfigError> {
        check_names(&[(name.into(), "tcp://10.0.0.1:8080".into())])
    }

    #[test]
    fn what_others_put_there_is_passed_over() {
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
            "FWS_THEME",
            "PATH",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_is_nearly_ours_is_an_error() {
        for (name, right) in [
            ("FWS_SECRET_KEY", "FWS_SECRETKEY"),
            ("FWS_SECRETKEYS", "FWS_SECRETKEY"),
            ("FWS_LISTEN_WSS", "FWS_LISTEN_WS"),
            ("FWS_LISTEN_CONTROL_UNX", "FWS_LISTEN_CONTROL_UNIX"),
            ("FWS_DATADIR", "FWS_DATA_DIR"),
            ("FWS_demo", "FWS_DEMO"),
        ] {
            let error = check(name).unwrap_err().to_string();
            assert_eq!(error, format!("{name}: there is no such variable (did you mean {right}?)"));
        }
    }
}
