//! The loader as a whole: every source, their order, and what is said of mistakes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::model::Priority;

/// A load in a made-up machine: its files and variables are all there is.
#[derive(Default)]
struct Load {
    files: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    flags: Vec<Flag>,
    config: Option<&'static str>,
    demo: bool,
}

impl Load {
    fn new() -> Self {
        Self::default().variable("HOME", "/home/u").variable("PATH", "/usr/bin:/opt/bin")
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }

    /// The file at the standard place.
    fn toml(self, text: &str) -> Self {
        self.file("/home/u/.config/codex-bridge/config.toml", text)
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    fn flag(mut self, name: &'static str, key: &'static str, value: &str) -> Self {
        self.flags.push(Flag { name, key, value: FlagValue::One(value.into()) });
        self
    }

    fn config(mut self, path: &'static str) -> Self {
        self.config = Some(path);
        self
    }

    fn demo(mut self) -> Self {
        self.demo = true;
        self
    }

    fn load(self) -> Result<Loaded, Mistakes> {
        let request = Request {
            file: self.config.map(Into::into),
            environment: self.variables,
            flags: self.flags,
            working_dir: "/here".into(),
            project_install: Some("/src/.cache/codex".into()),
            program: Some("/bin/codex-bridge".into()),
            profile: if self.demo { Profile::Demo } else { Profile::Serve },
        };
        let files = self.files;
        load(&request, &|path: &Path| {
            let path = path.to_string_lossy();
            files.get(path.as_ref()).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        })
    }

    #[track_caller]
    fn right(self) -> Config {
        self.load().unwrap_or_else(|mistakes| panic!("{mistakes}")).config
    }

    #[track_caller]
    fn wrong(self) -> Vec<String> {
        let Mistakes(mistakes) = self.load().expect_err("a mistake");
        mistakes.iter().map(ToString::to_string).collect()
    }

    /// Exactly one mistake, which says this.
    #[track_caller]
    fn wrong_once(self, expected: &str) {
        let mistakes = self.wrong();
        assert!(mistakes.len() == 1 && mistakes[0].contains(expected), "{mistakes:#?}");
    }
}

#[track_caller]
fn source_of(loaded: &Loaded, key: &str) -> String {
    loaded.settings.iter().find(|setting| setting.key == key).expect("a key").source.to_string()
}

#[test]
fn a_bare_machine_gets_the_defaults() {
    let config = Load::new().right();
    assert_eq!(config.server.host, "127.0.0.1");
    assert_eq!(config.server.port, 8787);
    assert_eq!(config.state_dir, Path::new("/home/u/.local/state/codex-bridge"));
    assert_eq!(config.app_server.user_codex_home, Path::new("/home/u/.codex"));
    assert_eq!(config.machine.path.as_deref(), Some("/usr/bin:/opt/bin".as_ref()));
    assert_eq!(config.machine.project_install.as_deref(), Some(Path::new("/src/.cache/codex")));
    assert_eq!(config.machine.program.as_deref(), Some(Path::new("/bin/codex-bridge")));
    assert!(config.auth.tokens.is_empty());
}

#[test]
fn flags_win_over_variables_over_the_file_over_the_defaults() {
    let file = || Load::new().toml("[server]\nport = 1\n[admission]\nslots = 2\nqueue = 3\n");
    let variable =
        || file().variable("CODEX_BRIDGE_SERVER__PORT", "11").variable("CODEX_BRIDGE_ADMISSION__SLOTS", "12");
    let all = variable().flag("--port", "server.port", "111").load().unwrap();

    assert_eq!(file().right().server.port, 1);
    assert_eq!(variable().right().server.port, 11);
    assert_eq!(all.config.server.port, 111);
    assert_eq!(all.config.admission.slots, 12);
    assert_eq!(all.config.admission.queue, 3);
    assert_eq!(source_of(&all, "server.port"), "--port");
    assert_eq!(source_of(&all, "admission.slots"), "CODEX_BRIDGE_ADMISSION__SLOTS");
    assert_eq!(source_of(&all, "admission.queue"), "/home/u/.config/codex-bridge/config.toml:5");
    assert_eq!(source_of(&all, "turn.deadline"), "default");
}

#[test]
fn the_names_of_other_programs_are_honoured_and_ours_win() {
    let machine = || {
        Load::new()
            .variable("CODEX_NATIVE_API_HOST", "::1")
            .variable("CODEX_NATIVE_API_PORT", "9000")
            .variable("CODEX_NATIVE_API_AUTH_TOKEN", "a,b:c=d")
            .variable("CODEX_NATIVE_API_DEFAULT_MODEL", "gpt-6-luna")
            .variable("CODEX_BIN", "/opt/codex")
            .variable("CODEX_HOME", "/srv/codex")
            .variable("XDG_STATE_HOME", "/var/state")
            .variable("RUST_LOG", "debug")
    };
    let config = machine().right();
    assert_eq!(config.server.host, "::1");
    assert_eq!(config.server.port, 9000);
    assert_eq!(config.auth.tokens.len(), 1);
    assert_eq!(config.auth.tokens[0].name, "default");
    assert_eq!(config.auth.tokens[0].token.expose_secret(), "a,b:c=d");
    assert_eq!(config.models.default_model.as_deref(), Some("gpt-6-luna"));
    assert_eq!(config.app_server.codex_bin.as_deref(), Some(Path::new("/opt/codex")));
    assert_eq!(config.app_server.user_codex_home, Path::new("/srv/codex"));
    assert_eq!(config.state_dir, Path::new("/var/state/codex-bridge"));
    assert_eq!(config.log.filter, "debug");

    let config = machine().variable("CODEX_BRIDGE_SERVER__PORT", "9001").right();
    assert_eq!(config.server.port, 9001);
}

#[test]
fn an_empty_variable_is_not_set() {
    let config = Load::new()
        .variable("CODEX_BRIDGE_SERVER__PORT", "")
        .variable("CODEX_NATIVE_API_AUTH_TOKEN", "")
        .variable("XDG_CONFIG_HOME", "")
        .toml("[server]\nport = 1\n")
        .right();
    assert_eq!(config.server.port, 1);
    assert!(config.auth.tokens.is_empty());
}

#[test]
fn every_form_of_a_value_is_read() {
    let config = Load::new()
        .file("/home/u/.config/codex-bridge/keys/ci", " s3cret\n")
        .toml(
            r#"
            [server]
            max_body_bytes = "16MiB"
            body_timeout = 45
            header_timeout = "1m30s"
            allowed_origins = ["https://app.example", "http://localhost:3000"]
            allowed_hosts = ["Bridge.LAN"]
            [auth.tokens]
            ops = "abc"
            ci = { file = "keys/ci" }
            [app_server]
            codex_bin = "~/bin/codex"
            codex_config = ["model_verbosity=\"low\"", "a.b=[1,2]"]
            scaffold = "codex"
            [models.aliases]
            "gpt-4o-mini" = "gpt-6-luna"
            [images]
            fetch = false
            [log]
            format = "json"
            "#,
        )
        .right();
    assert_eq!(config.server.max_body_bytes, 16 << 20);
    assert_eq!(config.server.body_timeout, Duration::from_secs(45));
    assert_eq!(config.server.header_timeout, Duration::from_secs(90));
    assert_eq!(config.server.allowed_origins, ["https://app.example", "http://localhost:3000"]);
    assert_eq!(config.server.allowed_hosts, ["bridge.lan"]);
    let mut tokens: Vec<_> =
        config.auth.tokens.iter().map(|token| (token.name.as_str(), token.token.expose_secret())).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [("ci", "s3cret"), ("ops", "abc")]);
    assert_eq!(config.app_server.codex_bin.as_deref(), Some(Path::new("/home/u/bin/codex")));
    assert_eq!(config.app_server.codex_config, ["model_verbosity=\"low\"", "a.b=[1,2]"]);
    assert_eq!(config.app_server.scaffold, Scaffold::Codex);
    assert_eq!(config.models.aliases["gpt-4o-mini"], "gpt-6-luna");
    assert!(!config.images.fetch);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn variables_hold_lists_and_tables_too() {
    let config = Load::new()
        .variable("CODEX_BRIDGE_AUTH__TOKENS", "ops:abc, ci:x:y")
        .variable("CODEX_BRIDGE_MODELS__ALIASES", "fast=gpt-6-luna,big=gpt-6")
        .variable("CODEX_BRIDGE_APP_SERVER__CODEX_CONFIG", "a=[1,2];b=\"c\"")
        .variable("CODEX_BRIDGE_SERVER__ALLOWED_HOSTS", "one.lan,two.lan")
        .variable("CODEX_BRIDGE_IMAGES__ALLOW_PRIVATE", "on")
        .right();
    assert_eq!(config.auth.tokens[1].token.expose_secret(), "x:y");
    assert_eq!(config.models.aliases.len(), 2);
    assert_eq!(config.app_server.codex_config, ["a=[1,2]", "b=\"c\""]);
    assert_eq!(config.server.allowed_hosts, ["one.lan", "two.lan"]);
    assert!(config.images.allow_private);
}

#[test]
fn addresses_of_an_app_server() {
    let connect = |address: &str| Load::new().flag("--connect", "app_server.connect", address);
    assert_eq!(
        connect("ws://127.0.0.1:9").right().app_server.connect,
        Some(Endpoint::Tcp("ws://127.0.0.1:9".into()))
    );
    assert_eq!(
        connect("unix:///run/a.sock").right().app_server.connect,
        Some(Endpoint::Unix("/run/a.sock".into()))
    );
    for address in ["127.0.0.1:9", "unix://a.sock", "ws://host", "http://host:1", "wss://host:1", ""] {
        connect(address).wrong_once("wants \"ws://host:port\"");
    }
    let mistakes = connect("ws://u:hunter2@host:1").wrong();
    assert!(!mistakes[0].contains("hunter2"), "{mistakes:?}");
}

#[test]
fn every_mistake_of_every_layer_is_reported_at_once() {
    let mistakes = Load::new()
        .toml(
            "slots = 3\n[servr]\nport = 1\n[server]\nport = \"http\"\nmax_body = 1\n[turn]\ndeadline = \"0s\"\n\
             [auth.tokens]\nops = 5\n",
        )
        .variable("CODEX_BRIDGE_ADMISSION__SLOTS", "0")
        .variable("CODEX_BRIDGE_SERVER_PORT", "1")
        .flag("--log-format", "log.format", "xml")
        .wrong();
    insta::assert_snapshot!("every_mistake", mistakes.join("\n"));
}

#[test]
fn an_unknown_variable_is_told_what_was_meant_if_anything() {
    for (name, said) in [
        ("CODEX_BRIDGE_PORT", "did you mean CODEX_BRIDGE_SERVER__PORT?"),
        ("CODEX_BRIDGE_SERVER_PORT", "did you mean CODEX_BRIDGE_SERVER__PORT?"),
        ("CODEX_BRIDGE_AUTH_TOKEN", "did you mean CODEX_BRIDGE_AUTH__TOKENS?"),
        ("CODEX_BRIDGE_FOO", "lists all keys"),
    ] {
        Load::new().variable(name, "1").wrong_once(said);
    }
}

#[test]
fn a_list_tells_every_mistake_in_it() {
    let mistakes = Load::new()
        .toml(
            "[server]\nallowed_origins = [\"a\", \"https://ok.example\", \"b\"]\nallowed_hosts = [\"c d\", \"e f\"]\n\
             [app_server]\ncodex_config = [\"a=1\", \"b\", \"=c\"]\n\
             [auth.tokens]\none = \"\"\ntwo = {file = \"absent\"}\nthree = {path = \"x\"}\nfour = \"fine\"\n",
        )
        .wrong()
        .join("\n");
    for told in [
        "\"a\" is no origin",
        "\"b\" is no origin",
        "\"c d\" is no host name",
        "\"e f\" is no host name",
        "entry 2 is not",
        "entry 3 is not",
        "token \"one\"",
        "token \"two\"",
        "token \"three\"",
    ] {
        assert!(mistakes.contains(told), "{told}: {mistakes}");
    }
    assert!(!mistakes.contains("ok.example\" is") && !mistakes.contains("\"four\""), "{mistakes}");
}

#[test]
fn a_broken_file_is_reported_by_line_and_without_its_text() {
    let mistakes = Load::new().toml("[auth.tokens]\nops = \"hunter2\nx = 1\n").wrong();
    assert!(mistakes[0].contains("config.toml:2"), "{mistakes:?}");
    assert!(!mistakes.join("").contains("hunter2"), "{mistakes:?}");
}

#[test]
fn secrets_are_in_no_mistake_and_no_listing() {
    let mistakes = Load::new()
        .toml("[auth]\ntoken = \"hunter2\"\n[app_server]\nconnect_token = \"hunter2 \"\n[auth.tokens]\na = \"hunter2\"\nb = \"hunter2\"\n")
        .variable("CODEX_BRIDGE_AUTH__TOKENS", "hunter2")
        .variable("CODEX_BRIDGE_TOKEN", "hunter2")
        .flag("--codex-config", "app_server.codex_config", "hunter2")
        .wrong()
        .join("\n");
    assert!(
        mistakes.contains("auth.tokens = ********") && mistakes.contains("have the same secret"),
        "{mistakes}"
    );
    assert!(!mistakes.contains("hunter2"), "{mistakes}");

    let loaded = Load::new()
        .toml("[auth.tokens]\nops = \"hunter2\"\n[app_server]\ncodex_config = [\"x.api_key=hunter2\"]\n")
        .load()
        .unwrap();
    let listings =
        [as_text(&loaded.settings), as_json(None, &loaded.settings).to_string(), format!("{loaded:?}")];
    assert!(listings[0].contains("ops") && listings[0].contains("x.api_key=********"), "{}", listings[0]);
    for listing in &listings {
        assert!(!listing.contains("hunter2"), "{listing}");
    }

    let loaded = Load::new().variable("CODEX_NATIVE_API_AUTH_TOKEN", "hunter2").load().unwrap();
    let debug = format!("{loaded:?}");
    assert!(debug.contains("runtime_dir") && !debug.contains("hunter2"), "{debug}");
}

#[test]
fn an_open_address_wants_a_token() {
    let host = |host: &str| Load::new().flag("--host", "server.host", host);
    for open in ["0.0.0.0", "::", "192.168.1.5", "bridge.lan", "[::]"] {
        host(open).wrong_once("is reachable from beyond this machine");
        host(open).variable("CODEX_NATIVE_API_AUTH_TOKEN", "abc").right();
    }
    for closed in ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"] {
        host(closed).right();
    }
    for nonsense in ["http://127.0.0.1", "127.0.0.1:80", "", "a b"] {
        host(nonsense).wrong_once("wants an address");
    }
}

