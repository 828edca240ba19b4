//! What the command line takes.

use super::*;
use crate::config::{Flag, FlagValue};

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["codex-bridge"].iter().chain(words))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_sets_a_key_that_exists() {
    let words = [
        "serve",
        "--port",
        "1",
        "--host",
        "::1",
        "--connect",
        "unix:///s",
        "--connect-token-file",
        "t",
        "--codex-config",
        "a=1,2",
        "--codex-config",
        "b=3",
        "--codex-bin",
        "/c",
        "--state",
        "/s",
        "--scaffold",
        "codex",
        "--default-model",
        "m",
        "--slots",
        "2",
        "--log-format",
        "json",
        "--log-filter",
        "debug",
        "--config",
        "/f",
    ];
    let Some(Command::Serve(serve)) = parse(&words).unwrap().command else { panic!("serve") };
    let given = serve.flags().given();
    assert_eq!(given.len(), 12);
    let keys = crate::config::markdown_table();
    for Flag { name, key, .. } in &given {
        assert!(keys.contains(&format!("| `{key}` |")), "{name} sets {key}, which is no key");
    }
    let several = given.iter().find(|flag| flag.name == "--codex-config").unwrap();
    assert_eq!(several.value, FlagValue::Many(vec!["a=1,2".into(), "b=3".into()]));
}

#[test]
fn each_subcommand_has_its_own_flags() {
    for words in [
        &["serve"][..],
        &["demo", "--chatgpt", "--port", "0"],
        &["standin", "--port", "0", "--chatgpt", "--delay-ms", "5", "--host", "::1"],
        &["models", "--json"],
        &["config", "check", "--port", "1"],
        &["config", "show", "--json"],
        &["config", "reference"],
        &["--version"],
        &["-V"],
    ] {
        parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    for words in [&["serve", "--chatgpt"][..], &["standin"], &["standin", "--port", "x"], &["nonsense"]] {
        assert!(parse(words).unwrap_err().use_stderr(), "{words:?}");
    }
}

#[test]
fn a_wrong_value_is_left_to_the_loader() {
    parse(&["serve", "--port", "http", "--log-format", "xml"]).unwrap();
}
