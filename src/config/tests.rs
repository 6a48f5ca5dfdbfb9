//! Tests of flags, environment and file, and of the messages about mistakes in them.

use super::*;

/// The burst itself, and the clients admitted while it authenticates.
#[test]
fn a_burst_of_admissions_fits_among_unauthenticated_sessions() {
    let limits = Limits::default();
    let behind = limits.admissions_per_second / 2;
    assert!(limits.admissions_burst + behind <= limits.sessions_unauthenticated);
}

fn file(text: &str) -> impl FnOnce(&Path) -> io::Result<ConfigFile> {
    let file = ConfigFile { text: text.into(), mode: 0o100_600 };
    move |_| Ok(file)
}

fn load(flags: &[(&str, &str)], env: &[(&str, &str)], text: &str) -> Result<Config, String> {
    let env: Vec<_> = env.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    let mut flags = flags.to_vec();
    if !text.is_empty() {
        flags.push(("config", "fws.json"));
    }
    Config::load(&flags, &env, file(text)).map_err(|e| e.to_string())
}

fn error(flags: &[(&str, &str)], env: &[(&str, &str)], text: &str) -> String {
    let error = load(flags, env, text).unwrap_err();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn defaults_are_as_documented() {
    let config = load(&[], &[], "").unwrap();
    assert_eq!(config.ws.unwrap().to_string(), "0.0.0.0:8080");
    assert!(config.ws_unix.is_none() && config.proxies.is_empty());
    assert_eq!(config.control.to_string(), "127.0.0.1:8085");
    assert_eq!(config.control_unix, None);
    assert_eq!(config.data, PathBuf::from("./fws-data"));
    assert!(!config.demo && config.secret_key.is_none() && config.warnings.is_empty());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.source("ws"), Source::Default);
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let text = r#"{"ws":"1.1.1.1:1","control":"1.1.1.1:2","data":"file","demo":true,
        "limits":{"message_bytes":1000,"namespaces":7}}"#;
    let env = [("FWS_LISTEN_CONTROL", "2.2.2.2:2"), ("FWS_DATA_DIR", "env")];
    let flags = [("data", "flag"), ("limit", "message_bytes=2000"), ("key", "no setting")];
    let config = load(&flags, &env, text).unwrap();
    assert_eq!(
        (config.ws.unwrap().to_string(), config.source("ws")),
        ("1.1.1.1:1".into(), Source::File)
    );
    assert_eq!(config.control.to_string(), "2.2.2.2:2");
    assert_eq!(config.source("control"), Source::Variable("FWS_LISTEN_CONTROL"));
    assert_eq!(config.data, PathBuf::from("flag"));
    assert_eq!(config.source("data"), Source::Flag("--data"));
    assert!(config.demo);
    assert_eq!(config.limits.message_bytes, 2000);
    assert_eq!(config.limit_source("message_bytes"), Source::Flag("--limit"));
    assert_eq!(config.limits.namespaces, 7);
    assert_eq!(config.limit_source("namespaces"), Source::File);
    assert_eq!(config.source("namespaces"), Source::Default);
    assert_eq!(config.file, Some(PathBuf::from("fws.json")));
}