#[test]
fn settings_that_contradict_each_other_are_mistakes() {
    let connect = || Load::new().flag("--connect", "app_server.connect", "ws://127.0.0.1:9");
    connect().flag("--codex-bin", "app_server.codex_bin", "/c").wrong_once("no child is started");
    connect().flag("--codex-config", "app_server.codex_config", "a=b").wrong_once("no child is started");
    connect().variable("CODEX_BIN", "/c").right();
    connect().demo().wrong_once("has no meaning in the demo");
    let unix = Load::new().flag("--connect", "app_server.connect", "unix:///s");
    unix.variable("CODEX_BRIDGE_APP_SERVER__CONNECT_TOKEN", "abc").wrong_once("takes no token");
    Load::new()
        .variable("CODEX_BRIDGE_APP_SERVER__CONNECT_TOKEN", "abc")
        .wrong_once("has no meaning without app_server.connect");
    Load::new()
        .toml("[models.aliases]\na = \"b\"\nb = \"c\"\n")
        .wrong_once("\"a\" stands for \"b\", which is an alias itself");
    let nowhere = Load::default().wrong();
    assert_eq!(nowhere.len(), 2, "{nowhere:?}");
}

#[test]
fn nothing_is_concluded_from_a_value_that_could_not_be_read() {
    let machine = Load::new().variable("CODEX_BRIDGE_APP_SERVER__CONNECT_TOKEN", "abc");
    machine.flag("--connect", "app_server.connect", "nowhere").wrong_once("wants \"ws://host:port\"");
    let machine = Load::new().variable("CODEX_BRIDGE_AUTH__TOKENS", "no-name");
    machine.flag("--host", "server.host", "0.0.0.0").wrong_once("wants a table of names");
}

