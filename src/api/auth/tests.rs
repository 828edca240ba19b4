use super::*;
use crate::config::NamedToken;

fn keys(tokens: &[(&str, &str)]) -> Keys {
    let named = |&(name, token): &(&str, &str)| NamedToken { name: name.into(), token: token.into() };
    Keys::new(&AuthConfig { tokens: tokens.iter().map(named).collect(), ..AuthConfig::default() })
}

fn owner(keys: &Keys, authorization: Option<&str>) -> Result<String, ApiError> {
    let mut headers = HeaderMap::new();
    if let Some(value) = authorization {
        headers.insert(AUTHORIZATION, value.parse().unwrap());
    }
    keys.owner(&headers).map(|key| key.id.to_string())
}

#[test]
fn each_key_has_its_owner() {
    let keys = keys(&[("first", "one"), ("second", "two")]);
    assert_eq!(owner(&keys, Some("Bearer one")).unwrap(), "first");
    assert_eq!(owner(&keys, Some("bearer  two ")).unwrap(), "second");
}

#[test]
fn without_keys_everyone_is_anonymous() {
    assert_eq!(owner(&keys(&[]), None).unwrap(), "anonymous");
    assert_eq!(owner(&keys(&[]), Some("Bearer whatever")).unwrap(), "anonymous");
}

#[test]
fn anything_else_is_refused() {
    let keys = keys(&[("first", "one")]);
    for given in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic one"), Some("one")] {
        let error = owner(&keys, given).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code.as_deref()), (401, Some("invalid_api_key")));
        assert!(error.message.starts_with("No API key"), "{given:?}");
    }
    for given in ["Bearer on", "Bearer onee", "Bearer One", "Bearer one two"] {
        assert!(owner(&keys, Some(given)).unwrap_err().message.starts_with("Incorrect"), "{given}");
    }
}

#[test]
fn somebody_elses_credentials_are_named_but_never_repeated() {
    let keys = keys(&[("first", "one")]);
    let openai = owner(&keys, Some("Bearer sk-proj-abcdef")).unwrap_err().message;
    assert!(openai.contains("OpenAI API key") && !openai.contains("abcdef"));
    let jwt = owner(&keys, Some("Bearer eyJhbGciOi.eyJzdWIi.c2ln")).unwrap_err().message;
    assert!(jwt.contains("ChatGPT access token") && !jwt.contains("c2ln"));
    // A key of ours may look like one of theirs.
    let keys = self::keys(&[("first", "sk-mine")]);
    assert_eq!(owner(&keys, Some("Bearer sk-mine")).unwrap(), "first");
}

#[test]
fn keys_stay_out_of_debug_output() {
    assert_eq!(format!("{:?}", keys(&[("first", "one")])), "Keys([first])");
}

fn limited(requests: u32, tokens: &[(&str, &str)]) -> AuthConfig {
    let named = |&(name, token): &(&str, &str)| NamedToken { name: name.into(), token: token.into() };
    let limits = KeyLimits { requests_per_minute: Some(requests), ..KeyLimits::default() };
    AuthConfig {
        tokens: tokens.iter().map(named).collect(),
        limits: tokens.iter().map(|(name, _)| ((*name).to_owned(), limits.clone())).collect(),
        ..AuthConfig::default()
    }
}

fn kept(name: &str, secret: &str) -> config::NamedKey {
    config::NamedKey {
        name: name.into(),
        digest: config::digest(secret.as_bytes()),
        limits: KeyLimits::default(),
    }
}

/// Whether one more request of the key is within its rate.
fn may_ask(keys: &Keys, token: &str) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    let key = keys.owner(&headers).unwrap();
    key.rates.charge(crate::api::limits::Cost { input: 1, output: None, answers: 1 }).is_ok()
}

#[test]
fn keys_of_the_file_stand_beside_tokens_and_close_the_door_alone() {
    let mut config = limited(1, &[("first", "one")]);
    config.keys = Some(vec![kept("second", "two")]);
    let keys = Keys::new(&config);
    assert_eq!(owner(&keys, Some("Bearer one")).unwrap(), "first");
    assert_eq!(owner(&keys, Some("Bearer two")).unwrap(), "second");
    let keys = Keys::new(&AuthConfig { keys: Some(Vec::new()), ..AuthConfig::default() });
    assert!(owner(&keys, None).is_err());
    assert!(owner(&keys, Some("Bearer one")).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reload_adds_and_removes_and_rates_that_stay_the_same_go_on() {
    let keys = Keys::new(&limited(1, &[("first", "one"), ("second", "two"), ("third", "three")]));
    for token in ["one", "two"] {
        assert!(may_ask(&keys, token) && !may_ask(&keys, token));
    }
    // The secret is another one, the rate the same; the second one's rate is another.
    let mut config = limited(1, &[("first", "uno"), ("second", "two"), ("fourth", "four")]);
    config.limits.get_mut("second").unwrap().requests_per_minute = Some(2);
    keys.reload(Ok(config));
    assert!(owner(&keys, Some("Bearer one")).is_err() && owner(&keys, Some("Bearer three")).is_err());
    assert!(!may_ask(&keys, "uno"));
    assert!(may_ask(&keys, "two") && may_ask(&keys, "two") && !may_ask(&keys, "two"));
    assert!(may_ask(&keys, "four"));
    let health = keys.health();
    assert_eq!((health.count, health.reloads, health.refused), (Some(3), 1, None));
    assert_eq!((health.refused_requests, health.refused_tokens), (2 + 1, 0));
}

#[test]
fn what_cannot_be_read_and_what_would_open_the_door_changes_nothing() {
    let keys = keys(&[("first", "one")]);
    for read in [Err("line 3 is wrong".to_owned()), Ok(AuthConfig::default())] {
        keys.reload(read);
        assert_eq!(owner(&keys, Some("Bearer one")).unwrap(), "first");
        assert!(owner(&keys, None).is_err());
        let health = keys.health();
        assert_eq!(health.reloads, 0);
        assert!(health.refused.is_some_and(|reason| reason.contains("line 3") || reason.contains("no key")));
    }
    // An empty file is a closed door, which a reload may bring.
    keys.reload(Ok(AuthConfig { keys: Some(Vec::new()), ..AuthConfig::default() }));
    assert!(owner(&keys, Some("Bearer one")).is_err());
    assert_eq!((keys.health().count, keys.health().refused), (Some(0), None));
    // An open one may be closed.
    let open = self::keys(&[]);
    open.reload(Ok(limited(1, &[("first", "one")])));
    assert!(owner(&open, None).is_err());
}
