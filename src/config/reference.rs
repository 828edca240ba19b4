//! The README's configuration table, made from the key table.

use std::fmt::Write as _;

use super::keys::KEYS;
use super::sections::Config;
use super::show::one_line;

/// Every key with its default and meaning, as a Markdown table.
pub fn markdown_table() -> String {
    let fixed = Config::default();
    let mut table = String::from("| key | default | meaning |\n| --- | --- | --- |\n");
    for key in KEYS {
        let value = (key.show)(&fixed);
        let default = match (key.default, one_line(&value)) {
            (Some(words), _) => words.to_owned(),
            (None, value) if ["-", "[]", "{}"].contains(&value.as_str()) => "none".into(),
            (None, value) => format!("`{value}`"),
        };
        let also = key.also.map_or_else(String::new, |variable| format!(" Also `{variable}`."));
        let _ = writeln!(table, "| `{}` | {default} | {}{also} |", key.name, key.meaning);
    }
    table
}