#[test]
fn the_capability_token_may_be_in_a_file() {
    let connect = |machine: Load| machine.flag("--connect", "app_server.connect", "ws://127.0.0.1:9");
    let named = |machine: Load| {
        connect(machine).flag("--connect-token-file", "app_server.connect_token_file", "token")
    };
    let config = named(Load::new().file("/here/token", "abc\n")).right();
    assert_eq!(config.app_server.connect_token.unwrap().expose_secret(), "abc");
    named(Load::new()).wrong_once("cannot read /here/token");
    named(Load::new().file("/here/token", "\n")).wrong_once("/here/token is empty");
    let both =
        Load::new().file("/here/token", "abc\n").variable("CODEX_BRIDGE_APP_SERVER__CONNECT_TOKEN", "def");
    named(both).wrong_once("give one");
}

#[test]
fn the_store_is_told_where_and_with_what_key() {
    let hex = "00ff".repeat(16);
    let base64 = "AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8=";
    let keyed = |key: &str| Load::new().variable("CODEX_BRIDGE_STORE__ENCRYPTION_KEY", key);
    let expected = Some(EncryptionKey::new(std::array::from_fn(|n| if n % 2 == 0 { 0 } else { 0xff })));
    assert_eq!(keyed(&hex).right().store.encryption_key, expected);
    assert_eq!(keyed(base64).right().store.encryption_key, expected);
    // Templates lie on disk in plain text.
    assert_eq!(keyed(&hex).right().continuation.templates, 0);
    let asked = keyed(&hex).variable("CODEX_BRIDGE_CONTINUATION__TEMPLATES", "3");
    assert_eq!(asked.right().continuation.templates, 3);
    for wrong in ["hunter2", &hex[1..], &"zz".repeat(32), "AP8A"] {
        let mistakes = keyed(wrong).wrong();
        assert!(mistakes.len() == 1 && mistakes[0].contains("wants 32 bytes"), "{mistakes:?}");
        assert!(!mistakes[0].contains(wrong), "{mistakes:?}");
    }
    let named = |machine: Load| machine.toml("[store]\nencryption_key_file = \"key\"\n");
    let file = || Load::new().file("/home/u/.config/codex-bridge/key", &format!("{hex}\n"));
    assert_eq!(named(file()).right().store.encryption_key, expected);
    named(file().variable("CODEX_BRIDGE_STORE__ENCRYPTION_KEY", base64)).wrong_once("give one");
    named(Load::new()).wrong_once("cannot read /home/u/.config/codex-bridge/key");

    let url = "redis://:hunter2@cache.lan:6379/1";
    let redis = |url: &str| {
        let machine = Load::new().variable("CODEX_BRIDGE_STORE__BACKEND", "redis");
        machine.variable("CODEX_BRIDGE_STORE__REDIS_URL", url)
    };
    let loaded = redis(url).load().unwrap();
    assert_eq!(loaded.config.store.redis_url.as_ref().map(ExposeSecret::expose_secret), Some(url));
    for listing in
        [as_text(&loaded.settings), format!("{loaded:?}"), redis("http://:hunter2@x").wrong().join("")]
    {
        assert!(!listing.contains("hunter2"), "{listing}");
    }
    for right in ["rediss://cache.lan", "unix:///run/redis.sock"] {
        redis(right).right();
    }
    for wrong in ["cache.lan:6379", "redis:///", "unix://", "http://cache.lan"] {
        redis(wrong).wrong_once("wants \"redis://");
    }
    redis("").wrong_once("wants store.redis_url");
    Load::new()
        .variable("CODEX_BRIDGE_STORE__REDIS_URL", url)
        .wrong_once("has no meaning without store.backend");
    Load::new()
        .toml("[store]\nbackend = \"sqlite\"\n")
        .wrong_once("wants \"memory\", \"embedded\" or \"redis\"");
    Load::new().toml("[store]\nredis_prefix = \"a b\"\n").wrong_once("without white space");
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let mistake = Load::new().config("other.toml").wrong();
    assert!(mistake[0].starts_with("/here/other.toml (--config): cannot be read"), "{mistake:?}");
    let machine = Load::new().file("/here/other.toml", "[server]\nport = 7\n").config("other.toml");
    assert_eq!(machine.toml("[server]\nport = 1\n").right().server.port, 7);
}

