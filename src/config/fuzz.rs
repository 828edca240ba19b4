//! Any file and any variables are a configuration or a list of mistakes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::keys::KEYS;
use super::{Profile, Request, as_json, as_text, load};
use crate::fuzzing;

fn read(file: &str, variables: BTreeMap<String, String>) {
    let mut environment = variables;
    environment.insert("HOME".into(), "/home/u".into());
    let request = Request {
        file: Some("/c.toml".into()),
        environment,
        flags: Vec::new(),
        working_dir: "/here".into(),
        project_install: None,
        program: None,
        profile: Profile::Serve,
    };
    let of = |path: &Path| match path.to_str() {
        Some("/c.toml") => Ok(file.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    match load(&request, &of) {
        Ok(loaded) => {
            assert_eq!(loaded.settings.len(), KEYS.len());
            drop((
                as_text(&loaded.settings),
                as_json(None, &loaded.settings),
                format!("{:?}", loaded.config),
            ));
        }
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
}

#[test]
fn fuzz_config_file() {
    fuzzing::bytes("config_file", &[], |bytes| read(&String::from_utf8_lossy(bytes), BTreeMap::new()));
}

/// Lines of `NAME=value`; a name without a prefix of ours gets one. Few of them: each unknown name is looked for among
/// all that are known.
#[test]
fn fuzz_environment() {
    fuzzing::bytes("environment", &[], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let pairs = text.lines().take(24).filter_map(|line| line.trim_start_matches('#').split_once('='));
        let named = |name: &str| {
            if name.starts_with("CODEX") { name.to_owned() } else { format!("CODEX_BRIDGE_{name}") }
        };
        read("", pairs.map(|(name, value)| (named(name), value.to_owned())).collect());
    });
}
