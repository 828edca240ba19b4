//! Settings that are right one by one and wrong together.

use std::net::IpAddr;

use super::error::{Mistake, Source};
use super::load::{Origins, Profile};
use super::sections::{Config, Endpoint, StoreBackend};
use super::show::one_line;
use super::{file, keys};

pub(super) fn check(config: &Config, origins: &Origins, profile: Profile, mistakes: &mut Vec<Mistake>) {
    // A value that could not be read is at its default here: nothing follows from that.
    let unread: Vec<String> = mistakes.iter().map(|mistake| mistake.key.clone()).collect();
    let was_read = |key: &str| !unread.iter().any(|unread| unread == key || unread == file::SYNTAX);
    let mut wrong = |key: &'static str, problem: &str| {
        mistakes.push(mistake(key, config, origins, problem.to_owned()));
    };
    let given = |key: &str| origins.contains_key(key);

    let is_closed = !config.auth.is_open() || profile == Profile::Keys;
    if !is_closed && was_read("auth.tokens") && !is_loopback(&config.server.host) {
        wrong(
            "server.host",
            "is reachable from beyond this machine, and there is no key; `codex-bridge keys add` \
             makes one, or set auth.tokens (or CODEX_NATIVE_API_AUTH_TOKEN), or bind 127.0.0.1",
        );
    }

    for name in config.auth.limits.keys() {
        if was_read("auth.tokens") && !config.auth.tokens.iter().any(|token| token.name == *name) {
            wrong("auth.limits", &format!("there is no token {name:?}; keys of the file have theirs there"));
        }
    }

    if config.app_server.connect.is_some() {
        if profile == Profile::Demo {
            wrong("app_server.connect", "has no meaning in the demo, which starts an app-server of its own");
        }
        // CODEX_BIN may be there for other programs' sake.
        let unmeant = Some(&Source::Variable("CODEX_BIN".into()));
        if given("app_server.codex_bin") && origins.get("app_server.codex_bin") != unmeant {
            wrong("app_server.codex_bin", "has no meaning with app_server.connect: no child is started");
        }
        for key in ["app_server.codex_config", "app_server.processes"] {
            if given(key) {
                wrong(key, "has no meaning with app_server.connect: no child is started");
            }
        }
    }
    for key in ["app_server.connect_token", "app_server.connect_token_file"] {
        match &config.app_server.connect {
            _ if !given(key) || !was_read("app_server.connect") => {}
            None => wrong(key, "has no meaning without app_server.connect"),
            Some(Endpoint::Unix(_)) => {
                wrong(key, "has no meaning for a unix:// address, which takes no token");
            }
            Some(Endpoint::Tcp(_)) => {}
        }
    }
    if given("app_server.connect_token") && given("app_server.connect_token_file") {
        wrong("app_server.connect_token_file", "is given together with app_server.connect_token; give one");
    }

    let redis = config.store.backend == StoreBackend::Redis;
    if redis && config.store.redis_url.is_none() && was_read("store.redis_url") {
        wrong("store.backend", "wants store.redis_url: where the server is");
    }
    if !redis && given("store.redis_url") && was_read("store.backend") {
        wrong("store.redis_url", "has no meaning without store.backend = \"redis\"");
    }
    if given("store.encryption_key") && given("store.encryption_key_file") {
        wrong("store.encryption_key_file", "is given together with store.encryption_key; give one");
    }

    if given("fallback.api_key") && given("fallback.api_key_file") {
        wrong("fallback.api_key_file", "is given together with fallback.api_key; give one");
    }
    if config.fallback.base_url.is_none() && was_read("fallback.base_url") {
        for key in keys::KEYS.iter().map(|key| key.name) {
            if key.starts_with("fallback.") && key != "fallback.base_url" && given(key) {
                wrong(key, "has no meaning without fallback.base_url");
            }
        }
    }

    for (alias, model) in &config.models.aliases {
        if config.models.aliases.contains_key(model) {
            wrong("models.aliases", &format!("{alias:?} stands for {model:?}, which is an alias itself"));
        }
    }

    for (key, path) in
        [("state.dir", &config.state_dir), ("app_server.user_codex_home", &config.app_server.user_codex_home)]
    {
        if path.as_os_str().is_empty() && was_read(key) {
            wrong(key, "has no default, because HOME is not set");
        }
    }
}

/// A mistake in a value that could be read.
pub(super) fn mistake(key: &'static str, config: &Config, origins: &Origins, problem: String) -> Mistake {
    let value = keys::find(key).map(|key| one_line(&(key.show)(config)));
    let source = origins.get(key).cloned().unwrap_or(Source::Default);
    Mistake { key: key.into(), value, source, problem }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