#[test]
fn web_origins_are_taken_as_browsers_send_them() {
    let origins = |text: &str| Load::new().variable("CODEX_BRIDGE_SERVER__ALLOWED_ORIGINS", text);
    origins("https://app.example,http://localhost:3000").right();
    origins("https://app.example/").wrong_once("write that");
    origins("https://App.example:443").wrong_once("\"https://app.example\"");
    origins("*").wrong_once("is no origin");
}

const KEYS: &str = "/home/u/.local/state/codex-bridge/keys.toml";

/// A key of this name and secret, as the file has it.
fn kept(name: &str, secret: &str) -> String {
    let limits = KeyLimits::default();
    with_key("", &NamedKey { name: name.into(), digest: digest(secret.as_bytes()), limits })
}

#[test]
fn a_file_of_keys_is_read_where_it_is_and_closes_the_door() {
    assert!(Load::new().right().auth.is_open());
    let config = Load::new().file(KEYS, &kept("one", "x")).right();
    assert_eq!(config.auth.keys.as_ref().unwrap()[0].name, "one");
    assert!(!config.auth.is_open());
    for closed in [
        Load::new().file(KEYS, ""),
        Load::new().variable("CODEX_BRIDGE_AUTH__KEYS_FILE", "/srv/none.toml"),
        Load::new()
            .toml("[auth]\nkeys_file = \"mine.toml\"\n")
            .file("/home/u/.config/codex-bridge/mine.toml", ""),
    ] {
        let auth = closed.right().auth;
        assert!(!auth.is_open() && auth.keys.unwrap().is_empty());
    }
    // Enough for an address that others reach.
    Load::new().file(KEYS, &kept("one", "x")).toml("[server]\nhost = \"0.0.0.0\"\n").right();
    Load::new().toml("[server]\nhost = \"0.0.0.0\"\n").wrong_once("there is no key");
}

