//! What `--demo` adds: a namespace whose key is in the data folder, and a demo page. The server
//! calls it at its start, and for the key at a reload.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::{Config, DEMO_NAMESPACE, Secret};
use crate::keys;
use crate::switch::Demo;
use crate::uuid::Uuid;

/// The demo page's namespace.
pub const NAMESPACE: &str = DEMO_NAMESPACE;

/// Returns the key of [`NAMESPACE`] from the data folder, or makes one and stores it there for
/// `fws emit` and the other commands.
///
/// # Errors
/// Errors of the file system and of the random source.
pub fn key(config: &Config) -> io::Result<Secret> {
    if let Some(key) = keys::load(&config.data, NAMESPACE)? {
        return Ok(key);
    }
    let mut bytes = [0; 16];
    keys::random(&mut bytes)?;
    let key = Secret::new(Uuid::from_random(bytes).to_string()).map_err(io::Error::other)?;
    keys::store(&config.data, NAMESPACE, &key)?;
    Ok(key)
}

/// Whether this is the namespace that an earlier `--demo` has left, with its key.
pub fn is_left(config: &Config, name: &str) -> bool {
    name == NAMESPACE && keys::load(&config.data, name).is_ok_and(|key| key.is_some())
}

/// The command that publishes to the page, to be typed where the server was started. `control`: the
/// address of the control port.
pub fn command(config: &Config, control: &str) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "fws".into());
    let mut command = format!("{} emit {NAMESPACE} news '\"hello\"'", shell_word(&program));
    let default = Config::default();
    let is_in_file = config.namespaces.iter().any(|(name, _)| name == NAMESPACE);
    if let Some(file) = config.file.as_ref().filter(|_| is_in_file) {
        // The key is in the file, not in the data folder.
        command.push_str(&format!(" --config {}", shell_word(&file.to_string_lossy())));
    }
    if control != default.control.to_string() {
        command.push_str(&format!(" --control {control}"));
    }
    if config.data != default.data {
        command.push_str(&format!(" --data {}", shell_word(&config.data.to_string_lossy())));
    }
    command
}

/// The URL of the page for a browser on this machine. `ws`: the address of the WebSocket port.
pub fn url(ws: &str) -> String {
    let address = ws.parse::<SocketAddr>().map(|address| match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => ([127, 0, 0, 1], address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    });
    format!("http://{}/", address.map_or_else(|_| ws.into(), |address| address.to_string()))
}

/// How to open the page at that URL. If only some sites may connect, its own must be one of them.
pub fn opening(config: &Config, url: &str) -> String {
    let site = url.trim_end_matches('/');
    let site = site.strip_suffix(":80").unwrap_or(site); // as browsers write it
    match &config.allow_origin[..] {
        [] => format!("open {url} and "),
        sites if sites.iter().any(|listed| listed == site) => format!("open {url} and "),
        _ => format!("allow the origin {site}, open {url} and "),
    }
}

/// The page, with the client script and the command inserted.
pub fn page(command: &str) -> Demo {
    let command = command.replace('&', "&amp;").replace('<', "&lt;");
    let page = include_str!("demo.html")
        .replace("__EMIT_COMMAND__", &command)
        .replace("/*FWS_CLIENT*/", include_str!("../clients/js/fws.js"));
    Demo { page: page.into_bytes().into(), namespace: NAMESPACE.into() }
}

/// A word, quoted for a shell if necessary.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(shell_word("./fws-data"), "./fws-data");
        assert_eq!(shell_word("my data/it's"), r"'my data/it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn the_command_names_the_file_of_the_key_and_the_control_port() {
        let mut config = Config::default();
        let at = config.control.to_string();
        assert!(command(&config, &at).ends_with(" emit demo news '\"hello\"'"));
        config.file = Some("my fws.json".into());
        assert!(!command(&config, &at).contains("--config"), "the file does not have the key");
        config.namespaces.push((NAMESPACE.into(), Secret::new("key").unwrap()));
        let said = command(&config, "127.0.0.1:1");
        assert!(said.ends_with(" --config 'my fws.json' --control 127.0.0.1:1"), "{said}");
    }

    #[test]
    fn the_url_of_a_wildcard_address_uses_loopback() {
        assert_eq!(url("0.0.0.0:8080"), "http://127.0.0.1:8080/");
        assert_eq!(url("[::]:80"), "http://[::1]:80/");
        assert_eq!(url("10.0.0.5:8080"), "http://10.0.0.5:8080/");
    }

    #[test]
    fn a_page_that_may_not_connect_needs_another_allowed_site() {
        let mut config = Config::default();
        let [page, other] = ["http://127.0.0.1:8080/", "http://[::1]:80/"];
        assert_eq!(opening(&config, page), format!("open {page} and "));
        config.allow_origin = vec!["https://shop.example".into(), "http://127.0.0.1:8080".into()];
        assert_eq!(opening(&config, page), format!("open {page} and "));
        let told = format!("allow the origin http://[::1], open {other} and ");
        assert_eq!(opening(&config, other), told);
    }

    #[test]
    fn the_page_has_no_unfilled_placeholders() {
        let demo = page("fws emit demo news '\"<&\"'");
        let page = str::from_utf8(&demo.page).unwrap();
        assert!(page.contains("news '\"&lt;&amp;\"'"));
        assert!(!page.contains("__EMIT_COMMAND__") && !page.contains("/*FWS_CLIENT*/"));
    }
}
