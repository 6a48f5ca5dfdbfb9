//! The servers that `make bench-peers` compares with fws: how each is started, and its version.
//! Those that are not installed are left out, and the table says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::load::{Result, Target, free_port, pinned};

/// Where `scripts/bench-peers` puts what it downloads and compiles.
pub fn fetched() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers")
}

/// Names, in the order of the tables.
pub const LABELS: [&str; 5] = ["uWebSockets", "nats", "nchan", "mosquitto", "ws"];

/// Starts a peer, if it is installed.
pub fn start(label: &'static str, folder: &Path) -> Result<Target> {
    let folder = folder.join(label);
    std::fs::create_dir_all(&folder)?;
    let ports = [free_port()?, free_port()?];
    match label {
        "uWebSockets" => {
            let mut command = pinned(0, fetched().join("uws"));
            command.arg("0");
            Target::printing(label, "topic", command)
        }
        "ws" => {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/ws.js");
            let mut command = pinned(0, "node");
            command.args([script, "0"]).env("NODE_PATH", fetched().join("node_modules"));
            Target::printing(label, "topic", command)
        }
        "nats" => nats(&folder, ports),
        "mosquitto" => mosquitto(&folder, ports),
        _ => nchan(&folder, ports[0]),
    }
}

fn nats(folder: &Path, [ws, control]: [u16; 2]) -> Result<Target> {
    let config = folder.join("nats.conf");
    let text = format!(
        "listen: 127.0.0.1:{control}\n\
         websocket {{ listen: \"127.0.0.1:{ws}\", no_tls: true }}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = pinned(0, fetched().join("venv/bin/nats-server"));
    command.arg("-c").arg(config);
    Target::listening("nats", "nats", command, [ws, control])
}

fn mosquitto(folder: &Path, [ws, control]: [u16; 2]) -> Result<Target> {
    let config = folder.join("mosquitto.conf");
    let text = format!(
        "listener {control} 127.0.0.1\nprotocol mqtt\nlistener {ws} 127.0.0.1\n\
         protocol websockets\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
         log_dest stderr\nlog_type error\nuser root\n"
    );
    std::fs::write(&config, text)?;
    let mut command = pinned(0, "mosquitto");
    command.arg("-c").arg(config);
    Target::listening("mosquitto", "mqtt", command, [ws, control])
}

/// One process without workers, so that all its memory is in one place.
fn nchan(folder: &Path, port: u16) -> Result<Target> {
    let config = folder.join("nginx.conf");
    let at = folder.display();
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_nchan_module.so;\n\
         daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log crit;\n\
         worker_rlimit_nofile 65536;\nevents {{ worker_connections 65536; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  tcp_nodelay on;\n  \
         nchan_shared_memory_size 256M;\n  client_body_temp_path {at}/body;\n  \
         proxy_temp_path {at}/proxy;\n  fastcgi_temp_path {at}/fastcgi;\n  \
         uwsgi_temp_path {at}/uwsgi;\n  scgi_temp_path {at}/scgi;\n  server {{\n    \
         listen 127.0.0.1:{port} backlog=4096;\n    \
         location = /sub {{\n      nchan_subscriber websocket;\n      \
         nchan_channel_id $arg_id;\n      nchan_subscriber_first_message newest;\n    }}\n    \
         location = /pub {{\n      nchan_publisher http;\n      nchan_channel_id $arg_id;\n      \
         nchan_message_buffer_length 1000;\n      nchan_message_timeout 5s;\n    }}\n  }}\n}}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = pinned(0, "nginx");
    command.arg("-e").arg(folder.join("error.log")).arg("-c").arg(config);
    Target::listening("nchan", "nchan", command, [port, port])
}

/// The first line that a program prints, on either stream.
fn said(program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    text.lines().next().map(str::to_owned)
}

/// The version of a peer, in words.
pub fn version(label: &str) -> String {
    let version = match label {
        "uWebSockets" => std::fs::read_to_string(fetched().join("uws.version")).ok(),
        "ws" => {
            let manifest = fetched().join("node_modules/ws/package.json");
            let manifest = std::fs::read(manifest).ok();
            let manifest: Option<serde_json::Value> =
                manifest.and_then(|text| serde_json::from_slice(&text).ok());
            let node = said("node", &["--version"]).unwrap_or_default();
            manifest.map(|it| format!("{} on Node {node}", it["version"].as_str().unwrap_or("?")))
        }
        "nats" => said(fetched().join("venv/bin/nats-server"), &["--version"])
            .map(|text| text.replace("nats-server: v", "")),
        "mosquitto" => said("dpkg-query", &["-W", "-f=${Version}, Debian", "mosquitto"]),
        "nchan" => {
            let nchan = said("dpkg-query", &["-W", "-f=${Version}", "libnginx-mod-nchan"]);
            let nginx = said("nginx", &["-v"]).unwrap_or_default();
            nchan.map(|nchan| format!("{nchan}, Debian, {nginx}"))
        }
        _ => said("redis-server", &["--version"])
            .and_then(|text| Some(text.split_once("v=")?.1.split(' ').next()?.to_owned())),
    };
    version.unwrap_or_else(|| "not installed".into()).trim().to_owned()
}

/// The machine, in words.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = said("uname", &["-sr"]).unwrap_or_default();
    format!("{cores} cores of {}, {kernel}", model.unwrap_or("an unknown processor"))
}