#[test]
fn a_name_or_a_secret_twice_is_refused() {
    let with_token = |keys: &str| Load::new().file(KEYS, keys).toml("[auth.tokens]\nops = \"hunter2\"\n");
    with_token(&kept("one", "x")).right();
    with_token(&kept("ops", "x")).wrong_once("has the name of the token \"ops\"");
    let mistake = with_token(&kept("one", "hunter2")).wrong();
    assert!(mistake[0].contains("has the secret of the token \"ops\""), "{mistake:?}");
    assert!(!mistake.concat().contains("hunter2"));
    let twice = kept("one", "x") + &kept("two", "x");
    Load::new().file(KEYS, &twice).wrong_once("has the same secret as \"one\"");
}

#[test]
fn tokens_have_limits_by_name() {
    let tokens = "[auth.tokens]\nops = \"hunter2\"\n";
    let limited = |limits: &str| Load::new().toml(&format!("{tokens}[auth.limits.ops]\n{limits}\n"));
    let limits =
        limited("requests_per_minute = 5\nmodels = [\"a\"]\npriority = \"batch\"").right().auth.limits;
    assert_eq!((limits["ops"].requests_per_minute, limits["ops"].concurrency), (Some(5), None));
    assert_eq!(limits["ops"].priority, crate::model::Priority::Batch);
    let variable = |limits: &str| Load::new().toml(tokens).variable("CODEX_BRIDGE_AUTH__LIMITS", limits);
    let limits = variable("{ops = {tokens_per_minute = 1000}}").right().auth.limits;
    assert_eq!(limits["ops"].tokens_per_minute, Some(1000));
    variable("ops=5").wrong_once("wants a table of names and limits");
    limited("requests = 5").wrong_once("ops.requests is unknown");
    limited("concurrency = 0").wrong_once("ops.concurrency wants a whole number");
    variable("{nobody = {concurrency = 1}}").wrong_once("there is no token \"nobody\"");
}