#[test]
fn the_origins_of_highest_precedence_replace_all_others() {
    let text = r#"{"allow_origin":["https://a","https://b:1"]}"#;
    let config = load(&[], &[], text).unwrap();
    assert_eq!(config.allow_origin, ["https://a", "https://b:1"]);
    let env = [("FWS_ALLOW_ORIGIN", "https://c, https://d")];
    assert_eq!(load(&[], &env, text).unwrap().allow_origin, ["https://c", "https://d"]);
    let flags = [("allow-origin", "https://e"), ("allow-origin", "https://f")];
    let config = load(&flags, &env, text).unwrap();
    assert_eq!(config.allow_origin, ["https://e", "https://f"]);
    assert_eq!(config.source("allow_origin"), Source::Flag("--allow-origin"));
    let error = error(&[("allow-origin", "https://e/")], &[], "");
    assert!(error.starts_with("--allow-origin: \"https://e/\" must be a scheme"), "{error}");
    assert!(load(&[], &[], r#"{"allow_origin":[]}"#).unwrap().allow_origin.is_empty());
    // An unset variable of a script must not lift the restriction in the file.
    let nothing = "there is no site in it: leave it out if any may connect";
    let error = |flags: &[_], env: &[_], text: &str| load(flags, env, text).unwrap_err();
    assert_eq!(error(&[("allow-origin", "")], &[], text), format!("--allow-origin: {nothing}"));
    assert_eq!(
        error(&[], &[("FWS_ALLOW_ORIGIN", " ")], text),
        format!("FWS_ALLOW_ORIGIN: {nothing}")
    );
    let listed = r#"{"allow_origin":[""]}"#;
    assert_eq!(error(&[], &[], listed), format!("fws.json: allow_origin: {nothing}"));
    let error = load(&[], &[], r#"{"allow_origin":"https://a"}"#).unwrap_err();
    assert_eq!(error, "fws.json: allow_origin: must be a list of strings, as in [\"…\"]");
}

#[test]
fn the_file_is_named_by_flag_or_variable() {
    let named = |path: &Path| {
        let text = format!("{{\"data\":\"{}\"}}", path.display());
        Ok(ConfigFile { text, mode: 0o600 })
    };
    let env = [("FWS_CONFIG_FILE".to_string(), "from-env".to_string())];
    assert_eq!(Config::load(&[], &env, named).unwrap().data, PathBuf::from("from-env"));
    let flags = [("config", "from-flag")];
    assert_eq!(Config::load(&flags, &env, named).unwrap().data, PathBuf::from("from-flag"));
    let missing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let error = Config::load(&flags, &[], missing).unwrap_err().to_string();
    assert_eq!(error, "--config: cannot read from-flag: entity not found");
}

#[test]
fn an_error_in_the_file_is_one_line_that_names_the_key() {
    for (text, line) in [
        ("[]", "must be an object, as in {\"name\": …}"),
        ("\"hush\"", "must be an object, as in {\"name\": …}"),
        ("{\"ws\":", "this is not JSON: EOF while parsing a value at line 1 column 6"),
        ("{} {}", "this is not JSON: trailing characters at line 1 column 4"),
        (r#"{"ws":"a:1","ws":"b:1"}"#, "the key \"ws\" comes twice"),
        (r#"{"ws":8080}"#, "ws: must be a string"),
        (r#"{"ws":"80"}"#, "ws: \"80\" is not ADDR:PORT: write 0.0.0.0:80 for everybody, 127"),
        (r#"{"demo":"true"}"#, "demo: must be true or false, without quotes"),
        (r#"{"secret_key":["hush"]}"#, "secret_key: must be a string"),
        (r#"{"secret_key":""}"#, "secret_key: the key is empty"),
        (r#"{"namespaces":{"a":"hush","a":"hush"}}"#, "namespaces: the key \"a\" comes twice"),
        (r#"{"namespaces":{"a":5}}"#, "namespaces: \"a\": must be a string"),
        (r#"{"sockjs":{"jsonp":"no"}}"#, "sockjs: jsonp: must be true or false"),
        (r#"{"sockjs":{"htmlfle":true}}"#, "sockjs: htmlfle: there is no such key (did you mean"),
        (r#"{"sockjs":{"script":"sockjs.js"}}"#, "sockjs: script: must be a path"),
        (r#"{"sockjs":{"script":"/\""}}"#, "sockjs: script: must be a path"),
        (r#"{"namespaces":"hush"}"#, "namespaces: must be an object, as in {\"name\": …}"),
        (r#"{"limits":{"zzzz":1}}"#, "limits: there is no limit \"zzzz\" (`fws check` lists them"),
        (
            r#"{"limits":{"auth_ms":"9"}}"#,
            "limits: auth_ms: must be a whole number, without quotes",
        ),
        (
            r#"{"limits":{"auth_ms":-1}}"#,
            "limits: auth_ms: \"-1\" is not a whole number of milliseconds",
        ),
        (r#"{"limits":{"states":1e6}}"#, "limits: states: \"1e6\" is not a whole number"),
        (r#"{"data":"~/fws"}"#, "data: \"~/fws\": only a shell writes ~ out, write it in full"),
        (r#"{"control_unix":"~/x"}"#, "control_unix: \"~/x\": only a shell writes ~ out"),
        (r#"{"limits":{"auth_ms":99}}"#, "limits: auth_ms: 99 is not between 100 and 3600000"),
        (r#"{"control_unix":""}"#, "control_unix: the path is empty"),
    ] {
        let error = error(&[], &[], text);
        assert!(error.starts_with(&format!("fws.json: {line}")), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn proxies_are_a_list_and_listeners_need_different_addresses() {
    let text = r#"{"trusted_proxy":["10.0.0.0/8","unix"]}"#;
    let names = |config: Config| config.proxies.names().collect::<Vec<_>>().join(" ");
    assert_eq!(names(load(&[], &[], text).unwrap()), "10.0.0.0/8 unix");
    let env = [("FWS_TRUSTED_PROXY", "::1, 127.0.0.1")];
    assert_eq!(names(load(&[], &env, text).unwrap()), "::1 127.0.0.1");
    let flags = [("trusted-proxy", "unix"), ("trusted-proxy", "fd00::/8")];
    assert_eq!(names(load(&flags, &env, text).unwrap()), "fd00::/8 unix");
    let wrong = error(&[("trusted-proxy", "10.0.0.1/8")], &[], "");
    assert_eq!(
        wrong,
        "--trusted-proxy: \"10.0.0.1/8\" is no network: write 10.0.0.0/8, or the \
                       address alone"
    );
    let all = load(&[("trusted-proxy", "0.0.0.0/0")], &[], "").unwrap();
    assert!(all.warnings[0].contains("anybody"), "{:?}", all.warnings);

    let alone = load(&[("ws", "none"), ("ws-unix", "a.sock")], &[], "").unwrap();
    assert_eq!((alone.ws, alone.ws_unix), (None, Some(PathBuf::from("a.sock"))));
    let nobody = error(&[("ws", "none")], &[], "");
    assert_eq!(nobody, "ws: none, and there is no ws_unix: nobody could connect");
    // The word turns off what a weaker source has set; a file of that name is `./none`.
    let text = r#"{"ws_unix":"a.sock","control_unix":"b.sock","admin":"127.0.0.1:1"}"#;
    let off = [("ws-unix", "none"), ("control-unix", "none"), ("admin", "none")];
    let off = load(&off, &[], text).unwrap();
    assert_eq!((off.ws_unix, off.control_unix, off.admin), (None, None, None));
    let env = [("FWS_LISTEN_WS_UNIX", "a.sock")];
    let same = error(&[("control-unix", "a.sock")], &env, "");
    assert!(same.starts_with("ws_unix: this is the path of control_unix"), "{same}");
    let cap = ("limit", "connections_per_address=5");
    let together = load(&[cap], &env, "").unwrap();
    assert!(together.warnings[0].starts_with("ws_unix: all who come through it count as one"));
    assert!(load(&[cap, ("trusted-proxy", "unix")], &env, "").unwrap().warnings.is_empty());
}

#[test]
fn an_unknown_key_is_an_error_with_a_suggestion() {
    let original = "this is a key of the original server";
    for (key, help) in [
        ("control-unix", "there is no such key (did you mean control_unix?)".to_string()),
        ("Data", "there is no such key (did you mean data?)".into()),
        ("banana", "there is no such key (there are ws, ws_unix, control, control_unix,".into()),
        ("secretKey", format!("{original}; write \"secret_key\"")),
        ("hostWS", format!("{original}; write \"ws\": \"0.0.0.0:8080\"")),
        ("portWS", format!("{original}; write \"ws\": \"0.0.0.0:8080\"")),
        ("hostNET", format!("{original}; write \"control\": \"127.0.0.1:8085\"")),
        (
            "portNET",
            format!("{original}; write \"control\": \"127.0.0.1:8085\", or \"control_unix"),
        ),
        ("redis", format!("{original}; there is no Redis here: what is kept is in the folder")),
    ] {
        let error = error(&[], &[], &format!("{{\"{key}\":\"hush\"}}"));
        assert!(error.starts_with(&format!("fws.json: {key}: {help}")), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
    let error = error(&[], &[], r#"{"limits":{"message_byte":1}}"#);
    let near = "there is no limit \"message_byte\" (did you mean message_bytes?)";
    assert_eq!(error, format!("fws.json: limits: {near}"));
}

#[test]
fn errors_outside_the_file_name_the_flag_or_variable() {
    assert!(error(&[("ws", "x")], &[], "").starts_with("--ws: \"x\" is not ADDR:PORT"));
    assert!(error(&[("control-unix", &"x".repeat(108))], &[], "").starts_with("--control-unix: "));
    assert_eq!(
        error(&[("limit", "message_bytes")], &[], ""),
        "--limit: \"message_bytes\" is not NAME=VALUE, as in message_bytes=32768"
    );
    assert_eq!(
        error(&[("limit", "message_bytes=99999999999999999999")], &[], ""),
        "--limit: message_bytes: 99999999999999999999 is not between 64 and 1073741824"
    );
    assert_eq!(
        error(&[("demo", "true")], &[("FWS_DEMO", "yes")], ""),
        "FWS_DEMO: \"yes\" is neither true nor false"
    );
    assert_eq!(error(&[], &[("FWS_DATA_DIR", "")], ""), "FWS_DATA_DIR: the path is empty");
    assert_eq!(
        error(&[("ws", "0.0.0.0:8085")], &[], ""),
        "control: 127.0.0.1:8085 is taken by ws (0.0.0.0:8085): choose another port"
    );
    assert!(load(&[("ws", "0.0.0.0:0"), ("control", "0.0.0.0:0")], &[], "").is_ok());
    assert!(load(&[("ws", "127.0.0.2:9"), ("control", "127.0.0.1:9")], &[], "").is_ok());
}

#[test]
fn b19_a_server_key_known_to_others_is_refused() {
    let sample = error(&[], &[("FWS_SECRETKEY", "asd82nvakadfs")], "");
    assert!(sample.starts_with("FWS_SECRETKEY: this is the sample key"), "{sample}");
    let sample = error(&[], &[], r#"{"secret_key":"asd82nvakadfs"}"#);
    assert!(sample.starts_with("fws.json: secret_key: this is the sample key"), "{sample}");
    assert_eq!(error(&[], &[("FWS_SECRETKEY", "")], ""), "FWS_SECRETKEY: the key is empty");
    let same =
        error(&[], &[("FWS_SECRETKEY", "hush")], r#"{"namespaces":{"a":"b","shop":"hush"}}"#);
    assert_eq!(same, "FWS_SECRETKEY: the server key is also the key of namespace \"shop\"");
}

#[test]
fn keys_are_hidden_in_all_output() {
    let text = r#"{"secret_key":"hush-hush-hush-hush","namespaces":{"shop":"hush"}}"#;
    let config = load(&[], &[], text).unwrap();
    for shown in [format!("{config:?}"), config.to_text(), config.to_json()] {
        assert!(!shown.contains("hush") && shown.contains("shop"), "{shown}");
    }
    assert_eq!(config.secret_key.unwrap().expose(), "hush-hush-hush-hush");
}

#[test]
fn readable_files_and_weak_keys_cause_warnings() {
    let warnings = |text: &str, mode: u32| {
        let file = ConfigFile { text: text.into(), mode };
        Config::load(&[("config", "f")], &[], |_| Ok(file)).unwrap().warnings
    };
    let key = r#"{"secret_key":"0123456789abcdef"}"#;
    assert_eq!(warnings(key, 0o100_600), Vec::<String>::new());
    assert_eq!(warnings(key, 0o100_640), ["f holds keys and others may read it: chmod 600 f"]);
    assert_eq!(warnings("{}", 0o100_644), Vec::<String>::new());
    let open = warnings(r#"{"namespaces":{"a":"0123456789abcdef"}}"#, 0o100_604);
    assert_eq!(open.len(), 1, "{open:?}");
    let short = warnings(r#"{"secret_key":"0123456789abcde"}"#, 0o600);
    assert_eq!(short.len(), 1);
    assert!(short[0].starts_with("secret_key: the server key is shorter than 16"), "{short:?}");

    let told = warnings(r#"{"namespaces":{"a":"short","b":"0123456789abcdef"}}"#, 0o600);
    let why = "namespaces: the key of \"a\" is shorter than 16 characters and may be guessed";
    assert_eq!(told, [why]);
    let many: Vec<String> = (0..1000).map(|n| format!("\"n{n}\":\"key {n}\"")).collect();
    let told = warnings(&format!("{{\"namespaces\":{{{}}}}}", many.join(",")), 0o600);
    assert_eq!(told.len(), 21);
    assert_eq!(told[20], "namespaces: and 980 more keys like these");
}

#[test]
fn an_unset_limit_follows_the_limit_above_it() {
    let config = load(&[("limit", "message_bytes=1000")], &[], "").unwrap();
    assert_eq!(config.limits.message_unauthenticated_bytes, 1000);
    assert!(config.to_text().contains("fitted"));
    let flags = [("limit", "message_bytes=1000"), ("limit", "message_unauthenticated_bytes=1001")];
    assert_eq!(
        error(&flags, &[], ""),
        "limits: message_unauthenticated_bytes (1001) is more than message_bytes (1000)"
    );
    let config = load(&[("limit", "control_input_bytes=1000000")], &[], "").unwrap();
    assert_eq!(config.limits.control_frame_bytes, 1_000_000);
    assert_eq!(
        error(&[("limit", "control_frame_bytes=100000000")], &[], ""),
        "limits: control_frame_bytes (100000000) is more than control_input_bytes (67108864)"
    );
    let long = "x".repeat(9);
    let text = format!("{{\"namespaces\":{{\"{long}\":\"k\"}},\"limits\":{{\"name_bytes\":8}}}}");
    assert!(error(&[], &[], &text).contains("longer than 8 bytes (limit name_bytes)"));
}

#[test]
fn the_json_output_is_valid_and_complete() {
    let flags = [("control-unix", "/run/\"fws\".sock"), ("demo", "true")];
    let json = load(&flags, &[], r#"{"namespaces":{"é\"":"k"}}"#).unwrap().to_json();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["ws"], "0.0.0.0:8080");
    assert_eq!(value["control_unix"], "/run/\"fws\".sock");
    assert_eq!(value["demo"], true);
    assert_eq!(value["secret_key"], "not set");
    assert_eq!(value["namespaces"], serde_json::json!(["é\""]));
    assert_eq!(value["limits"].as_object().unwrap().len(), Limits::TABLE.len());
    assert_eq!(value["limits"]["heartbeat_ms"], 25_000);
}

#[test]
fn a_configuration_that_cannot_be_served_is_refused() {
    assert_eq!(
        error(&[], &[], r#"{"namespaces":{"":"k"}}"#),
        "namespaces: a name is empty, and nobody could reach it"
    );
    let two = r#"{"namespaces":{"a":"k","b":"l"},"limits":{"namespaces":2}}"#;
    assert!(load(&[], &[], two).is_ok());
    assert_eq!(
        error(&[("limit", "namespaces=1")], &[], two),
        "namespaces: there are 2, and room for 1 (limit namespaces)"
    );
    assert_eq!(
        error(&[("demo", "true")], &[], two),
        "namespaces: there are 3 with that of the demo, and room for 2 (limit namespaces)"
    );
    let demo = two.replace("\"a\"", "\"demo\"");
    assert!(load(&[("demo", "true")], &[], &demo).is_ok(), "{demo}");
    let limits =
        r#"{"limits":{"control_frame_bytes":1024,"control_frame_unauthenticated_bytes":2048}}"#;
    assert!(error(&[], &[], limits).starts_with("limits: control_frame_unauthenticated_bytes (2"));
}

#[test]
fn a_limit_is_a_whole_number_in_the_unit_of_its_name() {
    let limit = |text| load(&[("limit", text)], &[], "{}").map(|config| config.limits);
    for (text, wrong) in [
        ("message_bytes=32KiB", "message_bytes: \"32KiB\" is not a whole number of bytes"),
        ("auth_ms=5s", "auth_ms: \"5s\" is not a whole number of milliseconds"),
        ("connections=many", "connections: \"many\" is not a whole number"),
        ("auth_ms=", "auth_ms: \"\" is not a whole number of milliseconds"),
    ] {
        assert_eq!(limit(text).unwrap_err(), format!("--limit: {wrong}"));
    }
    assert_eq!(limit("auth_ms=5000").unwrap().auth_ms, 5000);
    // A folder named `~` can be given with a path in front.
    assert!(load(&[("data", "./~")], &[], "{}").is_ok());
}