#[test]
fn the_demo_stands_apart_from_the_users_own_daemon() {
    let config = Load::new().toml("[server]\nport = 1\n").demo().right();
    assert_eq!(config.server.port, 8787);
    assert_eq!(config.state_dir, Path::new("/home/u/.local/state/codex-bridge/demo"));
    assert_eq!(config.auth.tokens[0].token.expose_secret(), "demo");
    let config = Load::new().variable("CODEX_NATIVE_API_AUTH_TOKEN", "mine").demo().right();
    assert_eq!(config.auth.tokens.len(), 1);
    assert_eq!(config.auth.tokens[0].token.expose_secret(), "mine");
}

#[test]
fn show_lists_every_key_with_value_and_source() {
    let loaded = Load::new()
        .toml("[auth.tokens]\nops = \"hunter2\"\n[continuation]\nttl = \"2h\"\n")
        .variable("CODEX_NATIVE_API_PORT", "9000")
        .flag("--scaffold", "app_server.scaffold", "codex")
        .load()
        .unwrap();
    insta::assert_snapshot!("show", as_text(&loaded.settings));
    let json = as_json(loaded.file.as_deref(), &loaded.settings);
    assert_eq!(json["settings"]["server.port"]["value"], 9000);
    assert_eq!(json["settings"]["server.port"]["source"]["name"], "CODEX_NATIVE_API_PORT");
    assert_eq!(json["settings"]["continuation.ttl"]["source"]["line"], 4);
}

#[test]
fn every_default_is_one_that_its_own_key_would_take() {
    let place =
        kinds::Place { home: None, base: Path::new("/"), read: &|_| Err(io::ErrorKind::NotFound.into()) };
    for key in keys::KEYS {
        let shown = (key.show)(&Config::default());
        let value = match shown {
            serde_json::Value::String(text) if !text.is_empty() => value::Value::Text(text),
            serde_json::Value::Number(number) => value::Value::Integer(number.as_i64().unwrap()),
            serde_json::Value::Bool(value) => value::Value::Bool(value),
            _ => continue,
        };
        (key.read)(&mut Config::default(), &value, &place)
            .unwrap_or_else(|problem| panic!("{key:?} {problem}"));
    }
}

#[test]
fn the_environment_example_is_right_in_every_line() {
    let example = include_str!("../../deploy/env.example");
    let pairs: Vec<_> = example.lines().filter_map(|line| line.strip_prefix('#')?.split_once('=')).collect();
    assert!(pairs.len() > 5);
    let machine = pairs.iter().filter(|(name, _)| !name.contains(' '));
    let config = machine.fold(Load::new(), |machine, (name, value)| machine.variable(name, value)).right();
    assert_eq!(config.auth.tokens.len(), 2);
    assert_eq!(config.models.aliases["gpt-4o-mini"], "gpt-6-luna");
}

#[test]
fn the_fallback_is_somewhere_and_its_key_is_never_shown() {
    let told = |more: &str| {
        Load::new().toml(&format!("[fallback]\nbase_url = \"http://127.0.0.1:11434/v1\"\n{more}"))
    };
    let text = "api_key = \"hunter2\"\nmodel = \"theirs\"\non = [\"used_up\", \"down\"]\n\
                task_classes = [\"normalization\"]\nmodels = { mini = \"small\" }\n";
    let loaded = told(text).load().unwrap();
    let fallback = &loaded.config.fallback;
    assert_eq!(fallback.api_key.as_ref().map(ExposeSecret::expose_secret), Some("hunter2"));
    assert_eq!(fallback.on, [FallbackReason::UsedUp, FallbackReason::Down]);
    assert_eq!((&fallback.models["mini"], fallback.task_classes.len()), (&"small".to_owned(), 1));
    for listing in [as_text(&loaded.settings), format!("{:?}", loaded.config)] {
        assert!(!listing.contains("hunter2"), "{listing}");
    }
    let named = |machine: Load| machine.variable("CODEX_BRIDGE_FALLBACK__API_KEY_FILE", "/key");
    let config = named(told("").file("/key", "abc\n")).right();
    assert_eq!(config.fallback.api_key.unwrap().expose_secret(), "abc");
    named(told("api_key = \"def\"\n").file("/key", "abc\n")).wrong_once("give one");
    named(told("")).wrong_once("cannot read /key");
    for wrong in ["ollama", "ftp://127.0.0.1/v1", "http://user:pw@127.0.0.1/v1", "http://127.0.0.1/v1?key=1"]
    {
        Load::new().variable("CODEX_BRIDGE_FALLBACK__BASE_URL", wrong).wrong_once("wants an address");
    }
    told("on = []\n").wrong_once("wants some of \"down\"");
    told("on = [\"tired\"]\n").wrong_once("wants some of \"down\"");
    Load::new()
        .toml("[fallback]\nmodel = \"theirs\"\n")
        .wrong_once("has no meaning without fallback.base_url");
    Load::new().toml("[upstream]\nreserve_percent = 101\n").wrong_once("from 0 to 100");
    Load::new().toml("[breaker]\nmode = \"on\"\n").wrong_once("wants \"observe\", \"enforce\" or \"off\"");
}

#[test]
fn the_readme_has_the_table_of_all_keys() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("<!-- configuration:begin -->\n").expect("the begin marker");
    let (table, _) = rest.split_once("<!-- configuration:end -->").expect("the end marker");
    assert!(
        table == markdown_table(),
        "the README's table differs; put the output of `codex-bridge config reference` between the markers"
    );
}

#[test]
fn task_classes_are_built_in_changed_and_added() {
    let classes = |load: Load| load.right().classes.0;
    let built_in = classes(Load::new());
    let names: Vec<&str> = built_in.keys().map(String::as_str).collect();
    assert_eq!(names, ["intent_classification", "normalization", "side_reasoning", "small_verification"]);
    assert_eq!(built_in["side_reasoning"].priority, Some(Priority::Batch));
    assert!(built_in.values().all(|class| class.instruction_prefix.is_none() && class.model.is_none()));

    let toml = "[classes.triage]\nmodel = \"m\"\neffort = [\"none\", \"low\"]\ndeadline = \"5s\"\nmax_output_tokens = 64\n\
                priority = \"batch\"\ninstruction_prefix = \"Be brief, please.\"\n\
                [classes.normalization]\ndeadline = 7\nverbosity = \"\"\n";
    let with = || Load::new().toml(toml).variable("CODEX_BRIDGE_CLASSES__TRIAGE__MODEL", "n");
    let given = classes(with());
    let triage = ClassConfig {
        model: Some("n".into()),
        effort: vec!["none".into(), "low".into()],
        verbosity: None,
        deadline: Some(Duration::from_secs(5)),
        max_output_tokens: Some(64),
        priority: Some(Priority::Batch),
        instruction_prefix: Some("Be brief, please.".into()),
    };
    assert_eq!(given["triage"], triage);
    let changed = ClassConfig {
        deadline: Some(Duration::from_secs(7)),
        verbosity: None,
        ..built_in["normalization"].clone()
    };
    assert_eq!(given["normalization"], changed);
    assert_eq!(given["side_reasoning"], built_in["side_reasoning"]);

    let by_variable = Load::new()
        .variable("CODEX_BRIDGE_CLASSES__MY_OWN__EFFORT", "minimal,low")
        .variable("CODEX_BRIDGE_CLASSES__MY_OWN__MODEL", "")
        .variable("CODEX_BRIDGE_CLASSES__MY_OWN__INSTRUCTION_PREFIX", "a, b; c = d");
    let own = &classes(by_variable)["my_own"];
    assert_eq!(own.effort, ["minimal", "low"]);
    assert_eq!((&own.model, own.instruction_prefix.as_deref()), (&None, Some("a, b; c = d")));

    let shown = with().load().unwrap();
    assert_eq!(source_of(&shown, "classes"), "CODEX_BRIDGE_CLASSES__TRIAGE__MODEL");
    let classes = shown.settings.iter().find(|setting| setting.key == "classes").unwrap();
    assert_eq!(classes.value["triage"]["effort"], serde_json::json!(["none", "low"]));
    assert_eq!(classes.value["normalization"]["deadline"], "7s");
}

#[test]
fn every_mistake_in_a_task_class_is_told() {
    let mistakes = Load::new()
        .toml(
            "[classes.One]\n[classes.two]\neffort = 5\nverbosity = \"loud\"\nnope = 1\n[classes]\nthree = 3\n\
             [classes.four]\ndeadline = \"0s\"\npriority = \"low\"\nmax_output_tokens = 0\n",
        )
        .variable("CODEX_BRIDGE_CLASSES", "five")
        .variable("CODEX_BRIDGE_CLASSES__SIX__NOPE", "x")
        .wrong();
    let all = mistakes.join("\n");
    for expected in [
        "\"One\" is no name of a class",
        "two.effort wants an effort",
        "two.verbosity wants \"low\" or \"medium\" or \"high\"",
        "two.nope is unknown",
        "\"three\" wants a table",
        "four.deadline wants a duration longer than zero",
        "four.priority wants \"interactive\" or \"batch\"",
        "four.max_output_tokens wants a whole number",
        "wants tables",
        "six.nope is unknown",
    ] {
        assert!(all.contains(expected), "{expected}: {all}");
    }
    let many = |count: usize| (0..count).fold(String::new(), |text, n| text + &format!("[classes.c{n}]\n"));
    Load::new().toml(&many(60)).right();
    Load::new().toml(&many(61)).wrong_once("is one too many: at most 64 classes");
}
